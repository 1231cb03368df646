"""Modules made of modules or parameters: one after the other, lists, and dicts."""

from __future__ import annotations

import itertools
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Self, overload

from deepseek.errors import ArgumentError
from deepseek.frontend.tensor import Tensor
from deepseek.nn.module import Module, changed
from deepseek.nn.parameter import Parameter

__all__ = ["ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"]


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

    def _of(self, items: list[tuple[Any, Any]]) -> Self:
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

    def pop(self, index: int = -1) -> Module:
        """Take a part out and give it back."""
        part = self[index]
        del self[index]
        return part

    def __add__(self, others: Iterable[Module]) -> Self:
        return self._of(list(enumerate([*self, *others])))

    def __iadd__(self, others: Iterable[Module]) -> Self:
        return self.extend(others)

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add parts at the end."""
        for module in list(modules):
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

    >>> ds.nn.Sequential(ds.nn.Linear(2, 8), ds.nn.ReLU(), ds.nn.Linear(8, 1))(ds.ones(5, 2)).shape
    (5, 1)
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

    def _of(self, items: list[tuple[Any, Any]]) -> Self:
        return type(self)({str(name): part for name, part in items})

    def __mul__(self, times: int) -> Self:
        if times < 1:
            raise ArgumentError(f"Sequential: got {times} repetitions; wanted 1 or more")
        return self._of(list(enumerate([*self] * times)))

    __rmul__ = __mul__

    def __imul__(self, times: int) -> Self:
        return self.extend((self * times)[len(self) :])

    def forward(self, x: Any) -> Any:
        for module in self:
            x = module(x)
        return x


class ModuleList(_Ordered):
    """A list of modules, whose parameters belong to the module that holds it.

    >>> layers = ds.nn.ModuleList([ds.nn.Linear(2, 2) for _ in range(3)])
    >>> len(layers), list(layers.state_dict())[:2]
    (3, ['0.weight', '0.bias'])
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def _of(self, items: list[tuple[Any, Any]]) -> Self:
        return type(self)(part for _, part in items)

    def __repr__(self) -> str:
        """The parts, with those that follow each other and look the same told once."""
        lines = []
        for text, run in itertools.groupby(self._modules.items(), lambda item: repr(item[1])):
            names = [name for name, _ in run]
            where = f"({names[0]}): "
            if len(names) > 1:
                where = f"({names[0]}-{names[-1]}): {len(names)} x "
            lines.append(where + text.replace("\n", "\n  "))
        return "ModuleList(\n  " + "\n  ".join(lines) + "\n)" if lines else "ModuleList()"


class ModuleDict(Module):
    """Modules by name, in the order they were added; they belong to the module that holds it.

    >>> layers = ds.nn.ModuleDict({"up": ds.nn.Linear(2, 3), "act": ds.nn.ReLU()})
    >>> layers["act"](layers["up"](ds.ones(1, 2))).shape
    (1, 3)
    """

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()) -> None:
        super().__init__()
        self.update(modules)

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add or replace several."""
        for name, module in dict(modules).items():
            self[name] = module

    def __getitem__(self, name: str) -> Module:
        found = self._modules[name]
        assert found is not None
        return found

    def __setitem__(self, name: str, module: Module) -> None:
        self.add_module(name, module)

    def __delitem__(self, name: str) -> None:
        del self._modules[name]
        changed()

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def keys(self) -> KeysView[str]:
        return self._modules.keys()

    def values(self) -> ValuesView[Any]:
        return self._modules.values()

    def items(self) -> ItemsView[str, Any]:
        return self._modules.items()

    def pop(self, name: str) -> Module:
        """Take a module out and give it back."""
        module = self[name]
        del self[name]
        return module

    def clear(self) -> None:
        """Take all out."""
        self._modules.clear()
        changed()


class _Parameters(Module):
    """What holds parameters under names; tensors become parameters."""

    def put(self, name: str, value: Any) -> None:
        if not isinstance(value, Tensor):
            raise ArgumentError(
                f"{type(self).__name__}: got a {type(value).__name__}; wanted a Parameter or a "
                "Tensor to make one of"
            )
        made = value if isinstance(value, Parameter) else Parameter(value)
        self._parameters[name] = made
        changed()

    def part(self, name: str) -> Parameter:
        found = self._parameters[name]
        assert found is not None
        return found

    def __len__(self) -> int:
        return len(self._parameters)

    def extra_repr(self) -> str:
        return ", ".join(f"({k}): {p._value.type}" for k, p in self._parameters.items() if p)


class ParameterList(_Parameters):
    """A list of parameters, which belong to the module that holds it.

    >>> sum(p.shape[0] for p in ds.nn.ParameterList([ds.ones(2), ds.ones(3)]))
    5
    """

    def __init__(self, values: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.extend(values)

    def append(self, value: Tensor) -> Self:
        """Add one at the end."""
        self.put(str(len(self)), value)
        return self

    def extend(self, values: Iterable[Tensor]) -> Self:
        """Add several at the end."""
        for value in list(values):
            self.append(value)
        return self

    def _position(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(f"ParameterList has {len(self)} parameters; got index {index}")
        return str(index % len(self))

    def __iadd__(self, values: Iterable[Tensor]) -> Self:
        return self.extend(values)

    def __getitem__(self, index: int) -> Parameter:
        return self.part(self._position(int(index)))

    def __setitem__(self, index: int, value: Tensor) -> None:
        self.put(self._position(int(index)), value)

    def __iter__(self) -> Iterator[Parameter]:
        return (self.part(name) for name in self._parameters)


class ParameterDict(_Parameters):
    """Parameters by name, which belong to the module that holds it.

    >>> ds.nn.ParameterDict({"scale": ds.ones(3)})["scale"].requires_grad
    True
    """

    def __init__(self, values: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.update(values or {})

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Add or replace several."""
        for name, value in values.items():
            self[name] = value

    def __getitem__(self, name: str) -> Parameter:
        return self.part(name)

    def __setitem__(self, name: str, value: Tensor) -> None:
        if not name or "." in name:
            raise ArgumentError(f"name {name!r}: wanted one that is not empty and has no dot")
        self.put(name, value)

    def __delitem__(self, name: str) -> None:
        del self._parameters[name]
        changed()

    def get(self, name: str, default: Any = None) -> Any:
        """The one of a name, or the default."""
        return self._parameters.get(name, default)

    def setdefault(self, name: str, default: Tensor) -> Parameter:
        """The one of a name, after putting the default there if there is none."""
        if name not in self:
            self[name] = default
        return self[name]

    def pop(self, name: str) -> Parameter:
        """Take one out and give it back."""
        found = self[name]
        del self[name]
        return found

    def popitem(self) -> tuple[str, Parameter]:
        """Take the last one out and give it back with its name."""
        name = next(reversed(self._parameters))
        return name, self.pop(name)

    def clear(self) -> None:
        """Take all out."""
        self._parameters.clear()
        changed()

    def copy(self) -> Self:
        """Another dict of the same parameters."""
        return type(self)({name: self[name] for name in self})

    def __ior__(self, values: Mapping[str, Tensor]) -> Self:
        self.update(values)
        return self

    def __or__(self, values: Mapping[str, Tensor]) -> Self:
        made = self.copy()
        made.update(values)
        return made

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._parameters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __contains__(self, name: object) -> bool:
        return name in self._parameters

    def keys(self) -> KeysView[str]:
        return self._parameters.keys()

    def values(self) -> ValuesView[Any]:
        return self._parameters.values()

    def items(self) -> ItemsView[str, Any]:
        return self._parameters.items()
