"""What workloads are written in: arrays to be made, a body over a few ops, and what it costs.

A body takes a framework's ops and its tensors and knows no framework: arithmetic is operators, all
else is a method of `Ops`. A framework makes a `Case` of a workload; nothing here imports one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

# The settings of AdamW in every workload that trains.
ADAMW = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
# Training is held against the reference after so many steps.
CHECKED_STEPS = 3


class Ops(Protocol):
    """What a body may call, besides + - * / @ between tensors and with numbers."""

    def relu(self, x: Any) -> Any: ...
    def gelu(self, x: Any) -> Any: ...
    def sigmoid(self, x: Any) -> Any: ...

    def softmax(self, x: Any) -> Any:
        """Along the last axis."""

    def layer_norm(self, x: Any, weight: Any, bias: Any) -> Any:
        """Over the last axis, epsilon 1e-5."""

    def cross_entropy(self, logits: Any, labels: Any) -> Any:
        """The mean over rows; labels are classes as int64."""

    def sum(self, x: Any, axis: int) -> Any: ...
    def transpose(self, x: Any, axes: tuple[int, ...]) -> Any: ...
    def reshape(self, x: Any, shape: tuple[int, ...]) -> Any: ...
    def concat(self, tensors: Sequence[Any], axis: int) -> Any: ...

    def take(self, x: Any, rows: Any) -> Any:
        """Rows of a matrix by an int64 tensor of any shape."""


@dataclass(frozen=True)
class Spec:
    """One input: normally distributed floats times `scale`, or integers below `below`.

    A size of -1 varies from call to call; such a spec only says what type to expect.
    """

    shape: tuple[int, ...]
    scale: float = 1.0
    below: int = 0

    def array(self, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        if self.below:
            return rng.integers(0, self.below, self.shape)
        return rng.standard_normal(self.shape, np.float32) * np.float32(self.scale)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * (8 if self.below else 4)


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    The first `parameters` inputs are parameters. kind "function": the result is what the body
    returns; parameters are weights, which frameworks that hold them may pack in advance.
    "gradient": the body returns a loss; the result is the loss and its gradients by the parameters.
    "training": a call is a step of AdamW. "update": after the parameters come as many gradients; a
    call is an update by them, and there is no body.
    """

    name: str
    inputs: tuple[Spec, ...]
    body: Callable[..., Any] | None = None
    kind: str = "function"
    parameters: int = 0
    flops: float = 0
    read: int = 0  # bytes that must be read; 0: all inputs once
    write: int = 0  # bytes that must be written; 0: all results once
    tolerance: float = 1e-5
    limited: bool = True  # whether bandwidth and arithmetic limit it, and not the call
    cold: bool = True  # whether first calls are measured, in a fresh process
    warm: bool = False  # whether those that find a filled disk cache are measured too
    quick: bool = False
    without: frozenset[str] = frozenset()  # variants that would take minutes here
    about: str = ""

    def arrays(self) -> list[np.ndarray[Any, Any]]:
        rng = np.random.default_rng(0)
        return [spec.array(rng) for spec in self.inputs]

    @property
    def steps(self) -> int:
        """The calls after which results are compared."""
        return CHECKED_STEPS if self.kind in ("training", "update") else 1


@dataclass(frozen=True)
class Sweep:
    """A body called with one argument of many shapes, after its weights: what new sizes cost."""

    name: str
    weights: tuple[Spec, ...]
    shapes: tuple[tuple[int, ...], ...]
    body: Callable[..., Any]
    varying: Spec
    tolerance: float = 1e-5
    without: frozenset[str] = frozenset()
    about: str = ""

    def arrays(self) -> tuple[list[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]:
        """The weights, and the argument in each shape."""
        rng = np.random.default_rng(0)
        weights = [spec.array(rng) for spec in self.weights]
        return weights, [Spec(shape).array(rng) for shape in self.shapes]


@dataclass
class Case:
    """A workload that a framework is ready to run.

    `call` runs it once, to its end. `results` makes arrays of what the last call returned, or of
    the state that it left.
    """

    call: Callable[[], Any]
    results: Callable[[Any], list[np.ndarray[Any, Any]]]


class NotSupported(Exception):
    """The framework cannot run this workload; the message says why."""


class Framework(Protocol):
    """What a file in frameworks/ makes: `make(variant, threads)` returns one of these."""

    versions: dict[str, str]

    def tensor(self, array: np.ndarray[Any, Any]) -> Any:
        """A tensor of the framework with these elements."""

    def arrays(self, out: Any) -> list[np.ndarray[Any, Any]]:
        """What a body returned, as arrays."""

    def function(
        self, body: Callable[..., Any], weights: Sequence[Any], args: Sequence[Spec]
    ) -> Callable[..., Any]:
        """The body as a function of what follows the weights, computed when it returns."""

    def case(self, workload: Workload, inputs: list[Any]) -> Case:
        """Ready to run, nothing compiled yet. Raises NotSupported."""


def adamw(p: Any, g: Any, m: Any, v: Any, t: Any, sqrt: Callable[[Any], Any]) -> tuple[Any, ...]:
    """One step of AdamW in plain arithmetic, for frameworks without an optimizer of their own.

    Decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101). t counts from one.
    """
    lr, (beta1, beta2) = ADAMW["lr"], ADAMW["betas"]
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * (g * g)
    step = lr / (1 - beta1**t)
    scale = (1 - beta2**t) ** 0.5
    decayed = p * (1 - lr * ADAMW["weight_decay"])
    return decayed - step * (m / (sqrt(v) / scale + ADAMW["eps"])), m, v
