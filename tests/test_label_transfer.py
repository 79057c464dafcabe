"""Labels with probabilities, as `scSpecies` writes them: against loops, a simulator's truth, and through files."""

from functools import partial

import mudata as mu
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from scspecies.datasets import synthetic_species
from scspecies.foreign import LIKELIHOOD_RATIO
from scspecies.matching import comparable_profiles, shared_counts
from scspecies.models import scSpecies
from scspecies.preprocessing import create_mdata, gene_counts
from tiny_models import QUIET, UNSAVED, copied, encode_both, main_job, prepared_pair, simulated_pair, tiny_model

FIELDS = {"pred_sim_cell_type", "pred_sim_cell_type_share", "pred_sim_cell_type_confidence", "assigned_sim_cell_type"}
FOREIGN = {"foreign_score", "foreign_score_hidden", "foreign_nearest_type", "foreign_call"}
SMALL = {
    "context_hidden_dims_enc_outer": [64],
    "target_hidden_dims_enc_outer": [64],
    "hidden_dims_enc_inner": [32],
    "context_hidden_dims_dec": [32, 64],
    "target_hidden_dims_dec": [32, 64],
    "b_s": 32,
}


def train_on(pair, folder, **setup) -> scSpecies:
    """Train on a simulated pair, with small networks, and transfer its labels."""
    builder = create_mdata(pair.context, "batch", "cell_type")
    builder.setup_target_adata(pair.target, "batch", "cell_type", orthologues=pair.orthologues, **setup)
    adam = partial(torch.optim.Adam, lr=3e-3)
    optimizers = {"context_optimizer": adam, "target_optimizer": adam}
    model = scSpecies("cpu", builder.return_mdata(save=False), folder, random_seed=1, **SMALL, **optimizers)
    model.train_context(30, **UNSAVED)
    model.train_target(30, **UNSAVED)
    encode_both(model).transfer_labels_data("cell_type", write_sim=True, **QUIET)
    return model


@pytest.fixture(scope="module", params=[2, 3])
def trained(request, tmp_path_factory) -> scSpecies:
    """Train on a pair in which the target has a type of its own; tests must not change it."""
    sizes = {"n_context": 600, "n_target": 500, "n_genes": 500, "n_types": 6}
    return train_on(synthetic_species(seed=request.param, **sizes), tmp_path_factory.mktemp("model"))


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Give the expected calibration error over ten bins of equal width."""
    bins = (confidence * 10).astype(int).clip(0, 9)
    return sum(abs(confidence[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in set(bins))


# ---------------------------------------------------------------- what it is worth


def quality(model: scSpecies) -> pd.Series:
    """Measure all that is promised of confidence, against the simulator's truth."""
    human, types = model.mdata["human"].obs, set(model.mdata["mouse"].obs["cell_type"])
    truth = human["cell_type"].astype(str)
    new = ~truth.isin(types)
    right = (human["pred_sim_cell_type"].astype(str) == truth).to_numpy()
    confidence = human["pred_sim_cell_type_confidence"].to_numpy()
    kept = human["assigned_sim_cell_type"] != "unassigned"
    assert 0 < new.sum() < 100
    return pd.Series(
        {
            "calibration error": calibration_error(confidence, right),
            "too sure": confidence.mean() - right.mean(),
            "AUROC of right": roc_auc_score(right, confidence),
            "AUROC of new": roc_auc_score(new, human["foreign_score"]),
            "called of new": human["foreign_call"][new].mean(),
            "called of others": human["foreign_call"][~new].mean(),
            "errors": 1 - right.mean(),
            "errors among kept": 1 - right[kept].mean(),
            "kept": kept.mean(),
        }
    )


def check_quality(of: pd.Series, calibration: float, kept: float) -> None:
    """Hold what was measured against what is promised."""
    assert of["calibration error"] < calibration and of["too sure"] < 0.02
    assert of["AUROC of right"] >= 0.85 and of["AUROC of new"] >= 0.85
    assert of["called of new"] > 0.5 > 0.2 > of["called of others"]
    assert of["errors among kept"] < min(of["errors"], 0.05 + 0.02)
    assert kept < of["kept"] < 1


def test_the_confidence_orders_cells_and_nearly_keeps_its_word(trained):
    """With 500 cells and small networks probabilities are too modest; the slow test asks for what is promised."""
    check_quality(quality(trained), calibration=0.2, kept=0.2)


@pytest.mark.slow
def test_the_confidence_can_be_taken_at_its_word(tmp_path):
    """Mean over three pairs of more cells and genes."""
    sizes = {"n_context": 1000, "n_target": 900, "n_genes": 1500}
    check_quality(
        sum(quality(train_on(synthetic_species(seed=seed, **sizes), tmp_path)) for seed in range(3)) / 3,
        calibration=0.06,
        kept=0.5,
    )


def test_two_witnesses_are_no_worse_than_the_vote(trained, tmp_path):
    model = scSpecies("cpu", copied(trained.mdata), tmp_path, **SMALL)
    accuracy = [trained.ret_pred_df("pred_sim_cell_type", "cell_type", "cell_type")[1]]
    for species, other in ((model.context, trained.context), (model.target, trained.target)):
        species.state, species.representation = other.state, other.representation
    model.transfer_labels_data("cell_type", labels_by="votes", **QUIET)
    accuracy.append(model.ret_pred_df("pred_sim_cell_type", "cell_type", "cell_type")[1])
    assert accuracy[0] >= accuracy[1] - 0.01


# ---------------------------------------------------------------- against loops


def own_neighbourhoods(*representations: np.ndarray) -> np.ndarray:
    """Average over a cell and its 20 nearest in each representation, dense."""
    total = 0
    for cells in representations:
        found = NearestNeighbors(n_neighbors=21).fit(cells).kneighbors(cells, return_distance=False)
        total = total + np.stack([np.bincount(row, minlength=len(cells)) for row in found]) / 21
    return total / len(representations)


def test_probabilities_are_those_of_a_loop(trained):
    mouse, human = trained.mdata["mouse"], trained.mdata["human"]
    labels, types = mouse.obs["cell_type"].astype(str).to_numpy(), np.unique(mouse.obs["cell_type"].astype(str))
    order = np.argsort(human.obsm["similarities"], axis=1, kind="stable")[:, :25]
    voters = np.take_along_axis(human.obsm["similarities_ind"], order, 1)
    smoothing = own_neighbourhoods(human.obsm["expression_components"], human.obsm["z_mu"])
    votes = np.zeros((human.n_obs, len(types)))
    for cell, neighbors in enumerate(voters):
        for label in labels[neighbors]:
            votes[cell, types == label] += (labels == label).sum() ** -0.5
    votes /= votes.sum(axis=1, keepdims=True)
    mean = (votes + human.obsm["prob_nns_cell_type"]) / 2
    logits = np.log(0.98 * (mean + smoothing @ mean) / 2 + 0.02 / len(types))
    table = trained.label_probabilities("cell_type")
    assert list(table.columns) == list(types) and list(table.index) == list(human.obs_names)
    # the same but for one temperature: differences of logarithms are in the same proportion everywhere
    log_p = np.log(table.to_numpy())
    ours, theirs = (x - x.mean(axis=1, keepdims=True) for x in (log_p, logits))
    temperature = (theirs**2).sum() / (theirs * ours).sum()
    assert 0.05 < temperature < 20
    error = np.abs(ours * temperature - theirs).max(axis=1)
    assert np.mean(error < 1e-3) > 0.98 and error.max() < 0.1  # two neighbours as near as each other may be exchanged
    # and the rows sum to the probability that the type is known
    score, hidden = human.obs["foreign_score"].to_numpy(), human.obs["foreign_score_hidden"].to_numpy()
    medians = pd.DataFrame({"score": score, "hidden": hidden}).groupby(human.obs["foreign_nearest_type"].to_numpy(str))
    sizes, medians = medians.size(), medians.median()
    medians = medians[sizes >= 10]
    threshold = medians.mean(axis=1).median()
    half = (medians["hidden"] - medians["score"]).median() / 2
    odds = 9 * LIKELIHOOD_RATIO ** ((threshold - score) / half)
    known = odds / (1 + odds)
    assert np.isclose(table.sum(axis=1), (known + smoothing @ known) / 2, atol=1e-3).mean() > 0.98
    assert np.array_equal(human.obs["foreign_call"], score > threshold)


def test_the_fields_agree_with_each_other(trained):
    human, table = trained.mdata["human"].obs, trained.label_probabilities("cell_type")
    confidence = human["pred_sim_cell_type_confidence"]
    assert np.array_equal(human["pred_sim_cell_type"].astype(str), table.idxmax(axis=1))
    assert np.allclose(confidence, table.max(axis=1))
    kept = human["assigned_sim_cell_type"] != "unassigned"
    assert (human["assigned_sim_cell_type"][kept].astype(str) == human["pred_sim_cell_type"][kept].astype(str)).all()
    assert confidence[kept].min() > confidence[~kept].max()
    assert (1 - confidence[kept]).mean() <= 0.05 < (1 - confidence[confidence >= confidence[~kept].max()]).mean()


# ---------------------------------------------------------------- data setup


def test_what_data_setup_leaves_is_what_the_functions_give():
    pair = simulated_pair()
    builder = create_mdata(pair.context, "batch", "cell_type", min_cell_type_size=5)
    for name in ("human", "patient"):
        builder.setup_target_adata(
            pair.target, "batch", "cell_type", None, name, n_top_genes=40, orthologues=pair.orthologues
        )
    context, target = builder.context, builder.datasets["human"]
    both = shared_counts(builder.context_counts, gene_counts(pair.target, target), pair.orthologues)
    assert both[0].shape[1] > 40  # all shared genes, chosen or not
    ours, theirs = comparable_profiles(*both, context.obs["cell_type"].astype(str).to_numpy())
    nearest = NearestNeighbors(n_neighbors=25, metric="cosine").fit(theirs).kneighbors(ours, return_distance=False)
    found = context.obsm["ind_neigh_nns_human"]
    assert np.mean([len(set(a) & set(b)) for a, b in zip(found, nearest, strict=True)]) > 24.9
    for counts, components in zip(
        both, (context.obsm["expression_components_human"], target.obsm["expression_components"]), strict=True
    ):
        depth = np.median(np.concatenate([np.ravel(x.sum(axis=1)) for x in both]))
        dense = counts.toarray() / np.maximum(counts.sum(axis=1).A1[:, None], 1) * depth
        dense = np.log1p(dense)
        dense /= np.maximum(np.linalg.norm(dense, axis=1, keepdims=True), 1e-12)
        scores = dense @ np.linalg.svd(dense, full_matrices=False)[2][:20].T
        scores -= scores.mean(axis=0)
        assert components.dtype == np.float32
        assert np.allclose(components @ components.T, scores @ scores.T, atol=1e-4)  # whatever the signs
    assert set(target.obs) >= FOREIGN and target.obs["foreign_call"].dtype == bool
    assert set(target.obs["foreign_nearest_type"]) <= set(context.obs["cell_type"])
    for key in ("ind_neigh_nns", "expression_components"):  # a second target beside the first
        assert np.array_equal(context.obsm[f"{key}_human"], context.obsm[f"{key}_patient"])


def test_a_target_that_fails_leaves_the_context_as_it_was():
    pair = simulated_pair()
    builder = create_mdata(pair.context, "batch", "cell_type", min_cell_type_size=5)
    before = list(builder.context.obsm)
    strange = pair.target.copy()
    strange.X = sp.csr_matrix(np.ones(strange.shape, dtype=np.float32))
    with pytest.raises(ValueError, match="Expected target cells that differ"):
        builder.setup_target_adata(strange, "batch", "cell_type", orthologues=pair.orthologues)
    assert list(builder.context.obsm) == before


def test_the_reference_matching_gives_probabilities_too(tmp_path):
    pair = simulated_pair()
    setups = []
    for matching in ("centered", "reference"):
        builder = create_mdata(pair.context, "batch", "cell_type", min_cell_type_size=5)
        options = {"orthologues": pair.orthologues, "matching": matching, "n_top_genes": 40}
        builder.setup_target_adata(pair.target, "batch", "cell_type", **options)
        setups.append(builder.return_mdata(save=False))
    for field in FOREIGN:  # do not depend on how cells are matched
        assert setups[0]["human"].obs[field].equals(setups[1]["human"].obs[field])
    assert not np.array_equal(*(mdata["mouse"].obsm["ind_neigh_nns_human"] for mdata in setups))
    model = main_job(tiny_model(tmp_path, setups[1]))
    model.transfer_labels_data("cell_type", **QUIET)
    assert set(model.mdata["human"].obs) >= FIELDS


# ---------------------------------------------------------------- keys, files, and what is missing


@pytest.mark.filterwarnings("ignore:No type was given")
def test_several_columns_share_what_is_known(tmp_path):
    model = main_job(tiny_model(tmp_path))
    model.transfer_labels_data(["cell_type", "lineage"], error_rate=0.2, **QUIET)
    fine, coarse = (model.label_probabilities(key) for key in ("cell_type", "lineage"))
    assert fine.shape[1] > coarse.shape[1]
    assert np.allclose(fine.sum(axis=1), coarse.sum(axis=1))
    careless = coarse.sum(axis=1)
    model.transfer_labels_data("lineage", foreign_share=0.5, **QUIET)
    assert (model.label_probabilities("lineage").sum(axis=1) < careless).all()


@pytest.mark.filterwarnings("ignore:Forward slashes")
def test_all_of_it_survives_the_file(tmp_path):
    pair = simulated_pair()
    context = pair.context.copy()
    first, second = sorted(set(context.obs["cell_type"]))[:2]
    names = {first: "T", second: "T/NK"}  # as columns of a table, these two could not be written
    context.obs["cell_type"] = context.obs["cell_type"].astype(str).replace(names)
    model = main_job(tiny_model(tmp_path, prepared_pair(context)))
    model.transfer_labels_data("cell_type", **QUIET)
    again = mu.read_h5mu(model.save_mdata("pair"))
    human, before = again["human"], model.mdata["human"]
    assert set(human.obs) >= FIELDS | FOREIGN
    for field in FIELDS | FOREIGN:
        assert human.obs[field].astype(str).equals(before.obs[field].astype(str))
    np.testing.assert_array_equal(
        again["mouse"].obsm["ind_neigh_nns_human"], model.mdata["mouse"].obsm["ind_neigh_nns_human"]
    )
    read = tiny_model(tmp_path, again)
    table = read.label_probabilities("cell_type")
    pd.testing.assert_frame_equal(table, model.label_probabilities("cell_type"))
    assert {"T", "T/NK"} <= set(table.columns)
    model.save("both")
    read.load("both")
    encode_both(read).transfer_labels_data("cell_type", **QUIET)
    pd.testing.assert_frame_equal(read.label_probabilities("cell_type"), table, atol=1e-6)


@pytest.mark.parametrize("lost", ["components", "cells"])
def test_without_what_data_setup_leaves_labels_are_those_of_the_vote(lost, tmp_path):
    model = main_job(tiny_model(tmp_path))
    model.transfer_labels_data("cell_type", labels_by="votes", **QUIET)
    voted = model.mdata["human"].obs["pred_sim_cell_type"].copy()
    if lost == "components":
        del model.mdata["human"].obsm["expression_components"]
    else:  # as where target cells were removed after data setup
        model.mdata["mouse"].obsm["ind_neigh_nns_human"] += 1000
    with pytest.warns(
        UserWarning, match="Labels are those of the plain vote, without probabilities: .*Prepare the data"
    ):
        model.transfer_labels_data("cell_type", **QUIET)
    human = model.mdata["human"]
    assert (human.obs["pred_sim_cell_type"] == voted).all()
    assert not set(human.obs) & (FIELDS - {"pred_sim_cell_type", "pred_sim_cell_type_share"})
    assert "prob_sim_cell_type" not in human.obsm and "prob_sim_cell_type" not in human.uns
    with pytest.raises(KeyError, match=r"Call `transfer_labels_data\('cell_type'\)` first"):
        model.label_probabilities("cell_type")


def test_a_context_of_one_type_has_nothing_to_hide(tmp_path):
    context = simulated_pair().context.copy()
    context.obs["cell_type"] = "cell"
    mdata = prepared_pair(context)
    assert not set(mdata["human"].obs) & FOREIGN
    model = main_job(tiny_model(tmp_path, mdata))
    model.transfer_labels_data("cell_type", **QUIET)
    assert (model.mdata["human"].obs["pred_sim_cell_type_confidence"] == 1).all()
    assert (model.mdata["human"].obs["assigned_sim_cell_type"] == "cell").all()


def test_unassigned_labels_of_an_earlier_run_are_refused(tmp_path):
    model = main_job(tiny_model(tmp_path))
    model.transfer_labels_data("cell_type", error_rate=1, **QUIET)
    model.train_target(1, **UNSAVED)
    model.get_representation("target")
    with pytest.raises(RuntimeError, match="assigned_sim_cell_type"):
        model.return_similarity_df(20, 5, target_cell_key="assigned_sim_cell_type", **QUIET)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"error_rate": 1.5}, "Expected `error_rate` to be a number between 0 and 1, found 1.5"),
        ({"labels_by": "guess"}, "Expected `labels_by` to be one of 'probability', 'votes', found 'guess'"),
        ({"foreign_share": 1}, "Expected `foreign_share` to be above 0 and below 1, found 1"),
        ({"top_neigh": 0}, "Expected `top_neigh` to be a whole number of at least 1, found 0"),
    ],
)
def test_options_out_of_range_change_nothing(option, message, tmp_path):
    model = main_job(tiny_model(tmp_path))
    before = list(model.mdata["human"].obs)
    with pytest.raises(ValueError, match=message):
        model.transfer_labels_data("cell_type", **option, **QUIET)
    assert list(model.mdata["human"].obs) == before
