"""One temporary cache and one thread for the whole test run, golden files, and the `slow` marker.

The environment is set here, before any test imports deepseek; workers inherit it.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

CACHE = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden files instead of comparing"
    )
    parser.addoption(
        "--sample", type=int, default=0, help="of each file, run about so many tests, spread evenly"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: left out of `make quick`")
    os.environ.setdefault("DS_NUM_THREADS", "1")
    os.environ.setdefault("DS_SEED", "0")  # what is compiled is counted
    # Processes that tests start are to use the installed package, not the folder they start in.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A shell starts what runs in the background with interrupts ignored; some tests send them.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        # A run starts with an empty cache of its own, so that no result depends on an earlier run.
        config.stash[CACHE] = os.environ["DS_CACHE"] = tempfile.mkdtemp(prefix="deepseek-cache-")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Thin out the sweeps for `--sample`: the same tests each time, from all over the file."""
    most = config.getoption("--sample")
    if not most:
        return
    by_file: dict[Path, list[pytest.Item]] = {}
    for item in items:
        by_file.setdefault(item.path, []).append(item)
    kept = {
        item for found in by_file.values() for item in found[:: max(1, round(len(found) / most))]
    }
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def pytest_unconfigure(config: pytest.Config) -> None:
    if CACHE in config.stash:
        shutil.rmtree(config.stash[CACHE], ignore_errors=True)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)` compares a text with `golden/<name>.txt` beside the test's file."""
    folder = Path(request.path).parent / "golden"

    def compare(name: str, text: str) -> None:
        path = folder / f"{name}.txt"
        text = text.rstrip("\n") + "\n"
        if request.config.getoption("--update-golden"):
            folder.mkdir(exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"{path} is missing: run pytest with --update-golden and read it"
        assert text == path.read_text()

    return compare
