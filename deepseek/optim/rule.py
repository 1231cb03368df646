"""What an update rule sees: hyper-parameters, state and gradients as values to compute with.

A rule is written once, as in its paper. `Hyper` gives it the hyper-parameters of a group as
symbolic numbers, so that another learning rate compiles nothing; `Slots` gives it a parameter's
state, read in the type that it is computed in and written back in its own.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from deepseek.errors import ArgumentError
from deepseek.frontend.number import Number
from deepseek.frontend.tensor import Tensor, state
from deepseek.ir.dtype import DType, float64
from deepseek.nn.parameter import assign, computed_full

Group = dict[str, Any]
State = dict[str, Any]


class Hyper:
    """The hyper-parameters of a group, and the factors that one step has for all its parameters.

    `h.lr` is a number, `h.betas` a tuple of them; what is no number (a flag, None) is itself.
    """

    def __init__(self, group: Group, factors: Mapping[str, Tensor] | None = None) -> None:
        self._group = group
        self._factors = factors or {}

    def __getattr__(self, name: str) -> Any:
        if name in self._factors:
            return self._factors[name]
        if name not in self._group:
            raise ArgumentError(
                f"a rule asks for {name!r}; the group has {', '.join(sorted(self._group))}"
            )
        given = self._group[name]
        if isinstance(given, (tuple, list)):
            return tuple(hyper(self._group, name, i) for i in range(len(given)))
        return hyper(self._group, name)

    def along(self, factors: Mapping[str, Tensor], dtype: DType) -> Hyper:
        """The same with the factors of a step, in the type that a parameter is computed in."""
        return Hyper(self._group, {name: x.astype(dtype) for name, x in factors.items()})


class Slots:
    """The state of a parameter by name: `s.exp_avg = beta * s.exp_avg + (1 - beta) * g`.

    `_written` has the last tensor that each name was given.
    """

    __slots__ = ("_own", "_written")

    def __init__(self, own: State) -> None:
        object.__setattr__(self, "_own", own)
        object.__setattr__(self, "_written", {})

    def __getattr__(self, name: str) -> Tensor:
        held = self._own[name]
        read = wide(held)
        return another_handle(held) if read is held else read  # stays when the state is written

    def __setattr__(self, name: str, new: Tensor) -> None:
        held = self._own[name]
        new = self._written[name] = new.astype(held.dtype)
        assign(held, new)

    def __contains__(self, name: str) -> bool:
        return name in self._own


def hyper(group: Group, name: str, index: int | None = None) -> Any:
    """A hyper-parameter of a group, or an element of one.

    A number becomes a symbolic one, which stands beside tensors like a Python number. Inside
    `@ds.jit` its value is read anew at each call; outside, no kernel depends on it.
    """
    container: Any = group if index is None else group[name]
    key: Any = name if index is None else index
    current = container[key]
    if isinstance(current, bool) or not isinstance(current, (int, float)):
        return current
    if type(current) is Number:
        return current
    if state.trace is None:
        return Known(current)
    number = getattr(state.trace, "number", None)
    return current if number is None else number(container, key)


class Known(float):
    """A number outside of a trace: arithmetic is done at once, and no graph holds its value."""

    __slots__ = ()

    @property
    def current(self) -> float:
        return float(self)

    def _number(self) -> Tensor:
        """The 0-d tensor that ops take as a weak scalar, as they take a Number's."""
        return in_memory(float(self))


def _arithmetic(name: str) -> None:
    compute = getattr(float, name)

    def method(self: Known, *others: Any) -> Any:
        result = compute(self, *others)
        return Known(result) if isinstance(result, float) else result

    setattr(Known, name, method)


for _name in ("add", "sub", "mul", "truediv", "pow"):
    _arithmetic(f"__{_name}__")
    _arithmetic(f"__r{_name}__")
for _name in ("neg", "abs", "pos"):
    _arithmetic(f"__{_name}__")


@functools.lru_cache(maxsize=64)
def in_memory(value: float) -> Tensor:
    """A number as a computed tensor: an input of graphs, not a constant in them."""
    return computed_full((), value, float64)


def wide(x: Tensor) -> Tensor:
    """x in the type that it is computed in: float32 for the 16-bit floats."""
    return x.astype(x.dtype.accumulator)


def another_handle(x: Tensor) -> Tensor:
    """A second handle on the value that x shows; x stays the value's own."""
    other = Tensor(x._value)
    x._value.handle = weakref.ref(x)
    return other


def decayed(p: Tensor, g: Tensor, h: Hyper, decoupled: bool = False) -> tuple[Tensor, Tensor]:
    """Parameter and gradient after weight decay.

    It adds weight_decay * p to the gradient (L2 regularisation) or, `decoupled`, shrinks the
    parameter by lr * weight_decay (Loshchilov and Hutter, arXiv:1711.05101).
    """
    rate = h.weight_decay
    if state.trace is None and not isinstance(rate, Tensor) and rate.current == 0:
        return p, g
    return (p * (1 - h.lr * rate), g) if decoupled else (p, g + rate * p)


def in_range(group: Group, name: str, low: float, high: float | None, open_: bool = True) -> None:
    """Raise ArgumentError unless the numbers under a name lie in [low, high), or [low, high]."""
    value = group[name]
    for number in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(number, Tensor):
            if number.size != 1:
                raise ArgumentError(f"{name}: got {number._value.type}; wanted one element")
            continue
        good = isinstance(number, (int, float)) and number >= low
        if good and high is not None:
            good = number < high if open_ else number <= high
        if not good:
            bound = "" if high is None else f" and {'<' if open_ else '<='} {high:g}"
            raise ArgumentError(f"{name}: got {value!r}; wanted a number >= {low:g}{bound}")


def note_consumed(parameters: Iterable[Tensor]) -> None:
    """Tell the trace that goes on, if any, that these gradients have served their purpose."""
    consumed = getattr(state.trace, "note_consumed", None)
    if consumed is not None:
        for p in parameters:
            consumed(p)
