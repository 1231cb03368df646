"""Error classes, the one form of their messages, and the user's line they point at.

In flows what went wrong: the op or option, what it got, what it wanted, where, and the remedy.
Out flows an exception whose text says exactly that. A `Line` is cheap to capture while recording
(a code object and an instruction offset) and is turned into `path:line: source` only when shown.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Iterable
from itertools import islice
from types import CodeType
from typing import TypeAlias, TypeVar

__all__ = [
    "ArgumentError", "BackendError", "CompileError", "DTypeError", "DeepseekError",
    "DistributedError", "FormatError", "OutOfMemoryError", "ShapeError", "TraceError",
    "VerifyError",
]  # fmt: skip

Line: TypeAlias = tuple[CodeType, int]
"""Where the user's code stood: its code object and the offset of the instruction in it."""

PACKAGE_DIR = os.path.dirname(os.path.abspath(__file__)) + os.sep
STDLIB_DIR = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
INSTALLED_DIRS = tuple(STDLIB_DIR + name + os.sep for name in ("site-packages", "dist-packages"))


class DeepseekError(Exception):
    """Base of every error that deepseek raises on purpose."""


class ShapeError(DeepseekError, ValueError):
    """Shapes do not fit the op."""


class DTypeError(DeepseekError, TypeError):
    """A dtype, or a Python type, does not fit the op."""


class ArgumentError(DeepseekError, ValueError):
    """An argument, option, name or setting is not one of the valid ones."""


class TraceError(DeepseekError, RuntimeError):
    """A trace met what it cannot keep: a branch on a tensor's value, or a read it cannot see."""


class CompileError(DeepseekError, RuntimeError):
    """A graph or kernel could not be lowered, emitted or compiled."""


class BackendError(DeepseekError, RuntimeError):
    """A backend is missing, unusable on this machine, or failed while running."""


class DistributedError(DeepseekError, RuntimeError):
    """Ranks of a group disagree, one of them is gone or too late, or their transport fails."""


class VerifyError(DeepseekError, RuntimeError):
    """A graph, kernel or program breaks a rule of its form, or a pass changed a result."""


class FormatError(DeepseekError, ValueError):
    """A file or text is damaged, or is not what its name says."""


class OutOfMemoryError(DeepseekError, MemoryError):
    """An allocation was refused; everything is as it was before the call."""


E = TypeVar("E", bound=DeepseekError)


def op_error(
    cls: type[E],
    op: str,
    got: object,
    wanted: object,
    line: Line | None = None,
    remedy: str | None = None,
) -> E:
    """The error for one op: `op 'matmul': got ...; wanted ...`, the user's line, the remedy.

    `got` may be a tuple or list of types, which are joined with "and".
    """
    if isinstance(got, (tuple, list)):
        got = " and ".join(str(item) for item in got) or "nothing"
    text = f"op '{op}': got {got}; wanted {wanted}"
    if line is not None:
        text += f"\n  at {format_line(line)}"
    if remedy is not None:
        text += f"\n  help: {remedy}"
    return cls(text)


def unknown(kind: str, got: object, valid: Iterable[object]) -> ArgumentError:
    """The error for a name that is not known: lists the valid ones and the closest."""
    names = [str(name) for name in valid]
    text = f"unknown {kind} {got!r}; valid: {', '.join(names) if names else '(none)'}"
    close = closest(str(got), names)
    if close is not None:
        text += f"\n  help: did you mean {close!r}?"
    return ArgumentError(text)


def closest(got: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `got` was probably meant to be, if any."""
    import difflib

    by_folded = {name.casefold(): name for name in names}
    matches = difflib.get_close_matches(got.casefold(), by_folded, n=1)
    return by_folded[matches[0]] if matches else None


# Keyed by file name and not by code object: a code object is hashed by its content at each
# lookup, a string once.
_is_internal: dict[str, bool] = {}


def user_line(depth: int = 1) -> Line:
    """The innermost line of the user's code, from `depth` frames above this call outwards.

    Frames of deepseek and of the standard library are skipped. Where all frames are such, the
    outermost one is returned.
    """
    frame = sys._getframe(depth)
    while True:
        code = frame.f_code
        internal = _is_internal.get(code.co_filename)
        if internal is None:
            internal = _is_internal[code.co_filename] = is_internal(code.co_filename)
        outer = frame.f_back if internal else None
        if outer is None:
            return code, frame.f_lasti
        frame = outer


def is_internal(filename: str) -> bool:
    """Whether a code object's file belongs to deepseek or the standard library."""
    if filename.startswith(PACKAGE_DIR) or filename.startswith("<frozen "):
        return True
    return filename.startswith(STDLIB_DIR) and not filename.startswith(INSTALLED_DIRS)


def line_number(line: Line) -> int:
    """The line number in the source file."""
    code, lasti = line
    position = next(islice(code.co_positions(), lasti // 2, None), None)
    if position is None or position[0] is None:
        return code.co_firstlineno
    return position[0]


def format_line(line: Line) -> str:
    """`path:lineno: source text`; the path is relative where it lies under the current folder."""
    filename = line[0].co_filename
    lineno = line_number(line)
    source = linecache.getline(filename, lineno).strip()
    here = os.path.join(os.getcwd(), "")
    place = f"{filename.removeprefix(here)}:{lineno}"
    return f"{place}: {source}" if source else place
