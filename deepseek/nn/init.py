"""Initial values of parameters, drawn from the project's generator; names and formulas are
PyTorch's.

Each function gives a tensor new values and returns it.
"""

from __future__ import annotations

import math
from typing import Any

from deepseek.errors import ShapeError, unknown
from deepseek.frontend.tensor import Tensor, no_grad
from deepseek.nn.parameter import assign, computed_full
from deepseek.ops import rand, randn

__all__ = [
    "calculate_gain", "constant_", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_",
    "uniform_", "xavier_normal_", "xavier_uniform_", "zeros_",
]  # fmt: skip

GAINS = {
    "linear": 1.0,
    "conv1d": 1.0,
    "conv2d": 1.0,
    "conv3d": 1.0,
    "sigmoid": 1.0,
    "tanh": 5.0 / 3.0,
    "relu": math.sqrt(2.0),
    "selu": 0.75,
}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """How much larger weights are in front of a nonlinearity; `param` is leaky_relu's slope.

    Raises ArgumentError for an unknown nonlinearity.

    >>> ds.nn.init.calculate_gain("relu")
    1.4142135623730951
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in GAINS:
        raise unknown("nonlinearity", nonlinearity, [*GAINS, "leaky_relu"])
    return GAINS[nonlinearity]


def fans(tensor: Tensor) -> tuple[int, int]:
    """(inputs of one output, outputs of one input) of a weight (out, in, *window)."""
    if tensor.ndim < 2:
        raise ShapeError(f"fan in and fan out: got {tensor._value.type}; wanted two axes or more")
    window = math.prod(tensor.shape[2:])
    return tensor.shape[1] * window, tensor.shape[0] * window


def fan(tensor: Tensor, mode: str) -> int:
    """One of the two `fans`."""
    modes = ("fan_in", "fan_out")
    if mode not in modes:
        raise unknown("mode", mode, modes)
    return fans(tensor)[modes.index(mode)]


def filled(tensor: Tensor, values: Tensor) -> Tensor:
    """Assign and compute now."""
    return assign(tensor, values.astype(tensor.dtype).evaluate())


def drawn(tensor: Tensor, draw: Any, generator: Any) -> Tensor:
    """Random numbers shaped like the tensor; 16-bit floats are drawn as float32."""
    out: Tensor = draw(tensor.shape, dtype=tensor.dtype.accumulator, generator=generator)
    return out


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Numbers spread evenly over [a, b).

    >>> ds.nn.init.uniform_(ds.empty(2, 3), -1, 1).shape
    (2, 3)
    """
    middle, half = (a + b) / 2, (b - a) / 2
    with no_grad():
        # Exact up to the last product, so that a seed gives the same bits however this is compiled.
        values = (drawn(tensor, rand, generator) * 2 - 1) * half
        return filled(tensor, values + middle if middle else values)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Numbers of a normal distribution.

    >>> ds.nn.init.normal_(ds.empty(2, 3), std=0.02).shape
    (2, 3)
    """
    with no_grad():
        return filled(tensor, drawn(tensor, randn, generator) * std + mean)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """One number everywhere.

    >>> ds.nn.init.constant_(ds.empty(2), 0.5)
    tensor([0.5, 0.5])
    """
    return assign(tensor, computed_full(tensor.shape, val, tensor.dtype))


def zeros_(tensor: Tensor) -> Tensor:
    """Zeros.

    >>> ds.nn.init.zeros_(ds.ones(2))
    tensor([0., 0.])
    """
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Ones.

    >>> ds.nn.init.ones_(ds.empty(2))
    tensor([1., 1.])
    """
    return constant_(tensor, 1.0)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Even over [-b, b), b = gain * sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010).

    Raises ShapeError for fewer than two axes.

    >>> w = ds.nn.init.xavier_uniform_(ds.empty(100, 50))
    >>> bool(ds.abs(w).max() <= 0.2)
    True
    """
    bound = gain * math.sqrt(6.0 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Normal with std = gain * sqrt(2 / (fan_in + fan_out)); see `xavier_uniform_`."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(fans(tensor))), generator)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Any = None,
) -> Tensor:
    """Even over [-b, b), b = gain * sqrt(3 / fan) (He et al. 2015).

    `fan` counts inputs, or outputs for mode="fan_out"; the gain is that of the nonlinearity that
    follows. Raises ShapeError for fewer than two axes.

    >>> w = ds.nn.init.kaiming_uniform_(ds.empty(10, 600), nonlinearity="relu")
    >>> bool(ds.abs(w).max() <= 0.1)
    True
    """
    bound = calculate_gain(nonlinearity, a) * math.sqrt(3.0 / fan(tensor, mode))
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Any = None,
) -> Tensor:
    """Normal with std = gain / sqrt(fan); see `kaiming_uniform_`."""
    std = calculate_gain(nonlinearity, a) / math.sqrt(fan(tensor, mode))
    return normal_(tensor, 0.0, std, generator)
