"""Fixtures that more than one test module uses."""

import gc
import os
import time
from pathlib import Path

import pytest

pytest_plugins = ["faults", "figure_inputs", "runs", "workflow_runs"]

REPOSITORY = Path(__file__).resolve().parent.parent
BEGAN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, help="skip tests that would begin later than that")


def pytest_collection_modifyitems() -> None:
    gc.freeze()  # what is imported stays; every training, which collects, would look through it


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("--minutes")
    if minutes is not None and time.monotonic() - BEGAN > 60 * minutes:
        pytest.skip(f"not begun: {minutes:g} minutes were over")


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets and a small real model, which are not part of the repository."""
    folder = Path(os.environ.get("FNSFT_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}: set FNSFT_TEST_DATA to a folder with gsm8k/")
    return folder


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-initialised two-layer Llama with a byte-level BPE tokenizer."""
    from models import write_tiny_model

    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_model(folder)
    return folder
