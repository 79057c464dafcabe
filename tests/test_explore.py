"""Interactive views: what the controls do, without a browser, and what stays when there is no kernel."""

import builtins

import anndata as ad
import IPython.display
import matplotlib.pyplot as plt
import mudata as md
import numpy as np
import pandas as pd
import pytest

from scspecies.core import KEYS
from scspecies.explore import browse_lfc, explore_space, shown_genes, similar_cells
from scspecies.lfc import LogFoldChanges
from scspecies.plot import called_genes

N = {"mouse": 60, "human": 40}
# names are numbers in an order of their own: none of the human's is its row number
NAMES = {"mouse": [str(40 + (7 * i + 3) % 60) for i in range(60)], "human": [str((3 * i + 1) % 40) for i in range(40)]}
DELTA = 2.5


def test_no_name_is_its_own_row_number():
    assert all(len(set(names)) == N[key] for key, names in NAMES.items())
    assert sum(name == str(i) for i, name in enumerate(NAMES["human"])) == 0


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch, tmp_path):
    """No file appears unless asked for, and no figure is left in the list of open figures."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not plt.get_fignums()


@pytest.fixture
def mdata() -> md.MuData:
    rng = np.random.default_rng(0)
    parts = {}
    for name, n in N.items():
        adata = ad.AnnData(np.ones((n, 2), np.float32))
        adata.obs_names = NAMES[name]
        adata.var_names = [f"{name}-a", f"{name}-b"]
        adata.obs["kind"] = pd.Categorical(np.resize(["B", "T", "NK"], n))
        adata.obs["depth"] = rng.random(n)
        adata.obs["code"] = np.arange(n)
        adata.uns[KEYS.metadata] = {"name": name, "cell_key": "kind"}
        parts[name] = adata
    parts["human"].obsm[KEYS.similar_cells] = np.array([rng.permutation(60)[:30] for _ in range(40)])
    parts["human"].obsm[KEYS.similarities] = rng.normal(300, 20, (40, 30))
    return md.MuData(parts)


@pytest.fixture
def joint(mdata) -> ad.AnnData:
    rng = np.random.default_rng(1)
    adata = ad.AnnData(obs=pd.concat([mdata[name].obs.assign(species=name) for name in N]))
    adata.obs["label"] = adata.obs["kind"].astype(str)
    adata.obsm["X_umap"] = rng.normal(size=(100, 2))
    return adata


def explorer(mdata, joint, **options):
    return explore_space(mdata, joint, context="mouse", target="human", **options)


def tables() -> LogFoldChanges:
    """Tables with all columns that the model gives, at a threshold that is no default anywhere."""
    rng = np.random.default_rng(2)
    made = {}
    for kind in ("B", "T"):
        lfc = rng.normal(0, 3, 80)
        of_type = lfc + rng.normal(0, 1, 80)
        p, p_type = (1 / (1 + np.exp(3 * (DELTA - np.abs(values)))) for values in (lfc, of_type))
        columns = {
            f"{what}_median_{side}": rng.gamma(1, 1, 80) for side in ("context", "target") for what in ("rho", "mu")
        }
        columns |= {"lfc": lfc, "p": p, "lfc_rand": rng.normal(0, 1, 80), "p_rand": rng.random(80)}
        columns |= {"gene_context": [f"Partner{i:02d}" for i in range(80)], "lfc_type": of_type}
        columns |= {"lfc_low": of_type - 1, "lfc_high": of_type + 1, "p_type": p_type}
        made[kind] = pd.DataFrame(columns, [f"GENE{i:02d}" for i in range(80)])
        surest = made[kind]["p_type"].sort_values(ascending=False)
        made[kind]["fdr"] = (1 - surest).cumsum() / np.arange(1, 81)
        made[kind]["called"] = made[kind]["fdr"] <= 0.05
    return LogFoldChanges(made, DELTA)


# --- the table of one cell


def test_similar_cells_are_those_with_the_lowest_scores(mdata):
    table = similar_cells(mdata, NAMES["human"][7], context="mouse", target="human", obs_keys=["kind", "depth"], top=8)
    score, index = mdata["human"].obsm[KEYS.similarities][7], mdata["human"].obsm[KEYS.similar_cells][7]
    expected = sorted(zip(score, index, strict=True))[:8]
    assert list(zip(table["similarity"], table["context_ind"], strict=True)) == expected
    assert table.index.tolist() == [NAMES["mouse"][i] for _, i in expected]
    assert (table["kind"] == mdata["mouse"].obs["kind"].iloc[table["context_ind"]]).all()
    assert list(table) == ["kind", "depth", "context_ind", "similarity"]
    assert table.equals(similar_cells(mdata, 7, context="mouse", target="human", obs_keys=["kind", "depth"], top=8))


def test_text_is_a_name_first_and_a_row_number_only_without_such_a_name(mdata):
    def scores(cell) -> list[float]:
        return similar_cells(mdata, cell, context="mouse", target="human", top=3)["similarity"].tolist()

    assert scores("7") == scores(NAMES["human"].index("7")) != scores(7)
    mdata["human"].obs_names = [f"cell {i}" for i in reversed(range(40))]
    assert scores("7") == scores(7) != scores("cell 7")


def test_similar_cells_say_what_is_missing(mdata):
    for cell in (40, -1, "mouse-1"):
        with pytest.raises(KeyError, match="Expected the name or row number of one of the 40 cells of human, found"):
            similar_cells(mdata, cell, context="mouse", target="human")
    with pytest.raises(KeyError, match=r"Expected 'sex' in mouse\.obs"):
        similar_cells(mdata, 0, context="mouse", target="human", obs_keys=["sex"])
    with pytest.raises(KeyError, match=r"Expected 'rat' in mdata\.mod"):
        similar_cells(mdata, 0, context="rat", target="human")
    del mdata["human"].obsm[KEYS.similarities]
    with pytest.raises(KeyError, match="Call `transfer_labels_data` with `write_sim=True`"):
        similar_cells(mdata, 0, context="mouse", target="human")


# --- the explorer


def stars(view) -> np.ndarray:
    return view.figure.axes[0].collections[-1].get_offsets()


def rings(view) -> np.ndarray:
    return view.figure.axes[0].collections[-2].get_offsets()


def test_the_chosen_cell_has_a_star_and_its_similar_cells_have_rings(mdata, joint):
    view = explorer(mdata, joint, cell=3)
    assert np.allclose(stars(view), joint.obsm["X_umap"][60 + 3])
    assert np.allclose(rings(view), joint.obsm["X_umap"][view.table["context_ind"]])
    assert view.controls["cell"].value == NAMES["human"][3] == "10"  # the control shows the name
    view.controls["cell"].value = NAMES["human"][9]
    view.controls["top"].value = 4
    assert np.allclose(stars(view), joint.obsm["X_umap"][60 + 9]) and len(rings(view)) == len(view.table) == 4
    assert view.figure.axes[1].get_title() == f"human cell {NAMES['human'][9]}"


def test_a_number_is_a_row_also_where_names_are_numbers(mdata, joint):
    for cell in (3, np.int64(3), NAMES["human"][3]):
        assert np.allclose(stars(explorer(mdata, joint, cell=cell)), joint.obsm["X_umap"][60 + 3])
    assert np.allclose(stars(explorer(mdata, joint, cell="3")), joint.obsm["X_umap"][60 + NAMES["human"].index("3")])


def click(figure, row: int, event: str = "plotly_click") -> None:
    """Do what the browser does when a dot is clicked: set the message that the widget synchronises."""
    points = {"trace_indexes": [0], "point_indexes": [row], "xs": [0.0], "ys": [0.0]}
    figure._js2py_pointsCallback = {"event_type": event, "points": points}


def test_a_click_chooses_the_cell(mdata, joint):
    pytest.importorskip("plotly", reason="the extra 'click' is not installed")
    view = explorer(mdata, joint, cell=3, click=True)
    (figure,) = view.extra
    assert figure in view.widget.children
    dots = figure.data[0]
    assert np.allclose(np.column_stack([dots.x, dots.y]), joint.obsm["X_umap"][60:])
    assert list(dots.text) == [
        f"{name}: {kind}" for name, kind in zip(NAMES["human"], joint.obs["label"][60:], strict=True)
    ]
    for row in (17, 0, 39):
        click(figure, row)
        assert view.controls["cell"].value == NAMES["human"][row] and not view.message
        assert np.allclose(stars(view), joint.obsm["X_umap"][60 + row])
    click(figure, 5, "plotly_hover")
    assert view.controls["cell"].value == NAMES["human"][39]


def test_without_the_extra_a_click_is_refused_and_nothing_else(mdata, joint, monkeypatch):
    real = builtins.__import__

    def without_plotly(name, *args, **options):
        if name.split(".")[0] == "plotly":
            raise ModuleNotFoundError(f"No module named {name!r}", name="plotly")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_plotly)
    assert not explorer(mdata, joint).extra
    with pytest.raises(
        ImportError, match=r"`click=True`, found no plotly. Install .* `pip install \"scspecies\[click\]\"`"
    ):
        explorer(mdata, joint, click=True)


def test_colours_of_both_species(mdata, joint):
    before = joint.obs.copy()
    view = explorer(mdata, joint)
    options = view.controls["colour"].options
    assert {"species", "label", "mouse: kind", "human: depth"} <= set(options)
    for colour in options:
        view.controls["colour"].value = colour
        assert view.figure.axes[0].get_title() == colour and not view.message
    view.controls["colour"].value = "human: depth"
    missing, points = view.figure.axes[0].collections[:2]
    assert len(missing.get_offsets()) == 60 and np.allclose(
        np.sort(points.get_array()), np.sort(mdata["human"].obs["depth"])
    )
    view.controls["colour"].value = "mouse: kind"
    assert [text.get_text() for text in view.figure.axes[0].get_legend().get_texts()] == ["B", "NK", "T", "no label"]
    assert joint.obs.equals(before)


def test_a_column_of_too_many_names_or_of_none_is_not_offered(mdata, joint):
    mdata["mouse"].obs["nothing"] = pd.Series(None, mdata["mouse"].obs_names, dtype=object)
    options = explorer(mdata, joint).controls["colour"].options
    assert "mouse: code" not in options and "mouse: nothing" not in options  # 60 names, and none


def test_a_wrong_cell_is_a_message_and_what_was_shown_stays(mdata, joint):
    view = explorer(mdata, joint)
    figure, table = view.figure, view.table
    view.controls["cell"].value = "<b>nobody</b>"
    assert view.message == "Expected the name or row number of one of the 40 cells of human, found '<b>nobody</b>'."
    assert "&lt;b&gt;" in view.widget.children[-1].value
    assert view.figure is figure and view.table is table
    view.controls["cell"].value = "5"
    assert not view.message and view.figure is not figure


def test_explorer_says_what_is_wrong_at_once(mdata, joint):
    with pytest.raises(ValueError, match="Expected `joint` to be the map of the 100 cells of .*found 99 cells"):
        explorer(mdata, joint[:99])
    with pytest.raises(KeyError, match="Expected the name or row number"):
        explorer(mdata, joint, cell=99)
    with pytest.raises(KeyError, match=r"Expected 'sex' in mouse\.obs"):
        explorer(mdata, joint, label_key="sex")
    with pytest.raises(KeyError, match=r"Expected 'rat' in mdata\.mod"):
        explore_space(mdata, joint, context="mouse", target="rat")


# --- the browser


def test_shown_genes_are_the_called_ones_or_those_searched_for():
    table = tables()["B"]
    shown = shown_genes(table, lfc_delta=1.5, min_p=0.8, min_count=0.5)
    assert set(shown.index) == set(table.index[called_genes(table, lfc_delta=1.5, min_p=0.8, min_count=0.5) != 0])
    assert shown["lfc"].abs().is_monotonic_decreasing
    assert set(shown_genes(table, lfc_delta=9, min_p=1, search="gene0").index) == {f"GENE0{i}" for i in range(10)}
    assert shown_genes(table, lfc_delta=9, min_p=1, search=" PARTNER33 ").index.tolist() == ["GENE33"]
    assert shown_genes(table[["lfc", "p"]], lfc_delta=9, min_p=1, search="partner").empty
    assert shown_genes(table, lfc_delta=9, min_p=1, search="(").empty  # no pattern, just letters


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_a_rate_of_false_calls_decides_instead(rate):
    table = tables()["B"]
    before = table.copy()
    shown = shown_genes(table, lfc_delta=9, min_p=1, fdr=rate)
    assert set(shown.index) == set(table.index[table["fdr"] <= rate]) and shown["called"].all()
    assert (1 - shown["p_type"]).mean() <= rate  # what the rate promises
    assert shown["lfc_type"].abs().is_monotonic_decreasing
    counted = shown_genes(table, lfc_delta=9, min_p=1, fdr=rate, min_count=1)
    enough = table[["mu_median_context", "mu_median_target"]].max(axis=1) >= 1
    assert set(counted.index) == set(table.index[(table["fdr"] <= rate) & enough])
    assert table.equals(before)
    with pytest.raises(KeyError, match="Expected 'fdr' in the table of fold changes"):
        shown_genes(table.drop(columns="fdr"), lfc_delta=1, min_p=0, fdr=rate)


def test_browser_calls_by_the_rate_of_false_calls():
    given = tables()
    view = browse_lfc(given)
    by_thresholds = view.table
    view.controls["call"].value = "fdr"
    assert set(view.table.index) == set(given["B"].index[given["B"]["called"]]) != set(by_thresholds.index)
    ax = view.figure.axes[0]
    drawn = np.vstack([dots.get_offsets() for dots in ax.collections[1:3]])
    assert {tuple(dot) for dot in drawn} == {tuple(dot) for dot in view.table[["lfc_type", "p_type"]].to_numpy()}
    view.controls["fdr"].value = 0.2
    assert view.table.equals(shown_genes(given["B"], lfc_delta=DELTA, min_p=0.9, fdr=0.2))
    view.controls["lfc_delta"].value = 7  # is no threshold now, and no line of the figure
    assert view.table.equals(shown_genes(given["B"], lfc_delta=DELTA, min_p=0.9, fdr=0.2))
    lines = [dots.get_segments() for dots in view.figure.axes[0].collections if hasattr(dots, "get_segments")]
    assert sorted(line[0][0] for line in lines[0]) == [-DELTA, DELTA]


def test_what_a_probability_is_about_is_said():
    view = browse_lfc(tables())
    names = {name: view.controls[name].description for name in ("lfc_delta", "min_p", "fdr")}
    assert names["lfc_delta"] == "|log2 fc| from"
    assert names["min_p"] == "p of |log2 fc| > 2.5 from" and names["fdr"] == "FDR of |log2 fc| > 2.5 up to"
    view.controls["lfc_delta"].value = 1  # moves a threshold, not what p is about
    assert view.figure.axes[0].get_ylabel() == "probability of |log2 fold change| > 2.5"
    for written in ({**tables(), "lfc_delta": 0.5}, dict(tables())):
        plain = browse_lfc(written)
        known = "lfc_delta" in written
        assert plain.controls["min_p"].description == ("p of |log2 fc| > 0.5 from" if known else "p from")
        assert plain.figure.axes[0].get_ylabel() == f"probability{' of |log2 fold change| > 0.5' if known else ''}"


def test_browser_follows_its_controls():
    given = tables()
    view = browse_lfc(given, cell_type="T")
    numbers = {"lfc_delta": DELTA, "min_p": 0.9, "fdr": 0.05, "min_count": 0.0}
    assert view.values() == {"cell_type": "T", "search": "", "call": "thresholds", **numbers}
    assert view.table.equals(shown_genes(given["T"], lfc_delta=DELTA, min_p=0.9))
    view.controls["cell_type"].value = "B"
    view.controls["lfc_delta"].value = 3.5
    view.controls["min_count"].value = 0.7
    assert view.table.equals(shown_genes(given["B"], lfc_delta=3.5, min_p=0.9, min_count=0.7))
    ax = view.figure.axes[0]
    assert ax.get_title() == "B" and len(ax.collections[1].get_offsets()) == (view.table["lfc"] < 0).sum()
    view.controls["search"].value = "gene1"
    assert len(view.figure.axes[0].texts) == 10
    view.controls["search"].value = "actin"
    assert view.message == "Expected part of a gene's name, found 'actin' in none of the 80 genes."
    assert len(view.table) == 10


def test_browser_without_expected_counts_and_without_calls():
    plain = {kind: table[["lfc", "p"]] for kind, table in tables().items()}
    view = browse_lfc(plain)
    assert not {"min_count", "call", "fdr"} & set(view.controls) and view.values()["cell_type"] == "B"
    assert view.controls["lfc_delta"].style.description_width == "initial"  # a browser shows it whole
    view.controls["lfc_delta"].value = 19
    assert view.table.empty and not view.message
    with pytest.raises(ValueError, match="Expected tables of fold changes by cell type, found none"):
        browse_lfc({"lfc_delta": 1})
    with pytest.raises(KeyError, match="Expected 'NK' in the fold changes, found 'B', 'T'"):
        browse_lfc(plain, cell_type="NK")


def test_the_table_is_written_where_and_when_asked(tmp_path):
    view = browse_lfc(tables())
    file, button = view.extra[0].children
    assert not list(tmp_path.iterdir())
    button.click()
    assert view.message == "Expected the name of a file, found none. Write one beside the button."
    file.value = "genes.csv"
    button.click()
    assert view.message == f"{len(view.table)} genes are in genes.csv."
    written = pd.read_csv(tmp_path / "genes.csv", index_col=0)
    assert np.allclose(written["lfc"], view.table["lfc"]) and written.index.equals(view.table.index)
    button.click()
    assert view.message == "Expected the name of a new file, found 'genes.csv', which is there. Choose another."
    file.value = "no/such/folder/genes.csv"
    button.click()
    assert "no/such/folder" in view.message and len(list(tmp_path.iterdir())) == 1


# --- what a notebook gets


class Shown:
    """An output of a cell: what it holds, and what has replaced it since."""

    def __init__(self, content, display_id=False):
        self.content, self.can_change, self.updates = content, display_id, []

    def update(self, content):
        assert self.can_change
        self.updates.append(content)


@pytest.fixture
def outputs(monkeypatch) -> list[Shown]:
    """Collect what is displayed."""
    shown = []

    def display(content, **options):
        shown.append(Shown(content, **options))
        return shown[-1]

    monkeypatch.setattr(IPython.display, "display", display)
    return shown


def test_figure_and_table_are_outputs_beside_the_controls(outputs):
    view = browse_lfc(tables())
    view._ipython_display_()
    controls, figure, table = outputs
    assert controls.content is view.widget
    assert figure.content.data.startswith(b"\x89PNG") and "<table" in table.content.data
    view.controls["cell_type"].value = "T"
    assert len(outputs) == 3 and not controls.updates
    assert figure.updates[0].data.startswith(b"\x89PNG") and figure.updates[0].data != figure.content.data
    assert view.table.index[0] in table.updates[0].data
    view.controls["search"].value = "no such gene"
    assert len(figure.updates) == len(table.updates) == 1


def test_a_long_table_is_cut_and_says_so(outputs):
    view = browse_lfc(tables())
    view.controls["lfc_delta"].value = 0
    view.controls["min_p"].value = 0
    view._ipython_display_()
    assert "15 of 80 rows" in outputs[2].content.data and len(view.table) == 80


def test_names_in_the_table_are_words_and_no_markup(outputs):
    given = tables()
    given["B"].index = ["<script>", *given["B"].index[1:]]
    given["B"].loc["<script>", ["lfc", "p"]] = 20, 1
    browse_lfc(given)._ipython_display_()
    assert "&lt;script&gt;" in outputs[2].content.data and "<script>" not in outputs[2].content.data


def test_without_a_notebook_there_is_still_the_figure(mdata, joint, tmp_path):
    view = explorer(mdata, joint)
    view.figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
