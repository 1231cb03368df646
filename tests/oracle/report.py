"""What came out: the table on the terminal, docs/conformance.md, and the list of failures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import ops
import subjects


def write(results: dict[str, list[dict[str, Any]]], root: Path, given: Any) -> int:
    total: Counter[str] = Counter()
    for subject, found in results.items():
        c = counts(found)
        total += c
        if c["bad"]:
            print(f"{subject:60} " + " ".join(f"{k}={v}" for k, v in c.items()))
    print(dict(total))
    if given.failures:
        lines = []
        for subject, found in results.items():
            for r in found:
                if r.get("why") and r["kind"] not in ("left_out", "lenient"):
                    lines.append(f"{subject} [{r['kind']}] ({r.get('sample', '')}): {r['why']}")
        given.failures.write_text("\n".join(lines) + "\n")
    return 0


def counts(found: list[dict[str, Any]]) -> Counter[str]:
    c: Counter[str] = Counter()
    for r in found:
        kind = r["kind"]
        if kind == "end":
            continue
        c[kind] += 1
        if kind in ("forward", "gradient", "error"):
            c[kind + "_ok"] += r["why"] is None
            c["bad"] += r["why"] is not None
        elif kind in ("crash", "broken"):
            c["bad"] += 1
    return c
