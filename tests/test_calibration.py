"""Confidence judged: against scikit-learn, loops, theory and cases made by hand; messages."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, brier_score_loss

from judged_cells import CONTEXT
from scspecies.accuracy import wilson_interval
from scspecies.calibration import (
    accuracy_of_surest,
    auroc,
    average_precision,
    brier_of_cells,
    calibration_error_by_chance,
    calibration_table,
    call_rates,
    confidence_scores,
    coverage_curve,
    expected_calibration_error,
    unassigned_rates,
    unknown_scores,
)

# ---------------------------------------------------------------- calibration


@pytest.mark.parametrize(("bins", "strategy"), [("mass", "quantile"), ("width", "uniform")])
@pytest.mark.parametrize("n_bins", [1, 4, 10, 15])
def test_calibration_table_agrees_with_scikit_learn(cells, bins, strategy, n_bins):
    true, guess, confidence, *_ = cells
    table = calibration_table(confidence, true == guess, n_bins=n_bins, bins=bins)
    share, mean = calibration_curve(true == guess, confidence, n_bins=n_bins, strategy=strategy)
    assert np.allclose(table[["right", "confidence"]], np.column_stack([share, mean]))
    assert table["n"].sum() == len(true)
    error = (table["n"] * (table["right"] - table["confidence"]).abs()).sum() / len(true)
    assert expected_calibration_error(confidence, true == guess, n_bins=n_bins, bins=bins) == pytest.approx(error)


def test_equal_mass_is_equal_and_ties_stay_together():
    rng = np.random.default_rng(0)
    assert calibration_table(rng.random(1000), rng.random(1000) < 0.5)["n"].tolist() == [100] * 10
    votes = rng.integers(18, 26, 1000) / 25
    table = calibration_table(votes, rng.random(1000) < votes)
    assert table["n"].sum() == 1000 and len(table) <= 8
    inside = [((votes > low) & (votes <= high)).sum() for low, high in zip(table["from"], table["to"], strict=True)]
    assert inside[1:] == table["n"].tolist()[1:]


@pytest.mark.parametrize("bins", ["mass", "width"])
def test_a_calibrated_classifier_has_no_calibration_error(bins):
    """Near 0, and within the interval of chance as often as that says."""
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.4, 1, 5_000)
    mean, low, high = calibration_error_by_chance(confidence, bins=bins)
    errors = np.array(
        [expected_calibration_error(confidence, rng.random(5_000) < confidence, bins=bins) for _ in range(400)]
    )
    assert errors.max() < 0.04 and errors.mean() == pytest.approx(mean, rel=0.05)
    assert 0.92 < ((low <= errors) & (errors <= high)).mean() < 0.98


@pytest.mark.parametrize("bins", ["mass", "width"])
def test_an_overconfident_classifier_has_the_error_of_theory(bins):
    """Right with probability c, uniform on 0.5 to 1, but claiming (1 + c) / 2: the mean of (1 - c) / 2 is 1 / 8."""
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.5, 1, 50_000)
    right = rng.random(50_000) < chance
    claimed = (1 + chance) / 2
    assert expected_calibration_error(claimed, right, bins=bins) == pytest.approx(1 / 8, abs=0.005)
    # Brier: variance of right, mean of c (1 - c), plus the squared distortion, mean of (1 - c)^2 / 4
    scores = confidence_scores(claimed, right, n_boot=5)
    assert scores.value["brier"] == pytest.approx(1 / 6 + 1 / 48, abs=0.005)
    assert scores.value["confidence_auroc"] == pytest.approx(auroc(chance, right))


def test_chance_error_agrees_with_theory():
    """In one bin of n cells of confidence p, the mean distance is that of a binomial share."""
    n, p = 200, 0.8
    mean, *_ = calibration_error_by_chance(np.full(n, p), n_draws=4000)
    k = np.arange(n + 1)
    assert mean == pytest.approx((stats.binom.pmf(k, n, p) * np.abs(k / n - p)).sum(), rel=0.05)


def test_brier_agrees_with_loops_and_scikit_learn(cells):
    true, guess, confidence, _, probabilities = cells
    scores = confidence_scores(confidence, true == guess, strata=true, n_boot=20)
    assert scores.value["brier"] == pytest.approx(brier_score_loss(true == guess, confidence))
    expected = [
        sum((row[t] - (t == label)) ** 2 for t in CONTEXT) + (label not in CONTEXT)
        for (_, row), label in zip(probabilities.iterrows(), true, strict=True)
    ]
    assert np.allclose(brier_of_cells(probabilities, true), expected)
    # of two types it is twice the binary score
    two = pd.DataFrame({"right": confidence, "wrong": 1 - confidence})
    assert brier_of_cells(two, np.where(true == guess, "right", "wrong")).mean() == pytest.approx(
        2 * scores.value["brier"]
    )


# ---------------------------------------------------------------- order of the cells


def test_auroc_and_average_precision_agree_with_loops(cells):
    true, guess, confidence, score, _ = cells
    right, rounded = true == guess, confidence.round(1)
    pairs = itertools.product(rounded[right], rounded[~right])
    assert auroc(rounded, right) == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a, b in pairs]))
    flags = (true == "new")[np.argsort(-score)]
    by_hand = np.mean([flags[: i + 1].mean() for i in np.flatnonzero(flags)])
    assert average_precision(score, true == "new") == pytest.approx(by_hand)
    for flags in (np.zeros(5, bool), np.ones(5, bool)):
        assert np.isnan(auroc(np.arange(5), flags)) and np.isnan(average_precision(np.arange(5), flags))


@pytest.mark.parametrize("decimals", [1, 8])
def test_coverage_curve_agrees_with_a_loop(cells, decimals):
    true, guess, confidence, *_ = cells
    confidence, right = confidence.round(decimals), true == guess
    curve = coverage_curve(confidence, right)
    assert (curve["threshold"].diff().dropna() < 0).all() and curve["coverage"].iloc[-1] == 1
    for row in curve.itertuples():
        kept = confidence >= row.threshold
        assert row.n == kept.sum() and row.coverage == kept.mean() and row.accuracy == right[kept].mean()
    for share in (0.01, 0.3, 0.8, 1.0):
        expected = curve.accuracy[curve.coverage >= share - 1e-9].iloc[0]
        assert accuracy_of_surest(confidence, right, share) == expected
    shuffled = np.random.default_rng(0).permutation(len(right))
    assert coverage_curve(confidence[shuffled], right[shuffled]).equals(curve)


# ---------------------------------------------------------------- unknown types


def test_unknown_scores_agree_with_scikit_learn_and_theory(cells):
    true, _, _, score, _ = cells
    scores = unknown_scores(score, true == "new", strata=true, n_boot=50)
    assert scores.value["unknown_average_precision"] == pytest.approx(average_precision_score(true == "new", score))
    rng = np.random.default_rng(0)
    foreign = rng.random(20_000) < 0.1
    shifted = rng.normal(size=20_000) + 1.5 * foreign
    value = unknown_scores(shifted, foreign, n_boot=2).value["unknown_auroc"]
    assert value == pytest.approx(stats.norm.cdf(1.5 / np.sqrt(2)), abs=0.01)


def test_nothing_foreign_gives_no_number(cells):
    scores = unknown_scores([0.1, 0.5, 0.2], np.zeros(3, bool), n_boot=5)
    assert scores["value"].isna().all() and scores[["low", "high"]].isna().all(axis=None)


def test_unassigned_rates_by_hand():
    unassigned = np.array([True, True, False, False, False, True])
    foreign = np.array([True, True, True, False, False, False])
    right = np.array([False, False, False, True, True, True])
    rates = unassigned_rates(unassigned, foreign, right)
    assert np.allclose(rates["value"], [2 / 3, 1 / 3, 2 / 3]) and rates["n"].tolist() == [3, 3, 3]
    assert np.allclose(rates.loc["foreign_unassigned", ["low", "high"]].astype(float), wilson_interval(2, 3))
    assert np.isnan(unassigned_rates(unassigned, np.zeros(6, bool), right).value["foreign_unassigned"])


def test_call_rates_by_hand():
    call, foreign = np.array([True, True, False, False, True]), np.array([True, True, True, False, False])
    rates = call_rates(call, foreign)
    assert np.allclose(rates["value"], [2 / 3, 1 / 2]) and rates["n"].tolist() == [3, 2]
    assert np.allclose(rates.loc["known_called", ["low", "high"]].astype(float), wilson_interval(1, 2))
    assert np.isnan(call_rates(call, np.zeros(5, bool)).value["foreign_called"])


# ---------------------------------------------------------------- messages

FLAGS = np.array([True, False])
TYPES = ["a", "b"]
SPACE = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: calibration_table([0.1, 1.2], FLAGS), ValueError, "numbers between 0 and 1, found 1.2."),
        (lambda: calibration_table([0.1, np.nan], FLAGS), ValueError, "numbers between 0 and 1, found nan."),
        (lambda: calibration_table([0.1, 0.2], [1, 0]), TypeError, "Expected `right` to be True or False for each"),
        (lambda: calibration_table([0.1], FLAGS), ValueError, "found lengths confidence: 1, right: 2."),
        (lambda: calibration_table([], FLAGS[:0]), ValueError, "at least one cell, found none."),
        (lambda: calibration_table([0.1, 0.2], FLAGS, n_bins=0), ValueError, "`n_bins` to be a whole number of at"),
        (lambda: calibration_table([0.1, 0.2], FLAGS, bins="x"), ValueError, "one of 'mass', 'width', found 'x'."),
        (lambda: accuracy_of_surest([0.1, 0.2], FLAGS, 2), ValueError, "`coverage` to be a number between 0 and 1"),
        (lambda: confidence_scores([0.1, 0.2], FLAGS, strata=["a"]), ValueError, "confidence: 2, strata: 1."),
        (lambda: brier_of_cells(SPACE, TYPES), TypeError, "Expected `probabilities` to be a DataFrame with a column"),
        (lambda: brier_of_cells(pd.DataFrame(SPACE + 1), TYPES), ValueError, "to sum to at most 1, found 3."),
        (lambda: brier_of_cells(pd.DataFrame(SPACE - 1), TYPES), ValueError, "`probabilities` to be finite numbers"),
        (lambda: unknown_scores([0, np.inf], FLAGS), ValueError, "`foreign_score` to be finite numbers, found inf."),
        (lambda: unknown_scores([0, 1], [0, 1]), TypeError, "Expected `foreign` to be True or False for each cell"),
        (lambda: call_rates([0.1, 1], FLAGS), TypeError, "Expected `foreign_call` to be True or False for each cell"),
        (lambda: call_rates([True], FLAGS), ValueError, "found lengths foreign_call: 1, foreign: 2."),
        (lambda: unassigned_rates([0.1, 1], FLAGS, FLAGS), TypeError, "Expected `unassigned` to be True or False"),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)
