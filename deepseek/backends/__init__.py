"""Backends: who claims nodes, emits and compiles kernels, and runs them.

A backend is a folder here, or a package elsewhere that registers the entry point
`deepseek.backends`. It is a subclass of `Backend` named by its module as `BACKEND`. Nothing else
in the compiler knows any of them.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek._runtime import Code, CudaCode
from deepseek.config import options
from deepseek.errors import BackendError, unknown
from deepseek.ir.device import Device
from deepseek.ir.graph import Node
from deepseek.ir.scalar import Expr

if TYPE_CHECKING:
    from deepseek.kernel.ir import Kernel
    from deepseek.program.ir import Row
    from deepseek.program.load import Loader
    from deepseek.program.tape import TapeBlock

ENTRY_POINT = "deepseek.backends"


@dataclass(frozen=True)
class Claim:
    """A node (by op name) that a backend runs itself, as an Extern step.

    `check(node)` looks at types and attributes; `run(views, sizes)` gets flat byte views of the
    inputs and then of the outputs, and `sizes` their dims, in order.
    """

    op: str
    check: Callable[[Node], bool]
    run: Callable[[Node], Callable[[list[memoryview], tuple[int, ...]], None]]


class Launchable:
    """A compiled kernel that can be added to a Program. `code` is what its launches run, if that
    is machine code: only then can Programs of it be kept on disk."""

    code: Code | CudaCode | None = None

    def add(
        self,
        block: TapeBlock,
        kernel: Kernel,
        rows: Sequence[Row],
        grain: Expr,
        label: str,
        loader: Loader,
    ) -> None:
        """Append a launch over the rows to a block."""
        raise NotImplementedError


class Backend:
    """The four answers of a backend: what it claims, how it emits, how it compiles, what runs it.
    """

    name = ""
    claims: tuple[Claim, ...] = ()
    interprets = False  # runs graphs as they were recorded, without passes or kernels
    runs = True  # or else compiles only, and results are zeros

    def unusable(self) -> str | None:
        """Why this machine cannot use it, or None."""
        return None

    def target(self) -> str:
        """What we compile for, as text: part of every cache key."""
        return self.name

    def version(self) -> str:
        """What emits and compiles, as text: part of every cache key. The sources in its folder."""
        path = Path(sys.modules[type(self).__module__].__file__ or "")
        return sources_hash(path.parent if path.name == "__init__.py" else path)

    def lanes(self) -> int:
        """How many float32 lanes a vector has: a hint for schedules."""
        return 16

    def emit(self, kernel: Kernel, symbol: str = "kernel") -> str:
        """The kernel as text in the target's language."""
        raise BackendError(f"backend {self.name!r} has no kernel language")

    def compile(self, kernels: Sequence[tuple[str, Kernel]]) -> bytes:
        """One object with a symbol for each kernel; it may be cached on disk."""
        raise BackendError(f"backend {self.name!r} cannot compile kernels")

    def load(self, data: bytes, symbols: Sequence[str]) -> Sequence[Launchable]:
        """The kernels of an object, ready to launch."""
        raise BackendError(f"backend {self.name!r} cannot run kernels")


@functools.cache
def sources_hash(root: Path, parts: tuple[str, ...] = ("",)) -> str:
    """The hash of a Python file, or of those in a folder whose relative path starts as one of
    `parts`."""
    digest = hashlib.sha256()
    pending = [str(root)]
    found: list[str] = []
    while pending:
        path = pending.pop()
        if path.endswith(".py"):
            found.append(path)
        elif os.path.isdir(path) and not path.endswith("__pycache__"):
            pending += [entry.path for entry in os.scandir(path)]
    for path in sorted(found):
        name = os.path.relpath(path, root)
        if name.startswith(parts):
            with open(path, "rb") as file:
                digest.update(hashlib.sha256(name.encode() + b"\0" + file.read()).digest())
    return digest.hexdigest()


@functools.cache
def _own() -> dict[str, Callable[[], Any]]:
    """The backends in our own folders."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.ispkg]
    return {n: functools.partial(importlib.import_module, f"{__name__}.{n}") for n in names}


@functools.cache
def _registered() -> dict[str, Callable[[], Any]]:
    """The backends that other packages register as entry points."""
    from importlib.metadata import entry_points  # slow to import, and seldom needed

    return {entry.name: entry.load for entry in entry_points(group=ENTRY_POINT)}


def names() -> list[str]:
    """The names of all backends that are installed."""
    return list(_registered() | _own())


def refresh() -> None:
    """Look again for backends that other packages register."""
    _registered.cache_clear()
    load.cache_clear()


@functools.cache
def load(name: str) -> Backend:
    """The backend of that name. Raises ArgumentError, listing the names, if there is none."""
    finder = _own().get(name) or _registered().get(name)
    if finder is None:
        raise unknown("backend", name, names())
    loaded = finder()
    backend: Backend = getattr(loaded, "BACKEND", loaded)
    reason = backend.unusable()
    if reason is not None:
        raise BackendError(f"backend {name!r} cannot be used here: {reason}")
    return backend


def backend_of(device: Device | None) -> Backend:
    """Who compiles for a device: what the options say for the processor, else its own backend."""
    return load(options.backend if device is None else device.type)


def available() -> list[tuple[str, bool, str]]:
    """(name, usable, why not) of every backend."""
    out: list[tuple[str, bool, str]] = []
    for name in names():
        try:
            load(name)
            out.append((name, True, ""))
        except Exception as error:  # noqa: BLE001  (a broken plug-in is reported, not raised)
            out.append((name, False, str(error)))
    return out
