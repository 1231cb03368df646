"""Activation functions as modules, with PyTorch's names and settings."""

from __future__ import annotations

from typing import Any

from deepseek.frontend.tensor import Tensor
from deepseek.nn import functional as F
from deepseek.nn import init
from deepseek.nn.basic import new_parameter
from deepseek.nn.module import Module
from deepseek.nn.simple import Function

__all__ = [
    "CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU",
    "LogSigmoid", "LogSoftmax", "Mish", "PReLU", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU",
    "Sigmoid", "Softmax", "Softmax2d", "Softmin", "Softplus", "Softshrink", "Softsign", "Tanh",
    "Tanhshrink", "Threshold",
]  # fmt: skip


class ReLU(Function):
    """max(x, 0)."""

    function = F.relu
    inplace: bool = False


class ReLU6(Function):
    """min(max(x, 0), 6) (Krizhevsky 2010)."""

    function = F.relu6
    inplace: bool = False


class LeakyReLU(Function):
    """x, and negative_slope * x below 0 (Maas 2013)."""

    function = F.leaky_relu
    negative_slope: float = 0.01
    inplace: bool = False


class RReLU(Function):
    """x, and below 0 a share of it, drawn from [lower, upper) in training (Xu 2015)."""

    function = F.rrelu
    lower: float = 1 / 8
    upper: float = 1 / 3
    inplace: bool = False


class PReLU(Module):
    """x, and weight * x below 0, with one weight or one for each channel (He 2015).

    >>> ds.nn.PReLU()(ds.asarray([-2.0, 3.0])).tolist()
    [-0.5, 3.0]
    """

    settings = ("num_parameters",)

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.init = init
        self.weight = new_parameter((num_parameters,), dtype, device)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All weights as given at the start."""
        init.constant_(self.weight, self.init)

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class ELU(Function):
    """x, and alpha * (exp(x) - 1) below 0 (Clevert 2015)."""

    function = F.elu
    alpha: float = 1.0
    inplace: bool = False


class CELU(Function):
    """x, and alpha * (exp(x / alpha) - 1) below 0 (Barron 2017)."""

    function = F.celu
    alpha: float = 1.0
    inplace: bool = False


class SELU(Function):
    """ELU scaled so that mean 0 and variance 1 are kept (Klambauer 2017)."""

    function = F.selu
    inplace: bool = False


class GELU(Function):
    """x * P(X <= x) for a standard normal X (Hendrycks 2016); "tanh" approximates it."""

    function = F.gelu
    approximate: str = "none"


class SiLU(Function):
    """x * sigmoid(x) (Elfwing 2017)."""

    function = F.silu
    inplace: bool = False


class Mish(Function):
    """x * tanh(softplus(x)) (Misra 2019)."""

    function = F.mish
    inplace: bool = False


class Hardswish(Function):
    """x * ReLU6(x + 3) / 6 (Howard 2019)."""

    function = F.hardswish
    inplace: bool = False


class Hardsigmoid(Function):
    """ReLU6(x + 3) / 6."""

    function = F.hardsigmoid
    inplace: bool = False


class Hardtanh(Function):
    """x limited to [min_val, max_val]."""

    function = F.hardtanh
    min_val: float = -1.0
    max_val: float = 1.0
    inplace: bool = False


class Hardshrink(Function):
    """x, and 0 where |x| <= lambd."""

    function = F.hardshrink
    lambd: float = 0.5

    def extra_repr(self) -> str:
        return str(self.lambd)


class Softshrink(Function):
    """x moved towards 0 by lambd, and 0 where it would pass it."""

    function = F.softshrink
    lambd: float = 0.5

    def extra_repr(self) -> str:
        return str(self.lambd)


class Tanhshrink(Function):
    """x - tanh(x)."""

    function = F.tanhshrink


class Threshold(Function):
    """x where it is above the threshold, else `value`."""

    function = F.threshold
    threshold: float
    value: float
    inplace: bool = False


class Softplus(Function):
    """log(1 + exp(beta * x)) / beta, and x itself where beta * x is above the threshold."""

    function = F.softplus
    beta: float = 1.0
    threshold: float = 20.0


class Softsign(Function):
    """x / (1 + |x|)."""

    function = F.softsign


class Sigmoid(Function):
    """1 / (1 + exp(-x))."""

    function = F.sigmoid


class LogSigmoid(Function):
    """log(1 / (1 + exp(-x)))."""

    function = F.logsigmoid


class Tanh(Function):
    """The hyperbolic tangent."""

    function = F.tanh


class GLU(Function):
    """a * sigmoid(b), a and b being the halves of x along an axis (Dauphin 2016)."""

    function = F.glu
    dim: int = -1


class Softmax(Function):
    """exp(x) / sum(exp(x)) along an axis."""

    function = F.softmax
    dim: int = -1


class Softmin(Function):
    """Softmax of -x."""

    function = F.softmin
    dim: int = -1


class LogSoftmax(Function):
    """log(softmax(x)) along an axis."""

    function = F.log_softmax
    dim: int = -1


class Softmax2d(Module):
    """Softmax over the channels of (batch, channels, height, width), or of one image.

    >>> ds.nn.Softmax2d()(ds.zeros(2, 4, 3, 3)).sum(axis=1)[0, 0, 0].item()
    1.0
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, -3)


# Those that look at one element at a time, have no weights and draw nothing at random.
ELEMENTWISE = (
    CELU, ELU, GELU, Hardshrink, Hardsigmoid, Hardswish, Hardtanh, LeakyReLU, LogSigmoid, Mish,
    ReLU, ReLU6, SELU, SiLU, Sigmoid, Softplus, Softshrink, Softsign, Tanh, Tanhshrink, Threshold,
)  # fmt: skip
