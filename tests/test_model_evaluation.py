"""`scSpecies.evaluate`: it hands over what a transfer has written, and leaves out what is not there."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score, roc_auc_score

from scspecies import evaluation
from scspecies.accuracy import measures_table
from scspecies.models import scSpecies
from tiny_models import QUIET, UNSAVED, encode_both, tiny_model

KEY = "cell_type"
LABELS_ALONE = ["balanced_accuracy", "macro_f1", "accuracy"]


@pytest.fixture
def model(tmp_path) -> scSpecies:
    """Train, encode and transfer, with networks of a few units."""
    model = tiny_model(tmp_path)
    model.train_context(2, **UNSAVED)
    model.train_target(2, **UNSAVED)
    encode_both(model).transfer_labels_data(KEY, **QUIET)
    return model


def test_the_record_is_that_of_the_columns(model):
    human, types = model.mdata["human"].obs, set(model.mdata["mouse"].obs[KEY])
    truth, label = human[KEY].astype(str), human[f"pred_sim_{KEY}"].astype(str)
    foreign, right = ~truth.isin(types), truth == label
    found = model.evaluate(KEY, n_boot=20).summary["value"]
    shared = sorted(types & set(truth))
    assert found["balanced_accuracy"] == pytest.approx(recall_score(truth, label, labels=shared, average="macro"))
    assert found["balanced_accuracy"] == pytest.approx(model.ret_pred_df(f"pred_sim_{KEY}", KEY, KEY)[1])
    confidence, unassigned = human[f"pred_sim_{KEY}_confidence"], human[f"assigned_sim_{KEY}"] == "unassigned"
    assert found["brier"] == pytest.approx(((confidence - right) ** 2).mean())
    assert foreign.any() and found["unknown_auroc"] == pytest.approx(roc_auc_score(foreign, human["foreign_score"]))
    assert found["foreign_called"] == pytest.approx(human["foreign_call"][foreign].mean())
    assert found["known_unassigned"] == pytest.approx(unassigned[~foreign].mean())
    probabilities = model.label_probabilities(KEY)
    truth_table = pd.get_dummies(truth).reindex(columns=probabilities.columns, fill_value=0).to_numpy(float)
    rest = (1 - probabilities.sum(axis=1)) - foreign
    by_hand = (((probabilities - truth_table) ** 2).sum(axis=1) + rest**2).mean()
    assert found["brier_multiclass"] == pytest.approx(by_hand, abs=1e-5)
    assert {"self_classification_before", "self_classification_after", "self_classification_loss"} <= set(found.index)


def test_options_reach_the_function_and_nothing_is_written(model):
    before = model.mdata["human"].copy()
    judged = model.evaluate(KEY, n_boot=5, foreign="left_out", n_bins=4)
    assert len(judged.calibration) <= 4 and judged.summary.n["brier"] < model.mdata["human"].n_obs
    pd.testing.assert_frame_equal(model.mdata["human"].obs, before.obs)
    assert list(model.mdata["human"].obsm) == list(before.obsm)


def test_what_was_not_written_is_left_out(model):
    human = model.mdata["human"]
    human.obs.drop(
        columns=[c for c in human.obs if "confidence" in c or "foreign" in c or "assigned" in c], inplace=True
    )
    for name in ("expression_components", f"prob_sim_{KEY}"):
        del human.obsm[name]
    assert list(model.evaluate(KEY, n_boot=5).summary.index) == LABELS_ALONE


def test_both_species_are_handed_over_for_their_mixing(model, monkeypatch):
    given, table = [], measures_table(["ilisi"], 0.5, np.nan, np.nan, 9)
    monkeypatch.setattr(evaluation, "integration_scores", lambda *inputs: given.append(inputs) or table)
    assert "ilisi" in model.evaluate(KEY, integration=True, n_boot=5).summary.index
    for latent, labels, species in zip(given[0][:2], given[0][2:], ("mouse", "human"), strict=True):
        assert np.array_equal(latent, model.mdata[species].obsm["z_mu"])
        assert list(labels) == list(model.mdata[species].obs[KEY].astype(str))


def test_another_column_may_hold_the_truth(model):
    model.mdata["human"].obs["by hand"] = model.mdata["human"].obs[f"pred_sim_{KEY}"]
    judged = model.evaluate(KEY, "by hand", n_boot=5)
    assert judged.summary.value["balanced_accuracy"] == 1


def test_errors(model):
    with pytest.raises(
        KeyError, match=r"human.obs\['pred_sim_batch'\], found none. Call `transfer_labels_data\('batch'\)`"
    ):
        model.evaluate("batch")
    with pytest.raises(KeyError, match="Expected 'nothing' in human.obs"):
        model.evaluate(KEY, "nothing")
    model.mdata["human"].uns["metadata"]["transferred_runs"][f"pred_sim_{KEY}"] = "earlier"
    with pytest.raises(RuntimeError, match="Call `transfer_labels_data` first"):
        model.evaluate(KEY)


def test_order_of_the_calls(model, tmp_path):
    with pytest.raises(RuntimeError, match="Call `train_context` first"):
        tiny_model(tmp_path).evaluate(KEY)
    model.train_target(1, **UNSAVED)
    with pytest.raises(RuntimeError, match="Call `get_representation\\('target'\\)` first"):
        model.evaluate(KEY)
    model.get_representation("target")
    with pytest.raises(RuntimeError, match="Call `transfer_labels_data` first"):
        model.evaluate(KEY)
    model.transfer_labels_data(KEY, **QUIET)
    assert model.evaluate(KEY, n_boot=2).summary.index.is_unique
