"""Lets these tests use the helpers beside them and the op sweep's, and the shim as a backend."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "ops"), str(HERE.parent / "kernel")]
