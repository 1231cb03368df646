"""The trace: one run of a user's function that records instead of computing.

Tensors that the function meets are replaced, for the time of the trace, by placeholders; the
user's handles show them and are put back afterwards. What it read from outside become hidden
inputs, the handles it rebound hidden outputs, the gradients it left are kept or, if an optimiser
consumed them, dropped.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from deepseek import _runtime
from deepseek.errors import Line, TraceError, format_line, user_line
from deepseek.frontend.number import Number
from deepseek.frontend.tensor import Tensor, hooks, tracing, view_of
from deepseek.ir import graph
from deepseek.ir.dtype import DType, dtype_of, float64, int64
from deepseek.ir.graph import Value, constant, input_value
from deepseek.ir.shape import Shape


@dataclass
class Hidden:
    """A tensor that the function read from outside: its handle, what it showed, its placeholder."""

    handle: Tensor
    value: Value
    placeholder: Value
    line: Line


@dataclass
class HiddenNumber:
    """A hyper-parameter read from a container: `container[key]`."""

    container: Any
    key: Any
    placeholder: Value
    number: Number
    pinned: bool = False


@dataclass
class Draws:
    """A random generator that the function drew from: `count` draws from `generator.draws` on."""

    generator: Any
    seed: Value
    first: Value
    count: int = 0


@dataclass
class Trace:
    """Everything one trace met."""

    start: int
    hidden: dict[Value, Hidden] = field(default_factory=dict)
    numbers: dict[tuple[int, Any], HiddenNumber] = field(default_factory=dict)
    draws: dict[int, Draws] = field(default_factory=dict)
    rebound: dict[Tensor, Value] = field(default_factory=dict)
    grads: dict[Tensor, Any] = field(default_factory=dict)
    grads_read: set[Tensor] = field(default_factory=set)  # before the function set them
    consumed: set[Tensor] = field(default_factory=set)
    constants: dict[Value, Value] = field(default_factory=dict)
    placeholders: set[Value] = field(default_factory=set)
    shown: dict[Value, Value] = field(default_factory=dict)  # of arguments: their placeholders
    effects: list[Callable[[], object]] = field(default_factory=list)
    changing: set[int] = field(default_factory=set)  # ids of what the effects will change
    held: dict[tuple[Any, str], None] = field(default_factory=dict)  # (object, attribute) of ours

    # ------------------------------------------------------------------------ called by recording

    def admit(self, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        """The values that a node may read here: outside ones become hidden inputs."""
        return tuple([self.inside(v) for v in inputs])

    def inside(self, value: Value) -> Value:
        if value.data is None and value.node.sequence >= self.start:
            return value
        if value in self.placeholders:
            return value
        if value.node.sequence >= self.start:
            return self.frozen(value)
        found = self.hidden.get(value)
        if found is None:
            found = self.hidden[value] = self.hide(value)
        return found.placeholder

    def known(self, value: Value) -> Value:
        """What stands for a value that nodes have read here; itself if none has."""
        found = self.hidden.get(value)
        return self.constants.get(value, value) if found is None else found.placeholder

    def frozen(self, value: Value) -> Value:
        """Data that the function itself made from NumPy: a constant of the graph."""
        if value not in self.constants:
            self.constants[value] = constant(view_of(value), value.type.dtype)
        return self.constants[value]

    def hide(self, value: Value) -> Hidden:
        line = user_line(3)
        handle = value.handle() if value.handle is not None else None
        if handle is None:
            raise TraceError(
                f"a {value.type} that no variable shows any more was used inside @ds.jit\n"
                f"  at {format_line(line)}\n  help: pass the tensor as an argument"
            )
        if value.data is None:
            evaluate_apart([value])
        placeholder = self.placeholder(value.type.dtype, value.type.shape, value.requires_grad)
        if handle._value is value:  # or else it was rebound since, and another handle is read
            self.show(handle, placeholder)
        return Hidden(handle, value, placeholder, line)

    def placeholder(self, dtype: DType, shape: Shape, requires_grad: bool = False) -> Value:
        made = input_value(dtype, shape)
        made.requires_grad = requires_grad
        self.placeholders.add(made)
        return made

    def show(self, handle: Tensor, placeholder: Value) -> None:
        """Let a user's handle show a placeholder until the trace ends."""
        self.rebound.setdefault(handle, handle._value)
        placeholder.handle = _weak(handle)  # first: other threads follow it back
        handle._value = placeholder

    def note_rebind(self, handle: Tensor) -> None:
        """A handle is about to show another value."""
        if handle not in self.rebound and handle._value.node.sequence < self.start:
            self.rebound[handle] = handle._value

    def note_grad(self, handle: Tensor) -> None:
        """A handle's gradient is about to change."""
        self.grads.setdefault(handle, handle._grad)

    def note_grad_read(self, handle: Tensor) -> None:
        """A handle's gradient is looked at."""
        if handle not in self.grads:
            self.grads_read.add(handle)

    def note_consumed(self, handle: Tensor) -> None:
        """An optimiser used up this handle's gradient."""
        self.consumed.add(handle)

    def after(self, effect: Callable[[], object], changes: Iterable[Any] = ()) -> None:
        """Call `effect` after each call of the compiled function, and not now.

        `changes` are the containers whose numbers it will change.
        """
        self.effects.append(effect)
        self.changing.update(id(container) for container in changes)

    # ----------------------------------------------------------------------- numbers and randomness

    def number(self, container: Any, key: Any) -> Any:
        """`container[key]` as an input of the graph."""
        if id(container) in self.changing:
            raise TraceError(
                f"{key!r} is read after a call, inside @ds.jit, that changes it\n"
                f"  at {format_line(user_line(2))}\n"
                "  help: a compiled function makes such changes when it returns; call "
                "scheduler.step() after everything that reads the learning rate"
            )
        current = container[key]
        if isinstance(current, bool) or not isinstance(current, (int, float)):
            return current
        found = self.numbers.get((id(container), key))
        if found is None:
            placeholder, number = self.as_number(current)
            found = HiddenNumber(container, key, placeholder, number)
            number.guard = lambda: setattr(found, "pinned", True)
            self.numbers[id(container), key] = found
        return found.number

    def as_number(self, current: int | float) -> tuple[Value, Number]:
        placeholder = self.placeholder(int64 if isinstance(current, int) else float64, ())
        return placeholder, Number(Tensor(placeholder), current, _nothing)

    def draw(self, generator: Any) -> tuple[Tensor, Tensor]:
        """(seed, number of the draw) of a generator's next draw, as 0-d tensors."""
        found = self.draws.get(id(generator))
        if found is None:
            seed = self.placeholder(dtype_of("uint64"), ())
            first = self.placeholder(int64, ())
            found = self.draws[id(generator)] = Draws(generator, seed, first)
        offset = found.count
        found.count += 1
        first_draw = Tensor(found.first)
        return Tensor(found.seed), first_draw + offset if offset else first_draw  # type: ignore[operator]

    # ------------------------------------------------------------------------------------- the end

    def finish(self) -> tuple[dict[Tensor, Value], dict[Tensor, Any]]:
        """Put every handle back. Returns what rebound handles and changed gradients ended with."""
        values: dict[Tensor, Value] = {}
        for handle, original in self.rebound.items():
            final = handle._value
            if final not in self.placeholders or final is not self._placeholder_of(original):
                values[handle] = final
            handle._value = original
            original.handle = _weak(handle)
        grads: dict[Tensor, Any] = {}
        for handle, original_grad in self.grads.items():
            final_grad = handle._grad
            handle._grad = original_grad
            if final_grad is not original_grad:
                grads[handle] = final_grad
        return values, grads

    def _placeholder_of(self, original: Value) -> Value | None:
        found = self.hidden.get(original)
        return found.placeholder if found is not None else self.shown.get(original)


def evaluate_apart(values: list[Value]) -> None:
    """Compute values without the trace noticing what code runs for it."""
    _runtime.pause_recording_calls()
    try:
        with tracing(None):
            hooks.evaluate(values)
    finally:
        _runtime.resume_recording_calls()


def _nothing() -> None:
    """A number that nothing depends on needs no guard."""


def _weak(handle: Tensor) -> Any:
    return weakref.ref(handle)


def begin() -> Trace:
    """A trace that starts now."""
    return Trace(next(graph.sequence))

