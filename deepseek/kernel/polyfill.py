"""Transcendental functions in basic ones, for float32 and float64.

In flow a function's name and arguments; out flows an expression over add, mul, fma, div, floor,
where, bitcast and shifts, which any backend can emit. Errors over all arguments: 2 ulp in float32,
4 in float64; infinities, NaN and denormals are right. Remainders are exact for quotients below
2**53. `fused` says whether the target's fma rounds once: without that, products that must be exact
are made of halves. Arguments that are rare and take many steps have a program of their own, which a
backend may jump over where none of its lanes needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from deepseek.ir.dtype import DType, float32, float64, int64
from deepseek.ir.scalar import Expr, call, var, walk
from deepseek.kernel.polyfill_angle import cos, cos_of_large, sin, sin_of_large, unusual
from deepseek.kernel.polyfill_exp import erf, exp, exp_parts, expm1, tanh
from deepseek.kernel.polyfill_form import FORMS, Form
from deepseek.kernel.polyfill_log import log, log1p, pow_
from deepseek.kernel.polyfill_misc import atan, floordiv, integer_power, mod

_FLOAT: dict[str, Callable[..., Expr]] = {
    "exp": exp, "expm1": expm1, "log": log, "log1p": log1p, "sin": sin, "cos": cos,
    "tanh": tanh, "atan": atan, "erf": erf, "pow": pow_, "mod": mod, "floordiv": floordiv,
}  # fmt: skip
# When the arguments are rare, and what is then the result.
_RARE: dict[str, tuple[Callable[..., Expr], Callable[..., Expr]]] = {
    "sin": (unusual, sin_of_large), "cos": (unusual, cos_of_large),
}  # fmt: skip
# What is left to do is a multiplication by a power of two: a number and the exponent.
_PARTS: dict[str, Callable[..., tuple[Expr, Expr]]] = {"exp": exp_parts}


@dataclass(frozen=True, slots=True)
class Program:
    """A polyfill ready to inline: `steps` are its distinct nodes, arguments before users.

    Where `rare` holds, a value of the last step, the result is that of the program `otherwise`.
    Where there are `parts`, a number and a whole exponent, number * 2**exponent rounded once is the
    result too; `part_steps` lead to them.
    """

    parameters: tuple[Expr, ...]
    steps: tuple[Expr, ...]
    result: Expr
    name: str
    rare: Expr | None = None
    otherwise: Program | None = None
    parts: tuple[Expr, Expr] | None = None
    part_steps: tuple[Expr, ...] = ()

    @property
    def cost(self) -> int:
        """Instructions, about."""
        return sum(step.fn not in ("const", "bitcast") for step in self.steps)


def needs(fn: str, dtype: DType) -> bool:
    """Whether a function of arguments of this type has to be expanded."""
    return (fn in _FLOAT and dtype in (float32, float64)) or (fn == "pow" and dtype.is_integer)


def expand(fn: str, args: tuple[Expr, ...], fused: bool = True) -> Expr:
    """The function of these arguments, in basic functions."""
    dtype = args[0].dtype
    if dtype.is_integer:
        return integer_power(*args)
    form: Form = FORMS[dtype].with_fused(fused)
    usual = _FLOAT[fn](form, *args)
    if fn not in _RARE:
        return usual
    condition, rest = _RARE[fn]
    return call("where", condition(form, *args), rest(form, *args), usual)


@cache
def program(fn: str, dtype: DType, fused: bool = True) -> Program | None:
    """The function as a program, or None where it is a basic one."""
    if not needs(fn, dtype):
        return None
    name = f"{fn}_{dtype.name}"
    names = ("x", "y")[: 2 if fn in ("pow", "mod", "floordiv") else 1]
    parameters = tuple(var(name, dtype) for name in names)
    result = expand(fn, parameters, fused)
    if fn in _PARTS:
        parts = _PARTS[fn](FORMS[dtype].with_fused(fused), *parameters)
        steps = steps_of(parameters, result)
        return Program(
            parameters, steps, result, name, parts=parts, part_steps=steps_of(parameters, *parts)
        )
    if fn not in _RARE or dtype.is_integer:
        return Program(parameters, steps_of(parameters, result), result, name)
    rare, otherwise, usual = result.args
    return Program(
        parameters,
        steps_of(parameters, rare, usual),
        usual,
        name,
        rare,
        Program(parameters, steps_of(parameters, otherwise), otherwise, name),
    )


def steps_of(parameters: tuple[Expr, ...], *results: Expr) -> tuple[Expr, ...]:
    """What leads from parameters to results."""
    return tuple(node for node in walk(results) if node not in parameters)


def cost(fn: str, dtype: DType) -> int:
    """Instructions of one function, about."""
    found = program(fn, dtype)
    return 1 if found is None else found.cost


def instructions(roots: Sequence[Expr]) -> int:
    """Instructions to compute some values, about; indices and what is read are free."""
    nodes = [e for e in walk(roots) if e.args and e.fn != "load" and e.dtype is not int64]
    return sum(cost(e.fn, e.args[0].dtype) for e in nodes)
