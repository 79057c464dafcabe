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
import scipy.sparse as sp
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from scspecies import plot, plot_evaluation, plot_genes, plot_labels, plot_space, plot_style
from scspecies.core import KEYS
from scspecies.plot import (
    UNLABELLED,
    called_genes,
    joint_representation,
    label_transfer_acc,
    plot_2D_representation,
    plot_alluvial,
    plot_confidence,
    plot_confusion,
    plot_lfc,
    plot_lfc_comparison,
    plot_markers,
    plot_prototype_sim_heatmap,
    plot_similarity,
    plot_training,
    plot_volcano,
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


# --- one module for all


def test_every_figure_is_a_name_of_this_module():
    chapters = [plot_style, plot_space, plot_labels, plot_genes, plot_evaluation]
    drawn = {name for chapter in chapters[1:] for name in chapter.__all__}
    assert drawn <= set(plot.__all__) and len(plot.__all__) == len(set(plot.__all__))
    for name in plot.__all__:
        home = [chapter for chapter in chapters if name in chapter.__all__]
        assert len(home) == 1 and getattr(plot, name) is getattr(home[0], name), name


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


def without_own_labels(pair: md.MuData, key: str) -> md.MuData:
    """The target as it is after it was prepared without labels and got some by transfer."""
    moved = pair.copy()
    moved["human"].obs["pred_sim_cell_type"] = moved["human"].obs.pop(key)
    moved["human"].uns[KEYS.metadata] = {"cell_key": KEYS.unknown, "cell_key_transferred": "pred_sim_cell_type"}
    return moved


SAID = "'human' has no cell types of its own; its transferred labels 'pred_sim_cell_type' are used."


def test_transferred_labels_are_said_to_be_used(mdata):
    moved = without_own_labels(mdata, "annotation")
    with pytest.warns(UserWarning, match=SAID) as said:
        joint = joint_representation(moved, context="mouse", target="human")
    assert [warning.filename for warning in said if SAID in str(warning.message)] == [__file__]
    assert joint.obs["label"].tolist()[200:] == mdata["human"].obs["annotation"].tolist()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*transferred labels")
        joint_representation(mdata, context="mouse", target="human")


def test_joint_representation_says_what_is_missing(mdata):
    with pytest.raises(KeyError, match="Expected 'rat' in mdata.mod, found 'mouse', 'human'"):
        joint_representation(mdata, context="mouse", target="rat")
    with pytest.raises(KeyError, match=r"Expected 'inter' in mouse\.obsm, found 'z_mu'"):
        joint_representation(mdata, context="mouse", target="human", rep_key="inter")
    narrow = mdata.copy()
    narrow["human"].obsm["z_mu"] = narrow["human"].obsm["z_mu"][:, :3]
    with pytest.raises(ValueError, match="to be equally wide in all species, found {'mouse': 5, 'human': 3}"):
        joint_representation(narrow, context="mouse", target="human")


# --- map


def boxes(artists):
    artists = list(artists)
    artists[0].figure.figure.canvas.draw()
    # of an annotation the words alone, without the line to its place
    return [Text.get_window_extent(a) if isinstance(a, Text) else a.get_window_extent() for a in artists]


def line_ends(ax) -> np.ndarray:
    """The ends, away from the names, of the lines that tie names to their places."""
    return np.array([patch._posA_posB[1] for patch in ax.patches if isinstance(patch, mpl.patches.FancyArrowPatch)])


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
    assert all(is_inside(box, ax.bbox, slack=-2) for box in boxes(ax.texts))  # nor on a line of the axes
    assert ax.get_legend() is None


def test_names_that_fall_on_one_point_are_separated():
    rng = np.random.default_rng(0)
    adata = ad.AnnData(obs=pd.DataFrame({"name": [f"type {i} / b" for i in range(12)]}, index=list("abcdefghijkl")))
    adata.obsm["X_umap"] = rng.normal(0, 1e-3, (12, 2))
    adata.obsm["X_umap"][0] = 1
    ax = plot_2D_representation(adata, color="name", labels="on_data")
    assert overlaps(ax.texts) == 0 and all(is_inside(box, ax.bbox, slack=-2) for box in boxes(ax.texts))


def test_name_stands_on_its_cells_where_there_is_room(joint):
    few = joint[joint.obs["label"].isin(["B cell", "Neutrophil"])].copy()
    few.obsm["X_umap"] = np.random.default_rng(0).normal(0, 1, (len(few), 2))
    few.obsm["X_umap"][:, 1] += 7 * (few.obs["label"] == "B cell")
    ax = plot_2D_representation(few, color="label", labels="on_data")
    assert len(ax.texts) == 2 and not ax.patches
    for text in ax.texts:
        cells = few.obsm["X_umap"][(few.obs["label"] == whole(text)).to_numpy()]
        assert np.linalg.norm(cells - text.get_position(), axis=1).min() < 0.03  # a pixel
        assert np.linalg.norm(np.median(cells, axis=0) - text.get_position()) < 0.5


def test_a_name_that_had_to_leave_is_tied_to_its_cells(joint):
    crowded = joint.copy()
    crowded.obsm["X_umap"] = crowded.obsm["X_umap"] * 0.01
    crowded.obsm["X_umap"][0] = 10
    axes = [plot_2D_representation(crowded, color="label", labels="on_data") for _ in range(2)]
    lines = line_ends(axes[0])
    assert len(lines) >= 5
    for end in lines:
        assert np.linalg.norm(crowded.obsm["X_umap"] - end, axis=1).min() < 1e-6
    positions = [[text.get_position() for text in ax.texts] for ax in axes]
    assert positions[0] == positions[1]  # the same picture every time


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
    numbers.obs["value"] = np.arange(len(numbers))
    with pytest.raises(ValueError, match="Expected at most 100 different labels in obs.'value'., found 350"):
        plot_2D_representation(numbers, color="value")


def test_measured_values_have_a_colour_bar_and_missing_ones_are_grey(joint):
    measured = joint.copy()
    measured.obs["value"] = np.where(measured.obs["species"] == "human", np.linspace(-1, 3, len(joint)), np.nan)
    ax = plot_2D_representation(measured, color="value")
    missing, points = ax.collections[:2]
    assert len(missing.get_offsets()) == 200 and mpl.colors.to_hex(missing.get_facecolors()[0]) == UNLABELLED
    for place, value in zip(points.get_offsets(), points.get_array(), strict=True):
        cell = np.abs(measured.obsm["X_umap"] - place).sum(axis=1).argmin()
        assert measured.obs["value"].iloc[cell] == pytest.approx(value)
    assert len(ax.figure.axes) == 2 and ax.get_title() == "value" and ax.get_legend() is None


def test_a_name_does_not_hide_a_small_group(joint):
    adata = joint.copy()
    small = np.flatnonzero(adata.obs["label"] == "Neutrophil")
    adata.obsm["X_umap"][small] = adata.obsm["X_umap"].mean(axis=0) + np.array([[0, 40]])
    ax = plot_2D_representation(adata, color="label", labels="on_data")
    text = next(text for text in ax.texts if whole(text) == "Neutrophil")
    box, place = boxes([text])[0], ax.transData.transform(adata.obsm["X_umap"][small[0]])
    assert not (box.x0 < place[0] < box.x1 and box.y0 < place[1] < box.y1)
    assert overlaps(ax.texts) == 0 and all(is_inside(box, ax.bbox) for box in boxes(ax.texts))


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


def whole_number(text) -> tuple[int, int, int]:
    """Row, column and number of what is written into a square."""
    x, y = text.get_position()
    return int(y), int(x), int(text.get_text())


def contrast(first, second) -> float:
    """Contrast of two colours as the guidelines for web content define it; 4.5 is enough for small letters."""

    def luminance(color) -> float:
        rgb = np.array(to_rgb(color))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_nothing_of_a_heat_map_is_cut_off():
    names = ["alpha", "beta", "delta", "ductal", "endothelial", "gamma"]
    table = pd.DataFrame(100 * np.eye(6, 8), names, [*names, "macrophage", "quiescent_stellate"])
    for draw in (plot_confusion, plot_prototype_sim_heatmap):
        ax = draw(table)
        assert all(is_inside(box, ax.figure.bbox) for box in boxes([ax.title, ax.xaxis.label, ax.yaxis.label]))


def test_confusion_has_shared_labels_on_the_diagonal():
    _, _, table = transfer(0.3)
    shuffled = table.sample(frac=1, random_state=0).sample(frac=1, axis=1, random_state=0)
    ax = plot_confusion(shuffled)
    assert boxes([ax.figure.axes[1]])[0].x0 > boxes([ax.title])[0].x1 or boxes([ax.figure.axes[1]])[0].y1 < ax.bbox.y1
    rows, columns = ([label.get_text() for label in labels] for labels in (ax.get_yticklabels(), ax.get_xticklabels()))
    assert rows[:-1] == columns[:-1] and rows[-1] == "only human" and columns[-1] == "only mouse"
    squares = ax.collections[0]
    assert np.allclose(squares.get_array().reshape(table.shape), table.loc[rows, columns])
    assert squares.get_clim() == (0, 100)
    written = {whole_number(text): text for text in ax.texts if text.get_text()}
    assert {(rows[i], columns[j]) for i, j, _ in written} == set(table[table >= 1].stack().dropna().index)
    for (i, j, value), text in written.items():
        assert value == round(table.at[rows[i], columns[j]])
        assert contrast(text.get_color(), squares.to_rgba(table.at[rows[i], columns[j]])) > 4.5
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


# --- where labels go, and how sure they are


def bands(ax) -> list:
    return [patch for patch in ax.patches if isinstance(patch, mpl.patches.PathPatch)]


def test_bands_are_as_wide_as_their_number_of_cells():
    truth, predicted, _ = transfer(0.3)
    ax = plot_alluvial(truth, predicted)
    counts = pd.crosstab(truth, predicted).to_numpy().ravel()
    vertices = np.array([band.get_path().vertices for band in bands(ax)])
    for low, high in ((0, 7), (3, 4)):  # the ends on the left and on the right
        widths = vertices[:, high, 1] - vertices[:, low, 1]
        assert np.allclose(np.sort(widths), np.sort(counts[counts > 0]) * 0.5 / len(truth))
    drawn = [patch for patch in ax.patches if patch not in bands(ax)]
    assert len(drawn) == len({*truth}) + len({*predicted})
    palette = return_palette(truth)
    assert {mpl.colors.to_hex(band.get_facecolor()) for band in bands(ax)} == set(palette.values())


@pytest.mark.parametrize("names", [TYPES, ["T", "B"], [f"a rather long name of type {i}" for i in range(16)]])
def test_names_beside_the_bars_do_not_overlap(names):
    sizes = np.geomspace(1, 3000, len(names)).astype(int)  # the rarest have a single cell
    ax = plot_alluvial(np.repeat(names, sizes), np.repeat(names[::-1], sizes), names=("human label", "from mouse"))
    assert overlaps(ax.texts) == 0
    assert all(is_inside(box, ax.figure.bbox, slack=2) for box in boxes(ax.texts))
    assert ax.figure.get_size_inches()[0] == pytest.approx(3.3)
    assert {whole(text) for text in ax.texts} == {*names, "human label", "from mouse"}


def test_alluvial_with_missing_labels_in_given_axes():
    figure, axes = plt.subplots(1, 2, layout="constrained", figsize=(7, 3))
    assert plot_alluvial(["a", None, "b"], ["a", "a", np.nan], ax=axes[1], palette={"a": "black"}) is axes[1]
    assert sorted(text.get_text() for text in axes[1].texts if "label" in text.get_text())[:2] == ["no label"] * 2
    assert {mpl.colors.to_hex(band.get_facecolor()) for band in bands(axes[1])} >= {"#000000", UNLABELLED}
    assert plt.get_fignums() == [figure.number] and not axes[0].patches
    with pytest.raises(ValueError, match="to be of the same cells, at least one, found 0 and 0"):
        plot_alluvial([], [])


@pytest.fixture
def confident() -> ad.AnnData:
    rng = np.random.default_rng(3)
    rank = rng.random(400)
    obs = pd.DataFrame(
        {"top_percent_kind": rank, "pred_sim_kind_share": np.clip(1 - rank + rng.normal(0, 0.1, 400), 0, 1)}
    )
    obs["pred_nns_kind"] = pd.Categorical(np.where(rng.random(400) < rank, "a", "b"))
    obs["pred_sim_kind"] = pd.Categorical(np.full(400, "b"), categories=["b", "c"])
    return ad.AnnData(obs=obs.set_index(obs.index.astype(str)))


def test_confidence_of_both_levels(confident):
    before = confident.obs.copy()
    ax = plot_confidence(confident, "kind", n_bins=8)
    share, same = ax.lines
    order = np.argsort(confident.obs["top_percent_kind"].to_numpy()).reshape(8, 50)
    assert np.allclose(share.get_ydata(), confident.obs["pred_sim_kind_share"].to_numpy()[order].mean(axis=1))
    assert np.allclose(same.get_ydata(), (confident.obs["pred_nns_kind"] == "b").to_numpy()[order].mean(axis=1))
    assert np.allclose(share.get_xdata(), confident.obs["top_percent_kind"].to_numpy()[order].mean(axis=1))
    expected = spearmanr(1 - before["top_percent_kind"], before["pred_sim_kind_share"]).statistic
    assert ax.get_title() == f"Spearman correlation {expected:.2f}"
    assert before.equals(confident.obs)
    assert is_inside(boxes([ax.get_legend()])[0], ax.figure.bbox)
    assert boxes([ax.get_legend()])[0].y1 < boxes([ax.xaxis.label])[0].y0 + 1


def test_confidence_says_what_is_missing(confident):
    with pytest.raises(KeyError, match=r"Expected 'pred_nns_type' in adata\.obs, found"):
        plot_confidence(confident, "type")
    with pytest.raises(ValueError, match="Expected `n_bins` to be a whole number of at least 2"):
        plot_confidence(confident, "kind", n_bins=1)


# --- similarity


def test_each_row_of_the_similarity_goes_from_worst_to_best():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(-rng.uniform(100, 900, (4, 5)), ["b", "a", "c", "own"], ["a", "x", "c", "b", "y"])
    table.loc["b", "x"] = np.nan
    for kind in "abc":
        table.loc[kind, kind] = -50
    table.loc["c", "y"] = -10
    before = table.copy()
    ax = plot_prototype_sim_heatmap(table)
    rows, columns = ([label.get_text() for label in labels] for labels in (ax.get_yticklabels(), ax.get_xticklabels()))
    assert rows == ["b", "a", "c", "own"] and columns == ["b", "a", "c", "x", "y"]
    drawn = pd.DataFrame(np.ma.filled(ax.collections[0].get_array(), np.nan).reshape(4, 5), rows, columns)
    for kind, row in table.iterrows():
        expected = (row - row.min()) / (row.max() - row.min())
        assert np.allclose(drawn.loc[kind, expected.index], expected, equal_nan=True)
    dots = {rows[int(y)]: columns[int(x)] for x, y in ax.collections[1].get_offsets()}
    assert dots == table.idxmax(axis=1).to_dict()
    assert ax.get_title() == "own type most similar: 2 of 3"
    assert table.equals(before)


def test_similarity_of_types_that_cannot_be_compared():
    table = pd.DataFrame(np.nan, ["a", "b"], ["c", "d"])
    table.loc["a"] = 1.0  # all the same
    ax = plot_prototype_sim_heatmap(table)
    assert len(ax.collections[1].get_offsets()) == 1 and ax.get_title() == ""
    with pytest.raises(ValueError, match="Expected `df` to have rows and columns"):
        plot_prototype_sim_heatmap(table.iloc[:0])


def test_scores_of_one_cell_by_label():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"kind": rng.choice(TYPES, 500), "sex": rng.choice(["f", "m"], 500)})
    table["similarity"] = rng.gamma(3, 20, 500)
    ax = plot_similarity(table)
    best = table.groupby("kind")["similarity"].min().sort_values()
    assert [whole(label) for label in ax.get_yticklabels()] == best.index.tolist()
    assert np.allclose(ax.collections[2].get_offsets()[:, 0], best)
    assert overlaps(ax.get_yticklabels()) == 0
    assert all(is_inside(box, ax.figure.bbox) for box in boxes(ax.get_yticklabels()))
    assert len(plot_similarity(table, n_labels=3).get_yticklabels()) == 3
    assert len(plot_similarity(table, key="sex", title="cell 1").get_yticklabels()) == 2
    with pytest.raises(KeyError, match="Expected 'similarity' in the table"):
        plot_similarity(table[["kind"]])


# --- fold changes


def fold_changes(seed: int = 0, n: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    lfc = rng.normal(0, 1.5, n)
    columns = {"rho_median_context": 1e-4, "mu_median_context": rng.gamma(1, 1, n), "rho_median_target": 1e-4}
    columns |= {"mu_median_target": rng.gamma(1, 1, n), "lfc": lfc, "p": np.clip(np.abs(lfc) - 0.3, 0, 1)}
    return pd.DataFrame(columns, index=[f"Gene-{i}" for i in range(n)])


def test_a_call_needs_size_probability_and_counts():
    table = fold_changes()
    called = called_genes(table, lfc_delta=1.5, min_p=0.5, min_count=1)
    for gene, row in table.iterrows():
        enough = max(row["mu_median_context"], row["mu_median_target"]) >= 1
        expected = np.sign(row["lfc"]) if abs(row["lfc"]) >= 1.5 and row["p"] >= 0.5 and enough else 0
        assert called[gene] == expected
    with pytest.raises(KeyError, match="Expected 'mu_median_context' in the table of fold changes"):
        called_genes(table[["lfc", "p"]], min_count=1)


def crossed(texts, poles) -> int:
    """Number of pairs of a name and the pole of another name that touch."""
    found = 0
    for i, box in enumerate(boxes(texts) if texts else []):
        for j, pole in enumerate(poles):
            (x, low), (_, high) = texts[i].axes.transData.transform(pole)
            found += i != j and box.x0 < x < box.x1 and low < box.y1 and high > box.y0
    return found


def test_flags_hang_above_what_they_would_touch():
    """On all genes that are asked for, close together and far apart, on one side and on both."""
    rng = np.random.default_rng(4)
    for lfc in (rng.normal(0, 3, 15), 5 + rng.random(12) / 10, np.linspace(-9, -1, 9), np.array([0.0, 0.0, 1e-9])):
        names = [f"GENE{'X' * (i % 5)}{i}" for i in range(len(lfc))]
        ax = plot_volcano(pd.DataFrame({"lfc": lfc, "p": rng.random(len(lfc))}, names), genes=names)
        assert overlaps(ax.texts) == 0 and crossed(ax.texts, ax.collections[-1].get_segments()) == 0
        assert all(is_inside(box, ax.bbox) for box in boxes(ax.texts))


@pytest.mark.parametrize("n_labels", [0, 1, 10, 20])
def test_volcano_names_the_largest_calls_without_overlap(n_labels):
    table = fold_changes()[["lfc", "p"]]
    ax = plot_volcano(table, n_labels=n_labels, title="B cell")
    called = called_genes(table)
    assert [len(dots.get_offsets()) for dots in ax.collections[:3]] == [(called == sign).sum() for sign in (0, -1, 1)]
    assert len(ax.texts) == n_labels
    assert not ax.texts or (overlaps(ax.texts) == 0 and all(is_inside(box, ax.bbox) for box in boxes(ax.texts)))
    poles = ax.collections[-1].get_segments() if n_labels else []
    assert len(poles) == n_labels
    for text, (dot, top) in zip(ax.texts, poles, strict=True):
        assert dot == pytest.approx(table.loc[text.get_text(), ["lfc", "p"]].to_numpy(float))
        assert top == pytest.approx(text.get_position()) and top[0] == dot[0]
    assert crossed(ax.texts, poles) == 0
    for sign in (-1, 1):
        largest = table["lfc"].abs()[called == sign].nlargest(n_labels // 2).index
        assert set(largest) <= {text.get_text() for text in ax.texts}
    assert ax.get_title() == "B cell" and ax.figure.get_size_inches()[0] == pytest.approx(3.3)
    assert is_inside(boxes([ax.get_legend()])[0], ax.figure.bbox, slack=2)
    assert ax.bbox.width > 0.6 * ax.figure.bbox.width


def test_a_column_of_calls_decides_instead_of_the_thresholds():
    table = fold_changes().assign(significant=np.arange(300) % 10 == 0)
    called = called_genes(table, call="significant")
    assert (called == np.sign(table["lfc"]) * table["significant"]).all()
    ax = plot_volcano(table, call="significant", n_labels=4)
    assert [len(dots.get_offsets()) for dots in ax.collections[:3]] == [(called == sign).sum() for sign in (0, -1, 1)]
    assert all(table.at[text.get_text(), "significant"] for text in ax.texts) and overlaps(ax.texts) == 0
    genes = [label.get_text() for label in plot_lfc({"B": table}, call="significant", n_genes=5).get_yticklabels()]
    assert table.loc[genes, "significant"].all()


def test_volcano_names_do_not_cover_the_dots_above_the_threshold():
    table = fold_changes()
    ax = plot_volcano(table)
    top = ax.transData.transform((0, 1))[1]
    assert all(box.y0 > top for box in boxes(ax.texts))


def test_volcano_of_chosen_genes_and_of_none():
    table = fold_changes()
    ax = plot_volcano(table, genes=["Gene-3", "Gene-250"])
    assert sorted(text.get_text() for text in ax.texts) == ["Gene-250", "Gene-3"]
    figure, ax = plt.subplots()
    assert plot_volcano(table.assign(p=0.0), ax=ax) is ax and not ax.texts and plt.get_fignums()[-1] == figure.number
    with pytest.raises(KeyError, match="Expected 'Gene-x' in the index of the table of fold changes"):
        plot_volcano(table, genes=["Gene-x"])
    with pytest.raises(KeyError, match="Expected 'p' in the table of fold changes"):
        plot_volcano(table[["lfc"]])


def test_fold_changes_of_all_types():
    tables = {kind: fold_changes(seed) for seed, kind in enumerate(TYPES)}
    tables[TYPES[0]] = tables[TYPES[0]].iloc[:200]  # a gene may be missing
    ax = plot_lfc({**tables, "lfc_delta": 1}, n_genes=15)
    genes, kinds = ([label.get_text() for label in labels] for labels in (ax.get_yticklabels(), ax.get_xticklabels()))
    assert len(genes) == 15 and kinds == TYPES
    dots = ax.collections[0]
    assert len(dots.get_offsets()) == sum(gene in table.index for gene in genes for table in tables.values()) < 15 * 9
    for (x, y), value, area in zip(dots.get_offsets(), dots.get_array(), dots.get_sizes(), strict=True):
        gene = tables[kinds[int(x)]].loc[genes[int(y)]]
        assert value == pytest.approx(gene["lfc"]) and area == pytest.approx(34 * gene["p"] ** 2)
    every = pd.concat([table[called_genes(table) != 0] for table in tables.values()])["lfc"].abs()
    assert set(genes) == set(every.groupby(level=0).max().nlargest(15).index)
    assert dots.get_clim()[0] == -dots.get_clim()[1]
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert overlaps(labels) == 0 and all(is_inside(box, ax.figure.bbox) for box in boxes(labels))


def test_fold_changes_of_chosen_genes():
    table = fold_changes()
    ax = plot_lfc({"B": table, "T": table}, genes=["Gene-7", "Gene-1"])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Gene-7", "Gene-1"]
    with pytest.raises(ValueError, match="Expected tables of fold changes by cell type, found 'lfc_delta'"):
        plot_lfc({"lfc_delta": 1})
    with pytest.raises(ValueError, match="Expected a gene that is called in a cell type, found none"):
        plot_lfc({"B": table}, lfc_delta=50)
    with pytest.raises(KeyError, match="Expected 'none' in the index of a table of fold changes"):
        plot_lfc({"B": table}, genes=["none"])


def test_two_estimates_of_fold_changes():
    first, rng = fold_changes(), np.random.default_rng(1)
    second = (first["lfc"] + rng.normal(0, 1, 300)).iloc[::-1].iloc[:250]
    ax = plot_lfc_comparison(first, second, names=("model", "sums"), n_labels=6)
    x, y = first["lfc"].loc[second.index], second
    same = (x * y > 0).mean()
    assert ax.get_title() == f"250 genes: r = {pearsonr(x, y).statistic:.2f}, same direction {100 * same:.0f} %"
    points = ax.collections[0]
    assert {tuple(point) for point in points.get_offsets().round(6)} == set(zip(x.round(6), y.round(6), strict=True))
    orange = (points.get_facecolors()[:, :3] == to_rgb("#e69f00")).all(axis=1)
    assert orange.mean() == pytest.approx(1 - same)
    largest = (x - y).abs().nlargest(6).index
    assert {text.get_text() for text in ax.texts} == set(largest) and overlaps(ax.texts) == 0
    dots = np.column_stack([x, y])[x.index.isin(largest)]
    for end in line_ends(ax):
        assert np.linalg.norm(dots - end, axis=1).min() < 1e-9
    assert ax.get_xlim() == ax.get_ylim() and ax.get_xlabel().endswith("model") and ax.get_ylabel().endswith("sums")


def test_comparison_says_what_is_wrong():
    table = fold_changes()
    with pytest.raises(ValueError, match="to share at least three genes, found 2"):
        plot_lfc_comparison(table, table["lfc"].iloc[:2])
    with pytest.raises(ValueError, match="Expected each gene once in `second`, found 'Gene-0' twice"):
        plot_lfc_comparison(table, pd.concat([table, table]))
    with pytest.raises(KeyError, match="Expected 'lfc' in `first`"):
        plot_lfc_comparison(table[["p"]], table)


# --- markers


@pytest.fixture
def counted() -> md.MuData:
    """Two species of which the first gene marks the first type, in other columns and under other names."""
    parts = {}
    for name, n, types, columns in (("mouse", 90, "abc", [0, 1, 2, 3]), ("human", 60, "abd", [3, 2, 1, 0])):
        rng = np.random.default_rng(n)
        label = np.resize(list(types), n)
        counts = rng.poisson(1, (n, 4)) + 9 * (label[:, None] == np.array(["a", "b", "none", "none"])[None])
        parts[name] = ad.AnnData(sp.csr_matrix(counts[:, columns], dtype=np.float32))
        parts[name].obs["kind"] = pd.Categorical(label)
        parts[name].var_names = [f"{name}-g{i}" for i in columns]
        parts[name].obs_names = [f"{name}{i}" for i in range(n)]
        parts[name].uns[KEYS.metadata] = {"name": name, "cell_key": "kind"}
    parts["human"].var[KEYS.translated] = [f"mouse-g{i}" for i in [3, 2, 1, 0]]
    return md.MuData(parts)


def test_markers_of_both_species(counted):
    genes = ["mouse-g1", "mouse-g0", "mouse-g3"]
    ax = plot_markers(counted, genes, context="mouse", target="human")
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert rows == ["a", "b", "c", "d"] and [label.get_text() for label in ax.get_xticklabels()] == genes
    columns = {"mouse": [1, 0, 3], "human": [2, 3, 0]}
    for dots, (name, of_species), above in zip(ax.collections, columns.items(), (True, False), strict=False):
        counts = counted[name].X.toarray()
        level = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
        kinds = counted[name].obs["kind"].to_numpy(str)
        for (x, y), area, value in zip(dots.get_offsets(), dots.get_sizes(), dots.get_array(), strict=True):
            column, kind = of_species[int(x)], rows[round(y)]
            assert (y < round(y)) == above  # the axis points down
            assert area == pytest.approx(40 * (counts[kinds == kind, column] > 0).mean())
            means = {each: level[kinds == each, column].mean() for each in set(kinds)}
            assert value == pytest.approx(means[kind] / max(means.values()), rel=1e-4)
    assert is_inside(boxes([ax.get_legend()])[0], ax.figure.bbox, slack=2)


def test_markers_say_that_labels_were_transferred(counted):
    def in_legend(ax) -> list[str]:
        assert is_inside(boxes([ax.get_legend()])[0], ax.figure.bbox, slack=2)
        return [text.get_text() for text in ax.get_legend().get_texts()][:2]

    options = {"context": "mouse", "target": "human"}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*transferred labels")
        assert in_legend(plot_markers(counted, ["mouse-g0"], **options)) == ["mouse", "human"]
    moved = without_own_labels(counted, "kind")
    with pytest.warns(UserWarning, match=SAID) as said:
        ax = plot_markers(moved, ["mouse-g0"], **options)
    assert [warning.filename for warning in said if SAID in str(warning.message)] == [__file__]
    assert in_legend(ax) == ["mouse", "human (transferred labels)"]
    with warnings.catch_warnings():  # asked for by name: no warning, but the figure says so
        warnings.filterwarnings("error", message=".*transferred labels")
        ax = plot_markers(moved, ["mouse-g0"], **options, target_cell_key="pred_sim_cell_type")
    assert in_legend(ax) == ["mouse", "human (transferred labels)"]


def test_markers_of_transferred_labels_and_dense_counts(counted):
    counted["human"].obs["moved"] = pd.Series("a", counted["human"].obs_names).mask(np.arange(60) < 20)
    counted["human"].X = counted["human"].X.toarray()
    ax = plot_markers(counted, ["mouse-g0"], context="mouse", target="human", target_cell_key="moved")
    assert len(ax.collections[1].get_offsets()) == 1


def test_markers_say_what_is_missing(counted):
    with pytest.raises(KeyError, match="Expected 'mouse-g9' in the genes of mouse, found no such gene among 4"):
        plot_markers(counted, ["mouse-g9"], context="mouse", target="human")
    with pytest.raises(KeyError, match=r"Expected 'rat' in mdata\.mod"):
        plot_markers(counted, ["mouse-g0"], context="mouse", target="rat")
    with pytest.raises(ValueError, match="Expected at least one gene in `genes`"):
        plot_markers(counted, [], context="mouse", target="human")
    del counted["human"].uns[KEYS.metadata]
    with pytest.raises(ValueError, match="Expected labels for human, found none"):
        plot_markers(counted, ["mouse-g0"], context="mouse", target="human")
