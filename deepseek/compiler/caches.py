"""Caches and counters: kernels in this process, and what "compiles" means in tests and documents.

`counters.traces` counts functions traced, `programs` graphs compiled, `kernels` kernels compiled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from deepseek.backends import Backend, Launchable
from deepseek.kernel.ir import Kernel


@dataclass
class Counters:
    """How often each kind of work was done in this process."""

    traces: int = 0
    programs: int = 0
    kernels: int = 0


counters = Counters()
_kernels: dict[tuple[str, str], Launchable] = {}


def compiled_kernels(backend: Backend, kernels: Sequence[Kernel]) -> list[Launchable]:
    """The kernels, compiled; those met before are reused, the rest go into one object."""
    target = backend.target()
    keys = [(target, kernel_key(k)) for k in kernels]
    missing = {key: k for key, k in zip(keys, kernels, strict=True) if key not in _kernels}
    if missing:
        named = [(f"k_{key[1][:16]}", k) for key, k in missing.items()]
        data = backend.compile(named)
        loaded = backend.load(data, [symbol for symbol, _ in named])
        _kernels.update(zip(missing, loaded, strict=True))
        counters.kernels += len(missing)
    return [_kernels[key] for key in keys]


def kernel_key(kernel: Kernel) -> str:
    """The hash of a kernel's text (its name and the user's lines apart)."""
    plain = replace(kernel, name="kernel", lines=())
    return hashlib.sha256(repr(plain).encode()).hexdigest()


def clear() -> None:
    """Forget every compiled kernel of this process."""
    _kernels.clear()
