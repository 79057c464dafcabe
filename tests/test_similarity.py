"""Similarity of cell types: the mode against NumPy, the table against a loop, scales, seeds, and messages."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy.spatial.distance import cdist

from scspecies import similarity
from scspecies.architecture import SpeciesVAE, VAEConfig
from scspecies.core import SpeciesData, library_prior, torch_seed
from scspecies.similarity import (
    MIN_SCORES,
    cell_scores,
    cell_type_scores,
    scale_scores,
    score_mode,
    transfer_labels,
)
from scspecies.training import encode_cells, fit_context

SIZES = ((16,), (8,), (8,), (8, 16))
LABELS = np.array(["alpha", "beta", "T/NK cell"])
QUIET = {"show_progress": False}


@pytest.fixture(scope="module")
def species():
    """A species of three types, its trained network and encoded cells, and its labels."""
    rng = np.random.default_rng(0)
    kind = rng.integers(3, size=150)
    counts = rng.poisson(rng.dirichlet(np.full(30, 0.3), 3)[kind] * rng.lognormal(5, 0.3, (150, 1)))
    counts, batch = sp.csr_matrix(counts.astype(np.float32)), rng.integers(2, size=150)
    data = SpeciesData("toy", counts, batch, ("a", "b"), *library_prior(counts, batch), np.arange(30).astype(str))
    config = VAEConfig(*SIZES, latent_dim=3)
    with torch_seed(0):
        vae = SpeciesVAE(config, 30, 2, range(20), float(data.log_library.mean()))
    fit_context(vae, data, torch.optim.Adam(vae.parameters(), lr=5e-3), epochs=100, batch_size=32, **QUIET)
    return vae, data, encode_cells(vae, data), LABELS[kind]


def inputs(species):
    vae, data, encoded, _ = species
    return vae, data, encoded, encoded.z_mean


def nll_by_torch(vae, data, encoded, cell, z):
    """Negative log-likelihood of one cell under one latent point; zero inflation as a mixture with a point mass."""
    with torch.no_grad():
        decoded = vae.decoder(torch.from_numpy(z)[None], torch.eye(data.n_batches)[[data.batch[cell]]])
    log_mu = decoded.log_rho.double() + float(encoded.l_mean[cell, 0])
    log_alpha = decoded.log_alpha.double().expand_as(log_mu)
    of_counts = torch.distributions.NegativeBinomial(log_alpha.exp(), logits=log_mu - log_alpha)
    counts = torch.from_numpy(data.counts[[cell]].toarray()).double()
    if decoded.kept_logit is None:
        return -of_counts.log_prob(counts).sum().item()
    kept = torch.distributions.Bernoulli(logits=decoded.kept_logit.double())
    seen = kept.log_prob(torch.ones(())) + of_counts.log_prob(counts)
    lost = kept.log_prob(torch.zeros(())) + torch.where(counts == 0, 0.0, -torch.inf)
    return -torch.logaddexp(seen, lost).sum().item()


def fitted(data, distribution, dispersion, use_library_encoder):
    """Train a small network of some form on the cells; return it and the encoded cells."""
    form = {"distribution": distribution, "dispersion": dispersion, "use_library_encoder": use_library_encoder}
    with torch_seed(1):
        vae = SpeciesVAE(VAEConfig(*SIZES, latent_dim=3, **form), 30, 2, range(20), float(data.log_library.mean()))
    fit_context(vae, data, torch.optim.Adam(vae.parameters(), lr=5e-3), epochs=5, batch_size=32, **QUIET)
    return vae, encode_cells(vae, data)


@pytest.mark.parametrize("use_library_encoder", [True, False])
@pytest.mark.parametrize("dispersion", ["dataset", "batch", "cell"])
@pytest.mark.parametrize("distribution", ["nb", "zinb"])
def test_scores_are_those_of_torch_distributions(species, distribution, dispersion, use_library_encoder):
    data = species[1]
    vae, encoded = fitted(data, distribution, dispersion, use_library_encoder)
    context_z = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    cells = np.array([140, 3, 77, 0, 12])
    scores = cell_scores(vae, data, encoded, context_z, cells, np.tile(np.arange(5), (5, 1)), **QUIET)
    vae.eval()
    for i, cell in enumerate(cells):
        own = nll_by_torch(vae, data, encoded, cell, encoded.z_mean[cell])
        by_hand = [nll_by_torch(vae, data, encoded, cell, z) - own for z in context_z]
        np.testing.assert_allclose(scores[i], by_hand, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("use_library_encoder", [True, False])
@pytest.mark.parametrize("dispersion", ["dataset", "batch", "cell"])
@pytest.mark.parametrize("distribution", ["nb", "zinb"])
def test_scores_of_many_pairs_are_those_of_torch_distributions(species, distribution, dispersion, use_library_encoder):
    data = species[1]
    vae, encoded = fitted(data, distribution, dispersion, use_library_encoder)
    encoded.l_mean[[7, 8]] = [[-3.0], [11.0]]  # a very small and a very large library
    context_z = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    table = np.random.default_rng(2).integers(6, size=(150, 4))
    scores = cell_scores(vae, data, encoded, context_z, np.arange(150), table, **QUIET)
    vae.eval()
    for cell in [7, 8, 140, 3, 77]:
        own = nll_by_torch(vae, data, encoded, cell, encoded.z_mean[cell])
        by_hand = [nll_by_torch(vae, data, encoded, cell, context_z[j]) - own for j in table[cell]]
        np.testing.assert_allclose(scores[cell], by_hand, rtol=1e-4, atol=1e-3)


def test_labels_of_any_type_are_transferred():
    scores, index = np.array([[2.0, 1.0, 3.0], [1.0, 3.0, 2.0]]), np.array([[0, 1, 2], [3, 0, 1]])
    for labels in (
        np.array(["b", "a", "b", "c"]),
        np.array(["b", "a", "b", "c"], dtype=object),
        np.array([5, 2, 5, 9]),
    ):
        label, share = transfer_labels(scores, index, labels, top_neigh=3)
        assert label.tolist() == [labels[0], labels[3]]  # a majority; and of a tie, the best
        np.testing.assert_allclose(share, [2 / 3, 1 / 3])
        assert transfer_labels(scores, index, labels, top_neigh=1)[0].tolist() == [labels[1], labels[3]]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [10, 37, 1000])
def test_mode_is_the_fullest_bin_of_numpy(seed, size):
    values = np.random.default_rng(seed).gamma(2, 30, size).astype(np.float32) - 5
    height, edges = np.histogram(values.astype(np.float64), "fd")
    middles = (edges[1:] + edges[:-1]) / 2
    assert np.isclose(middles[height == height.max()], score_mode(values), rtol=1e-6).any()


def test_mode_of_difficult_scores():
    cloud = np.random.default_rng(0).normal(20, 1, 1000)
    assert abs(score_mode(np.append(cloud, 1e15)) - 20) < 1.5  # a histogram would have 1e16 bins
    assert score_mode(np.full(50, 3.5)) == 3.5
    assert score_mode(np.append(np.zeros(80), np.arange(20))) == 0  # the quartiles are equal
    assert np.isnan(score_mode(np.zeros(MIN_SCORES - 1))) and score_mode(np.zeros(MIN_SCORES)) == 0
    assert score_mode(cloud.reshape(10, 100)) == score_mode(cloud)


def test_table_with_all_cells_is_the_loop(species):
    labels = species[3]
    table = cell_type_scores(*inputs(species), labels, labels, max_sample_cont=150, **QUIET)
    assert list(table.index) == list(table.columns) == sorted(LABELS)
    for row in table.index:
        for column in table.columns:
            cells, candidates = np.flatnonzero(labels == row), np.flatnonzero(labels == column)
            pairs = np.tile(candidates, (len(cells), 1))
            scores = cell_scores(*inputs(species), cells, pairs, **QUIET).astype(np.float64)
            height, edges = np.histogram(scores, "fd")
            middles = (edges[1:] + edges[:-1])[height >= height.max() - 2] / 2  # rounding may move a score over an edge
            assert np.isclose(middles, table.loc[row, column], atol=1e-2).any()


def test_each_type_is_explained_by_itself(species):
    labels = species[3]
    table = cell_type_scores(*inputs(species), labels, labels, max_sample_targ=30, max_sample_cont=10, **QUIET)
    assert (table.idxmin(axis=1) == table.index).all()
    assert (scale_scores(table, "none").idxmax(axis=1) == table.index).all()


def test_samples_are_bounded_and_of_the_right_type(species, monkeypatch):
    labels = species[3]
    seen = {}

    def spy(vae, data, target, context_z, index, candidates, **options):
        seen.update(index=index, candidates=candidates)
        return np.broadcast_to(np.arange(candidates.shape[1], dtype=np.float32), candidates.shape).copy()

    monkeypatch.setattr("scspecies.similarity.cell_scores", spy)
    few = np.where(np.arange(150) < 4, "rare", labels)
    cell_type_scores(*inputs(species), labels, few, max_sample_targ=7, max_sample_cont=5, **QUIET)
    assert [labels[i] for i in seen["index"]] == np.repeat(sorted(LABELS), 7).tolist()
    assert len(set(seen["index"])) == 21
    of_columns = few[seen["candidates"]]  # three types of 5 cells, 4 rare ones
    assert of_columns.shape == (21, 19)
    assert (of_columns == np.repeat([*sorted(LABELS), "rare"], [5, 5, 5, 4])).all()
    assert all(len(set(row)) == 19 for row in seen["candidates"].tolist())  # no cell twice
    assert len(np.unique(seen["candidates"][:, :5])) > 5  # drawn anew for each target cell


def test_seeds(species):
    labels = species[3]
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002

    def run(seed):
        return cell_type_scores(
            *inputs(species), labels, labels, max_sample_targ=10, max_sample_cont=5, seed=seed, **QUIET
        )

    assert run(1).equals(run(1)) and not run(1).equals(run(2))
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_types_with_few_cells_are_named(species):
    labels = np.where(np.arange(150) < 3, "rare", species[3])
    with pytest.warns(UserWarning, match="No similarity for rare / rare .* fewer than 10 pairs"):
        table = cell_type_scores(*inputs(species), labels, labels, max_sample_cont=5, **QUIET)
    assert np.isnan(table.loc["rare", "rare"]) and table.isna().sum().sum() == 1  # 3 x 3 pairs; the others have 15


@pytest.mark.parametrize("scale", ["none", "max", "min_max"])
def test_higher_is_more_similar_in_every_scale(scale):
    modes = pd.DataFrame(np.random.default_rng(0).gamma(2, 20, (6, 5)))
    scaled = scale_scores(modes, scale)
    for i in range(6):
        assert (np.argsort(-scaled.loc[i].to_numpy()) == np.argsort(modes.loc[i].to_numpy())).all()
    if scale != "none":
        assert np.allclose(scaled.min(axis=1), 0) and (scaled.max(axis=1) <= 1).all()
    if scale == "min_max":
        assert np.allclose(scaled.max(axis=1), 1)
        by_hand = [[(row.max() - v) / (row.max() - row.min()) for v in row] for row in modes.to_numpy()]
        assert np.allclose(scaled, by_hand)
    if scale == "max":
        assert np.allclose(scaled, [[1 - v / row.max() for v in row] for row in modes.to_numpy()])


def test_scales_keep_gaps_and_survive_equal_rows():
    modes = pd.DataFrame([[1.0, np.nan, 3.0], [2.0, 2.0, 2.0], [np.nan, np.nan, np.nan], [-3.0, -1.0, -2.0]])
    for scale in ("none", "max", "min_max"):
        scaled = scale_scores(modes, scale)
        assert (scaled.isna() == modes.isna()).all(axis=None) and np.isfinite(scaled.stack()).all()
    assert (scale_scores(modes, "min_max").loc[1] == 1).all() and (scale_scores(modes, "max").loc[3] == 1).all()


def test_wrong_input_is_named(species):
    labels = species[3]
    with pytest.raises(ValueError, match="Expected `scale` to be one of 'none', 'max', 'min_max', found 'minmax'"):
        scale_scores(pd.DataFrame([[1.0]]), "minmax")
    with pytest.raises(ValueError, match="Expected `max_sample_targ` to be a whole number of at least 1, found 0"):
        cell_type_scores(*inputs(species), labels, labels, max_sample_targ=0)
    with pytest.raises(TypeError, match="Expected `max_sample_cont` to be a whole number, found 5.5"):
        cell_type_scores(*inputs(species), labels, labels, max_sample_cont=5.5)


def test_too_many_pairs_are_refused_before_any_is_scored(species, monkeypatch):
    monkeypatch.setattr("scspecies.similarity.cell_scores", None)  # any call would fail
    monkeypatch.setattr("scspecies.similarity.MAX_PAIRS", 20_000)
    labels = species[3]
    with pytest.raises(MemoryError, match=r"at most 20,000 pairs .* 150 of the target x 150 of the context = 22,500"):
        cell_type_scores(*inputs(species), labels, labels, max_sample_cont=1000, **QUIET)


def test_the_best_are_the_same_however_many_rows_are_sorted_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    scores, index = rng.normal(size=(10, 30)).round(1), rng.integers(0, 99, (10, 30))
    by_hand = [[index[i, j] for j in sorted(range(30), key=lambda j: (scores[i, j], j))[:4]] for i in range(10)]
    for rows in (1, 3, 10, 64):
        monkeypatch.setattr(similarity, "_ROWS_AT_ONCE", rows)
        assert similarity.best_neighbors(scores, index, 4).tolist() == by_hand
    assert similarity.best_neighbors(scores, index, 50).shape == (10, 30)


def test_neighbours_are_scored_alike_however_many_cells_are_in_work(species, monkeypatch):
    """Pieces are cells of one batch; neighbours are SciPy's, and scores those of the table of all pairs."""
    vae, data, target, z = inputs(species)
    everyone = np.tile(np.arange(data.n_cells), (data.n_cells, 1))
    alone, nearest = cell_scores(vae, data, target, z, everyone[0], everyone, **QUIET), np.sort(cdist(z, z), axis=1)
    for most in (1, 13, 10_000):
        monkeypatch.setattr(similarity, "_CELLS_AT_ONCE", most)
        seen = []
        for cells, index, scores in similarity.neighbor_scores(vae, data, target, z, 20, **QUIET):
            assert len(cells) <= most and len(set(data.batch[cells])) == 1
            distances = np.take_along_axis(cdist(z[cells], z), index, axis=1)
            np.testing.assert_allclose(distances, nearest[cells, :20], atol=2e-3)
            np.testing.assert_allclose(scores, np.take_along_axis(alone[cells], index, axis=1), atol=2e-3)
            seen += cells.tolist()
        assert sorted(seen) == list(range(data.n_cells))
