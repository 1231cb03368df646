"""Padding of one, two or three axes as modules; sizes are one number, or before and after each axis
from the last one on, as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from deepseek.errors import ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.nn import functional as F
from deepseek.nn.simple import Function

__all__ = [
    "CircularPad1d", "CircularPad2d", "CircularPad3d", "ConstantPad1d", "ConstantPad2d",
    "ConstantPad3d", "ReflectionPad1d", "ReflectionPad2d", "ReflectionPad3d", "ReplicationPad1d",
    "ReplicationPad2d", "ReplicationPad3d", "ZeroPad1d", "ZeroPad2d", "ZeroPad3d",
]  # fmt: skip


class _Pad(Function):
    """Elements before and after each of the last `rank` axes."""

    mode: ClassVar[str] = "constant"
    rank: ClassVar[int]
    padding: int | Sequence[int]

    def settle(self) -> None:
        if isinstance(self.padding, int):
            self.padding = (self.padding,) * (2 * self.rank)

    def extra_repr(self) -> str:
        return str(self.padding)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        ranks = (self.rank + 1, self.rank + 2)
        if self.mode != "constant" and x.ndim not in ranks:
            wanted = f"{ranks[1]} axes, or {ranks[0]} without a batch"
            raise op_error(ShapeError, type(self).__name__, x._value.type, wanted, user_line())
        value = getattr(self, "value", 0.0) if self.mode == "constant" else None
        return F.pad(x, tuple(self.padding), mode=self.mode, value=value)


class _ConstantPad(_Pad):
    """A number around x."""

    padding: int | Sequence[int]
    value: float

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class _ZeroPad(_Pad):
    """Zeros around x."""


class _ReflectionPad(_Pad):
    """x mirrored at its borders, which are not repeated."""

    mode = "reflect"


class _ReplicationPad(_Pad):
    """x's borders repeated."""

    mode = "replicate"


class _CircularPad(_Pad):
    """x followed by itself."""

    mode = "circular"


class ConstantPad1d(_ConstantPad):
    """A number around (batch, channels, length) or (channels, length).

    >>> ds.nn.ConstantPad1d((1, 2), 7)(ds.asarray([[1, 2, 3]]))
    tensor([[7, 1, 2, 3, 7, 7]])
    """

    rank = 1


class ConstantPad2d(_ConstantPad):
    """A number around (batch, channels, height, width); see `ConstantPad1d`."""

    rank = 2


class ConstantPad3d(_ConstantPad):
    """A number around (batch, channels, depth, height, width); see `ConstantPad1d`."""

    rank = 3


class ZeroPad1d(_ZeroPad):
    """Zeros around (batch, channels, length) or (channels, length).

    >>> ds.nn.ZeroPad1d(1)(ds.asarray([[1, 2, 3]]))
    tensor([[0, 1, 2, 3, 0]])
    """

    rank = 1


class ZeroPad2d(_ZeroPad):
    """Zeros around (batch, channels, height, width); see `ZeroPad1d`."""

    rank = 2


class ZeroPad3d(_ZeroPad):
    """Zeros around (batch, channels, depth, height, width); see `ZeroPad1d`."""

    rank = 3


class ReflectionPad1d(_ReflectionPad):
    """A mirror image around (batch, channels, length) or (channels, length).

    >>> ds.nn.ReflectionPad1d(2)(ds.asarray([[1, 2, 3]]))
    tensor([[3, 2, 1, 2, 3, 2, 1]])
    """

    rank = 1


class ReflectionPad2d(_ReflectionPad):
    """A mirror image around (batch, channels, height, width); see `ReflectionPad1d`."""

    rank = 2


class ReflectionPad3d(_ReflectionPad):
    """A mirror image around (batch, channels, depth, height, width); see `ReflectionPad1d`."""

    rank = 3


class ReplicationPad1d(_ReplicationPad):
    """Repeated borders around (batch, channels, length) or (channels, length).

    >>> ds.nn.ReplicationPad1d(2)(ds.asarray([[1, 2, 3]]))
    tensor([[1, 1, 1, 2, 3, 3, 3]])
    """

    rank = 1


class ReplicationPad2d(_ReplicationPad):
    """Repeated borders around (batch, channels, height, width); see `ReplicationPad1d`."""

    rank = 2


class ReplicationPad3d(_ReplicationPad):
    """Repeated borders around (batch, channels, depth, height, width); see `ReplicationPad1d`."""

    rank = 3


class CircularPad1d(_CircularPad):
    """The other side's elements around (batch, channels, length) or (channels, length).

    >>> ds.nn.CircularPad1d(2)(ds.asarray([[1, 2, 3]]))
    tensor([[2, 3, 1, 2, 3, 1, 2]])
    """

    rank = 1


class CircularPad2d(_CircularPad):
    """The other side's elements around (batch, channels, height, width); see `CircularPad1d`."""

    rank = 2


class CircularPad3d(_CircularPad):
    """The other side's elements around (batch, channels, depth, height, width); see
    `CircularPad1d`.
    """

    rank = 3
