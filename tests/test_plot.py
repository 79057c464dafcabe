"""Figures: what is drawn is what was given, it can be read, and nothing else happens."""

import itertools
import warnings

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import mudata as md
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from scspecies.core import KEYS
from scspecies.plot import (
    UNLABELLED,
    joint_representation,
    label_transfer_acc,
    plot_2D_representation,
    plot_confusion,
    plot_training,
    return_palette,
)

TYPES = [
    "T/NK cell, CD8+ tissue-resident memory",
    "B cell",
    "Conventional dendritic cell / type 2",
    "Liver sinusoidal endothelial cell",
    "Hepatic stellate cell (quiescent)",
    "Monocyte-derived macrophage/Kupffer cell",
    "Plasma cell",
    "Neutrophil",
    "Mast cell",
]


@pytest.fixture(autouse=True)
def nothing_else_happens(monkeypatch, tmp_path):
    """No figure is shown, no file appears, no setting changes; all figures are closed afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda *a, **k: pytest.fail("a figure was shown"))
    before = dict(mpl.rcParams)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    with mpl.rc_context():
        yield
        assert dict(mpl.rcParams) == before
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert not list(tmp_path.iterdir())
    plt.close("all")


def species(name: str, n: int, seed: int, cell_key: str | None = "cell_type") -> ad.AnnData:
    rng = np.random.default_rng(seed)
    labels = rng.choice(TYPES, n)
    centre = np.random.default_rng(9).normal(0, 3, (len(TYPES), 5))
    z = centre[[TYPES.index(label) for label in labels]] + rng.normal(0, 0.5, (n, 5))
    adata = ad.AnnData(np.ones((n, 3), np.float32), obs=pd.DataFrame(index=[f"{name}{i}" for i in range(n)]))
    if cell_key:
        adata.obs[cell_key] = pd.Categorical(labels)
    adata.var_names = [f"{name}-gene{i}" for i in range(3)]
    adata.obsm[KEYS.z_mean] = z.astype(np.float32)
    adata.uns[KEYS.metadata] = {"name": name, "cell_key": cell_key or KEYS.unknown}
    return adata


@pytest.fixture(scope="module")
def mdata() -> md.MuData:
    return md.MuData({"mouse": species("mouse", 200, 0), "human": species("human", 150, 1, "annotation")})


@pytest.fixture(scope="module")
def joint(mdata) -> ad.AnnData:
    return joint_representation(mdata, context="mouse", target="human")


# --- palette


def see_with_two_cones(rgb: np.ndarray, missing: str) -> np.ndarray:
    """Reduce colours as Vienot, Brettel and Mollon (1999) do, another way than the one of the module.

    The cone that is missing gets the response which keeps blue and white as they are.
    """
    to_cones = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    blue, white = to_cones @ [0, 0, 1], to_cones @ [1, 1, 1]
    lost, kept = (0, 1) if missing == "long" else (1, 0)
    weights = np.linalg.solve([[blue[kept], blue[2]], [white[kept], white[2]]], [blue[lost], white[lost]])
    cones = rgb**2.2 @ to_cones.T
    cones[:, lost] = cones[:, [kept, 2]] @ weights
    return np.clip(cones @ np.linalg.inv(to_cones).T, 0, 1) ** (1 / 2.2)


@pytest.mark.parametrize(("n", "distance"), [(2, 0.5), (8, 0.1), (20, 0.07), (40, 0.03)])
@pytest.mark.parametrize("missing", ["none", "long", "medium"])
def test_colours_differ_for_every_viewer(n, distance, missing):
    rgb = np.array([to_rgb(color) for color in return_palette(map(str, range(n))).values()])
    seen = rgb if missing == "none" else see_with_two_cones(rgb, missing)
    assert len(np.unique(rgb, axis=0)) == n
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > distance


def test_colours_stand_out_from_paper_and_from_unlabelled_cells():
    for color in return_palette(map(str, range(40))).values():
        rgb = np.array(to_rgb(color))
        assert np.linalg.norm(rgb - 1) > 0.35 and np.linalg.norm(rgb - to_rgb(UNLABELLED)) > 0.15


def test_palette_depends_on_the_set_of_names_only():
    assert return_palette(TYPES) == return_palette(reversed(TYPES * 2)) == return_palette(pd.Categorical(TYPES))
    assert list(return_palette(TYPES)) == sorted(TYPES)
    assert return_palette([]) == {}


def test_own_colours_are_kept_and_not_given_twice():
    first = return_palette(["a", "b", "c"])
    given = {"c": first["a"], "z": first["b"]}
    palette = return_palette(["a", "b", "c"], given)
    assert palette["c"] == first["a"] and len(set(palette.values())) == 3
    assert given == {"c": first["a"], "z": first["b"]}
    assert return_palette(["b"], first) == {"b": first["b"]}
    with pytest.raises(ValueError, match="no colour"):
        return_palette(["a"], {"a": "no colour"})


def test_too_many_names_are_said():
    with pytest.warns(UserWarning, match="41 names are more than the 40"):
        assert len(set(return_palette(map(str, range(41))).values())) == 41
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return_palette(map(str, range(40)))


# --- joint map


def test_joint_representation_has_both_species_and_changes_nothing(mdata, joint):
    assert joint.obs_names.tolist() == [*mdata["mouse"].obs_names, *mdata["human"].obs_names]
    assert joint.obs["species"].tolist() == ["mouse"] * 200 + ["human"] * 150
    z = np.vstack([mdata["mouse"].obsm["z_mu"], mdata["human"].obsm["z_mu"]])
    assert np.array_equal(joint.obsm["z_mu"], z)
    own = [*mdata["mouse"].obs["cell_type"], *mdata["human"].obs["annotation"]]
    assert joint.obs["label"].tolist() == own
    assert joint.obs["cell_type"].isna().tolist() == [False] * 200 + [True] * 150
    assert list(mdata["mouse"].obs) == ["cell_type"] and list(mdata["human"].obs) == ["annotation"]


def test_map_keeps_neighbours_and_follows_the_seed(mdata, joint):
    again, other = (joint_representation(mdata, context="mouse", target="human", seed=seed) for seed in (0, 1))
    assert np.array_equal(joint.obsm["X_umap"], again.obsm["X_umap"])
    assert not np.array_equal(joint.obsm["X_umap"], other.obsm["X_umap"])
    xy, label = joint.obsm["X_umap"], joint.obs["label"].to_numpy(str)
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=-1) + 1e9 * np.eye(len(xy))
    assert (label[distance.argmin(axis=1)] == label).mean() > 0.95


def test_labels_may_be_unknown_and_records_missing():
    pair = md.MuData({"mouse": species("mouse", 60, 0), "human": species("human", 50, 1, None)})
    joint = joint_representation(pair, context="mouse", target="human")
    assert joint.obs["label"].isna().sum() == 50
    del pair["mouse"].uns[KEYS.metadata]
    assert joint_representation(pair, context="mouse", target="human").obs["label"].isna().all()


def test_joint_representation_says_what_is_missing(mdata):
    with pytest.raises(KeyError, match="Expected 'rat' in mdata.mod, found 'mouse', 'human'"):
        joint_representation(mdata, context="mouse", target="rat")
    with pytest.raises(KeyError, match=r"Expected 'inter' in mouse\.obsm, found 'z_mu'"):
        joint_representation(mdata, context="mouse", target="human", rep_key="inter")
    narrow = mdata.copy()
    narrow["human"].obsm["z_mu"] = narrow["human"].obsm["z_mu"][:, :3]
    with pytest.raises(ValueError, match="to be equally wide in both species, found {'mouse': 5, 'human': 3}"):
        joint_representation(narrow, context="mouse", target="human")


# --- map


def boxes(artists):
    artists = list(artists)
    artists[0].figure.figure.canvas.draw()
    # of an annotation the words alone, without the line to its place
    return [Text.get_window_extent(a) if isinstance(a, Text) else a.get_window_extent() for a in artists]


def whole(text) -> str:
    """The label without the line breaks."""
    return text.get_text().replace("-\n", "-").replace("\n", " ")


def overlaps(artists) -> int:
    return sum(
        min(a.x1, b.x1) - max(a.x0, b.x0) > 0 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0
        for a, b in itertools.combinations(boxes(artists), 2)
    )


def is_inside(box, frame, slack=1.0) -> bool:
    return (
        box.x0 >= frame.x0 - slack
        and box.x1 <= frame.x1 + slack
        and box.y0 >= frame.y0 - slack
        and box.y1 <= frame.y1 + slack
    )


def colour_of_each_cell(ax, joint):
    """Colours in the order of the cells, found by position."""
    points = ax.collections[0]
    distance = np.abs(np.asarray(points.get_offsets())[None] - joint.obsm["X_umap"][:, None]).sum(axis=-1)
    assert distance.min(axis=1).max() < 1e-4
    return [mpl.colors.to_hex(points.get_facecolors()[i]) for i in distance.argmin(axis=1)]


def test_every_cell_has_the_colour_of_its_name(joint):
    for key in ("species", "label"):
        ax = plot_2D_representation(joint, color=key)
        palette = return_palette(joint.obs[key])
        assert colour_of_each_cell(ax, joint) == [palette[name] for name in joint.obs[key]]
        assert ax.get_title() == key
        assert [text.get_text() for text in ax.get_legend().get_texts()] == list(palette)
        assert ax.figure.get_size_inches()[0] == pytest.approx(3.3)


def test_neither_species_covers_the_other(joint):
    points = plot_2D_representation(joint).collections[0]
    is_mouse = (points.get_facecolors()[:, :3] == to_rgb(return_palette(["human", "mouse"])["mouse"])).all(axis=1)
    assert is_mouse.sum() == 200
    assert abs(is_mouse[:175].mean() - is_mouse[175:].mean()) < 0.15
    again, other = (plot_2D_representation(joint, seed=seed).collections[0].get_offsets() for seed in (0, 1))
    assert np.array_equal(points.get_offsets(), again) and not np.array_equal(again, other)


def test_cells_without_label_are_grey_and_underneath(joint):
    partly = joint.copy()
    partly.obs["label"] = partly.obs["label"].where(partly.obs["species"] == "mouse")
    ax = plot_2D_representation(partly, color="label")
    grey = (ax.collections[0].get_facecolors()[:, :3] == to_rgb(UNLABELLED)).all(axis=1)
    assert grey.sum() == 150 and grey[:150].all()
    assert ax.get_legend().get_texts()[-1].get_text() == "no label"


@pytest.mark.parametrize("names", [TYPES, ["mouse", "human"], [f"cluster {i}/{i}" for i in range(38)]])
def test_legend_is_whole_and_below_the_map(joint, names):
    named = joint.copy()
    named.obs["name"] = np.resize(names, len(named))
    ax = plot_2D_representation(named, color="name")
    legend, frame = boxes([ax.get_legend(), ax])[0], ax.figure.bbox
    assert is_inside(legend, frame)
    assert legend.y1 < ax.bbox.y0 + 1
    assert overlaps(ax.get_legend().get_texts()) == 0
    assert ax.bbox.height > 0.55 * ax.figure.get_dpi() * 3.1  # the map keeps its size


def test_names_on_the_map_do_not_overlap_and_stay_inside(joint):
    ax = plot_2D_representation(joint, color="label", labels="on_data")
    assert sorted(map(whole, ax.texts)) == sorted(TYPES)
    assert overlaps(ax.texts) == 0
    assert all(is_inside(box, ax.bbox) for box in boxes(ax.texts))
    assert ax.get_legend() is None


def test_names_that_fall_on_one_point_are_separated():
    rng = np.random.default_rng(0)
    adata = ad.AnnData(obs=pd.DataFrame({"name": [f"type {i} / b" for i in range(12)]}, index=list("abcdefghijkl")))
    adata.obsm["X_umap"] = rng.normal(0, 1e-3, (12, 2))
    adata.obsm["X_umap"][0] = 1
    ax = plot_2D_representation(adata, color="name", labels="on_data")
    assert overlaps(ax.texts) == 0 and all(is_inside(box, ax.bbox) for box in boxes(ax.texts))


def test_name_stands_on_its_cells_where_there_is_room(joint):
    few = joint[joint.obs["label"].isin(["B cell", "Neutrophil"])].copy()
    ax = plot_2D_representation(few, color="label", labels="on_data")
    for text in ax.texts:
        cells = few.obsm["X_umap"][(few.obs["label"] == whole(text)).to_numpy()]
        assert np.linalg.norm(cells - text.xy, axis=1).min() < 1e-6


def test_given_axes_are_drawn_on(joint):
    fig, axes = plt.subplots(1, 2, layout="constrained")
    assert plot_2D_representation(joint, ax=axes[1], labels="none", title="both", size=3) is axes[1]
    assert not axes[0].collections and axes[1].get_title() == "both" and axes[1].get_legend() is None
    assert axes[1].collections[0].get_sizes().tolist() == [3]
    sub = fig.subfigures(1, 1).subplots()
    assert len(plot_2D_representation(joint, color="label", labels="on_data", ax=sub).texts) == len(TYPES)
    assert plt.get_fignums() == [fig.number]


def test_dots_shrink_with_the_number_of_cells(joint):
    many = ad.concat([joint] * 20, index_unique="-")
    sizes = [plot_2D_representation(adata).collections[0].get_sizes()[0] for adata in (joint, many)]
    assert sizes[1] < sizes[0] / 5


def test_map_says_what_is_wrong(joint):
    with pytest.raises(KeyError, match=r"Expected 'kind' in adata\.obs, found"):
        plot_2D_representation(joint, color="kind")
    with pytest.raises(KeyError, match=r"Expected 'X_tsne' in adata\.obsm"):
        plot_2D_representation(joint, rep_key="X_tsne")
    with pytest.raises(ValueError, match="Expected `labels` to be one of 'legend', 'on_data', 'none', found 'both'"):
        plot_2D_representation(joint, labels="both")
    numbers = joint.copy()
    numbers.obs["value"] = np.linspace(0, 1, len(numbers))
    with pytest.raises(ValueError, match="Expected at most 100 different labels in obs.'value'., found 350"):
        plot_2D_representation(numbers, color="value")


# --- transfer


def transfer(share_wrong: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """True and predicted labels of a target with 'only human', in a context with 'only mouse', and their table."""
    rng = np.random.default_rng(seed)
    known = [*TYPES, "only mouse"]
    truth = np.array([*TYPES, "only human"])[np.arange(1000) % 10]
    wrong = (rng.random(1000) < share_wrong) | (truth == "only human")
    predicted = np.where(wrong, rng.choice(known, 1000), truth)
    labels = sorted({*known, "only human"})
    table = pd.DataFrame(confusion_matrix(truth, predicted, labels=labels, normalize="true") * 100, labels, labels)
    return truth, predicted, table.loc[sorted({*truth}), sorted(known)]


def test_recalls_and_balanced_accuracies_are_those_of_sklearn():
    results = [transfer(0.4), transfer(0.05)]
    ax = label_transfer_acc(results[0][2], results[1][2])
    rows = [whole(label) for label in ax.get_yticklabels()]
    assert rows == [*sorted(TYPES), "only human"]
    for (truth, predicted, _), dots, text in zip(results, ax.collections, ax.get_legend().get_texts(), strict=True):
        for x, y in dots.get_offsets():
            assert x == pytest.approx(100 * (predicted[truth == rows[int(y)]] == rows[int(y)]).mean())
        shared = truth != "only human"
        accuracy = balanced_accuracy_score(truth[shared], np.where(predicted == "only mouse", "x", predicted)[shared])
        assert text.get_text().endswith(f": {accuracy:.3f}")
        assert len(dots.get_offsets()) == len(TYPES)
    assert len(ax.lines) == len(TYPES)
    assert [(text.get_text(), text.get_position()[1]) for text in ax.texts] == [("not in context", len(TYPES))]


@pytest.mark.parametrize("draw", [lambda table: label_transfer_acc(table, table), plot_confusion])
def test_long_labels_are_whole_and_do_not_overlap(draw):
    ax = draw(transfer(0.3)[2])
    for labels in (ax.get_yticklabels(), ax.get_xticklabels()):
        assert overlaps(labels) == 0
        assert all(is_inside(box, ax.figure.bbox) for box in boxes(labels))
    assert ax.bbox.width > 0.25 * ax.figure.bbox.width
    if ax.get_legend():
        assert is_inside(boxes([ax.get_legend()])[0], ax.figure.bbox)


def test_transfer_names_and_axes():
    table = transfer(0.2)[2]
    before = table.copy()
    fig, ax = plt.subplots()
    assert label_transfer_acc(table, table, ax=ax, names=("counts", "model")) is ax
    assert [text.get_text().split(":")[0] for text in ax.get_legend().get_texts()] == ["counts", "model"]
    assert plt.get_fignums() == [fig.number] and table.equals(before)


def test_transfer_says_what_is_wrong():
    table = transfer(0.2)[2]
    with pytest.raises(ValueError, match=r"to have the same rows, found \['Mast cell'\] in one only"):
        label_transfer_acc(table, table.drop(index="Mast cell"))
    apart = pd.DataFrame([[100.0]], ["a"], ["b"])
    with pytest.raises(ValueError, match=r"Expected `df_nns` to have labels that are both rows and columns"):
        label_transfer_acc(apart, apart)
    with pytest.raises(ValueError, match=r"found rows \['a'\] and columns \['b'\]"):
        plot_confusion(apart)


def test_confusion_has_shared_labels_on_the_diagonal():
    _, _, table = transfer(0.3)
    shuffled = table.sample(frac=1, random_state=0).sample(frac=1, axis=1, random_state=0)
    ax = plot_confusion(shuffled)
    rows, columns = ([label.get_text() for label in labels] for labels in (ax.get_yticklabels(), ax.get_xticklabels()))
    assert rows[:-1] == columns[:-1] and rows[-1] == "only human" and columns[-1] == "only mouse"
    assert np.allclose(ax.images[0].get_array(), table.loc[rows, columns])
    assert ax.images[0].get_clim() == (0, 100)
    assert len(ax.texts) == (table >= 1).to_numpy().sum()
    recall = np.mean([table.at[label, label] for label in TYPES]) / 100
    assert ax.get_title() == f"balanced accuracy {recall:.3f}"


def test_large_confusion_has_no_numbers_and_grows():
    names = [f"type {i}" for i in range(30)]
    ax = plot_confusion(pd.DataFrame(np.eye(30) * 100, names, names), title="many")
    assert not ax.texts and ax.get_title() == "many" and ax.figure.get_size_inches()[0] > 6


# --- training


@pytest.fixture
def histories() -> dict[str, pd.DataFrame]:
    epoch = np.arange(1, 21)
    context = pd.DataFrame(
        {
            "epoch": epoch,
            "loss": 500 / epoch,
            "nll": 400 / epoch,
            "kl_z": epoch / 2,
            "kl_l": 1 / epoch,
            "beta": epoch / 20,
        }
    )
    return {"mouse": context, "human": context.assign(alignment=30 / epoch, eta=10 + epoch)}


def test_training_curves_are_the_history(histories):
    figure = plot_training(histories)
    assert len(figure.axes) == 10
    for row, table in zip((figure.axes[:5], figure.axes[5:]), histories.values(), strict=True):
        for ax, terms in zip(row[:4], (["loss"], ["nll"], ["kl_z", "kl_l"], ["alignment"]), strict=True):
            drawn = {line.get_label(): line for line in ax.lines}
            assert list(drawn) == [term for term in terms if term in table]
            for term, line in drawn.items():
                assert np.array_equal(line.get_xdata(), table["epoch"]) and np.allclose(line.get_ydata(), table[term])
        for line in row[4].lines:
            term = line.get_label().split()[0]
            assert np.allclose(line.get_ydata(), table[term] / table[term].max())
            assert f"max {table[term].max():g}" in line.get_label()
    assert [ax.get_ylabel() for ax in (figure.axes[0], figure.axes[5])] == ["mouse", "human"]
    assert not figure.axes[3].axison and figure.axes[2].get_yscale() == "log"


def test_one_history_as_table_or_records(histories):
    table = histories["mouse"]
    figures = [plot_training(given) for given in (table, table.to_dict("records"))]
    assert [[ax.get_title() for ax in figure.axes] for figure in figures] == [["loss", "NLL", "KL", "weights"]] * 2
    assert np.array_equal(figures[0].axes[1].lines[0].get_ydata(), figures[1].axes[1].lines[0].get_ydata())


def test_training_in_given_axes(histories):
    figure, axes = plt.subplots(2, 5, layout="constrained")
    assert plot_training(histories, axes=axes) is figure and plt.get_fignums() == [figure.number]
    with pytest.raises(ValueError, match=r"to have the shape \(2, 5\) \(fits, panels\), found \(5,\)"):
        plot_training(histories, axes=axes[0])


def test_training_without_epochs_or_with_zeros(histories):
    with pytest.raises(KeyError, match="Expected 'epoch' in the history 'human'"):
        plot_training({"human": histories["human"].drop(columns="epoch")})
    with pytest.raises(KeyError, match="Expected 'epoch' in the history, found 'loss'"):
        plot_training(histories["mouse"][["loss"]])
    zeros = histories["mouse"].assign(beta=0.0, kl_l=0.0)
    figure = plot_training(zeros)
    assert figure.axes[2].get_yscale() == "linear"
    assert np.array_equal(figure.axes[3].lines[0].get_ydata(), np.zeros(20))
