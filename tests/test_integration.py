"""The joint space judged: against loops and scikit-learn, on species that mix and that do not; messages."""

import importlib.util
import sys
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import balanced_accuracy_score

from scspecies.integration import integration_scores, self_classification, self_classification_loss

ROOT = Path(__file__).resolve().parents[1]
no_scib = pytest.mark.skipif(
    importlib.util.find_spec("scib_metrics") is None,
    reason="scib-metrics is not installed: pip install 'scspecies[evaluation]'",
)


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
    table.index = table.index.str.removeprefix("self_classification_")
    for name, place in (("before", before), ("after", after)):
        predicted = self_classification(place, labels, k=5)
        assert table.value[name] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert table.value["loss"] == pytest.approx(table.value["before"] - table.value["after"])
    assert table.low["loss"] > 0.2 and table.value["before"] > 0.95
    nothing = self_classification_loss(before, before, labels, n_boot=20).loc["self_classification_loss"]
    assert (nothing[["value", "low", "high"]] == 0).all()


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
    assert (mixed["value"] > 0.7).all() and list(mixed.columns) == ["value", "low", "high", "n"]
    assert mixed[["low", "high"]].isna().all(axis=None)
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


# ---------------------------------------------------------------- messages

FLAGS = np.array([True, False])
TYPES = ["a", "b"]
SPACE = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
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
