"""A run from end to end: what is chosen is measured, and tables of it go where they belong."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import measure
import page
import processes
import render
import summary
import variants
import workloads
from goals import Goals
from measure import Bench, Effort, Row, SweepRow
from neutral import Sweep, Workload
from summary import OURS, Summary, Table
from variants import Variant

import deepseek as ds

ROOT = Path(__file__).resolve().parents[1]
# Without those that take seconds to compile a row.
QUICK_VARIANTS = "ours,torch,onnxruntime,jax,numpy"
# What most machines have: our code is measured once more without AVX-512, beside such limits.
NARROW, NARROW_TITLE = "v3", "AVX2 alone, 1 thread"
STARTS = 15  # fresh processes of each kind
QUICK_EFFORT = Effort(rounds=3, seconds=0.03, patience=30, sweep=3)


@dataclass
class Run:
    """All that is known of a run, as it is written to bench.json."""

    about: dict[str, Any]
    machine: dict[str, dict[str, float]]
    rows: list[Row]
    sweeps: list[SweepRow]
    processes: dict[str, list[float]]
    narrow: list[Row]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def main(given: argparse.Namespace) -> int:
    chosen = workloads.chosen(given.rows, given.quick)
    sweeps = workloads.chosen_sweeps(given.rows, given.quick)
    columns = variants.chosen(given.frameworks or (QUICK_VARIANTS if given.quick else ""))
    if given.list:
        print(*(w.name for w in [*chosen, *sweeps]), "", *(v.name for v in columns), sep="\n")
        return 0
    if not (chosen or sweeps) or not columns:
        what = "frameworks" if chosen or sweeps else "rows"
        raise SystemExit(f"bench: no {what} match; `python bench --list` shows what there is")
    effort = QUICK_EFFORT if given.quick else Effort()
    if given.rounds:
        effort = replace(effort, rounds=given.rounds)
    threads = [1] if given.quick else [int(t) for t in given.threads.split(",")]
    run = measured(chosen, sweeps, Bench(columns, threads, effort, given.out), given)
    tables = made(run, columns, given.statistic)
    for table in tables:
        print(render.as_text(table))
    run.save(given.out / "bench.json")
    (given.out / "bench.txt").write_text("\n".join(map(render.as_text, tables)))
    (given.out / "bench.html").write_text(page.page(run.about, tables, run.rows, columns))
    print(f"written: {given.out}/bench.txt, bench.json, bench.html")
    if not (given.rows or given.frameworks or given.quick):
        text = "\n".join([heading(run.about), *map(render.as_markdown, tables)])
        render.put_between_markers(ROOT / "docs" / "performance.md", text)
    return 1 if failed(run) else 0


def measured(
    chosen: list[Workload], sweeps: list[Sweep], bench: Bench, given: argparse.Namespace
) -> Run:
    """Measure what is chosen, or read what an unfinished run has measured of it."""
    if not given.resume:
        measure.forget(given.out)
    load, began = os.getloadavg()[0], time.monotonic()
    limits = bench.machine()
    rows: dict[str, Any] = kept(given.out, [*chosen, *sweeps])
    left = [w for w in chosen if w.name not in rows], [s for s in sweeps if s.name not in rows]
    working = itertools.chain(bench.rows(left[0]), bench.sweeps(left[1]))
    count = sum(map(len, left))
    for row in ds.progress(working, "bench", count, unit="row", show=True, every=10):
        rows[row.name] = row
    about = {
        "date": datetime.date.today().isoformat(),
        "cpu": processor(),
        "processors": os.cpu_count(),
        "commit": commit(),
        "load before": round(load, 2),
        "seconds": round(time.monotonic() - began),
        "statistic": given.statistic,
        "python": platform.python_version(),
        "versions": bench.versions,
    }
    started = {} if given.quick or bench.columns[0].name != OURS else processes.measured(STARTS)
    return Run(
        about, limits, [rows[w.name] for w in chosen], [rows[s.name] for s in sweeps], started,
        [] if given.quick else narrowed(chosen, bench, given),
    )  # fmt: skip


def narrowed(chosen: list[Workload], bench: Bench, given: argparse.Namespace) -> list[Row]:
    """The rows that the machine limits, by our own code without AVX-512 and one thread."""
    columns = [v for v in bench.columns if v.name == OURS]
    limited = [replace(w, warm=False, cold=False) for w in chosen if w.limited and columns]
    out = given.out / NARROW
    if not given.resume:
        measure.forget(out)
    rows = kept(out, limited)
    left = [w for w in limited if w.name not in rows]
    with at_level(NARROW):
        working = Bench(columns, [1], bench.effort, out).rows(left)
        for row in ds.progress(working, NARROW_TITLE, len(left), unit="row", show=True, every=10):
            rows[row.name] = row
    return [rows[w.name] for w in limited]


def kept(out: Path, chosen: Sequence[Workload | Sweep]) -> dict[str, Any]:
    """What a run into this folder has measured of these."""
    paths = {w.name: out / "rows" / f"{measure.slug(w.name)}.json" for w in chosen}
    return {name: measure.load(path) for name, path in paths.items() if path.exists()}


@contextlib.contextmanager
def at_level(level: str) -> Iterator[None]:
    """Processes that are started here keep to a level of instructions, the probes' too."""
    before = os.environ.get("DS_CPU_LEVEL")
    os.environ["DS_CPU_LEVEL"] = level
    try:
        yield
    finally:
        del os.environ["DS_CPU_LEVEL"]
        if before is not None:
            os.environ["DS_CPU_LEVEL"] = before


def failed(run: Run) -> bool:
    """Whether a result of our own was not there or not what it should be."""
    ours = [c.trouble for row in run.rows for n, c in row.cells.items() if n.startswith("ours")]
    ours += [
        c.get("trouble") for row in run.sweeps for n, c in row.cells.items() if n.startswith("ours")
    ]
    return any(ours)


def made(run: Run, columns: list[Variant], statistic: str) -> list[Table]:
    """All tables, those of one thread first."""
    figures = Summary(columns, statistic)
    threads = list(dict.fromkeys(t for row in run.rows for c in row.cells.values() for t in c.wall))
    goals = Goals(figures, run.rows, run.sweeps, run.processes)
    tables = [summary.machine(run.machine), goals.table()]
    tables += [summary.comparison(figures, run.rows, t) for t in threads]
    tables += [summary.everything(figures, run.rows, t) for t in threads]
    tables += [
        summary.first_calls(figures, run.rows), summary.sweeps(figures, run.sweeps),
        summary.peaks(figures, run.rows),
        *([summary.narrower(figures, run.narrow, NARROW_TITLE)] if run.narrow else []),
    ]  # fmt: skip
    return [table for table in tables if table.rows]


def heading(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"`make bench` on {about['date']}, {about['cpu']}, {about['processors']} processors, "
        f"commit {about['commit']}, load before {about['load before']}, {about['seconds']} s. "
        f"{about['statistic'].capitalize()} of the samples; {versions}.\n"
    )


def processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1].strip() if found else platform.processor()


def commit() -> str:
    """The commit of the sources, with a plus where they have changed since."""

    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", ROOT, *args], capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")
