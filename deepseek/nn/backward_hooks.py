"""Backward hooks: functions called with the gradients that arrive at a module and leave it.

What goes into a hooked module and what comes out of it passes through a node that does nothing.
The gradient of such a node is the place where hooks are called: first with all gradients of the
outputs, then with all gradients of the inputs. Inside `@ds.jit` that is while it traces.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from deepseek.errors import ArgumentError
from deepseek.frontend.tensor import Tensor, record, state
from deepseek.ir.graph import Graph, Value, input_value
from deepseek.ir.op import Kind, Op, internal
from deepseek.ir.shape import TensorType

Gradients = tuple[Tensor | None, ...]
ARRIVING, LEAVING = "gradients arriving", "gradients leaving"


class Listener:
    """Calls the hooks that a module has when gradients pass."""

    def __init__(self, module: Any) -> None:
        self.module = weakref.ref(module)
        self.arrived: weakref.WeakKeyDictionary[Value, Gradients] = weakref.WeakKeyDictionary()

    def functions(self, when: str) -> list[Callable[..., Any]]:
        state.calls += 1
        module = self.module()
        hooks = () if module is None else tuple(module._hooks.values())
        return [hook.function for hook in hooks if hook.when == when]

    def arrive(self, outputs: Gradients) -> Gradients:
        """The gradients of the outputs after the hooks that may replace them."""
        for function in self.functions(ARRIVING):
            outputs = replaced(self.module(), function(self.module(), outputs), outputs)
        return outputs

    def leave(self, inputs: Gradients, outputs: Gradients) -> Gradients:
        """The gradients of the inputs after the hooks that may replace them."""
        for function in self.functions(LEAVING):
            inputs = replaced(self.module(), function(self.module(), inputs, outputs), inputs)
        return inputs


def replaced(module: Any, given: Any, before: Gradients) -> Gradients:
    """What a hook returned in the place of gradients; None leaves them."""
    if given is None:
        return before
    new = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    right = len(new) == len(before) and all(
        a is None or (isinstance(a, Tensor) and b is not None and a._value.type is b._value.type)
        for a, b in zip(new, before, strict=True)
    )
    if not right:
        wanted = ", ".join("None" if t is None else str(t._value.type) for t in before)
        raise ArgumentError(
            f"a backward hook of {type(module).__name__} returned {given!r}; "
            f"wanted None or the gradients ({wanted})"
        )
    return new


listeners: weakref.WeakKeyDictionary[Any, Listener] = weakref.WeakKeyDictionary()


def listener_of(module: Any) -> Listener:
    """The one of a module, so that a module called twice records nodes that are alike."""
    if module not in listeners:
        listeners[module] = Listener(module)
    return listeners[module]


# ------------------------------------------------------------------------------------- the nodes


def _passed(types: Sequence[TensorType], attrs: dict[str, Any]) -> Graph:
    values = [input_value(t.dtype, t.shape) for t in types]
    return Graph(values, values[: len(attrs["places"])])


def _spread(given: Any, places: tuple[int, ...], total: int) -> Gradients:
    """Gradients of some values among all of them."""
    found = given if isinstance(given, tuple) else (given,)
    by_place = dict(zip(places, found, strict=True))
    return tuple(by_place.get(i) for i in range(total))


def _outputs_vjp(
    g: Any, y: Any, *xs: Tensor, listener: Listener, places: tuple[int, ...], total: int,
    inputs: int,
) -> Gradients:  # fmt: skip
    arrived = listener.arrive(_spread(g, places, total))
    watched = xs[len(places) :]
    if watched:
        listener.arrived[watched[0]._value] = arrived
    else:
        listener.leave((None,) * inputs, arrived)
    return (*(arrived[place] for place in places), *(None for _ in watched))


def _inputs_vjp(
    g: Any, y: Any, *xs: Tensor, listener: Listener, places: tuple[int, ...], total: int
) -> Gradients:
    first = y[0] if isinstance(y, tuple) else y
    arrived = listener.arrived.pop(first._value, None)
    inputs = _spread(g, places, total)
    if arrived is not None:
        inputs = listener.leave(inputs, arrived)
    return tuple(inputs[place] for place in places)


def _node(name: str, vjp: Callable[..., Gradients], doc: str) -> Op:
    def infer(*types: TensorType, places: tuple[int, ...], **_: Any) -> tuple[TensorType, ...]:
        return types[: len(places)]

    return internal(Op(name, Kind.COMPOSITE, infer, expand=_passed, vjp=vjp, doc=doc))


OUTPUTS = _node("hooked_outputs", _outputs_vjp, "What comes out of a module with hooks.")
INPUTS = _node("hooked_inputs", _inputs_vjp, "What goes into a module with hooks.")


# --------------------------------------------------------------------------------------- a call


def _through(op: Op, given: tuple[Any, ...], *others: Tensor, **attrs: Any) -> tuple[Any, ...]:
    """The given things, those of them that gradients reach seen through a node."""
    places = tuple(i for i, t in enumerate(given) if isinstance(t, Tensor) and t.requires_grad)
    if not places:
        return given
    made = record(
        op, *(given[i] for i in places), *others, places=places, total=len(given), **attrs
    )
    new = dict(zip(places, made if isinstance(made, tuple) else (made,), strict=True))
    return tuple(new.get(i, t) for i, t in enumerate(given))


def listens(module: Any) -> bool:
    """Whether a module has backward hooks."""
    return any(hook.when in (ARRIVING, LEAVING) for hook in module._hooks.values())


def watched_inputs(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments as `forward` is to see them."""
    return _through(INPUTS, args, listener=listener_of(module))


def watched_result(module: Any, args: tuple[Any, ...], result: Any) -> Any:
    """The result as the caller is to see it. Raises ArgumentError for one that cannot be watched.

    `args` are what `watched_inputs` gave.
    """
    if not isinstance(result, (Tensor, tuple)):
        raise ArgumentError(
            f"{type(module).__name__} has a backward hook and returned a {type(result).__name__}; "
            "wanted a Tensor or a tuple of Tensors"
        )
    given = result if isinstance(result, tuple) else (result,)
    inside = [t for t in args if isinstance(t, Tensor) and t.requires_grad]
    listener = listener_of(module)
    seen = _through(OUTPUTS, given, *inside[:1], listener=listener, inputs=len(args))
    return seen if isinstance(result, tuple) else seen[0]
