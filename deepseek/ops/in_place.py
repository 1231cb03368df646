"""Operators such as `x += y` and methods such as `x.add_(y)`: the handle shows a new value.

No other tensor changes, since tensors are values. The result keeps x's dtype and shape; what does
not fit is an error, and so is a leaf that requires gradients, as in PyTorch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from deepseek.errors import DTypeError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import DType
from deepseek.ir.shape import same
from deepseek.ops import bitwise, elementwise, indexing, scattering, transcendental
from deepseek.ops.activation import relu
from deepseek.ops.define import as_tensor, converted, describe, shape_of
from deepseek.ops.index import scatter_add
from deepseek.ops.indexing import assigned, refuse_leaf
from deepseek.ops.methods import method

__all__: list[str] = []


def in_place(function: Callable[..., Tensor], symbol: str) -> Callable[..., Tensor]:
    """The function as a method that changes what the handle shows."""

    @functools.wraps(function)
    def change(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        refuse_leaf(self, symbol)
        out = function(self, *args, **kwargs)
        if _kind(out.dtype) > _kind(self.dtype):
            raise op_error(
                DTypeError, symbol, [describe(a) for a in (self, *args)],
                f"a result that {self.dtype} can hold", user_line(), "write x = x op y",
            )  # fmt: skip
        if out.ndim != self.ndim or not all(map(same, shape_of(out), shape_of(self))):
            raise op_error(
                ShapeError, symbol, [describe(a) for a in (self, *args)],
                "a right side that broadcasts to the left", user_line(),
            )  # fmt: skip
        return assigned(self, converted(out, self.dtype))

    change.__name__ = change.__qualname__ = symbol
    return change


def _kind(dtype: DType) -> int:
    return "biuf".index(dtype.kind) if dtype.kind != "u" else 1


def _fill(x: Tensor, value: Any) -> Tensor:
    """x with every element replaced by one value."""
    return converted(as_tensor(value, "fill_", x.dtype), x.dtype).broadcast_to(shape_of(x))


def _zero(x: Tensor) -> Tensor:
    """x with every element replaced by 0."""
    return _fill(x, 0)


def _copy(x: Tensor, source: Any) -> Tensor:
    """x with its elements replaced by another tensor's, converted and broadcast."""
    return _fill(x, source)


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "+=": elementwise.add, "-=": elementwise.subtract, "*=": elementwise.multiply,
    "/=": elementwise.divide, "//=": elementwise.floor_divide, "%=": elementwise.remainder,
    "**=": elementwise.pow, "&=": bitwise.bitwise_and, "|=": bitwise.bitwise_or,
    "^=": bitwise.bitwise_xor, "<<=": bitwise.bitwise_left_shift,
    ">>=": bitwise.bitwise_right_shift,
}  # fmt: skip
_DUNDERS = (
    "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor",
    "ilshift", "irshift",
)  # fmt: skip
METHODS: dict[str, Callable[..., Tensor]] = {
    "add_": elementwise.add, "sub_": elementwise.subtract, "mul_": elementwise.multiply,
    "div_": elementwise.divide, "pow_": elementwise.pow, "remainder_": elementwise.remainder,
    "neg_": elementwise.negative, "abs_": elementwise.abs, "square_": elementwise.square,
    "clip_": elementwise.clip, "clamp_": elementwise.clip, "sign_": elementwise.sign,
    "exp_": transcendental.exp, "log_": transcendental.log, "sqrt_": transcendental.sqrt,
    "rsqrt_": transcendental.rsqrt, "sin_": transcendental.sin, "cos_": transcendental.cos,
    "tanh_": transcendental.tanh, "sigmoid_": transcendental.sigmoid, "relu_": relu,
    "floor_": transcendental.floor, "ceil_": transcendental.ceil, "round_": transcendental.round,
    "fill_": _fill, "zero_": _zero, "copy_": _copy,
    "masked_fill_": scattering.masked_fill, "masked_scatter_": scattering.masked_scatter,
    "scatter_": scattering.scatter, "scatter_add_": scatter_add,
    "scatter_reduce_": scattering.scatter_reduce, "index_add_": scattering.index_add,
    "index_copy_": scattering.index_copy, "index_fill_": scattering.index_fill,
    "index_put_": indexing.index_put, "put_": scattering.put,
}  # fmt: skip

for _dunder, (_symbol, _function) in zip(_DUNDERS, OPERATORS.items(), strict=True):
    method(f"__{_dunder}__", home=__name__)(in_place(_function, _symbol))
for _name, _function in METHODS.items():
    method(_name, home=__name__)(in_place(_function, _name))
