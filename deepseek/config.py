"""Every option and DS_* environment variable, in one table.

In flow the environment, read once at import, and `with override(...)`, which holds for the current
thread. Out flow `options.<name>`: checked, typed and as cheap as an attribute, and the text of
docs/env.md. Paths are text, since importing pathlib takes longer than all of this.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deepseek.errors import ArgumentError, closest, unknown


@dataclass(frozen=True)
class Option:
    """One option. `default` is written as the environment variable would be."""

    name: str
    env: str
    type: Callable[[str], object]
    default: str
    doc: str
    choices: tuple[str, ...] = ()

    def parse(self, text: str, source: str) -> object:
        """The typed value of `text`; `source` names where it came from in the error."""
        text = text.strip()
        if self.choices:
            text = text.casefold()
            if text not in self.choices:
                raise unknown(f"value of {source}", text, self.choices)
        try:
            return self.type(text)
        except ValueError as error:
            raise ArgumentError(f"{source}: got {text!r}; wanted {error}") from None


def flag(text: str) -> bool:
    return text == "1"


def natural(text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text):
        raise ValueError("a whole number, 0 or more")
    return int(text)


def count(text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text) or int(text) == 0:
        raise ValueError("a whole number, 1 or more")
    return int(text)


MAX_THREADS = 1024  # as the runtime has it


def threads(text: str) -> int:
    if text in ("", "auto"):
        return len(os.sched_getaffinity(0))
    if not re.fullmatch(r"[0-9]+", text) or not 1 <= int(text) <= MAX_THREADS:
        raise ValueError(f"auto, or a whole number from 1 to {MAX_THREADS}")
    return int(text)


def fuel(text: str) -> int:
    if not re.fullmatch(r"-1|[0-9]+", text):
        raise ValueError("-1 (no limit), or a whole number of rewrites, 0 or more")
    return int(text)


def size(text: str) -> int:
    """Bytes, with an optional suffix K, M, G or T (powers of 1024)."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([KMGT]?)(?:I?B)?", text.upper())
    if match is None:
        raise ValueError("a number of bytes, with an optional suffix K, M, G or T")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2] or " "))


def backend_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError("the name of a backend, such as cpu, reference or null")
    return text


def library(text: str) -> str:
    if not text:
        raise ValueError("a library's path or name")
    return text


def folder(text: str) -> str | None:
    return os.path.abspath(os.path.expanduser(text)) if text else None


def cache_path(text: str) -> str:
    home = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG rules say that a relative path is to be ignored.
    base = home if os.path.isabs(home) else "~/.cache"
    return os.path.abspath(os.path.expanduser(text or os.path.join(base, "deepseek")))


ON_OFF = ("0", "1")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")

TABLE: tuple[Option, ...] = (
    Option(
        "backend",
        "DS_BACKEND",
        backend_name,
        "cpu",
        "Who compiles and runs graphs: `cpu` (generated machine code), `reference` (the "
        "interpreter, NumPy only), `null` (compiles, runs nothing), or a backend that an "
        "installed package registers by entry point. `deepseek doctor` lists them.",
    ),
    Option(
        "num_threads",
        "DS_NUM_THREADS",
        threads,
        "auto",
        "Threads that a kernel may use. `auto`: as many as the processors this process may run on.",
    ),
    Option(
        "cpu_level",
        "DS_CPU_LEVEL",
        str,
        "auto",
        "Instructions that generated CPU code may use: `v4` (AVX-512), `v3` (AVX2), `v2` "
        "(128 bits, no FMA). `auto`: the best that the host has.",
        ("auto", "v4", "v3", "v2"),
    ),
    Option(
        "cuda_arch",
        "DS_CUDA_ARCH",
        str,
        "auto",
        "Architecture that CUDA code is generated for. `auto`: the device's, or `sm_80`, the "
        "oldest, where there is none.",
        ("auto", "sm_80", "sm_86", "sm_89", "sm_90a"),
    ),
    Option(
        "cuda_home",
        "DS_CUDA_HOME",
        folder,
        "/usr/local/cuda",
        "A folder with a CUDA 13 toolkit, in which NVRTC is looked for after the packages of pip.",
    ),
    Option(
        "log_level",
        "DS_LOG_LEVEL",
        str,
        "warning",
        "What the logger `deepseek` lets through. It goes to standard error, or to the "
        "application's handlers where it has set any.",
        LOG_LEVELS,
    ),
    Option(
        "dump",
        "DS_DUMP",
        folder,
        "",
        "A folder that receives every stage of each compilation as text, numbered, where it "
        "changed. Empty: none.",
    ),
    Option(
        "verify",
        "DS_VERIFY",
        int,
        "0",
        "`1`: run the verifier after each pass. `2`: also interpret the graph before and after "
        "each pass on the first call's inputs and compare.",
        ("0", "1", "2"),
    ),
    Option(
        "eager",
        "DS_EAGER",
        flag,
        "0",
        "`1`: run each op at once, where it is called. For debugging.",
        ON_OFF,
    ),
    Option(
        "cache",
        "DS_CACHE",
        cache_path,
        "",
        "The folder of compiled programs and kernels; only its owner may be able to write to it. "
        "Empty: `deepseek` under `$XDG_CACHE_HOME`, or else under `~/.cache`.",
    ),
    Option(
        "cache_size",
        "DS_CACHE_SIZE",
        size,
        "1G",
        "The size that the cache folder is kept under, in bytes or with a suffix K, M, G or T. "
        "`0`: keep nothing on disk.",
    ),
    Option(
        "seed",
        "DS_SEED",
        flag,
        "1",
        "`1`: programs of single ops that were compiled when deepseek was built are used where the "
        "cache folder has none.",
        ON_OFF,
    ),
    Option(
        "memory_limit",
        "DS_MEMORY_LIMIT",
        size,
        "0",
        "The most of the machine's memory that tensors and arenas may hold, in bytes or with a "
        "suffix K, M, G or T. `0`: no limit but the machine's.",
    ),
    Option(
        "cuda_driver",
        "DS_CUDA_DRIVER",
        str,
        "",
        "The library of the CUDA driver. Empty: the system's `libcuda.so.1`.",
    ),
    Option(
        "cuda_sync",
        "DS_CUDA_SYNC",
        flag,
        "0",
        "`1`: every step on a CUDA device is waited for, so that an error names the step and the "
        "line it comes from. For debugging.",
        ON_OFF,
    ),
    Option(
        "cuda_capture",
        "DS_CUDA_CAPTURE",
        flag,
        "1",
        "`1`: a program that runs again with the same sizes on a CUDA device is captured as a CUDA "
        "graph. `0`: its steps are launched one by one.",
        ON_OFF,
    ),
    Option(
        "flush_nodes",
        "DS_FLUSH_NODES",
        count,
        "10000",
        "A pending graph of so many nodes is run without waiting for a value to be asked for.",
    ),
    Option(
        "fuel",
        "DS_FUEL",
        fuel,
        "-1",
        "How many rewrites the passes may apply before they stop, to find by halving the one that "
        "breaks a result. `-1`: all.",
    ),
    Option(
        "collective_timeout",
        "DS_COLLECTIVE_TIMEOUT",
        count,
        "300",
        "Seconds that a process waits for the others of its group before it raises an error.",
    ),
    Option(
        "nccl",
        "DS_NCCL",
        library,
        "libnccl.so.2",
        "The NCCL library that groups on GPUs use: a path, or a name that the system's loader "
        "finds.",
    ),
    Option(
        "promote",
        "DS_PROMOTE",
        flag,
        "1",
        "`1`: a pending graph that is seen for the third time is compiled as a whole. `0`: never.",
        ON_OFF,
    ),
)

BY_NAME = {option.name: option for option in TABLE}


class Options(threading.local):
    """The options' values, as attributes; a thread sees its own overrides only."""

    backend: str
    num_threads: int
    cpu_level: str
    cuda_arch: str
    cuda_home: str | None
    log_level: str
    dump: str | None
    verify: int
    eager: bool
    cache: str
    cache_size: int
    seed: bool
    memory_limit: int
    cuda_driver: str
    cuda_sync: bool
    cuda_capture: bool
    flush_nodes: int
    fuel: int
    collective_timeout: int
    nccl: str
    promote: bool

    def __init__(self) -> None:
        # Runs once in each thread that looks at an option.
        vars(self).update(from_environment())

    def __setattr__(self, name: str, value: object) -> None:
        raise ArgumentError(
            f"options are not assigned to; got {name} = {value!r}\n"
            f"  help: write `with config.override({name}=...)`, or set "
            f"{BY_NAME[name].env if name in BY_NAME else 'a DS_* variable'}"
        )

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in BY_NAME)
        return f"Options({values})"


@functools.cache
def from_environment() -> dict[str, object]:
    """The value of each option as the environment has it now.

    Raises ArgumentError where one is not valid; but for `deepseek doctor`, which has to start in
    order to say so: there the option has its default.
    """
    values = {}
    for option in TABLE:
        try:
            values[option.name] = option.parse(value_of(option), option.env)
        except ArgumentError:
            if not is_doctor():
                raise
            values[option.name] = option.parse(option.default, option.env)
    return values


def value_of(option: Option) -> str:
    return os.environ.get(option.env, option.default)


def is_doctor() -> bool:
    """Whether this process was started as `deepseek doctor`, or `python -m deepseek doctor`."""
    started = sys.orig_argv[-2:]
    return [os.path.basename(name) for name in started] == ["deepseek", "doctor"]


def invalid() -> dict[str, str]:
    """What is wrong with the environment: by variable, in words."""
    found = {}
    for option in TABLE:
        try:
            option.parse(value_of(option), option.env)
        except ArgumentError as error:
            found[option.env] = str(error)
    for name, meant in misspelt().items():
        found[name] = f"not known; did you mean {meant}?"
    return found


options = Options()


def reload() -> None:
    """Reads the environment again, for this thread and for threads that have read no option yet."""
    from_environment.cache_clear()
    enter(from_environment())


@contextmanager
def override(**values: object) -> Iterator[Options]:
    """Gives options other values within the block, in this thread.

    A value is written as in Python (`verify=1, eager=True, dump=path`) or as the environment
    variable would be (`memory_limit="2G"`); None means the default.
    """
    parsed = {}
    for name, value in values.items():
        if name not in BY_NAME:
            raise unknown("option", name, BY_NAME)
        option = BY_NAME[name]
        parsed[name] = option.parse(as_text(option, value), f"option {name} ({option.env})")
    before = {name: getattr(options, name) for name in parsed}
    enter(parsed)
    try:
        yield options
    finally:
        enter(before)


def enter(values: dict[str, object]) -> None:
    vars(options).update(values)
    for name, value in values.items():
        if name in handed_on:
            handed_on[name](value)


def as_text(option: Option, value: object) -> str:
    if value is None:
        return option.default
    if isinstance(value, bool):
        return "1" if value else "0"
    return str(value)


handed_on: dict[str, Callable[[Any], object]] = {}
"""Options that somebody else keeps for us, for all threads: how they are told."""


def variable(name: str) -> str:
    """A variable that is no option, such as a launcher's RANK, as it is now; "" where it is not."""
    return os.environ.get(name, "")


@contextmanager
def variables(values: dict[str, str]) -> Iterator[None]:
    """The environment with these variables: what processes see that are started meanwhile."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def misspelt() -> dict[str, str]:
    """DS_* variables that look like ours and are not. (Other software uses the prefix too.)"""
    known = {option.env for option in TABLE}
    found = {}
    for name in sorted(os.environ):
        meant = closest(name, known) if name.startswith("DS_") and name not in known else None
        if meant is not None and abs(len(meant) - len(name)) <= 2:
            found[name] = meant
    return found


def markdown() -> str:
    """The text of docs/env.md."""
    lines = [
        "# Options and environment variables",
        "",
        "Generated from `deepseek/config.py` by `make generated`. The environment is read once, "
        "when deepseek is imported.",
        "In a program, `with deepseek.config.override(verify=1): ...` holds for one thread.",
        "",
        "| variable | option | values | default | what it does |",
        "|---|---|---|---|---|",
    ]
    for option in TABLE:
        values = ", ".join(f"`{choice}`" for choice in option.choices) or VALUES[option.type]
        default = f"`{option.default}`" if option.default else "empty"
        lines.append(f"| `{option.env}` | `{option.name}` | {values} | {default} | {option.doc} |")
    return "\n".join(lines) + "\n"


VALUES: dict[Callable[[str], object], str] = {
    backend_name: "a name",
    threads: "`auto`, 1 to 1024",
    folder: "a folder",
    library: "a path or name",
    cache_path: "a folder",
    str: "a path",
    size: "bytes, or `512M`, `2G`",
    count: "1 or more",
    fuel: "-1 or more",
}
