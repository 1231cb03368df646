"""What the samples say: times, limits, ratios, means; as tables of text cells.

In: a run's rows as `measure` keeps them. Out: `Table`s, which `render` writes as text, Markdown or
HTML. A ratio is a peer's time over ours: above one, deepseek is faster.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from measure import Cell, Row, SweepRow
from variants import Variant

# A row that is faster than its limit by more than this says that the probe is bad.
PROBE_SLACK = 0.97
OURS, COMPILED_PEERS = "ours", ("torch-compile", "jax")


@dataclass
class Table:
    """Text cells under a header, and notes below."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    foot: bool = False  # whether the last row sums up


@dataclass(frozen=True)
class Figures:
    """One row for one number of threads, in seconds. Ratios are None where one side is missing."""

    ours: float | None
    best_peer: str
    ratio: float | None  # to the best peer
    to: dict[str, float | None]  # to each of COMPILED_PEERS
    limit: float | None
    bound: str  # "memory" or "arithmetic"
    fraction: float | None  # of the limit that we reach
    beaten_by: list[str]  # variants that are faster than the limit


class Summary:
    """The figures of a run: by "median", by "min", or by "cpu".

    The last is the least CPU time, for one thread on a busy machine, where the clock counts what
    others did.
    """

    def __init__(self, columns: Sequence[Variant], statistic: str = "median") -> None:
        self.columns = list(columns)
        self.peers = [v for v in columns if v.peer]
        self.busy = statistic == "cpu"
        self.of = statistics.median if statistic == "median" else min

    def seconds(self, row: Row, name: str, threads: str) -> float | None:
        samples = self.samples(row.cells.get(name), threads)
        return self.of(samples) if samples else None

    def samples(self, cell: Cell | None, threads: str) -> list[float]:
        """Seconds a call; of all threads together there is no CPU time that says how long."""
        if cell is None or cell.trouble:
            return []
        return (cell.cpu if self.busy and threads == "1" else cell.wall).get(threads, [])

    def figures(self, row: Row, threads: str) -> Figures:
        ours = self.seconds(row, OURS, threads)
        timed = [(self.seconds(row, v.name, threads), v.name) for v in self.peers]
        best, best_peer = min(((t, n) for t, n in timed if t is not None), default=(None, ""))
        limit, bound = limit_of(row, threads)
        beaten_by = []
        if limit is not None:
            for variant in self.columns:
                samples = self.samples(row.cells.get(variant.name), threads)
                if samples and min(samples) < limit * PROBE_SLACK:
                    beaten_by.append(variant.name)
        return Figures(
            ours, best_peer, over(best, ours),
            {n: over(self.seconds(row, n, threads), ours) for n in COMPILED_PEERS},
            limit, bound, over(limit, ours), beaten_by,
        )  # fmt: skip


def over(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def limit_of(row: Row, threads: str) -> tuple[float | None, str]:
    """The least time for what the row moves and computes, and which of the two it is.

    The better kind of store counts; a probe's best sample counts, since limits do not vary upwards.
    """
    probes = {name: min(samples) for name, samples in row.limits.get(threads, {}).items()}
    operation = probes.pop("float32", None)
    if not probes:
        return None, ""
    moving = min(probes.values())
    computing = operation * row.flops if operation else 0.0
    return (moving, "memory") if moving >= computing else (computing, "arithmetic")


def geometric_mean(values: Iterable[float | None]) -> float | None:
    known = [math.log(v) for v in values if v is not None]
    return math.exp(sum(known) / len(known)) if known else None


def spread(samples: Sequence[float]) -> float:
    """The distance between quartiles as a part of the median."""
    if len(samples) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(samples, n=4)
    return (high - low) / middle


def time_text(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s"


def ratio_text(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}x"


def part_text(part: float | None) -> str:
    return "–" if part is None else f"{part:.0%}"


def bytes_text(n: int | None) -> str:
    return "–" if n is None else f"{n / 2**20:.0f} MB"


def comparison(summary: Summary, rows: Sequence[Row], threads: str) -> Table:
    """Ours beside the best peer, and the limit."""
    labels = {v.name: v.label for v in summary.columns}
    header = [
        "row", "deepseek", "spread", "best peer", "its time", "ratio", "to torch.compile", "to JAX",
        "limit", "reached", "",
    ]  # fmt: skip
    body, all_figures = [], []
    for row in rows:
        f = summary.figures(row, threads)
        all_figures.append(f)
        cell = row.cells.get(OURS)
        samples = summary.samples(cell, threads)
        trouble = cell.trouble if cell else ""
        beaten = ", ".join(labels[n] for n in f.beaten_by)
        body.append([
            row.name, trouble or time_text(f.ours), part_text(spread(samples) if samples else None),
            labels.get(f.best_peer, "–"), time_text(summary.seconds(row, f.best_peer, threads)),
            ratio_text(f.ratio), *(ratio_text(f.to[n]) for n in COMPILED_PEERS),
            f"{time_text(f.limit)} {f.bound}" if f.limit else "–", part_text(f.fraction),
            f"BAD PROBE: beaten by {beaten}" if beaten else "",
        ])  # fmt: skip
    means = [geometric_mean(f.ratio for f in all_figures)]
    means += [geometric_mean(f.to[n] for f in all_figures) for n in COMPILED_PEERS]
    reached = geometric_mean(f.fraction for f in all_figures)
    body.append([
        f"geometric mean of {len(rows)}", "", "", "", "", *map(ratio_text, means), "",
        part_text(reached), "",
    ])  # fmt: skip
    title = f"Beside peers, {threads} thread{'s' if threads != '1' else ''}"
    return Table(title, header, body, foot=True)


def narrower(summary: Summary, rows: Sequence[Row], title: str) -> Table:
    """Ours alone beside the limits of fewer instructions than the machine has."""
    all_figures = [summary.figures(row, "1") for row in rows]
    body = [
        [row.name, time_text(f.ours), f"{time_text(f.limit)} {f.bound}", part_text(f.fraction)]
        for row, f in zip(rows, all_figures, strict=True)
    ]
    reached = part_text(geometric_mean(f.fraction for f in all_figures))
    body.append([f"geometric mean of {len(rows)}", "", "", reached])
    return Table(title, ["row", "deepseek", "limit", "reached"], body, foot=True)


def everything(summary: Summary, rows: Sequence[Row], threads: str) -> Table:
    """The time of every variant on every row."""
    shown = [v for v in summary.columns if any(v.name in row.cells for row in rows)]
    body, notes = [], []
    for row in rows:
        texts = []
        for variant in shown:
            cell = row.cells.get(variant.name)
            texts.append(time_text(summary.seconds(row, variant.name, threads)))
            if cell and cell.trouble and variant.name in row.cells:
                texts[-1] = "*"
                notes.append(f"{row.name}, {variant.label}: {cell.trouble}")
        body.append([row.name, *texts])
    title = f"All times, {threads} thread{'s' if threads != '1' else ''}"
    return Table(title, ["row", *(v.label for v in shown)], body, sorted(set(notes)))


def first_calls(summary: Summary, rows: Sequence[Row]) -> Table:
    """Import, first call from cold caches, first call from warm ones; in fresh processes."""
    shown = [v for v in summary.columns if not v.keeping and v.name != "ours-reference"]
    kind = " cpu" if summary.busy else ""
    body = []
    for row in rows:
        texts = []
        for variant in shown:
            cell = row.cells.get(variant.name)
            cold = cell.first.get(f"cold{kind}") if cell else None
            warm = cell.first.get(f"warm{kind}") if cell else None
            text = time_text(cold)
            texts.append(f"{text} / {time_text(warm)}" if warm is not None else text)
        if any(text != "–" for text in texts):
            body.append([row.name, *texts])
    imports = [
        min((c.start for r in rows if (c := r.cells.get(v.name)) and c.start), default=None)
        for v in shown
    ]
    body.insert(0, ["import", *map(time_text, imports)])
    title = "First calls: cold / from the disk cache"
    if summary.busy:
        title += ", CPU time of the process without its helpers"
    return Table(title, ["row", *(v.label for v in shown)], body)


def sweeps(summary: Summary, rows: Sequence[SweepRow]) -> Table:
    """New sizes / the same sizes again; what was compiled, and what generality costs."""
    shown = [v for v in summary.columns if any(v.name in row.cells for row in rows)]
    body, notes = [], []
    for row in rows:
        texts = []
        for variant in shown:
            cell = row.cells.get(variant.name, {})
            if cell.get("trouble"):
                notes.append(f"{row.name}, {variant.label}: {cell['trouble']}")
            if "new" not in cell:
                texts.append("*" if cell else "–")
                continue
            part = "" if cell["done"] == row.sizes else f" ({cell['done']} sizes only)"
            texts.append(f"{time_text(cell['new'])} / {time_text(cell['again'])}{part}")
            if "compiles" in cell:
                counted = ", ".join(f"{n} {name}" for name, n in cell["compiles"].items())
                notes.append(
                    f"{row.name}, {variant.label}: {counted}; "
                    f"{cell['general']:.2f}x the time of code for one size"
                )
        body.append([row.name, *texts])
    header = ["row", *(v.label for v in shown)]
    return Table("Many sizes: new / again", header, body, notes)


def peaks(summary: Summary, rows: Sequence[Row]) -> Table:
    """Peak memory of the process beside the leanest of torch and JAX."""
    shown = [v for v in summary.columns if not v.keeping and v.name != "ours-reference"]
    rivals = [v.name for v in shown if v.name.startswith(("torch", "jax"))]
    body = []
    for row in rows:
        known = {n: c.peak for n, c in row.cells.items() if c.peak and not c.trouble}
        if not known:  # rows that share their processes
            continue
        leanest = min((known[n] for n in rivals if n in known), default=None)
        ours = known.get(OURS)
        more = part_text(over(ours, leanest))
        body.append([row.name, more, *(bytes_text(known.get(v.name)) for v in shown)])
    header = ["row", "ours / leanest of torch and JAX", *(v.label for v in shown)]
    return Table("Peak memory of the process, first calls", header, body)


def machine(limits: dict[str, dict[str, float]]) -> Table:
    """What the probes reach: GB/s, or G operations a second."""
    names = list(dict.fromkeys(n for found in limits.values() for n in found))
    units = {n: "G/s" if n.startswith("peak") else "GB/s" for n in names}
    body = [[n, *(f"{found[n]:.0f} {units[n]}" for found in limits.values())] for n in names]
    return Table("Limits of the machine", ["probe", *(f"threads: {t}" for t in limits)], body)
