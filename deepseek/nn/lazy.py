"""Layers that take the size of their input from the first one they are called with.

Such a layer has parameters without elements until then. The first call, or a state dict that is
loaded, gives them their sizes and their first values, and makes the layer one of the plain class:
the handles stay, so an optimizer may hold them before, but it has to make no step before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, state
from deepseek.nn.basic import Linear
from deepseek.nn.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Spread,
)
from deepseek.nn.module import Module
from deepseek.nn.normalization import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
)
from deepseek.nn.parameter import computed_full, retyped

__all__ = [
    "LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d", "LazyConv1d", "LazyConv2d",
    "LazyConv3d", "LazyConvTranspose1d", "LazyConvTranspose2d", "LazyConvTranspose3d",
    "LazyInstanceNorm1d", "LazyInstanceNorm2d", "LazyInstanceNorm3d", "LazyLinear",
]  # fmt: skip


class Lazy(Module):
    """What lazy layers share.

    `becomes` is the class that a layer has afterwards, `sized` the name of the size, and `held`
    says where that size stands: by the name of a parameter or buffer, on which of its axes.
    """

    becomes: ClassVar[type[Module]]
    sized: ClassVar[str]
    held: ClassVar[Mapping[str, int]]

    def size_of_input(self, x: Tensor) -> int:
        """The size that an input has. Raises ShapeError where it has no such axis."""
        raise NotImplementedError

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Take the size of x, and compute what a layer of that size gives."""
        if state.trace is not None:
            raise ArgumentError(
                f"{type(self).__name__}: got its first input inside @ds.jit, where its parameters "
                "cannot be made\n  help: call the layer with one batch before"
            )
        self.take_size(self.size_of_input(x))
        return self.forward(x, *args, **kwargs)

    def take_size(self, size: int) -> None:
        """Become a layer for inputs of this size. Raises ArgumentError where groups forbid it."""
        groups = getattr(self, "groups", 1)
        if size % groups:
            raise ArgumentError(
                f"{type(self).__name__}: got an input of {size} channels; wanted a multiple of "
                f"groups={groups}"
            )
        for name, axis in self.held.items():
            tensor = getattr(self, name)
            if tensor is not None:
                shape = list(tensor.shape)
                shape[axis] = size // groups if axis else size
                made = computed_full(shape, 0.0, tensor.dtype)
                retyped(tensor, made, tensor.requires_grad)
        setattr(self, self.sized, size)
        self.__class__ = self.becomes  # type: ignore[assignment]
        self.reset_parameters()  # type: ignore[operator]

    def take_size_of_state(self, given: Mapping[str, Any], prefix: str) -> None:
        """Take the size that this layer has in a state dict, if it is in there."""
        for name, axis in self.held.items():
            own, stored = getattr(self, name), given.get(prefix + name)
            if own is not None and own.ndim == getattr(stored, "ndim", None):
                groups = getattr(self, "groups", 1) if axis else 1
                self.take_size(int(stored.shape[axis]) * groups)
                return


def axis_of_input(layer: Module, x: Tensor, axis: int, ranks: tuple[int, ...]) -> int:
    """The size of an axis of an input that has one of some numbers of axes. Raises ShapeError."""
    if x.ndim not in ranks:
        wanted = " or ".join(map(str, ranks))
        got = f"{x.dtype}{list(x.shape)}"
        name = type(layer).__name__
        raise op_error(ShapeError, name, got, f"a tensor of {wanted} axes", user_line())
    return int(x.shape[axis])


class LazyLinear(Lazy, Linear):
    """A `Linear` that takes in_features from the first input.

    >>> layer = ds.nn.LazyLinear(2)
    >>> layer(ds.ones(5, 3)).shape, layer
    ((5, 2), Linear(in_features=3, out_features=2, bias=True))
    """

    becomes, sized, held = Linear, "in_features", {"weight": 1}

    def __init__(
        self, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        Linear.__init__(self, 0, out_features, bias, device, dtype)

    def size_of_input(self, x: Tensor) -> int:
        return axis_of_input(self, x, -1, tuple(range(1, 65)))


# ----------------------------------------------------------------------------------- convolutions


class _LazyConv(Lazy):
    rank: ClassVar[int]
    sized, held = "in_channels", {"weight": 1}

    def __init__(
        self, out_channels: int, kernel_size: Spread, stride: Spread = 1,
        padding: Spread | str = 0, dilation: Spread = 1, groups: int = 1, bias: bool = True,
        padding_mode: str = "zeros", device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        self.becomes.__init__(
            self, 0, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip

    def size_of_input(self, x: Tensor) -> int:
        return axis_of_input(self, x, -1 - self.rank, (self.rank + 1, self.rank + 2))


class LazyConv1d(_LazyConv, Conv1d):
    """A `Conv1d` that takes in_channels from the first input; see `LazyConv2d`."""

    becomes = Conv1d


class LazyConv2d(_LazyConv, Conv2d):
    """A `Conv2d` that takes in_channels from the first input.

    >>> layer = ds.nn.LazyConv2d(8, 3)
    >>> layer(ds.zeros(4, 3, 32, 32)).shape, layer.weight.shape
    ((4, 8, 30, 30), (8, 3, 3, 3))
    """

    becomes = Conv2d


class LazyConv3d(_LazyConv, Conv3d):
    """A `Conv3d` that takes in_channels from the first input; see `LazyConv2d`."""

    becomes = Conv3d


class _LazyConvTranspose(_LazyConv):
    held = {"weight": 0}

    def __init__(
        self, out_channels: int, kernel_size: Spread, stride: Spread = 1, padding: Spread = 0,
        output_padding: Spread = 0, groups: int = 1, bias: bool = True, dilation: Spread = 1,
        padding_mode: str = "zeros", device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        self.becomes.__init__(
            self, 0, out_channels, kernel_size, stride, padding, output_padding, groups, bias,
            dilation, padding_mode, device, dtype,
        )  # fmt: skip


class LazyConvTranspose1d(_LazyConvTranspose, ConvTranspose1d):
    """A `ConvTranspose1d` that takes in_channels from the first input; see `LazyConv2d`."""

    becomes = ConvTranspose1d


class LazyConvTranspose2d(_LazyConvTranspose, ConvTranspose2d):
    """A `ConvTranspose2d` that takes in_channels from the first input; see `LazyConv2d`."""

    becomes = ConvTranspose2d


class LazyConvTranspose3d(_LazyConvTranspose, ConvTranspose3d):
    """A `ConvTranspose3d` that takes in_channels from the first input; see `LazyConv2d`."""

    becomes = ConvTranspose3d


# ---------------------------------------------------------------------------------- normalisation


class _LazyNorm(Lazy):
    sized, held = "num_features", {"weight": 0, "bias": 0, "running_mean": 0, "running_var": 0}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.becomes.__init__(self, 0, *args, **kwargs)

    def size_of_input(self, x: Tensor) -> int:
        ranks: tuple[int, ...] = self.becomes.ranks  # type: ignore[attr-defined]
        alone = issubclass(self.becomes, (InstanceNorm1d, InstanceNorm2d, InstanceNorm3d))
        return axis_of_input(self, x, 0 if alone and x.ndim == ranks[0] else 1, ranks)


class LazyBatchNorm1d(_LazyNorm, BatchNorm1d):
    """A `BatchNorm1d` that takes num_features from the first input; see `LazyLinear`."""

    becomes = BatchNorm1d


class LazyBatchNorm2d(_LazyNorm, BatchNorm2d):
    """A `BatchNorm2d` that takes num_features from the first input.

    >>> layer = ds.nn.LazyBatchNorm2d(momentum=0.2)
    >>> layer(ds.randn(4, 3, 8, 8)).shape, layer.running_mean.shape
    ((4, 3, 8, 8), (3,))
    """

    becomes = BatchNorm2d


class LazyBatchNorm3d(_LazyNorm, BatchNorm3d):
    """A `BatchNorm3d` that takes num_features from the first input; see `LazyLinear`."""

    becomes = BatchNorm3d


class LazyInstanceNorm1d(_LazyNorm, InstanceNorm1d):
    """An `InstanceNorm1d` that takes num_features from the first input; see `LazyLinear`."""

    becomes = InstanceNorm1d


class LazyInstanceNorm2d(_LazyNorm, InstanceNorm2d):
    """An `InstanceNorm2d` that takes num_features from the first input; see `LazyLinear`."""

    becomes = InstanceNorm2d


class LazyInstanceNorm3d(_LazyNorm, InstanceNorm3d):
    """An `InstanceNorm3d` that takes num_features from the first input; see `LazyLinear`."""

    becomes = InstanceNorm3d
