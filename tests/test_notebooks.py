"""Each notebook runs in a process of its own, and what is saved in it is what it gives."""

import os
from pathlib import Path

import nbformat
import pytest

import notebooks

NOTEBOOKS = {notebooks.show_path(path): path for path in notebooks.find_notebooks()}
every_notebook = pytest.mark.parametrize("name", NOTEBOOKS)
# With `pytest -n 2` two notebooks run at a time.
THREADS = notebooks.threads_for(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


@pytest.mark.parametrize("name", reversed(NOTEBOOKS))  # the last ones take longest, and start first
def test_notebook_runs_and_its_saved_outputs_are_true(name):
    if notebooks.is_slow(read(name)):
        pytest.skip("The notebook is flagged slow; run it with `make outputs SLOW=1`.")
    problems = notebooks.check_notebook(NOTEBOOKS[name], threads=THREADS)
    assert not problems, "\n".join([f"{name}: run `make outputs` and look at what changed.", *problems])


@every_notebook
def test_saved_notebook_is_clean(name):
    saved = read(name)
    outputs = [output for cell in saved.cells for output in cell.get("outputs", [])]
    assert all(cell.get("execution_count") is None for cell in saved.cells)
    assert not [output for output in outputs if output.output_type == "error"], "An error is saved in the notebook."
    assert not [output for output in outputs if output.get("name") == "stderr"], "A bar or warning is saved."
    assert not [output for output in outputs if notebooks.WIDGET in output.get("data", {})], "A widget is saved."
    ids = [cell.id for cell in saved.cells]
    assert len(set(ids)) == len(ids)


@every_notebook
def test_notebook_names_no_path_of_one_machine(name):
    text = NOTEBOOKS[name].read_text(encoding="utf-8")
    home = str(Path.home()) + os.sep
    assert str(notebooks.ROOT) not in text
    assert home not in text


def read(name: str) -> nbformat.NotebookNode:
    """Return the saved notebook."""
    return nbformat.read(NOTEBOOKS[name], as_version=4)
