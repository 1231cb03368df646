"""Reads: what a code object may read from outside, seen from its bytecode.

In flow the code objects that a trace entered; out flow the names of the globals, attributes and
modules in them, and an error, with the user's line, for what cannot be seen (`eval`, a computed
`getattr`) or would be frozen by the trace (random numbers and clocks of other libraries).
"""

from __future__ import annotations

import builtins
import datetime
import dis
import functools
import os
import sys
import time
import types
from typing import Any

from deepseek.errors import TraceError, is_internal

UNSEEN = ("eval", "exec", "globals", "locals", "vars")
BY_NAME = ("getattr", "hasattr")
BY_TEXT = (*BY_NAME, "attrgetter", "methodcaller")
GLOBAL_LOADS = ("LOAD_GLOBAL", "LOAD_NAME")
ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM")
WRITES = ("STORE_ATTR", "DELETE_ATTR")
CALLS = ("CALL", "CALL_FUNCTION_EX", "CALL_KW")

# What gives another answer each time, so that a trace would keep the first one for ever. Modules go
# by name: one that is not loaded is not read either.
FROZEN_MODULES = ("random", "secrets", "uuid", "numpy.random")
FROZEN_TYPES = (
    ("random", "Random"), ("numpy.random", "Generator"), ("numpy.random", "RandomState"),
)  # fmt: skip
FROZEN_CALLS = (
    time.time, time.time_ns, time.monotonic, time.monotonic_ns, time.perf_counter,
    time.perf_counter_ns, time.process_time, time.process_time_ns, os.urandom, builtins.input,
)  # fmt: skip
FROZEN_METHODS = {
    datetime.datetime: ("now", "today", "utcnow"),
    datetime.date: ("today",),
}
NOTHING = object()


@functools.cache
def instructions(code: types.CodeType) -> tuple[dis.Instruction, ...]:
    """The instructions that do something."""
    quiet = ("CACHE", "PRECALL", "RESUME", "NOP", "EXTENDED_ARG")
    return tuple(i for i in dis.get_instructions(code) if i.opname not in quiet)


@functools.cache
def nested_codes(code: types.CodeType) -> tuple[types.CodeType, ...]:
    """The code object and those of functions defined inside it."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return (code, *[c for const in inner for c in nested_codes(const)])


@functools.cache
def attribute_names(code: types.CodeType) -> frozenset[str]:
    """Attributes that the code reads by name."""
    return frozenset(
        str(i.argval) for i in instructions(code) if i.opname in ATTRIBUTES
    ) | spelt_names(code)


@functools.cache
def spelt_names(code: types.CodeType) -> frozenset[str]:
    """Attributes that may be absent: those asked for by a string, as `getattr(x, "name", None)`."""
    if not any(name in code.co_names for name in BY_TEXT):
        return frozenset()
    texts = [c for c in code.co_consts if isinstance(c, str)]
    return frozenset(part for text in texts for part in text.split(".") if part.isidentifier())


@functools.cache
def written_names(code: types.CodeType) -> frozenset[str]:
    """Attributes that the code assigns or deletes."""
    return frozenset(str(i.argval) for i in instructions(code) if i.opname in WRITES)


@functools.cache
def global_names(code: types.CodeType) -> tuple[str, ...]:
    """Globals that the code names."""
    loads = (*GLOBAL_LOADS, "STORE_GLOBAL", "DELETE_GLOBAL")
    return tuple(dict.fromkeys(i.argval for i in instructions(code) if i.opname in loads))


@functools.cache
def imported_names(code: types.CodeType) -> tuple[str, ...]:
    """Modules that the code imports while it runs."""
    return tuple(i.argval for i in instructions(code) if i.opname == "IMPORT_NAME")


# ------------------------------------------------------------------------------------- refusing


def refuse(code: types.CodeType, namespace: dict[str, Any]) -> None:
    """Raise TraceError where the code reads what cannot be followed or would be frozen."""
    steps = instructions(code)
    imported = local_imports(steps)
    for at, step in enumerate(steps):
        if step.opname == "LOAD_ATTR" and step.argval == "__dict__":
            raise unseen(code, step, "__dict__")
        name = step.argval
        if step.opname.startswith("LOAD_FAST") and name in imported:
            culprit = frozen_source(steps, at, imported[name])
            if culprit is not None:
                raise frozen(culprit, place(code, step))
        if step.opname not in GLOBAL_LOADS:
            continue
        if name not in namespace and hasattr(builtins, name):
            if name in UNSEEN:
                raise unseen(code, step, f"{name}()")
            if name in BY_NAME and not spelt_out(steps, at):
                raise unseen(code, step, f"{name}() with a computed name")
        culprit = frozen_source(steps, at, namespace.get(name, getattr(builtins, name, NOTHING)))
        if culprit is not None:
            raise frozen(culprit, place(code, step))


def local_imports(steps: tuple[dis.Instruction, ...]) -> dict[str, Any]:
    """What a function's own import statements put into its variables."""
    found: dict[str, Any] = {}
    source: Any = None
    names: Any = None
    for before, step, after in zip(steps, steps[1:], steps[2:], strict=False):
        if step.opname == "IMPORT_NAME":
            source, names = sys.modules.get(step.argval), before.argval
            # `import a.b` binds a, `import a.b as c` binds a.b
            plain = names is None and after.opname != "IMPORT_FROM"
            value = sys.modules.get(step.argval.partition(".")[0]) if plain else source
        elif step.opname == "IMPORT_FROM":
            value = source if names is None else getattr(source, step.argval, NOTHING)
        else:
            continue
        if after.opname == "STORE_FAST":
            found[after.argval] = value
    return found


def spelt_out(steps: tuple[dis.Instruction, ...], at: int) -> bool:
    """Whether the getattr loaded at `at` is called at once with a constant string for a name."""
    pushed = {1: steps[at]}  # the instruction that put what lies at each height over the call
    height = 1
    for step in steps[at + 1 :]:
        if step.opname in CALLS and height - int(step.arg or 0) <= 1:
            second = pushed.get(3)
            return second is not None and isinstance(second.argval, str) and (
                second.opname == "LOAD_CONST"
            )
        height += effect(step)
        if height < 1:
            return False
        pushed[height] = step
    return False


def effect(step: dis.Instruction) -> int:
    """How much higher an instruction leaves the stack. Some Pythons split a call in two."""
    if step.opname == "CALL":
        return -1 - int(step.arg or 0)
    return dis.stack_effect(step.opcode, step.arg, jump=False)


def frozen_source(steps: tuple[dis.Instruction, ...], at: int, obj: Any) -> str | None:
    """The name of something that differs each time, if attributes lead there from a global."""
    name = str(steps[at].argval)
    for step in (*steps[at + 1 :], None):
        if is_frozen(obj):
            return name
        if step is None or step.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
            return None
        if isinstance(obj, type) and step.argval in FROZEN_METHODS.get(obj, ()):
            return f"{name}.{step.argval}"
        if not isinstance(obj, types.ModuleType):
            return None
        obj = getattr(obj, step.argval, NOTHING)
        name += f".{step.argval}"
    return None


CONTAINERS = (dict, list, tuple, set)


def is_frozen(obj: Any) -> bool:
    """Whether an object gives another answer each time it is asked."""
    if type(obj) in CONTAINERS:
        return False
    bound = isinstance(obj, (types.BuiltinMethodType, types.MethodType))
    loaded = sys.modules
    frozen_types = [getattr(loaded[m], name) for m, name in FROZEN_TYPES if m in loaded]
    if isinstance(obj.__self__ if bound else obj, tuple(frozen_types)):
        return True
    if bound:
        return obj in FROZEN_CALLS
    modules = [loaded[m] for m in FROZEN_MODULES if m in loaded]
    return any(obj is known for known in (*modules, *FROZEN_CALLS))


def unseen(code: types.CodeType, step: dis.Instruction, what: str) -> TraceError:
    return TraceError(
        f"@ds.jit cannot see what {what} reads, so it could not notice when that changes\n"
        f"  at {place(code, step)}\n"
        "  help: read it before and pass it as an argument, or name the attribute directly"
    )


def frozen(name: str, where: str) -> TraceError:
    return TraceError(
        f"{name} gives another answer at each call, but @ds.jit would keep the first one for ever\n"
        f"  at {where}\n"
        "  help: read it outside and pass the value as an argument; random numbers that are new at "
        "each call come from ds.rand, ds.randn or nn.Dropout"
    )


def place(code: types.CodeType, step: dis.Instruction) -> str:
    line = step.positions.lineno if step.positions else code.co_firstlineno
    return f"{code.co_filename}:{line}, in {code.co_qualname}"


def is_user_code(code: types.CodeType) -> bool:
    """Whether a code object's file is neither ours, nor Python's, nor an installed package's."""
    return is_user_file(code.co_filename)


def is_user_file(name: str) -> bool:
    installed = f"{os.sep}site-packages{os.sep}" in name or f"{os.sep}dist-packages{os.sep}" in name
    return not installed and not is_internal(name)
