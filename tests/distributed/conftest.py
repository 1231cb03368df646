"""Worlds of two, three and four processes, which live as long as the tests need them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from world import World


@pytest.fixture(scope="session")
def world() -> Iterator[Callable[[int], World]]:
    """`world(n)`: n processes that are a process group."""
    made: dict[int, World] = {}

    def of(size: int) -> World:
        if size not in made:
            made[size] = World(size)
        return made[size]

    yield of
    for each in made.values():
        each.close()
