"""PyTorch's results of a call, in float32 and in float64, and how ours differ from them.

In flows a function that makes the call with tensors of one width; out flow both results, whether
they are random, and the differences of our results and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from adapt import Wide, as_numpy, leaves
from compare import difference

import deepseek as ds

SEED = 20260


@dataclass
class Pair:
    """Results in float32 and float64, and the leaves that they were computed from."""

    narrow: list[Any]
    wide: list[Any]
    made: tuple[Wide, Wide]
    random: bool

    def differentiable(self) -> list[int]:
        """Which results gradients flow back from."""
        return [
            i
            for i, x in enumerate(self.narrow)
            if isinstance(x, torch.Tensor) and x.requires_grad and x.is_floating_point()
        ]

    def inputs(self) -> list[int]:
        """The keys of the inputs that gradients flow to."""
        return [k for k, x in self.made[0].made.items() if x.requires_grad]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """From this seed on, and nobody sets another: samples of random ops set their own."""
    real = torch.manual_seed
    real(seed)
    torch.manual_seed = lambda _: torch.default_generator
    try:
        yield
    finally:
        torch.manual_seed = real


def both(call: Callable[..., Any]) -> Pair:
    """Call with float32 tensors (once more with another seed, to find out what is random), and
    with float64 ones where PyTorch can do that.
    """
    made = Wide(False), Wide(True)
    narrow = [v for v in leaves(call(made[0])) if v is not None]
    again = [v for v in leaves(call(Wide(False), SEED + 1)) if v is not None]
    random = any(not alike(a, b) for a, b in zip(narrow, again, strict=True))
    try:
        wide = [v for v in leaves(call(made[1])) if v is not None]
    except Exception:  # some ops know float32 alone
        return Pair(narrow, narrow, (made[0], made[0]), random)
    return Pair(narrow, wide, made, random)


def alike(a: Any, b: Any) -> bool:
    if not isinstance(a, torch.Tensor):
        return type(a) is type(b)
    return a.shape == b.shape and np.array_equal(as_numpy(a), as_numpy(b), equal_nan=True)


def compared(
    got: Sequence[Any], pair: Pair, check: str, tolerance: float, least: float = 0.0
) -> str | None:
    """How our results differ."""
    if len(got) != len(pair.narrow):
        return f"{len(got)} results instead of {len(pair.narrow)}"
    for i, (a, b, c) in enumerate(zip(got, pair.narrow, pair.wide, strict=True)):
        why = difference(a, b, c, check, tolerance, least)
        if why is not None:
            return f"result {i}: {why}" if len(got) > 1 else why
    return None


def gradients(
    got: Sequence[Any],
    ours: Sequence[ds.Tensor],
    pair: Pair,
    inputs: Sequence[int],
    tolerance: float,
    least: float = 0.0,
) -> str | None:
    """How our gradients of the inputs differ, for one random cotangent of every result."""
    narrow, wide = pair.made
    return backward(
        got,
        ours,
        pair,
        [narrow.made[k] for k in inputs],
        [wide.made[k] for k in inputs],
        tolerance,
        least=least,
    )


def backward(
    got: Sequence[Any],
    ours: Sequence[ds.Tensor],
    pair: Pair,
    narrow: Sequence[torch.Tensor],
    wide: Sequence[torch.Tensor],
    tolerance: float,
    names: Sequence[str] = (),
    least: float = 0.0,
) -> str | None:
    """How gradients of given leaves differ."""
    outputs = pair.differentiable()
    rng = np.random.default_rng(SEED)
    # Cotangents that both widths hold exactly.
    seeds = [
        np.asarray(rng.standard_normal(tuple(pair.narrow[i].shape)), np.float32) for i in outputs
    ]
    theirs = []
    for results, chosen in ((pair.narrow, narrow), (pair.wide, wide)):
        cotangents = [
            torch.from_numpy(s).to(results[i].dtype) for s, i in zip(seeds, outputs, strict=True)
        ]
        theirs.append(
            torch.autograd.grad(
                [results[i] for i in outputs], list(chosen), cotangents, allow_unused=True
            )
        )
    total: Any = 0.0
    for s, i in zip(seeds, outputs, strict=True):
        total = total + ds.sum(got[i] * ds.asarray(s).astype(got[i].dtype))
    if isinstance(total, ds.Tensor) and total.requires_grad:
        total.backward()
    for n, (x, b, c) in enumerate(zip(ours, *theirs, strict=True)):
        a = x.grad if x.grad is not None else ds.zeros(x.shape, dtype=x.dtype)
        if b is None:
            b = c = torch.zeros(tuple(x.shape))
        # A gradient takes more roundings than the result.
        why = difference(a, b, c, "values", tolerance * 2, least)
        if why is not None:
            return f"gradient of {names[n] if names else list(x.shape)}: {why}"
    return None
