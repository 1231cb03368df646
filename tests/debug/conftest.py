"""A place in the pipeline for passes that are wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from deepseek.ir.rewrite import Rewriter, Rule
from deepseek.passes import PIPELINE

Install = Callable[[Rule], None]


@pytest.fixture
def install() -> Iterator[Install]:
    """`install(rule)` runs a rule as the second pass, of the same name."""
    before = list(PIPELINE)

    def add(rule: Rule) -> None:
        rewriter = Rewriter([rule])
        PIPELINE.insert(1, (rule.name, lambda graph, context: rewriter.run(graph, context.fuel)))

    yield add
    PIPELINE[:] = before
