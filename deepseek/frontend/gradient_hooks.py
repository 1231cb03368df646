"""Functions called with the gradient of a tensor while it is computed, which may replace it.

In flows a tensor and a function; out flows a handle that takes the function away again. A computed
tensor's hooks hang on its value in the graph. Those of a leaf hang on the tensor, which shows other
values as it is trained, and a compiled function that computes gradients is traced again when they
change.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any

from deepseek.errors import ArgumentError, op_error, user_line
from deepseek.frontend.tensor import Tensor, state
from deepseek.ir.graph import Value

Hook = Callable[[Tensor], Tensor | None]
Hooks = dict[int, Hook]


class Registry:
    """All hooks there are; `version` counts the changes to those of leaves."""

    def __init__(self) -> None:
        self.version = 0
        self.of_values: weakref.WeakKeyDictionary[Value, Hooks] = weakref.WeakKeyDictionary()
        # By identity: tensors are compared by their elements.
        self.of_leaves: dict[int, tuple[weakref.ref[Tensor], Hooks]] = {}

    def leaf(self, tensor: Tensor) -> Hooks:
        """The hooks of a leaf, to add to."""
        key = id(tensor)
        if key not in self.of_leaves:
            gone = weakref.ref(tensor, lambda _: self.of_leaves.pop(key, None))
            self.of_leaves[key] = gone, {}
        return self.of_leaves[key][1]


registry = Registry()
_ids = itertools.count()


class HookHandle:
    """What registering a hook gives back: `remove()` takes the hook away again."""

    def __init__(self, hooks: Hooks, hook: Hook, of_leaf: bool) -> None:
        self.id = next(_ids)
        self._hooks = hooks
        self._of_leaf = of_leaf
        hooks[self.id] = hook
        self._changed()

    def _changed(self) -> None:
        if self._of_leaf and state.trace is None:
            registry.version += 1

    def remove(self) -> None:
        """Take the hook away; a second time does nothing."""
        if self._hooks.pop(self.id, None) is not None:
            self._changed()

    def __enter__(self) -> HookHandle:
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()


def register_hook(self: Tensor, hook: Hook) -> HookHandle:
    """Call `hook(gradient)` whenever the gradient of this tensor is computed.

    Where it returns a tensor, of the gradient's type, that takes the gradient's place. Inside
    `@ds.jit` hooks are called while it traces. Returns a handle whose `remove()` takes the hook
    away. Raises ArgumentError for a tensor that does not require gradients.

    >>> x = ds.asarray([1.0, 2.0], requires_grad=True)
    >>> handle = x.register_hook(lambda g: g * 10)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([20., 40.])
    """
    if not self.requires_grad:
        raise op_error(
            ArgumentError, "register_hook", f"{self._value.type} that does not require gradients",
            "a tensor with requires_grad=True, or computed from one", user_line(),
        )  # fmt: skip
    of_leaf = self.is_leaf
    hooks = registry.leaf(self) if of_leaf else registry.of_values.setdefault(self._value, {})
    return HookHandle(hooks, hook, of_leaf)


def after_hooks(value: Value, gradient: Tensor) -> Tensor:
    """The gradient of a computed value after its hooks."""
    return _called(registry.of_values.get(value), gradient)


def after_leaf_hooks(tensor: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of a leaf after its hooks."""
    found = registry.of_leaves.get(id(tensor))
    return gradient if found is None else _called(found[1], gradient)


def _called(hooks: Hooks | None, gradient: Tensor) -> Tensor:
    for hook in tuple((hooks or {}).values()):
        new = hook(gradient)
        if new is None:
            continue
        if not isinstance(new, Tensor) or new._value.type is not gradient._value.type:
            raise ArgumentError(
                f"a tensor's hook returned {new!r}; wanted None or {gradient._value.type}"
            )
        gradient = new
    return gradient


Tensor.register_hook = register_hook  # type: ignore[attr-defined]
