"""Alignment: what stays frozen, which cells are pulled, and where to."""

import functools

import numpy as np
import pytest
import torch

from scspecies import alignment as alignment_module
from scspecies.alignment import best_candidates, make_anchors
from scspecies.architecture import SpeciesVAE, VAEConfig, evaluation_mode
from scspecies.core import minibatch, torch_seed
from scspecies.likelihood import negative_log_likelihood
from scspecies.training import encode_cells
from tiny_models import QUIET, UNSAVED, changed, latents, main_job, prepared_pair, tiny_model, weights

BATCH_NORM = ["linear", "batch_norm", ("act", "ELU"), ("dropout", 0.3)]
LAYER_NORM = ["linear", "layer_norm", ("act", "ReLU"), ("dropout", 0.1)]
OPTIMIZERS = {
    "Adam": torch.optim.Adam,
    "AdamW": functools.partial(torch.optim.AdamW, lr=0.01, weight_decay=0.5),
    "SGD": functools.partial(torch.optim.SGD, lr=1e-5, momentum=0.9, weight_decay=0.5),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("layers", [BATCH_NORM, LAYER_NORM], ids=["batch_norm", "layer_norm"])
def test_the_inner_encoder_is_frozen_bit_by_bit(optimizer, layers, tmp_path):
    model = tiny_model(tmp_path, target_optimizer=optimizer, context_layer_order=layers, target_layer_order=layers)
    model.train_context(2, **UNSAVED)
    context, inner = weights(model.context.vae), weights(model.context.vae.inner)
    for _ in range(2):  # the second fit goes on with the optimiser's momentum
        model.train_target(2, **UNSAVED)
        assert not changed(inner, model.target.vae.inner)
        assert not changed(context, model.context.vae)
    model.train_context(1, **UNSAVED)
    assert changed(inner, model.context.vae.inner) and not changed(inner, model.target.vae.inner)
    inner = weights(model.context.vae.inner)
    before = weights(model.target.vae)
    model.train_target(1, **UNSAVED)  # takes over the new one
    assert not changed(inner, model.target.vae.inner)
    assert changed(before, model.target.vae) == {"outer", "inner", "library", "decoder"}


def test_latent_alignment_trains_an_inner_encoder_of_its_own(tmp_path):
    sizes = {"target_hidden_dims_enc_outer": [12, 10], "target_layer_order": BATCH_NORM}
    model = main_job(tiny_model(tmp_path, alignment="latent", **sizes))
    assert model.target.vae.inner.layers[0].in_features == 10
    assert model.context.vae.inner.layers[0].in_features == 16
    before = weights(model.target.vae)
    model.train_target(1, **UNSAVED)
    assert changed(before, model.target.vae) == {"outer", "inner", "library", "decoder"}


def test_the_inner_encoder_has_the_layers_of_the_context(tmp_path):
    model = main_job(tiny_model(tmp_path, context_layer_order=BATCH_NORM, target_layer_order=LAYER_NORM))
    kinds = [type(part).__name__ for part in model.target.vae.inner.layers]
    assert kinds == [type(part).__name__ for part in model.context.vae.inner.layers]
    assert "BatchNorm1d" in kinds and "BatchNorm1d" not in {type(p).__name__ for p in model.target.vae.outer}


@pytest.mark.parametrize("alignment", ["inter", "latent"])
def test_alignment_brings_trusted_cells_to_their_candidates(alignment, tmp_path):
    pulled = {}
    for eta in (0, 25):
        options = {"eta_start": eta, "eta_max": eta, "alignment": alignment, "top_percent": 100, "k_neigh": 5}
        fast = functools.partial(torch.optim.Adam, lr=0.01)
        model = tiny_model(tmp_path, context_optimizer=fast, target_optimizer=fast, **options)
        model.train_context(10, **UNSAVED)
        model.train_target(20, **UNSAVED)
        z = [encode_cells(species.vae, species.data).z_mean for species in (model.context, model.target)]
        near = model.mdata["human"].obsm["ind_neigh_nns"][:, :5]
        pulled[eta] = np.linalg.norm(z[1][:, None] - z[0][near], axis=2).min(axis=1).mean()
        pulled[eta] /= z[0].std()
    assert pulled[25] < 0.7 * pulled[0]


@pytest.mark.parametrize("dispersion", ["dataset", "batch", "cell"])
@pytest.mark.parametrize("distribution", ["nb", "zinb"])
def test_best_candidate_is_that_of_a_loop_and_each_is_decoded_once(distribution, dispersion, tmp_path, monkeypatch):
    model = main_job(tiny_model(tmp_path, k_neigh=9))
    context, data = model.context.require_representation(), model.target.data
    form = {"distribution": distribution, "dispersion": dispersion, "latent_dim": 4}
    with torch_seed(0):
        vae = SpeciesVAE(VAEConfig((16,), (8,), (8,), (8, 16), **form), data.n_genes, data.n_batches, range(20), 6.0)
    candidates, _ = model._candidates()
    context.z_std[:] = 1e-9  # so that each draw is the mean
    anchors = make_anchors(context, candidates, np.ones(data.n_cells, bool))
    everyone, trusted = minibatch(data, np.arange(40)), torch.arange(40) % 3 > 0
    cells = minibatch(data, np.arange(40)[trusted.numpy()])
    sizes = cells.counts.sum(1, keepdim=True).log()
    decoded = []
    scored = alignment_module.candidate_nll
    monkeypatch.setattr(alignment_module, "candidate_nll", lambda *args: decoded.append(len(args[3])) or scored(*args))
    vae.train()
    best = best_candidates(vae, everyone, trusted, everyone.counts.sum(1, keepdim=True).log(), anchors)
    labels = data.batch[cells.index]
    assert decoded == [len({(c, b) for row, b in zip(candidates[cells.index], labels, strict=True) for c in row})]
    assert decoded[0] < best.numel() * 9 and vae.decoder.training
    with evaluation_mode(vae):
        for i in range(len(cells)):
            of_points = vae.decoder(anchors.z_mean[anchors.candidates[cells.index[i]]], cells.batch[[i]])
            nll = negative_log_likelihood(cells.counts[[i]], of_points, sizes[[i]])
            assert nll[(anchors.candidates[cells.index[i]] == best[i])] <= nll.min() + 1e-3


def no_alignment(model):
    return (model.history["human"]["alignment"] == 0).all()


def test_nobody_is_pulled_without_trust(tmp_path):
    nobody = main_job(tiny_model(tmp_path, top_percent=0), epochs=2)
    assert no_alignment(nobody)
    free = main_job(tiny_model(tmp_path, top_percent=100, eta_start=0, eta_max=0), epochs=2)
    assert not no_alignment(free) and (free.history["human"]["loss"] < 1e6).all()


def test_minibatches_without_a_trusted_cell_have_no_term(tmp_path):
    mdata = prepared_pair()
    rank = np.ones(mdata["human"].n_obs)
    rank[7] = 0.0  # one trusted cell in all
    mdata["human"].obs["top_percent_cell_type"] = rank
    model = tiny_model(tmp_path, mdata, b_s=10, eta_start=1, eta_max=1)
    model.train_context(1, **UNSAVED)
    model.train_target(1, **UNSAVED)
    row = model.history["human"].iloc[0]
    assert row["alignment"] > 0
    assert row["loss"] == pytest.approx(row["nll"] + row["beta"] * (row["kl_z"] + row["kl_l"]) + row["alignment"])


@pytest.mark.parametrize(("k_neigh", "top_percent"), [(1, 20), (10_000, 100), (25, 0.5)])
def test_numbers_of_candidates_and_trusted_cells(k_neigh, top_percent, tmp_path):
    model = main_job(tiny_model(tmp_path, k_neigh=k_neigh, top_percent=top_percent))
    assert all(np.isfinite(z).all() for z in latents(model))


def test_candidates_are_taken_from_the_data_as_they_are(tmp_path):
    model = tiny_model(tmp_path, top_percent=50, k_neigh=3)
    candidates, trusted = model._candidates()
    human = model.mdata["human"]
    np.testing.assert_array_equal(candidates, human.obsm["ind_neigh_nns"][:, :3])
    np.testing.assert_array_equal(trusted, human.obs["top_percent_cell_type"] < 0.5)
    for label, cells in human.obs.groupby("pred_nns_cell_type", observed=True):
        share = trusted[human.obs["pred_nns_cell_type"] == label].mean()
        assert share >= 0.5 - 1 / len(cells), label  # the best half, and whoever is sure


@pytest.mark.parametrize("missing", ["ind_neigh_nns", "top_percent_cell_type"])
def test_missing_neighbours_are_named(missing, tmp_path):
    mdata = prepared_pair()
    mdata["human"].obsm.pop(missing, None)
    mdata["human"].obs = mdata["human"].obs.drop(columns=missing, errors="ignore")
    model = tiny_model(tmp_path, mdata)
    model.train_context(1, **UNSAVED)
    with pytest.raises(KeyError, match=f"Expected '{missing}' in human.obs"):
        model.train_target(1, **QUIET)


def test_neighbours_of_another_context_are_refused(tmp_path):
    mdata = prepared_pair()
    mdata["human"].obsm["ind_neigh_nns"] = mdata["human"].obsm["ind_neigh_nns"] + mdata["mouse"].n_obs
    model = tiny_model(tmp_path, mdata, k_neigh=5)
    model.train_context(1, **UNSAVED)
    with pytest.raises(ValueError, match=f"rows of a context of {mdata['mouse'].n_obs} cells, found row"):
        model.train_target(1, **QUIET)
