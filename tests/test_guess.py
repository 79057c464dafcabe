"""The first guess: its steps against loops, its answer against the simulator's truth, and degenerate input."""

import numpy as np
import pytest
import scipy.sparse as sp

from scspecies.datasets import synthetic_species
from scspecies.guess import DEPTH, FLOOR, best_of_each, first_guess, geometric_mean, informative_genes
from scspecies.neighborhoods import expression_components, log_expression, smoothing_matrix


def simulated(**choices):
    """Expression of two simulated species, their labels, and the smoothing of some of the target's cells."""
    species = synthetic_species(**choices)
    genes = species.orthologues[~species.orthologues["context"].duplicated(keep=False)]
    counts = species.context[:, genes["context"]].X, species.target[:, genes["target"]].X
    labels = [data.obs["cell_type"].to_numpy(dtype=str) for data in (species.context, species.target)]
    at_median_depth = log_expression(*counts)[1]

    def smoothing(rows=slice(None)):
        return smoothing_matrix(expression_components(at_median_depth[rows]))

    return *log_expression(*counts, DEPTH), *labels, smoothing


def balanced_accuracy(guess, context_labels, target_labels):
    """Mean recall over the types that both have."""
    right = np.unique(context_labels)[guess.argmax(axis=1)] == target_labels
    return np.mean([right[target_labels == name].mean() for name in np.intersect1d(context_labels, target_labels)])


@pytest.fixture(scope="module")
def pair():
    return simulated(n_context=800, n_target=700, n_genes=1500, divergence=0.5, seed=3)


def test_the_guess_is_right_where_single_cells_are_not(pair):
    context, target, labels, truth, smooth = pair
    smoothing = smooth()
    guess = first_guess(context, target, labels, smoothing)
    alone = first_guess(context, target, labels, sp.identity(700, format="csr"))
    assert balanced_accuracy(guess, labels, truth) > 0.95
    assert balanced_accuracy(guess, labels, truth) > balanced_accuracy(alone, labels, truth)
    assert np.allclose(guess.sum(axis=1), 1) and (guess >= 0).all()
    assert np.array_equal(guess, first_guess(context, target, labels, smoothing))  # no chance in it


def test_composition_of_the_target_matters_little(pair):
    context, target, labels, truth, smooth = pair
    accuracy = []
    for name in np.intersect1d(labels, truth):
        rows = np.flatnonzero((truth == name) | (np.arange(700) % 4 == 0))  # about 20 cells of each other type
        guess = first_guess(context, target[rows], labels, smooth(rows))
        accuracy.append(balanced_accuracy(guess, labels, truth[rows]))
    assert min(accuracy) > 0.8 and np.mean(accuracy) > 0.85


def test_one_type_few_cells_and_no_signal(pair):
    context, target, labels, _, smooth = pair
    smoothing = smooth()
    assert (first_guess(context, target, np.full(800, "a"), smoothing) == 1).all()
    two = target[:2]
    assert first_guess(context, two, labels, sp.identity(2, format="csr")).shape == (2, len(set(labels)))
    nothing = sp.csr_matrix(target.shape)
    assert np.isfinite(first_guess(context, nothing, labels, smoothing)).all()


def test_arguments_that_do_not_fit(pair):
    context, target, labels, _, smooth = pair
    smoothing = smooth()
    with pytest.raises(ValueError, match="Expected the same genes in both species"):
        first_guess(context, target[:, 1:], labels, smoothing)
    with pytest.raises(ValueError, match="labels of 800 context cells and smoothing of 700 target cells, found 799"):
        first_guess(context, target, labels[1:], smoothing)


def test_genes_and_cells_against_loops():
    rng = np.random.default_rng(0)
    expression, codes = sp.random(60, 30, 0.4, format="csr", random_state=1), rng.integers(0, 3, 60)
    dense = expression.toarray()
    between = sum((codes == k).mean() * (dense[codes == k].mean(0) - dense.mean(0)) ** 2 for k in range(3))
    assert informative_genes(expression, codes, 5).tolist() == sorted(np.argsort(-between / dense.var(0))[:5])
    value = rng.permutation(60)
    kept = best_of_each(codes, value, 7)
    for k in range(3):
        mine = np.flatnonzero(codes == k)
        assert set(kept[codes[kept] == k]) == set(mine[np.argsort(-value[mine])[:7]])


def test_geometric_mean_by_hand():
    a, b = np.array([[0.9, 0.1]]), np.array([[0.2, 0.8]])
    floored = [(1 - FLOOR) * x + FLOOR / 2 for x in (a, b)]
    product = np.sqrt(floored[0] * floored[1])
    assert np.allclose(geometric_mean([a, b]), product / product.sum())
