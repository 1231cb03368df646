"""Hold deepseek against PyTorch's own databases of samples: `python tests/oracle`.

Prints a table with totals and writes docs/conformance.md. `--ops softmax,nn.functional.gelu` runs
a part, `--samples 0` every sample of every op, `--resume` keeps the results of an unfinished run.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pool
import report
import worker

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="oracle", description=__doc__)
    parser.add_argument("--ops", default="", help="names or patterns (*), separated by commas")
    parser.add_argument("--samples", type=int, default=64, help="at most so many an op; 0: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run found")
    parser.add_argument("--limit", type=float, default=120, help="seconds that a sample may take")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "oracle")
    parser.add_argument("--failures", type=Path, help="also write every failure to this file")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        return worker.serve()
    subjects = pool.chosen(given.ops)
    results = pool.run(subjects, given)
    return report.write(results, ROOT, given)


if __name__ == "__main__":
    sys.exit(main())
