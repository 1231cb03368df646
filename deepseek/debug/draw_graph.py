"""The drawing of a Program: boxes are its steps, arrows the values that flow between them.

In flow the Facts about an entry; out flows an SVG that stands alone or inside a page, light or
dark. A box names its ops, its number and the user's line; the tabs under it are the values it
writes; pills are inputs and results. Where a step reads or writes many, they are drawn as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from deepseek.debug.layered import Box, Edge, place
from deepseek.debug.palette import (
    STYLE,
    as_bytes,
    as_count,
    clipped,
    clipped_name,
    plain_path,
    telling,
)
from deepseek.debug.reports import Facts, StepReport
from deepseek.ir.text import type_text
from deepseek.program import ir

CHAR = 6.7  # width of a character of the small type
WIDE = 7.8  # and of the titles'
MARGIN = 16.0
MANY = 3  # more inputs or results of one step than this are drawn as one
TITLE = 34


@dataclass(eq=False)
class Tab:
    """A value under the box that writes it, or several."""

    slots: tuple[int, ...]
    text: str
    middle: float = 0.0  # from the box's middle
    width: float = 0.0


@dataclass(eq=False)
class Shape:
    """What is drawn for one box."""

    box: Box
    style: str
    title: str
    lines: list[str]
    tip: str
    tabs: list[Tab] = field(default_factory=list)


class Drawing:
    """Collects shapes and edges."""

    def __init__(self, facts: Facts) -> None:
        assert facts.program is not None
        self.facts = facts
        self.slots = facts.program.slots
        self.outputs = set(facts.program.outputs)
        self.shapes: list[Shape] = []
        self.edges: list[tuple[Edge, str]] = []
        self.steps = [s for s in facts.steps if s.depth == 0]
        self.writer: dict[int, Shape] = {}
        for step in self.steps:
            self.add_step(step)

    # -------------------------------------------------------------------------------- what there is

    def text(self, slot: int) -> str:
        return type_text(self.slots[slot].type)

    def label(self, slot: int) -> str:
        return plain_path(self.slots[slot].label)

    def nbytes(self, slots: Sequence[int]) -> int:
        return sum(self.facts.slot_bytes(slot) for slot in slots)

    def add_step(self, step: StepReport) -> None:
        shape = self.step_shape(step)
        given = [s for s in step.reads if s not in self.writer]
        inputs = [s for s in given if self.slots[s].kind == ir.INPUT]
        self.add_inputs(shape, inputs)
        self.add_arrows(shape, [s for s in step.reads if s in self.writer])
        self.shapes.append(shape)
        results = [s for s in step.writes if s in self.outputs]
        for slot in step.writes:
            self.writer[slot] = shape
        if results:
            self.add_results(shape, results)

    def step_shape(self, step: StepReport) -> Shape:
        kernels = self.facts.kernels
        lines = kernels[step.kernel].lines if step.kernel is not None else ()
        title = clipped(" · ".join(telling(step.label)) or step.kind, TITLE)
        rows = f" · {step.rows} rows" if step.rows > 1 else ""
        about = [f"#{step.number} {step.kind}{rows}"]
        if lines:
            more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
            about.append(clipped(place_of(lines[0]), TITLE - 6) + more)
        moved = as_bytes(step.work.bytes)
        about.append(f"{moved} · {as_count(step.work.flops, 'flop')}")
        name = kernels[step.kernel].name if step.kernel is not None else step.label
        tip = "\n".join([name, *about[:1], f"moves {moved}", *lines])
        tabs = self.tabs_of(step)
        tabbed = sum(t.width + 6 for t in tabs) - 6
        width = max(WIDE * len(title), *(CHAR * len(text) for text in about), tabbed)
        height = 24 + 14 * len(about) + 8 + (18 if tabs else 0)
        box = Box(width + 24, height)
        x = -tabbed / 2
        for tab in tabs:
            tab.middle = x + tab.width / 2
            x += tab.width + 6
        return Shape(box, f"step {step.form}", title, about, tip, tabs)

    def tabs_of(self, step: StepReport) -> list[Tab]:
        """The values that other steps read, each with its type; many as one."""
        later = {s for other in self.steps if other.number > step.number for s in other.reads}
        results = [s for s in step.writes if s in self.outputs]
        shown = [s for s in step.writes if s in later]
        tabs = [Tab((s,), self.text(s)) for s in shown]
        if len(shown) > MANY:
            tabs = [Tab(tuple(shown), f"{len(shown)} values, {as_bytes(self.nbytes(shown))}")]
        if results and not any(set(t.slots) & set(results) for t in tabs):
            text = self.text(results[0]) if len(results) == 1 else f"{len(results)} results"
            tabs.append(Tab(tuple(results), text))
        for tab in tabs:
            tab.width = CHAR * len(tab.text) + 10
        return tabs

    def add_inputs(self, shape: Shape, slots: Sequence[int]) -> None:
        if len(slots) > MANY:
            labels = "\n".join(f"{self.label(s)}: {self.text(s)}" for s in slots)
            size = as_bytes(self.nbytes(slots))
            self.pill(shape, "input", f"{len(slots)} inputs", size, labels)
            return
        for slot in slots:
            label = self.label(slot)
            self.pill(shape, "input", clipped_name(label, TITLE), self.text(slot), label)

    def pill(self, shape: Shape, style: str, title: str, line: str, tip: str) -> None:
        box = Box(max(WIDE * len(title), CHAR * len(line)) + 26, 36, near=True)
        self.shapes.append(Shape(box, style, title, [line], tip))
        self.edges.append((Edge(box, shape.box), "given"))

    def add_arrows(self, shape: Shape, slots: Sequence[int]) -> None:
        """An arrow from each tab whose values the step reads."""
        drawn: set[Tab] = set()
        for slot in slots:
            source = self.writer[slot]
            tab = next(t for t in source.tabs if slot in t.slots)
            if tab not in drawn:
                drawn.add(tab)
                self.edges.append((Edge(source.box, shape.box, out=tab.middle), "flow"))

    def add_results(self, shape: Shape, slots: Sequence[int]) -> None:
        numbers = [i for i, s in enumerate(self.facts.program.outputs) if s in slots]  # type: ignore[union-attr]
        title = f"result {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} results"
        line = self.text(slots[0]) if len(slots) == 1 else as_bytes(self.nbytes(slots))
        box = Box(max(WIDE * len(title), CHAR * len(line)) + 26, 36)
        tip = "\n".join(f"{self.slots[s].label}: {self.text(s)}" for s in slots)
        self.shapes.append(Shape(box, "result", title, [line], tip))
        for tab in shape.tabs:
            if set(tab.slots) & set(slots):
                self.edges.append((Edge(shape.box, box, out=tab.middle), "flow"))

    # ------------------------------------------------------------------------------------ drawing

    def svg(self) -> str:
        for shape in self.shapes:
            entering = [e for e, _ in self.edges if e.target is shape.box]
            self.enter(shape, entering)
        width, height = place([s.box for s in self.shapes], [e for e, _ in self.edges])
        for shape in self.shapes:  # arrows arrive in the order they come from
            self.enter(shape, [e for e, _ in self.edges if e.target is shape.box])
        width, height = width + 2 * MARGIN, height + 2 * MARGIN
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="ds-drawing" width="{width:.0f}" '
            f'height="{height:.0f}" viewBox="0 0 {width:.1f} {height:.1f}" role="img">',
            f"<title>{escape(self.facts.name)}</title>", STYLE,
            '<defs><marker id="ds-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path class="head" d="M0 0.6 8 4 0 7.4z"/></marker>'
            "</defs>",
            f'<g transform="translate({MARGIN} {MARGIN})">',
        ]
        for edge, style in self.edges:
            path = f'<path class="edge {style}" d="{edge.path()}"'
            parts.append(f'{path} marker-end="url(#ds-tip)"/>')
        parts += [drawn(shape) for shape in self.shapes]
        parts.append("</g></svg>")
        return "\n".join(parts)

    def enter(self, shape: Shape, edges: list[Edge]) -> None:
        """Spread the ends of arrows over the upper side of a box, in the order they come from."""
        edges.sort(key=lambda e: (e.chain[-1].x if e.chain else e.source.x + e.out))
        room = min(shape.box.width - 24, 26.0 * (len(edges) - 1))
        for i, edge in enumerate(edges):
            edge.into = room * (i / (len(edges) - 1) - 0.5) if len(edges) > 1 else 0.0


def place_of(line: str) -> str:
    """`file.py:12` of a formatted user line."""
    where = line.split(": ", 1)[0]
    return where.rsplit("/", 1)[-1]


def drawn(shape: Shape) -> str:
    """One box, with its text and tabs."""
    box = shape.box
    left, round_ = box.x - box.width / 2, 17 if shape.style in ("input", "result") else 7
    parts = [
        f'<g class="{shape.style}"><title>{escape(shape.tip)}</title>',
        f'<rect class="box" x="{left:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" '
        f'height="{box.height:.1f}" rx="{round_}"/>',
    ]
    step = shape.style.startswith("step")
    if step:
        parts.append(
            f'<path class="bar" d="M{left + 1.5:.1f} {box.y + 7:.1f}v{box.height - 14:.1f}"/>'
        )
    y = box.y + (20 if step else 15)
    parts.append(f'<text class="title" x="{box.x:.1f}" y="{y:.1f}">{escape(shape.title)}</text>')
    for line in shape.lines:
        y += 14
        parts.append(f'<text class="note" x="{box.x:.1f}" y="{y:.1f}">{escape(line)}</text>')
    for tab in shape.tabs:
        x, top = box.x + tab.middle, box.y + box.height - 18
        parts.append(
            f'<rect class="tab" x="{x - tab.width / 2:.1f}" y="{top:.1f}" '
            f'width="{tab.width:.1f}" height="18" rx="4"/>'
            f'<text class="value" x="{x:.1f}" y="{top + 12.5:.1f}">{escape(tab.text)}</text>'
        )
    return "".join(parts) + "</g>"


def svg(facts: Facts) -> str:
    """The drawing of a compiled entry; a note where there is no Program."""
    if facts.program is None:
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" class="ds-drawing" width="460" height="40">'
            f'{STYLE}<text class="note" x="230" y="24">the {escape(facts.target)} backend '
            "interprets graphs: there is no Program</text></svg>"
        )
    return Drawing(facts).svg()
