"""Parametrizations of weights: by length and direction, and by their largest singular value.

In flows a layer, out flows the same layer, whose weight is computed each time it is read.
"""

from __future__ import annotations

from typing import cast

from deepseek.errors import ArgumentError
from deepseek.frontend.tensor import Tensor, no_grad
from deepseek.nn import functional as F
from deepseek.nn.conv import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from deepseek.nn.module import Module
from deepseek.nn.parameter import assign
from deepseek.nn.parametrize import register_parametrization
from deepseek.ops import moveaxis, randn, vector_norm

__all__ = ["spectral_norm", "weight_norm"]


class _WeightNorm(Module):
    """original0 * original1 / |original1|: a length, and what says the direction."""

    settings = ("dim",)

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def norm(self, weight: Tensor) -> Tensor:
        """Over all axes but one; -1 stands for no such axis."""
        if self.dim == -1:
            return vector_norm(weight)
        others = tuple(i for i in range(weight.ndim) if i != self.dim % weight.ndim)
        return vector_norm(weight, axis=others, keepdims=True) if others else abs(weight)

    def forward(self, length: Tensor, direction: Tensor) -> Tensor:
        return direction * (length / self.norm(direction))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.norm(weight), weight


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Learn a parameter as lengths and directions: g * v / |v| (Salimans and Kingma 2016).

    There is one length for each index of the axis `dim`; for None or -1, one for all. g is
    `parametrizations.<name>.original0`, v `original1`. Returns the module.

    >>> layer = ds.nn.utils.parametrizations.weight_norm(ds.nn.Linear(3, 2))
    >>> [(k, v.shape) for k, v in layer.state_dict().items()][1:]
    [('parametrizations.weight.original0', (2, 1)), ('parametrizations.weight.original1', (2, 3))]
    """
    return register_parametrization(module, name, _WeightNorm(-1 if dim is None else dim))


class _SpectralNorm(Module):
    """weight over its largest singular value, by one or more steps of the power method a call."""

    settings = ("n_power_iterations", "eps", "dim")

    def __init__(self, weight: Tensor, n_power_iterations: int, eps: float, dim: int) -> None:
        super().__init__()
        self.n_power_iterations = n_power_iterations
        self.eps = eps
        self.dim = dim
        if weight.ndim > 1:
            with no_grad():
                matrix = self.matrix(weight)
                u, v = (randn(size, dtype=weight.dtype) for size in matrix.shape)
                u, v = self.improved(matrix, u, v, 15)
            self.register_buffer("_u", u.evaluate())
            self.register_buffer("_v", v.evaluate())

    def matrix(self, weight: Tensor) -> Tensor:
        """The axis `dim` by all others."""
        front = moveaxis(weight, self.dim, 0)
        return cast(Tensor, front.reshape((front.shape[0], -1)))

    def improved(self, matrix: Tensor, u: Tensor, v: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Closer to the singular vectors of the largest singular value."""
        for _ in range(steps):
            u = F.normalize(matrix @ v, dim=0, eps=self.eps)
            v = F.normalize(matrix.mT @ u, dim=0, eps=self.eps)
        return u, v

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return F.normalize(weight, dim=0, eps=self.eps)
        matrix, u, v = self.matrix(weight), self._u.detach(), self._v.detach()
        if self.training:
            with no_grad():
                u, v = self.improved(matrix, u, v, self.n_power_iterations)
                assign(self._u, u)
                assign(self._v, v)
        return cast(Tensor, weight / (u * (matrix @ v)).sum())

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12,
    dim: int | None = None,
) -> Module:  # fmt: skip
    """Divide a parameter by its largest singular value (Miyato et al. 2018); returns the module.

    As a matrix, it is its axis `dim` (1 for transposed convolutions, else 0) by all others. Each
    reading in training improves the singular vectors, buffers, by `n_power_iterations` steps.
    Raises ArgumentError for less than one.

    >>> layer = ds.nn.utils.parametrizations.spectral_norm(ds.nn.Linear(4, 4))
    >>> for _ in range(50): weight = layer.weight.evaluate()
    >>> round(float(np.linalg.norm(weight.numpy(), 2)), 3)
    1.0
    """
    if n_power_iterations < 1:
        raise ArgumentError(
            f"spectral_norm: got n_power_iterations={n_power_iterations}; wanted 1 or more"
        )
    weight = module.get_parameter(name)
    transposed = (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)
    if dim is None:
        dim = 1 if isinstance(module, transposed) else 0
    made = _SpectralNorm(weight.detach(), n_power_iterations, eps, dim)
    return register_parametrization(module, name, made)
