"""deepseek beside its peers: `python bench`.

Prints tables, and writes them to a folder as text, JSON and a page with bars. A full run also puts
them into docs/performance.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import report

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rows", default="", help="names, parts of names or patterns, by commas")
    parser.add_argument("--frameworks", default="", help="names or patterns, by commas")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, by commas")
    parser.add_argument("--quick", action="store_true", help="a few rows, within a minute")
    parser.add_argument("--resume", action="store_true", help="keep the rows of an unfinished run")
    parser.add_argument("--rounds", type=int, help="of all variants in turn, for each row")
    parser.add_argument("--statistic", choices=["median", "min", "cpu"], default="median")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "bench")
    parser.add_argument("--list", action="store_true", help="the rows and frameworks there are")
    return report.main(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
