"""Tables of vectors that integers look up: one by one, or reduced in bags.

Gradients of a table are dense; `sparse=True` is refused.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

from deepseek.errors import ArgumentError, ShapeError, unknown
from deepseek.frontend.tensor import Tensor, no_grad
from deepseek.nn import functional as F
from deepseek.nn import init
from deepseek.nn.basic import new_parameter
from deepseek.nn.module import Module
from deepseek.nn.parameter import Parameter, assign
from deepseek.ops.bags import MODES, by_frequency, embedding_renorm
from deepseek.ops.create import arange
from deepseek.ops.elementwise import where
from deepseek.ops.index import indices_of
from deepseek.ops.nn import embedding_

__all__ = ["Embedding", "EmbeddingBag"]


class _Table(Module):
    """A weight (num_embeddings, embedding_dim), and what is done to it when rows are looked up.

    `max_norm` scales rows that are looked up down to a `norm_type`-norm of that at most, in place.
    `scale_grad_by_freq` divides each row's gradient by the number of times it is looked up.
    """

    settings = ("padding_idx", "max_norm", "norm_type", "scale_grad_by_freq")
    options: ClassVar[dict[str, Any]] = {
        "max_norm": None, "norm_type": 2.0, "scale_grad_by_freq": False,
    }  # fmt: skip

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None,
        max_norm: float | None, norm_type: float, scale_grad_by_freq: bool, sparse: bool,
        weight: Tensor | None, frozen: bool, device: Any, dtype: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        name = type(self).__name__
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ArgumentError(
                f"{name}: got padding_idx={padding_idx}; wanted a row of {num_embeddings}"
            )
        if sparse:
            raise ArgumentError(
                f"{name}: got sparse=True; wanted False\n"
                "  help: leave it out; gradients are dense and computed in the step that reads them"
            )
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx % num_embeddings if padding_idx is not None else None
        self.max_norm = None if max_norm is None else float(max_norm)
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse
        if weight is None:
            self.weight = new_parameter((num_embeddings, embedding_dim), dtype, device)
            self.reset_parameters()
        elif tuple(weight.shape) != (num_embeddings, embedding_dim):
            raise ShapeError(
                f"{name}: got weights of shape {tuple(weight.shape)}; "
                f"wanted ({num_embeddings}, {embedding_dim})"
            )
        else:
            self.weight = Parameter(weight, requires_grad=not frozen)

    @classmethod
    def from_pretrained(cls, embeddings: Tensor, freeze: bool = True, **options: Any) -> Self:
        """A table with the given rows (num_embeddings, embedding_dim), not trained if `freeze`.

        Raises ShapeError unless they are a matrix.

        >>> ds.nn.Embedding.from_pretrained(ds.asarray([[1.0, 2.0], [3.0, 4.0]]))(ds.asarray(1))
        tensor([3., 4.])
        """
        if embeddings.ndim != 2:
            raise ShapeError(
                f"{cls.__name__}.from_pretrained: got {embeddings._value.type}; "
                "wanted a matrix (num_embeddings, embedding_dim)"
            )
        rows, width = embeddings.shape
        made: Any = cls(rows, width, _weight=embeddings, **options)  # type: ignore[call-arg]
        made.weight.requires_grad_(not freeze)
        return made  # type: ignore[no-any-return]

    def reset_parameters(self) -> None:
        """Draw from a standard normal distribution; the row `padding_idx` is 0."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                rows = arange(self.num_embeddings).reshape((-1, 1))
                kept = where(rows == self.padding_idx, 0.0, self.weight)
                assign(self.weight, kept.evaluate())

    def limit_norms(self, indices: Tensor) -> None:
        """Scale down what is looked up, if it is to be."""
        if self.max_norm is not None:
            with no_grad():
                limited = embedding_renorm(self.weight, indices, self.max_norm, self.norm_type)
                assign(self.weight, limited)

    def extra_repr(self) -> str:
        shown = [f"{self.num_embeddings}, {self.embedding_dim}"]
        shown += [f"{n}={getattr(self, n)!r}" for n, plain in self.options.items()
                  if getattr(self, n) != plain]  # fmt: skip
        return ", ".join(shown)


class Embedding(_Table):
    """The rows of weight (num_embeddings, embedding_dim) at integer indices.

    The row `padding_idx` starts as zeros and gets no gradient. With `max_norm`, rows that are
    looked up are first scaled down to that `norm_type`-norm at most, in place; `scale_grad_by_freq`
    divides a row's gradient by how often it is looked up in the call.

    >>> ds.nn.Embedding(10, 3, padding_idx=0)(ds.asarray([[0, 4], [9, 0]])).shape
    (2, 2, 3)
    """

    options = {"padding_idx": None, **_Table.options}

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None,
        max_norm: float | None = None, norm_type: float = 2.0, scale_grad_by_freq: bool = False,
        sparse: bool = False, _weight: Tensor | None = None, _freeze: bool = False,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq,
            sparse, _weight, _freeze, device, dtype,
        )  # fmt: skip

    def forward(self, indices: Tensor) -> Tensor:
        indices = indices_of("Embedding", indices, self.num_embeddings)
        self.limit_norms(indices)
        weight = by_frequency(self.weight, indices) if self.scale_grad_by_freq else self.weight
        return embedding_(indices, weight, self.padding_idx)  # type: ignore[no-any-return]


class EmbeddingBag(_Table):
    """The sum, mean or elementwise maximum of weight's rows at each bag of integer indices.

    Called with (bags, length), or with a vector of indices and the offsets at which bags start.
    Rows at `padding_idx` count for nothing; a bag of none gives 0. `per_sample_weights` weigh the
    rows of a sum.

    >>> bags = ds.nn.EmbeddingBag(10, 3, mode="sum")
    >>> bags(ds.asarray([1, 2, 4, 5]), ds.asarray([0, 3])).shape
    (2, 3)
    """

    settings = ("mode", "include_last_offset")  # type: ignore[assignment]

    def __init__(
        self, num_embeddings: int, embedding_dim: int, max_norm: float | None = None,
        norm_type: float = 2.0, scale_grad_by_freq: bool = False, mode: str = "mean",
        sparse: bool = False, _weight: Tensor | None = None, include_last_offset: bool = False,
        padding_idx: int | None = None, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq,
            sparse, _weight, False, device, dtype,
        )  # fmt: skip
        if mode not in MODES:
            raise unknown("mode", mode, MODES)
        self.mode = mode
        self.include_last_offset = include_last_offset

    def forward(
        self, indices: Tensor, offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        self.limit_norms(indices)
        return F.embedding_bag(
            indices, self.weight, offsets, mode=self.mode,
            scale_grad_by_freq=self.scale_grad_by_freq, per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset, padding_idx=self.padding_idx,
        )  # fmt: skip

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{super().extra_repr()}, mode={self.mode!r}{padding}"
