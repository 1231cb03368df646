"""Clipping of gradients, between `backward` and `step`."""

from __future__ import annotations

import math
from collections.abc import Iterable

from deepseek.errors import ArgumentError
from deepseek.frontend.tensor import Tensor, no_grad
from deepseek.ops import abs, clip, isfinite, maximum, sqrt, square, zeros  # noqa: A004


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale the gradients such that their norm, taken over all of them, is at most `max_norm`.

    Returns the norm before. `norm_type` is the power, which may be infinite.
    """
    norm_type = float(norm_type)
    if not norm_type > 0:
        raise ArgumentError(f"clip_grad_norm_: got norm_type={norm_type}; wanted a number > 0")
    with no_grad():
        graded = with_gradients(parameters)
        norm = total_norm([g for _, g in graded], norm_type)
        if error_if_nonfinite and not bool(isfinite(norm)):
            raise ArgumentError(
                f"clip_grad_norm_: the norm of the gradients is {norm.item()}\n"
                "  help: pass error_if_nonfinite=False to go on regardless"
            )
        scale = clip(max_norm / (norm + 1e-6), max=1.0)
        for p, g in graded:
            p.grad = g * scale.astype(g.dtype)
    return norm


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Limit each element of the gradients to [-clip_value, clip_value]."""
    with no_grad():
        for p, g in with_gradients(parameters):
            p.grad = clip(g, -clip_value, clip_value)


def with_gradients(parameters: Tensor | Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The parameters that have a gradient, with it."""
    given = [parameters] if isinstance(parameters, Tensor) else parameters
    return [(p, p.grad) for p in given if p.grad is not None]


def total_norm(gradients: list[Tensor], norm_type: float) -> Tensor:
    """The norm of all elements taken together, carried in at least float32."""
    if not gradients:
        return zeros(())
    wide = [g.astype(g.dtype.accumulator) for g in gradients]
    if math.isinf(norm_type):
        norm = abs(wide[0]).max()
        for g in wide[1:]:
            norm = maximum(norm, abs(g).max())
        return norm
    squared = norm_type == 2.0
    powers = [(square(g) if squared else abs(g) ** norm_type).sum() for g in wide]
    norm = powers[0]
    for power in powers[1:]:
        norm = norm + power
    return sqrt(norm) if squared else norm ** (1 / norm_type)
