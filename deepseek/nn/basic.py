"""Layers on the last axis, and small ones without parameters."""

from __future__ import annotations

import math
from typing import Any

from deepseek.errors import ArgumentError
from deepseek.frontend.tensor import Tensor, no_grad
from deepseek.ir.dtype import dtype_of, float32
from deepseek.nn import functional as F
from deepseek.nn import init
from deepseek.nn.module import Module
from deepseek.nn.parameter import Parameter, assign, computed_full
from deepseek.ops.create import arange, check_device
from deepseek.ops.elementwise import where

__all__ = ["Dropout", "Embedding", "Flatten", "Identity", "Linear"]


def new_parameter(shape: tuple[int, ...], dtype: Any = None, device: Any = None) -> Parameter:
    """A float32 parameter unless said otherwise, whose values are still to be set."""
    check_device(device)
    return Parameter(computed_full(shape, 0.0, float32 if dtype is None else dtype_of(dtype)))


class Identity(Module):
    """Gives back its first argument; takes and ignores all others, also when it is made.

    >>> ds.nn.Identity()(ds.asarray([1, 2]))
    tensor([1, 2])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        return x


class Linear(Module):
    """y = x @ weight.T + bias, weight (out_features, in_features), x (..., in_features).

    Raises ShapeError for an x of other width.

    >>> layer = ds.nn.Linear(3, 2)
    >>> layer(ds.ones(5, 3)).shape, layer.weight.shape, layer
    ((5, 2), (2, 3), Linear(in_features=3, out_features=2, bias=True))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = new_parameter((out_features, in_features), dtype, device)
        self.bias = new_parameter((out_features,), dtype, device) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias evenly over [-1 / sqrt(in_features), 1 / sqrt(in_features))."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features else 0.0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


class Embedding(Module):
    """The rows of weight (num_embeddings, embedding_dim) at integer indices.

    The row `padding_idx` starts as zeros and gets no gradient.

    >>> ds.nn.Embedding(10, 3)(ds.asarray([[1, 2, 1]])).shape
    (1, 3, 3)
    """

    settings = ("padding_idx",)

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ArgumentError(
                f"Embedding: got padding_idx={padding_idx}; wanted a row of {num_embeddings}"
            )
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx % num_embeddings if padding_idx is not None else None
        self.weight = new_parameter((num_embeddings, embedding_dim), dtype, device)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw from a standard normal distribution."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                rows = arange(self.num_embeddings).reshape((-1, 1))
                kept = where(rows == self.padding_idx, 0.0, self.weight)
                assign(self.weight, kept.evaluate())

    def forward(self, indices: Tensor) -> Tensor:
        return F.embedding(indices, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


class Dropout(Module):
    """In training, sets elements to 0 with probability p and divides the others by 1 - p.

    >>> ds.nn.Dropout(0.5).eval()(ds.ones(3))
    tensor([1., 1., 1.])
    """

    settings = ("p",)

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ArgumentError(f"Dropout: got p={p}; wanted a probability in [0, 1]")
        self.p = p
        self.inplace = inplace  # taken for PyTorch's sake; memory is planned by the compiler

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Flatten(Module):
    """Makes the axes start_dim..end_dim one.

    >>> ds.nn.Flatten()(ds.zeros(2, 3, 4)).shape
    (2, 12)
    """

    settings = ("start_dim", "end_dim")

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, x: Tensor) -> Tensor:
        return F.flatten(x, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
