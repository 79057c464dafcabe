"""The map of the modules: which may import which, and which may know AnnData. Read from the imports, not run."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "scspecies"

# module -> the modules of the package that it may import; modules split off from a numbered one stand beside it
CORE = {"core", "neighbors"}
MODEL = CORE | {"likelihood", "architecture"}
EVERYTHING = MODEL | {
    "preprocessing",
    "homology",
    "filtering",
    "neighborhoods",
    "foreign",
    "training",
    "checkpoint",
    "scoring",
    "alignment",
    "similarity",
    "confidence",
    "accuracy",
    "calibration",
    "integration",
    "evaluation",
    "lfc",
    "uncertainty",
}
FIGURES = {"plot_style", "plot_space", "plot_labels", "plot_genes", "plot_evaluation"}
MAY_IMPORT = {
    "core": set(),
    "neighbors": {"core"},
    "datasets": CORE,
    "homology": CORE,
    "filtering": CORE,
    "neighborhoods": CORE,
    "foreign": CORE,
    "guess": CORE | {"neighborhoods", "foreign"},
    "matching": CORE | {"homology", "neighborhoods", "foreign", "guess"},
    "preprocessing": CORE | {"homology", "filtering", "matching"},
    "likelihood": set(),
    "architecture": CORE | {"likelihood"},
    "training": MODEL,
    "checkpoint": MODEL | {"training"},
    "scoring": MODEL,
    "alignment": MODEL | {"scoring", "training"},
    "similarity": MODEL | {"scoring"},
    "confidence": CORE | {"foreign", "guess"},
    "accuracy": CORE,
    "calibration": CORE | {"accuracy"},
    "integration": CORE | {"accuracy"},
    "evaluation": CORE | {"accuracy", "calibration", "integration"},
    "lfc": MODEL,
    "uncertainty": MODEL | {"lfc"},
    "plot_style": CORE,
    "plot_space": CORE | {"plot_style"},
    "plot_labels": CORE | {"plot_style"},
    "plot_genes": CORE | {"plot_style"},
    "plot_evaluation": CORE | {"plot_style", "plot_labels", "accuracy", "evaluation"},
    "plot": FIGURES,
    "explore": CORE | {"plot"},
    "species": EVERYTHING,
    "fitting": EVERYTHING | {"species"},
    "labeling": EVERYTHING | {"species"},
    "comparing": EVERYTHING | {"species", "labeling"},
    "models": EVERYTHING | {"species", "fitting", "comparing"},
    "multispecies": EVERYTHING | {"species", "fitting", "comparing", "models"},
}
USERS_OBJECTS = {"species", "models", "multispecies"}
ANNDATA_AT_THE_EDGE = {"core", "datasets", "homology", "filtering", "matching", "preprocessing", "explore", "labeling"}
KNOWS_ANNDATA = ANNDATA_AT_THE_EDGE | USERS_OBJECTS | FIGURES
ANNDATA = {"anndata", "mudata", "scanpy", "muon"}
NOT_AT_RUN_TIME = {"nbdev", "fastcore", "execnb", "nbformat", "nbclient", "nbconvert", "pytest", "jupytext"}

MODULES = sorted(path for path in PACKAGE.glob("*.py") if not path.name.startswith("_"))


def imports(path: Path) -> set[str]:
    """Return the full names of all modules that a file imports, anywhere in it; relative ones start with a dot."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add("." * node.level + node.module)
        elif isinstance(node, ast.ImportFrom):
            found |= {"." * node.level + alias.name for alias in node.names}
    return found


def own_modules(path: Path) -> set[str]:
    """Return the names of the package's own modules that a file imports."""
    names = imports(path)
    relative = {name.lstrip(".").split(".")[0] for name in names if name.startswith(".")}
    absolute = {name.split(".")[1] for name in names if name.startswith("scspecies.")}
    whole = {"the whole package"} if "scspecies" in names else set()
    return relative | absolute | whole


def packages(path: Path) -> set[str]:
    """Return the top-level names of the other packages that a file imports."""
    return {name.split(".")[0] for name in imports(path) if not name.startswith(".")} - {"scspecies"}


def test_the_map_has_no_cycle():
    done: set[str] = set()
    while remaining := MAY_IMPORT.keys() - done:
        ready = {name for name in remaining if MAY_IMPORT[name] <= done}
        assert ready, f"These modules import each other: {sorted(remaining)}."
        done |= ready


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_dependencies_point_backwards(path):
    assert path.stem in MAY_IMPORT, f"`{path.stem}` has no line in the table of this test; add the modules it may use."
    forbidden = own_modules(path) - MAY_IMPORT[path.stem]
    assert not forbidden, f"`{path.stem}` may not import {sorted(forbidden)}."


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_only_the_edge_knows_anndata(path):
    known = packages(path) & ANNDATA
    assert not known or path.stem in KNOWS_ANNDATA, f"`{path.stem}` works on arrays but imports {sorted(known)}."


@pytest.mark.parametrize("path", [PACKAGE / "__init__.py", *MODULES], ids=lambda path: path.stem)
def test_no_development_tool_at_run_time(path):
    assert not packages(path) & NOT_AT_RUN_TIME


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("from .core import Keys", {"core"}),
        ("from . import core, plot", {"core", "plot"}),
        ("import scspecies.models", {"models"}),
        ("from scspecies.models import scSpecies", {"models"}),
        ("def f():\n    from .lfc import x", {"lfc"}),
        ("from scspecies import core", {"the whole package"}),
        ("import numpy.random", set()),
    ],
)
def test_imports_are_seen(tmp_path, line, expected):
    path = tmp_path / "module.py"
    path.write_text(line)
    assert own_modules(path) == expected
