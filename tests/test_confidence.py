"""Confidence of transferred labels and foreign types: formulas against loops, calibration against known truth."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import softmax
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from real_pairs import PAIRS
from scspecies import confidence
from scspecies import foreign as foreign_module
from scspecies.confidence import (
    assignment_threshold,
    transfer_back_temperature,
    type_probabilities,
    vote_shares,
    with_temperature,
)
from scspecies.datasets import synthetic_species
from scspecies.foreign import (
    LIKELIHOOD_RATIO,
    N_ANCHORS,
    ForeignScores,
    call_foreign,
    foreign_scores,
    known_probability,
)
from scspecies.guess import FLOOR
from scspecies.homology import orthologue_pairs
from scspecies.matching import shared_counts
from scspecies.neighborhoods import expression_components, log_expression, smoothing_matrix
from scspecies.preprocessing import gene_counts, prepare_dataset

TYPES = np.array(["a", "b", "c"])


def simulated(**choices):
    """Expression of two simulated species, their labels, and the smoothing of the target."""
    species = synthetic_species(**choices)
    genes = species.orthologues[~species.orthologues["context"].duplicated(keep=False)]
    counts = species.context[:, genes["context"]].X, species.target[:, genes["target"]].X
    labels = [data.obs["cell_type"].to_numpy(dtype=str) for data in (species.context, species.target)]
    context, target = log_expression(*counts)
    return context, target, *labels, smoothing_matrix(expression_components(target))


@pytest.fixture(scope="module")
def pair():
    """A small simulated pair."""
    return simulated(n_context=500, n_target=400, n_genes=600, n_types=6, seed=3)


def cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cosine of all rows of x with all rows of y."""
    return (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (y / np.linalg.norm(y, axis=1, keepdims=True)).T


# expression and neighbourhoods


def test_expression_does_not_depend_on_the_depth_of_a_cell():
    counts = np.random.default_rng(0).poisson(2, (30, 20)).astype(np.float32)
    deeper = counts * np.random.default_rng(1).choice([1, 3, 9], (30, 1))
    one, other = log_expression(sp.csr_matrix(counts), sp.csr_matrix(counts))
    assert np.allclose(one.toarray(), other.toarray())
    depth = np.median(counts.sum(axis=1))
    by_hand = np.log1p(counts / counts.sum(axis=1, keepdims=True) * depth)
    assert np.allclose(one.toarray(), by_hand / np.linalg.norm(by_hand, axis=1, keepdims=True))
    deep = log_expression(sp.csr_matrix(deeper), sp.csr_matrix(deeper))[0]
    assert np.min(np.sum(deep.toarray() * one.toarray(), axis=1)) > 0.95


def test_a_cell_without_counts_stays_zero():
    counts = sp.csr_matrix(np.array([[0, 0], [1, 2]], dtype=np.float32))
    assert np.array_equal(log_expression(counts, counts)[0].toarray()[0], [0, 0])


def test_components_are_those_of_a_dense_decomposition(pair):
    dense = pair[1].toarray()
    components = expression_components(pair[1], 5)
    _, _, axes = np.linalg.svd(dense, full_matrices=False)
    expected = (dense - dense.mean(axis=0)) @ axes[:5].T
    assert np.allclose(np.abs(components), np.abs(expected), atol=1e-6)


def test_smoothing_is_the_mean_over_a_cell_and_its_neighbours():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    expected = np.zeros((40, 40))
    for cells in (one, two):
        index = NearestNeighbors(n_neighbors=6).fit(cells).kneighbors(cells, return_distance=False)
        for row, columns in enumerate(index):
            expected[row, columns] += 1 / 12
    assert np.allclose(smoothing_matrix(one, two, k=5).toarray(), expected)
    assert np.allclose(smoothing_matrix(one[:4], k=20).toarray(), 0.25)


# votes and probabilities


def test_votes_and_probabilities_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    labels = rng.choice(TYPES, 50, p=[0.6, 0.3, 0.1])
    indices = [rng.integers(50, size=(8, 40)) for _ in range(2)]
    smoothing = smoothing_matrix(rng.normal(size=(8, 2)), k=3)
    shares = [vote_shares(labels, index, TYPES) for index in indices]
    expected = np.ones((8, 3))
    for index, share in zip(indices, shares, strict=True):
        by_hand = np.zeros((8, 3))
        for cell, neighbors in enumerate(index):
            for neighbor in neighbors[:25]:
                by_hand[cell, labels[neighbor] == TYPES] += 1 / np.sqrt((labels == labels[neighbor]).sum())
        by_hand /= by_hand.sum(axis=1, keepdims=True)
        assert np.allclose(share, by_hand)
        expected *= np.sqrt((1 - FLOOR) * smoothing.toarray() @ by_hand + FLOOR / 3)
    expected /= expected.sum(axis=1, keepdims=True)
    assert np.allclose(type_probabilities(shares, smoothing), expected)


def test_a_type_without_voters_gets_no_vote():
    assert np.array_equal(vote_shares(np.array(["a", "c"]), np.array([[0, 1]]), TYPES), [[0.5, 0, 0.5]])


# calibration


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_the_temperature_is_found_where_it_is_known(true):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 3))
    labels = TYPES[(softmax(logits, axis=1).cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)]
    shown = softmax(logits * true, axis=1)
    temperature = confidence._fit_temperature(shown, labels, TYPES)
    assert temperature == pytest.approx(true, rel=0.05)
    said = with_temperature(shown, temperature)
    assert np.allclose(said, softmax(logits, axis=1), atol=0.02)


def test_transfer_back_fits_the_known_way_back():
    """Cells of 'c' have nowhere to come back to and must not count; the others are right in 80 % of the cases."""
    rng = np.random.default_rng(0)
    given = np.repeat(["a", "b"], 50)
    context_labels = rng.choice(TYPES, 4000)
    meant = np.where(context_labels == "b", "b", "a")
    arrives = np.where(rng.random(4000) < 0.8, meant, np.where(meant == "a", "b", "a"))
    # 18 of 25 nearest target cells have the label where the way back arrives
    index = np.where(arrives[:, None] == "a", np.r_[:18, 50:57], np.r_[50:68, :7])
    probabilities = np.eye(3)[np.repeat([0, 1], 50)]
    alone = sp.identity(4000, format="csr")
    temperature = transfer_back_temperature(probabilities, TYPES, context_labels, [index], alone)
    back = with_temperature(type_probabilities([vote_shares(given, index, TYPES)], alone), temperature)
    assert back.max(axis=1).mean() == pytest.approx(0.8, abs=0.02)
    assert temperature < 1


def test_without_enough_cells_the_probabilities_stay():
    probabilities = np.eye(3)[[0, 1, 2]]
    with pytest.warns(UserWarning, match="No type was given to 10 target cells"):
        result = transfer_back_temperature(probabilities, TYPES, TYPES, [np.array([[0], [1], [2]])], sp.identity(3))
    assert result == 1


def test_calibration_on_a_simulated_pair(pair):
    """Transfer back makes timid probabilities right without the target's labels."""
    context, target, context_labels, target_labels, smoothing = pair
    types = np.unique(context_labels)
    dense = [cells.toarray() - cells.mean(axis=0) for cells in (context, target)]
    similar = cosine(np.asarray(dense[1]), np.asarray(dense[0]))
    shares = [vote_shares(context_labels, np.argsort(-similar, axis=1)[:, :25], types)]
    raw = type_probabilities(shares, smoothing)
    back = np.argsort(-similar.T, axis=1)[:, :25]
    of_context = smoothing_matrix(expression_components(context))
    temperature = transfer_back_temperature(raw, types, context_labels, [back], of_context)
    shared = np.isin(target_labels, types)
    right = (types[raw.argmax(axis=1)] == target_labels)[shared]
    gap = [abs(p.max(axis=1)[shared].mean() - right.mean()) for p in (raw, with_temperature(raw, temperature))]
    assert right.mean() > 0.9
    assert gap[1] < 0.05 < gap[0]


def test_the_threshold_is_the_lowest_that_keeps_the_rate():
    confidence = np.random.default_rng(0).beta(3, 1, 500).round(2)
    for rate in (0.01, 0.05, 0.2):
        possible = [value for value in np.unique(confidence) if (1 - confidence[confidence >= value]).mean() <= rate]
        assert assignment_threshold(confidence, rate) == min(possible)
    assert assignment_threshold(confidence, 1) == confidence.min()


def test_the_stated_error_rate_is_kept_by_calibrated_cells():
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.3, 1, 50_000)
    right = rng.random(50_000) < confidence
    kept = confidence >= assignment_threshold(confidence, 0.1)
    assert 1 - right[kept].mean() == pytest.approx(0.1, abs=0.01)


# foreign cells


def dense_foreign(context, target, labels, smoothing, hide=None):
    """The foreign score written out on dense matrices; `hide` is a type that is hidden after the weights are found."""
    types, context, target = np.unique(labels), context.toarray(), target.toarray()
    smooth, means = smoothing.toarray() @ target, np.stack([context[labels == name].mean(axis=0) for name in types])
    of_cells = means[np.searchsorted(types, labels)]
    between = of_cells.var(axis=0) / np.maximum(context.var(axis=0), 1e-12)
    noise = (smoothing.toarray() ** 2).sum(axis=1).mean()
    signal = (smooth.var(axis=0) / np.maximum(target.var(axis=0), 1e-12) - noise) / (1 - noise)
    scale = np.sqrt((between.clip(0, 1) + signal.clip(0, 1)) / 2)
    if hide is not None:
        means, types = means[types != hide], types[types != hide]
    centre, of_context = smooth.mean(axis=0), means.mean(axis=0)
    for _ in range(4):
        similar = cosine((smooth - centre) * scale, (means - of_context) * scale)
        label, used = similar.argmax(axis=1), (centre, of_context)
        present = [i for i in range(len(types)) if (label == i).sum() >= 10]
        centre = np.mean([smooth[label == i].mean(axis=0) for i in present], axis=0)
        of_context = means[present].mean(axis=0)
    centre, of_context = used
    anchors = []
    for i in range(len(types)):
        order = sorted(range(len(label)), key=lambda cell, i=i: (label[cell] != i, -similar[cell, i]))
        anchors.append((smooth[order[:N_ANCHORS]] - centre).mean(axis=0))
    anchors = np.array(anchors) * scale
    link = np.diag(cosine(anchors, (means - of_context) * scale))
    return 1 - (cosine((smooth - centre) * scale, anchors) * link).max(axis=1), types[label]


def test_foreign_scores_are_those_of_dense_matrices(pair):
    context, target, labels, _, smoothing = pair
    foreign = foreign_scores(context, target, labels, smoothing)
    score, label = dense_foreign(context, target, labels, smoothing)
    assert np.allclose(foreign.score, score, atol=1e-8)
    assert np.array_equal(foreign.label, label)
    for name in np.unique(label)[:3]:
        hidden, _ = dense_foreign(context, target, labels, smoothing, hide=name)
        assert np.allclose(foreign.hidden[label == name], hidden[label == name], atol=1e-8)


def test_blocks_and_orders_change_nothing(pair, monkeypatch):
    context, target, labels, _, smoothing = pair
    whole = foreign_scores(context, target, labels, smoothing)
    genes, cells = np.random.default_rng(0).permutation(context.shape[1]), np.arange(len(labels))[::-1]
    monkeypatch.setattr(foreign_module, "_VALUES_AT_ONCE", 7 * target.shape[0])
    other = foreign_scores(context[cells][:, genes], target[:, genes], labels[cells], smoothing)
    assert np.allclose(whole.score, other.score)
    assert np.allclose(whole.hidden, other.hidden)


@pytest.mark.parametrize("seed", [0, 1])
def test_each_hidden_type_is_found_and_called(seed):
    """Every shared type in turn is taken from the context, with its cells; what is new must be seen as new."""
    context, target, labels, truth, smoothing = simulated(seed=seed)
    found, called, wrongly = [], [], []
    for name in np.intersect1d(labels, truth):
        keep, judged = labels != name, np.isin(truth, labels)
        foreign = foreign_scores(context[keep], target, labels[keep], smoothing)
        found.append(roc_auc_score(truth[judged] == name, foreign.score[judged]))
        called.append(call_foreign(foreign)[truth == name].mean())
        wrongly.append(call_foreign(foreign)[judged & (truth != name)].mean())
    assert np.mean(found) > 0.95
    assert np.mean(called) > 0.7
    assert np.mean(wrongly) < 0.1


def test_a_context_of_two_types_and_a_cell_without_counts(pair):
    context, target, labels, _, smoothing = pair
    two = np.isin(labels, np.unique(labels)[:2])
    empty = sp.vstack([sp.csr_matrix((1, target.shape[1])), target[1:]]).tocsr()
    foreign = foreign_scores(context[two], empty, labels[two], smoothing)
    assert np.isfinite(foreign.score).all()
    assert np.allclose(foreign.hidden, 1)  # with one type left nothing can be said


def test_the_call_lies_halfway_and_ignores_a_label_that_is_foreign():
    label = np.repeat(["a", "b", "c"], 100)
    score = np.r_[np.full(100, 0.2), np.full(100, 0.3), np.full(100, 0.9)]  # 'c' is not in the target
    foreign = ForeignScores(score, np.r_[np.full(100, 0.8), np.full(200, 0.9)], label)
    assert np.array_equal(call_foreign(foreign), label == "c")
    probability = known_probability(foreign, 0.05)
    threshold = np.median([0.5, 0.6, 0.9])
    half = np.median([0.6, 0.6, 0.0]) / 2
    odds = 19 * LIKELIHOOD_RATIO ** ((threshold - score) / half)
    assert np.allclose(probability, odds / (1 + odds))


def test_the_prior_is_the_probability_on_the_threshold():
    foreign = ForeignScores(np.r_[0.2, 0.5, 0.2], np.full(3, 0.8), np.full(3, "a"))
    assert known_probability(foreign, 0.2)[1] == pytest.approx(0.8)
    odds = known_probability(foreign, 0.5)[0]
    assert odds / (1 - odds) == pytest.approx(LIKELIHOOD_RATIO)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.filterwarnings("ignore:.*removed.*")
def test_types_taken_from_a_real_context_are_seen_as_new(name: str, shared_data: Path):
    """Mean over the shared types, each taken from the mouse in turn; no training is needed."""
    files, label = PAIRS[name][:2], PAIRS[name][2]
    read = [ad.read_h5ad(shared_data / f"{file}.h5ad") for file in files]
    roles = [{"name": "mouse", "role": "context", "taxon": 10090}, {"name": "human", "role": "target", "taxon": 9606}]
    ready = [prepare_dataset(data, "batch", label, **role) for data, role in zip(read, roles, strict=True)]
    counts = [gene_counts(*both) for both in zip(read, ready, strict=True)]
    orthologues, _ = orthologue_pairs(counts[1].genes, 10090, 9606)
    context, target = log_expression(*shared_counts(*counts, orthologues))
    labels, truth = (data.obs[label].to_numpy(dtype=str) for data in ready)
    smoothing = smoothing_matrix(expression_components(target))
    judged, found = np.isin(truth, labels), []
    for kind in np.intersect1d(labels, truth):
        keep = labels != kind
        score = foreign_scores(context[keep], target, labels[keep], smoothing).score
        found.append(roc_auc_score(truth[judged] == kind, score[judged]))
    assert np.mean(found) > 0.85


# messages


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: smoothing_matrix(), "the same cells, found none"),
        (lambda: smoothing_matrix(np.ones((3, 1)), np.ones((2, 1))), r"the same cells, found \[2, 3\]"),
        (lambda: vote_shares(np.array(["x"]), np.array([[0]]), TYPES), "in `types`, found 'x'"),
        (lambda: type_probabilities([np.ones((2, 3))], sp.identity(3)), "shares of 3 cells"),
        (lambda: type_probabilities([], sp.identity(3)), "shares of 3 cells"),
        (lambda: assignment_threshold(np.array([1.2])), "between 0 and 1"),
        (lambda: assignment_threshold(np.array([0.5]), -1), "`error_rate`"),
        (lambda: known_probability(ForeignScores(*np.zeros((2, 3)), TYPES), 0), "above 0 and below 1, found 0"),
        (lambda: with_temperature(np.ones((1, 2)) / 2, 0), "`temperature`"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_messages_of_foreign_scores(pair):
    context, target, labels, _, smoothing = pair
    for wrong, message in (
        ((context[:, 1:], target, labels, smoothing), "the same genes in both species"),
        ((context, target, labels[1:], smoothing), "Expected labels of 500 context cells"),
        ((context, target[1:], labels, smoothing), "smoothing of 399 target cells"),
        ((context, target, np.full(500, "a"), smoothing), "at least two types in the context, found 1"),
    ):
        with pytest.raises(ValueError, match=message):
            foreign_scores(*wrong)
