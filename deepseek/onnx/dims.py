"""The sizes that an export leaves open: each name the user gave becomes a size symbol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepseek.errors import ArgumentError, CompileError, format_line, unknown
from deepseek.frontend.tensor import Tensor
from deepseek.ir import scalar
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import Shape, Size, Sizes, TensorType


class Dims:
    """Named axes of inputs, their symbols, and what the trace asked about them."""

    def __init__(
        self, inputs: Mapping[str, Tensor], dynamic: Mapping[Any, Mapping[int, str]]
    ) -> None:
        self.inputs = dict(inputs)
        self.sizes = Sizes()
        self.names: dict[Expr, str] = {}
        self.places: dict[Expr, tuple[str, int]] = {}  # an input's axis that shows the size
        self.axes: dict[tuple[str, int], Expr] = {}
        order = list(inputs)
        for key, axes in dynamic.items():
            in_range = isinstance(key, int) and -len(order) <= key < len(order)
            name = order[key] if in_range else key
            if name not in inputs:
                raise unknown("input in dynamic", key, order)
            for axis, dim in axes.items():
                self._add(name, axis, dim, inputs[name])

    def _add(self, name: str, axis: int, dim: str, x: Tensor) -> None:
        if not isinstance(dim, str) or not dim:
            raise ArgumentError(
                f"export: dynamic axis {axis} of {name!r}: got {dim!r}; wanted a name"
            )
        if not -x.ndim <= axis < x.ndim or x.shape[axis] == 0:
            raise ArgumentError(
                f"export: dynamic axis {axis} of {name!r}; wanted an axis of {x._value.type} that "
                "has elements"
            )
        axis %= x.ndim
        symbols = {n: s for s, n in self.names.items()}
        symbol = symbols.get(dim)
        if symbol is None:
            symbol = scalar.var(f"n{len(symbols)}", low=1)
            self.names[symbol] = dim
            self.sizes.current[symbol] = x.shape[axis]
            self.places[symbol] = name, axis
        elif self.sizes.current[symbol] != x.shape[axis]:
            raise ArgumentError(
                f"export: the dynamic size {dim!r} is {self.sizes.current[symbol]} elsewhere and "
                f"{x.shape[axis]} at axis {axis} of {name!r}\n"
                "  help: use another name, or arguments that agree"
            )
        self.axes[name, axis] = symbol

    def shape(self, name: str, x: Tensor) -> Shape:
        """An input's shape with symbols at its dynamic axes."""
        return tuple(self.axes.get((name, i), s) for i, s in enumerate(x._value.type.shape))

    def sizes_of(self, arrays: Mapping[str, Any]) -> dict[Expr, int]:
        """The open sizes in an example. Raises ArgumentError where it does not fit the inputs."""
        sizes: dict[Expr, int] = {}
        for name, array in arrays.items():
            for axis, fixed in enumerate(self.inputs[name]._value.type.shape):
                symbol = self.axes.get((name, axis))
                wanted = fixed if symbol is None else sizes.setdefault(symbol, array.shape[axis])
                if array.shape[axis] != wanted or array.ndim != self.inputs[name].ndim:
                    what = "" if symbol is None else f", {self.names[symbol]!r}"
                    raise ArgumentError(
                        f"export: an example's {name!r} has the shape {array.shape}; wanted size "
                        f"{wanted} at axis {axis}{what}"
                    )
        return sizes

    def conditions(self) -> list[str]:
        """What was taken for granted. Raises CompileError where that fixes a dynamic size."""
        out = []
        for guard in self.sizes.guards.values():
            condition = guard.condition
            symbol = pinned(condition)
            if symbol is not None:
                raise CompileError(
                    f"export: the dynamic size {self.names[symbol]!r} was fixed: the model needs "
                    f"{self.text(condition)}\n  at {format_line(guard.line)}\n"
                    "  help: compute with x.shape[i] without asking for its value, or leave the "
                    "axis out of dynamic=..."
                )
            negated = condition.fn == "bitxor" and condition.args[1] is scalar.TRUE
            text = self.text(condition.args[0] if negated else condition)
            out.append(f"not {text}" if negated else text)
        return out

    def text(self, size: Size) -> str:
        """A size in the user's names."""
        if isinstance(size, int):
            return str(size)
        named = {s: scalar.var(n, low=1) for s, n in self.names.items()}
        return scalar.substitute(size, named).text

    def type_text(self, type_: TensorType) -> str:
        return f"{type_.dtype}[{', '.join(map(self.text, type_.shape))}]"


def pinned(condition: Expr) -> Expr | None:
    """The symbol that a condition leaves one value for, if it does."""
    free = scalar.variables(condition)
    if condition.fn != "eq" or len(free) != 1:
        return None
    factor = scalar.coefficient(scalar.sub(*condition.args), free[0])
    return free[0] if factor is not None and factor.fn == "const" else None
