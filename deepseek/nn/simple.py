"""Modules that are one function with settings: activations, losses, poolings, paddings.

In flows a class that names a function and its settings as annotated attributes; out flows a Module
whose constructor takes them in that order, and whose `forward` passes them on by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, dataclass_transform

from deepseek.errors import unknown
from deepseek.frontend.tensor import Tensor
from deepseek.nn.module import Module
from deepseek.ops.loss import REDUCTIONS

__all__ = ["Function", "Loss"]

# What a repr leaves out while it has this value.
PLAIN = {"inplace": False, "reduction": "mean", "return_indices": False}


@dataclass_transform()
class Function(Module):
    """A module that calls `function` with the inputs and its settings.

    Annotated attributes are the constructor's arguments, with their defaults. Those that hold a
    tensor are buffers. `inplace` is taken for PyTorch's sake: memory is planned by the compiler.
    A repr shows the settings; a `terse` one those that are not at their defaults.
    """

    terse: ClassVar[bool] = False

    function: ClassVar[Callable[..., Any]]
    fields: ClassVar[dict[str, inspect.Parameter]] = {}
    passed: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        own = {}
        for name, annotation in inspect.get_annotations(cls).items():
            if not str(annotation).startswith("ClassVar"):
                default = vars(cls).get(name, inspect.Parameter.empty)
                own[name] = inspect.Parameter(
                    name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default,
                    annotation=annotation,
                )  # fmt: skip
                if name in vars(cls):
                    delattr(cls, name)
        inherited = {n: p for n, p in cls.fields.items() if n not in own}
        cls.fields = own | inherited
        cls.settings = tuple(cls.fields)
        cls.__signature__ = inspect.Signature(list(cls.fields.values()))  # type: ignore[attr-defined]
        if "function" in vars(cls):
            takes = inspect.signature(cls.function).parameters
            cls.passed = tuple(n for n in ("training", *cls.fields) if n in takes)
        super().__init_subclass__(**kwargs)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        try:
            given = inspect.signature(type(self)).bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        given.apply_defaults()
        for name, value in given.arguments.items():
            if "Tensor" in str(self.fields[name].annotation):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)
        self.settle()

    def settle(self) -> None:
        """Work out settings that follow from others, and check them; called once all are set."""

    def forward(self, *inputs: Tensor) -> Any:
        settings = {name: getattr(self, name) for name in self.passed}
        return type(self).function(*inputs, **settings)

    def extra_repr(self) -> str:
        shown = {name: getattr(self, name) for name in self.fields if name not in self._buffers}
        usual = {n: p.default for n, p in self.fields.items()} if self.terse else PLAIN
        return ", ".join(
            f"{name}={value!r}" for name, value in shown.items()
            if name not in usual or value != usual[name]
        )  # fmt: skip


class Loss(Function):
    """A loss of (input, target); `reduction` is "mean", "sum" or "none"."""

    terse = True
    reductions: ClassVar[tuple[str, ...]] = REDUCTIONS
    reduction: str = "mean"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.reduction not in self.reductions:
            raise unknown("reduction", self.reduction, self.reductions)
