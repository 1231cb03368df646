"""Operators in the signatures of older opsets, and where runtimes know less than the standard.

The exporter writes every operator in its newest signature. Where that changed after opset 13, WAYS
holds what to write instead, each way with the opset from which it is good: the newest that fits is
taken. A way takes the builder and the operator's inputs and attributes as of the newest opset, and
raises Unavailable for what the older operator does not know.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from deepseek.ir.dtype import DTYPES, bfloat16, bool_, int32, int64, uint64
from deepseek.onnx.versions import Unavailable
from deepseek.ops.forms import Form, form, summed

WAYS: dict[str, list[Form]] = defaultdict(list)
"""For each operator that changed, how it is written; from some opset on `unchanged`."""


def way(*operators: str, since: int, until: int | None = None) -> Callable[[Form], Form]:
    """Decorator: how operators are written from one opset on, and until which they are as now."""

    def decorate(function: Form) -> Form:
        for operator in operators:

            @form(operator, since=since)
            def write(b: Any, *inputs: str, _operator: str = operator, **attrs: Any) -> Any:
                return function(b, _operator, *inputs, **attrs)

            WAYS[operator].append(write)
            if until is not None:
                WAYS[operator].append(unchanged(operator, until))
        return function

    return decorate


def unchanged(operator: str, since: int) -> Form:
    """The operator as it is."""

    @form(operator, since=since)
    def write(b: Any, *inputs: str, **attrs: Any) -> Any:
        return b.plain(operator, *inputs, **attrs)

    return write


def known(b: Any, operator: str, value: str, since: int) -> list[int]:
    """A constant input's elements, which an older operator has as an attribute."""
    if value not in b.known:
        raise Unavailable(f"{operator} with computed axes", b.opset, since)
    return [int(v) for v in b.known[value]]


# ---------------------------------------------------------------------------------- reductions


@way("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
     "ReduceLogSumExp", "ReduceSumSquare", since=13, until=18)  # fmt: skip
def axes_as_attribute(
    b: Any, operator: str, x: str, axes: str = "", keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Any:
    """Before 18 the axes are an attribute, and none stands for all."""
    given = known(b, operator, axes, 18) if axes else []
    if noop_with_empty_axes and not given:
        return b.fresh(x)
    return b.plain(operator, x, keepdims=keepdims, **({"axes": given} if given else {}))


# ------------------------------------------------------------------------------ shapes and views


@way("Shape", since=13, until=15)
def shape_then_slice(b: Any, operator: str, x: str, start: int = 0, end: int | None = None) -> Any:
    """Before 15 the shape is given whole."""
    whole = b.plain("Shape", x)
    if start == 0 and end is None:
        return whole
    stop = np.iinfo(np.int64).max if end is None else end
    return b.node("Slice", whole, b.array([start]), b.array([stop]), b.array([0]))


@way("Reshape", since=13, until=14)
def zero_means_kept(b: Any, operator: str, x: str, shape: str, allowzero: int = 0) -> Any:
    """Before 14 a size of 0 cannot be asked for: the elements, of which there are none, are new."""
    if not allowzero:
        return b.plain("Reshape", x, shape)
    dtype = b.dtypes[x]
    return b.cast(b.node("ConstantOfShape", shape, dtype=DTYPES["float32"]), dtype)


@way("Pad", since=13)
def pads_of_all_axes(
    b: Any, operator: str, x: str, pads: str, value: str = "", axes: str = "", **attrs: Any
) -> Any:
    """Before 18 every axis is padded."""
    if axes:
        raise Unavailable("Pad with axes", b.opset, 18)
    return no_wrapping(b, operator, x, pads, value, **attrs)


@way("Pad", since=18, until=19)
def no_wrapping(b: Any, operator: str, *inputs: str, mode: str = "constant") -> Any:
    """Before 19 nothing is padded by wrapping around."""
    if mode == "wrap":
        raise Unavailable("Pad that wraps around", b.opset, 19)
    return b.plain("Pad", *inputs, mode=mode)


@way("Split", since=13, until=18)
def split_by_sizes(b: Any, operator: str, x: str, sizes: str = "", **attrs: Any) -> Any:
    """Before 18 parts are counted by their sizes."""
    if "num_outputs" in attrs:
        raise Unavailable("Split by a number of parts", b.opset, 18)
    return b.plain("Split", x, sizes, **attrs)


@way("Where", since=13)
def choose(b: Any, operator: str, test: str, x: str, y: str) -> Any:
    """In every opset, as no runtime chooses among truth values, and few among short integers."""
    dtype = b.dtypes[x]
    if dtype is bool_:
        chosen = b.node("And", test, x)
        return b.node("Or", chosen, b.node("And", b.node("Not", test), y))
    if not dtype.is_integer or dtype in (int32, int64):
        return b.plain("Where", test, x, y)
    wide = int32 if dtype.bits < 32 else int64
    return b.cast(b.plain("Where", test, b.cast(x, wide), b.cast(y, wide)), dtype)


# ------------------------------------------------------------------------------- computed places


@way("ScatterElements", "ScatterND", since=13, until=18)
def without_reduction(
    b: Any, operator: str, x: str, indices: str, updates: str, reduction: str = "none", **attrs: Any
) -> Any:
    """Before 16 updates replace what was there; before 18 they may also be added or multiplied."""
    if reduction == "none":
        return b.plain(operator, x, indices, updates, **attrs)
    since = 18 if reduction in ("min", "max") else 16
    if b.opset < since:
        raise Unavailable(f"{operator} with {reduction!r}", b.opset, since)
    return b.plain(operator, x, indices, updates, reduction=reduction, **attrs)


# ------------------------------------------------------------------------------------- sampling


@way("Resize", since=13, until=18)
def resize_plainly(
    b: Any, operator: str, *inputs: str, antialias: int = 0,
    keep_aspect_ratio_policy: str = "stretch", **attrs: Any,
) -> Any:  # fmt: skip
    """Before 18 nothing is smoothed, and all axes are given a size."""
    if antialias or keep_aspect_ratio_policy != "stretch" or "axes" in attrs:
        raise Unavailable("Resize with smoothing", b.opset, 18)
    return b.plain("Resize", *inputs, **attrs)


@way("GridSample", since=16, until=20)
def sample_in_the_plane(b: Any, operator: str, x: str, grid: str, mode: str, **attrs: Any) -> Any:
    """Before 20 the modes have the names of images."""
    named = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return b.plain("GridSample", x, grid, mode=named, **attrs)


@way("AveragePool", since=13, until=19)
def undilated(b: Any, operator: str, x: str, **attrs: Any) -> Any:
    """Before 19 windows of means have no gaps."""
    if any(d != 1 for d in attrs.pop("dilations", ())):
        raise Unavailable("AveragePool with dilations", b.opset, 19)
    return b.plain("AveragePool", x, **attrs)


@way("Clip", since=13, until=16)
def limited_twice(b: Any, operator: str, x: str, low: str = "", high: str = "") -> Any:
    """Before 16 runtimes write it with Where, which does not know bfloat16."""
    if b.dtypes[x] is not bfloat16:
        return b.plain("Clip", x, low, high)
    above = b.node("Max", x, low) if low else x
    return b.node("Min", above, high) if high else above


# ---------------------------------------------------------------------------------------- bits


@way("BitwiseAnd", "BitwiseOr", "BitwiseXor", since=13, until=18)
def bit_by_bit(b: Any, operator: str, x: str, y: str) -> Any:
    """Before 18: the bits along a new axis, combined as truth values, and added up again."""
    dtype = b.dtypes[x]
    logical = operator.removeprefix("Bitwise")
    places = b.array(np.arange(dtype.bits), uint64)
    last = b.array([-1])

    def bits(value: str) -> str:
        column = b.node("Unsqueeze", b.cast(value, uint64), last)
        shifted = b.node("BitShift", column, places, direction="RIGHT")
        return str(b.cast(b.node("Mod", b.cast(shifted, int64), b.number(2, int64)), bool_))

    both = b.cast(b.node(logical, bits(x), bits(y)), int64)
    weights = b.array((np.uint64(1) << np.arange(dtype.bits, dtype=np.uint64)).view(np.int64))
    # onnxruntime takes an axis of an empty tensor for another where it is counted from the end.
    rank = b.node("Size", b.node("Shape", both))
    axis = b.node("Unsqueeze", b.node("Sub", rank, b.number(1, int64)), b.array([0]))
    return b.cast(summed(b, b.node("Mul", both, weights), axis), dtype)


@way("BitwiseNot", since=13, until=18)
def complement(b: Any, operator: str, x: str) -> Any:
    """Before 18: taken from the number whose bits are all set, which never borrows."""
    dtype = b.dtypes[x]
    ones = -1 if dtype.kind == "i" else 2**dtype.bits - 1
    return b.node("Sub", b.number(ones, dtype), x)
