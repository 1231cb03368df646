"""A line search for the strong Wolfe conditions, on plain numbers.

In flow a function of the step length and the point at length 0; out flows a point where the value
has fallen enough (by the slope's share c1) and the slope is flat enough (c2 of the first one).
Nocedal and Wright, Numerical Optimization, algorithms 3.5 and 3.6, with cubic interpolation (3.59).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Point:
    """A step length, the value there, its slope along the direction, and whatever belongs to it."""

    t: float
    value: float
    slope: float
    gradient: Any = None


def strong_wolfe(
    evaluate: Callable[[float], Point],
    start: Point,
    t: float,
    scale: float,
    most: int = 25,
    tolerance: float = 1e-9,
    c1: float = 1e-4,
    c2: float = 0.9,
) -> tuple[Point, int]:
    """The point found, and how many were evaluated: about `most`.

    `t` is the first length to try, `scale` the largest element of the direction: where an interval
    times it is below `tolerance`, the search ends with the best point so far.
    """

    def falls(point: Point) -> bool:
        return point.value <= start.value + c1 * point.t * start.slope

    def is_flat(point: Point) -> bool:
        return abs(point.slope) <= -c2 * start.slope

    # Lengthen the step until a good one lies between two points.
    previous, point, tries = start, evaluate(t), 0
    while tries < most:
        if not falls(point) or (tries > 1 and point.value >= previous.value):
            break
        if is_flat(point):
            return point, tries + 1
        if point.slope >= 0:
            break
        low, high = point.t + 0.01 * (point.t - previous.t), 10 * point.t
        previous, point = point, evaluate(minimum_of_cubic(previous, point, low, high))
        tries += 1
    else:
        previous = start
    low_end, high_end = sorted((previous, point), key=height)

    # Shrink the interval.
    stuck = False
    while tries < most and abs(high_end.t - low_end.t) * scale >= tolerance:
        left, right = sorted((low_end.t, high_end.t))
        t = minimum_of_cubic(low_end, high_end, left, right)
        t, stuck = away_from_ends(t, left, right, stuck)
        point = evaluate(t)
        tries += 1
        if not falls(point) or not point.value < low_end.value:
            high_end = point
            low_end, high_end = sorted((low_end, high_end), key=height)
            continue
        if is_flat(point):
            return point, tries + 1
        if point.slope * (high_end.t - low_end.t) >= 0:
            high_end = low_end
        low_end = point
    return low_end, tries + 1


def height(point: Point) -> float:
    """What points are ranked by: the value, last of all where it is no number."""
    return math.inf if math.isnan(point.value) else point.value


def minimum_of_cubic(a: Point, b: Point, low: float, high: float) -> float:
    """Where in [low, high] the cubic through two points with slopes is least; else the middle."""
    left, right = sorted((a, b), key=lambda p: p.t)
    width = right.t - left.t
    if width == 0:
        return (low + high) / 2
    bend = left.slope + right.slope - 3 * (left.value - right.value) / (left.t - right.t)
    square = bend * bend - left.slope * right.slope
    if not square >= 0:  # no minimum, or no number
        return (low + high) / 2
    root = math.sqrt(square)
    divisor = right.slope - left.slope + 2 * root
    if divisor == 0:
        return (low + high) / 2
    t = right.t - width * ((right.slope + root - bend) / divisor)
    return min(max(t, low), high)


def away_from_ends(t: float, left: float, right: float, stuck: bool) -> tuple[float, bool]:
    """Keep trial lengths from creeping towards an end: the second such one is moved inside.

    Returns the length to try, and whether it is close to an end.
    """
    margin = 0.1 * (right - left)
    if min(right - t, t - left) >= margin:
        return t, False
    if stuck or t >= right or t <= left:
        return (right - margin if abs(t - right) < abs(t - left) else left + margin), False
    return t, True
