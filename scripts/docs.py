"""Prepare the documentation site and check it; Quarto itself is needed only to render it.

    python scripts/docs.py             prepare the site in a temporary copy and check it
    python scripts/docs.py --render    also render it, into _docs

Checked are: the settings files are valid and point to files, the sidebar lists each notebook once, each link inside
the site leads somewhere, the site loses no text of a notebook, and each public name is documented on its page.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode

from export import copy_project
from notebooks import ROOT, directives, find_notebooks

SITE_FILES = ["settings.ini", "_quarto.yml", "README.md", "nbs", "scspecies"]
LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)|(?:href|src)=[\"']([^\"']+)[\"']")
CODE = re.compile(r"```.*?```|~~~.*?~~~|`[^`\n]*`", re.S)


# ---------------------------------------------------------------- preparing


def prepare() -> None:
    """Write the site's sources to `_proc` in the current folder, as `nbdev_docs` does before it calls Quarto."""
    import nbdev.doclinks
    from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml
    from nbdev.serve import proc_nbs

    refresh_quarto_yml()
    nbdev.doclinks._build_modidx()
    nbdev_sidebar.__wrapped__()
    proc_nbs(force=True, n_workers=0)


def prepare_copy(folder: Path) -> str:
    """Prepare the site in `folder`; return what went wrong, or nothing."""
    copy_project(folder, SITE_FILES)
    environment = os.environ | {"PYTHONPATH": str(folder), "MPLBACKEND": "agg"}
    command = [sys.executable, str(Path(__file__).resolve()), "--prepare"]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return result.stdout + result.stderr if result.returncode else ""


# ---------------------------------------------------------------- checking


def check_cells(nbs: Path) -> Iterator[str]:
    """Check that no example has an import beside other code: nbdev would run it, alone, while the site is built."""
    for path in find_notebooks(nbs):
        for number, cell in enumerate(nbformat.read(path, as_version=4).cells, 1):
            if cell.cell_type == "code" and is_mixed(cell.source):
                yield f"{path.relative_to(nbs)}, cell {number}: give the import a cell of its own."


def is_mixed(source: str) -> bool:
    """Whether a cell that is not exported both imports and does something."""
    flags = directives(source)
    if flags.keys() & {"export", "exports", "exporti"} or flags.get("eval") == "false" or "nbdev_export(" in source:
        return False
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:  # a cell with a line magic
        return False
    imports = any(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes)
    return imports and any(isinstance(node, ast.Expr | ast.Assign) for node in nodes)


def check(folder: Path) -> Iterator[str]:
    """Yield one sentence for each thing that is wrong with the site prepared in `folder`."""
    site = folder / "_proc"
    pages = {path.relative_to(site): nbformat.read(path, as_version=4) for path in find_notebooks(site)}
    yield from check_settings(folder / "nbs")
    yield from check_sidebar(folder / "nbs")
    yield from check_links(site, pages)
    yield from check_titles(folder / "nbs")
    yield from check_documented(folder, pages)


def check_settings(nbs: Path) -> Iterator[str]:
    """Check that the YAML files can be read and name files that exist."""
    for path in [nbs / "_quarto.yml", nbs / "nbdev.yml", nbs / "sidebar.yml", nbs.parent / "_quarto.yml"]:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            yield f"{path.name} cannot be read: {error}"
            continue
        for name in content.get("metadata-files", []):
            if not (path.parent / name).exists():
                yield f"{path.name} points to {name}, which is not there."
        styles = content.get("format", {}).get("html", {}).get("css", [])
        for name in [styles] if isinstance(styles, str) else styles:
            if not (nbs / name).exists():
                yield f"{path.name} points to the style sheet {name}, which is not in nbs/."


def check_sidebar(nbs: Path) -> Iterator[str]:
    """Check that the sidebar lists each notebook exactly once."""
    listed = list(sidebar_entries(yaml.safe_load((nbs / "sidebar.yml").read_text())["website"]["sidebar"]["contents"]))
    there = {str(path.relative_to(nbs)) for path in find_notebooks(nbs)}
    for name in sorted(there ^ set(listed)):
        yield f"{name} is {'not listed in' if name in there else 'missing, but listed in'} the sidebar."
    for name in sorted({name for name in listed if listed.count(name) > 1}):
        yield f"{name} is listed more than once in the sidebar."


def sidebar_entries(contents: list) -> Iterator[str]:
    """Return the pages that a sidebar lists, section by section."""
    for entry in contents:
        if isinstance(entry, str):
            yield entry
        else:
            yield from [entry["href"]] if "href" in entry else []
            yield from sidebar_entries(entry.get("contents", []))


def check_links(site: Path, pages: dict[Path, NotebookNode]) -> Iterator[str]:
    """Check that each link to a page, a place on a page or a file of the site leads somewhere."""
    anchors = {page: set(page_anchors(notebook)) for page, notebook in pages.items()}
    by_html = {page.parent / output_file(page, notebook): page for page, notebook in pages.items()}
    for page, notebook in pages.items():
        for target in links(notebook):
            name, _, anchor = target.partition("#")
            path = Path(os.path.normpath(page.parent / name)) if name else page
            path = by_html.get(path, path)
            if not (site / path).is_file():
                yield f"{page}: the link to `{target}` leads nowhere inside the site."
            elif anchor and path in anchors and anchor not in anchors[path]:
                yield f"{page}: the link to `{target}` names a heading that is not there."


def prose(notebook: NotebookNode) -> Iterator[str]:
    """Return what a page says in Markdown: its prose and the documentation of its functions."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            yield cell.source
        for output in cell.get("outputs", []):
            yield output.get("data", {}).get("text/markdown", "")


def links(notebook: NotebookNode) -> Iterator[str]:
    """Return the targets of a page's links, without those to other sites and pictures that are embedded."""
    for text in prose(notebook):
        for match in LINK.finditer(CODE.sub("", text)):
            target = match[1] or match[2]
            if not re.match(r"[a-z][a-z0-9+.-]*:|//", target, re.I):
                yield target


def page_anchors(notebook: NotebookNode) -> Iterator[str]:
    """Return the names under which the headings of a page can be linked."""
    for text in prose(notebook):
        for line in re.findall(r"^#+ +(.+?) *$", re.sub(r"```.*?```", "", text, flags=re.S), re.M):
            explicit = re.search(r"\{[^}]*#([\w.-]+)[^}]*\}", line)
            yield explicit[1] if explicit else slug(line)


def slug(heading: str) -> str:
    """Return the name that Pandoc gives to a heading."""
    text = re.sub(r"[^\w\s.-]", "", re.sub(r"\{[^}]*\}\s*$", "", heading)).strip().lower()
    return re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", text))


def output_file(page: Path, notebook: NotebookNode) -> str:
    """Return the name of the HTML file that Quarto makes from a page."""
    for cell in notebook.cells[:1]:
        match = re.search(r"^output-file: *(\S+)", cell.source, re.M)
        if match:
            return match[1]
    return page.with_suffix(".html").name


def check_titles(nbs: Path) -> Iterator[str]:
    """Check that a notebook starts with its title and subtitle alone: text below them is not on the site."""
    for path in find_notebooks(nbs):
        cells = nbformat.read(path, as_version=4).cells
        lines = [line for line in cells[0].source.splitlines() if line.strip()] if cells else []
        name = path.relative_to(nbs)
        if not lines or not lines[0].startswith("# ") or len(lines) < 2 or not lines[1].startswith(">"):
            yield f"{name}: expected the first cell to be `# title` and `> subtitle`."
        elif extra := [line for line in lines[2:] if not line.startswith((">", "- "))]:
            yield f"{name}: `{extra[0][:60]}` stands below the title and is not on the site; give it a cell of its own."


def check_documented(folder: Path, pages: dict[Path, NotebookNode]) -> Iterator[str]:
    """Check that each public function and class of a module has its entry, with a description, on the site."""
    shown = "\n".join(text for notebook in pages.values() for text in prose(notebook))
    for module in sorted((folder / "scspecies").glob("[!_]*.py")):
        for node in ast.parse(module.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            entry = re.search(rf"^#+ {node.name}$\s+```python.*?```\s+(\S?)", shown, re.M | re.S)
            if not entry:
                yield f"scspecies.{module.stem}.{node.name} is not on the site; is its cell hidden?"
            elif entry[1] in "-#":
                yield f"scspecies.{module.stem}.{node.name} has no description."


# ---------------------------------------------------------------- the command


def render(folder: Path) -> None:
    """Render the prepared site with Quarto into `_docs` of the project."""
    if not shutil.which("quarto"):
        sys.exit("Expected the program `quarto` to be installed, found nothing; see https://quarto.org.")
    subprocess.run(["quarto", "render", "--no-cache"], cwd=folder / "_proc", check=True)
    shutil.rmtree(ROOT / "_docs", ignore_errors=True)
    shutil.copytree(folder / "_proc" / "_docs", ROOT / "_docs")


def find_problems(folder: Path) -> list[str]:
    """Prepare the site in `folder` and return what is wrong with it; what would keep it from being made comes first."""
    problems = list(check_cells(ROOT / "nbs"))
    if problems:
        return problems
    failure = prepare_copy(folder)
    return [failure] if failure else list(check(folder))


def main() -> int:
    """Prepare and check the site; return 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--render", action="store_true", help="also render the site with Quarto")
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.prepare:
        prepare()
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problems = find_problems(folder)
        for problem in problems:
            print(f"docs: {problem}", file=sys.stderr)
        if args.render and not problems:
            render(folder)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
