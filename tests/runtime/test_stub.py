"""The stub says what the extension module has: names, methods and parameters."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepseek import _runtime

STUB = ast.parse((Path(__file__).parents[2] / "deepseek" / "_runtime.pyi").read_text())


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    yield f"{node.name}.{member.name}", member


def runtime_object(path: str) -> object:
    found: object = _runtime
    for name in path.split("."):
        found = getattr(found, name)
    return found


# Written in C without a signature in its docstring, or given by another slot of the type.
UNSIGNED = {
    "Buffer.__buffer__", "Buffer.__len__", "Dispatcher.__init__", "Dispatcher.__call__",
    "Dispatcher.__get__",
}  # fmt: skip


@pytest.mark.parametrize("path", [p for p, _ in functions(STUB) if p not in UNSIGNED])
def test_parameters_agree(path: str) -> None:
    node = dict(functions(STUB))[path]
    found = runtime_object(path)
    if isinstance(found, property):
        assert any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list)
        return
    signature = (found.__doc__ or "").splitlines()[0]
    names = re.findall(r"(\w+): ", signature)
    expected = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
    if expected[:1] == ["self"]:
        names = ["self", *names[1:]]
    assert names == expected
    assert signature.count(" = ") == len(node.args.defaults)


def test_every_public_name_is_in_the_stub() -> None:
    said = {node.name for node in STUB.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    said |= {n.target.id for n in STUB.body if isinstance(n, ast.AnnAssign)}  # type: ignore[union-attr]
    assert {name for name in dir(_runtime) if not name.startswith("_")} <= said
    for node in STUB.body:
        if isinstance(node, ast.ClassDef) and hasattr(_runtime, node.name):
            members = {m.name for m in node.body if isinstance(m, ast.FunctionDef)}
            members |= {m.target.id for m in node.body if isinstance(m, ast.AnnAssign)}  # type: ignore[union-attr]
            there = {n for n in vars(getattr(_runtime, node.name)) if not n.startswith("_")}
            assert there == {n for n in members if not n.startswith("_")}
