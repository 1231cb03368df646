"""What deepseek wants to reach, each goal beside the figure of this run.

In: the rows of a run. Out: one `Table`. A goal that a run has no rows for is left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from measure import Row, SweepRow
from summary import (
    COMPILED_PEERS,
    OURS,
    Figures,
    Summary,
    Table,
    geometric_mean,
    over,
    part_text,
    ratio_text,
    time_text,
)

EAGER = "ours-eager"
NAMED = 3  # how many of the rows that miss a goal are named
TRANSCENDENTAL = ("elementwise chain 4096²", "softmax 4096²")


@dataclass(frozen=True)
class Reached:
    """A goal, what is wanted, what was measured, and whether that is it."""

    goal: str
    wanted: str
    measured: str
    met: bool
    misses: str = ""


def each(
    goal: str, wanted: str, values: dict[str, float | None], least: float,
    text: Callable[[float], str] = ratio_text,
) -> Iterable[Reached]:  # fmt: skip
    """A goal for each of several rows: how many meet it, and the rows that are furthest off."""
    known = {name: v for name, v in values.items() if v is not None}
    if not known:
        return
    missing = sorted((v, name) for name, v in known.items() if v < least)
    misses = "; ".join(f"{name} {text(v)}" for v, name in missing[:NAMED])
    measured = f"{len(known) - len(missing)} of {len(known)} rows"
    yield Reached(goal, wanted, measured, not missing, misses)


def least(
    goal: str, wanted: float, value: float | None, text: Callable[[float], str] = ratio_text
) -> Iterable[Reached]:
    """A goal for one figure, at least so much."""
    if value is not None:
        yield Reached(goal, f"≥ {text(wanted)}", text(value), value >= wanted)


def most(
    goal: str, wanted: float, value: float | None, text: Callable[[float], str] = time_text
) -> Iterable[Reached]:
    """A goal for one figure, at most so much."""
    if value is not None:
        yield Reached(goal, f"≤ {text(wanted)}", text(value), value <= wanted)


class Goals:
    """The figures of one run, asked by goal."""

    def __init__(
        self, summary: Summary, rows: Sequence[Row], sweeps: Sequence[SweepRow],
        processes: dict[str, list[float]],
    ) -> None:  # fmt: skip
        self.summary = summary
        self.rows = {row.name: row for row in rows}
        self.sweeps = {row.name: row for row in sweeps}
        self.processes = processes
        self.figures = {name: summary.figures(row, "1") for name, row in self.rows.items()}

    def table(self) -> Table:
        reached = [
            *self.beside_peers(), *self.beside_limits(), *self.threads(), *self.calls(),
            *self.compiling(), *self.sizes(), *self.memory(),
        ]  # fmt: skip
        body = [
            [r.goal, r.wanted, r.measured, "met" if r.met else "missed", r.misses] for r in reached
        ]
        header = ["goal, one thread if not said otherwise", "wanted", "measured", "", "furthest"]
        return Table("Goals", header, body)

    def beside_peers(self) -> Iterable[Reached]:
        ratios = {name: f.ratio for name, f in self.figures.items()}
        yield from each("every row beside its best peer", "≥ 0.97x", ratios, 0.97)
        others = {n: f.ratio for n, f in self.figures.items() if f.bound != "arithmetic"}
        yield from each("rows not bound by multiply-adds, beside the best", "≥ 1.5x", others, 1.5)
        odd = {n: r for n, r in ratios.items() if not self.rows[n].cells[OURS].first}
        yield from each("forty odd products beside the best", "≥ 0.95x", odd, 0.95)
        for label, values, wanted in (
            ("best peer of each row", [f.ratio for f in self.figures.values()], 1.3),
            ("torch.compile", self.to(COMPILED_PEERS[0]), 2.0),
            ("JAX", self.to(COMPILED_PEERS[1]), 2.0),
        ):
            yield from least(f"geometric mean to the {label}", wanted, geometric_mean(values))

    def to(self, peer: str) -> list[float | None]:
        return [f.to[peer] for f in self.figures.values()]

    def beside_limits(self) -> Iterable[Reached]:
        products = self.reached(lambda n, f: f.bound == "arithmetic" and n not in TRANSCENDENTAL)
        yield from each(
            "rows bound by multiply-adds, of the peak", "≥ 90%", products, 0.9, part_text
        )
        moving = self.reached(lambda n, f: f.bound == "memory")
        yield from each("rows bound by memory, of bandwidth", "≥ 90%", moving, 0.9, part_text)
        functions = self.reached(lambda n, f: n in TRANSCENDENTAL)
        yield from each(
            "rows of transcendental functions, of their limit", "≥ 77%", functions, 0.77, part_text
        )

    def reached(self, of: Callable[[str, Figures], bool]) -> dict[str, float | None]:
        return {n: f.fraction for n, f in self.figures.items() if of(n, f)}

    def threads(self) -> Iterable[Reached]:
        """What a second thread gains, as a part of what it gains the machine."""
        parts: dict[str, float | None] = {}
        for name, row in self.rows.items():
            two = self.summary.figures(row, "2")
            gained = over(self.figures[name].ours, two.ours)
            parts[name] = over(gained, over(self.figures[name].limit, two.limit))
        yield from each(
            "gain by a second thread, of the machine's", "≥ 92%", parts, 0.92, part_text
        )
        yield from least(
            "the same, geometric mean", 0.92, geometric_mean(parts.values()), part_text
        )
        idle = self.processes.get("idle workers")
        if idle:
            yield from most("CPU time of idle workers after a call", 1e-3, statistics.median(idle))

    def calls(self) -> Iterable[Reached]:
        for name, goal, wanted in (
            ("call: add of 2 vectors of 4", "a call with 2 vectors", 1.5e-6),
            ("call: sum of 20 vectors of 4", "a call with 20 arguments", 4e-6),
            ("call: AdamW over 50 vectors of 4", "a step over 50 parameters", 15e-6),
        ):
            yield from most(goal, wanted, self.ours(name))
        eager = self.seconds("call: add of 2 vectors of 4", EAGER)
        yield from most("an eager op, recorded, planned and run", 8e-6, eager)
        step = "mlp training step batch 128"
        part = over(self.ours(step), self.seconds(step, EAGER))
        yield from least("an eager training loop, of the jitted one's speed", 0.8, part, part_text)

    def compiling(self) -> Iterable[Reached]:
        step, layers = "mlp training step batch 128", "transformer {} layers step"
        two, twelve, many = (layers.format(n) for n in (2, 12, 24))
        yield from most("first call of the MLP step", 0.3, self.first(step, "cold"))
        yield from most("first call of a 12-layer step", 1.0, self.first(twelve, "cold"))
        more = over(self.first(many, "cold"), self.first(two, "cold"))
        yield from most("first call of 24 layers, to that of 2", 1.3, more, ratio_text)
        yield from most("the MLP step from the disk", 0.1, self.first(step, "warm"))
        yield from most("the 12-layer step from the disk", 0.1, self.first(twelve, "warm"))
        alone, first = (self.processes.get(k) for k in ("NumPy", "first result"))
        if alone and first:
            beyond = statistics.median(first) - statistics.median(alone)
            yield from most("first result of a fresh process, beyond NumPy's", 0.06, beyond)

    def sizes(self) -> Iterable[Reached]:
        row = self.sweeps.get("sizes: block at 500 batch x sequence")
        cell = row.cells.get(OURS, {}) if row else {}
        if "compiles" in cell:
            counted = cell["compiles"]
            yield from most("traces at 500 sizes", 2, counted["traces"], str)
            yield from most("programs at 500 sizes", 3, counted["programs"], str)
            yield from most(
                "code for all sizes, to code for one", 1.15, cell["general"], ratio_text
            )

    def memory(self) -> Iterable[Reached]:
        slack = {}
        for name, row in self.rows.items():
            peaks = {n: c.peak for n, c in row.cells.items() if c.peak and not c.trouble}
            rivals = [peak for n, peak in peaks.items() if n.startswith(("torch", "jax"))]
            slack[name] = over(min(rivals), peaks.get(OURS)) if rivals else None
        yield from each("peak memory beside the leanest of torch and JAX", "≥ 1.00x", slack, 1.0)

    def ours(self, name: str) -> float | None:
        return self.seconds(name, OURS)

    def seconds(self, name: str, variant: str) -> float | None:
        row = self.rows.get(name)
        return self.summary.seconds(row, variant, "1") if row else None

    def first(self, name: str, cache: str) -> float | None:
        row = self.rows.get(name)
        cell = row.cells.get(OURS) if row else None
        return cell.first.get(cache) if cell else None
