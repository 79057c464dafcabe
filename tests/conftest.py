"""What several test files share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


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
