"""Layered drawings: boxes keep apart, edges run downwards, straight where nothing is in the way."""

from __future__ import annotations

import random

import pytest

from deepseek.debug.layered import LANE, Box, Edge, place


def drawing(seed: int) -> tuple[list[Box], list[Edge]]:
    """Random boxes, each but the first few reading some earlier ones."""
    rng = random.Random(seed)
    boxes = [Box(rng.uniform(20, 200), rng.uniform(20, 80)) for _ in range(rng.randint(2, 40))]
    edges = []
    for i, box in enumerate(boxes[1:], 1):
        for source in set(rng.choices(boxes[:i], k=rng.randint(0, 3))):
            edges.append(Edge(source, box, out=rng.uniform(-0.4, 0.4) * source.width))
    return boxes, edges


@pytest.mark.parametrize("seed", range(30))
def test_boxes_keep_apart_and_edges_run_down(seed: int) -> None:
    boxes, edges = drawing(seed)
    width, height = place(boxes, edges)
    for box in boxes:
        left, right = box.x - box.width / 2, box.x + box.width / 2
        assert left >= -1e-6 and right <= width + 1e-6
        assert box.y >= -1e-6 and box.y + box.height <= height + 1e-6
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            beside = abs(a.x - b.x) >= (a.width + b.width) / 2 + LANE - 1e-6
            over = a.y + a.height < b.y or b.y + b.height < a.y
            assert beside or over
    for edge in edges:
        stops = [edge.source, *edge.chain, edge.target]
        assert all(a.y + a.height < b.y for a, b in zip(stops, stops[1:], strict=False))


@pytest.mark.parametrize("seed", range(10))
def test_long_edges_pass_between_boxes(seed: int) -> None:
    boxes, edges = drawing(seed)
    place(boxes, edges)
    for edge in edges:
        for point in edge.chain:
            for box in boxes:
                if box.layer == point.layer and abs(box.y - point.y) < 1:
                    assert abs(box.x - point.x) >= box.width / 2


def test_a_chain_is_straight() -> None:
    boxes = [Box(40 + 20 * i, 30) for i in range(5)]
    edges = [Edge(a, b) for a, b in zip(boxes, boxes[1:], strict=False)]
    place(boxes, edges)
    assert max(b.x for b in boxes) - min(b.x for b in boxes) < 1e-6


def test_near_boxes_stand_above_their_first_reader() -> None:
    first, second, third = (Box(50, 20) for _ in range(3))
    late = Box(50, 20, near=True)
    edges = [Edge(first, second), Edge(second, third), Edge(late, third)]
    place([late, first, second, third], edges)
    assert late.layer == second.layer


def test_unconnected_parts_stand_beside_each_other() -> None:
    boxes = [Box(100, 40) for _ in range(6)]
    width, _ = place(boxes, [Edge(boxes[0], boxes[1])])
    assert width > 200
    assert len({(round(b.x), round(b.y)) for b in boxes}) == 6
