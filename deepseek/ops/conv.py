"""PyTorch's convolution functions: arguments brought into the form the contraction takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ops.contract import convolution
from deepseek.ops.define import FLOATS, describe, promoted, shape_of

__all__ = ["conv1d", "conv2d", "conv3d"]

Spread = int | Sequence[int]


def spatial(op: str, name: str, given: Any, rank: int, least: int = 1) -> tuple[int, ...]:
    """An argument as one int for each of `rank` axes. Raises ArgumentError."""
    values = (given,) * rank if isinstance(given, int) else tuple(given)
    if len(values) == 1:
        values *= rank
    if len(values) != rank or any(v < least for v in values):
        raise op_error(
            ArgumentError, op, f"{name}={given}", f"an int of at least {least}, or {rank} of them",
            user_line(),
        )  # fmt: skip
    return tuple(int(v) for v in values)


def _pairs(
    op: str,
    padding: Any,
    window: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[tuple[int, int], ...]:
    rank = len(window)
    if padding == "valid":
        return ((0, 0),) * rank
    if padding == "same":
        if any(s != 1 for s in stride):
            raise op_error(
                ArgumentError, op, f"padding='same' and stride {stride}", "stride 1", user_line(),
                "give the padding in numbers",
            )  # fmt: skip
        totals = [d * (k - 1) for k, d in zip(window, dilation, strict=True)]
        return tuple((t // 2, t - t // 2) for t in totals)
    if isinstance(padding, str):
        raise op_error(
            ArgumentError, op, f"padding={padding!r}", "'same', 'valid' or numbers", user_line()
        )
    if not isinstance(padding, int) and padding and not isinstance(padding[0], int):
        pairs = tuple((int(a), int(b)) for a, b in padding)
        if len(pairs) != rank or any(min(p) < 0 for p in pairs):
            raise op_error(
                ArgumentError, op, f"padding={padding}", f"{rank} pairs (before, after) of sizes",
                user_line(),
            )  # fmt: skip
        return pairs
    return tuple((p, p) for p in spatial(op, "padding", padding, rank, 0))


def _convolve(
    op: str, rank: int, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Spread,
    padding: Any, dilation: Spread, groups: int,
) -> Tensor:  # fmt: skip
    x, weight, *rest = promoted(op, (x, weight) if bias is None else (x, weight, bias), FLOATS)
    if weight.ndim != rank + 2 or x.ndim not in (rank + 1, rank + 2):
        raise op_error(
            ShapeError, op, (describe(x), describe(weight)),
            f"(batch, channels, {rank} sizes) and (out, channels / groups, {rank} sizes)",
            user_line(),
        )  # fmt: skip
    window = tuple(int(s) for s in weight.shape[2:])
    steps, spacing = spatial(op, "stride", stride, rank), spatial(op, "dilation", dilation, rank)
    alone = x.ndim == rank + 1
    out = convolution(
        x.reshape((1, *shape_of(x))) if alone else x, weight, stride=steps,
        padding=_pairs(op, padding, window, steps, spacing), dilation=spacing, groups=int(groups),
    )  # fmt: skip
    if rest:
        out = out + rest[0].reshape((-1,) + (1,) * rank)
    return out.reshape(shape_of(out)[1:]) if alone else out


def conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Spread = 1, padding: Any = 0,
    dilation: Spread = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Cross-correlation of (batch, channels, length) with (out, channels / groups, window).

    `padding` is a number, a pair (before, after) in a list, "same" or "valid".
    """
    return _convolve("conv1d", 1, x, weight, bias, stride, padding, dilation, groups)


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Spread = 1, padding: Any = 0,
    dilation: Spread = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Cross-correlation of (batch, channels, height, width) with (out, channels / groups, window).

    `padding` is a number, one for each axis, a pair (before, after) for each, "same" or "valid".
    """
    return _convolve("conv2d", 2, x, weight, bias, stride, padding, dilation, groups)


def conv3d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Spread = 1, padding: Any = 0,
    dilation: Spread = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Cross-correlation of (batch, channels, depth, height, width) with (out, channels / groups,
    window).

    `padding` is a number, one for each axis, a pair (before, after) for each, "same" or "valid".
    """
    return _convolve("conv3d", 3, x, weight, bias, stride, padding, dilation, groups)
