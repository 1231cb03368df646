"""What we compile CUDA code for: an architecture, and how much memory its blocks have.

In flow the option `cuda_arch` and what devices there are; out flows a Target. Code for an
architecture depends on nothing else of the machine.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from deepseek import _runtime
from deepseek.config import options
from deepseek.errors import BackendError, unknown
from deepseek.frontend.devices import why_unavailable


@dataclass(frozen=True)
class Target:
    """One architecture. `shared_bytes` is the most shared memory that a block may ask for."""

    arch: str
    shared_bytes: int


TARGETS: dict[str, Target] = {
    t.arch: t
    for t in (
        Target("sm_80", 163 << 10),
        Target("sm_86", 99 << 10),
        Target("sm_89", 99 << 10),
        Target("sm_90a", 227 << 10),
    )
}
OLDEST = "sm_80"


def target_of(arch: str) -> Target:
    """The target of a name. Raises ArgumentError, listing the names, for an unknown one."""
    if arch not in TARGETS:
        raise unknown("CUDA architecture", arch, TARGETS)
    return TARGETS[arch]


def current_target() -> Target:
    """What `DS_CUDA_ARCH` says; for `auto` the first device's, or the oldest where there is none.

    Raises BackendError for a device that none of our architectures runs on.
    """
    if options.cuda_arch != "auto":
        return target_of(options.cuda_arch)
    return TARGETS[OLDEST] if why_unavailable() else target_of(of_device(0))


@functools.cache
def of_device(number: int) -> str:
    """The latest architecture that a device runs: of its own generation, and no younger."""
    found = _runtime.cuda_properties(number)
    mine = found["major"] * 10 + found["minor"]
    able = [arch for arch in TARGETS if mine - mine % 10 <= capability(arch) <= mine]
    if not able:
        raise BackendError(
            f"device {found['name']!r} has compute capability {mine // 10}.{mine % 10}; wanted "
            f"8.0 to 8.9, or 9.0\n  help: run on the CPU, with device='cpu'"
        )
    return able[-1]


def capability(arch: str) -> int:
    """The number in the name of an architecture: 90 of `sm_90a`."""
    return int(arch.removeprefix("sm_").removesuffix("a"))
