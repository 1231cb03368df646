"""Parametrized parameters: a module's parameter computed anew, each time it is read, from others.

In flows a module and the module that computes; the parameter makes room for a property of its name,
and what it is computed from lies under `parametrizations.<name>.original`, with PyTorch's keys.
"""

from __future__ import annotations

from typing import Any, cast

from deepseek.errors import ArgumentError, unknown
from deepseek.frontend.tensor import Tensor, no_grad
from deepseek.nn.container import ModuleDict, ModuleList
from deepseek.nn.module import Module
from deepseek.nn.parameter import Parameter, assign

__all__ = [
    "ParametrizationList", "is_parametrized", "register_parametrization",
    "remove_parametrizations", "type_before_parametrizations",
]  # fmt: skip


class ParametrizationList(ModuleList):
    """What a parameter is computed from, and the modules that compute it, one after the other.

    The first one's `right_inverse`, if it has one, says what to compute a given value from: a
    tensor, `original`, or several, `original0`, `original1`, ...
    See `register_parametrization`.
    """

    settings = ("names",)

    def __init__(self, parametrization: Module, value: Parameter) -> None:
        super().__init__([parametrization])
        made = self.inverted(value)
        self.names = ["original"]
        if len(made) > 1:
            self.names = [f"original{i}" for i in range(len(made))]
        for name, tensor in zip(self.names, made, strict=True):
            self.register_parameter(name, Parameter(tensor, value.requires_grad))

    def inverted(self, value: Tensor) -> tuple[Tensor, ...]:
        """What the value is computed from."""
        with no_grad():
            for module in reversed(list(self)):
                inverse = getattr(module, "right_inverse", None)
                found = value if inverse is None else inverse(value)
                if isinstance(found, (tuple, list)):
                    return tuple(found)
                value = found
        return (value,)

    def originals(self) -> list[Tensor]:
        return [getattr(self, name) for name in self.names]

    def forward(self) -> Tensor:
        first, *others = self
        value = first(*self.originals())
        for module in others:
            value = module(value)
        return cast(Tensor, value)

    def take(self, value: Tensor) -> None:
        """Make the parameter show a value."""
        for original, new in zip(self.originals(), self.inverted(value), strict=True):
            assign(original, new.detach())


def _property(name: str) -> property:
    def read(self: Any) -> Tensor:
        return cast(Tensor, self.parametrizations[name]())

    def write(self: Any, value: Tensor) -> None:
        self.parametrizations[name].take(value)

    return property(read, write, doc=f"The {name}, as its parametrization computes it.")


class Parametrized(Module):
    """The mark of the classes made here."""

    def __setattr__(self, name: str, value: Any) -> None:
        if is_parametrized(self, name):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)


def register_parametrization(module: Module, tensor_name: str, parametrization: Module) -> Module:
    """Let a module's parameter be computed by another module from what it was; returns the module.

    `parametrization(original)` is called each time the parameter is read. A second one is called
    with what the first one gave. Raises ArgumentError for a name that no parameter has.

    >>> class Symmetric(ds.nn.Module):
    ...     def forward(self, x): return (x + x.mT) / 2
    >>> layer = ds.nn.Linear(2, 2)
    >>> layer = ds.nn.utils.parametrize.register_parametrization(layer, "weight", Symmetric())
    >>> bool((layer.weight == layer.weight.mT).all())
    True
    >>> list(layer.state_dict())
    ['bias', 'parametrizations.weight.original']
    """
    if is_parametrized(module, tensor_name):
        given = module.parametrizations[tensor_name]
        given.append(parametrization)
        return module
    value = module._parameters.get(tensor_name)
    if value is None:
        there = [name for name, p in module._parameters.items() if p is not None]
        raise unknown(f"parameter of {type(module).__name__}", tensor_name, there)
    before = type(module)
    base = before if issubclass(before, Parametrized) else None
    mixed = (before,) if base is not None else (Parametrized, before)
    name = before.__name__ if base is not None else f"Parametrized{before.__name__}"
    if base is None:
        module.parametrizations = ModuleDict()
    module.parametrizations[tensor_name] = ParametrizationList(parametrization, value)
    delattr(module, tensor_name)
    module.__class__ = type(name, mixed, {tensor_name: _property(tensor_name)})
    return module


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether a parameter of a module is computed from others; without a name, whether any is.

    >>> ds.nn.utils.parametrize.is_parametrized(ds.nn.Linear(2, 2), "weight")
    False
    """
    made = module._modules.get("parametrizations") if isinstance(module, Parametrized) else None
    if made is None:
        return False
    return tensor_name is None or tensor_name in cast(ModuleDict, made)


def type_before_parametrizations(module: Module) -> type[Module]:
    """The class that a module was made of.

    >>> ds.nn.utils.parametrize.type_before_parametrizations(ds.nn.Tanh()).__name__
    'Tanh'
    """
    for kind in type(module).__mro__:
        if kind is not Parametrized and not issubclass(kind, Parametrized):
            return cast(type[Module], kind)
    raise AssertionError("a Module has a class")


def remove_parametrizations(
    module: Module, tensor_name: str, leave_parametrized: bool = True
) -> Module:
    """Make a parameter one of its own again; returns the module.

    It keeps the value that was computed, or with `leave_parametrized=False` the original one.
    Raises ArgumentError where it is not parametrized, or had several originals and shall keep them.

    >>> parametrize = ds.nn.utils.parametrize
    >>> layer = parametrize.register_parametrization(ds.nn.Linear(2, 2), "weight", ds.nn.Tanh())
    >>> list(parametrize.remove_parametrizations(layer, "weight").state_dict())
    ['bias', 'weight']
    """
    if not is_parametrized(module, tensor_name):
        raise ArgumentError(
            f"remove_parametrizations: {type(module).__name__}.{tensor_name} is not parametrized"
        )
    made = module.parametrizations[tensor_name]
    if not leave_parametrized and len(made.names) > 1:
        raise ArgumentError(
            f"remove_parametrizations: {tensor_name} is computed from {', '.join(made.names)}; "
            "wanted leave_parametrized=True"
        )
    with no_grad():
        value = made() if leave_parametrized else made.original
    wants = any(t.requires_grad for t in made.originals())
    del module.parametrizations[tensor_name]
    left = list(module.parametrizations)
    plain = type_before_parametrizations(module)
    if left:
        members = {name: _property(name) for name in left}
        module.__class__ = type(type(module).__name__, (Parametrized, plain), members)
    else:
        delattr(module, "parametrizations")
        module.__class__ = plain
    module.register_parameter(tensor_name, Parameter(value.detach(), wants))
    return module
