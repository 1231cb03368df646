"""Whose a value is: the module that recorded a node, the state-dict key of a captured tensor.

A Module is its own root. A function's modules are those it closes over, calls by a global name or
is a method of; of several the keys begin with the names they have there. While a trace runs, every
module notes when its `forward` begins and ends, in the numbers that recorded nodes count on.
"""

from __future__ import annotations

import bisect
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from deepseek.frontend.tensor import Tensor
from deepseek.ir.graph import Node, sequence
from deepseek.nn.module import Module


def roots(model: Callable[..., Any]) -> dict[str, Module]:
    """The modules that a model is or calls, under the names their keys begin with."""
    if isinstance(model, Module):
        return {"": model}
    while isinstance(model, functools.partial):
        model = model.func
    model = inspect.unwrap(model)
    found: dict[str, Module] = {}
    owner = getattr(model, "__self__", None)
    if isinstance(owner, Module):
        found["self"] = owner
    function = getattr(model, "__func__", model)
    if inspect.isfunction(function):
        variables = inspect.getclosurevars(function)
        for name, value in {**variables.globals, **variables.nonlocals}.items():
            if isinstance(value, Module) and value not in found.values():
                found[name] = value
    return {"": next(iter(found.values()))} if len(found) == 1 else found


def state_keys(modules: dict[str, Module]) -> dict[int, str]:
    """The state-dict key of each parameter and buffer, by identity."""
    keys: dict[int, str] = {}
    for prefix, module in modules.items():
        named: list[tuple[str, Tensor]] = [*module.named_parameters(), *module.named_buffers()]
        for key, tensor in named:
            keys.setdefault(id(tensor), f"{prefix}.{key}" if prefix else key)
    return keys


class Places:
    """From a node's number to the path of the module that recorded it."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.paths: list[str] = []
        self.stack = [""]

    def note(self) -> None:
        self.starts.append(next(sequence))
        self.paths.append(self.stack[-1])

    def of(self, node: Node) -> str:
        """The dotted path of the innermost module at work when a node was recorded."""
        at = bisect.bisect_right(self.starts, node.sequence)
        return self.paths[at - 1] if at else ""

    @contextmanager
    def watching(self, modules: dict[str, Module]) -> Iterator[None]:
        """Note what the modules and their parts record."""
        with ExitStack() as stack:
            for prefix, root in modules.items():
                for path, module in root.named_modules(prefix=prefix):
                    stack.enter_context(self._watched(module, path or type(root).__name__))
            yield

    @contextmanager
    def _watched(self, module: Module, path: str) -> Iterator[None]:
        forward, own = module.forward, module.__dict__

        @functools.wraps(forward)
        def noted(*args: Any, **kwargs: Any) -> Any:
            self.stack.append(path)
            self.note()
            try:
                return forward(*args, **kwargs)
            finally:
                self.stack.pop()
                self.note()

        before = own.get("forward")
        own["forward"] = noted  # past __setattr__: to others the module has not changed
        try:
            yield
        finally:
            del own["forward"]
            if before is not None:
                own["forward"] = before
