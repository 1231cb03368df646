"""Layers that normalise: over the batch, over the last axes, over each instance.

Running statistics are buffers whose handles get new values in training; they are never replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, no_grad
from deepseek.ir.dtype import dtype_of, float32, int64
from deepseek.nn import functional as F
from deepseek.nn import init
from deepseek.nn.basic import new_parameter
from deepseek.nn.module import Module
from deepseek.nn.parameter import assign, computed_full, retyped
from deepseek.nn.simple import Function
from deepseek.ops import zeros_like

__all__ = [
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "CrossMapLRN2d", "GroupNorm", "InstanceNorm1d",
    "InstanceNorm2d", "InstanceNorm3d", "LayerNorm", "LocalResponseNorm", "RMSNorm",
]  # fmt: skip


def start(norm: Module) -> None:
    """Weight 1, bias 0, where there are such."""
    for name, value in (("weight", 1.0), ("bias", 0.0)):
        parameter = norm._parameters.get(name)
        if parameter is not None:
            init.constant_(parameter, value)


class _Norm(Module):
    """What batch and instance norm share: weight, bias and running statistics per channel."""

    ranks: ClassVar[tuple[int, ...]]

    settings = ("eps", "momentum")

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        bias: bool,
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            parameter = new_parameter((num_features,), dtype, device) if wanted else None
            self.register_parameter(name, parameter)
        kept = float32 if dtype is None else dtype_of(dtype)
        shapes = {
            "running_mean": ((num_features,), kept),
            "running_var": ((num_features,), kept),
            "num_batches_tracked": ((), int64),
        }
        for name, (shape, type_) in shapes.items():
            buffer = computed_full(shape, 0, type_) if track_running_stats else None
            self.register_buffer(name, buffer)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget all batches."""
        if self.running_mean is not None:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, no batch seen."""
        self.reset_running_stats()
        start(self)

    def check(self, x: Tensor) -> None:
        """Raise ShapeError unless x has a right number of axes."""
        if x.ndim not in self.ranks:
            wanted = " or ".join(str(r) for r in self.ranks)
            raise op_error(
                ShapeError, type(self).__name__, x._value.type, f"{wanted} axes", user_line()
            )

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_Norm):
    """Each channel (axis 1) with mean 0 and variance 1, times weight, plus bias.

    In training by the statistics of the batch, otherwise by the running ones. `momentum` is the
    share that a batch has in the running statistics; with None they are the plain mean over all
    batches.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if not eps > 0:
            raise ArgumentError(f"{type(self).__name__}: got eps={eps}; wanted a number above 0")
        given = (eps, momentum, affine, track_running_stats, bias, device, dtype)
        super().__init__(num_features, *given)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        mean, var, weight, bias = self.running_mean, self.running_var, self.weight, self.bias
        if not self.training or mean is None:
            return F.batch_norm(x, mean, var, weight, bias, mean is None, 0.0, self.eps)
        if all(size == 1 for axis, size in enumerate(x.shape) if axis != 1):
            raise op_error(
                ShapeError,
                type(self).__name__,
                x._value.type,
                "more than one value for each channel in training",
                user_line(),
                "use a larger batch, or model.eval()",
            )
        with no_grad():
            batches = self.num_batches_tracked + 1
            assign(self.num_batches_tracked, batches)
        if self.momentum is not None:
            out = F.batch_norm(x, mean, var, weight, bias, True, self.momentum, self.eps)
            for buffer in (mean, var):
                retyped(buffer, buffer, False)
            return out
        # The statistics of the batch alone, then their share in the mean over all batches.
        fresh = [zeros_like(buffer) for buffer in (mean, var)]
        out = F.batch_norm(x, *fresh, weight, bias, True, 1.0, self.eps)
        with no_grad():
            for buffer, now in zip((mean, var), fresh, strict=True):
                new = buffer + (now - buffer) / batches.astype(buffer.dtype)
                assign(buffer, new)
        return out


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (batch, channels) or (batch, channels, length); see `BatchNorm2d`."""

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (batch, channels, height, width) (Ioffe and Szegedy 2015).

    In training by the batch's statistics, which move the running ones by `momentum` (None: their
    plain mean); in evaluation by the running ones.

    >>> norm = ds.nn.BatchNorm2d(3)
    >>> norm(ds.randn(4, 3, 8, 8)).shape, list(norm.state_dict())
    ((4, 3, 8, 8), ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked'])
    """

    ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """Batch normalisation of (batch, channels, depth, height, width); see `BatchNorm2d`."""

    ranks = (5,)


class _InstanceNorm(_Norm):
    """Each channel of each sample with mean 0 and variance 1, times weight, plus bias."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        given = (eps, momentum, affine, track_running_stats, bias, device, dtype)
        super().__init__(num_features, *given)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        if x.ndim == self.ranks[0]:
            return self._normalized(x[None])[0]
        return self._normalized(x)

    def _normalized(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        own = self.training or mean is None
        share = 0.0 if self.momentum is None else self.momentum
        out = F.instance_norm(x, mean, var, self.weight, self.bias, own, share, self.eps)
        if own and mean is not None:
            for buffer in (mean, var):
                retyped(buffer, buffer, False)
        return out


class InstanceNorm1d(_InstanceNorm):
    """Instance normalisation of (batch, channels, length) or one sample; see `InstanceNorm2d`."""

    ranks = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Instance normalisation of (batch, channels, height, width) or one sample (Ulyanov 2016).

    >>> ds.nn.InstanceNorm2d(3)(ds.randn(4, 3, 8, 8)).shape
    (4, 3, 8, 8)
    """

    ranks = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """Instance normalisation of (batch, channels, depth, height, width), or one sample; see
    `InstanceNorm2d`.
    """

    ranks = (4, 5)


class _LastAxes(Module):
    """What layer and RMS norm share: sizes of the last axes, and parameters of these sizes."""

    settings = ("normalized_shape", "eps")

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None,
        elementwise_affine: bool,
        device: Any,
        dtype: Any,
        **wanted: bool,
    ) -> None:
        super().__init__()
        sizes = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.normalized_shape = tuple(sizes)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        for name, has in wanted.items():
            given = elementwise_affine and has
            parameter = new_parameter(self.normalized_shape, dtype, device) if given else None
            self.register_parameter(name, parameter)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        start(self)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
        )


class LayerNorm(_LastAxes):
    """The last axes, of sizes `normalized_shape`, with mean 0 and variance 1 (Ba 2016).

    Times weight, plus bias, which have these sizes as well. Raises ShapeError for other sizes.

    >>> ds.nn.LayerNorm([4, 8])(ds.randn(2, 4, 8)).shape
    (2, 4, 8)
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            normalized_shape, eps, elementwise_affine, device, dtype, weight=True, bias=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bias={self.bias is not None}"


class RMSNorm(_LastAxes):
    """The last axes, of sizes `normalized_shape`, with mean square 1, times weight (Zhang 2019).

    With eps None it is the least step from 1 that the dtype computed in can tell.

    >>> ds.nn.RMSNorm(2, eps=0.0)(ds.asarray([[1.0, 7.0]]))
    tensor([[0.2, 1.4]], requires_grad=True)
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, device, dtype, weight=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class GroupNorm(Module):
    """Groups of channels of each sample with mean 0 and variance 1, times weight, plus bias.

    Weight and bias have an element for each channel (Wu and He 2018). Raises ArgumentError unless
    the groups divide the channels.

    >>> ds.nn.GroupNorm(2, 6)(ds.randn(4, 6, 5, 5)).shape
    (4, 6, 5, 5)
    """

    settings = ("num_groups", "num_channels", "eps")

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise ArgumentError(
                f"GroupNorm: got num_groups={num_groups}, num_channels={num_channels}; "
                "wanted num_channels to be a multiple of num_groups"
            )
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            parameter = new_parameter((num_channels,), dtype, device) if wanted else None
            self.register_parameter(name, parameter)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        start(self)

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class LocalResponseNorm(Function):
    """x / (k + alpha * mean of the squares of `size` neighbouring channels)**beta."""

    function = F.local_response_norm
    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class CrossMapLRN2d(LocalResponseNorm):
    """LocalResponseNorm of (batch, channels, height, width), with k as `k`.

    Of an even size it sums one channel less, `size - 1` of them, and divides by `size` all the
    same, as PyTorch does.
    """

    function = F.local_response_norm
    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if x.ndim != 4:
            wanted = "(batch, channels, height, width)"
            raise op_error(ShapeError, "CrossMapLRN2d", x._value.type, wanted, user_line())
        summed = (self.size - 1) // 2 * 2 + 1
        return F.local_response_norm(x, summed, self.alpha * summed / self.size, self.beta, self.k)
