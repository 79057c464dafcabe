"""Each notebook runs in a process of its own, and what is saved in it is what it gives."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

import notebooks

WORKERS = 2
NOTEBOOKS = {notebooks.show_path(path): path for path in notebooks.find_notebooks()}
every_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


@pytest.fixture(scope="session")
def runs(request) -> dict[str, Future]:
    """Start all notebooks that are to be tested, two at a time; each test then waits for its own."""
    chosen = [item.callspec.params["name"] for item in request.session.items if "runs" in item.fixturenames]
    pool = ThreadPoolExecutor(WORKERS)
    threads = notebooks.threads_for(WORKERS)
    jobs = {name: pool.submit(notebooks.check_notebook, NOTEBOOKS[name], threads=threads) for name in chosen}
    yield jobs
    pool.shutdown(cancel_futures=True)


@every_notebook
def test_notebook_runs_and_its_saved_outputs_are_true(name, runs):
    if notebooks.is_slow(read(name)):
        pytest.skip("The notebook is flagged slow; run it with `make outputs SLOW=1`.")
    problems = runs[name].result()
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
