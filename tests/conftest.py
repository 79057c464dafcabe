"""What several test files share."""

import os
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


class KeepsTogether(LoadScopeScheduling):
    """Gives the tests that share what is expensive to make to one worker of `pytest -n 2`.

    These are the tests of a file, and all tests of the trained real pairs. A notebook goes to whichever worker is free.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, test = nodeid.split("::", 1)
        if test.startswith("test_notebook_runs"):
            return nodeid
        return "the real pairs" if "test_real_" in file else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log) -> KeepsTogether | None:
    """Distribute the tests as above, where no other way is asked for by `--dist`."""
    return KeepsTogether(config, log) if config.getoption("dist") == "load" else None


@pytest.fixture(scope="session")
def project() -> Path:
    """Return the project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of the real data; without it a test is skipped, or fails where `CI` is set."""
    if not SHARED_DATA.is_dir():
        message = "The real data are not there; expected them in ../shared/data."
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return SHARED_DATA


@pytest.fixture(scope="session")
def cells() -> tuple:
    """Return labels, confidence, foreignness and probabilities of cells; do not change them."""
    from judged_cells import judged_cells

    return judged_cells()
