"""Modules that are imported when something of them is first used: what a warm start does without.

    passes = late("deepseek.passes")        at the top of a file, where an import would stand
    passes.run_passes(graph)                imports it, once
"""

from __future__ import annotations

import importlib
from typing import Any


class late:  # noqa: N801
    """Stands for a module; `name` is written out, so that readers and tests see the import."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, found)
        return found
