"""Which form of an op, and which form of an operator, is valid from which opset: decided here only.

A form is a function with an `operator` and perhaps a `since` (`ops.forms.form`); without one it is
good from the opset that brought its operator. `fitting` gives those an opset has, the newest first.
It serves the records of ops, whose forms write a whole op, and `older.WAYS`, whose forms write one
operator as it was before its signature changed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from deepseek.errors import CompileError

OPSETS = range(13, 27)
"""What can be asked for: from the first opset with axes as inputs to the last in onnxruntime."""


class Unavailable(CompileError):
    """An opset does not have what was to be written; `since` does, if any one does."""

    def __init__(self, what: str, opset: int, since: int | None) -> None:
        brought = "which no opset here has" if since is None else f"which opset {since} brought"
        super().__init__(f"opset {opset} has no {what}, {brought}")
        self.since = since


@functools.cache
def schema(operator: str, opset: int) -> Any:
    """ONNX's own description of an operator as of an opset. Raises Unavailable."""
    import onnx

    try:
        return onnx.defs.get_schema(operator, opset, "")
    except onnx.defs.SchemaError:
        raise Unavailable(operator, opset, first(operator)) from None


@functools.cache
def first(operator: str) -> int | None:
    """The least opset offered here that has an operator, in whichever form."""
    import onnx

    has = onnx.defs.has
    found = [n for n in OPSETS if has(operator, max_inclusive_version=n, domain="")]
    return found[0] if found else None


def since(form: Callable[..., Any] | str) -> int:
    """The opset from which a form is good; of a name, that which has the operator."""
    stated = getattr(form, "since", None)
    if stated is None:
        operator = form if isinstance(form, str) else form.operator  # type: ignore[attr-defined]
        stated = first(operator)
    if stated is None:
        raise CompileError(f"no opset in {OPSETS.start} to {OPSETS.stop - 1} has {form!r}")
    return int(stated)


def forms_of(written: Any) -> tuple[Any, ...]:
    """What a record says under `onnx`, as a tuple of forms: none, one or several."""
    if written is None:
        return ()
    return tuple(written) if isinstance(written, (tuple, list)) else (written,)


def fitting(forms: Iterable[Any], opset: int) -> list[Any]:
    """The forms that an opset has, the newest first."""
    return sorted((f for f in forms if since(f) <= opset), key=since, reverse=True)
