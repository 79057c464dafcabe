"""What compares two species on the counts: sums, profiles, neighbours, votes and ranks, against brute force."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.neighbors import NearestNeighbors

from scspecies import matching as matching_module
from scspecies.homology import orthologue_groups
from scspecies.matching import (
    GeneCounts,
    believe,
    comparable_profiles,
    data_level_neighbors,
    rank_within_labels,
    shared_counts,
    vote,
)
from small_species import centered_by_hand, dataset, dense, uncentered_by_hand

# ---------------------------------------------------------------- counts of related genes


@pytest.mark.parametrize("one_to_many", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_sums_over_groups_against_a_loop(seed, one_to_many):
    rng = np.random.default_rng(seed)
    sides = []
    for side, n_cells, n_genes in (("c", 7, 30), ("t", 5, 35)):
        counts = rng.poisson(0.7, (n_cells, n_genes)).astype(np.float32)
        sides.append(GeneCounts(sp.csr_matrix(counts), rng.permutation([f"{side}{i}" for i in range(n_genes)])))
    before = [dense(side.counts).copy() for side in sides]
    pairs = pd.DataFrame({"context": rng.integers(0, 30, 40), "target": rng.integers(0, 35, 40)})
    pairs = pd.DataFrame({side: [f"{side[0]}{i}" for i in pairs[side]] for side in pairs})
    groups = orthologue_groups(sides[0].genes, sides[1].genes, pairs, one_to_many=one_to_many)
    found = shared_counts(*sides, pairs, one_to_many=one_to_many)
    for side, of, result, counts in zip(sides, groups, found, before, strict=True):
        expected = np.zeros((len(counts), max(of) + 1))
        for gene, group in enumerate(of):
            if group >= 0:
                expected[:, group] += counts[:, gene]
        assert result.format == "csr" and result.dtype == np.float32
        assert (dense(result) == expected).all()
        assert (dense(side.counts) == counts).all()
    assert one_to_many == bool((np.bincount(groups[0][groups[0] >= 0]) > 1).any())


def test_pairs_alone_are_cut_out_in_alphabetical_order():
    context = GeneCounts(sp.csr_matrix(np.arange(6.0).reshape(2, 3)), np.array(["c", "a", "b"]))
    target = GeneCounts(sp.csr_matrix(np.arange(8.0).reshape(2, 4)), np.array(["B", "X", "A", "C"]))
    pairs = pd.DataFrame({"context": list("abc"), "target": list("ABC")})
    with_groups, without = (shared_counts(context, target, pairs, one_to_many=option) for option in (True, False))
    for one, other, columns, side in zip(with_groups, without, ([1, 2, 0], [2, 0, 3]), (context, target), strict=True):
        assert (dense(one) == dense(side.counts)[:, columns]).all()
        for part in ("data", "indices", "indptr"):
            assert (getattr(one, part) == getattr(other, part)).all()


# ---------------------------------------------------------------- profiles and neighbours


@pytest.mark.parametrize("log1p", [True, False])
@pytest.mark.parametrize(
    ("matching", "metric"),
    [("centered", "cosine"), ("centered", "euclidean")]
    + [("reference", metric) for metric in ("cosine", "euclidean", "correlation")],
)
def test_neighbours_against_sklearn(metric, log1p, matching):
    context, target = dataset("m", 0).X, dataset("h", 1, n=50).X
    options = {"matching": matching, "log1p": log1p, "n_neighbors": 9, "metric": metric, "block_size": 32}
    indices, distances = data_level_neighbors(context, target, **options)
    counts, log = (dense(context), dense(target)), np.log1p if log1p else np.asarray
    x, y = centered_by_hand(*counts, log, 20) if matching == "centered" else uncentered_by_hand(*counts, log)
    expected, at = NearestNeighbors(n_neighbors=9, metric=metric, algorithm="brute").fit(x).kneighbors(y)
    assert np.allclose(distances, expected, atol=1e-4)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(indices, at, strict=True)]) > 8.9  # ties may differ


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("n_cells", [12, 400])  # fewer cells than directions, and more
def test_profiles_are_directions_of_the_context(n_cells, labelled):
    rng = np.random.default_rng(0)
    types = rng.gamma(0.5, size=(6, 300))
    context, target = (
        rng.poisson(types[rng.integers(0, 6, n)] * rng.lognormal(size=(n, 1))).astype(float) for n in (n_cells, 70)
    )
    context[:, 0] += 1  # no empty cells
    target[:, 0] += 1
    labels = rng.choice(list("abc"), n_cells, p=[0.7, 0.2, 0.1]) if labelled else None
    found = comparable_profiles(sp.csr_matrix(context), sp.csr_matrix(target), labels)
    expected = centered_by_hand(context, target, np.log1p, min(20, n_cells - 1), labels)
    for ours, slow in zip(found, expected, strict=True):  # equal up to the sign of each component
        assert ours.shape == slow.shape
        assert np.allclose(ours @ ours.T, slow @ slow.T, atol=1e-5)  # profiles are in single precision
    assert np.allclose(found[0] @ found[1].T, expected[0] @ expected[1].T, atol=1e-5)


def poor_counts(n_cells, n_genes, n_kinds=None):
    """Counts of cells that are all different, or copies of a few."""
    rng = np.random.default_rng(n_genes)
    counts = 1.0 + rng.poisson(3.0, (n_kinds or n_cells, n_genes))
    return sp.csr_matrix(np.resize(counts, (n_cells, n_genes)))


@pytest.mark.parametrize(
    ("context", "target", "message"),
    [
        ((1, 100), (20, 100), "Expected context cells .* 2 directions on the 100 shared genes, found 0 .1 cells."),
        ((2, 100), (20, 100), "context cells .* found 1 .2 cells."),
        ((50, 1), (20, 1), "context cells .* on the 1 shared genes, found 0"),
        ((50, 100, 1), (20, 100), "context cells .* found 0 .50 cells."),
        ((50, 10, 1), (20, 10), "context cells .* found 0 .50 cells."),
        ((50, 100, 2), (20, 100), "context cells .* found 1 .50 cells."),
        ((50, 100), (1, 100), "Expected target cells that differ in at least 1 direction on .* found 0 .1 cells."),
        ((50, 100), (20, 100, 1), "target cells .* found 0 .20 cells."),
    ],
)
def test_cells_that_do_not_differ_are_an_error_and_not_noise(context, target, message):
    with pytest.raises(ValueError, match=message):
        comparable_profiles(poor_counts(*context), poor_counts(*target))


@pytest.mark.parametrize("matching", ["centered", "reference"])
def test_one_shared_gene_is_not_enough(matching):
    with pytest.raises(ValueError, match="Expected at least 2 shared genes to compare cells by, found 1."):
        data_level_neighbors(poor_counts(50, 1), poor_counts(20, 1), matching=matching)


@pytest.mark.parametrize("n_kinds", [3, 10])
def test_directions_without_extent_are_left_out(n_kinds):
    """Copies of a few cells: no direction is made of rounding errors, and copies are all found."""
    context = poor_counts(25 * n_kinds, 100, n_kinds)
    ours, _ = comparable_profiles(context, poor_counts(20, 100))
    assert ours.shape == (25 * n_kinds, n_kinds)
    indices, distances = data_level_neighbors(context, context[:n_kinds], n_neighbors=25)
    assert (indices % n_kinds == np.arange(n_kinds)[:, None]).all() and np.allclose(distances, 0, atol=1e-6)


def test_profiles_of_many_target_cells_are_made_in_pieces(monkeypatch):
    context, target = dataset("m", 0).X, dataset("h", 1, n=50).X
    whole = comparable_profiles(context, target)
    monkeypatch.setattr(matching_module, "_PIECE", 7)
    for ours, pieces in zip(whole, comparable_profiles(context, target), strict=True):
        assert np.allclose(ours, pieces, atol=1e-12)


def test_centering_takes_the_species_away():
    """Genes that are high in all cells of one species, and cells of another depth, change nothing."""
    rng = np.random.default_rng(0)
    types = np.exp(rng.normal(0, 0.3, size=(4, 200)))
    truth = rng.integers(0, 4, 300)
    species = np.exp(rng.normal(0, 1.5, 200))
    context = sp.csr_matrix(rng.poisson(2 * types[truth]).astype(np.float32))
    target = sp.csr_matrix(rng.poisson(types[truth] * species).astype(np.float32))

    def accuracy(matching):
        indices, _ = data_level_neighbors(context, target, matching=matching)
        return np.mean(vote(truth.astype(str), indices)[0] == truth.astype(str))

    assert accuracy("centered") > 0.98 and accuracy("centered") > accuracy("reference") + 0.1


# ---------------------------------------------------------------- votes and ranks


def test_ranks_against_a_loop():
    rng = np.random.default_rng(0)
    labels, share = rng.choice(list("abc"), 200), rng.integers(1, 26, 200) / 25
    rank = rank_within_labels(labels, share)
    for i in range(200):
        same = labels == labels[i]
        better, equal = (share[same] > share[i]).sum(), (share[same] == share[i]).sum()
        assert better <= round(rank[i] * same.sum()) < better + equal
    assert len(set(zip(labels, rank, strict=True))) == 200 and rank.min() == 0 and rank.max() < 1
    assert (rank == rank_within_labels(labels, share)).all()


@pytest.mark.parametrize("balanced", [True, False])
def test_votes_against_a_loop(balanced):
    rng = np.random.default_rng(0)
    labels = rng.choice(list("abc"), 200, p=[0.7, 0.2, 0.1])
    indices = np.stack([rng.permutation(200)[:60] for _ in range(50)])
    found, _ = vote(labels, indices, balanced=balanced)
    for cell in range(50):
        voters = labels[indices[cell, :25]]
        weight = {name: (voters == name).sum() / (np.sqrt((labels == name).sum()) if balanced else 1) for name in "abc"}
        assert weight[found[cell]] == pytest.approx(max(weight.values()))


def test_only_the_first_25_vote():
    labels = np.array(["a"] * 13 + ["b"] * 100)
    indices = np.tile(np.arange(113), (2, 1))
    indices[1] = indices[1][::-1]
    found, _ = vote(labels, indices, balanced=False)
    assert found.tolist() == ["a", "b"]


def test_ranks_of_probabilities_against_a_loop():
    rng = np.random.default_rng(0)
    probability = rng.dirichlet([0.4, 0.4, 0.4], 200)
    labels, rank = believe(np.array(list("abc")), probability)
    for cell in range(200):
        mine = labels == labels[cell]
        better = (probability[mine].max(axis=1) > probability[cell].max()).sum()
        assert rank[cell] == pytest.approx(min(better / mine.sum(), 1 - probability[cell].max()))
