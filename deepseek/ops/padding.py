"""Padding: constants around a tensor, or its own elements reflected, repeated or wrapped round.

Constants are the primitive of `slicing`. The others are one view, whose adjoint adds the edges of a
cotangent back to where they came from, axis by axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, unknown, user_line
from deepseek.frontend.tensor import Tensor, record
from deepseek.ir import scalar
from deepseek.ir.graph import Node
from deepseek.ir.op import Kind, Sample
from deepseek.ir.scalar import ONE, ZERO, Expr, as_expr, call
from deepseek.ir.shape import Shape, Size, TensorType, size_of, tensor_type
from deepseek.ops import forms
from deepseek.ops.define import as_tensor, is_size, minus, op_of, plus, primitive, shape_of
from deepseek.ops.index import at_most
from deepseek.ops.methods import method
from deepseek.ops.slicing import flip, is_less, padded, padding_pairs

__all__ = ["pad", "pad_edges"]

Index = tuple[Expr, ...]
Types = tuple[TensorType, ...]

MODES = {
    "reflect": "reflect", "replicate": "replicate", "circular": "circular",
    "symmetric": "symmetric", "edge": "replicate", "wrap": "circular",
}  # fmt: skip
"""What may be asked for, PyTorch's names before NumPy's, and what it is called here."""


def _infer(x: TensorType, *, low: Shape, high: Shape, mode: str) -> Types:
    for n, before, after in zip(x.shape, low, high, strict=True):
        reach = {"reflect": minus(n, 1), "replicate": None}.get(mode, n)
        for amount in (before, after):
            if is_size(amount, 0):
                continue
            empty = is_size(n, 0)
            if empty or (reach is not None and not at_most(amount, reach)):
                raise op_error(
                    ShapeError, "pad", f"{x} and {amount} elements in mode {mode!r}",
                    f"at most {n if reach is None else reach} of an axis of size {n}", user_line(),
                )  # fmt: skip
    return (
        tensor_type(
            x.dtype, tuple(plus(n, plus(b, a)) for n, b, a in zip(x.shape, low, high, strict=True))
        ),
    )


def _source(i: Expr, size: Size, before: Size, mode: str) -> Expr:
    """Which element of an axis stands at place i of the padded one."""
    n, j = as_expr(size), scalar.sub(i, as_expr(before))
    last = scalar.sub(n, ONE)
    if mode == "replicate":
        return scalar.maximum(ZERO, scalar.minimum(j, last))
    if mode == "circular":
        return scalar.mod(j, n)
    edge = ONE if mode == "symmetric" else ZERO
    j = scalar.where(call("lt", j, ZERO), scalar.sub(scalar.neg(j), edge), j)
    back = scalar.sub(scalar.add(scalar.add(last, last), edge), j)
    return scalar.where(call("lt", last, j), back, j)


def _meaning(
    index: Index, read: Any, inputs: Types, out: TensorType, *, low: Shape, high: Shape, mode: str
) -> Expr:
    at = []
    for i, n, before, after in zip(index, inputs[0].shape, low, high, strict=True):
        still = is_size(before, 0) and is_size(after, 0)
        at.append(i if still else _source(i, n, before, mode))
    return read(0, tuple(at))  # type: ignore[no-any-return]


def _reference(x: Any, *, low: tuple[int, ...], high: tuple[int, ...], mode: str) -> Any:
    numpys = {"replicate": "edge", "circular": "wrap"}.get(mode, mode)
    return np.pad(x, list(zip(low, high, strict=True)), mode=numpys)  # type: ignore[call-overload]


def _vjp(g: Tensor, y: Tensor, x: Tensor, *, low: Shape, high: Shape, mode: str) -> tuple[Tensor]:
    for axis, (before, after) in enumerate(zip(low, high, strict=True)):
        if not (is_size(before, 0) and is_size(after, 0)):
            g = _added_back(g, axis, shape_of(x)[axis], before, after, mode)
    return (g,)


def _added_back(g: Tensor, axis: int, size: Size, before: Size, after: Size, mode: str) -> Tensor:
    """The cotangent of one axis: the middle, and the edges where their elements came from."""
    total = g.narrow(axis, before, size)
    skipped = 1 if mode == "reflect" else 0
    for amount, start, at_end in ((before, 0, False), (after, plus(before, size), True)):
        if is_size(amount, 0):
            continue
        edge, count = g.narrow(axis, start, amount), amount
        if mode == "replicate":
            edge, count = edge.sum(axis=axis, keepdims=True), 1
        elif mode != "circular":
            edge = flip(edge, axis)
        rest = minus(minus(size, count), skipped)
        to_end = at_end != (mode == "circular")
        ends: tuple[Size, Size] = (rest, skipped) if to_end else (skipped, rest)
        sides = [tuple(end if i == axis else 0 for i in range(g.ndim)) for end in ends]
        total = total + padded(edge, sides[0], sides[1])
    return total


def _form(since: int, *modes: str) -> Any:
    @forms.form("Pad", since)
    def write(b: Any, node: Node, x: str) -> Any:
        """Pad, in the modes that its opset has."""
        onnxs = {"replicate": "edge", "circular": "wrap"}.get(
            node.attrs["mode"], node.attrs["mode"]
        )
        if onnxs not in modes:
            return None
        ends = b.shape((*node.attrs["low"], *node.attrs["high"]))
        return b.node("Pad", x, ends, mode=onnxs)

    return write


def _samples() -> list[Sample]:
    out = []
    for mode in ("reflect", "replicate", "circular", "symmetric"):
        out.append(Sample(((3, 5),), {"low": (0, 2), "high": (0, 4), "mode": mode}))
        out.append(Sample(((2, 4, 3),), {"low": (0, 3, 1), "high": (0, 0, 2), "mode": mode}))
    return [
        *out,
        Sample(((1, 2),), {"low": (5, 0), "high": (3, 7), "mode": "replicate"}),
        Sample(((0, 3),), {"low": (0, 1), "high": (0, 1), "mode": "reflect"}),
    ]


@primitive(
    Kind.VIEW,
    infer=_infer,
    meaning=_meaning,
    reference=_reference,
    vjp=_vjp,
    samples=_samples,
    onnx=[_form(19, "reflect", "edge", "wrap"), _form(13, "reflect", "edge")],
)
def pad_edges(x: Tensor, /, *, low: Shape, high: Shape, mode: str) -> Tensor:
    """x with so many elements before and after on each axis, made of its own.

    "reflect" and "symmetric" mirror it at its edges, which are counted once or twice; "replicate"
    repeats the last element, "circular" begins again from the other end. Raises ShapeError for
    more elements than there are.

    >>> ds.pad_edges(ds.asarray([1, 2, 3]), low=(2,), high=(0,), mode="reflect").tolist()
    [3, 2, 1, 2, 3]
    """
    x = as_tensor(x, "pad")
    if all(is_size(s, 0) for s in (*low, *high)):
        return x
    out: Tensor = record(op_of(pad_edges), x, low=tuple(low), high=tuple(high), mode=mode)
    return out


@method("pad")
def pad(
    x: Tensor, /, padding: Sequence[Any], mode: str = "constant", value: float | None = None,
    interior: Sequence[int] | None = None,
) -> Tensor:  # fmt: skip
    """x with elements before and after it on each axis; negative amounts crop.

    `padding` is flat and starts from the last axis as in PyTorch, or has a pair (before, after) for
    each axis as in NumPy. `mode` is "constant" (`value`, 0 by default), "reflect", "replicate" (or
    "edge"), "circular" (or "wrap") or "symmetric". `interior` puts so many values between
    neighbours on each axis.

    Raises ShapeError for more elements than a mode can give, ArgumentError for other modes.

    >>> x = ds.asarray([[1, 2, 3]])
    >>> ds.pad(x, (1, 2)).tolist(), ds.pad(x, (1, 2), mode="circular").tolist()
    ([[0, 1, 2, 3, 0, 0]], [[3, 1, 2, 3, 1, 2]])
    """
    x = as_tensor(x, "pad")
    pairs = padding_pairs(x, padding)
    low, high = (tuple(size_of(p[side]) for p in pairs) for side in (0, 1))
    if mode == "constant":
        return padded(x, low, high, tuple(interior or (0,) * x.ndim), 0 if value is None else value)
    if mode not in MODES:
        raise unknown("mode of pad", mode, ["constant", *MODES])
    if value or interior:
        raise op_error(
            ArgumentError, "pad", f"value={value} and interior={interior} in mode {mode!r}",
            "neither", user_line(), "they belong to mode 'constant'",
        )  # fmt: skip
    # What is cropped is not there to be mirrored.
    cut, grown = zip(*[_parted(s) for s in (*low, *high)], strict=True) if x.ndim else ((), ())
    rank = x.ndim
    x = padded(x, cut[:rank], cut[rank:])
    return pad_edges(x, low=grown[:rank], high=grown[rank:], mode=MODES[mode])


def _parted(amount: Size) -> tuple[Size, Size]:
    """What an amount takes away (not above 0), and what it adds."""
    return (amount, 0) if is_less(amount, 0) else (0, amount)
