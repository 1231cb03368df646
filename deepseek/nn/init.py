"""Initial values of parameters, drawn from the project's generator; names and formulas are
PyTorch's.

Each function gives a tensor new values and returns it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, unknown
from deepseek.frontend.tensor import Tensor, from_numpy, no_grad
from deepseek.ir.dtype import float64
from deepseek.nn.parameter import assign, computed_full
from deepseek.ops import clip, erfinv, rand, randn, where

__all__ = [
    "calculate_gain", "constant_", "dirac_", "eye_", "kaiming_normal_", "kaiming_uniform_",
    "normal_", "ones_", "orthogonal_", "sparse_", "trunc_normal_", "uniform_", "xavier_normal_",
    "xavier_uniform_", "zeros_",
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
    count = fan(tensor, mode)
    if not tensor.size:
        return tensor
    bound = calculate_gain(nonlinearity, a) * math.sqrt(3.0 / count)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Any = None,
) -> Tensor:
    """Normal with std = gain / sqrt(fan); see `kaiming_uniform_`."""
    count = fan(tensor, mode)
    if not tensor.size:
        return tensor
    std = calculate_gain(nonlinearity, a) / math.sqrt(count)
    return normal_(tensor, 0.0, std, generator)


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Any = None,
) -> Tensor:
    """Numbers of a normal distribution that lie in [a, b].

    Evenly spread probabilities between those of a and b, through the inverse of the distribution.
    Raises ArgumentError unless a < b and std > 0.

    >>> p = ds.nn.init.trunc_normal_(ds.nn.Parameter(ds.zeros(1000)), std=5.0)
    >>> bool((ds.abs(p) <= 2).all())
    True
    """
    if not a < b or not std > 0:
        raise ArgumentError(f"trunc_normal_: got a={a}, b={b}, std={std}; wanted a < b and std > 0")
    low, high = (math.erf((edge - mean) / (std * math.sqrt(2.0))) for edge in (a, b))
    with no_grad():
        even = drawn(tensor, rand, generator) * (high - low) + low
        values = erfinv(clip(even, low, high)) * (std * math.sqrt(2.0)) + mean
        return filled(tensor, clip(values, a, b))


def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix: a layer that passes on as many inputs as it can.

    Raises ShapeError unless the tensor is a matrix.

    >>> ds.nn.init.eye_(ds.nn.Parameter(ds.zeros((2, 3)))).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    if tensor.ndim != 2:
        raise ShapeError(f"eye_: got {tensor._value.type}; wanted a matrix")
    return assign(tensor, from_numpy(np.eye(tensor.shape[0], tensor.shape[1]), tensor.dtype))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """A weight (out, in, *window) of a convolution that passes on as many channels as it can.

    In each group of the outputs. Raises ShapeError unless the weight has three to five axes and the
    groups divide the outputs.

    >>> ds.nn.init.dirac_(ds.nn.Parameter(ds.zeros((2, 1, 3)))).tolist()
    [[[0.0, 1.0, 0.0]], [[0.0, 0.0, 0.0]]]
    """
    if tensor.ndim not in (3, 4, 5) or groups < 1 or tensor.shape[0] % groups:
        raise ShapeError(
            f"dirac_: got {tensor._value.type} and groups={groups}; wanted (out, in, *window) with "
            "1 to 3 sizes of the window, and groups that divide out"
        )
    values = np.zeros(tensor.shape)
    each = tensor.shape[0] // groups
    middle = tuple(size // 2 for size in tensor.shape[2:])
    for group in range(groups):
        for channel in range(min(each, tensor.shape[1])):
            values[(group * each + channel, channel, *middle)] = 1.0
    return assign(tensor, from_numpy(values, tensor.dtype))


def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """A matrix (the first axis by all others) of orthonormal rows or columns, times `gain`.

    The orthogonal factor of a normal matrix, with the signs that make all such equally likely
    (Saxe 2013, Mezzadri 2007). Raises ShapeError unless there are two axes or more.

    >>> w = ds.nn.init.orthogonal_(ds.nn.Parameter(ds.zeros((3, 5))))
    >>> np.allclose(w.numpy() @ w.numpy().T, np.eye(3), atol=1e-6)
    True
    """
    if tensor.ndim < 2:
        raise ShapeError(f"orthogonal_: got {tensor._value.type}; wanted two axes or more")
    if not tensor.size:
        return tensor
    rows, columns = tensor.shape[0], tensor.size // tensor.shape[0]
    with no_grad():
        flat = randn(rows, columns, dtype=float64, generator=generator).numpy()
    q, r = np.linalg.qr(flat.T if rows < columns else flat)
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    values = (q.T if rows < columns else q).reshape(tensor.shape) * gain
    return assign(tensor, from_numpy(values, tensor.dtype))


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """A matrix of normal numbers with a share `sparsity` of each column, rounded up, set to 0.

    (Martens 2010.) Raises ShapeError unless the tensor is a matrix. Raises ArgumentError unless the
    share is from 0 to 1.

    >>> w = ds.nn.init.sparse_(ds.nn.Parameter(ds.zeros((10, 4))), 0.75)
    >>> (w == 0).sum(axis=0).tolist()
    [8, 8, 8, 8]
    """
    if tensor.ndim != 2:
        raise ShapeError(f"sparse_: got {tensor._value.type}; wanted a matrix")
    if not 0 <= sparsity <= 1:
        raise ArgumentError(f"sparse_: got sparsity={sparsity}; wanted a share from 0 to 1")
    count = math.ceil(sparsity * tensor.shape[0])
    with no_grad():
        order = rand(*tensor.shape, generator=generator).argsort(axis=0).argsort(axis=0)
        values = drawn(tensor, randn, generator) * std
        return filled(tensor, where(order < count, 0.0, values))
