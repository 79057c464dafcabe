"""What the commands of this folder share: environments, processes of their own, and tables in the README."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import venv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
REPORT = HERE / "README.md"
DATA = ROOT.parent / "shared" / "data"
HOMOLOGY = "HOM_AllOrganism.from_homologene.rpt"
PAIRS = {
    "pancreas": ("baron_mouse_pancreas.h5ad", "baron_human_pancreas_hvg2000.h5ad", "cell_type"),
    "immune": ("mca_mouse_spleen.h5ad", "pbmc3k_human_pbmc.h5ad", "cell_type_broad"),
}
REFERENCE_PACKAGES = ("torch==2.13.0", "scspecies==0.1.4", "muon==0.1.7")  # a newer muon and it does not start
REFERENCE = HERE / ".reference"
Record = dict[str, Any]


def environment_python(folder: Path, packages: Iterable[str]) -> Path:
    """The interpreter of an environment, which is made where there is none."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    made = folder / "pyvenv.cfg"
    if not (python.is_file() and made.is_file()):
        print(f"environment: {folder} with {', '.join(packages)}", flush=True)
        venv.create(folder, with_pip=True)
        try:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        except subprocess.CalledProcessError:
            made.unlink(missing_ok=True)  # so that the next call begins anew
            raise
    return python


def run_script(python: Path, script: str, *arguments: object, threads: int, project: bool = False) -> Record:
    """Run a script of this folder in a process of its own; its last line is the record. `project`: it imports us."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
    environment = {**os.environ, **limits}
    environment.pop("PYTHONPATH", None)
    if project:
        environment["PYTHONPATH"] = str(ROOT)
    command = [str(word) for word in (python, HERE / script, *arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def machine(threads: int) -> Record:
    """Describe the machine the times belong to."""
    system = f"{platform.system()} {platform.machine()}"
    return {"threads": threads, "system": system, "python": platform.python_version()}


def read_results(path: Path) -> Record:
    """Results of earlier runs, empty where there are none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_results(results: Record, path: Path) -> None:
    """Save results in a form that versions can be compared line by line."""
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def between_markers(text: str, parts: Mapping[str, list[str]]) -> str:
    """Replace the lines between `<!-- name -->` and `<!-- end of name -->` for each part."""
    for name, lines in parts.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, rest = text.split(start)
        text = f"{before}{start}\n" + "\n".join(lines) + f"\n{end}{rest.split(end)[1]}"
    return text


def write_report(parts: Mapping[str, list[str]]) -> None:
    """Put tables into the README."""
    REPORT.write_text(between_markers(REPORT.read_text(encoding="utf-8"), parts), encoding="utf-8")
