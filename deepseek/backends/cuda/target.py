"""What we compile CUDA code for: an architecture, and how much memory its blocks have.

In flow the option `cuda_arch`; out flows a Target. Code for an architecture depends on nothing else
of the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepseek.config import options
from deepseek.errors import unknown


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
    """What `DS_CUDA_ARCH` says; `auto` is the oldest architecture that there is code for."""
    return target_of(OLDEST if options.cuda_arch == "auto" else options.cuda_arch)
