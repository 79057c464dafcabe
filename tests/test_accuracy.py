"""Accuracy of labels and its intervals: against scikit-learn, SciPy, theory and cases made by hand; messages."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_recall_fscore_support

from judged_cells import CONTEXT
from scspecies.accuracy import (
    bootstrap_interval,
    confusion_counts,
    scores_by_type,
    shared_types,
    transfer_scores,
    transfer_table,
    wilson_interval,
)

# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 30), (3, 4), (17, 40), (9999, 10000)])
def test_wilson_agrees_with_scipy(successes, n, level):
    expected = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    assert np.allclose(wilson_interval(successes, n, level=level), expected)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.93])
def test_wilson_covers_the_true_share(share):
    n = 30
    low, high = wilson_interval(np.arange(n + 1), n)
    chance = stats.binom.pmf(np.arange(n + 1), n, share)
    assert 0.9 < chance[(low <= share) & (share <= high)].sum() < 0.99


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(1).exponential(size=200)
    low, high = bootstrap_interval(lambda rows: np.median(values[rows]), np.zeros(200), n_boot=4000)
    expected = stats.bootstrap((values,), np.median, method="percentile", n_resamples=4000, rng=1).confidence_interval
    assert np.allclose([low, high], expected, atol=0.03)


def test_bootstrap_keeps_strata_and_draws_each_cell_alike():
    strata = np.array([2, 0, 1, 0, 2, 2])
    draws = []
    bootstrap_interval(lambda rows: draws.append(rows) or 0.0, strata, n_boot=3000)
    assert all((np.sort(strata[rows]) == np.sort(strata)).all() for rows in draws)
    assert np.allclose(np.bincount(np.concatenate(draws)), 3000, rtol=0.1)


def test_bootstrap_of_balanced_accuracy_has_the_width_of_theory(cells):
    """The recalls are independent binomial shares, so the variance of their mean is known."""
    true, guess, *_ = cells
    scores = transfer_scores(true, guess, CONTEXT, n_boot=3000)
    recall, n = zip(*[((guess == true)[true == t].mean(), (true == t).sum()) for t in "abc"], strict=True)
    sd = np.sqrt(np.sum(np.multiply(recall, np.subtract(1, recall)) / n)) / 3
    width = scores.high["balanced_accuracy"] - scores.low["balanced_accuracy"]
    assert width == pytest.approx(2 * 1.96 * sd, rel=0.1)


def test_bootstrap_is_seeded_and_leaves_the_global_state_alone():
    values = np.random.default_rng(1).normal(size=50)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    of = [bootstrap_interval(lambda rows: values[rows].mean(), np.zeros(50), n_boot=50, seed=s)[0] for s in (0, 0, 1)]
    assert of[0] == of[1] != of[2]
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_draws_without_a_value_do_not_count():
    low, high = bootstrap_interval(lambda rows: [np.nan, 1.0 if rows[0] else np.nan], np.zeros(5), n_boot=50)
    assert np.isnan(low[0]) and np.isnan(high[0]) and low[1] == high[1] == 1


# ---------------------------------------------------------------- accuracy


def test_scores_by_type_agree_with_scikit_learn(cells):
    true, guess, *_ = cells
    table = scores_by_type(true, guess, CONTEXT)
    precision, recall, f1, n = precision_recall_fscore_support(true, guess, labels=["a", "b", "c"])
    assert list(table.index) == ["a", "b", "c"] and (table["n"] == n).all()
    assert np.allclose(table[["precision", "recall", "f1"]], np.column_stack([precision, recall, f1]))
    for name, row in table.iterrows():
        for column, total in (("recall", (true == name).sum()), ("precision", (guess == name).sum())):
            expected = stats.binomtest(((true == name) & (guess == name)).sum(), total).proportion_ci(method="wilson")
            assert np.allclose(row[[f"{column}_low", f"{column}_high"]].astype(float), expected)


def test_a_type_that_nobody_is_called_has_no_precision():
    table = scores_by_type(["a", "a", "b"], ["a", "a", "a"], ["a", "b"])
    assert np.isnan(table.precision["b"]) and table.recall["b"] == table.f1["b"] == 0
    assert transfer_scores(["a", "a", "b"], ["a", "a", "a"], ["a", "b"], n_boot=5).value["balanced_accuracy"] == 0.5


def test_transfer_scores_agree_with_scikit_learn(cells):
    true, guess, *_ = cells
    scores = transfer_scores(true, guess, CONTEXT, n_boot=100)
    known = true != "new"
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert scores.value["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(true[known], guess[known]))
    assert scores.value["macro_f1"] == pytest.approx(f1_score(true, guess, labels=["a", "b", "c"], average="macro"))
    assert scores.value["accuracy"] == pytest.approx((true == guess)[known].mean())
    assert (scores["n"] == known.sum()).all()
    assert ((scores.low <= scores.value) & (scores.value <= scores.high)).all()


def test_labels_may_come_as_anything_and_are_not_changed(cells):
    true, guess, *_ = cells
    table = pd.DataFrame({"true": pd.Categorical(true), "guess": guess}, index=np.arange(len(true)) + 7)
    copy = table.copy()
    kinds = [
        (true, guess),
        (true.tolist(), guess.tolist()),
        (table["true"], table["guess"].sample(frac=1).sort_index()),
    ]
    first, *others = [transfer_scores(*kind, pd.Series(CONTEXT * 2), n_boot=20) for kind in kinds]
    assert all(first.equals(other) for other in others)
    assert table.equals(copy)
    assert transfer_scores([1, 2, 2], [1, 2, 1], [1, 2], n_boot=5).value["balanced_accuracy"] == 0.75


def test_confusion_by_hand():
    table = confusion_counts(["x", "y", "y"], ["x", "x", "z"])
    assert table.loc["y"].to_dict() == {"x": 1, "z": 1} and table.to_numpy().sum() == 3


def test_transfer_table_agrees_with_scikit_learn(cells):
    true, guess, *_ = cells
    table, accuracy = transfer_table(true, guess, CONTEXT * 2)
    known = np.isin(true, CONTEXT)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert accuracy == pytest.approx(balanced_accuracy_score(true[known], guess[known]))
    assert list(table.index) == ["a", "b", "c", "new"] and list(table.columns) == CONTEXT
    for (row, column), percent in table.stack().items():
        assert percent == pytest.approx(100 * (guess[true == row] == column).mean())


def test_transfer_table_without_a_shared_type_has_no_number():
    table, accuracy = transfer_table(["x", "x"], ["a", "b"], ["a", "b"])
    assert np.isnan(accuracy) and table.loc["x"].tolist() == [50, 50]


# ---------------------------------------------------------------- messages

FLAGS = np.array([True, False])
TYPES = ["a", "b"]
SPACE = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: shared_types(["T"], ["t"]), ValueError, "such as 'T' and 't'). Name equal types alike in both."),
        (lambda: transfer_scores(["a", None], TYPES, TYPES), ValueError, "every cell, found 1 missing. Drop these"),
        (lambda: transfer_scores([], [], TYPES), ValueError, "Expected `true_labels` to be labels of shape (cells,)"),
        (lambda: transfer_scores(["a"], TYPES, TYPES), ValueError, "true_labels: 1, predicted_labels: 2."),
        (lambda: confusion_counts(["a"], TYPES), ValueError, "true_labels: 1, predicted_labels: 2."),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)
