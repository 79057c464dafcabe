"""Everything in one call: what the functions give, foreign cells, the space, several runs; messages."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats

from judged_cells import CONTEXT, everything
from scspecies import evaluation
from scspecies.accuracy import confusion_counts, transfer_scores
from scspecies.calibration import (
    brier_of_cells,
    calibration_table,
    call_rates,
    confidence_scores,
    unassigned_rates,
    unknown_scores,
)
from scspecies.evaluation import evaluate, summarise_runs
from scspecies.integration import self_classification_loss

ROOT = Path(__file__).resolve().parents[1]


# ---------------------------------------------------------------- everything in one call


def test_evaluate_gives_what_the_functions_give(cells):
    true, guess, confidence, score, probabilities = cells
    result, foreign, right = everything(cells), true == "new", true == guess
    expected = [
        transfer_scores(true, guess, CONTEXT, n_boot=30),
        confidence_scores(confidence, right, strata=true, n_boot=30),
        unknown_scores(score, foreign, strata=true, n_boot=30),
        call_rates(score > 2, foreign),
        unassigned_rates(score > 1, foreign, right),
    ]
    for table in expected:
        pd.testing.assert_frame_equal(result.summary.loc[table.index], table)
    assert result.summary.value["brier_multiclass"] == pytest.approx(brier_of_cells(probabilities, true).mean())
    assert len(result.summary) == sum(map(len, expected)) + 1 and result.summary.index.is_unique
    assert list(result.summary.columns) == ["value", "low", "high", "n"]
    assert result.calibration.equals(calibration_table(confidence, right))
    assert result.confusion.equals(confusion_counts(true, guess))


def test_the_space_is_judged_with_what_its_functions_give(cells):
    true, guess, *_ = cells
    rng = np.random.default_rng(0)
    after, before = (rng.normal(size=(len(true), 2)) + spread * (true == "a")[:, None] for spread in (1, 4))
    result = evaluate(true, guess, CONTEXT, target_latent=after, before=sp.csr_matrix(before), n_boot=30)
    loss = self_classification_loss(before, after, true, n_boot=30)
    pd.testing.assert_frame_equal(result.summary.loc[loss.index], loss)
    assert len(result.summary) == 6 and loss.value["self_classification_loss"] > 0


def test_the_space_of_both_species_is_judged(cells, monkeypatch):
    """With a stand-in for the function that needs the optional package: what it is given and what is done with it."""
    true, guess, *_ = cells
    given = []
    table = pd.DataFrame(
        {"value": 0.5, "low": np.nan, "high": np.nan, "n": 9}, index=pd.Index(["ilisi"], name="measure")
    )
    monkeypatch.setattr(evaluation, "integration_scores", lambda *inputs: given.append(inputs) or table)
    latent, of_context = np.zeros((len(true), 2)), np.ones((4, 2))
    result = evaluate(true, guess, CONTEXT, target_latent=latent, context_latent=of_context, n_boot=2)
    assert result.summary.loc[["ilisi"]].equals(table) and len(result.summary) == 4
    assert given[0][0] is of_context and given[0][1] is latent and list(given[0][2]) == CONTEXT
    assert list(given[0][3]) == list(true)


def test_foreign_cells_left_out_are_as_if_they_were_not_there(cells):
    known = cells[0] != "new"
    of_known = [values[known] for values in cells]
    result, alone = everything(cells, foreign="left_out"), everything(of_known)
    unknown = ["unknown_auroc", "unknown_average_precision", "foreign_called", "known_called"]
    unknown += ["foreign_unassigned", "known_unassigned", "labelled_right"]
    pd.testing.assert_frame_equal(result.summary.drop(unknown), alone.summary.drop(unknown))
    pd.testing.assert_frame_equal(result.by_type, alone.by_type)
    assert result.summary.loc[unknown].equals(everything(cells).summary.loc[unknown])


def test_evaluate_changes_nothing_of_the_callers(cells):
    copies = [values.copy() for values in cells]
    everything(cells, foreign="left_out")
    for values, copy in zip(cells, copies, strict=True):
        assert (values == copy).all(axis=None) if isinstance(values, pd.DataFrame) else (values == copy).all()


def test_runs_agree_with_scipy(cells):
    rng = np.random.default_rng(0)
    values = rng.normal(0.9, 0.02, (5, 2))
    runs = summarise_runs([pd.DataFrame({"value": row}, index=["x", "y"]) for row in values], level=0.9)
    low, high = stats.t.interval(0.9, 4, values.mean(axis=0), stats.sem(values))
    assert np.allclose(runs[["mean", "sd"]], np.column_stack([values.mean(axis=0), values.std(axis=0, ddof=1)]))
    assert np.allclose(runs[["low", "high"]], np.column_stack([low, high])) and (runs["runs"] == 5).all()
    assert np.allclose(runs[["lowest", "highest"]], np.column_stack([values.min(axis=0), values.max(axis=0)]))
    one = summarise_runs([everything(cells).summary])
    assert one[["sd", "low", "high"]].isna().all(axis=None) and one["mean"].notna().all()


def test_importing_needs_neither_scib_metrics_nor_matplotlib():
    heavy = ["scib_metrics", "jax", "matplotlib"]
    code = f"import sys, scspecies.evaluation; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


# ---------------------------------------------------------------- messages

FLAGS = np.array([True, False])
TYPES = ["a", "b"]
SPACE = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: evaluate(TYPES, TYPES, TYPES, foreign="x"), ValueError, "'wrong', 'left_out', found 'x'."),
        (lambda: evaluate(TYPES, TYPES, TYPES, unassigned=[True]), ValueError, "true_labels: 2, unassigned: 1."),
        (lambda: evaluate(TYPES, TYPES, TYPES, before=SPACE), ValueError, "`target_latent` together with `before` or"),
        (lambda: evaluate(TYPES, TYPES, TYPES, target_latent=SPACE[:1]), ValueError, "2, target_latent: 1."),
        (lambda: evaluate(TYPES, TYPES, TYPES, n_boot=1), ValueError, "`n_boot` to be a whole number of at least 2"),
        (lambda: evaluate(TYPES, TYPES, TYPES, level=95), ValueError, "`level` to be a number between 0 and 1"),
        (lambda: summarise_runs([]), ValueError, "at least one run, found none."),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)
