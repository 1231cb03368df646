"""L-BFGS: steps along gradients that are bent by the curvature of the last steps.

Its control flow is Python: it looks at values to decide what comes next. Vectors are tensors; what
is done with them at each turn is the same few ops, so that they are compiled once. A closure may
well be a function under `@ds.jit`.
"""

from __future__ import annotations

import builtins
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, TraceError, unknown
from deepseek.frontend.tensor import Tensor, enable_grad, no_grad, state
from deepseek.ir.dtype import DType, promote
from deepseek.nn.parameter import assign, computed_full, loaded, settle
from deepseek.ops import abs, concat, sum, zeros  # noqa: A004
from deepseek.optim.line_search import Point, strong_wolfe
from deepseek.optim.optimizer import Named, Optimizer
from deepseek.optim.rule import Group, another_handle

VECTORS = ("d", "prev_flat_grad")
HISTORY = ("old_dirs", "old_stps", "ro")
NUMBERS = {"func_evals": int, "n_iter": int, "t": float, "H_diag": float, "prev_loss": float}
CURVED = 1e-10  # y . s from which on a pair of steps says something of the curvature


class LBFGS(Optimizer):
    """Limited-memory BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.4).

    `step(closure)` makes up to `max_iter` iterations; the closure clears the gradients, computes
    the loss, calls `backward` and returns the loss. Without a line search each has the length `lr`;
    `line_search_fn="strong_wolfe"` looks for a good one. All parameters are in one group.

    >>> p = ds.nn.Parameter(ds.asarray([3.0, -2.0]))
    >>> optimizer = ds.optim.LBFGS([p], line_search_fn="strong_wolfe")
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = ((p - 1) ** 2 * ds.asarray([1.0, 10.0])).sum()
    ...     loss.backward()
    ...     return loss
    >>> _ = optimizer.step(closure)
    >>> bool((abs(p - 1) < 1e-4).all())
    True
    """

    _ds_children_ = ("param_groups",)  # a compiled closure clears gradients, no more
    scalars = {}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        options = {
            "lr": lr, "max_iter": max_iter,
            "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change,
            "history_size": history_size, "line_search_fn": line_search_fn,
        }  # fmt: skip
        super().__init__(params, options)

    def check(self, group: Group) -> None:
        super().check(group)
        if group["line_search_fn"] not in (None, "strong_wolfe"):
            raise unknown("line_search_fn", group["line_search_fn"], (None, "strong_wolfe"))

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        if self.param_groups:
            raise ArgumentError("LBFGS: got a second group of parameters; wanted all in one")
        super().add_param_group(param_group)

    def state_names(self, group: Group, p: Tensor) -> Sequence[str]:
        return ()

    @property
    def _own(self) -> dict[str, Any]:
        """The state, which is of all parameters and kept with the first, as PyTorch keeps it."""
        own = self.state[self.param_groups[0]["params"][0]]
        if not own:
            own.update(func_evals=0, n_iter=0)
        return own

    # -------------------------------------------------------------------------------------- steps

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Minimise what `closure` computes; returns the loss that it gave first.

        Raises ArgumentError without a closure, TraceError inside `@ds.jit`.
        """
        if closure is None:
            raise ArgumentError(
                "LBFGS.step: got no closure; wanted a function that clears the gradients, computes "
                "the loss, calls backward and returns the loss"
            )
        if state.trace is not None:
            raise TraceError(
                "LBFGS decides by values, which are not known while @ds.jit traces a function\n"
                "  help: call step() outside, and let @ds.jit compile the closure"
            )
        with no_grad():
            return self._minimise(closure)

    def _minimise(self, closure: Callable[[], Any]) -> Any:
        group, own = self.param_groups[0], self._own
        tolerance, search = group["tolerance_change"], group["line_search_fn"]
        first_loss, loss, gradient = self._evaluate(closure)
        evaluations, n = 1, 0
        done = largest(gradient) <= group["tolerance_grad"]
        while not done and n < group["max_iter"]:
            n += 1
            self._direct(gradient)
            d, lr = own["d"], float(group["lr"])
            start = Point(0.0, loss, float(dot(gradient, d)), gradient)
            own["prev_flat_grad"], own["prev_loss"] = gradient, loss
            own["t"] = lr if own["n_iter"] > 1 else first_length(gradient) * lr
            if start.slope > -tolerance:
                break
            if search is None:
                self._move(own["t"], d)
                if n < group["max_iter"]:  # nobody would use the value after the last step
                    _, loss, gradient = self._evaluate(closure)
                    evaluations += 1
            else:
                point, tries = self._search(closure, start, group["max_eval"] - evaluations)
                own["t"], loss, gradient = point.t, point.value, point.gradient
                evaluations += tries
            done = (
                evaluations >= group["max_eval"]
                or largest(gradient) <= group["tolerance_grad"]
                or math.fabs(own["t"]) * largest(d) <= tolerance
                or math.fabs(loss - own["prev_loss"]) < tolerance
            )
        own["func_evals"] += evaluations
        return first_loss

    def _direct(self, gradient: Tensor) -> None:
        """Count an iteration, learn from the step before, and choose the direction."""
        own = self._own
        own["n_iter"] += 1
        if own["n_iter"] == 1:
            own.update(d=-gradient, old_dirs=[], old_stps=[], ro=[], H_diag=1.0)
            settle(own["d"])
            return
        changes, steps, weights = own["old_dirs"], own["old_stps"], own["ro"]
        y = gradient - own["prev_flat_grad"]
        s = own["d"] * like(own["t"], gradient)
        settle(y, s)
        curvature = float(dot(y, s))
        if curvature > CURVED:
            if len(changes) == self.param_groups[0]["history_size"]:
                for kept in (changes, steps, weights):
                    kept.pop(0)
            changes.append(y)
            steps.append(s)
            weights.append(like(1.0 / curvature, gradient))
            own["H_diag"] = curvature / float(dot(y, y))
        own["d"] = two_loops(-gradient, changes, steps, weights, own["H_diag"])

    def _search(self, closure: Callable[[], Any], start: Point, most: int) -> tuple[Point, int]:
        """A good point along the direction; the parameters are left there."""
        own, before = self._own, [another_handle(p) for p in self.parameters()]
        d = own["d"]

        def at(t: float) -> Point:
            self._put_back(before)
            self._move(t, d)
            _, loss, gradient = self._evaluate(closure)
            return Point(t, loss, float(dot(gradient, d)), gradient)

        point, tries = strong_wolfe(at, start, own["t"], largest(d), most)
        self._put_back(before)
        self._move(point.t, d)
        return point, tries

    # ------------------------------------------------------------- parameters as one long vector

    def _evaluate(self, closure: Callable[[], Any]) -> tuple[Any, float, Tensor]:
        """What the closure returns, that as a number, and the gradient as one vector."""
        with enable_grad():
            loss = closure()
        parts = [
            (zeros(p.shape, dtype=p.dtype) if p.grad is None else p.grad).reshape((-1,))
            for p in self.parameters()
        ]
        dtype = common_dtype(parts)
        gradient = concat([x.astype(dtype) for x in parts])
        settle(gradient, *([loss] if isinstance(loss, Tensor) else []))
        return loss, float(loss), gradient

    def _move(self, t: float, d: Tensor) -> None:
        """Add t * d to the parameters."""
        length, at = like(t, d), 0
        for p in self.parameters():
            part = d[at : at + p.size].reshape(p.shape)
            at += p.size
            assign(p, (p.astype(d.dtype) + length * part).astype(p.dtype))
        settle()

    def _put_back(self, values: list[Tensor]) -> None:
        for p, value in zip(self.parameters(), values, strict=True):
            assign(p, value)

    # -------------------------------------------------------------------------------------- state

    def _fit(
        self, number: int, p: Tensor, group: Group, own: Mapping[str, Any], found: Named,
        problems: list[str],
    ) -> None:  # fmt: skip
        size = builtins.sum(q.size for q in group["params"])
        dtype = common_dtype(group["params"])
        for name, x in own.items():
            if name == "al" or x is None:  # al is room for the two loops
                continue
            if name in NUMBERS:
                found.append((p, name, NUMBERS[name](x)))
                continue
            if name not in (*VECTORS, *HISTORY):
                names = [*NUMBERS, *VECTORS, *HISTORY]
                problems.append(f"parameter {number}: {unknown('state', name, names)}")
                continue
            shape = () if name == "ro" else (size,)
            parts = [x] if name in VECTORS else list(x)
            wrong = [np.shape(part) for part in parts if np.shape(part) != shape]
            if wrong:
                text = f"got shape {wrong[0]}; wanted shape {shape}"
                problems.append(f"parameter {number}, {name}: {text}")
                continue
            tensors = [loaded(y if isinstance(y, Tensor) else np.asarray(y), dtype) for y in parts]
            found.append((p, name, tensors[0] if name in VECTORS else tensors))

    def _take_over(self, found: Named) -> None:
        for p in self.parameters():
            self.state[p] = {name: x for q, name, x in found if q is p}


def two_loops(
    q: Tensor, changes: list[Tensor], steps: list[Tensor], weights: list[Tensor], scale: float
) -> Tensor:
    """The inverse Hessian that the history implies, times q (algorithm 7.4)."""
    shares = []
    for y, s, weight in zip(reversed(changes), reversed(steps), reversed(weights), strict=True):
        share = dot(s, q) * weight
        q = q - share * y
        settle(q, share)
        shares.append(share)
    q = q * like(scale, q)
    for y, s, weight in zip(changes, steps, weights, strict=True):
        q = q + s * (shares.pop() - dot(y, q) * weight)
        settle(q)
    return q


def first_length(gradient: Tensor) -> float:
    """How far to go where nothing is known of the curvature: one in the sum of all elements."""
    return min(1.0, 1.0 / float(sum(abs(gradient))))


def dot(a: Tensor, b: Tensor) -> Tensor:
    return sum(a * b)


def largest(x: Tensor) -> float:
    """The largest magnitude among the elements."""
    return float(abs(x).max())


def like(number: float, x: Tensor) -> Tensor:
    """A number as a 0-d tensor beside x: its value is no part of the graph."""
    return computed_full((), number, x.dtype)


def common_dtype(tensors: Iterable[Tensor]) -> DType:
    """The dtype that all are computed in together."""
    return functools.reduce(promote, (x.dtype.accumulator for x in tensors))
