"""Evaluation of label transfer: against loops, scikit-learn, SciPy, theory and cases made by hand; messages; figure."""

import importlib.util
import itertools
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    precision_recall_fscore_support,
)

from scspecies import evaluation
from scspecies.evaluation import (
    accuracy_of_surest,
    auroc,
    average_precision,
    bootstrap_interval,
    brier_of_cells,
    calibration_error_by_chance,
    calibration_table,
    confidence_scores,
    confusion_counts,
    coverage_curve,
    evaluate,
    expected_calibration_error,
    integration_scores,
    plot_coverage,
    plot_evaluation,
    self_classification,
    self_classification_loss,
    shared_types,
    summarise_runs,
    transfer_scores,
    unassigned_rates,
    unknown_scores,
    wilson_interval,
)

ROOT = Path(__file__).resolve().parents[1]
CONTEXT = ["a", "b", "c", "only context"]
no_scib = pytest.mark.skipif(
    importlib.util.find_spec("scib_metrics") is None,
    reason="scib-metrics is not installed: pip install 'scspecies[evaluation]'",
)


@pytest.fixture(scope="module")
def cells():
    """True and predicted labels with a rare type and a foreign one, confidence, foreignness and probabilities."""
    rng = np.random.default_rng(0)
    true = rng.permutation(np.repeat(["a", "b", "c", "new"], [300, 80, 9, 40]))
    guess = np.where(rng.random(len(true)) < 0.3, rng.choice(CONTEXT, len(true)), np.where(true == "new", "b", true))
    probabilities = pd.DataFrame(rng.dirichlet(np.ones(4), len(true)), columns=CONTEXT)
    confidence = np.clip(0.6 + 0.3 * (guess == true) + rng.normal(0, 0.2, len(true)), 0, 1)
    return true, guess, confidence, (true == "new") + rng.normal(0, 1, len(true)), probabilities


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
    table = evaluation.scores_by_type(true, guess, CONTEXT)
    precision, recall, f1, n = precision_recall_fscore_support(true, guess, labels=["a", "b", "c"])
    assert list(table.index) == ["a", "b", "c"] and (table["n"] == n).all()
    assert np.allclose(table[["precision", "recall", "f1"]], np.column_stack([precision, recall, f1]))
    for name, row in table.iterrows():
        for column, total in (("recall", (true == name).sum()), ("precision", (guess == name).sum())):
            expected = stats.binomtest(((true == name) & (guess == name)).sum(), total).proportion_ci(method="wilson")
            assert np.allclose(row[[f"{column}_low", f"{column}_high"]].astype(float), expected)


def test_a_type_that_nobody_is_called_has_no_precision():
    table = evaluation.scores_by_type(["a", "a", "b"], ["a", "a", "a"], ["a", "b"])
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


# ---------------------------------------------------------------- everything in one call


def everything(cells, **options):
    true, guess, confidence, score, probabilities = cells
    given = {"confidence": confidence, "probabilities": probabilities, "foreign_score": score, "unassigned": score > 1}
    return evaluate(true, guess, CONTEXT, **given, **{"n_boot": 30, **options})


def test_evaluate_gives_what_the_functions_give(cells):
    true, guess, confidence, score, probabilities = cells
    result, foreign, right = everything(cells), true == "new", true == guess
    expected = [
        transfer_scores(true, guess, CONTEXT, n_boot=30),
        confidence_scores(confidence, right, strata=true, n_boot=30),
        unknown_scores(score, foreign, strata=true, n_boot=30),
        unassigned_rates(score > 1, foreign, right),
    ]
    for table in expected:
        pd.testing.assert_frame_equal(result.summary.loc[table.index], table)
    assert result.summary.value["brier_multiclass"] == pytest.approx(brier_of_cells(probabilities, true).mean())
    assert len(result.summary) == sum(map(len, expected)) + 1 and result.summary.index.is_unique
    assert list(result.summary.columns) == ["value", "low", "high", "n"]
    assert result.calibration.equals(calibration_table(confidence, right))
    assert result.confusion.equals(confusion_counts(true, guess))


def test_foreign_cells_left_out_are_as_if_they_were_not_there(cells):
    known = cells[0] != "new"
    of_known = [values[known] for values in cells]
    result, alone = everything(cells, foreign="left_out"), everything(of_known)
    unknown = ["unknown_auroc", "unknown_average_precision", "foreign_unassigned", "known_unassigned", "labelled_right"]
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


# ---------------------------------------------------------------- self-classification


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_self_classification_agrees_with_a_loop(metric):
    rng = np.random.default_rng(0)
    labels = rng.choice(["x", "y", "z"], 120)
    place = rng.normal(size=(120, 5)) + (labels == "x")[:, None]
    distance = cdist(place, place, metric)
    predicted = self_classification(place, labels, k=1, metric=metric)
    np.fill_diagonal(distance, np.inf)
    assert (predicted == labels[distance.argmin(axis=1)]).all()
    predicted = self_classification(place, labels, k=7, metric=metric)
    for i, row in enumerate(distance):
        votes = labels[np.argsort(row)[:7]].tolist()
        assert votes.count(predicted[i]) == max(map(votes.count, votes))


def test_self_classification_never_asks_the_cell_itself():
    """Cells that all lie in one place, each with a label of its own: none can find it."""
    labels = np.arange(30).astype(str)
    assert not (self_classification(np.ones((30, 2)), labels, k=3) == labels).any()


def test_self_classification_loss_is_the_difference():
    rng = np.random.default_rng(0)
    labels = np.repeat(["x", "y"], [60, 40])
    before = rng.normal(size=(100, 2)) + 4 * (labels == "x")[:, None]
    after = rng.normal(size=(100, 3))
    table = self_classification_loss(before, after, labels, k=5, n_boot=50)
    for name, place in (("before", before), ("after", after)):
        predicted = self_classification(place, labels, k=5)
        assert table.value[name] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert table.value["loss"] == pytest.approx(table.value["before"] - table.value["after"])
    assert table.low["loss"] > 0.2 and table.value["before"] > 0.95
    assert (
        self_classification_loss(before, before, labels, n_boot=20).loc["loss", ["value", "low", "high"]] == 0
    ).all()


# ---------------------------------------------------------------- scib-metrics


@pytest.fixture
def two_species():
    """Three types in both species and one in the target only; the two lie on top of each other."""
    rng = np.random.default_rng(0)
    labels = [np.repeat(["x", "y", "z"], 60), np.repeat(["x", "y", "z", "new"], 60)]
    centres = {"x": 0, "y": 12, "z": 24, "new": 40}
    return [rng.normal(size=(len(part), 4)) + np.array([[centres[t]] for t in part]) for part in labels], labels


@no_scib
def test_integration_scores_see_mixing_and_separation(two_species):
    latent, labels = two_species
    mixed = integration_scores(*latent, *labels)
    assert mixed["n"].to_dict() == {
        "ilisi": 360, "kbet": 360, "silhouette_species": 360, "clisi": 420, "silhouette_label": 420
    }  # fmt: skip
    assert (mixed["value"] > 0.7).all()
    apart = integration_scores(latent[0] + [0, 100, 0, 0], latent[1], *labels)
    assert (apart.value[["ilisi", "kbet"]] == 0).all() and apart.value["silhouette_species"] < 0.1
    assert apart.value["clisi"] > 0.95
    rng = np.random.default_rng(1)
    shuffled = integration_scores(*latent, *map(rng.permutation, labels))
    assert (shuffled.value[["clisi", "silhouette_label"]] < mixed.value[["clisi", "silhouette_label"]] - 0.2).all()


@no_scib
def test_integration_scores_agree_with_scikit_learn(two_species):
    from sklearn.metrics import silhouette_score

    latent, labels = two_species
    value = integration_scores(*latent, *labels).value["silhouette_label"]
    assert value == pytest.approx((silhouette_score(np.vstack(latent), np.concatenate(labels)) + 1) / 2, abs=1e-3)


def test_missing_package_is_named_with_its_remedy(two_species, monkeypatch):
    latent, labels = two_species
    monkeypatch.setitem(sys.modules, "scib_metrics", None)
    with pytest.raises(
        ImportError, match=r"Expected the package `scib-metrics` .* pip install 'scspecies\[evaluation\]'"
    ):
        integration_scores(*latent, *labels)


def test_the_extra_is_what_the_message_says():
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    assert settings["DEFAULT"]["evaluation_requirements"].startswith("scib-metrics>=")


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
        (lambda: shared_types(["T"], ["t"]), ValueError, "such as 'T' and 't'). Name equal types alike in both."),
        (lambda: transfer_scores(["a", None], TYPES, TYPES), ValueError, "every cell, found 1 missing. Drop these"),
        (lambda: transfer_scores([], [], TYPES), ValueError, "Expected `true_labels` to be labels of shape (cells,)"),
        (lambda: transfer_scores(["a"], TYPES, TYPES), ValueError, "true_labels: 1, predicted_labels: 2."),
        (lambda: confusion_counts(["a"], TYPES), ValueError, "true_labels: 1, predicted_labels: 2."),
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
        (lambda: unassigned_rates([0.1, 1], FLAGS, FLAGS), TypeError, "Expected `unassigned` to be True or False"),
        (lambda: evaluate(TYPES, TYPES, TYPES, foreign="x"), ValueError, "'wrong', 'left_out', found 'x'."),
        (lambda: evaluate(TYPES, TYPES, TYPES, unassigned=[True]), ValueError, "true_labels: 2, unassigned: 1."),
        (lambda: evaluate(TYPES, TYPES, TYPES, n_boot=1), ValueError, "`n_boot` to be a whole number of at least 2"),
        (lambda: evaluate(TYPES, TYPES, TYPES, level=95), ValueError, "`level` to be a number between 0 and 1"),
        (lambda: summarise_runs([]), ValueError, "at least one run, found none."),
        (
            lambda: self_classification(SPACE, TYPES),
            ValueError,
            "more than `k` = 15 of them, found 2 rows and 2 labels.",
        ),
        (lambda: integration_scores(SPACE, SPACE[:, 1:], TYPES, TYPES), ValueError, "found shapes (2, 3) and (2, 2)."),
        (lambda: integration_scores(SPACE, SPACE, TYPES, ["a"]), ValueError, "target_latent: 2, target_labels: 1."),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


# ---------------------------------------------------------------- figures


def test_figure_has_what_the_tables_have(cells):
    plt = pytest.importorskip("matplotlib.pyplot")
    result = everything(cells)
    confusion, recall, reliability, coverage = plot_evaluation(result)
    rows = [label.get_text() for label in confusion.get_yticklabels()]
    assert rows == ["a (300)", "b (80)", "c (9)", "new (40)"] and len(confusion.lines) == 1
    share = 100 * (cells[1][cells[0] == "a"] == "a").mean()
    assert confusion.texts[0].get_text() == f"{share:.0f}"
    order = [label.get_text().split(" ")[0] for label in recall.get_yticklabels()]
    assert order == result.by_type.sort_values("recall").index.tolist()
    assert np.allclose(recall.lines[0].get_xdata(), np.sort(result.by_type.recall))
    dots = reliability.collections[-1].get_offsets()
    assert np.allclose(dots, result.calibration[["confidence", "right"]])
    assert f"{result.summary.value['calibration_error']:.3f}" in reliability.get_title()
    assert np.allclose(coverage.lines[0].get_ydata(), result.coverage.accuracy)
    plt.close("all")


def test_figures_draw_on_given_axes_and_nowhere_else(cells):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.close("all")
    figure, axes = plt.subplots(1, 4)
    drawn = plot_evaluation(everything(cells), axes=axes)
    assert list(drawn) == list(axes) and plt.get_fignums() == [figure.number]
    assert plot_coverage(everything(cells).coverage, ax=axes[0]) is axes[0]
    with pytest.raises(ValueError, match="Expected `axes` to be four axes, found 3"):
        plot_evaluation(everything(cells), axes=axes[:3])
    plt.close("all")


def test_figure_without_a_confidence_says_so(cells):
    plt = pytest.importorskip("matplotlib.pyplot")
    *_, reliability, coverage = plot_evaluation(evaluate(cells[0], cells[1], CONTEXT, n_boot=5))
    assert all(ax.texts[0].get_text() == "no confidence was given" for ax in (reliability, coverage))
    plt.close("all")
