"""What is public and what is said about it: every name of `deepseek`, found by walking `__all__`.

In flow the package's modules and the op records; out flow entries with signature, docstring,
source and the facts that follow from a record. The tests of the docstrings and the pages that
`make docs` writes both go by these entries.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from deepseek.frontend.tensor import Tensor
from deepseek.generate import GROUPS, gradient_of, is_ours, onnx_form
from deepseek.ir.op import REGISTRY, Kind, Op
from deepseek.nn.simple import Function

ROOT = Path(__file__).parents[1]
PACKAGE = "deepseek"

# Modules that a user imports from by name, though no `__all__` has them.
NAMED = ("errors",)

SEE = re.compile(r"\bsee\s+`([\w.]+)`", re.IGNORECASE)

# What all ops of a kind have in common.
SHAPES = {
    Kind.ELEMENTWISE: "Arguments broadcast: ShapeError if they cannot. They promote to one dtype; "
    "Python numbers take the tensors'. DTypeError for other dtypes.",
    Kind.REDUCE: "The result lacks the axes reduced over, or has size 1 there with keepdims. "
    "ShapeError for axes that the tensor does not have.",
}


@dataclass(frozen=True)
class Entry:
    """A public name, what it stands for, and further names of the same thing."""

    name: str  # such as nn.Linear, below the package
    thing: Any
    others: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def namespace(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def function(self) -> Any:
        """The class, or the function below what was wrapped around it."""
        return inspect.unwrap(self.thing)

    @property
    def op(self) -> Op | None:
        """The record of what is an op, or of the op that a function of the same name prepares."""
        thing = self.thing
        while thing is not None and not isinstance(getattr(thing, "op", None), Op):
            thing = getattr(thing, "__wrapped__", None)
        found = REGISTRY.get(self.short) if thing is None else thing.op
        named = found is not None and getattr(found.function, "__module__", "") == self.home
        return found if named and not isinstance(self.thing, type) else None

    @property
    def doc(self) -> str:
        return inspect.cleandoc(self.function.__doc__ or "")

    @property
    def home(self) -> str:
        """The module it is defined in."""
        return self.function.__module__ or PACKAGE


def namespaces() -> Iterator[tuple[str, ModuleType]]:
    """The public modules by their names below the package, the package itself as ""."""
    pending = [("", importlib.import_module(PACKAGE))]
    seen: set[str] = set()
    while pending:
        name, module = pending.pop(0)
        if module.__name__ in seen or module.__name__ == f"{PACKAGE}.ops":
            continue
        seen.add(module.__name__)
        yield name, module
        below = public_names(module) if name else [*public_names(module), *NAMED]
        for inner in below:
            found = getattr(module, inner, None)
            if inner in NAMED and found is None:
                found = importlib.import_module(f"{PACKAGE}.{inner}")
            if isinstance(found, ModuleType):
                pending.append((f"{name}.{inner}".lstrip("."), found))


def public_names(module: ModuleType) -> list[str]:
    """What a module offers: its `__all__`, else the functions and classes it defines itself."""
    named: list[str] | None = getattr(module, "__all__", None)
    if named is not None:
        return sorted(set(named))
    return [
        name for name, thing in vars(module).items()
        if callable(thing) and thing.__module__ == module.__name__ and name[0] != "_"
    ]  # fmt: skip


def entries() -> list[Entry]:
    """Every public callable once, under the best of its names."""
    names: dict[int, list[str]] = {}
    things: dict[int, Any] = {}
    for namespace, module in namespaces():
        for name in public_names(module):
            thing = getattr(module, name)
            if callable(thing) and not isinstance(thing, ModuleType):
                key = id(inspect.unwrap(thing))
                names.setdefault(key, []).append(f"{namespace}.{name}".lstrip("."))
                things.setdefault(key, thing)
    methods: dict[int, list[str]] = {}
    for name, value in vars(Tensor).items():
        if callable(value) and name[:2] != "__":
            methods.setdefault(id(inspect.unwrap(value)), []).append(f"Tensor.{name}")
    found = []
    for key, thing in things.items():
        best, *others = sorted(names[key], key=lambda name: preference(name, thing))
        found.append(Entry(best, thing, (*others, *methods.get(key, ()))))
    return found


def preference(name: str, thing: Any) -> tuple[bool, bool, int, str]:
    """Sorts names: the thing's own first, then of where it is defined, then short ones."""
    namespace, _, short = name.rpartition(".")
    function = inspect.unwrap(thing)
    itself = short == getattr(function, "__name__", short)
    at_home = function.__module__ == f"{PACKAGE}.{namespace}"
    return not itself, not at_home, name.count("."), name


# -------------------------------------------------------------------------------------- docstrings


def has_example(entry: Entry) -> bool:
    return ">>> " in entry.doc


def documented_with(entry: Entry, known: dict[str, Entry]) -> Entry | None:
    """Who has the example of an entry that has none itself.

    This is who its docstring sends to by "see `name`" (of its own namespace, with its full name,
    or a function as `F.name`), and of a module that only calls a function with its settings, that
    function.
    """
    sent = SEE.search(entry.doc)
    if sent is not None:
        name = sent[1].removeprefix("F.")
        below = f"{entry.namespace}.{name}".lstrip(".")
        return known.get(below) or known.get(name) or known.get(f"nn.functional.{name}")
    if isinstance(entry.thing, type) and issubclass(entry.thing, Function):
        function = getattr(entry.thing, "function", None)
        return function and of(function, known)
    return None


def of(function: Callable[..., Any], known: dict[str, Entry]) -> Entry | None:
    """The entry of a function, wrapped or not."""
    bare = inspect.unwrap(function)
    return next((entry for entry in known.values() if entry.function is bare), None)


def by_name(found: list[Entry]) -> dict[str, Entry]:
    return {entry.name: entry for entry in found}


def is_error(entry: Entry) -> bool:
    return isinstance(entry.thing, type) and issubclass(entry.thing, BaseException)


# ------------------------------------------------------------------------------- signature, source


def signature(entry: Entry) -> str:
    """The call as one writes it, with types and defaults: `exp(x: Tensor | float, /) -> Tensor`."""
    if is_error(entry):
        return entry.short
    try:
        found = inspect.signature(entry.thing)
    except ValueError:  # written in C
        return f"{entry.short}(...)"
    if isinstance(entry.thing, type):
        found = found.replace(return_annotation=inspect.Signature.empty)
    # Annotations are text here: without the quotes that `str` puts around it.
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(found))
    return entry.short + text.replace(f"{PACKAGE}.", "ds.")


def gives(entry: Entry) -> str:
    """What a call returns by its annotation; a class returns its instances."""
    if isinstance(entry.thing, type):
        return entry.short
    returned = inspect.signature(entry.thing).return_annotation
    return "" if returned is inspect.Signature.empty else str(returned)


def source(entry: Entry) -> tuple[str, int] | None:
    """The file below the project's root and the line that something is defined at."""
    thing = entry.function
    try:
        lines, start = inspect.findsource(thing)
        path = Path(inspect.getsourcefile(thing) or "")
    except (OSError, TypeError):
        return None
    # Decorators come before the line that is looked for.
    definition = re.compile(r"\s*(def|class) ")
    line = next(i for i in range(start, len(lines)) if definition.match(lines[i]))
    return path.relative_to(ROOT).as_posix(), line + 1


def heading(module: str) -> str:
    """The first sentence of a module's docstring."""
    doc = inspect.cleandoc(importlib.import_module(module).__doc__ or module)
    first = " ".join(doc.split("\n\n")[0].split())
    title = re.split(r"(?<=[\w`)])[.;:]\s", first + " ")[0].strip().rstrip(".")
    return re.sub(r",? as (a )?composites?$", "", title)


# ------------------------------------------------------------------------------------------- facts


def facts(entry: Entry) -> list[tuple[str, str]]:
    """What follows from an op's record, as (what, which) in words."""
    op = entry.op
    if op is None:
        return []
    names = GROUPS.get(op.dtypes) or ", ".join(d.name for d in op.dtypes) or "any"
    found = [
        ("dtypes", names),
        ("gradient", gradient_of(op)),
        ("ONNX", onnx_form(op)),
        ("autocast", AUTOCAST[op.precision]),
    ]
    shapes = SHAPES.get(op.kind)
    return [*found, ("shapes, errors", shapes)] if shapes else found


AUTOCAST = {
    "low": "computes in the 16-bit dtype",
    "high": "computes in float32",
    "promote": "takes its inputs' widest dtype",
}


def op_count() -> int:
    return sum(map(is_ours, REGISTRY.values()))
