"""Hooks: functions called before and after a module's forward, or when its gradients pass, which
may replace what goes through.

A module keeps them in `_hooks`, in the order they were added; a compiled function is compiled again
when that changes. Names and call signatures are PyTorch's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from deepseek.errors import ArgumentError
from deepseek.frontend.guards import structure
from deepseek.nn.backward_hooks import ARRIVING, LEAVING, listens, watched_inputs, watched_result

BEFORE, AFTER = "before", "after"
_ids = itertools.count()


def changed() -> None:
    """Note that something about some module is different now."""
    structure.version += 1


class Hook(NamedTuple):
    """When a function is called, and whether it takes the keyword arguments too."""

    when: str
    function: Callable[..., Any]
    with_kwargs: bool
    always: bool


class RemovableHandle:
    """What registering a hook gives back: `remove()` takes the hook away again."""

    def __init__(self, hooks: dict[int, Hook], hook: Hook, first: bool) -> None:
        self.id = next(_ids)
        self._hooks = hooks
        rest = dict(hooks) if first else {}
        if first:
            hooks.clear()
        hooks[self.id] = hook
        hooks.update(rest)
        changed()

    def remove(self) -> None:
        """Take the hook away; a second time does nothing."""
        if self._hooks.pop(self.id, None) is not None:
            changed()

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()


def call_with_hooks(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """module.forward(*args, **kwargs) between its hooks."""
    hooks = tuple(module._hooks.values())
    listening = listens(module)
    for hook in hooks:
        if hook.when == BEFORE:
            args, kwargs = replaced_arguments(module, hook, args, kwargs)
    if listening:
        args = watched_inputs(module, args)
    result, done = None, False
    try:
        result = module.forward(*args, **kwargs)
        done = True
    finally:
        for hook in hooks:
            if hook.when == AFTER and (done or hook.always):
                given = (args, kwargs) if hook.with_kwargs else (args,)
                new = hook.function(module, *given, result)
                result = result if new is None else new
    return watched_result(module, args, result) if listening else result


def replaced_arguments(
    module: Any, hook: Hook, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments after one hook."""
    if not hook.with_kwargs:
        new = hook.function(module, args)
        return (args if new is None else new if isinstance(new, tuple) else (new,)), kwargs
    new = hook.function(module, args, kwargs)
    if new is None:
        return args, kwargs
    if not isinstance(new, tuple) or len(new) != 2 or not isinstance(new[1], dict):
        raise ArgumentError(
            f"a forward pre-hook of {type(module).__name__} with with_kwargs=True returned "
            f"{new!r}; wanted None or a pair (args, kwargs)"
        )
    return tuple(new[0]), new[1]


class Hooked:
    """What a Module has of this: hooks are registered on it, and calls go through them."""

    _hooks: dict[int, Hook]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What calling the module computes; subclasses define it."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._hooks:
            return call_with_hooks(self, args, kwargs)
        return self.forward(*args, **kwargs)

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call hook(module, args) before forward; what it returns, unless None, replaces args.

        `with_kwargs` passes and takes back (args, kwargs); `prepend` puts it before other hooks.
        """
        found = Hook(BEFORE, hook, with_kwargs, False)
        return RemovableHandle(self._hooks, found, prepend)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call hook(module, args, output) after forward; what it returns, unless None, replaces the
        output.

        `with_kwargs` makes it hook(module, args, kwargs, output); `always_call` calls it after an
        error too, with None as output.
        """
        found = Hook(AFTER, hook, with_kwargs, always_call)
        return RemovableHandle(self._hooks, found, prepend)

    def register_full_backward_pre_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call hook(module, grad_output) when the gradients of the outputs are there; what it
        returns, unless None, replaces them.

        grad_output is a tuple, with None where no gradient goes. See `register_full_backward_hook`.
        """
        return RemovableHandle(self._hooks, Hook(ARRIVING, hook, False, False), prepend)

    def register_full_backward_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call hook(module, grad_input, grad_output) when the gradients of the inputs are there;
        what it returns, unless None, replaces grad_input.

        Both are tuples: one element for each positional argument and each output, None where no
        gradient goes. The module has to return a Tensor or a tuple of them. A compiled function
        calls hooks while it is traced.

        >>> layer, seen = ds.nn.Linear(2, 1, bias=False), []
        >>> hook = layer.register_full_backward_hook(lambda m, gin, gout: seen.append(gin[0].shape))
        >>> layer(ds.ones((3, 2), requires_grad=True)).sum().backward()
        >>> seen
        [(3, 2)]
        """
        return RemovableHandle(self._hooks, Hook(LEAVING, hook, False, False), prepend)
