"""Module: what holds parameters, buffers and other modules, and is called like a function.

Attributes that are Parameters, Modules or registered buffers are listed under their names, which
make the keys of `state_dict`. Whatever a compiled function could have relied on (attributes, mode,
parts) bumps `structure.version` when it changes. A parameter or buffer that merely shows another
value does not count: those are read anew at each call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from deepseek.errors import ArgumentError, unknown
from deepseek.frontend.devices import checked_device, moved_in_place
from deepseek.frontend.tensor import Tensor, leaf_like, state
from deepseek.ir.device import Device
from deepseek.ir.dtype import DTYPES, dtype_of
from deepseek.nn.hooks import Hook, Hooked, changed
from deepseek.nn.parameter import Parameter, assign, clear_grad, convert, loaded, retyped

__all__ = ["Module"]


CHILDREN = ("_parameters", "_buffers", "_modules", "_hooks")


class LoadResult(NamedTuple):
    """What `load_state_dict(strict=False)` left aside."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module(Hooked):
    """Base of all layers and models.

    Subclasses call `super().__init__()`, set attributes, and define `forward`.

    >>> class Scale(ds.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.weight = ds.nn.Parameter(ds.ones(3))
    ...     def forward(self, x):
    ...         return self.weight * x
    >>> Scale()(ds.asarray([1.0, 2.0, 3.0])).shape, list(Scale().state_dict())
    ((3,), ['weight'])
    """

    settings: ClassVar[tuple[str, ...]] = ("training",)
    """The attributes that `forward` reads besides parameters, buffers and parts.

    The code inside deepseek is not looked at for what it reads, so its layers have to say so.
    """

    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]
    _hooks: dict[int, Hook]
    _transient: set[str]  # the buffers that state_dict leaves out
    # What a compiled function's guards look at: these attributes, and of our own layers all others;
    # the parts are changed by Module only; every change counts in `structure.version`.
    _ds_children_: ClassVar[tuple[str, ...]] = (*CHILDREN, "training")
    _ds_parts_: ClassVar[tuple[str, ...]] = CHILDREN
    _ds_unread_: ClassVar[tuple[str, ...]] = ("_transient",)
    _ds_versioned_: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        inherited = (name for kind in cls.__mro__ for name in vars(kind).get("settings", ()))
        cls._ds_children_ = (*CHILDREN, *dict.fromkeys(inherited))

    def __init__(self) -> None:
        put = super().__setattr__
        put("_parameters", {})
        put("_buffers", {})
        put("_modules", {})
        put("_hooks", {})
        put("_transient", set())
        put("training", True)
        changed()

    # ------------------------------------------------------------------------------ attributes

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        if "_parameters" not in own:
            raise ArgumentError(
                f"{type(self).__name__}.{name} is set before the module is ready\n"
                f"  help: call super().__init__() first in {type(self).__name__}.__init__"
            )
        if isinstance(value, Parameter):
            self._take(name, self._parameters, value)
        elif isinstance(value, Module):
            self._take(name, self._modules, value)
        elif name in self._parameters:
            self._check_kind(name, value, "a parameter", "nn.Parameter(...)")
            self._parameters[name] = value
        elif name in self._modules:
            self._check_kind(name, value, "a module", "a Module")
            self._modules[name] = value
        elif name in self._buffers:
            self._set_buffer(name, value)
            return
        elif name in own and own[name] is value:
            return
        else:
            super().__setattr__(name, value)
        changed()

    def _take(self, name: str, where: dict[str, Any], value: Any) -> None:
        """Put a parameter or module under a name that nothing else keeps."""
        for other in (self.__dict__, self._parameters, self._buffers, self._modules):
            if other is not where:
                other.pop(name, None)
        self._transient.discard(name)
        where[name] = value

    def _check_kind(self, name: str, value: Any, kind: str, wanted: str) -> None:
        if value is not None:
            raise ArgumentError(
                f"{type(self).__name__}.{name} is {kind}: got a {type(value).__name__}; "
                f"wanted {wanted} or None"
            )

    def _set_buffer(self, name: str, value: Any) -> None:
        if value is not None and not isinstance(value, Tensor):
            self._check_kind(name, value, "a buffer", "a Tensor")
        before = self._buffers[name]
        if state.trace is not None and before is not None and value is not None:
            # A trace sees rebound handles, and it would not see another one in the old one's place.
            retyped(before, value, before.requires_grad)
            return
        self._buffers[name] = value
        changed()

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__
        for kind in ("_parameters", "_buffers", "_modules"):
            held = own.get(kind)
            if held is not None and name in held:
                return held[name]
        raise AttributeError(
            f"{type(self).__name__} has no attribute {name!r}", name=name, obj=self
        )

    def __delattr__(self, name: str) -> None:
        for held in (self._parameters, self._buffers, self._modules):
            if name in held:
                del held[name]
                self._transient.discard(name)
                changed()
                return
        super().__delattr__(name)
        changed()

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._parameters, *self._buffers, *self._modules})

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Add a parameter, or with None a name that holds none."""
        self._check_new(name, self._parameters)
        if parameter is not None and not isinstance(parameter, Parameter):
            self._check_kind(name, parameter, "a parameter", "nn.Parameter(...)")
        self._parameters[name] = parameter
        changed()

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that belongs to the state but is not trained.

        A buffer that is not `persistent` is left out of `state_dict`.
        """
        self._check_new(name, self._buffers)
        if tensor is not None and not isinstance(tensor, Tensor):
            self._check_kind(name, tensor, "a buffer", "a Tensor")
        self._buffers[name] = tensor
        if persistent:
            self._transient.discard(name)
        else:
            self._transient.add(name)
        changed()

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a part under a name."""
        self._check_new(name, self._modules)
        if module is not None and not isinstance(module, Module):
            self._check_kind(name, module, "a module", "a Module")
        self._modules[name] = module
        changed()

    register_module = add_module

    def _check_new(self, name: str, where: dict[str, Any]) -> None:
        if not name or "." in name:
            raise ArgumentError(f"name {name!r}: wanted one that is not empty and has no dot")
        if name not in where and hasattr(self, name):
            raise ArgumentError(f"{type(self).__name__} already has an attribute {name!r}")

    # ------------------------------------------------------------------------------- listing

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all in it, with dotted names; a shared one appears once."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(memo, join(prefix, name), remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all in it."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The parts right under this module, with their names."""
        seen = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """The parts right under this module."""
        return (module for _, module in self.named_children())

    def _listed(
        self, kind: str, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        modules = (
            self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate)
            if recurse
            else [(prefix, self)]
        )
        seen: set[int] = set()
        for path, module in modules:
            for name, tensor in getattr(module, kind).items():
                if tensor is None or id(tensor) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(tensor))
                yield join(path, name), tensor

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """The parameters with dotted names; a shared one appears once."""
        return self._listed("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """The buffers with dotted names; a shared one appears once."""
        return self._listed("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def get_submodule(self, path: str) -> Module:
        """The module with the dotted name `path`. Raises ArgumentError, listing those there are."""
        modules = dict(self.named_modules(remove_duplicate=False))
        if path not in modules:
            raise unknown(f"part of {type(self).__name__}", path, modules)
        return modules[path]

    def set_submodule(self, path: str, module: Module) -> None:
        """Put a module in the place of the one with the dotted name `path`, or at a new name."""
        owner, _, name = path.rpartition(".")
        self.get_submodule(owner).add_module(name, module)

    def get_parameter(self, path: str) -> Parameter:
        """The parameter with the dotted name `path`. Raises ArgumentError, listing those there are.

        >>> ds.nn.Sequential(ds.nn.Linear(2, 3)).get_parameter("0.bias").shape
        (3,)
        """
        found = dict(self.named_parameters(remove_duplicate=False))
        if path not in found:
            raise unknown(f"parameter of {type(self).__name__}", path, found)
        return found[path]

    def get_buffer(self, path: str) -> Tensor:
        """The buffer with the dotted name `path`. Raises ArgumentError, listing those there are."""
        found = dict(self.named_buffers(remove_duplicate=False))
        if path not in found:
            raise unknown(f"buffer of {type(self).__name__}", path, found)
        return found[path]

    # ---------------------------------------------------------------------------------- mode

    def train(self, mode: bool = True) -> Self:
        """Switch this module and all in it to training, or with False to evaluation."""
        for module in self.modules():
            module.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Switch this module and all in it to evaluation."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Say whether gradients of the parameters are wanted."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        changed()
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the parameters' gradients, or make them zeros."""
        for parameter in self.parameters():
            clear_grad(parameter, set_to_none)

    def apply(self, function: Callable[[Module], Any]) -> Self:
        """Call `function` on every module, parts before wholes."""
        for module in self.children():
            module.apply(function)
        function(self)
        return self

    def to(self, *args: Any, dtype: Any = None, device: Any = None) -> Self:
        """Convert float parameters and buffers to a dtype, or move all of them to a device.

        Call it as `to(dtype)`, `to(device)` or `to(device, dtype)`.
        """
        for given in args:
            text = isinstance(given, str) and given not in DTYPES
            if text or isinstance(given, Device) or type(given) is int:
                device = given
            else:
                dtype = given
        place = checked_device(device)
        wanted = None if dtype is None else dtype_of(dtype)
        if wanted is not None and not wanted.is_float:
            raise ArgumentError(f"Module.to: got {wanted}; wanted a float dtype")
        if wanted is not None:
            for tensor in (*self.parameters(), *self.buffers()):
                convert(tensor, wanted)
        if device is not None:
            for tensor in (*self.parameters(), *self.buffers()):
                moved_in_place(tensor, place)
        if wanted is not None or device is not None:
            changed()
        return self

    def cuda(self, device: Any = None) -> Self:
        """Move to a CUDA device, the current one by default."""
        return self.to(device="cuda" if device is None else device)

    def cpu(self) -> Self:
        """Move to the processor's memory."""
        return self.to(device="cpu")

    def float(self) -> Self:
        """Convert to float32."""
        return self.to("float32")

    def double(self) -> Self:
        """Convert to float64."""
        return self.to("float64")

    def half(self) -> Self:
        """Convert to float16."""
        return self.to("float16")

    def bfloat16(self) -> Self:
        """Convert to bfloat16."""
        return self.to("bfloat16")

    # ---------------------------------------------------------------------------------- state

    def _state(self) -> dict[str, Tensor]:
        """The handles that `state_dict` shows, under their keys."""
        return {
            join(path, name): tensor
            for path, module in self.named_modules(remove_duplicate=False)
            for name, tensor in (*module._parameters.items(), *module._buffers.items())
            if tensor is not None and name not in module._transient
        }

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and persistent buffers under their dotted names, as they are now.

        Later updates of the module do not change the tensors in it, and no copy is made.
        """
        return {
            prefix + key: Tensor(leaf_like(tensor._computed(), False))
            for key, tensor in self._state().items()
        }

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor | np.ndarray[Any, Any]], strict: bool = True
    ) -> LoadResult:
        """Take over the values of a `state_dict`; each is converted to the dtype it has here.

        Raises ArgumentError, and changes nothing, where a shape differs and, if `strict`, where
        keys are missing or unexpected.
        """
        for name, module in tuple(self.named_modules()):
            module.take_size_of_state(state_dict, join(name, ""))
        own = self._state()
        missing = [key for key in own if key not in state_dict]
        unexpected = [key for key in state_dict if key not in own]
        problems = []
        if strict and missing:
            problems.append(f"missing: {', '.join(missing)}")
        if strict and unexpected:
            problems.append(f"unexpected: {', '.join(unexpected)}")
        given = {key: state_dict[key] for key in own if key in state_dict}
        for key, tensor in given.items():
            if not isinstance(tensor, (Tensor, np.ndarray, np.generic)):
                problems.append(f"{key}: got a {type(tensor).__name__}; wanted a Tensor")
            elif tuple(tensor.shape) != own[key].shape:
                problems.append(f"{key}: got shape {tuple(tensor.shape)}; wanted {own[key].shape}")
        if problems:
            listed = "\n  ".join(problems)
            raise ArgumentError(
                f"the state does not fit {type(self).__name__}; nothing was loaded\n  {listed}\n"
                "  help: build the model that the state was saved from"
                + (", or pass strict=False to leave keys aside" if missing or unexpected else "")
            )
        values = {key: own[key].dtype for key in given}
        fitting = {key: loaded(given[key], dtype) for key, dtype in values.items()}
        for key, value in fitting.items():
            assign(own[key], value)
        return LoadResult(missing, unexpected)

    def take_size_of_state(self, given: Mapping[str, Any], prefix: str) -> None:
        """What a layer that has no sizes yet does with a state dict; `prefix` is its own there."""

    # ----------------------------------------------------------------------------------- text

    def extra_repr(self) -> str:
        """What `repr` says between the parentheses; layers define it."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        name = type(self).__name__
        if not self._modules:
            return f"{name}({extra})"
        lines = [extra] if extra else []
        for key, module in self._modules.items():
            lines.append(f"({key}): " + repr(module).replace("\n", "\n  "))
        return f"{name}(\n  " + "\n  ".join(lines) + "\n)"


def join(prefix: str, name: str) -> str:
    """The dotted name of a part."""
    return f"{prefix}.{name}" if prefix else name
