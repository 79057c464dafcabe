"""Likelihoods of many pairs: against the formula as it stands, at the limits of its settings, and left as it was."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scspecies import scoring
from scspecies.architecture import SpeciesVAE, VAEConfig
from scspecies.core import SpeciesData, torch_seed
from scspecies.likelihood import negative_log_likelihood
from scspecies.scoring import (
    INTERPOLATION_ERROR,
    Pairs,
    candidate_nll,
    chebyshev_nodes,
    choose_nodes,
    decode_many,
    interpolation_weights,
    make_tiles,
    shared_candidate_nll,
    zero_nll,
)

N_CELLS, N_GENES, N_POINTS = 90, 70, 25
FORMS = [(distribution, dispersion) for distribution in ("nb", "zinb") for dispersion in ("dataset", "batch", "cell")]


def species(seed=0):
    """Give 90 cells of three batches; many zeros, counts up to thousands, and one cell with a single count."""
    rng = np.random.default_rng(seed)
    mean = rng.dirichlet(np.full(N_GENES, 0.2), N_CELLS) * rng.lognormal(6, 1, (N_CELLS, 1))
    counts = rng.negative_binomial(2, 2 / (2 + mean)).astype(np.float32)
    counts[4], counts[4, 7] = 0, 1
    batch = np.arange(N_CELLS) % 3
    prior = np.full(N_CELLS, 6, np.float32), np.ones(N_CELLS, np.float32)
    genes = np.arange(N_GENES).astype(str)
    return SpeciesData("toy", sp.csr_matrix(counts), batch, ("a", "b", "c"), *prior, genes)


def network(distribution="zinb", dispersion="batch", scale=0.3, **options):
    """Give a network with weights that make points differ; in training mode, with dropout."""
    sizes = {"hidden_outer": (8,), "hidden_inner": (8,), "hidden_library": (8,), "hidden_decoder": (12, 12)}
    config = VAEConfig(**sizes, latent_dim=3, distribution=distribution, dispersion=dispersion, **options)
    with torch_seed(0), torch.no_grad():
        vae = SpeciesVAE(config, N_GENES, 3, range(40), 6.0)
        for weight in vae.decoder.parameters():
            weight += scale * torch.randn_like(weight)
    return vae


def points():
    return torch.randn(N_POINTS, 3, generator=torch.Generator().manual_seed(5))


def by_formula(vae, data, log_library, z, table):
    """Score each pair by the formula as it stands, in double precision and with all constants."""
    training = vae.decoder.training
    decoder = vae.decoder.eval().double()
    labels = torch.eye(3, dtype=torch.float64)[data.batch]
    counts = torch.from_numpy(data.counts.toarray()).double()[:, None]
    with torch.no_grad():
        decoded = decoder(z.double()[torch.from_numpy(np.array(table))], labels[:, None])
        nll = negative_log_likelihood(counts, decoded, torch.from_numpy(log_library)[:, None, None]).numpy()
    vae.decoder.float().train(training)
    return nll


def by_pieces(vae, data, log_library, z, table, **limits):
    result = np.full(table.shape, np.nan)
    pairs = Pairs(data, np.arange(data.n_cells), log_library, table)
    for rows, columns, nll in shared_candidate_nll(vae.decoder, pairs, z, **limits):
        assert np.isnan(result[rows, columns]).all() and nll.dtype == np.float64  # no pair twice
        result[rows, columns] = nll
    assert np.isfinite(result).all()
    return result


def assert_equal_differences(ours, formula):
    """Differences between the candidates of a cell; to a thousandth of a nat, or the sixth digit of the sum."""
    error = np.abs((ours - ours[:, :1]) - (formula - formula[:, :1]))
    assert (error < 1e-3 + 1e-6 * np.abs(formula)).all(), error.max()


def spy(monkeypatch, name):
    """Count the calls of a function of the module."""
    calls, function = [], getattr(scoring, name)
    monkeypatch.setattr(scoring, name, lambda *args: calls.append(name) or function(*args))
    return calls


@pytest.mark.parametrize("limits", [{}, {"max_cells": 1}, {"max_cells": 11, "max_points": 7}, {"max_points": 1}])
@pytest.mark.parametrize(("distribution", "dispersion"), FORMS)
def test_all_forms_agree_with_the_formula(distribution, dispersion, limits, monkeypatch):
    data, vae, z = species(), network(distribution, dispersion), points()
    log_library = np.random.default_rng(1).normal(6, 0.8, N_CELLS)
    log_library[[0, 10]] = 1.0, 12.0  # very small and very large
    table = np.random.default_rng(2).integers(N_POINTS, size=(N_CELLS, 60))  # two tiles, the second not full
    interpolated = spy(monkeypatch, "nonzero_nll")
    ours = by_pieces(vae, data, log_library, z, table, **limits)
    assert interpolated
    assert_equal_differences(ours, by_formula(vae, data, log_library, z, table))
    assert vae.decoder.training


@pytest.mark.parametrize(("distribution", "dispersion"), FORMS)
def test_few_pairs_agree_with_the_formula_too(distribution, dispersion, monkeypatch):
    data, vae, z = species(), network(distribution, dispersion), points()
    log_library = data.log_library.astype(np.float64)
    table = np.random.default_rng(2).integers(N_POINTS, size=(N_CELLS, 2))
    interpolated = spy(monkeypatch, "nonzero_nll")
    ours = by_pieces(vae, data, log_library, z, table, max_cells=20)
    assert not interpolated
    assert_equal_differences(ours, by_formula(vae, data, log_library, z, table))
    assert vae.decoder.training


@pytest.mark.parametrize(("distribution", "dispersion"), FORMS)
def test_one_candidate_each_and_both_ways(distribution, dispersion, monkeypatch):
    data, vae, z = species(), network(distribution, dispersion), points()
    log_library = data.log_library.astype(np.float64)
    table = np.zeros((N_CELLS, 1), dtype=int)  # 30 cells of each batch for one point
    interpolated = spy(monkeypatch, "nonzero_nll")
    ours = by_pieces(vae, data, log_library, z, table)
    assert interpolated
    counts, size = torch.from_numpy(data.counts.toarray()), torch.from_numpy(log_library[:, None]).float()
    point = torch.from_numpy(data.batch)[:, None]
    direct = candidate_nll(vae.decoder, counts, size, z[:1].repeat(3, 1), torch.eye(3), point)
    np.testing.assert_allclose(ours, direct.numpy(), rtol=1e-6, atol=1e-3)  # the same constants are left out


def test_every_point_for_every_cell_is_a_view():
    data, vae, z = species(), network(), points()
    log_library = data.log_library.astype(np.float64)
    table = np.broadcast_to(np.arange(N_POINTS), (N_CELLS, N_POINTS))
    assert_equal_differences(
        by_pieces(vae, data, log_library, z, table), by_formula(vae, data, log_library, z, np.array(table))
    )


def test_logits_that_overflow_the_exponential():
    data, vae, z = species(), network(), points()
    with torch.no_grad():
        vae.decoder.kept.bias.copy_(torch.linspace(-150, 150, N_GENES))
    log_library = data.log_library.astype(np.float64)
    table = np.tile(np.arange(N_POINTS), (N_CELLS, 1))
    assert not decode_many(vae.decoder, z, torch.eye(3)[:1]).small
    formula = by_formula(vae, data, log_library, z, table)
    assert_equal_differences(by_pieces(vae, data, log_library, z, table), formula)
    assert_equal_differences(by_pieces(vae, data, log_library, z, table[:, :2]), formula[:, :2])


def test_a_function_too_steep_to_interpolate_is_computed_pair_by_pair(monkeypatch):
    data, vae, z = species(), network(), points()
    with torch.no_grad():
        vae.decoder.kept.bias.fill_(55.0)  # P(0) bends where the mean reaches 55
        vae.decoder.log_alpha.fill_(8.0)
    log_library = np.linspace(-20, 20, N_CELLS)
    assert choose_nodes(decode_many(vae.decoder, z, torch.eye(3)[:1]), log_library) is None
    interpolated = spy(monkeypatch, "nonzero_nll")
    table = np.tile(np.arange(N_POINTS), (N_CELLS, 1))
    by_pieces(vae, data, log_library, z, table)
    assert not interpolated


@pytest.mark.parametrize("width", [0.0, 0.5, 3.0, 5.0])
@pytest.mark.parametrize("distribution", ["nb", "zinb"])
def test_interpolation_error_is_what_is_promised(distribution, width):
    vae = network(distribution)
    profiles = decode_many(vae.decoder, points(), torch.eye(3)[:1])
    nodes = choose_nodes(profiles, np.linspace(6 - width / 2, 6 + width / 2, 40))
    assert nodes is not None and len(nodes) <= 24
    exact = profiles.map(lambda values: values.double())
    at = np.random.default_rng(0).uniform(6 - width / 2, 6 + width / 2, 300)  # others than those it was chosen with
    interpolated = zero_nll(exact, nodes).numpy() @ interpolation_weights(nodes, at).T
    assert np.abs(interpolated - zero_nll(exact, at).numpy()).max() < 2 * INTERPOLATION_ERROR


def test_interpolation_weights_reproduce_polynomials():
    nodes = chebyshev_nodes(2, 9, 8)
    at = np.append(np.linspace(2, 9, 50), nodes)
    weights = interpolation_weights(nodes, at)
    for power in range(8):
        np.testing.assert_allclose(weights @ nodes**power, at**power, rtol=1e-9)
    np.testing.assert_allclose(weights[50:], np.eye(8), atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_tiles_hold_each_pair_once(seed):
    rng = np.random.default_rng(seed)
    table = np.where(rng.random((9, 80)) < rng.random((9, 1)), rng.integers(50, size=(9, 80)), -1)
    tiles = make_tiles(table)
    assert tiles.candidates.shape[1] <= scoring.TILE and len(set(tiles.place)) == (table >= 0).sum()
    assert (tiles.candidates.ravel()[tiles.place] == table[tiles.rows, tiles.columns]).all()
    assert (tiles.owner[tiles.place // tiles.candidates.shape[1]] == tiles.rows).all()
    assert sorted(zip(tiles.rows, tiles.columns, strict=True)) == list(map(tuple, np.argwhere(table >= 0)))
    assert len(make_tiles(np.full((3, 4), -1)).owner) == 0


def test_several_cores_give_the_same_and_leave_no_trace():
    data, vae, z = species(), network(), points()
    log_library = data.log_library.astype(np.float64)
    table = np.random.default_rng(2).integers(N_POINTS, size=(N_CELLS, 60))
    before = torch.get_num_threads()
    alone = by_pieces(vae, data, log_library, z, table)
    try:
        torch.set_num_threads(3)
        together = by_pieces(vae, data, log_library, z, table, max_cells=8)
        assert torch.get_num_threads() == 3
        pieces = shared_candidate_nll(vae.decoder, Pairs(data, np.arange(N_CELLS), log_library, table), z)
        next(pieces)
        assert torch.is_grad_enabled() and vae.decoder.training  # also while a caller has the piece in hand
        pieces.close()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-3)


def test_a_gene_that_is_stored_twice_or_as_zero():
    data, vae, z = species(), network(), points()
    log_library = data.log_library.astype(np.float64)
    table = np.random.default_rng(2).integers(N_POINTS, size=(N_CELLS, 60))
    plain = by_pieces(vae, data, log_library, z, table)
    column = data.counts[:, [3]].toarray()
    rows = np.arange(N_CELLS)
    parts = (data.counts - sp.csr_matrix((column[:, 0], (rows, rows * 0 + 3)), data.counts.shape)).tocoo()
    again = [column[:, 0] - np.minimum(column[:, 0], 1), np.minimum(column[:, 0], 1)]  # two entries, often zeros
    values = np.concatenate([parts.data, *again]).astype(np.float32)
    where = [np.concatenate([parts.row, rows, rows]), np.concatenate([parts.col, rows * 0 + 3, rows * 0 + 3])]
    order = np.argsort(where[0], kind="stable")
    start = np.concatenate([[0], np.bincount(where[0]).cumsum()])
    twice = sp.csr_matrix((values[order], where[1][order], start), data.counts.shape)
    assert not twice.has_canonical_format and twice.nnz > data.counts.nnz
    ours = by_pieces(vae, replace(data, counts=twice), log_library, z, table)
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-3)
    assert twice.nnz == len(values)  # the caller's matrix is as it was


def test_no_cells_and_no_candidates():
    data, vae, z = species(), network(), points()
    none = np.zeros(0, dtype=np.int64)
    assert not list(shared_candidate_nll(vae.decoder, Pairs(data, none, np.zeros(0), np.zeros((0, 3), int)), z))
    no_points = torch.zeros(4, 0, dtype=torch.int64)
    counts = torch.from_numpy(data.counts[:4].toarray())
    assert candidate_nll(vae.decoder, counts, torch.ones(4, 1), z, torch.eye(3)[:1], no_points).shape == (4, 0)
