"""Every public name says what it is and what a call gives, with an example that runs as it stands.

Entries come from `deepseek.reference`. Numbers are compared as numbers, to the four digits that
examples may be rounded to.
"""

from __future__ import annotations

import ast
import doctest
import inspect
import math
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

import deepseek as ds
from deepseek import reference
from deepseek.errors import ShapeError
from deepseek.reference import Entry

ENTRIES = reference.entries()
KNOWN = reference.by_name(ENTRIES)
WITH_EXAMPLE = [entry for entry in ENTRIES if reference.has_example(entry)]

NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+|inf|nan)(?![\w])")


class Rounded(doctest.OutputChecker):
    """Takes results whose numbers agree with the printed ones to four digits."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        if super().check_output(want, got, optionflags):
            return True
        if optionflags & doctest.ELLIPSIS:
            return False
        return words(want) == words(got) and numbers_agree(numbers(want), numbers(got))


def words(text: str) -> str:
    """All but the numbers and the space between things."""
    return "".join(NUMBER.sub("#", text).split())


def numbers(text: str) -> list[float]:
    return [float(found) for found in NUMBER.findall(text)]


def numbers_agree(wanted: list[float], got: list[float]) -> bool:
    return len(wanted) == len(got) and all(
        math.isclose(a, b, rel_tol=1e-4, abs_tol=6e-5) or a == b or (a != a and b != b)
        for a, b in zip(wanted, got, strict=True)
    )


def failures(entry: Entry) -> str:
    """What goes wrong in the example of an entry: empty if nothing does."""
    parser = doctest.DocTestParser()
    test = parser.get_doctest(entry.doc, {"ds": ds, "np": np}, entry.name, None, 0)
    report: list[str] = []
    doctest.DocTestRunner(checker=Rounded(), verbose=False).run(test, out=report.append)
    return "".join(report)


@pytest.mark.parametrize("entry", WITH_EXAMPLE, ids=lambda entry: entry.name)
def test_examples_run(entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ds.manual_seed(0)
    assert failures(entry) == ""


def undocumented(entries: list[Entry], known: dict[str, Entry]) -> list[str]:
    """What the docstrings leave out."""
    problems = []
    for entry in entries:
        if not entry.doc:
            problems.append(f"{entry.name} has no docstring")
        elif not reference.is_error(entry) and not reference.has_example(entry):
            other = reference.documented_with(entry, known)
            if other is None:
                problems.append(f"{entry.name} has no example and names nobody who has one")
            elif not reference.has_example(other):
                problems.append(f"{entry.name} goes by {other.name}, which has no example")
        problems += [
            f"{entry.name} raises {error} and does not say so"
            for error in sorted(raised(entry))
            if error not in entry.doc
        ]
        if not reference.gives(entry):
            problems.append(f"{entry.name} does not say what it returns")
        problems += [
            f"{entry.name} names {name}, which is no error of ours"
            for name in re.findall(r"\b[A-Z]\w+Error\b", entry.doc)
            if name not in ERRORS
        ]
    return problems


def raised(entry: Entry) -> set[str]:
    """The errors of ours that a function's own body raises."""
    if isinstance(entry.thing, type):
        return set()
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(entry.function)))
    except (OSError, SyntaxError):
        return set()
    raises = [n.exc for n in ast.walk(tree) if isinstance(n, ast.Raise) and n.exc is not None]
    names = {n.id for exc in raises for n in ast.walk(exc) if isinstance(n, ast.Name)}
    return {"ArgumentError" if name == "unknown" else name for name in names} & OURS


OURS = {entry.short for entry in ENTRIES if reference.is_error(entry)}
ERRORS = OURS | {"LinAlgError", "TypeError", "ValueError", "StopIteration"}


def test_every_public_name_is_documented() -> None:
    assert undocumented(ENTRIES, KNOWN) == []


def test_the_walk_finds_what_there_is() -> None:
    """Names of each kind and namespace, and each thing once."""
    wanted = {
        "Tensor", "add", "softmax", "jit", "save", "nn.Linear", "nn.init.zeros_", "optim.Adam",
        "optim.lr_scheduler.StepLR", "amp.autocast", "data.DataLoader", "onnx.export",
        "debug.bisect", "cache.info", "errors.ShapeError", "nn.functional.sigmoid",
    }  # fmt: skip
    namesakes = {name for entry in ENTRIES for name in (entry.name, *entry.others)}
    assert wanted <= namesakes
    assert len({id(entry.function) for entry in ENTRIES}) == len(ENTRIES)
    assert not any(entry.home.startswith("numpy") for entry in ENTRIES)


def bare(x):  # type: ignore[no-untyped-def]  # noqa: ANN001
    pass


def told(x: ds.Tensor) -> ds.Tensor:
    """Twice x. Raises FloodError.

    >>> 1 + 1
    3
    """
    return x


def sent(x: ds.Tensor) -> ds.Tensor:
    """Twice x; see `told`."""
    if x.ndim:
        raise ShapeError("no")
    return x


def test_what_is_left_out_is_found() -> None:
    known = {"bare": Entry("bare", bare), "told": Entry("told", told)}
    problems = undocumented([*known.values(), Entry("sent", sent)], known)
    assert problems == [
        "bare has no docstring",
        "bare does not say what it returns",
        "told names FloodError, which is no error of ours",
        "sent raises ShapeError and does not say so",
    ]
    lost = undocumented([Entry("sent", sent)], {})
    assert lost[0] == "sent has no example and names nobody who has one"


def test_wrong_examples_are_found() -> None:
    assert "Expected:\n    3\nGot:\n    2" in failures(Entry("told", told))


@pytest.mark.parametrize(
    ("want", "got", "same"),
    [
        ("tensor([1., 2.7183])\n", "tensor([1.       , 2.7182817])\n", True),
        ("tensor([1., 2.7183])\n", "tensor([1.       , 2.7193])\n", False),
        ("tensor([0., nan])\n", "tensor([ 0., nan])\n", True),
        ("tensor([0., inf])\n", "tensor([ 0., nan])\n", False),
        ("(2, 3)\n", "(2, 3, 4)\n", False),
        ("int32\n", "int64\n", False),
    ],
)
def test_numbers_are_compared_as_numbers(want: str, got: str, same: bool) -> None:
    assert Rounded().check_output(want, got, 0) is same


def test_signatures_are_as_one_writes_them() -> None:
    assert reference.signature(KNOWN["softmax"]) == "softmax(x: Tensor, dim: int) -> Tensor"
    assert reference.signature(KNOWN["nn.Tanh"]) == "Tanh()"
    for entry in ENTRIES:
        assert reference.signature(entry).startswith(entry.short)
        assert "<" not in re.sub(r"<factory>", "", reference.signature(entry)), entry.name


def test_sources_are_where_they_are_said_to_be() -> None:
    for entry in ENTRIES:
        found = reference.source(entry)
        if found is None:
            continue
        path, line = found
        text = (reference.ROOT / path).read_text().splitlines()[line - 1]
        code = getattr(entry.function, "__code__", None)  # has the name that is written there
        name = entry.function.__name__ if code is None else code.co_name
        assert re.match(rf" *(def|class) {re.escape(name)}\b", text) or "lambda" in text, entry.name
