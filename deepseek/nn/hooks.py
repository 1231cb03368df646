"""Hooks: functions called before and after a module's forward, which may replace what goes through.

A module keeps them in `_hooks`, in the order they were added; a compiled function is compiled again
when that changes. Names and call signatures are PyTorch's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from deepseek.errors import ArgumentError

BEFORE, AFTER = "before", "after"
_ids = itertools.count()


class Hook(NamedTuple):
    """When a function is called, and whether it takes the keyword arguments too."""

    when: str
    function: Callable[..., Any]
    with_kwargs: bool
    always: bool


class RemovableHandle:
    """What registering a hook gives back: `remove()` takes the hook away again."""

    def __init__(
        self, hooks: dict[int, Hook], changed: Callable[[], None], hook: Hook, first: bool
    ) -> None:
        self.id = next(_ids)
        self._hooks = hooks
        self._changed = changed
        rest = dict(hooks) if first else {}
        if first:
            hooks.clear()
        hooks[self.id] = hook
        hooks.update(rest)
        changed()

    def remove(self) -> None:
        """Take the hook away; a second time does nothing."""
        if self._hooks.pop(self.id, None) is not None:
            self._changed()

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()


def call_with_hooks(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """module.forward(*args, **kwargs) between its hooks."""
    hooks = tuple(module._hooks.values())
    for hook in hooks:
        if hook.when == BEFORE:
            args, kwargs = replaced_arguments(module, hook, args, kwargs)
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
    return result


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
