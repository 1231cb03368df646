"""Modules made of modules: one after the other, or a list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Self, overload

from deepseek.errors import ArgumentError
from deepseek.nn.module import Module

__all__ = ["ModuleList", "Sequential"]


class _Ordered(Module):
    """Parts under the names 0, 1, 2, ... (or names of their own), in order."""

    def _position(self, index: int) -> str:
        names = list(self._modules)
        position = int(index)
        if not -len(names) <= position < len(names):
            raise IndexError(f"{type(self).__name__} has {len(names)} parts; got index {index}")
        return names[position]

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Module | Self:
        if isinstance(index, slice):
            return self._of(list(self._modules.items())[index])
        return self._part(self._position(index))

    def _part(self, name: str) -> Module:
        part = self._modules[name]
        assert part is not None
        return part

    def _of(self, items: list[tuple[str, Any]]) -> Self:
        """Another of the same kind with the given parts."""
        raise NotImplementedError

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._position(index), module)

    def __delitem__(self, index: int | slice) -> None:
        names = list(self._modules)
        chosen = names[index] if isinstance(index, slice) else [self._position(index)]
        for name in chosen:
            delattr(self, name)
        self._renumber()

    def _renumber(self) -> None:
        parts = list(self._modules.items())
        if all(name.isdecimal() for name, _ in parts):
            for name, _ in parts:
                delattr(self, name)
            for i, (_, part) in enumerate(parts):
                self.add_module(str(i), part)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return (self._part(name) for name in self._modules)

    def append(self, module: Module) -> Self:
        """Add a part at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add parts at the end."""
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Add a part before the one at `index`."""
        parts = list(self)
        parts.insert(index, module)
        for name in list(self._modules):
            delattr(self, name)
        return self.extend(parts)


class Sequential(_Ordered):
    """Calls its parts one after the other, each with what the one before gave.

    Takes modules, or one dict from names to modules.
    """

    def __init__(self, *modules: Module | dict[str, Module]) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], dict):
            for name, module in modules[0].items():
                self.add_module(name, module)
            return
        for i, part in enumerate(modules):
            if not isinstance(part, Module):
                raise ArgumentError(
                    f"Sequential: got a {type(part).__name__}; wanted modules, or a dict of them\n"
                    "  help: a function has a module of the same name, e.g. nn.ReLU() for relu"
                )
            self.add_module(str(i), part)

    def _of(self, items: list[tuple[str, Any]]) -> Self:
        return type(self)(dict(items))

    def forward(self, x: Any) -> Any:
        for module in self:
            x = module(x)
        return x


class ModuleList(_Ordered):
    """A list of modules, whose parameters belong to the module that holds it."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def _of(self, items: list[tuple[str, Any]]) -> Self:
        return type(self)(part for _, part in items)
