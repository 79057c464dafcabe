"""Nearest neighbours against SciPy and a full sort; the vote against a loop."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.spatial.distance import cdist

from scspecies import neighbors
from scspecies.neighbors import _smallest, majority_vote, nearest_neighbors


def clusters(n: int, seed: int, dim: int = 20) -> np.ndarray:
    """Points around twelve centres, which are the same for every seed."""
    rng = np.random.default_rng(seed)
    centers = 2 * np.random.default_rng(99).normal(size=(12, dim))
    return (centers[rng.integers(12, size=n)] + rng.normal(size=(n, dim))).astype(np.float32)


@pytest.mark.parametrize("k", [1, 7, 25, 250, 499, 500])
@pytest.mark.parametrize("n_columns", [500, 1000, 1001, 4999])
def test_the_smallest_of_a_row_are_those_of_a_sort(k, n_columns):
    numbers = torch.randn(13, n_columns, generator=torch.Generator().manual_seed(k))
    nearest, columns = _smallest(numbers, k)
    assert torch.equal(nearest, numbers.sort(dim=1).values[:, :k])
    assert torch.equal(numbers.gather(1, columns), nearest)
    assert all(len(set(row)) == k for row in columns.tolist())


def test_the_smallest_of_equal_numbers_are_different_columns():
    _, columns = _smallest(torch.zeros(3, 1000), 10)
    assert all(len(set(row)) == 10 for row in columns.tolist())


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "correlation"])
@pytest.mark.parametrize("block_size", [None, 13, 97, 5000])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_exact_neighbours_against_scipy(metric, block_size, form):
    query, reference = clusters(61, 0), clusters(1203, 1)
    indices, distances = nearest_neighbors(form(query), form(reference), 30, metric=metric, block_size=block_size)
    expected = cdist(query.astype(float), reference.astype(float), metric)
    assert indices.dtype == np.int32 and distances.dtype == np.float32
    assert np.allclose(distances, np.sort(expected, axis=1)[:, :30], atol=1e-4)
    assert np.allclose(np.take_along_axis(expected, indices, axis=1), distances, atol=1e-4)
    assert all(len(set(row)) == 30 for row in indices.tolist())


def test_several_blocks_of_dense_references(monkeypatch):
    """The blocks that are chosen by default, made so small that there are many."""
    query, reference = clusters(500, 0), clusters(1100, 1)
    whole = nearest_neighbors(query, reference, 40, metric="euclidean")
    monkeypatch.setattr(neighbors, "_REFERENCE_ROWS", 128)
    monkeypatch.setattr(neighbors, "_DISTANCES", 128 * 50)
    pieces = nearest_neighbors(query, reference, 40, metric="euclidean")
    assert np.allclose(whole[1], pieces[1], atol=1e-4)
    assert np.mean(whole[0] == pieces[0]) > 0.999


def test_equal_cells_are_all_found():
    """Copies of a cell have the same distance, and all of them come before any other cell."""
    reference = np.tile(clusters(50, 0), (20, 1))
    indices, _ = nearest_neighbors(reference[:50], reference, 20, metric="euclidean", block_size=64)
    assert (np.sort(indices, axis=1) == np.arange(50)[:, None] + 50 * np.arange(20)).all()


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "k"), [("cosine", 250), ("euclidean", 25)])
def test_the_approximate_search_finds_most_of_the_exact_neighbours(metric, k):
    query, reference = clusters(1000, 0), clusters(6000, 1)
    exact, _ = nearest_neighbors(query, reference, k, metric=metric, method="exact")
    found, distances = nearest_neighbors(query, reference, k, metric=metric, method="approximate")
    recall = np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(exact, found, strict=True)])
    assert recall > 0.98
    assert found.dtype == np.int32 and distances.dtype == np.float32 and found.min() >= 0
    expected = cdist(query[:50], reference, metric)
    assert np.allclose(np.take_along_axis(expected, found[:50], axis=1), distances[:50], atol=1e-4)


def test_the_choice_of_method(monkeypatch):
    """'auto' is exact up to a number of pairs, and for sparse rows; the other two are what they say."""
    calls = []

    def search(query, reference, k, metric):
        calls.append(len(query))
        return nearest_neighbors(query, reference, k, metric=metric, method="exact")

    monkeypatch.setattr(neighbors, "_approximate_neighbors", search)
    monkeypatch.setattr(neighbors, "EXACT_PAIRS", 50 * 100)
    query, reference = clusters(50, 0), clusters(100, 1)
    nearest_neighbors(query, reference, 5)
    nearest_neighbors(sp.csr_matrix(query), clusters(101, 1), 5)
    nearest_neighbors(query, clusters(101, 1), 5, method="exact")
    assert not calls
    nearest_neighbors(query, clusters(101, 1), 5)
    nearest_neighbors(query, reference, 5, method="approximate")
    assert calls == [50, 50]


def test_what_the_index_does_not_find_is_searched_exactly(monkeypatch):
    query, reference = clusters(50, 0), clusters(300, 1)
    exact = nearest_neighbors(query, reference, 9)

    def search(query, reference, k, metric):
        indices, distances = (found.copy() for found in exact)
        indices[7, 4:], distances[7, 4:] = -1, np.inf
        return indices, distances

    monkeypatch.setattr(neighbors, "_approximate_neighbors", search)
    indices, distances = nearest_neighbors(query, reference, 9, method="approximate")
    assert (indices == exact[0]).all() and np.allclose(distances, exact[1], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "l1"}, "Expected `metric` to be one of 'cosine'"),
        ({"method": "fast"}, "Expected `method` to be one of 'auto', 'exact', 'approximate', found 'fast'."),
        ({"k": 0}, "Expected `k` to be a whole number of at least 1"),
        ({"block_size": 0}, "Expected `block_size` to be a whole number of at least 1"),
        ({"query": np.ones((2, 3))}, "Expected rows of equal length, found 3 and 20 features."),
    ],
)
def test_wrong_options_are_one_sentence(options, message):
    given = {"query": clusters(5, 0), "reference": clusters(9, 1), "k": 3} | options
    with pytest.raises(ValueError, match=message):
        nearest_neighbors(given.pop("query"), given.pop("reference"), given.pop("k"), **given)


@pytest.mark.parametrize("kind", ["text", "object", "numbers"])
@pytest.mark.parametrize("weighted", [False, True])
def test_votes_against_a_loop(kind, weighted):
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 4, (200, 25))
    labels = {"text": numbers.astype(str), "object": numbers.astype(str).astype(object), "numbers": numbers}[kind]
    weights = rng.uniform(0.5, 2, labels.shape) if weighted else None
    found, share = majority_vote(labels, weights)
    assert found.dtype == labels.dtype
    for row in range(200):
        votes: Counter = Counter()
        for column in range(25):
            votes[labels[row, column]] += 1 if weights is None else weights[row, column]
        best = max(votes.values())
        tied = [label for label in labels[row] if np.isclose(votes[label], best)]
        assert found[row] == tied[0]
        assert share[row] == pytest.approx(best / sum(votes.values()))
