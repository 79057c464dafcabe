"""The scripts behind `make`, tried on small notebooks."""

import base64
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import demo
import docs
import export
import notebooks
import readme

PIXEL = base64.b64encode(b"a picture").decode()


def write(path: Path, *cells) -> Path:
    """Write a notebook of Markdown (text that starts with `#` and a blank, or `>`) and code cells."""
    made = [cell if not isinstance(cell, str) else new_code_cell(cell) for cell in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=made), path)
    return path


def cell(*outputs) -> nbformat.NotebookNode:
    """Return a code cell that shows `outputs`."""
    return new_code_cell("show()", outputs=list(outputs))


def printed(text: str) -> nbformat.NotebookNode:
    return new_output("stream", name="stdout", text=text)


def table(html: str) -> nbformat.NotebookNode:
    return new_output("execute_result", data={"text/html": html, "text/plain": "a table"})


def picture(kind: str = "image/png") -> nbformat.NotebookNode:
    return new_output("display_data", data={kind: PIXEL, "text/plain": "<Figure size 640x480 with 1 Axes>"})


# ---------------------------------------------------------------- running and saving


def test_run_saves_what_nbdev_clean_leaves_alone(tmp_path):
    code = """import sys
from IPython.display import display
display({"text/plain": ""}, raw=True)
print("a")
sys.stderr.write("bar\\n")
print("10%\\r20%\\rdone")
object()"""
    path = write(
        tmp_path / "a.ipynb", code, "from IPython.display import Image; Image(b'\\x89PNG\\r\\n\\x1a\\n0', format='png')"
    )
    notebooks.save_notebook(path)
    first = path.read_text()
    saved = nbformat.read(path, 4)
    assert saved.cells[0].outputs[0].text == "a\ndone\n"
    assert saved.cells[0].outputs[1].data["text/plain"] == "<object>"
    assert all(cell.execution_count is None for cell in saved.cells)
    from nbdev.clean import nbdev_clean

    nbdev_clean.__wrapped__(fname=str(path))
    assert path.read_text() == first
    notebooks.save_notebook(path)
    assert path.read_text() == first


def test_notebook_starts_in_its_own_folder_and_knows_the_package(tmp_path):
    path = write(tmp_path / "deep" / "a.ipynb", "import os, scspecies", "print(os.path.basename(os.getcwd()))")
    assert notebooks.run_notebook(path).cells[1].outputs[0].text == "deep\n"


def test_flagged_cells_keep_their_outputs(tmp_path):
    slow = new_code_cell("#| slow\n1 / 0", outputs=[printed("kept")])
    path = write(tmp_path / "a.ipynb", "1", slow, "#| eval: false\n1 / 0", "import nbdev; nbdev.nbdev_export()")
    assert notebooks.run_notebook(path).cells[1].outputs[0].text == "kept"
    with pytest.raises(notebooks.NotebookError, match="cell 2: ZeroDivisionError: division by zero"):
        notebooks.run_notebook(path, slow=True)


@pytest.mark.parametrize("first", ["#| slow\n1 / 0", new_markdown_cell("# A\n\n> b\n\n- skip_exec: true")])
def test_a_slow_notebook_is_not_run(tmp_path, first):
    path = write(tmp_path / "a.ipynb", first, "1 / 0")
    assert notebooks.check_notebook(path) == []
    with pytest.raises(notebooks.NotebookError):
        notebooks.check_notebook(path, slow=True)


def test_check_finds_outputs_that_are_not_true(tmp_path):
    path = write(tmp_path / "a.ipynb", cell(), "print('accuracy', 0.5)")
    nb = nbformat.read(path, 4)
    nb.cells[0].source, nb.cells[0].outputs = "print('loss', 100)", [printed("loss 200")]
    nbformat.write(nb, path)
    problems = notebooks.check_notebook(path)
    assert len(problems) == 2
    assert "cell 1 `print('loss', 100)`: 200 is now 100" in problems[0]
    assert "cell 2 `print('accuracy', 0.5)`: saved are no outputs, a fresh run gives text" in problems[1]


def test_hidden_folders_are_not_searched(tmp_path):
    for name in ["b.ipynb", "a/c.ipynb", "_proc/d.ipynb", ".ipynb_checkpoints/e.ipynb"]:
        write(tmp_path / name, "1")
    found = [str(path.relative_to(tmp_path)) for path in notebooks.find_notebooks(tmp_path)]
    assert found == ["a/c.ipynb", "b.ipynb"]


# ---------------------------------------------------------------- comparing


@pytest.mark.parametrize(
    ("saved", "fresh"),
    [
        (printed("loss 100.0"), printed("loss 108.2")),
        (printed("p = 0.01"), printed("p = 0.05")),
        (printed("took 1.2 s, 3 ms, 00:12"), printed("took 44 s, 1.5 ms, 01:33")),
        (printed("wrote /tmp/tmpabc/model.pt"), printed("wrote /var/folders/x/y/model.pt")),
        (printed("  a    b\n1.00 2.0"), printed("a b\n1.04   2.1")),
        (printed("1,886 cells"), printed("1,890 cells")),
        (table("<td>0.91</td>"), table("<td>0.93</td>")),
        (picture(), picture()),
    ],
)
def test_small_differences_are_accepted(saved, fresh):
    assert notebooks.cell_difference(cell(saved), cell(fresh), notebooks.Tolerance()) == ""


@pytest.mark.parametrize(
    ("saved", "fresh", "report"),
    [
        (printed("loss 100.0"), printed("loss 120.0"), "100.0 is now 120.0"),
        (printed("p = 0.01"), printed("p = 0.07"), "0.01 is now 0.07"),
        (printed("1,886 cells"), printed("886 cells"), "1886 is now 886"),
        (printed("beta 3"), printed("delta 3"), "'beta' is now 'delta'"),
        (printed("gene_12"), printed("gene_13"), "'gene_12' is now 'gene_13'"),
        (printed("1 2 3"), printed("1 2"), "the words differ"),
        (printed("-0.5"), printed("0.5"), "-0.5 is now 0.5"),
        (table("<td>0.91</td>"), table("<td>0.71</td>"), "0.91 is now 0.71"),
        (table("<td>a</td>"), table("<th>a</th>"), "the words differ"),
        (picture(), printed("x"), "saved are picture, a fresh run gives text"),
    ],
)
def test_real_differences_are_found(saved, fresh, report):
    assert report in notebooks.cell_difference(cell(saved), cell(fresh), notebooks.Tolerance())


def test_a_lost_picture_is_found():
    difference = notebooks.cell_difference(cell(picture(), picture()), cell(picture()), notebooks.Tolerance())
    assert difference == "saved are picture, picture, a fresh run gives picture"


def test_a_cell_without_its_data_is_accepted_except_in_ci(monkeypatch):
    saved, fresh = cell(printed("accuracy 0.98")), cell(printed("skipped: the data are not there"))
    monkeypatch.delenv("CI", raising=False)
    assert notebooks.cell_difference(saved, fresh, notebooks.Tolerance()) == ""
    monkeypatch.setenv("CI", "true")
    assert "the words differ" in notebooks.cell_difference(saved, fresh, notebooks.Tolerance())


# ---------------------------------------------------------------- the demo

RESULTS_CODE = """out = pathlib.Path(os.environ['SCSPECIES_DEMO_OUT'])
(out / 'aligned.h5mu').write_text('x')
(out / 'predicted_labels.csv').write_text(os.environ.get('SCSPECIES_DEMO_CELL_KEY', 'not set'));"""


@pytest.fixture
def tiny_quickstart(tmp_path) -> Path:
    plot = "import matplotlib.pyplot as plt\nplt.plot([1, 2]);"
    title = new_markdown_cell("# Quickstart\n\n> All in one go.")
    heading = new_markdown_cell("## Results")
    return write(tmp_path / "nbs" / "quickstart.ipynb", title, "import os, pathlib", plot, heading, RESULTS_CODE)


def run_demo(notebook: Path, out: Path, *arguments: str) -> int:
    return demo.main(["--notebook", str(notebook), "--out", str(out), *arguments])


def test_demo_leaves_page_and_results(tiny_quickstart, tmp_path, capsys):
    out = tmp_path / "out"
    assert run_demo(tiny_quickstart, out, "--cell-key", "") == 0
    assert (out / "predicted_labels.csv").read_text() == "not set"
    said = capsys.readouterr().out
    assert "Aligning the simulated pair" in said
    assert re.search(r"\[ 3/3\] Results  \d", said)
    for name in ["quickstart.html", "aligned.h5mu", "predicted_labels.csv"]:
        assert re.search(rf"{re.escape(str(out / name))}  \([\d.]+ [kM]B\)", said)


def test_demo_page_needs_no_network(tiny_quickstart, tmp_path):
    run_demo(tiny_quickstart, tmp_path / "out")
    page = (tmp_path / "out" / "quickstart.html").read_text()
    assert "data:image/png;base64," in page
    assert "plt" in page
    assert not re.search(r"(src|href)=[\"'](https?:)?//|import\s*\(?[\"']https?:|url\([\"']?https?:", page)


def test_demo_passes_the_users_files_on(tiny_quickstart, tmp_path):
    for name in ["a.h5ad", "b.h5ad"]:
        (tmp_path / name).write_text("")
    files = ["--context", str(tmp_path / "a.h5ad"), "--target", str(tmp_path / "b.h5ad")]
    assert run_demo(tiny_quickstart, tmp_path / "out", *files, "--cell-key", "type", "--target-taxon", "7955") == 0
    assert (tmp_path / "out" / "predicted_labels.csv").read_text() == "type"


def test_demo_settings_are_absolute_and_only_what_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = demo.read_arguments(["--context", "a.h5ad", "--target", "", "--cell-key", "x", "--out", "here"])
    expected = {"CONTEXT": str(tmp_path / "a.h5ad"), "CELL_KEY": "x", "OUT": str(tmp_path / "here")}
    assert demo.settings(args) == {"SCSPECIES_DEMO_" + name: value for name, value in expected.items()}


def test_demo_tells_a_failure_in_one_line(tmp_path, capsys):
    notebook = write(tmp_path / "q.ipynb", "raise ValueError('Expected `x` to be 1, found `2`.')")
    out = tmp_path / "out"
    assert run_demo(notebook, out) == 1
    said = capsys.readouterr().err
    assert "demo: ValueError: Expected `x` to be 1, found `2`.\n" in said
    assert "Traceback" not in said
    assert "Traceback" in (out / "quickstart.log").read_text()


def test_demo_fails_where_a_result_is_missing(tmp_path, capsys):
    assert run_demo(write(tmp_path / "q.ipynb", "1"), tmp_path / "out") == 1
    assert "aligned.h5mu  (MISSING)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--context", "a.h5ad"], "found only CONTEXT; add TARGET=<file.h5ad>."),
        (["--target", "a.h5ad"], "found only TARGET; add CONTEXT=<file.h5ad>."),
        (["--context", "no.h5ad", "--target", "a.h5ad"], "CONTEXT to be an existing .h5ad file, found `no.h5ad`."),
        (["--context", "a.csv", "--target", "a.h5ad"], "CONTEXT to end in .h5ad, found `a.csv`."),
        (["--context", "a.h5ad", "--target", "a.h5ad"], "CELL_KEY to name the column"),
        (["--cell-key", "x"], "Expected CONTEXT and TARGET together with CELL_KEY, found neither."),
        (["--context-taxon", "mouse"], "CONTEXT_TAXON to be an NCBI taxon number such as 10090, found `mouse`."),
    ],
)
def test_demo_says_what_is_wrong_with_its_arguments(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    for name in ["a.h5ad", "a.csv"]:
        Path(name).write_text("")
    assert demo.main([*arguments, "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not Path("out").exists()


def test_progress_of_bars_is_passed_on():
    text = {"msg_type": "stream", "content": {"name": "stderr", "text": "\r 1/9 loss=3\r 2/9 loss=2"}}
    widget = {"msg_type": "comm_msg", "content": {"data": {"state": {"value": " 3/9 <b>loss=1</b> &lt;"}}}}
    number = {"msg_type": "comm_msg", "content": {"data": {"state": {"value": 3}}}}
    assert demo.progress_text(text) == "2/9 loss=2"
    assert "loss=1" in demo.progress_text(widget)
    assert demo.progress_text(number) == ""
    assert demo.progress_text({"msg_type": "status", "content": {}}) == ""


# ---------------------------------------------------------------- readme, export, docs


def make_index(folder: Path) -> nbformat.NotebookNode:
    code = new_code_cell("#| echo: true\n1 + 1", outputs=[printed("two"), picture()])
    hidden = new_code_cell("#| hide\nimport x")
    text = new_markdown_cell("# T\n\n[a](tutorials/a.ipynb) [b](https://b.org) [c](../LICENSE) [d](#e)")
    return nbformat.read(write(folder / "index.ipynb", text, hidden, code), 4)


def test_readme_has_text_code_outputs_and_links_from_the_root(tmp_path):
    made = readme.make_readme(make_index(tmp_path))
    assert "[a](nbs/tutorials/a.ipynb) [b](https://b.org) [c](LICENSE) [d](#e)" in made.text
    assert "```python\n1 + 1\n```\n\n    two\n\n![](index_files/figure-1.png)\n" in made.text
    assert "import x" not in made.text
    assert made.pictures == {"index_files/figure-1.png": b"a picture"}


def test_readme_check_finds_what_is_old(tmp_path):
    made = readme.make_readme(make_index(tmp_path))
    assert len(readme.differences(made, tmp_path)) == 2
    readme.write(made, tmp_path)
    assert readme.differences(made, tmp_path) == []
    (tmp_path / "index_files" / "figure-9.png").write_bytes(b"")
    assert readme.differences(made, tmp_path) == ["index_files/figure-9.png is missing or left over."]
    readme.write(made, tmp_path)
    (tmp_path / "README.md").write_text("old")
    assert readme.differences(made, tmp_path) == ["README.md is not what nbs/index.ipynb gives."]


def test_export_differences_are_named():
    before = {"a.py": "x = 1", "b.py": "same", "gone.py": "x"}
    after = {"a.py": "x = 2", "b.py": "same", "new.py": "x"}
    found = export.differences(before, after)
    assert [report.splitlines()[0] for report in found] == [
        "a.py differs",
        "gone.py has no notebook any more",
        "new.py was not exported",
    ]
    assert "-x = 1" in found[0]
    assert "+x = 2" in found[0]


@pytest.fixture
def site(tmp_path) -> tuple[Path, dict]:
    """Return a site of two pages, the first with a link to the second that a test fills in."""
    core = [new_markdown_cell("---\noutput-file: core.html\n---"), new_markdown_cell("## Two words, `code`!")]
    write(tmp_path / "00_core.ipynb", *core)
    return tmp_path, {Path("00_core.ipynb"): nbformat.read(tmp_path / "00_core.ipynb", 4)}


@pytest.mark.parametrize(
    ("target", "wrong"),
    [
        ("../00_core.ipynb", False),
        ("../core.html", False),
        ("../core.html#two-words-code", False),
        ("https://example.org/missing", False),
        ("mailto:a@b.org", False),
        ("#here", False),
        ("00_core.ipynb", True),
        ("../00_core.ipynb#three", True),
        ("../../LICENSE", True),
        ("#there", True),
    ],
)
def test_links_inside_the_site_are_followed(site, target, wrong):
    folder, pages = site
    text = new_markdown_cell(f"# Here\n\n[text]({target}) and `[code](nowhere)`")
    page = write(folder / "tutorials" / "a.ipynb", text)
    pages[Path("tutorials/a.ipynb")] = nbformat.read(page, 4)
    assert bool(list(docs.check_links(folder, pages))) == wrong


def test_sidebar_must_list_each_notebook_once(site):
    folder, _ = site
    sidebar = folder / "sidebar.yml"
    sidebar.write_text("website:\n  sidebar:\n    contents: [00_core.ipynb, {section: x, contents: [y.ipynb]}]")
    assert list(docs.check_sidebar(folder)) == ["y.ipynb is missing, but listed in the sidebar."]
    sidebar.write_text("website:\n  sidebar:\n    contents: []")
    assert list(docs.check_sidebar(folder)) == ["00_core.ipynb is not listed in the sidebar."]
    sidebar.write_text("website:\n  sidebar:\n    contents: [00_core.ipynb, 00_core.ipynb]")
    assert list(docs.check_sidebar(folder)) == ["00_core.ipynb is listed more than once in the sidebar."]


def test_title_cells_must_not_hide_text(tmp_path):
    write(tmp_path / "a.ipynb", new_markdown_cell("# A\n\n> b"), new_markdown_cell("Text."))
    write(tmp_path / "b.ipynb", new_markdown_cell("# A\n\n> b\n\nLost text."))
    write(tmp_path / "c.ipynb", new_markdown_cell("Text."))
    found = list(docs.check_titles(tmp_path))
    assert [problem.split(":")[0] for problem in found] == ["b.ipynb", "c.ipynb"]
    assert "`Lost text.`" in found[0]


def test_public_names_must_be_on_the_site_with_a_description(tmp_path):
    (tmp_path / "scspecies").mkdir()
    code = "def shown(): ...\ndef bare(): ...\ndef absent(): ...\ndef _private(): ...\n"
    (tmp_path / "scspecies" / "core.py").write_text(code)
    entry = "---\n\n### {}\n\n```python\ndef f():\n```\n\n{}"
    shown, bare = entry.format("shown", "*What it does.*"), entry.format("bare", "")
    page = new_notebook(cells=[new_markdown_cell(shown), new_markdown_cell(bare), new_markdown_cell("## Next")])
    assert list(docs.check_documented(tmp_path, {Path("a.ipynb"): page})) == [
        "scspecies.core.bare has no description.",
        "scspecies.core.absent is not on the site; is its cell hidden?",
    ]


@pytest.mark.parametrize(
    ("source", "mixed"),
    [
        ("import os\nfrom a import b", False),
        ("import os\nprint(os)", True),
        ("def f():\n    import os\n    return os.name\n\nx = f()", True),
        ("#| export\ndef f():\n    import os\n    x = os.name", False),
        ("x = 1\nprint(x)", False),
        ("#| hide\nimport nbdev; nbdev.nbdev_export()", False),
        ("%matplotlib inline\nimport os; os.name", False),
    ],
)
def test_cells_that_mix_imports_and_code_are_seen(tmp_path, source, mixed):
    write(tmp_path / "a.ipynb", new_markdown_cell("# A"), source)
    assert list(docs.check_cells(tmp_path)) == ["a.ipynb, cell 2: give the import a cell of its own."] * mixed


def test_broken_settings_are_named(tmp_path):
    nbs = tmp_path / "nbs"
    nbs.mkdir()
    (nbs / "_quarto.yml").write_text("metadata-files: [../_quarto.yml, nbdev.yml, missing.yml]")
    (nbs / "nbdev.yml").write_text("project: {}")
    (nbs / "sidebar.yml").write_text("website: [")
    (tmp_path / "_quarto.yml").write_text("format: {html: {css: styles.css}}")
    found = "\n".join(docs.check_settings(nbs))
    assert "points to missing.yml" in found
    assert "sidebar.yml cannot be read" in found
    assert "style sheet styles.css" in found


def test_slugs_are_those_of_pandoc():
    assert docs.slug("Straight from the box") == "straight-from-the-box"
    assert docs.slug("1. Dogs, `cats` & mice") == "dogs-cats-mice"
