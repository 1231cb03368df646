"""Every public function of the op files, in one flat namespace; a file is loaded when it is needed.

In flows `contents.py`, which says what each file defines; out flow the functions, the registry's
way to a record and Tensor's to a method. What the contents lack is found all the same, by loading
every file, so they decide how long it takes and nothing else.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
from typing import TYPE_CHECKING, Any

from deepseek.frontend.tensor import Tensor
from deepseek.ir.op import REGISTRY
from deepseek.ops import contents
from deepseek.ops.methods import OnDemand
from deepseek.ops.spelling import in_both_spellings

if TYPE_CHECKING:
    from deepseek.ops.contents import *  # noqa: F403


def _by_name(table: str) -> dict[str, str]:
    """By name, the file that defines it."""
    lines = (line.partition(": ") for line in table.split("\n"))
    return {name: file for file, _, names in lines for name in names.split()}


_FUNCTIONS = _by_name(contents.FUNCTIONS)
_RECORDS = _by_name(contents.RECORDS)
_METHODS = _by_name(contents.METHODS)
__all__ = [*_FUNCTIONS]  # noqa: PLE0604


def _load(file: str) -> Any:
    return importlib.import_module(f"{__name__}.{file}")


@functools.cache
def load_all() -> dict[str, Any]:
    """Load every file; returns them by name."""
    return {file.name: _load(file.name) for file in pkgutil.iter_modules(__path__)}


def _load_record(name: str | None) -> None:
    if name is None:
        load_all()
    elif name in _RECORDS:
        _load(_RECORDS[name])


def __getattr__(name: str) -> Any:
    """A public function, from its file."""
    if name in _FUNCTIONS:
        files = [_load(_FUNCTIONS[name])]
    elif name.startswith("_") or importlib.util.find_spec(f"{__name__}.{name}"):
        files = []  # what Python asks a package for, and a file that is about to be imported
    else:
        files = [file for file in load_all().values() if name in getattr(file, "__all__", ())]
    if not files:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    globals()[name] = in_both_spellings(getattr(files[0], name))
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _found_late(self: Tensor, name: str) -> Any:
    """What Tensor has no attribute for: a method that the contents lack, or an error."""
    if not name.startswith("_") and name not in vars(Tensor):  # else the property itself failed
        load_all()
        if name in vars(Tensor):
            return getattr(self, name)
    raise AttributeError(f"'Tensor' object has no attribute {name!r}", name=name, obj=self)


REGISTRY.load = _load_record
Tensor.__getattr__ = _found_late  # type: ignore[attr-defined]
for _name, _file in _METHODS.items():
    setattr(Tensor, _name, OnDemand(_name, functools.partial(_load, _file)))
