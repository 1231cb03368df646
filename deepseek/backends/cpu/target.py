"""What we compile CPU code for: a level, which fixes the vector width and the instructions.

In flow the option `cpu_level` and the host's level; out flows a Target. Code for a level depends on
nothing else of the host, so that one Program on one level gives the same bits on every machine.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from deepseek import _runtime
from deepseek.config import options
from deepseek.errors import BackendError, unknown
from deepseek.ir.dtype import DType


@dataclass(frozen=True)
class Target:
    """One CPU level. `width` is the number of float32 lanes in a vector register."""

    level: str
    width: int
    registers: int
    has_fma: bool
    has_f16c: bool
    cpu: str
    attributes: str

    @property
    def vector_bytes(self) -> int:
        return 4 * self.width

    def lanes(self, dtype: DType) -> int:
        """Lanes of a vector register: at most `width`, fewer for 64-bit floats."""
        return min(self.width, self.vector_bytes // dtype.itemsize)

    def scales(self, dtype: DType, lanes: int) -> bool:
        """Whether multiplying so many lanes by powers of two, in any range, is an instruction."""
        return self.level == "v4" and lanes * dtype.bits in (128, 256, 512)

    def masks_memory(self, dtype: DType) -> bool:
        """Whether masked loads and stores of this type are instructions."""
        if self.level == "v4":
            return True
        return self.level == "v3" and dtype.itemsize >= 4


TARGETS: dict[str, Target] = {
    t.level: t
    for t in (
        Target("v4", 16, 32, True, True, "x86-64-v4", '"prefer-vector-width"="512"'),
        Target("v3", 8, 16, True, True, "x86-64-v3", ""),
        Target("v2", 4, 16, False, False, "x86-64-v2", ""),
    )
}


@functools.cache
def best_level() -> str:
    """The highest level that this machine can run. Asked once: a virtual machine takes 150 µs."""
    level = _runtime.cpu_features()["level"]
    if level not in TARGETS:
        raise BackendError(
            f"the cpu backend needs an x86-64 processor of level v2; this one is {level}\n"
            "  help: use the interpreter with DS_BACKEND=reference"
        )
    return level


def runs_here(target: Target) -> bool:
    """Whether this machine can run the target's code."""
    levels = list(TARGETS)
    return levels.index(best_level()) <= levels.index(target.level)


def target_of(level: str) -> Target:
    """The target of a level, host or no."""
    if level not in TARGETS:
        raise unknown("cpu level", level, TARGETS)
    return TARGETS[level]


def current_target() -> Target:
    """The target that the options and this machine select."""
    if options.cpu_level == "auto":
        return TARGETS[best_level()]
    target = TARGETS[options.cpu_level]
    if not runs_here(target):
        raise BackendError(
            f"DS_CPU_LEVEL={target.level}: this processor has level {best_level()} only\n"
            f"  help: unset DS_CPU_LEVEL, or set it to {best_level()}"
        )
    return target
