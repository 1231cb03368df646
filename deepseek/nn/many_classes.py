"""Losses that hold the layer which makes scores of classes: for large vocabularies.

In flow features and targets, out flows a loss; the last linear layer belongs to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.nn import functional as F
from deepseek.nn.basic import Linear
from deepseek.nn.container import ModuleList, Sequential
from deepseek.nn.module import Module
from deepseek.ops.elementwise import minimum, where
from deepseek.ops.index import indices_of, take_along_axis
from deepseek.ops.view import concat

__all__ = ["AdaptiveLogSoftmaxWithLoss", "LinearCrossEntropyLoss"]


class ClassLogProb(NamedTuple):
    """What AdaptiveLogSoftmaxWithLoss gives: log-probabilities of the targets, and their loss."""

    output: Tensor
    loss: Tensor


class AdaptiveLogSoftmaxWithLoss(Module):
    """log-probabilities of classes by a short list and clusters of rarer ones (Grave et al. 2017).

    Classes are sorted, frequent ones first. Those below cutoffs[0] are in the head, with one score
    for each cluster; the others are in clusters from one cutoff to the next, each behind a
    projection to in_features / div_value**i features. Called with x (batch, in_features) and
    targets (batch), or with one of each, it gives (output, loss). All rows go through all clusters,
    so that no size depends on values; parameters are saved, and work is not.

    >>> layer = ds.nn.AdaptiveLogSoftmaxWithLoss(8, 20, cutoffs=[4, 10], div_value=2.0)
    >>> layer(ds.randn(5, 8), ds.asarray([0, 3, 4, 12, 19])).output.shape
    (5,)
    """

    settings = ("n_classes", "cutoffs", "shortlist_size")

    def __init__(
        self, in_features: int, n_classes: int, cutoffs: Sequence[int], div_value: float = 4.0,
        head_bias: bool = False, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        ends = [*cutoffs, n_classes]
        if len(ends) < 2 or ends[0] < 1 or any(b <= a for a, b in pairwise(ends)):
            raise ArgumentError(
                f"AdaptiveLogSoftmaxWithLoss: got cutoffs={list(cutoffs)}; wanted increasing "
                f"integers between 1 and {n_classes - 1}"
            )
        self.in_features = in_features
        self.n_classes = n_classes
        self.cutoffs = ends
        self.div_value = div_value
        self.head_bias = head_bias
        self.shortlist_size = ends[0]
        self.n_clusters = len(ends) - 1
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, head_bias, device, dtype)
        self.tail = ModuleList()
        for i, (first, last) in enumerate(pairwise(ends)):
            hidden = int(in_features // div_value ** (i + 1))
            down = Linear(in_features, hidden, False, device, dtype)
            self.tail.append(Sequential(down, Linear(hidden, last - first, False, device, dtype)))

    def reset_parameters(self) -> None:
        """Draw all as `Linear` does."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.reset_parameters()

    def forward(self, x: Tensor, target: Tensor) -> ClassLogProb:
        target = indices_of(type(self).__name__, target, self.n_classes)
        if x.ndim != target.ndim + 1 or target.ndim > 1 or x.shape[:-1] != target.shape:
            got = (str(x._value.type), f"target {target._value.type}")
            wanted = "(batch, features) and (batch), or one of each"
            raise op_error(ShapeError, type(self).__name__, got, wanted, user_line())
        rows, classes = (x, target) if target.ndim else (x[None], target[None])
        head = F.log_softmax(self.head(rows), 1)
        place = minimum(classes, self.shortlist_size)
        inside: Tensor | None = None
        for i, (first, last) in enumerate(pairwise(self.cutoffs)):
            here = (classes >= first) & (classes < last)
            local = where(here, classes - first, 0).reshape((-1, 1))
            logs = take_along_axis(F.log_softmax(self.tail[i](rows), 1), local, axis=1)
            found = where(here, logs.reshape((-1,)), 0)
            inside = found if inside is None else inside + found
            place = where(here, self.shortlist_size + i, place)
        output = take_along_axis(head, place.reshape((-1, 1)), axis=1).reshape((-1,))
        output = output if inside is None else output + inside
        loss = -output.mean()
        return ClassLogProb(output if target.ndim else output[0], loss)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-probabilities (batch, n_classes) of all classes."""
        head = F.log_softmax(self.head(x), 1)
        size = self.shortlist_size
        parts = [head[:, :size]]
        for i, cluster in enumerate(self.tail):
            parts.append(F.log_softmax(cluster(x), 1) + head[:, size + i : size + i + 1])
        return concat(parts, axis=1)

    def predict(self, x: Tensor) -> Tensor:
        """The most likely class (batch) of each row."""
        likeliest: Tensor = self.log_prob(x).argmax(axis=1)
        return likeliest


class LinearCrossEntropyLoss(Module):
    """`CrossEntropyLoss` of scores that a linear layer of its own makes of x (batch, in_features).

    Targets are as there, (batch, *out_features) classes or (batch, num_classes, *out_features)
    probabilities. Scores are an inner value of the loss: compiled, they are fused with it.
    `options`, how PyTorch cuts them up, is taken for its sake: memory is planned by the compiler.

    >>> loss = ds.nn.LinearCrossEntropyLoss(8, 10)
    >>> loss(ds.randn(4, 8), ds.asarray([1, 0, 9, 3])).shape
    ()
    """

    settings = ("num_classes", "out_features", "reduction", "ignore_index", "label_smoothing")

    def __init__(
        self, in_features: int, num_classes: int, *, out_features: Sequence[int] = (),
        bias: bool = False, device: Any = None, dtype: Any = None, reduction: str = "mean",
        weight: Tensor | None = None, ignore_index: int | None = None, label_smoothing: float = 0.0,
        options: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if weight is not None and weight.shape != (num_classes,):
            raise ShapeError(
                f"LinearCrossEntropyLoss: got weight of shape {weight.shape}; "
                f"wanted ({num_classes},)"
            )
        if not 0 <= label_smoothing <= 1:
            raise ArgumentError(
                f"LinearCrossEntropyLoss: got label_smoothing={label_smoothing}; wanted 0 to 1"
            )
        self.register_buffer("weight", weight)
        self.num_classes = num_classes
        self.out_features = tuple(out_features)
        self.reduction = reduction
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.options = options
        scores = num_classes * math.prod(self.out_features)
        self.linear = Linear(in_features, scores, bias, device, dtype)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        scores = self.linear(x)
        scores = scores.reshape((*scores.shape[:-1], self.num_classes, *self.out_features))
        ignored = -100 if self.ignore_index is None else self.ignore_index
        return F.cross_entropy(
            scores, target, self.weight, ignored, self.reduction, self.label_smoothing
        )

    def extra_repr(self) -> str:
        shown = {
            "in_features": self.linear.in_features, "num_classes": self.num_classes,
            "out_features": self.out_features, "bias": self.linear.bias is not None,
            "reduction": self.reduction, "ignore_index": self.ignore_index,
            "label_smoothing": self.label_smoothing, "options": self.options,
        }  # fmt: skip
        return ", ".join(f"{name}={value}" for name, value in shown.items())
