"""GradScaler: keeps the gradients of a float16 computation from becoming 0.

The loss is multiplied by a scale before backward and the gradients divided by it before the step. A
step whose gradients overflowed changes nothing, and the scale goes down; after many good steps it
goes up. All of it is tensors and `where`: nothing waits for a value, and a compiled training step
with its scaler is one Program.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from deepseek.errors import ArgumentError, DTypeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, no_grad, state
from deepseek.ir.dtype import float16, float32, float64, int32, promote
from deepseek.nn.parameter import assign, computed_full
from deepseek.nn.utils import with_gradients
from deepseek.ops import isfinite, logical_not, logical_or, where
from deepseek.optim.optimizer import Optimizer

__all__ = ["GradScaler", "GradientScaler"]


class Stage(Enum):
    """How far an optimizer is between two calls of `update`."""

    UNSCALED = "unscaled"
    STEPPED = "stepped"


@dataclass
class Iteration:
    """What the scaler knows of an optimizer since the last `update`, and where it was recorded."""

    stage: Stage
    found_inf: Tensor
    trace: Any


class GradScaler:
    """Scales losses, and skips the steps whose gradients are not finite.

    `init_scale` is the first factor. A skipped step multiplies it by `backoff_factor`, and
    `growth_interval` steps in a row that were not skipped multiply it by `growth_factor`. With
    `enabled=False` every method does what a training loop without a scaler would do. Names,
    defaults and state are PyTorch's; `device` is taken for its sake.

    Inside `@ds.jit`, `unscale_`, `step` and `update` of one iteration belong in the same function.
    Raises ArgumentError for factors out of range.

    >>> w = ds.ones((3,), requires_grad=True)
    >>> optimizer = ds.optim.SGD([w], lr=0.5)
    >>> scaler = ds.amp.GradScaler(init_scale=1024.0)
    >>> scaler.scale((w * 2).sum()).backward()
    >>> scaler.step(optimizer)
    >>> scaler.update()
    >>> print(w.tolist(), scaler.get_scale())
    [0.0, 0.0, 0.0] 1024.0
    """

    _ds_children_ = (  # what a compiled function's guards look at
        "_scale", "_growth_tracker", "_growth_factor", "_backoff_factor", "_growth_interval",
        "_enabled",
    )  # fmt: skip

    def __init__(
        self,
        device: str = "cpu",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        self.device = device
        self._enabled = bool(enabled)
        self._growth_factor = in_range("growth_factor", growth_factor, growth_factor > 1, "> 1")
        self._backoff_factor = in_range(
            "backoff_factor", backoff_factor, 0 < backoff_factor < 1, "in (0, 1)"
        )
        self._growth_interval = int(
            in_range("growth_interval", growth_interval, growth_interval >= 1, ">= 1")
        )
        self._init_scale = in_range("init_scale", init_scale, init_scale > 0, "> 0")
        self._scale = computed_full((), self._init_scale, float32)
        self._growth_tracker = computed_full((), 0, int32)
        self._scaled = False
        self._iterations: dict[int, Iteration] = {}

    # ------------------------------------------------------------------------------ one iteration

    def scale(self, outputs: Any) -> Any:
        """A loss, or a tuple or list of them, times the scale; in at least float32.

        Raises ArgumentError for anything else.
        """
        if not self._enabled:
            return outputs
        if isinstance(outputs, (tuple, list)):
            return type(outputs)([self.scale(x) for x in outputs])
        if not isinstance(outputs, Tensor) or not outputs.dtype.is_float:
            raise op_error(
                ArgumentError, "GradScaler.scale", outputs, "a float tensor, or a list of them",
                user_line(),
            )  # fmt: skip
        self._scaled = True
        dtype = promote(outputs.dtype, float32)
        return outputs.astype(dtype) * self._scale.astype(dtype)

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of an optimizer's parameters by the scale: before they are clipped.

        `step` does it where it was not called. Raises ArgumentError where it was called since the
        last `update`, and DTypeError for float16 gradients, which may have overflowed.
        """
        if not self._enabled:
            return
        self._check_used("unscale_")
        known = self._iteration(optimizer)
        if known is not None:
            what = "called" if known.stage is Stage.UNSCALED else "called after step()"
            raise ArgumentError(
                f"GradScaler.unscale_: it was already {what} on this {type(optimizer).__name__} "
                "since the last update()\n  help: call update() at the end of each iteration"
            )
        with no_grad():
            found_inf = self._unscale(optimizer)
        self._iterations[id(optimizer)] = Iteration(Stage.UNSCALED, found_inf, state.trace)

    def _unscale(self, optimizer: Optimizer) -> Tensor:
        """Whether a gradient is infinite or no number; they are all divided by the scale."""
        # In float64 the quotient of powers of two is exact however large the scale.
        inverse = (1 / self._scale.astype(float64)).astype(float32)
        finite: list[Tensor] = []
        for p, g in with_gradients(optimizer.parameters()):
            if g.dtype is float16:
                raise DTypeError(
                    "GradScaler.unscale_: got float16 gradients; wanted float32 ones\n"
                    "  help: keep the parameters in float32 and compute under ds.amp.autocast"
                )
            dtype = g.dtype.accumulator
            unscaled = g.astype(dtype) * inverse.astype(dtype)
            finite.append(isfinite(g).all())
            p.grad = unscaled.astype(g.dtype)
        if not finite:
            raise ArgumentError(
                f"GradScaler: this {type(optimizer).__name__} has no gradients\n"
                "  help: call scaler.scale(loss).backward() first"
            )
        return logical_not(functools.reduce(lambda a, b: a & b, finite))

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """`optimizer.step(...)`, which changes nothing where a gradient is not finite.

        Parameters, their state and its step counts stay as they were then. Raises ArgumentError
        where it was called since the last `update`, where `scale` never was, and for a closure.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs or args:
            raise ArgumentError(
                "GradScaler.step: got a closure, which would be called more than once\n"
                "  help: compute the gradients before, or pass enabled=False"
            )
        self._check_used("step")
        known = self._iteration(optimizer)
        if known is not None and known.stage is Stage.STEPPED:
            raise ArgumentError(
                f"GradScaler.step: it was already called on this {type(optimizer).__name__} since "
                "the last update()\n  help: call update() at the end of each iteration"
            )
        if type(optimizer).step is not Optimizer.step:
            raise ArgumentError(
                f"GradScaler.step: {type(optimizer).__name__} has a step() of its own, which "
                "cannot be skipped\n  help: pass enabled=False, or define rule() instead"
            )
        if known is None:
            self.unscale_(optimizer)
        iteration = self._iterations[id(optimizer)]
        optimizer.found_inf = iteration.found_inf
        try:
            result = optimizer.step(**kwargs)
        finally:
            optimizer.found_inf = None
        iteration.stage = Stage.STEPPED
        return result

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Take a new scale: `new_scale`, or what the steps since the last update ask for.

        Raises ArgumentError where there was no step, and for a new scale that is not one number.
        """
        if not self._enabled:
            return
        self._check_used("update")
        with no_grad():
            if new_scale is not None:
                assign(self._scale, one_number(new_scale))
            else:
                self._adapt()
        self._iterations.clear()

    def _adapt(self) -> None:
        iterations = list(self._iterations.values())
        if not iterations or any(i.trace is not state.trace for i in iterations):
            raise ArgumentError(
                "GradScaler.update: no step was made since the last update()\n"
                "  help: call scaler.step(optimizer) first, in the same compiled function"
            )
        skipped = functools.reduce(logical_or, [i.found_inf for i in iterations])
        scale, good = self._scale, self._growth_tracker + 1
        due = good >= self._growth_interval
        grown = scale * self._growth_factor
        grown = where(due & isfinite(grown), grown, scale)
        assign(self._scale, where(skipped, scale * self._backoff_factor, grown))
        assign(self._growth_tracker, where(skipped | due, 0, good).astype(int32))

    def _iteration(self, optimizer: Optimizer) -> Iteration | None:
        """What is known of an optimizer since the last update; not from a trace that was given up.

        Raises ArgumentError where a compiled function goes on with what was begun outside.
        """
        known = self._iterations.get(id(optimizer))
        if known is None or known.trace is state.trace:
            return known
        if known.trace is not None:
            del self._iterations[id(optimizer)]
            return None
        raise ArgumentError(
            "GradScaler: the gradients were unscaled outside the compiled function\n"
            "  help: call unscale_, step and update in the same function"
        )

    def _check_used(self, method: str) -> None:
        if not self._scaled:
            raise ArgumentError(
                f"GradScaler.{method}: no loss was scaled yet\n"
                "  help: write scaler.scale(loss).backward() instead of loss.backward()"
            )

    # ------------------------------------------------------------------------------------ settings

    def is_enabled(self) -> bool:
        """Whether it scales at all."""
        return self._enabled

    def get_scale(self) -> float:
        """The scale now, 1.0 if not enabled. Raises TraceError inside `@ds.jit`."""
        return float(self._scale) if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """What the scale is multiplied by when it grows."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Say what the scale is multiplied by when it grows. Raises ArgumentError unless > 1."""
        self._growth_factor = in_range("growth_factor", new_factor, new_factor > 1, "> 1")

    def get_backoff_factor(self) -> float:
        """What the scale is multiplied by after a skipped step."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Say what the scale is multiplied by after a skipped step. Raises ArgumentError unless it
        is between 0 and 1.
        """
        self._backoff_factor = in_range(
            "backoff_factor", new_factor, 0 < new_factor < 1, "in (0, 1)"
        )

    def get_growth_interval(self) -> int:
        """After how many steps in a row that were not skipped the scale grows."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Say after how many steps in a row the scale grows. Raises ArgumentError below 1."""
        self._growth_interval = int(
            in_range("growth_interval", new_interval, new_interval >= 1, ">= 1")
        )

    def state_dict(self) -> dict[str, Any]:
        """The state in PyTorch's layout; empty if not enabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self.get_scale(),
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": int(self._growth_tracker),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a `state_dict`; does nothing if not enabled.

        Raises ArgumentError for the state of a scaler that was not enabled.
        """
        if not self._enabled:
            return
        missing = [name for name in STATE if name not in state_dict]
        if missing:
            raise ArgumentError(
                f"GradScaler.load_state_dict: got no {', '.join(missing)}\n"
                "  help: a scaler that was not enabled has no state; it cannot be loaded"
            )
        self.set_growth_factor(float(state_dict["growth_factor"]))
        self.set_backoff_factor(float(state_dict["backoff_factor"]))
        self.set_growth_interval(int(state_dict["growth_interval"]))
        assign(self._scale, computed_full((), float(state_dict["scale"]), float32))
        assign(self._growth_tracker, computed_full((), int(state_dict["_growth_tracker"]), int32))

    def __repr__(self) -> str:
        return f"GradScaler(enabled={self._enabled}, growth_interval={self._growth_interval})"


GradientScaler = GradScaler
STATE = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")


def in_range(name: str, value: float, holds: bool, wanted: str) -> float:
    """The value, if it is in its range. Raises ArgumentError."""
    if not holds:
        raise ArgumentError(f"GradScaler: got {name}={value!r}; wanted a number {wanted}")
    return value


def one_number(given: Any) -> Tensor:
    """A new scale as a tensor. Raises ArgumentError unless it is one float."""
    if isinstance(given, Tensor) and given.dtype.is_float and given._value.type.numel == 1:
        return given.detach().reshape(()).astype(float32)
    if isinstance(given, (int, float)):
        return computed_full((), float(given), float32)
    got = given._value.type if isinstance(given, Tensor) else repr(given)
    raise ArgumentError(f"GradScaler.update: got new_scale {got}; wanted a number or float tensor")
