"""The user's object: every combination of settings in every step, the order of calls, labels, wrong input, a GPU."""

import inspect
import itertools
import warnings
from functools import partial

import mudata as mu
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from scspecies.core import available_devices
from scspecies.models import scSpecies
from tiny_models import (
    QUIET,
    UNSAVED,
    copied,
    encode_both,
    latents,
    main_job,
    prepared_pair,
    simulated_pair,
    tiny_model,
)

FAST = partial(torch.optim.Adam, lr=5e-3)
LATER = {"samples": 30, "show_progress": False}

# ---------------------------------------------------------------- every combination


def check_every_step(model, folder):
    """Run every step after training, and hold what comes out against its definition."""
    mouse, human = model.mdata["mouse"], model.mdata["human"]
    model.get_representation("context", save_intermediate=True, save_libsize=True)
    model.get_representation("target", save_intermediate=True, save_libsize=True)
    for adata in (mouse, human):
        for key, width in (("z_mu", 4), ("z_sig", 4), ("inter", 16), ("l_mu", 1), ("l_sig", 1)):
            assert adata.obsm[key].shape == (adata.n_obs, width) and np.isfinite(adata.obsm[key]).all()
        total = np.log(np.asarray(adata.X.sum(axis=1)))
        if model.target.config.use_library_encoder:
            assert (adata.obsm["l_sig"] > 0).all() and np.abs(adata.obsm["l_mu"] - total).mean() < 2
        else:
            assert (adata.obsm["l_sig"] == 0).all()
            np.testing.assert_allclose(adata.obsm["l_mu"], total, rtol=1e-5)

    model.transfer_labels_data("cell_type", write_sim=True, **QUIET)
    assert set(human.obs["pred_sim_cell_type"]) <= set(mouse.obs["cell_type"])
    scores, index = human.obsm["similarities"], human.obsm["similarities_ind"]
    assert scores.shape == index.shape == (human.n_obs, mouse.n_obs)  # all context cells: fewer than 250
    every, every_index = model.similarity_metric_on_latent_space(precompute_neighbors=False, **QUIET)
    np.testing.assert_allclose(np.take_along_axis(every, index, axis=1), scores, atol=1e-2)
    np.testing.assert_allclose(
        model.similarity_metric([[5], [2]], index[[5, 2]], b_s=1, b_sc=7, display=False), scores[[5, 2]], atol=1e-2
    )
    ranked = model.transfer_labels_cell(5, "cell_type")
    np.testing.assert_allclose(ranked["similarity"], np.sort(every[5]), atol=1e-2)
    table, accuracy = model.ret_pred_df("pred_sim_cell_type", "cell_type", "cell_type")
    np.testing.assert_allclose(table.sum(axis=1), 100)
    assert 0 <= accuracy <= 1

    similarity = model.return_similarity_df(20, 5, **QUIET)
    assert set(similarity.index) == set(human.obs["cell_type"]) and np.isfinite(similarity).all(axis=None)
    target_rho, context_rho = model.generate_homologous_samples(**LATER)
    shared = set(mouse.obs["cell_type"]) & set(human.obs["cell_type"])
    assert set(target_rho) == set(context_rho) == shared
    changes = model.compute_logfold_change(**LATER)
    assert changes["lfc_delta"] == 1
    for kind in shared:
        assert changes[kind]["called"].dtype == bool and changes[kind]["fdr"].between(0, 1).all()
        assert target_rho[kind].shape == context_rho[kind].shape == (30, len(changes[kind]))
        assert np.isfinite(changes[kind].select_dtypes("number")).all(axis=None)

    model.save("both", "combination")
    again = tiny_model(folder, copied(model.mdata))
    again.load("both", "combination")
    for one, other in zip(latents(encode_both(again)), latents(model), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


COMBINATIONS = list(itertools.product(["inter", "latent"], ["nb", "zinb"], ["dataset", "batch", "cell"], [True, False]))


@pytest.mark.parametrize(("alignment", "distribution", "dispersion", "use_lib_enc"), COMBINATIONS)
def test_every_combination_works_in_every_step(alignment, distribution, dispersion, use_lib_enc, tmp_path):
    form = {f"{role}_data_distr": distribution for role in ("context", "target")}
    form |= {f"{role}_dispersion": dispersion for role in ("context", "target")}
    model = tiny_model(
        tmp_path, alignment=alignment, use_lib_enc=use_lib_enc, context_optimizer=FAST, target_optimizer=FAST, **form
    )
    model.train_context(6, **UNSAVED)
    model.train_target(6, **UNSAVED)
    for history in model.history.values():
        assert history["nll"].iloc[-1] < 0.97 * history["nll"].iloc[0]
        assert np.isfinite(history).all(axis=None)
        assert bool((history["kl_l"] > 0).all()) == use_lib_enc
    check_every_step(model, tmp_path)


BATCH_NORM = ["linear", "batch_norm", ("act", torch.nn.LeakyReLU(0.1), [-2, 8]), ("dropout", 0.2)]


@pytest.mark.parametrize(
    "form",
    [
        {"context_data_distr": "nb", "target_data_distr": "zinb", "context_dispersion": "cell"},
        {"context_data_distr": "zinb", "target_data_distr": "nb", "target_dispersion": "dataset"},
        {"context_layer_order": BATCH_NORM, "target_layer_order": BATCH_NORM},
        {"context_layer_order": BATCH_NORM},
        {"target_layer_order": BATCH_NORM, "alignment": "latent", "target_dispersion": "cell"},
        {"b_s": 1000},
        {"b_s": 3},
        {"context_hidden_dims_dec": [], "target_hidden_dims_dec": [6], "hidden_dims_enc_inner": [8, 6]},
    ],
    ids=str,
)
def test_unequal_forms_work_in_every_step(form, tmp_path):
    model = tiny_model(tmp_path, context_optimizer=FAST, target_optimizer=FAST, **form)
    model.train_context(2, **UNSAVED)
    model.train_target(2, **UNSAVED)
    check_every_step(model, tmp_path)


def test_numbers_may_be_those_of_numpy(tmp_path):
    numbers = {"lat_dim": np.int64(4), "b_s": np.int32(32), "k_neigh": np.int64(5), "top_percent": np.float32(30)}
    numbers |= {"hidden_dims_enc_inner": np.array([8]), "eta_max": np.float32(20), "random_seed": np.int64(2)}
    model = tiny_model(tmp_path, **numbers, context_beta_epochs_raise=np.int64(3))
    model.train_context(1, **QUIET)
    model.train_target(1, **QUIET)
    run = model.target.state.run
    model.load()
    assert model.target.state.run == run and model.target.config.latent_dim == 4


# ---------------------------------------------------------------- the order of calls

ANALYSES = {
    "similarity_metric": lambda m: m.similarity_metric([0], [[0]], display=False),
    "similarity_metric_on_latent_space": lambda m: m.similarity_metric_on_latent_space(**QUIET),
    "transfer_labels_data": lambda m: m.transfer_labels_data("cell_type", **QUIET),
    "transfer_labels_cell": lambda m: m.transfer_labels_cell(0, "cell_type"),
    "return_similarity_df": lambda m: m.return_similarity_df(20, 5, **QUIET),
    "generate_homologous_samples": lambda m: m.generate_homologous_samples(**LATER),
    "compute_logfold_change": lambda m: m.compute_logfold_change(**LATER),
}
TRAINING = {
    "train_target": lambda m: m.train_target(1, **UNSAVED),
    "get_representation": lambda m: m.get_representation("context"),
}
ALWAYS = {
    "initialize",
    "train_context",
    "encode",
    "save",
    "load",
    "save_mdata",
    "checkpoint_path",
    "ret_pred_df",
    "label_probabilities",
    "evaluate",
}


def test_the_table_has_every_method():
    methods = {name for name, _ in inspect.getmembers(scSpecies, inspect.isfunction) if not name.startswith("_")}
    assert methods == ALWAYS | ANALYSES.keys() | TRAINING.keys()


@pytest.mark.parametrize("call", [*ANALYSES.values(), *TRAINING.values()], ids=[*ANALYSES, *TRAINING])
def test_nothing_works_before_training(call, tmp_path):
    model = tiny_model(tmp_path)
    before = copied(model.mdata)
    with pytest.raises(RuntimeError, match="the context 'mouse' to be trained, .*Call `train_context` first"):
        call(model)
    for key in ("mouse", "human"):
        assert list(model.mdata[key].obsm) == list(before[key].obsm)
        pd.testing.assert_frame_equal(model.mdata[key].obs, before[key].obs)


@pytest.mark.parametrize("call", ANALYSES.values(), ids=ANALYSES)
def test_each_missing_step_is_named_in_turn(call, tmp_path):
    model = tiny_model(tmp_path)
    steps = [
        (lambda: model.train_context(1, **UNSAVED), "Call `get_representation\\('context'\\)` first"),
        (lambda: model.get_representation("context"), "Call `train_target` first"),
        (lambda: model.train_target(1, **UNSAVED), "Call `get_representation\\('target'\\)` first"),
        (lambda: model.get_representation("target"), None),
        (lambda: model.train_target(1, **UNSAVED), "Call `get_representation\\('target'\\)` first"),
        (lambda: model.get_representation("target"), None),
        (lambda: model.train_context(1, **UNSAVED), "Call `get_representation\\('context'\\)` first"),
        (lambda: model.get_representation("context"), "the context has changed since. Call `train_target`"),
        (lambda: model.train_target(1, **UNSAVED), "Call `get_representation\\('target'\\)` first"),
        (lambda: model.get_representation("target"), None),
        (lambda: model.initialize("context_decoder"), "Call `get_representation\\('context'\\)` first"),
        (lambda: model.get_representation("context"), "Call `train_target`"),
        (lambda: model.initialize("target"), "Call `train_target` first"),
        (lambda: model.initialize("both"), "Call `train_context` first"),
    ]
    for step, message in steps:
        step()
        if message is None:
            call(model)
        else:
            with pytest.raises(RuntimeError, match=message):
                call(model)


def test_labels_that_were_not_transferred_yet_are_missed_by_name(tmp_path):
    with pytest.raises(KeyError, match="Expected 'pred_sim_cell_type' in human.obs"):
        tiny_model(tmp_path).ret_pred_df("pred_sim_cell_type", "cell_type", "cell_type")


def test_initialize_gives_fresh_weights_to_whom_it_says(tmp_path):
    model = tiny_model(tmp_path)
    fresh = [species.state.run for species in (model.context, model.target)]
    main_job(model)
    trained = [species.state.run for species in (model.context, model.target)]
    model.initialize("target")
    assert [species.state.run for species in (model.context, model.target)] == [trained[0], fresh[1]]
    assert model.history["human"].empty and not model.history["mouse"].empty
    model.initialize("context")
    assert model.context.state.run == fresh[0] and model.history["mouse"].empty
    main_job(model)
    assert [species.state.run for species in (model.context, model.target)] == trained  # the same seed, from anew


# ---------------------------------------------------------------- labels


def with_labels(change):
    """Prepare the pair with both columns of types changed."""
    datasets = [adata.copy() for adata in (simulated_pair().context, simulated_pair().target)]
    for adata in datasets:
        adata.obs["cell_type"] = change(adata.obs["cell_type"].astype(str))
    return prepared_pair(*datasets)


KINDS = sorted({*simulated_pair().context.obs["cell_type"], *simulated_pair().target.obs["cell_type"]})
LABELS = {
    "strings": lambda names: names.astype(object),
    "categories": lambda names: names.astype("category"),
    "slashes and spaces": lambda names: "a/b " + names + " (+)",
    "whole numbers": lambda names: names.map(KINDS.index),
    "numbers as categories": lambda names: names.map(KINDS.index).astype("category"),
}


@pytest.mark.parametrize("change", LABELS.values(), ids=LABELS)
def test_labels_of_every_kind_give_the_same_result(change, tmp_path):
    results = []
    for mdata in (None, with_labels(change)):
        model = main_job(tiny_model(tmp_path, mdata), epochs=2)
        model.transfer_labels_data("cell_type", **QUIET)
        results.append((latents(model), model.ret_pred_df("pred_sim_cell_type", "cell_type", "cell_type")[1]))
        changes = model.compute_logfold_change(**LATER)
        assert len(set(model.mdata["human"].obs["cell_type"]) & set(changes)) == 3
        path = model.save_mdata("labels")
        assert set(mu.read_h5mu(path)["human"].obs["pred_sim_cell_type"]) == set(
            model.mdata["human"].obs["pred_sim_cell_type"]
        )
    for one, other in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert results[0][1] == pytest.approx(results[1][1])


def test_a_target_without_labels(tmp_path):
    mdata = prepared_pair(target_cell_key=None)
    assert mdata["human"].uns["metadata"]["cell_key"] == "unknown"
    model = main_job(tiny_model(tmp_path, mdata), epochs=2)
    of_types = ("return_similarity_df", "compute_logfold_change", "generate_homologous_samples")
    for name in of_types:
        with pytest.raises(RuntimeError, match="Call `transfer_labels_data` first"):
            ANALYSES[name](model)
    model.transfer_labels_data("lineage", write_sim=True, **QUIET)
    assert "cell_key_transferred" not in mdata["human"].uns["metadata"]  # lineages are no cell types
    model.transfer_labels_data(["cell_type", "lineage"], **QUIET)
    assert "similarities" not in mdata["human"].obsm  # those of the earlier call
    assert mdata["human"].uns["metadata"]["cell_key_transferred"] == "pred_sim_cell_type"
    transferred = set(mdata["human"].obs["pred_sim_cell_type"])
    with pytest.warns(UserWarning, match="transferred labels 'pred_sim_cell_type' are used"):
        assert set(model.compute_logfold_change(**LATER)) <= transferred
    with pytest.warns(UserWarning, match="transferred labels 'pred_sim_cell_type' are used"):
        assert set(model.return_similarity_df(20, 5, **QUIET).index) == transferred
    with pytest.warns(UserWarning, match="transferred labels 'pred_sim_cell_type' are used"):
        assert set(model.generate_homologous_samples(**LATER)[0]) <= transferred
    with warnings.catch_warnings():  # a column that was named is no surprise
        warnings.simplefilter("error")
        model.return_similarity_df(20, 20, target_cell_key="pred_sim_cell_type", **QUIET)
    saved = mu.read_h5mu(model.save_mdata())
    assert saved["human"].uns["metadata"]["cell_key_transferred"] == "pred_sim_cell_type"


def test_several_labels_at_once_are_those_one_by_one(tmp_path):
    model = main_job(tiny_model(tmp_path))
    human = model.mdata["human"]
    model.transfer_labels_data(("lineage", "cell_type", "batch"), top_neigh=7, **QUIET)
    together = human.obs[[f"pred_sim_{key}" for key in ("lineage", "cell_type", "batch")]].astype(str).copy()
    assert "cell_key_transferred" not in human.uns["metadata"]  # it has labels of its own
    for key in ("lineage", "cell_type", "batch"):
        model.transfer_labels_data(key, top_neigh=7, **QUIET)
        assert (human.obs[f"pred_sim_{key}"].astype(str) == together[f"pred_sim_{key}"]).all()
        votes = 7 * human.obs[f"pred_sim_{key}_share"]
        np.testing.assert_allclose(votes, votes.round(), atol=1e-9)
        model.transfer_labels_data(key, top_neigh=7, labels_by="votes", **QUIET)
        assert human.obs[f"pred_sim_{key}_share"].between(1 / 7 - 1e-9, 1).all()


def test_transfer_is_the_vote_of_the_best_by_hand(tmp_path):
    model = main_job(tiny_model(tmp_path), epochs=3)
    model.transfer_labels_data("cell_type", top_neigh=9, write_sim=True, labels_by="votes", **QUIET)
    mouse, human = model.mdata["mouse"], model.mdata["human"]
    types = mouse.obs["cell_type"].astype(str).to_numpy()
    for cell in range(0, human.n_obs, 7):
        best = np.argsort(human.obsm["similarities"][cell], kind="stable")[:9]
        votes = pd.Series(types[human.obsm["similarities_ind"][cell][best]]).value_counts()
        label = human.obs["pred_sim_cell_type"].iloc[cell]
        assert votes[label] == votes.max()
        assert human.obs["pred_sim_cell_type_share"].iloc[cell] == pytest.approx(votes.max() / 9)


@pytest.mark.parametrize("top_neigh", [7, 1000])
def test_labels_are_the_same_whether_scores_are_kept_or_not(top_neigh, tmp_path, monkeypatch):
    model = main_job(tiny_model(tmp_path))
    human, columns = model.mdata["human"], ["pred_sim_cell_type", "pred_sim_cell_type_share"]
    model.transfer_labels_data("cell_type", top_neigh=top_neigh, write_sim=True, **QUIET)
    kept = human.obs[columns].copy()
    monkeypatch.setattr("scspecies.similarity._CELLS_AT_ONCE", 16)
    model.transfer_labels_data("cell_type", top_neigh=top_neigh, **QUIET)
    assert "similarities" not in human.obsm
    assert (human.obs[columns[0]].astype(str) == kept[columns[0]].astype(str)).mean() > 0.98  # but for ties
    np.testing.assert_allclose(human.obs[columns[1]].to_numpy(), kept[columns[1]].to_numpy(), atol=0.2)


# ---------------------------------------------------------------- the caller's data


def test_what_the_caller_had_is_kept(tmp_path):
    mdata = prepared_pair()
    for adata in mdata.mod.values():
        adata.obs["my column"], adata.obsm["my embedding"] = 1.5, np.ones((adata.n_obs, 2))
        adata.uns["my notes"], adata.layers["my layer"] = {"a": [1]}, adata.X.copy()
    before = copied(mdata)
    model = main_job(tiny_model(tmp_path, mdata))
    model.transfer_labels_data("cell_type", write_sim=True, **QUIET)
    assert model.mdata is mdata
    for key, adata in before.mod.items():
        after = mdata[key]
        assert sp.issparse(after.X) and (after.X != adata.X).nnz == 0 and after.X.dtype == adata.X.dtype
        pd.testing.assert_frame_equal(after.obs[list(adata.obs)], adata.obs)
        pd.testing.assert_frame_equal(after.var, adata.var)
        assert all(np.array_equal(after.obsm[name], adata.obsm[name]) for name in adata.obsm)
        assert after.uns["my notes"] == {"a": [1]} and (after.layers["my layer"] != adata.X).nnz == 0
        assert {name: after.uns["metadata"][name] for name in ("name", "role", "cell_key")} == {
            name: adata.uns["metadata"][name] for name in ("name", "role", "cell_key")
        }


def test_counts_stay_sparse_and_are_not_copied(tmp_path):
    model = tiny_model(tmp_path)
    for species in (model.context, model.target):
        assert sp.issparse(species.data.counts)
        assert np.shares_memory(species.data.counts.data, model.mdata[species.key].X.data)


def test_encode_reads_counts_like_get_representation(tmp_path):
    model = tiny_model(tmp_path)
    model.train_context(1, **UNSAVED)
    model.get_representation("context", save_intermediate=True, save_libsize=True)
    mouse, vae = model.mdata["mouse"], model.context.vae
    x, s = mouse.X.toarray().astype(np.float64), mouse.obsm["batch_label_enc"]
    for inputs in ((x, s), (torch.as_tensor(x), torch.as_tensor(s))):
        arrays = model.encode(*inputs, vae.outer, vae.inner, vae.library)
        for array, key in zip(arrays, ("z_mu", "z_sig", "inter", "l_mu", "l_sig"), strict=True):
            np.testing.assert_allclose(array, mouse.obsm[key], atol=1e-5)
        assert len(model.encode(*inputs, vae.outer, vae.inner)) == 3
        assert len(model.encode(*inputs, lib_encoder=vae.library)) == 2


# ---------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device": "cuda:99"}, ValueError, "Expected `device` to be one of 'cpu'.*, found 'cuda:99'"),
        ({"device": "tpu"}, ValueError, "Expected `device` to be one of 'cpu'.*, found 'tpu'"),
        ({"device": "gpu"}, ValueError, "Expected `device` to be one of 'cpu'.*, found 'gpu'"),
        ({"b_s": 0}, ValueError, "`b_s` to be a whole number of at least 1, found 0"),
        ({"b_s": 2.0}, TypeError, "`b_s` to be a whole number, found 2.0"),
        ({"k_neigh": 0}, ValueError, "`k_neigh` to be a whole number of at least 1, found 0"),
        ({"top_percent": -1}, ValueError, "`top_percent` to be a number between 0 and 100, found -1"),
        ({"alignment": "outer"}, ValueError, "`alignment` to be one of 'inter', 'latent', found 'outer'"),
        ({"context_data_distr": "poisson"}, ValueError, "one of 'nb', 'zinb', found 'poisson'"),
        ({"target_dispersion": "gene"}, ValueError, "one of 'dataset', 'batch', 'cell', found 'gene'"),
        ({"lat_dim": 0}, ValueError, "`lat_dim` to be a whole number of at least 1, found 0"),
        ({"context_key": "rat"}, KeyError, "Expected 'rat' in mdata.mod, found 'mouse', 'human'"),
        ({"eta_start": -1}, ValueError, "found -1"),
        ({"context_beta_epochs_raise": 1.5}, TypeError, "found 1.5"),
        ({"random_seed": -1}, ValueError, "`random_seed` to be a whole number of at least 0, found -1"),
        ({"random_seed": "x"}, TypeError, "`random_seed` to be a whole number, found 'x'"),
        ({"context_hidden_dims_enc_outer": [8, 12]}, ValueError, "for alignment='inter', found 12 and 16"),
        ({"context_layer_order": ["linear", "relu"]}, ValueError, "`layer_order` to be one of .*, found 'relu'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_settings_are_one_sentence_and_leave_no_file(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        tiny_model(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_data_that_were_not_prepared_are_sent_to_data_setup(tmp_path):
    pair = simulated_pair()
    mdata = mu.MuData({"mouse": pair.context.copy(), "human": pair.target.copy()}, axis=1)
    with pytest.raises(KeyError, match="mdata\\['mouse'\\], found none. Prepare the data with .*create_mdata"):
        tiny_model(tmp_path, mdata)


def test_counts_changed_after_setup_are_refused(tmp_path):
    mdata = prepared_pair()
    mdata["human"].X = mdata["human"].X * 0.5
    with pytest.raises(ValueError, match="raw counts .* in human.X, found fractional values"):
        tiny_model(tmp_path, mdata)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m: m.similarity_metric([100], [[0]], display=False),
            IndexError,
            "rows of the .* cells of 'human', found 100",
        ),
        (lambda m: m.similarity_metric([-1], [[0]], display=False), IndexError, "`target_ind` .*, found -1"),
        (lambda m: m.similarity_metric([0], [[-3]], display=False), IndexError, "`context_ind` .*, found -3"),
        (lambda m: m.similarity_metric([0], [0], display=False), ValueError, "found \\(1,\\) and \\(1,\\)"),
        (lambda m: m.transfer_labels_cell(100, "cell_type"), IndexError, "rows of the .* cells of 'human', found 100"),
        (lambda m: m.transfer_labels_cell(0, "type"), KeyError, "Expected 'type' in mouse.obs, found 'cell_type'"),
        (lambda m: m.transfer_labels_data(["cell_type", "x"], **QUIET), KeyError, "Expected 'x' in mouse.obs"),
        (lambda m: m.transfer_labels_data("cell_type", 0, **QUIET), ValueError, "`top_neigh` .*at least 1, found 0"),
        (lambda m: m.ret_pred_df("x", "cell_type", "cell_type"), KeyError, "Expected 'x' in human.obs"),
        (lambda m: m.return_similarity_df(scale="log"), ValueError, "one of 'none', 'max', 'min_max', found 'log'"),
        (lambda m: m.compute_logfold_change(["x"], **LATER), ValueError, "types of both species .*, found \\['x'\\]"),
        (lambda m: m.compute_logfold_change(samples=10**8), ValueError, "between 1 and 1e\\+06, found 100000000"),
        (lambda m: m.compute_logfold_change(fdr_level=2), ValueError, "`fdr_level` .* between 0 and 1, found 2"),
        (lambda m: m.get_representation("human"), ValueError, "one of 'context', 'target', found 'human'"),
        (lambda m: m.initialize("decoder"), ValueError, "one of 'context', 'context_decoder', 'target', 'both'"),
        (lambda m: m.save("all"), ValueError, "`models` to be one of 'context', 'target', 'both', found 'all'"),
        (lambda m: m.encode(np.ones((2, 3)), np.ones((2, 1))), ValueError, "Expected `encoder_outer`"),
    ],
)
def test_wrong_calls_are_one_sentence_and_write_nothing(call, error, message, tmp_path):
    model = main_job(tiny_model(tmp_path))
    before = list(model.mdata["human"].obs), list(model.mdata["human"].obsm)
    with pytest.raises(error, match=message):
        call(model)
    assert before == (list(model.mdata["human"].obs), list(model.mdata["human"].obsm))


def test_missing_labels_of_the_context_are_counted(tmp_path):
    model = main_job(tiny_model(tmp_path))
    labels = model.mdata["mouse"].obs["cell_type"].astype(object)
    labels.iloc[:4] = None
    model.mdata["mouse"].obs["partial"] = labels
    with pytest.raises(ValueError, match="in mouse.obs\\['partial'\\], found 4 missing values"):
        model.transfer_labels_data("partial", **QUIET)


# ---------------------------------------------------------------- on a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="No CUDA device is there.")
def test_the_main_job_on_cuda_agrees_with_the_cpu(tmp_path):
    assert "cuda" in available_devices()
    state = torch.cuda.get_rng_state()
    model = main_job(tiny_model(tmp_path, device="cuda", context_optimizer=FAST, target_optimizer=FAST), epochs=5)
    model.transfer_labels_data("cell_type", write_sim=True, **QUIET)
    assert torch.equal(state, torch.cuda.get_rng_state())
    assert all(p.is_cuda for p in model.target.vae.parameters())
    model.save()

    on_cpu = tiny_model(tmp_path, copied(model.mdata))
    on_cpu.load()
    for one, other in zip(latents(encode_both(on_cpu)), latents(model), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    index = model.mdata["human"].obsm["similarities_ind"]
    scores = on_cpu.similarity_metric(np.arange(len(index)), index, display=False)
    np.testing.assert_allclose(scores, model.mdata["human"].obsm["similarities"], atol=0.05)
    labels = model.mdata["human"].obs["pred_sim_cell_type"].to_numpy(str)
    on_cpu.transfer_labels_data("cell_type", **QUIET)
    assert (on_cpu.mdata["human"].obs["pred_sim_cell_type"].to_numpy(str) == labels).mean() > 0.97
    for one in (model, on_cpu):  # training goes on from it, on either side
        one.train_target(1, **UNSAVED)
    assert model.target.state.epochs == on_cpu.target.state.epochs == 6
