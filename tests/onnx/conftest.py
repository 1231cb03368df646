"""Values on the reference backend, and the samples that the op sweep uses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepseek.config import override

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "ops")]


@pytest.fixture(autouse=True)
def plain_values() -> Iterator[None]:
    """What is under test is the file that is written, not how values are computed."""
    with override(backend="reference"):
        yield
