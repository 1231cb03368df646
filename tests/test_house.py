"""The rules of the house, read from the sources; docs/architecture.md says why they are so.

Each rule is a function from a package's modules to a list of problems. It is held against
deepseek, where the list has to be empty, and against a small package that breaks it.
Most rules read the sources without importing deepseek, so that they work while that is broken.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parents[1] / "deepseek"

# A file imports only from lines above its own, and within a line from names further left. In a line
# that starts with a folder the names are the folder's modules, `*` stands for those not named, and
# `__init__` comes last unless it is named.
TREE = """
errors late config logs
_runtime
ir/ recent dtype expr integer scalar shape op graph text verify rewrite interpret access
frontend/ tensor gradient_hooks precision number guards reads explore tracer
ops/ spelling methods define forms forms_nn forms_math forms_flow
ops/ elementwise transcendental reductions view index
ops/ contract create random activation nn bodies control * __init__
repetition autograd recompute
passes/ expand simplify fold_conv_bn layout prepare order cost grouping fuse * __init__
kernel/ ir rewrite text_parse text verify interpret polyfill* evaluate loops
kernel/ problem register_tile schedule * lower tune
program/ ir text verify interpret tape load * build plan_memory prepare save
backends/ __init__ *
compiler/ pack store caches compile tiers tree entry function *
distributed linalg unpickle torch_file serialize cache memory nn optim amp data state checkpoints
models onnx quantization cuda profiler debug
feature generate reference highlight webstyle website
__init__ seed cli __main__
"""

# Slow to import or optional: loaded inside the function that needs them.
LAZY = {
    "cupy",
    "difflib",
    "importlib.metadata",
    "llvmlite",
    "markdown",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "safetensors",
    "sklearn",
    "tqdm",
}

# Where modules are found by a name that is known only at run time: backends and entry points, and
# the parts of the package that not every program needs, and public modules by their `__all__`.
FINDS_MODULES = {
    "deepseek", "deepseek.backends", "deepseek.late", "deepseek.ops", "deepseek.reference",
}  # fmt: skip

# Folders that decide by kind, trait and type. Rewrite rules and claims may name ops.
NAMELESS = ("passes", "kernel", "program", "backends", "compiler")
RULES_AND_CLAIMS = {
    "passes/simplify.py",
    "passes/fold_conv_bn.py",
    "backends/cpu/claims.py",
    "backends/cuda/claims.py",
}

# Modules of inner layers that may share the name of a public callable all the same.
SHARED_NAMES = {"deepseek.program.save", "deepseek.program.load", "deepseek.frontend.tensor"}

MAX_LINES = 500


class House:
    """The parsed modules of a package called deepseek."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.modules: dict[str, ast.Module] = {}
        self.paths: dict[str, Path] = {}
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if parts[-1] == "__init__" and len(parts) > 1:
                parts = parts[:-1]
            name = "deepseek" if parts == ("__init__",) else ".".join(("deepseek", *parts))
            self.modules[name] = ast.parse(path.read_text(), str(path))
            self.paths[name] = path

    def where(self, name: str, node: ast.AST) -> str:
        return f"{self.paths[name].relative_to(self.root)}:{getattr(node, 'lineno', 1)}"

    def imports(self, name: str) -> Iterator[tuple[ast.AST, str]]:
        """Every deepseek module that a module imports, wherever in it the import stands."""
        for node in ast.walk(self.modules[name]):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] == "deepseek":
                        yield node, alias.name
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                package = node.module or ""
                for alias in node.names if package.split(".")[0] == "deepseek" else ():
                    inner = f"{package}.{alias.name}"
                    is_module = inner in self.modules or inner == "deepseek._runtime"
                    yield node, inner if is_module else package
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "late":
                (module,) = node.args
                assert isinstance(module, ast.Constant), "its name is written out"
                yield node, module.value


def parse_tree() -> dict[str, tuple[int, int]]:
    """The place of every name in TREE: (line, position)."""
    places = {}
    for line, text in enumerate(TREE.strip().splitlines()):
        first, *rest = text.split()
        names = [first + name for name in rest] if first.endswith("/") else [first, *rest]
        for position, name in enumerate(names):
            places[name] = (line, position)
        if first.endswith("/"):
            places.setdefault(first + "__init__", (line, len(names)))
    return places


PLACES = parse_tree()


def place(module: str) -> tuple[int, int] | None:
    """The place of a module in TREE, None where it has none."""
    parts = module.split(".")[1:]
    if not parts:
        return PLACES["__init__"]
    if parts[0] in PLACES:
        return PLACES[parts[0]]
    name = parts[1] if len(parts) > 1 else "__init__"
    return PLACES.get(f"{parts[0]}/{name}", PLACES.get(f"{parts[0]}/*"))


def import_problems(house: House) -> list[str]:
    """Imports that go up or to the right, that are relative, and modules that have no place."""
    problems = []
    for name, tree in house.modules.items():
        here = place(name)
        if here is None:
            problems.append(f"{house.where(name, tree)} has no place in TREE")
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level > 0:
                problems.append(f"{house.where(name, node)} has a relative import")
        for node, target in house.imports(name):
            there = place(target)
            if there is None:
                problems.append(f"{house.where(name, node)} imports {target}, not in TREE")
            elif there > here:
                problems.append(f"{house.where(name, node)} imports {target}, which comes after it")
    return problems


def cycle_problems(house: House) -> list[str]:
    """Import cycles, which the order leaves possible among the modules of one `*`."""
    done: set[str] = set()
    problems = []

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            problems.append(" imports ".join([*path[path.index(name) :], name]))
        elif name not in done and name in house.modules:
            for _, target in house.imports(name):
                visit(target, [*path, name])
            done.add(name)

    for name in house.modules:
        visit(name, [])
    return problems


def hidden_import_problems(house: House) -> list[str]:
    """Imports inside functions, save the lazy third parties, and imports by computed name."""
    problems = []
    for name, tree in house.modules.items():
        functions = [
            node
            for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        ]
        inner = {id(node): node for f in functions for node in ast.walk(f)}
        for node in inner.values():
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                targets = [node.module or "."]
            else:
                continue
            for target in targets:
                if target not in LAZY and target.split(".")[0] not in LAZY:
                    problems.append(f"{house.where(name, node)} hides the import of {target}")
        for node in ast.walk(tree):
            called = node.func if isinstance(node, ast.Call) else None
            called_name = getattr(called, "attr", getattr(called, "id", ""))
            if called_name in ("import_module", "__import__") and name not in FINDS_MODULES:
                problems.append(f"{house.where(name, node)} imports by computed name")
    return problems


def name_problems(house: House, public: set[str]) -> list[str]:
    """Modules that are called like something public that one can call."""
    return [
        f"{name} is named like the public {name.split('.')[-1]}()"
        for name in house.modules
        if name.split(".")[-1] in public and name not in SHARED_NAMES
    ]


def op_name_problems(house: House, ops: set[str]) -> list[str]:
    """Op names written as strings where kinds, traits and types should decide."""
    problems = []
    for name, tree in house.modules.items():
        path = house.paths[name].relative_to(house.root).as_posix()
        if path.split("/")[0] not in NAMELESS or path in RULES_AND_CLAIMS:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node.value in ops:
                problems.append(f"{house.where(name, node)} names the op {node.value!r}")
    return problems


def form_problems(house: House) -> list[str]:
    """Modules that do not say what they are, or say too much."""
    problems = []
    for name, tree in house.modules.items():
        length = len(house.paths[name].read_text().splitlines())
        if tree.body and ast.get_docstring(tree) is None:
            problems.append(f"{house.where(name, tree)} does not open with a docstring")
        if length > MAX_LINES:
            problems.append(f"{house.where(name, tree)} has {length} lines, more than {MAX_LINES}")
    return problems


def public_callables() -> set[str]:
    """What a user can call as `ds.name` or `ds.package.name`."""
    deepseek = importlib.import_module("deepseek")
    namespaces = [deepseek, *(m for m in vars(deepseek).values() if is_public_module(m))]
    return {
        name
        for namespace in namespaces
        for name in getattr(namespace, "__all__", ())
        if callable(getattr(namespace, name))
    }


def is_public_module(value: object) -> bool:
    return getattr(value, "__name__", "").startswith("deepseek.") and hasattr(value, "__path__")


def op_names() -> set[str]:
    """The names of ops, but for those that kernels and programs have for things of their own.

    These are scalar functions and leaves, the runtime's routines, and its operators on sizes.
    """
    importlib.import_module("deepseek")
    registry = importlib.import_module("deepseek.ops.define").REGISTRY
    scalar = importlib.import_module("deepseek.ir.expr")
    routines = importlib.import_module("deepseek._runtime").extern_routines()
    assert registry, "import deepseek registers the ops"
    own = {"barrier", "fold", "min", "max"}
    return set(registry) - {*scalar.FUNCTIONS, *scalar.LEAVES, *routines, *own}


@pytest.fixture(scope="module")
def house() -> House:
    return House(PACKAGE)


def test_imports_go_one_way(house: House) -> None:
    assert import_problems(house) == []


def test_imports_have_no_cycle(house: House) -> None:
    assert cycle_problems(house) == []


def test_no_import_is_hidden(house: House) -> None:
    assert hidden_import_problems(house) == []


def test_no_module_is_named_like_a_public_callable(house: House) -> None:
    assert name_problems(house, public_callables()) == []


def test_op_names_stand_in_rules_and_claims_only(house: House) -> None:
    assert op_name_problems(house, op_names()) == []


def record_problems(registry: dict[str, Any]) -> list[str]:
    """Records that leave something unsaid."""
    problems = []
    for name, op in registry.items():
        kind = op.kind.name
        said = {
            "a type rule": op.infer is not None,
            "its meaning": op.meaning or op.expand or op.routine or kind in ("HOST", "RANDOM"),
            "one meaning only": not (op.meaning and op.expand),
            "a reference": op.reference or kind == "CONTROL",
            "dtypes": op.dtypes or kind == "CONTROL",
            "samples": op.samples and list(op.samples()),
            "a precision class": op.precision in ("low", "high", "promote"),
            "a tolerance": op.tolerance > 0,
            "a gradient, or that there is none": op.vjp or op.expand or not op.differentiable,
            "what it does": op.doc.strip().endswith((".", ">", "]", ")", "`")) or "\n" in op.doc,
            "a function": op.function is not None,
        }
        problems += [f"op {name!r} lacks {what}" for what, there in said.items() if not there]
    return problems


def test_every_op_record_is_complete() -> None:
    registry = importlib.import_module("deepseek.ops.define").REGISTRY
    assert record_problems(registry) == []


def test_record_problems_are_found() -> None:
    op = importlib.import_module("deepseek.ir.op")
    bare = op.Op("bare", op.Kind.ELEMENTWISE, lambda x: (x,), precision="low-ish")
    problems = " ".join(record_problems({"bare": bare}))
    for what in ("meaning", "reference", "dtypes", "samples", "precision", "gradient", "function"):
        assert what in problems


def test_modules_say_what_they_are(house: House) -> None:
    assert form_problems(house) == []


def test_import_leaves_heavy_packages_alone() -> None:
    code = f"import sys, deepseek; print(*[m for m in {sorted(LAZY)} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


BROKEN = {
    "__init__.py": '"""All."""\n',
    "errors.py": '"""Errors."""\nfrom deepseek import config\n',
    "config.py": '"""Options."""\n',
    "stray.py": '"""No place."""\n',
    "ir/__init__.py": "",
    "ir/dtype.py": '"""Types."""\nfrom deepseek.ir.graph import Graph\n',
    "ir/graph.py": "from . import dtype\n" + "x = 1\n" * MAX_LINES,
    "kernel/ir.py": '"""Kernels."""\nif 1:\n    from deepseek.program import save\n',
    "passes/fuse.py": '"""Fuse."""\nfrom deepseek.passes import other\nx = "softmax"\n',
    "passes/other.py": '"""Other."""\nfrom deepseek.passes.fuse import x\n',
    "passes/simplify.py": '"""Rules."""\nx = "softmax"\n',
    "compiler/jit.py": '"""A name taken."""\ndef f():\n    import json, onnx\n',
    "compiler/caches.py": '"""A computed name."""\nimport importlib\n'
    'm = importlib.import_module("x")\nn = lambda: __import__("deepseek")\n',
    "program/save.py": '"""Shared name, as agreed."""\nfrom deepseek import _runtime\n',
    "program/__init__.py": "",
}


@pytest.fixture
def broken(tmp_path: Path) -> House:
    for name, text in BROKEN.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return House(tmp_path)


def test_import_problems_are_found(broken: House) -> None:
    assert import_problems(broken) == [
        "errors.py:2 imports deepseek.config, which comes after it",
        "ir/dtype.py:2 imports deepseek.ir.graph, which comes after it",
        "ir/graph.py:1 has a relative import",
        "kernel/ir.py:3 imports deepseek.program.save, which comes after it",
        "passes/fuse.py:2 imports deepseek.passes.other, which comes after it",
        "stray.py:1 has no place in TREE",
    ]


def test_cycles_are_found(broken: House) -> None:
    assert cycle_problems(broken) == [
        "deepseek.passes.fuse imports deepseek.passes.other imports deepseek.passes.fuse"
    ]


def test_hidden_imports_are_found(broken: House) -> None:
    assert hidden_import_problems(broken) == [
        "compiler/caches.py:3 imports by computed name",
        "compiler/caches.py:4 imports by computed name",
        "compiler/jit.py:3 hides the import of json",
    ]


def test_taken_names_are_found(broken: House) -> None:
    assert name_problems(broken, {"jit", "save"}) == [
        "deepseek.compiler.jit is named like the public jit()"
    ]


def test_op_names_are_found(broken: House) -> None:
    assert op_name_problems(broken, {"softmax"}) == ["passes/fuse.py:3 names the op 'softmax'"]


def test_form_problems_are_found(broken: House) -> None:
    assert form_problems(broken) == [
        "ir/graph.py:1 does not open with a docstring",
        f"ir/graph.py:1 has {MAX_LINES + 1} lines, more than {MAX_LINES}",
    ]
