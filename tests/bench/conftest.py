"""The benchmarks are a folder that is run, not a package: its modules are found by path."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
