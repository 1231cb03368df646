"""The text of an explanation, for a terminal.

In flow the Facts about an entry; out flows a report: headline figures, the recorded graph, what
each pass did, the steps with the user's lines, and the guards. A graph or a list of guards that no
one would read to the end is counted by the user's line and by what the guards are about.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from deepseek.debug.palette import as_bytes, as_count
from deepseek.debug.reports import Facts
from deepseek.errors import format_line

LONG = 60  # nodes, or guards
TELLING = 6  # ops named for a line


def report(facts: Facts) -> str:
    """The whole report."""
    parts = [[f"{facts.name} on {facts.target}", *indented(headline(facts))]]
    parts.append([f"recorded graph, {len(facts.recorded.nodes)} nodes",
                  *indented(graph_lines(facts))])  # fmt: skip
    if facts.program is not None:
        parts.append(["passes", *indented(table(pass_rows(facts)))])
        parts.append(["steps", *indented(step_lines(facts))])
        parts.append(["kernels", *indented(kernel_lines(facts))])
    parts.append([f"used again while all of these hold ({len(facts.guards)})",
                  *indented(guard_lines(facts))])  # fmt: skip
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def graph_lines(facts: Facts) -> list[str]:
    """The recorded graph, or for a long one the ops that each of the user's lines recorded."""
    if len(facts.recorded.nodes) <= LONG:
        return facts.graph.splitlines()
    by_line: dict[str, Counter[str]] = {}
    for node in facts.recorded.nodes:
        line = "(no line)" if node.line is None else format_line(node.line)
        by_line.setdefault(line, Counter())[node.op.name] += 1
    lines = []
    for line, ops in by_line.items():
        named = [
            f"{count} {name}" if count > 1 else name for name, count in ops.most_common(TELLING)
        ]
        rest = f" and {len(ops) - TELLING} more kinds" if len(ops) > TELLING else ""
        lines += [line, f"  {ops.total()} nodes: {', '.join(named)}{rest}"]
    return [*lines, "(.graph has every node)"]


def guard_lines(facts: Facts) -> list[str]:
    """The guards, or for many how many of them there are about each thing."""
    if len(facts.guards) <= LONG:
        return list(facts.guards)
    subjects = [re.split(r"[ .\[]", guard, maxsplit=1)[0] for guard in facts.guards]
    about = Counter(subjects)
    lines = [g for g, subject in zip(facts.guards, subjects, strict=True) if about[subject] == 1]
    lines += [f"{count} about {name}" for name, count in about.most_common() if count > 1]
    return [*lines, "(.guards has every one)"]


def headline(facts: Facts) -> list[str]:
    """The figures of one call."""
    lines = []
    if facts.sizes:
        lines.append("for " + ", ".join(f"{name} = {size}" for name, size in facts.sizes.items()))
    if facts.program is None or facts.memory is None:
        return [*lines, "graphs are interpreted: no passes, kernels or memory plan"]
    lines.append(", ".join(f"{count} {what}" for what, count in facts.counts.items())
                 + f"; {len(facts.kernels)} kernels")  # fmt: skip
    work = facts.work
    lines.append(f"moves {as_bytes(work.bytes)} ({as_bytes(work.read)} read, "
                 f"{as_bytes(work.written)} written)")  # fmt: skip
    lines.append(f"{as_count(work.flops, 'flop')}, {as_count(work.transcendental)} of "
                 "them transcendental functions")  # fmt: skip
    figures = [f"{name} {as_bytes(size)}" for name, size in memory_figures(facts).items()]
    return [*lines, ", ".join(figures[:4]), ", ".join(figures[4:])]


def memory_figures(facts: Facts) -> dict[str, int]:
    """What the memory plan needs, beside what other ways would."""
    assert facts.memory is not None
    plan = facts.memory
    return {
        "arena": plan.arena_bytes,
        "lower bound": plan.lower_bound,
        "freed by count": plan.freed_by_count,
        "keeping everything": plan.keep_everything,
        "scratch of a thread": plan.scratch_bytes,
        "constants": plan.constant_bytes,
        "prepared": facts.prepared_bytes,
    }


def pass_rows(facts: Facts) -> list[tuple[str, str, str]]:
    """For each pass: its name, the nodes after it, the time it took."""
    changed = {stage.name: stage.nodes for stage in facts.stages}
    rows = []
    for name, seconds in facts.seconds.items():
        nodes = f"{changed[name]} nodes" if name in changed else "no change"
        rows.append((name, nodes, f"{seconds * 1e3:.2f} ms"))
    return rows


def step_lines(facts: Facts) -> list[str]:
    lines = []
    for step in facts.steps:
        indent = "  " * step.depth
        rows = f" of {step.rows} rows" if step.rows > 1 else ""
        lines.append(
            f"{indent}#{step.number} {step.kind}{rows}: {step.label}  "
            f"({as_bytes(step.work.read)} in, {as_bytes(step.work.written)} out, "
            f"{as_count(step.work.flops, 'flop')})"
        )
        if step.kernel is not None:
            lines += [f"{indent}     {line}" for line in facts.kernels[step.kernel].lines]
    return lines


def kernel_lines(facts: Facts) -> list[str]:
    rows = [
        (f"{number}", k.name, f"{k.launches} launches", f"{k.rows} rows", as_bytes(k.work.bytes),
         as_count(k.work.flops, "flop"))
        for number, k in enumerate(facts.kernels)
    ]  # fmt: skip
    return table(rows)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows with their columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]
