"""Parameters, and giving a handle another value.

A Parameter is a Tensor that a Module lists and an optimizer updates. Updates rebind the handle:
`assign` takes what ordinary ops computed and makes it the tensor's value, as a leaf of later
gradients. Outside a trace the new values stay pending until `settle` computes them together.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, DTypeError, ShapeError
from deepseek.frontend.devices import moved
from deepseek.frontend.tensor import Tensor, from_numpy, hooks, leaf_like, no_grad, state
from deepseek.ir.dtype import DType, dtype_of
from deepseek.ir.shape import same_shape
from deepseek.ops import stop_gradient, zeros_like

__all__ = ["Parameter"]


class Parameter(Tensor):
    """A tensor that is a module's parameter: `Module` lists it and it requires gradients.

    >>> ds.nn.Parameter(ds.zeros(2))
    Parameter containing:
    tensor([0., 0.], requires_grad=True)
    """

    __slots__ = ()

    def __init__(self, data: Tensor, requires_grad: bool = True) -> None:
        if not isinstance(data, Tensor):
            raise ArgumentError(
                f"Parameter: got {data!r} of type {type(data).__name__}; wanted a Tensor\n"
                "  help: write nn.Parameter(ds.asarray(...))"
            )
        if requires_grad and not data.dtype.is_float:
            raise DTypeError(
                f"Parameter: got {data.dtype}; wanted a float dtype, since it requires gradients\n"
                "  help: pass requires_grad=False, or register a buffer"
            )
        super().__init__(leaf_like(data._computed(), requires_grad))

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"

    def __deepcopy__(self, memo: Any) -> Parameter:
        copy = Parameter(self, self.requires_grad)
        memo[id(self)] = copy
        return copy

    def __reduce__(self) -> Any:
        return _restore, (super().__reduce__(), self.requires_grad)


def _restore(reduced: Any, requires_grad: bool) -> Parameter:
    make, arguments = reduced
    return Parameter(make(*arguments), requires_grad)


def computed_full(
    shape: Any, fill_value: float, dtype: DType, beside: Tensor | None = None
) -> Tensor:
    """A tensor with one number everywhere, there at once and without a kernel; on the device of
    another tensor, if one is given.
    """
    made = from_numpy(np.full(shape, fill_value, dtype.numpy), dtype)
    return made if beside is None else moved(made, beside._value.type.device)


class _Pending(threading.local):
    """Handles of this thread that `assign` gave a value that is not computed yet."""

    def __init__(self) -> None:
        self.handles: dict[int, weakref.ref[Tensor]] = {}


_pending = _Pending()


def assign(target: Tensor, new: Tensor) -> Tensor:
    """Make `target` show the value of `new`; gradients stop here.

    The handle, its device, its gradient and whether it requires gradients stay. Raises ShapeError
    or DTypeError unless the types agree.
    """
    before, value = target._value, new._value
    if not same_shape(before.type.shape, value.type.shape):
        raise ShapeError(f"assign: got {value.type}; wanted {before.type}, the tensor's own type")
    if before.type.dtype is not value.type.dtype:
        raise DTypeError(f"assign: got {value.type}; wanted {before.type}, the tensor's own type")
    return retyped(target, moved(new, before.type.device), before.requires_grad)


def retyped(target: Tensor, new: Tensor, requires_grad: bool) -> Tensor:
    """`assign` where the type may change."""
    if state.trace is None and new._value.data is not None:
        return target._rebind(leaf_like(new._value, requires_grad))
    if requires_grad or new.requires_grad:
        # A value of its own, which no gradient passes: `new` keeps its history where it is held.
        with no_grad():
            new = stop_gradient(new)
    value = new._value
    value.requires_grad = requires_grad
    target._rebind(value)
    if state.trace is None:
        if value.data is None:
            _pending.handles[id(target)] = weakref.ref(target)
        else:
            target._rebind(leaf_like(value, requires_grad))
    return target


def settle(*others: Tensor) -> None:
    """Compute, in one go, every assigned value of this thread that is pending, and the others
    given.

    The assigned handles become leaves, so that the history of one step is not kept by the next.
    """
    if state.trace is not None:
        return
    handles = [t for t in (ref() for ref in _pending.handles.values()) if t is not None]
    _pending.handles.clear()
    losses = [t for t in (ref() for ref in state.losses) if t is not None]
    state.losses.clear()
    values = [t._value for t in (*handles, *losses, *others) if t._value.data is None]
    if values:
        hooks.evaluate(values)
    for tensor in handles:
        value = tensor._value
        if value.node.inputs:
            tensor._rebind(leaf_like(value, value.requires_grad))


def clear_grad(tensor: Tensor, set_to_none: bool) -> None:
    """Forget a gradient, or make it zeros."""
    if set_to_none or tensor.grad is None:
        tensor.grad = None
    else:
        tensor.grad = zeros_like(tensor.grad)


def convert(tensor: Tensor, dtype: DType) -> None:
    """Make a float tensor, and its gradient, show its values in another dtype."""
    if not tensor.dtype.is_float or tensor.dtype is dtype:
        return
    gradient = tensor.grad
    tensor.grad = None
    retyped(tensor, tensor.detach().astype(dtype), tensor.requires_grad)
    if gradient is not None:
        tensor.grad = gradient.detach().astype(dtype)


def loaded(given: Tensor | np.ndarray[Any, Any], dtype: DType) -> Tensor:
    """A computed tensor of the given dtype from what a state dict holds."""
    if not isinstance(given, Tensor):
        given = from_numpy(given, dtype_of(given.dtype))
    return given.detach().astype(dtype).evaluate()
