"""What we compile CPU code for: a level, which fixes the vector width and the instructions.

In flow the option `cpu_level` and the host's features; out flows a Target. Code for a level depends on
nothing else of the host, so that one Program on one level gives the same bits on every machine.
"""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass
from pathlib import Path

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
    features: str
    attributes: str
    needs: frozenset[str]

    @property
    def vector_bytes(self) -> int:
        return 4 * self.width

    def lanes(self, dtype: DType) -> int:
        """Lanes of a vector register: at most `width`, fewer for 64-bit floats."""
        return min(self.width, self.vector_bytes // dtype.itemsize)

    def masks_memory(self, dtype: DType) -> bool:
        """Whether masked loads and stores of this type are instructions."""
        if self.level == "v4":
            return True
        return self.level == "v3" and dtype.itemsize >= 4


_V2 = {"sse4_1", "sse4_2", "ssse3", "popcnt", "cx16"}
_V3 = _V2 | {"avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}

TARGETS: dict[str, Target] = {
    t.level: t
    for t in (
        Target("v4", 16, 32, True, True, "x86-64-v4", "", '"prefer-vector-width"="512"',
               frozenset(_V4)),
        Target("v3", 8, 16, True, True, "x86-64-v3", "", "", frozenset(_V3)),
        Target("v2", 4, 16, False, False, "x86-64-v2", "", "", frozenset(_V2)),
    )
}  # fmt: skip


@functools.cache
def host_features() -> frozenset[str]:
    """The processor's feature flags, as Linux names them."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


@functools.cache
def best_level() -> str:
    """The highest level that the host has all instructions of."""
    if platform.machine() not in ("x86_64", "AMD64"):
        raise BackendError(
            f"the cpu backend generates code for x86-64; this machine is {platform.machine()}\n"
            "  help: use the interpreter with DS_BACKEND=reference"
        )
    have = host_features()
    for level, target in TARGETS.items():
        if target.needs <= have:
            return level
    missing = sorted(TARGETS["v2"].needs - have)
    raise BackendError(
        f"the cpu backend needs x86-64-v2; this processor lacks {', '.join(missing)}\n"
        "  help: use the interpreter with DS_BACKEND=reference"
    )


def runs_here(target: Target) -> bool:
    """Whether the host can run the target's code."""
    return target.needs <= host_features()


def target_of(level: str) -> Target:
    """The target of a level, host or no."""
    if level not in TARGETS:
        raise unknown("cpu level", level, TARGETS)
    return TARGETS[level]


def current_target() -> Target:
    """The target that the options and the host select."""
    if options.cpu_level == "auto":
        return TARGETS[best_level()]
    target = TARGETS[options.cpu_level]
    if not runs_here(target):
        missing = sorted(target.needs - host_features())
        raise BackendError(
            f"DS_CPU_LEVEL={target.level}: this processor lacks {', '.join(missing)}\n"
            f"  help: unset it (this processor's level is {best_level()})"
        )
    return target
