"""Files that are derived from the op records: `docs/ops.md`, the stub of the Tensor, `contents.py`.

In flow the registry and the attributes that Tensor has while the program runs; out flow the support
matrix as Markdown, `frontend/tensor.pyi`, from which editors and type checkers learn the methods
that ops attach, and `ops/contents.py`, by which an op file is found without loading the others.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from deepseek import ops
from deepseek.frontend import tensor
from deepseek.frontend.tensor import Tensor, no_grad
from deepseek.ir import scalar
from deepseek.ir.dtype import DTYPES, DType, dtype_of
from deepseek.ir.graph import Graph, Node, input_value
from deepseek.ir.op import REGISTRY, Kind, Op
from deepseek.onnx.scalars import since_of
from deepseek.onnx.translate import UNSPEAKABLE
from deepseek.onnx.versions import OPSETS, forms_of, since
from deepseek.ops.define import ALL, BOOLEAN, FLOATS, INTEGERS, NUMERIC, isolated
from deepseek.ops.methods import METHODS

# ----------------------------------------------------------------------------------- docs/ops.md

GROUPS = {
    ALL: "all", NUMERIC: "numbers", FLOATS: "floats", INTEGERS: "integers",
    BOOLEAN + INTEGERS: "integers, bool", BOOLEAN: "bool",
}  # fmt: skip

# How the compiling backends run an op that nobody claims, by its kind.
LOWERED = {
    Kind.COMPOSITE: "expansion", Kind.CONTROL: "blocks", Kind.ORDER: "routine", Kind.HOST: "Python",
    Kind.COLLECTIVE: "transport",
}  # fmt: skip

INTRODUCTION = """\
# Ops

Generated from the op records in `deepseek/ops` by `make generated`. Each op is one record; see
`add-an-op.md`.

- *dtypes*: `floats` are float16, bfloat16, float32 and float64; `integers` are int8 to int64 and
  uint8 to uint64; `numbers` are both; `all` has bool too. Integers become float32 where an op takes
  floats only.
- *gradient*: `rule` is written in the record; `expansion` follows from the ops it is made of. `—`:
  there is none, and why.
- *compiled*: what the `cpu` backend and the `null` backend make of it: part of a `kernel`, an
  `expansion` in other ops, nested `blocks` of the Program, a `routine` of the runtime, or a call
  into `Python`.
- *reference*: what the `reference` backend runs.
- *ONNX*: the operator it is exported as where that means the same, with the first opset that has
  it (13 where none is named); else its `expansion` or its `scalars` are exported. `—`: not
  exported, and why.
"""


def ops_page() -> str:
    """The text of docs/ops.md."""
    lines = [INTRODUCTION]
    head = "| op | kind | dtypes | gradient | compiled | reference | ONNX | what it is |"
    lines += [head, "|---" * (head.count("|") - 1) + "|"]
    for op in sorted(filter(is_ours, REGISTRY.values()), key=lambda op: op.name):
        lines.append(f"| {' | '.join(cells(op))} |")
    return "\n".join(lines) + "\n"


def is_ours(op: Op) -> bool:
    """Whether an op is part of deepseek; others may be registered in the same process."""
    return op.function is not None and (op.function.__module__ or "").startswith("deepseek.")


def cells(op: Op) -> Iterator[str]:
    """One row of the matrix."""
    yield f"`{op.name}`"
    yield op.kind.value
    yield GROUPS.get(op.dtypes) or ", ".join(d.name for d in op.dtypes) or "any"
    yield gradient_of(op)
    yield LOWERED.get(op.kind, "kernel")
    yield "NumPy" if op.reference is not None else "expansion"
    yield onnx_form(op)
    yield summary(op.doc)


def gradient_of(op: Op) -> str:
    """Where an op's gradient comes from, or why there is none."""
    if op.differentiable:
        return "rule" if op.vjp is not None else "expansion"
    made = next(recorded(op), None)  # none where there is nothing to compute
    if made is None or not any(v.type.dtype.is_float for v in made.inputs):
        return "— (takes no floats)"
    if not any(v.type.dtype.is_float for v in made.outputs):
        return "— (gives no floats)"
    return "— (none flows)"


def onnx_form(op: Op) -> str:
    """How an op is written in ONNX: operators with their first opsets, what else, or why not."""
    names: dict[str, int] = {}  # each with the least opset, the newest form first
    for one in sorted(forms_of(op.onnx), key=since, reverse=True):
        names[one if isinstance(one, str) else one.operator] = since(one)
    found = [n if at == OPSETS.start else f"{n} from {at}" for n, at in names.items()]
    why = "" if found else unspeakable(op)
    if why:
        return f"— ({why})"
    if op.expand is not None:
        found.append("expansion")
    elif op.kind is Kind.ELEMENTWISE and op.meaning is not None:
        node = next(recorded(op))
        scalars = [scalar.var(f"x{i}", v.type.dtype) for i, v in enumerate(node.inputs)]
        at = since_of(op.meaning(*scalars, **node.attrs))
        found.append("scalars" if at == OPSETS.start else f"scalars from {at}")
    elif op.kind in (Kind.CREATE, Kind.VIEW, Kind.INDEX):
        found.append("scalars")
    elif op.kind is Kind.SCATTER:
        found.append("ScatterElements")
    needed = found if names.get(found[0]) != OPSETS.start or len(found) == 1 else found[:1]
    return ", else ".join(dict.fromkeys(needed))


def unspeakable(op: Op) -> str:
    """Why ONNX cannot say an op, if it cannot: what it is, or what its expansion comes to."""
    if op.expand is None:
        return UNSPEAKABLE.get(op.kind, "")
    node = next(recorded(op), None)
    if node is None:
        return ""
    inner = op.expand(tuple(v.type for v in node.inputs), node.attrs)
    return next((why for n in inner.nodes if (why := unspeakable(n.op))), "")


def recorded(op: Op) -> Iterator[Node]:
    """An op's node in each of its samples."""
    assert op.samples is not None and op.function is not None
    for sample in op.samples():
        with isolated(), no_grad():
            args = [placeholder(arg, taken_by(op)) for arg in sample.args]
            out = op.function(*args, **sample.kwargs)
        outputs = [t for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, Tensor)]
        yield from (n for n in Graph((), [t._value for t in outputs]).nodes if n.op is op)


def taken_by(op: Op) -> DType:
    """A dtype that an op takes: float32 if it is one."""
    default = DTYPES["float32"]
    return default if default in op.dtypes or not op.dtypes else op.dtypes[0]


def placeholder(arg: Any, dtype: DType) -> Any:
    """A tensor of the sizes that a sample gives, for recording only."""
    if isinstance(arg, list):
        return [placeholder(a, dtype) for a in arg]
    if isinstance(arg, tuple):
        return Tensor(input_value(dtype, arg))
    if isinstance(arg, (np.ndarray, np.generic)):
        return Tensor(input_value(dtype_of(arg.dtype), arg.shape))
    return arg


def summary(doc: str) -> str:
    """The first sentence or line of a docstring, for a table."""
    text = " ".join(inspect.cleandoc(doc).split("\n\n")[0].split())
    return text.replace("|", "\\|")


# ------------------------------------------------------------------------------- ops/contents.py

CONTENTS = '''\
# ruff: noqa: F403
"""What each op file defines: public functions, records, methods of Tensor.

Generated by `make generated`. Lines of a table are `file: names`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
{imports}
'''
TABLE = '\n{title} = """\n{lines}"""\n'


def ops_contents() -> str:
    """The text of ops/contents.py."""
    home = f"{ops.__name__}."
    functions = {file: getattr(m, "__all__", ()) for file, m in ops.load_all().items()}
    records: dict[str, list[str]] = defaultdict(list)
    methods: dict[str, list[str]] = defaultdict(list)
    for name, op in REGISTRY.items():
        records[getattr(op.function, "__module__", "").removeprefix(home)].append(name)
    for name, module in METHODS.items():
        methods[module.removeprefix(home)].append(name)
    files = sorted(file for file, names in functions.items() if names)
    text = CONTENTS.format(imports="\n".join(f"    from {home}{f} import *" for f in files))
    for title, table in ("FUNCTIONS", functions), ("RECORDS", records), ("METHODS", methods):
        text += TABLE.format(title=title, lines="".join(table_lines(table)))
    return text


def table_lines(table: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """`file: names`, on as many lines as it takes."""
    for file, names in sorted(table.items()):
        wrapped = textwrap.wrap(" ".join(sorted(names)), WIDTH - len(file) - 2)
        yield from (f"{file}: {line}\n" for line in wrapped)


# ----------------------------------------------------------------------------- frontend/tensor.pyi

WIDTH = 100
HEADER = '"""Generated by `make generated` from tensor.py and the ops that are its methods."""'

# Types that are methods of Tensor too.
SHADOWED = re.compile(r"(?<![\w.])(bool|float|int)\b")

# A method that Python expects to have another type.
OVERRIDES = {"__eq__", "__ne__"}


def tensor_stub() -> str:
    """The text of frontend/tensor.pyi: tensor.py without bodies, and the attached methods."""
    tree = ast.parse(inspect.getsource(tensor))
    imports: dict[str, Origin] = {"builtins": ("builtins", "")}
    parts: list[str] = []
    for statement in tree.body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            for alias in statement.names:
                imports[alias.asname or alias.name] = import_of(statement, alias)
        elif isinstance(statement, ast.ClassDef) and statement.name == Tensor.__name__:
            parts.append(class_stub(statement) + "\n\n" + attached(statement, imports))
        else:
            parts.append(stub(statement))
    body = "\n".join(part for part in parts if part)
    used = {name.id for name in ast.walk(ast.parse(body)) if isinstance(name, ast.Name)}
    needed = [origin for name, origin in imports.items() if name in used]
    return "\n".join([HEADER, "", *import_lines(needed), "", body, ""])


Origin = tuple[str, str]  # module, and the name in it; "" or "as np" for the module itself


def import_of(statement: ast.Import | ast.ImportFrom, alias: ast.alias) -> Origin:
    """Where an imported name is from."""
    if isinstance(statement, ast.Import):
        return alias.name, f"as {alias.asname}" if alias.asname else ""
    assert statement.module is not None and alias.asname is None
    return statement.module, alias.name


def import_lines(origins: Iterable[Origin]) -> list[str]:
    """Import statements in order: the standard library's, other packages', ours."""
    groups: list[dict[str, set[str]]] = [{}, {}, {}]
    for module, name in origins:
        top = module.partition(".")[0]
        number = 2 if top == "deepseek" else 0 if top in sys.stdlib_module_names else 1
        groups[number].setdefault(module, set()).add(name)
    lines: list[str] = []
    for group in groups:
        whole = [m for m in sorted(group) if not any(n and n[:3] != "as " for n in group[m])]
        lines += [f"import {m} {min(group[m])}".rstrip() for m in whole]
        for module in sorted(set(group) - set(whole)):
            names = ", ".join(sorted(group[module], key=lambda n: (n.islower(), n)))
            lines.append(f"from {module} import {names}")
        lines.append("")
    return lines[:-1]


def stub(statement: ast.stmt) -> str:
    """A top-level statement as stubs have it; nothing for docstrings and code."""
    match statement:
        case ast.FunctionDef():
            return function_stub(statement)
        case ast.ClassDef():
            return class_stub(statement)
        case ast.AnnAssign(target=ast.Name(), annotation=annotation):
            return f"{ast.unparse(statement.target)}: {ast.unparse(annotation)}"
        case ast.Assign(targets=[ast.Name(id="__hash__")]):
            return "def __hash__(self) -> int: ..."
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return f"{name}: {type_of(name, value)}"
        case _:
            return ""


def type_of(name: str, value: ast.expr) -> str:
    """The type of an assigned value: a class that is called, or a constant's."""
    if isinstance(value, ast.Constant):
        return type(value.value).__name__
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return value.func.id
    if isinstance(value, ast.Tuple):
        return "tuple[str, ...]"
    raise AssertionError(f"{name}: write its type out")


def class_stub(statement: ast.ClassDef) -> str:
    bases = f"({', '.join(map(ast.unparse, statement.bases))})" if statement.bases else ""
    parts = [f"class {statement.name}{bases}:"]
    doc = ast.get_docstring(statement)
    if doc:
        parts.append(indented(docstring(doc)))
    parts += [indented(text) for s in statement.body if (text := stub(s))]
    parts += [indented(text) for text in attributes(statement)]
    if len(parts) == 1:
        parts.append("    ...")
    return "\n".join(parts)


def attributes(statement: ast.ClassDef) -> list[str]:
    """The attributes that `__init__` declares."""
    found = []
    for node in ast.walk(statement):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
            annotation = in_builtins(ast.unparse(node.annotation))
            found.append(f"{node.target.attr}: {annotation}")
    return found


def function_stub(statement: ast.FunctionDef) -> str:
    decorators = "".join(f"@{ast.unparse(d)}\n" for d in statement.decorator_list)
    returns = ast.unparse(statement.returns) if statement.returns else "Any"
    signature = written(statement.name, split(ast.unparse(statement.args)), returns)
    return decorators + with_doc(signature, ast.get_docstring(statement))


def written(name: str, parameters: list[str], returns: str) -> str:
    """The head of a function, over several lines if it is long."""
    parameters, returns = [plain_types(p) for p in parameters], in_builtins(returns)
    head = f"def {name}({', '.join(parameters)}) -> {returns}:"
    if len(head) <= WIDTH - 8:
        return head
    joined = ", ".join(parameters)
    if len(joined) > WIDTH - 8:
        joined = ",\n    ".join(parameters) + ","
    return f"def {name}(\n    {joined}\n) -> {returns}:"


def plain_types(parameter: str) -> str:
    """A parameter whose annotation means the built-in types, also beside methods of their names."""
    name, colon, rest = parameter.partition(": ")
    annotation, equals, default = rest.partition(" = ")
    return name + colon + in_builtins(annotation) + equals + default


def in_builtins(annotation: str) -> str:
    return SHADOWED.sub(r"builtins.\1", annotation)


def split(parameters: str) -> list[str]:
    """The parameters of a function, written with commas between them."""
    out = [""]
    depth = 0
    for character in parameters:
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            out.append("")
        else:
            out[-1] += character
    return [text.strip() for text in out if text]


def with_doc(signature: str, doc: str | None) -> str:
    return f"{signature}\n{indented(docstring(doc))}" if doc else f"{signature} ..."


def docstring(doc: str) -> str:
    """A docstring, filled anew where it is too wide for its new place."""
    lines = inspect.cleandoc(doc).replace("\\", "\\\\").splitlines()
    if any(len(line) > WIDTH - 14 for line in lines):
        paragraphs = "\n".join(lines).split("\n\n")
        lines = "\n\n".join(textwrap.fill(p, WIDTH - 14) for p in paragraphs).splitlines()
    return f'"""{lines[0]}"""' if len(lines) == 1 else '"""' + "\n".join(lines) + '\n"""'


def indented(text: str) -> str:
    return textwrap.indent(text, "    ")


# --------------------------------------------------------------------------------------- methods


def attached(statement: ast.ClassDef, imports: dict[str, Origin]) -> str:
    """The methods and properties that ops and autograd gave the class, by name."""
    own = {node.name for node in statement.body if isinstance(node, ast.FunctionDef)}
    parts = []
    for name, value in sorted(vars(Tensor).items()):
        # `x += y` is typed as `x = x + y` where nothing says otherwise.
        in_place = name.startswith("__i") and hasattr(Tensor, f"__{name[3:]}")
        if name in own or in_place or name == "__getattr__":
            continue
        if isinstance(value, property):
            assert value.fget is not None
            parts.append("@property\n" + method(name, value.fget, imports))
        elif inspect.isfunction(value) and value.__module__.startswith("deepseek."):
            parts.append(method(name, value, imports))
    return "\n".join(map(indented, parts))


def method(name: str, function: Callable[..., Any], imports: dict[str, Origin]) -> str:
    """One method's stub, from the signature of the function behind it."""
    found = inspect.signature(function)
    parameters = list(found.parameters.values())
    module = sys.modules[inspect.unwrap(function).__module__]
    reflected = name.startswith("__r") and name not in ("__rshift__", "__repr__")
    if reflected:
        parameters.reverse()
    first, rest = parameters[0], parameters[1:]
    first = first.replace(name="self", annotation=inspect.Parameter.empty)
    dunder = name.startswith("__")
    if dunder and rest:
        first, *rest = (p.replace(kind=p.POSITIONAL_ONLY) for p in (first, *rest))
    elif not rest or any(p.kind is not p.POSITIONAL_ONLY for p in rest):
        first = first.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
        rest = [
            p.replace(kind=p.POSITIONAL_OR_KEYWORD) if p.kind is p.POSITIONAL_ONLY else p
            for p in rest
        ]
    texts = [str(p.annotation) for p in rest] + [str(found.return_annotation)]
    for text in texts:
        note_imports(text, module, imports)
    line = written(name, list(parameter_texts([first, *rest])), found.return_annotation)
    if name in OVERRIDES:
        return f"{line} ...  # type: ignore[override]"
    return with_doc(line, None if dunder else function.__doc__)


def parameter_texts(parameters: Iterable[inspect.Parameter]) -> Iterator[str]:
    """Parameters as source text, with the marks between their kinds."""
    previous: Any = inspect.Parameter.POSITIONAL_OR_KEYWORD
    for p in parameters:
        if previous is p.POSITIONAL_ONLY and p.kind is not p.POSITIONAL_ONLY:
            yield "/"
        if p.kind is p.KEYWORD_ONLY and previous not in (p.KEYWORD_ONLY, p.VAR_POSITIONAL):
            yield "*"
        stars = "*" * (p.kind is p.VAR_POSITIONAL) + "**" * (p.kind is p.VAR_KEYWORD)
        annotation = "" if p.annotation is p.empty else f": {p.annotation}"
        default = "" if p.default is p.empty else f"{' = ' if annotation else '='}{p.default!r}"
        yield f"{stars}{p.name}{annotation}{default}"
        previous = p.kind
    if previous is inspect.Parameter.POSITIONAL_ONLY:
        yield "/"


def note_imports(annotation: str, module: ModuleType, imports: dict[str, Origin]) -> None:
    """Add what an annotation needs, imported from where its module has it."""
    tree = ast.parse(inspect.getsource(module))
    for node in ast.walk(ast.parse(annotation)):
        if not isinstance(node, ast.Name) or node.id in imports or node.id == Tensor.__name__:
            continue
        for statement in tree.body:
            if isinstance(statement, ast.ImportFrom):
                for alias in statement.names:
                    if (alias.asname or alias.name) == node.id:
                        imports[node.id] = import_of(statement, alias)
            elif node.id in defined(statement):
                imports[node.id] = (module.__name__, node.id)


def defined(statement: ast.stmt) -> list[str]:
    """The names that a statement of a module defines."""
    if isinstance(statement, ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Assign):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)]
    return []
