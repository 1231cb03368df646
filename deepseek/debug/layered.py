"""Layered drawings: where boxes and arrows go, so that arrows run downwards and cross little.

In flow boxes with a size and edges between them, in an order in which every edge runs forwards;
out flow the boxes' places and each edge's path. Boxes are put into layers, long edges get a point
in each layer between, layers are ordered by their neighbours' mean, and places are found that keep
arrows straight: for one layer that is a least-squares problem with an exact solution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

GAP = 18.0  # between boxes of a layer
LANE = 8.0  # between lines that pass a layer
APART = 40.0  # between parts that nothing connects
SWEEPS = 12


@dataclass(eq=False)
class Box:
    """A thing to place; `near` puts it right above the first that it has an edge to."""

    width: float
    height: float
    near: bool = False
    layer: int = 0
    x: float = 0.0  # of its middle
    y: float = 0.0  # of its top
    passing: bool = False  # a point of a long edge

    @property
    def gap(self) -> float:
        return LANE if self.passing else GAP


@dataclass(eq=False)
class Edge:
    """From a box's lower side, `out` off its middle, to another's upper, `into` off its own."""

    source: Box
    target: Box
    out: float = 0.0
    into: float = 0.0
    chain: list[Box] = field(default_factory=list)

    def path(self) -> str:
        """The edge as an SVG path."""
        x, y = self.source.x + self.out, self.source.y + self.source.height
        parts = [f"M{x:.1f} {y:.1f}"]
        for box in (*self.chain, self.target):
            to_x = box.x + (self.into if box is self.target else 0.0)
            bend = (box.y - y) / 2
            bends = f"{x:.1f} {y + bend:.1f} {to_x:.1f} {box.y - bend:.1f}"
            parts.append(f"C{bends} {to_x:.1f} {box.y:.1f}")
            x, y = to_x, box.y + box.height
            if box.passing and box.height:
                parts.append(f"V{y:.1f}")
        return " ".join(parts)


def place(boxes: Sequence[Box], edges: Sequence[Edge]) -> tuple[float, float]:
    """Set every box's x, y and every edge's chain; the drawing's width and height.

    Parts that nothing connects are placed one by one: the largest first, the others in columns
    to its right.
    """
    parts = components(boxes, edges)
    left = top = width = column = 0.0
    height = max((part.height for part in parts), default=0.0)
    for part in parts:
        if top and top + part.height > height:
            left, top, column = left + column + APART, 0.0, 0.0
        part.shift(left, top)
        width, column = max(width, left + part.width), max(column, part.width)
        top += part.height + APART
    return width, height


class Part:
    """Connected boxes, placed with their corner at the origin."""

    def __init__(self, boxes: Sequence[Box], edges: Sequence[Edge]) -> None:
        assign_layers(boxes, edges)
        self.layers = with_passing(boxes, edges)
        links = list(dict.fromkeys(pair for e in edges for pair in linked(e)))
        order(self.layers, links)
        spread(self.layers, links)
        self.width, self.height = settle(self.layers, edges)

    def shift(self, x: float, y: float) -> None:
        for layer in self.layers:
            for box in layer:
                box.x += x
                box.y += y


def components(boxes: Sequence[Box], edges: Sequence[Edge]) -> list[Part]:
    """The connected parts, highest first, each placed on its own."""
    found: dict[Box, Box] = {b: b for b in boxes}

    def root(box: Box) -> Box:
        while found[box] is not box:
            box = found[box]
        return box

    for e in edges:
        found[root(e.source)] = root(e.target)
    groups: dict[Box, list[Box]] = {}
    for box in boxes:
        groups.setdefault(root(box), []).append(box)
    between: dict[Box, list[Edge]] = {}
    for e in edges:
        between.setdefault(root(e.source), []).append(e)
    parts = [Part(group, between.get(key, [])) for key, group in groups.items()]
    return sorted(parts, key=lambda part: -part.height)


def assign_layers(boxes: Sequence[Box], edges: Sequence[Edge]) -> None:
    """Each box below all that it reads; those marked `near` right above their first reader."""
    into: dict[Box, list[Box]] = {b: [] for b in boxes}
    out: dict[Box, list[Box]] = {b: [] for b in boxes}
    for e in edges:
        into[e.target].append(e.source)
        out[e.source].append(e.target)
    for box in boxes:
        box.layer = max((source.layer + 1 for source in into[box]), default=0)
    for box in boxes:
        if box.near and out[box]:
            box.layer = min(target.layer for target in out[box]) - 1


def with_passing(boxes: Sequence[Box], edges: Sequence[Edge]) -> list[list[Box]]:
    """The layers, with a point in every layer that an edge passes."""
    layers: list[list[Box]] = [[] for _ in range(max((b.layer for b in boxes), default=-1) + 1)]
    for box in boxes:
        layers[box.layer].append(box)
    trunks: dict[tuple[Box, float, int], Box] = {}  # edges from one spot share their points
    for e in edges:
        for layer in range(e.source.layer + 1, e.target.layer):
            point = trunks.get((e.source, e.out, layer))
            if point is None:
                point = Box(2.0, 0.0, layer=layer, passing=True)
                trunks[e.source, e.out, layer] = point
                layers[layer].append(point)
            e.chain.append(point)
    return layers


Link = tuple[Box, float, Box, float]


def linked(e: Edge) -> list[Link]:
    """An edge as links between neighbouring layers, with where they touch the boxes."""
    stops = [e.source, *e.chain, e.target]
    middle = [0.0 for _ in e.chain]
    return list(zip(stops[:-1], [e.out, *middle], stops[1:], [*middle, e.into], strict=True))


# ------------------------------------------------------------------------------------- crossings


def order(layers: list[list[Box]], links: Sequence[Link]) -> None:
    """Reorder each layer by the mean place of its neighbours, down and up; keep the best order."""
    above: dict[Box, list[tuple[Box, float]]] = {}
    below: dict[Box, list[tuple[Box, float]]] = {}
    for a, out, b, into in links:
        above.setdefault(b, []).append((a, out))
        below.setdefault(a, []).append((b, into))
    best = [list(layer) for layer in layers]
    fewest = crossings(layers, links)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for layer in layers[1:] if down else layers[-2::-1]:
            neighbours = above if down else below
            position = positions(layers)
            wanted = {b: mean_position(b, neighbours.get(b, ()), position) for b in layer}
            layer.sort(key=wanted.__getitem__)
        count = crossings(layers, links)
        if count < fewest:
            fewest, best = count, [list(layer) for layer in layers]
    for layer, kept in zip(layers, best, strict=True):
        layer[:] = kept


def positions(layers: list[list[Box]]) -> dict[Box, float]:
    return {box: float(i) for layer in layers for i, box in enumerate(layer)}


def mean_position(
    box: Box, neighbours: Sequence[tuple[Box, float]], position: dict[Box, float]
) -> float:
    """Where a box would like to stand; offsets within a neighbour break ties between its ports."""
    if not neighbours:
        return position[box]
    places = [position[n] + offset / (2 * n.width + 1) for n, offset in neighbours]
    return sum(places) / len(places)


def crossings(layers: list[list[Box]], links: Sequence[Link]) -> int:
    """How many pairs of links cross."""
    position = positions(layers)
    by_layer: dict[int, list[tuple[float, float]]] = {}
    for a, out, b, into in links:
        ends = (position[a] + out / (2 * a.width + 1), position[b] + into / (2 * b.width + 1))
        by_layer.setdefault(a.layer, []).append(ends)
    total = 0
    for pairs in by_layer.values():
        seen: list[float] = []
        for _, end in sorted(pairs):
            total += sum(other > end for other in seen)
            seen.append(end)
    return total


# ----------------------------------------------------------------------------------------- places


def spread(layers: list[list[Box]], links: Sequence[Link]) -> None:
    """Give every box an x near those it is linked to, without overlap."""
    above: dict[Box, list[tuple[Box, float]]] = {}
    below: dict[Box, list[tuple[Box, float]]] = {}
    for a, out, b, into in links:
        above.setdefault(b, []).append((a, out - into))
        below.setdefault(a, []).append((b, into - out))
    for layer in layers:
        pack(layer, [0.0] * len(layer), [1.0] * len(layer))
    for sweep in range(2 * SWEEPS):
        # Down, up, and at last both together.
        down, both = sweep % 2 == 0, sweep >= 2 * SWEEPS - 4
        for layer in layers if down else layers[::-1]:
            wanted, weights = [], []
            for box in layer:
                near = [*above.get(box, ())] if down or both else []
                near += [*below.get(box, ())] if not down or both else []
                places = [n.x + offset for n, offset in near]
                wanted.append(sum(places) / len(places) if places else box.x)
                # Straight long lines please most, boxes that nothing pulls least.
                weights.append((4.0 if box.passing else 1.0) if places else 0.05)
            pack(layer, wanted, weights)


def pack(layer: list[Box], wanted: list[float], weights: list[float]) -> None:
    """The places nearest to the wanted ones (least squares) that keep order and gaps."""
    offsets: list[float] = []
    at = 0.0
    for i, box in enumerate(layer):
        if i:
            left = layer[i - 1]
            at += (left.width + box.width) / 2 + max(min(left.gap, box.gap), LANE)
        offsets.append(at)
    # Without the offsets the places need only not decrease: isotonic regression, by pooling.
    pools: list[tuple[float, float, int]] = []  # mean, weight, boxes
    for place_, weight, offset in zip(wanted, weights, offsets, strict=True):
        mean, total, count = place_ - offset, weight, 1
        while pools and pools[-1][0] > mean:
            other, other_total, other_count = pools.pop()
            mean = (mean * total + other * other_total) / (total + other_total)
            total, count = total + other_total, count + other_count
        pools.append((mean, total, count))
    found = [mean for mean, _, count in pools for _ in range(count)]
    for box, mean, offset in zip(layer, found, offsets, strict=True):
        box.x = mean + offset


def settle(layers: list[list[Box]], edges: Sequence[Edge]) -> tuple[float, float]:
    """Move the drawing to the origin and stack its layers."""
    boxes = [box for layer in layers for box in layer]
    left = min((b.x - b.width / 2 for b in boxes), default=0.0)
    right = max((b.x + b.width / 2 for b in boxes), default=0.0)
    y = 0.0
    for number, layer in enumerate(layers):
        height = max(b.height for b in layer)
        for box in layer:
            box.x -= left
            # Boxes stand at the lower side of their layer if they belong to what is below.
            box.y = y + (height - box.height if box.near else 0.0)
            if box.passing:
                box.height = height
        widest = max((abs(dx) for dx in slants(edges, number)), default=0.0)
        y += height + min(34.0 + widest / 14, 90.0)
    bottom = max((b.y + b.height for b in boxes), default=0.0)
    return right - left, bottom


def slants(edges: Sequence[Edge], layer: int) -> list[float]:
    """How far sideways the edges below a layer run."""
    out = []
    for e in edges:
        stops = [e.source, *e.chain, e.target]
        for a, b in zip(stops, stops[1:], strict=False):
            if a.layer == layer:
                out.append(b.x - a.x)
    return out
