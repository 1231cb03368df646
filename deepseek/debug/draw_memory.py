"""The drawing of a memory plan: what lies where in the arena, and when.

In flow the Facts about an entry; out flows an SVG. Steps run from left to right, addresses upwards;
a block is as wide as its value lives and as high as it is large. The line over them is the sum of
what lives, and the dashed one its maximum: no plan can be lower.
"""

from __future__ import annotations

from html import escape
from math import ceil, log2

from deepseek.debug.palette import STYLE, as_bytes, clipped, telling
from deepseek.debug.reports import Facts
from deepseek.program.plan_memory import Lifetime

WIDTH, HEIGHT = 960.0, 340.0
LEFT, RIGHT, TOP, BOTTOM = 76.0, 18.0, 34.0, 42.0
CHAR = 6.5


def svg(facts: Facts) -> str:
    """The drawing; a note where nothing lies in the arena."""
    if facts.memory is None or not facts.memory.temps:
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="ds-drawing" width="{WIDTH:.0f}" '
            f'height="48">{STYLE}<text class="note" x="{WIDTH / 2}" y="28">no intermediate values: '
            "the arena is empty</text></svg>"
        )
    return Plan(facts).svg()


class Plan:
    """Scales, and the parts of the drawing."""

    def __init__(self, facts: Facts) -> None:
        assert facts.memory is not None
        self.memory = facts.memory
        self.temps = facts.memory.temps
        self.labels = self.memory.steps
        self.hues: dict[str, int] = {}
        self.steps = len(self.labels)
        self.live = self.memory.timeline()
        self.top = max(self.memory.arena_bytes, max(self.live), 1)

    def x(self, step: float) -> float:
        return LEFT + step * (WIDTH - LEFT - RIGHT) / self.steps

    def y(self, address: float) -> float:
        return HEIGHT - BOTTOM - address * (HEIGHT - TOP - BOTTOM) / self.top

    def svg(self) -> str:
        arena, bound = self.memory.arena_bytes, self.memory.lower_bound
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="ds-drawing" width="{WIDTH:.0f}" '
            f'height="{HEIGHT:.0f}" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img">',
            "<title>memory plan</title>", STYLE,
            f'<text class="note start" x="{LEFT}" y="18">arena {as_bytes(arena)}, lower bound '
            f"{as_bytes(bound)}: {len(self.temps)} values over {self.steps} steps</text>",
            *self.axes(),
            *map(self.block, self.temps),
            self.curve(),
            *map(self.name, self.temps),
            f'<path class="bound" d="M{LEFT} {self.y(bound):.1f}H{WIDTH - RIGHT}"/>',
            "</svg>",
        ]  # fmt: skip
        return "\n".join(parts)

    def axes(self) -> list[str]:
        parts = []
        step = nice(self.top / 4)
        for i in range(int(self.top / step) + 1):
            y = self.y(i * step)
            parts.append(f'<path class="axis" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(
                f'<text class="note end" x="{LEFT - 8}" y="{y + 4:.1f}">{as_bytes(i * step)}</text>'
            )
        every = max(1, ceil(self.steps / 24))
        for i in range(0, self.steps, every):
            label = self.labels[i] if i < len(self.labels) else ""
            parts.append(
                f'<text class="note" x="{self.x(i + 0.5):.1f}" y="{HEIGHT - BOTTOM + 16:.1f}">{i}'
                f"<title>{escape(label)}</title></text>"
            )
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(f'<text class="note" x="{middle}" y="{HEIGHT - 8}">step</text>')
        return parts

    def corners(self, temp: Lifetime) -> tuple[float, float, float, float]:
        """The x, y, width and height of a value's rectangle."""
        x, y = self.x(temp.first), self.y(temp.offset + temp.nbytes)
        return x, y, self.x(temp.last + 1) - x, self.y(temp.offset) - y

    def block(self, temp: Lifetime) -> str:
        """One value's rectangle."""
        x, y, width, height = self.corners(temp)
        # Steps around the colour circle by the golden ratio: neighbours differ.
        hue = self.hues.setdefault(temp.label, len(self.hues)) * 137.508 % 360
        tip = (
            f"{temp.label}\n{as_bytes(temp.nbytes)} at {temp.offset}\n"
            f"steps {temp.first} to {temp.last}"
        )
        return (
            f"<g><title>{escape(tip)}</title>"
            f'<rect class="block" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{max(height, 0.8):.2f}" rx="2" fill="hsl({hue:.0f} 52% 72%)"/></g>'
        )

    def name(self, temp: Lifetime) -> str:
        """The name in a value's rectangle, where there is room for one."""
        x, y, width, height = self.corners(temp)
        room = int((width - 10) / CHAR)
        if height < 13 or room < 5:
            return ""
        text = clipped(" · ".join(telling(temp.label)), room)
        return (
            f'<text class="inside" x="{x + 5:.1f}" y="{y + height / 2 + 3.5:.1f}">'
            f"{escape(text)}</text>"
        )

    def curve(self) -> str:
        """The sum of living bytes."""
        d = f"M{self.x(0):.1f} {self.y(self.live[0]):.1f}"
        for step, live in enumerate(self.live):
            d += f"V{self.y(live):.1f}H{self.x(step + 1):.1f}"
        return f'<path class="live" d="{d}"/>'


def nice(size: float) -> float:
    """A round number of bytes near a size: 1, 2, 4, ... 512 of a unit."""
    if size < 1:
        return 1.0
    return float(2 ** round(log2(size)))
