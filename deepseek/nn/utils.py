"""Gradients between `backward` and `step`: their norm, and clipping by norm and by value.

Everything here is ordinary ops, so that inside `@ds.jit` it is part of the compiled step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from deepseek.errors import ArgumentError, ShapeError
from deepseek.frontend.tensor import Tensor, no_grad
from deepseek.nn import parametrizations, parametrize
from deepseek.nn import sequences as rnn
from deepseek.nn.parameter import assign
from deepseek.ops import (  # noqa: A004
    abs,
    clip,
    concat,
    isfinite,
    maximum,
    sqrt,
    square,
    zeros,
)

__all__ = [
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
    "parametrizations",
    "parametrize",
    "rnn",
    "parameters_to_vector",
    "vector_to_parameters",
]

Tensors = Tensor | Iterable[Tensor]


def clip_grad_norm_(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale the gradients such that their norm, taken over all of them, is at most `max_norm`.

    Returns the norm before, 0-d. `norm_type` is the power, which may be infinite. Raises
    ArgumentError for a norm_type <= 0 and, with `error_if_nonfinite`, for a norm that is not
    finite, which changes no gradient; that looks at the norm's value, so that it cannot be part of
    a compiled function.

    >>> p = ds.nn.Parameter(ds.zeros(2))
    >>> p.grad = ds.asarray([3.0, 4.0])
    >>> norm = ds.nn.utils.clip_grad_norm_([p], max_norm=1.0)
    >>> norm.item(), [round(x, 4) for x in p.grad.tolist()]
    (5.0, [0.6, 0.8])
    """
    graded = with_gradients(parameters)
    norm = get_total_norm([g for _, g in graded], norm_type, error_if_nonfinite)
    scale_gradients(graded, max_norm, norm)
    return norm


def clip_grads_with_norm_(parameters: Tensors, max_norm: float, total_norm: Tensor) -> None:
    """Scale the gradients by max_norm / total_norm where that is less than 1.

    >>> p = ds.nn.Parameter(ds.zeros(2))
    >>> p.grad = ds.asarray([3.0, 4.0])
    >>> ds.nn.utils.clip_grads_with_norm_([p], 1.0, ds.asarray(10.0))
    >>> [round(x, 4) for x in p.grad.tolist()]
    [0.3, 0.4]
    """
    scale_gradients(with_gradients(parameters), max_norm, total_norm)


def clip_grad_value_(parameters: Tensors, clip_value: float) -> None:
    """Limit each element of the gradients to [-clip_value, clip_value].

    >>> p = ds.nn.Parameter(ds.zeros(2))
    >>> p.grad = ds.asarray([3.0, -4.0])
    >>> ds.nn.utils.clip_grad_value_([p], 3.5)
    >>> p.grad.tolist()
    [3.0, -3.5]
    """
    with no_grad():
        for p, g in with_gradients(parameters):
            p.grad = clip(g, -clip_value, clip_value)


def get_total_norm(
    tensors: Tensors, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """The norm of all elements of the tensors taken together, carried in at least float32.

    Raises as `clip_grad_norm_` does. ArgumentError for a norm_type that is not above 0, and where
    the norm is not finite and that was asked for.

    >>> ds.nn.utils.get_total_norm([ds.asarray([3.0]), ds.asarray([[4.0]])]).item()
    5.0
    """
    norm_type = float(norm_type)
    if not norm_type > 0:
        raise ArgumentError(f"norm_type: got {norm_type}; wanted a number > 0")
    with no_grad():
        norm = norm_of([tensors] if isinstance(tensors, Tensor) else list(tensors), norm_type)
        if error_if_nonfinite and not bool(isfinite(norm)):
            raise ArgumentError(
                f"the norm of the gradients is {norm.item()}\n"
                "  help: pass error_if_nonfinite=False to go on regardless"
            )
    return norm


def norm_of(tensors: list[Tensor], norm_type: float) -> Tensor:
    """The norm of all elements: a reduction for each tensor, then one of their results."""
    if not tensors:
        return zeros(())
    wide = [x.astype(x.dtype.accumulator) for x in tensors]
    if math.isinf(norm_type):
        norm = abs(wide[0]).max()
        for x in wide[1:]:
            norm = maximum(norm, abs(x).max())
        return norm
    squared = norm_type == 2.0
    powers = [(square(x) if squared else abs(x) ** norm_type).sum() for x in wide]
    total = powers[0]
    for power in powers[1:]:
        total = total + power
    return sqrt(total) if squared else total ** (1 / norm_type)


def scale_gradients(graded: list[tuple[Tensor, Tensor]], max_norm: Any, norm: Tensor) -> None:
    with no_grad():
        scale = clip(max_norm / (norm + 1e-6), max=1.0)
        for p, g in graded:
            p.grad = g * scale.astype(g.dtype)


def with_gradients(parameters: Tensors) -> list[tuple[Tensor, Tensor]]:
    """The parameters that have a gradient, with it."""
    given = [parameters] if isinstance(parameters, Tensor) else parameters
    return [(p, p.grad) for p in given if p.grad is not None]


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All elements of the parameters, one after the other.

    >>> ds.nn.utils.parameters_to_vector([ds.ones((2, 2)), ds.zeros(1)]).tolist()
    [1.0, 1.0, 1.0, 1.0, 0.0]
    """
    return concat([p.reshape((-1,)) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Give the parameters the elements of a vector, in the order of `parameters_to_vector`.

    Raises ShapeError, and changes nothing, unless the vector has as many elements as they have.

    >>> p = ds.nn.Parameter(ds.zeros((2, 2)))
    >>> ds.nn.utils.vector_to_parameters(ds.asarray([1.0, 2.0, 3.0, 4.0]), [p])
    >>> p.tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    targets = list(parameters)
    wanted = sum(p.size for p in targets)
    if vec.ndim != 1 or vec.size != wanted:
        raise ShapeError(
            f"vector_to_parameters: got {vec._value.type}; wanted a vector of {wanted} elements"
        )
    at = 0
    with no_grad():
        for p in targets:
            assign(p, vec[at : at + p.size].reshape(p.shape).astype(p.dtype))
            at += p.size
