"""Measures rows: each variant in a process of its own, checked, then timed in interleaved rounds.

In: workloads and variants. Out: for each row a `Row` of plain data, kept in a file as soon as it is
measured, so that a run can be cut short and gone on with.
"""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import variants
from frameworks import numpy_cpu
from neutral import Sweep, Workload
from variants import Trouble, Unsupported, Variant, Worker

PATIENCE = 60.0  # seconds to import a library


@dataclass(frozen=True)
class Effort:
    """How much time a row may take."""

    rounds: int = 5
    seconds: float = 0.06  # of a variant's turn in a round; one call at least
    patience: float = 120.0  # for a first call
    sweep: float = 20.0  # for new sizes; the rest are left out


@dataclass
class Cell:
    """One variant on one row: samples of wall and CPU seconds a call by number of threads."""

    trouble: str = ""
    error: float | None = None
    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    start: float | None = None  # seconds to import
    peak: int | None = None


@dataclass
class Row:
    """All that is known of a workload."""

    name: str
    about: str
    read: int
    write: int
    flops: float
    limited: bool
    tolerance: float
    cells: dict[str, Cell] = field(default_factory=dict)
    # By number of threads and probe, the samples; "float32" in seconds for one operation.
    limits: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        keep(self, folder)


@dataclass
class SweepRow:
    """A body at many sizes. A cell has how many were done, seconds new and again, and compiles."""

    name: str
    about: str
    sizes: int
    tolerance: float
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        keep(self, folder)


def keep(row: Row | SweepRow, folder: Path) -> None:
    """Write a row to a file of its own, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{slug(row.name)}.part"
    part.write_text(json.dumps(asdict(row)))
    part.rename(part.with_suffix(".json"))


def load(path: Path) -> Row | SweepRow:
    """What `keep` wrote."""
    said = json.loads(path.read_text())
    if "sizes" in said:
        return SweepRow(**said)
    said["cells"] = {name: Cell(**cell) for name, cell in said["cells"].items()}
    return Row(**said)


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def reference(workload: Workload, arrays: Sequence[np.ndarray[Any, Any]]) -> list[Any]:
    """The results in float64, by NumPy."""
    wide = [a.astype(np.float64) if a.dtype == np.float32 else a for a in arrays]
    case = numpy_cpu.NumPyFramework().case(workload, wide)
    for _ in range(workload.steps):
        last = case.call()
    return case.results(last)


class Bench:
    """What all rows of a run share."""

    def __init__(
        self, columns: Sequence[Variant], threads: Sequence[int], effort: Effort, out: Path
    ) -> None:
        self.columns = list(columns)
        self.threads = list(threads)
        self.effort = effort
        self.out = out
        self.logs = out / "logs"
        self.versions: dict[str, str] = {}

    def rows(self, chosen: Iterable[Workload]) -> Iterator[Row]:
        """Measure, keep and give the rows; those that no first call is measured of go together."""
        for cold, several in itertools.groupby(chosen, lambda w: w.cold):
            for group in [[w] for w in several] if cold else [list(several)]:
                rows = [blank(workload) for workload in group]
                # A process that is not limited by the machine is not by its threads either.
                for threads in self.threads if any(row.limited for row in rows) else [1]:
                    self.together(list(zip(group, rows, strict=True)), threads)
                for row in rows:
                    row.save(self.out / "rows")
                    yield row

    def together(self, group: list[tuple[Workload, Row]], threads: int) -> None:
        """All columns on all rows of a group with so many threads, by the same processes."""
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
            fresh = any(workload.warm for workload, _ in group)
            caches = Path(scratch) / "caches" if fresh else self.out / "caches"
            with Team(self, threads, caches) as team:
                for i, (workload, row) in enumerate(group):
                    folder = Path(scratch) / str(i)
                    written = write_data(workload, folder)
                    row.write = row.write or written
                    columns = [
                        v for v in self.columns if v.suits(workload, threads, written)
                    ]  # fmt: skip
                    team.measure(workload, row, columns, folder)
                    if workload.warm and threads == self.threads[0]:
                        team.measure_warm(workload, row, columns, folder)
                    shutil.rmtree(folder)

    def sweeps(self, chosen: Iterable[Sweep]) -> Iterator[SweepRow]:
        """Rows of many sizes, by one thread; each variant alone, with cold caches."""
        for sweep in chosen:
            weights, inputs = sweep.arrays()
            with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
                folder = Path(scratch)
                kept = {f"weight{i}": w for i, w in enumerate(weights)}
                kept |= {f"input{i}": x for i, x in enumerate(inputs)}
                wide = [w.astype(np.float64) for w in weights]
                for i, x in enumerate(inputs):
                    kept[f"expected{i}"] = sweep.body(numpy_cpu.NumPyOps(), *wide, np.float64(x))
                np.savez(folder / "sizes.npz", **kept)
                row = SweepRow(sweep.name, sweep.about, len(inputs), sweep.tolerance)
                for variant in self.columns:
                    if variant.name not in sweep.without and not variant.keeping:
                        row.cells[variant.name] = self.swept(variant, sweep, folder)
            row.save(self.out / "rows")
            yield row

    def swept(self, variant: Variant, sweep: Sweep, folder: Path) -> dict[str, Any]:
        worker = self.start(variant, 1, folder / "caches")
        try:
            self.versions |= worker.answer(PATIENCE)["versions"]
            said = worker.ask(
                "sweep", 3 * self.effort.patience, name=sweep.name, folder=str(folder),
                seconds=self.effort.sweep,
            )  # fmt: skip
        except Trouble as trouble:
            return {"trouble": str(trouble)}
        finally:
            worker.close()
        if said["error"] > sweep.tolerance:
            said["trouble"] = f"wrong: error {said['error']:.1e}"
        return said

    def start(self, variant: Variant, threads: int, caches: Path) -> Worker:
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{variant.name}.log"
        return Worker(variant, threads, caches / variant.base, log)

    def machine(self) -> dict[str, dict[str, float]]:
        """The limits of the machine by number of threads: GB/s of streams, G operations/s."""
        found: dict[str, dict[str, float]] = {}
        for threads in self.threads:
            worker = self.start(variants.limits(), threads, self.out / "caches")
            try:
                worker.answer(PATIENCE)
                moved = worker.ask("machine", PATIENCE)["bytes"]
                seconds = 10 * self.effort.seconds
                probes = worker.ask("time", PATIENCE, seconds=seconds)["probes"]
            finally:
                worker.close()
            found[str(threads)] = {
                name: moved.get(name, 1) / min(samples) / 1e9 for name, samples in probes.items()
            }
        return found


class Team:
    """The processes of one number of threads; one that dies or hangs is started again."""

    def __init__(self, bench: Bench, threads: int, caches: Path) -> None:
        self.bench = bench
        self.threads = threads
        self.caches = caches
        self.workers: dict[str, Worker] = {}
        self.started: set[str] = set()

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.workers.values():
            worker.close()

    def measure(
        self, workload: Workload, row: Row, columns: Sequence[Variant], folder: Path
    ) -> None:
        """Start who is not there, have each run and check the row, then time all in rounds."""
        wanted = [*columns, *([variants.limits()] if row.limited else [])]
        self.start(wanted)
        for variant in columns:
            cell = row.cells.setdefault(variant.name, Cell())
            if not cell.trouble:
                cell.trouble = self.trouble_of(variant, workload, cell, folder)
        if row.limited:
            moved = {"read": row.read, "write": row.write}
            self.workers["limits"].ask("prepare", PATIENCE, name=row.name, folder="", **moved)
        ready = [v for v in wanted if v.name == "limits" or not row.cells[v.name].trouble]
        # Rows that share their processes are many, and small.
        rounds = self.bench.effort.rounds
        for turn in range(rounds if workload.cold else -(-rounds // 2)):
            # Each goes first as often, should the first have it better.
            start = turn % max(len(ready), 1)
            for variant in ready[start:] + ready[:start]:
                if variant.name in self.workers:
                    self.take_turn(variant, row)

    def start(self, wanted: Sequence[Variant]) -> None:
        """Start processes side by side; nothing is timed before all are there."""
        fresh = [v for v in wanted if v.name not in self.workers]
        for variant in fresh:
            self.workers[variant.name] = self.bench.start(variant, self.threads, self.caches)
        for variant in fresh:
            said = self.workers[variant.name].answer(PATIENCE)
            self.bench.versions |= said["versions"]

    def trouble_of(self, variant: Variant, workload: Workload, cell: Cell, folder: Path) -> str:
        """Run a row once and check it. What went wrong, or nothing."""
        worker = self.workers[variant.name]
        patience = self.bench.effort.patience
        try:
            prepared = worker.ask("prepare", patience, name=workload.name, folder=str(folder))
            first = worker.ask("first", patience)
            checked = worker.ask("check", patience)
        except Unsupported as reason:
            return str(reason)
        except Trouble as trouble:
            self.dismiss(variant)
            return str(trouble)
        cell.start = cell.start or prepared["imported"]
        if workload.cold:
            keep_first(cell, "cold", first)
            cell.peak = cell.peak or checked["peak"]
        cell.error = max(cell.error or 0.0, checked["error"])
        too_far = checked["error"] > workload.tolerance
        return f"wrong: error {checked['error']:.1e}" if too_far else ""

    def take_turn(self, variant: Variant, row: Row) -> None:
        effort, threads = self.bench.effort, str(self.threads)
        try:
            said = self.workers[variant.name].ask("time", effort.patience, seconds=effort.seconds)
        except Trouble as trouble:
            self.dismiss(variant)
            row.cells[variant.name].trouble = str(trouble)
            return
        if "probes" in said:
            kept = row.limits.setdefault(threads, {})
            for name, samples in said["probes"].items():
                kept.setdefault(name, []).extend(samples)
        else:
            cell = row.cells[variant.name]
            cell.wall.setdefault(threads, []).extend(said["wall"])
            cell.cpu.setdefault(threads, []).extend(said["cpu"])

    def measure_warm(
        self, workload: Workload, row: Row, columns: Sequence[Variant], folder: Path
    ) -> None:
        """First calls in new processes that find what the first ones left on disk."""
        for variant in columns:
            cell = row.cells[variant.name]
            if cell.trouble or not variant.caches or variant.keeping:
                continue
            self.dismiss(variant)
            self.start([variant])
            worker, patience = self.workers[variant.name], self.bench.effort.patience
            worker.ask("prepare", patience, name=workload.name, folder=str(folder))
            keep_first(cell, "warm", worker.ask("first", patience))

    def dismiss(self, variant: Variant) -> None:
        self.workers.pop(variant.name).close()


def keep_first(cell: Cell, cache: str, said: dict[str, Any]) -> None:
    """Wall and CPU seconds of a first call, unless they are known."""
    cell.first.setdefault(cache, said["seconds"])
    cell.first.setdefault(f"{cache} cpu", said["cpu"])


def blank(workload: Workload) -> Row:
    return Row(
        workload.name, workload.about, workload.read or sum(s.nbytes for s in workload.inputs),
        workload.write, workload.flops, workload.limited, workload.tolerance,
    )  # fmt: skip


def write_data(workload: Workload, folder: Path) -> int:
    """Inputs and expected results as files; the bytes of the results in float32."""
    folder.mkdir()
    arrays = workload.arrays()
    for i, array in enumerate(arrays):
        np.save(folder / f"input{i}.npy", array)
    written = 0
    for i, array in enumerate(reference(workload, arrays)):
        np.save(folder / f"expected{i}.npy", np.asarray(array))
        written += 4 * int(np.size(array))
    return written


def forget(out: Path) -> None:
    """Remove what earlier runs left."""
    for folder in ("rows", "caches", "logs"):
        shutil.rmtree(out / folder, ignore_errors=True)
