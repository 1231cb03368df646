"""The outer-product micro-kernel."""

from __future__ import annotations
from deepseek.backends.cpu.emit_statements import Statements


class Mmas(Statements):
    pass
