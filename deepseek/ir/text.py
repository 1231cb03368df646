"""The text form of graphs: `print_graph` and `parse_graph` are each other's inverse.

    graph (%0: float32[4, n0], %1: float32[8]) {
      %2 = matmul(%0, %1) : float32[4, 8]
      %3, %4 = sort(%2) {axis=1, descending=False} : float32[4, 8], int64[4, 8]
      return %3
    }

Attributes are written as Python literals, dtypes by name, sizes as expressions over symbols,
constants with their exact elements, and graphs within graphs in braces of their own. The text
depends on nothing but the structure, so it is the same in every process: its hash is what caches
are keyed by.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np

from deepseek.errors import FormatError, format_line
from deepseek.ir import scalar
from deepseek.ir.dtype import DTYPES, DType
from deepseek.ir.expr import INFIX
from deepseek.ir.graph import Array, Graph, Node, Value, make_node
from deepseek.ir.op import Op, resolve
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import Size, TensorType, tensor_type

WRITTEN_OUT = 8  # constants of more elements are written as their bytes
KEYWORDS = {"None", "True", "False", "inf", "nan", "slice", "graph", "hex", "return", "var"}

# --------------------------------------------------------------------------------------- printing


def print_graph(graph: Graph, lines: bool = False) -> str:
    """The graph as text.

    With `lines` it is for readers: each node has its line of user code as a comment, and functions
    (of nodes that a backend claimed) stand as their names, which cannot be read back.
    """
    return _graph_text(graph, "", lines)


def _graph_text(graph: Graph, indent: str, lines: bool = False) -> str:
    names: dict[Value, str] = {}
    for value in graph.inputs:
        names[value] = f"%{len(names)}"
    inputs = ", ".join([f"{names[v]}: {type_text(v.type)}" for v in graph.inputs])
    out = [f"graph ({inputs}) {{"]
    inner = indent + "  "
    for node in graph.nodes:
        out.append(inner + _node_text(node, names, inner, lines))
    outputs = ", ".join([_name(v, names) for v in graph.outputs])
    out.append(f"{inner}return {outputs}".rstrip())
    out.append(indent + "}")
    return "\n".join(out)


def _node_text(node: Node, names: dict[Value, str], indent: str, lines: bool) -> str:
    inputs = ", ".join([_name(v, names) for v in node.inputs])
    for value in node.outputs:
        names[value] = f"%{len(names)}"
    outputs = ", ".join([names[v] for v in node.outputs])
    types = ", ".join([type_text(v.type) for v in node.outputs])
    attrs = ""
    if node.attrs:
        written = [
            f"{k}={v.__qualname__ if lines and callable(v) else literal_text(v, indent)}"
            for k, v in node.attrs.items()
        ]
        attrs = f" {{{', '.join(written)}}}"
    line = f"  # {format_line(node.line)}" if lines and node.line is not None else ""
    return f"{outputs} = {node.op.name}({inputs}){attrs} : {types}{line}"


def _name(value: Value, names: Mapping[Value, str]) -> str:
    if value not in names:
        raise FormatError(f"the graph reads {value}, which it neither takes nor computes")
    return names[value]


@functools.lru_cache(maxsize=1 << 12)
def type_text(type_: TensorType) -> str:
    """A tensor type: `float32[4, n0]`."""
    return f"{type_.dtype.name}[{', '.join([size_text(s) for s in type_.shape])}]"


def size_text(size: Size) -> str:
    """A size: a number or an expression over symbols."""
    return str(size) if isinstance(size, int) else expr_text(size)


def literal_text(value: Any, indent: str = "") -> str:
    """An attribute's value. Raises FormatError for what has no text form."""
    if value is None or type(value) in (bool, int, float, str):
        return repr(value)
    if isinstance(value, tuple):
        inside = ", ".join([literal_text(v, indent) for v in value])
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, list):
        return f"[{', '.join([literal_text(v, indent) for v in value])}]"
    if isinstance(value, slice):
        parts = [literal_text(v, indent) for v in (value.start, value.stop, value.step)]
        return f"slice({', '.join(parts)})"
    if isinstance(value, DType):
        return value.name
    if isinstance(value, TensorType):
        return type_text(value)
    if isinstance(value, Expr):
        # A constant on its own needs its type, lest it read as a Python number.
        return f"{value.dtype.name}({value.attr!r})" if value.fn == "const" else expr_text(value)
    if isinstance(value, Graph):
        return _graph_text(value, indent)
    if isinstance(value, Array):
        return _array_text(value)
    if isinstance(value, np.generic) and value.dtype.name in DTYPES:
        return f"numpy.{value.dtype.name}({value.item()!r})"
    raise FormatError(f"an attribute of type {type(value).__name__} has no text form: {value!r}")


def _array_text(array: Array) -> str:
    elements = array.numpy
    plain = not array.type.dtype.is_float or not np.isnan(elements).any()  # NaN has many forms
    if elements.size <= WRITTEN_OUT and plain:
        body = ", ".join([repr(x.item()) for x in elements.reshape(-1)])
    else:
        body = f"hex'{elements.astype(elements.dtype.newbyteorder('<')).tobytes().hex()}'"
    return f"{type_text(array.type)}{{{body}}}"


def expr_text(e: Expr) -> str:
    """A scalar expression, exactly: infix where there is an operator, types where they matter."""
    if e.fn == "const":
        return repr(e.attr) if e.dtype.name in ("int64", "bool") else f"{e.dtype.name}({e.attr!r})"
    if e.fn == "var":
        name, low, extent = e.attr
        if e.dtype.name == "int64" and (low, extent) == scalar.SIZE_BOUNDS and _is_symbol(name):
            return str(name)
        end = None if extent is None else expr_text(extent)
        return f"var({name!r}, {e.dtype.name}, {low}, {end})"
    parts = [expr_text(a) for a in e.args]
    if e.fn == "load":
        return f"load({e.attr!r}, {e.dtype.name}, {', '.join(parts)})"
    if e.fn == "cast":
        return f"cast({e.dtype.name}, {parts[0]})"
    if e.fn == "bitcast":
        return f"bitcast({e.dtype.name}, {parts[0]})"
    if e.fn in INFIX:
        a, b = (f"({p})" if x.fn in INFIX else p for x, p in zip(e.args, parts, strict=True))
        return f"{a} {INFIX[e.fn]} {b}"
    return f"{e.fn}({', '.join(parts)})"


def _is_symbol(name: str) -> bool:
    taken = name in KEYWORDS or name in DTYPES or name in scalar.FUNCTIONS
    return name.isidentifier() and not taken and name not in ("cast", "bitcast", "load")


# ---------------------------------------------------------------------------------------- parsing

_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
      | (?P<string>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
      | (?P<value>%\d+)
      | (?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)
      | (?P<name>[A-Za-z_][\w.]*)
      | (?P<sign>->|//|<<|>>|==|!=|<=|[-+*/%&|^<=(){}\[\],:])
      | (?P<wrong>.)""",
    re.VERBOSE,
)
_FUNCTION_OF = {sign: fn for fn, sign in INFIX.items()}


def parse_graph(text: str, ops: Callable[[str], Op] = resolve) -> Graph:
    """The graph that `print_graph` printed; `ops` gives the op of a name.

    Raises FormatError, with the line number, for text that is not a graph.
    """
    parser = Parser(text, ops)
    graph = parser.graph()
    parser.end()
    return graph


def parse_expr(text: str) -> Expr:
    """The expression that `expr_text` printed."""
    parser = Parser(text)
    out = parser.expr()
    parser.end()
    return out


class Parser:
    """A cursor over tokens, with a method per piece of the grammar."""

    def __init__(self, text: str, ops: Callable[[str], Op] = resolve) -> None:
        self.ops = ops
        self.text = text
        self.tokens = [
            (str(m.lastgroup), m.group(), m.start())
            for m in _TOKEN.finditer(text)
            if m.lastgroup != "skip"
        ]
        self.tokens.append(("end", "", len(text)))
        self.at = 0

    def fail(self, wanted: str) -> NoReturn:
        _, got, start = self.tokens[self.at]
        line = self.text.count("\n", 0, start) + 1
        raise FormatError(f"line {line}: got {got or 'the end'!r}; wanted {wanted}")

    def peek(self, offset: int = 0) -> str:
        """The text of a coming token."""
        return self.tokens[min(self.at + offset, len(self.tokens) - 1)][1]

    def take(self, kind: str, wanted: str) -> str:
        """The next token, which must be of a kind."""
        if self.tokens[self.at][0] != kind:
            self.fail(wanted)
        self.at += 1
        return self.tokens[self.at - 1][1]

    def accept(self, text: str) -> bool:
        """Step over the next token if it reads so."""
        if self.tokens[self.at][0] == "string" or self.peek() != text:
            return False
        self.at += 1
        return True

    def expect(self, text: str) -> None:
        if not self.accept(text):
            self.fail(repr(text))

    def end(self) -> None:
        if self.tokens[self.at][0] != "end":
            self.fail("the end")

    def until(self, close: str, item: Callable[[], Any]) -> list[Any]:
        """Items with commas between them, up to a closing sign."""
        out: list[Any] = []
        while not self.accept(close):
            if out:
                self.expect(",")
                if self.accept(close):
                    break
            out.append(item())
        return out

    # ------------------------------------------------------------------------------- graphs

    def graph(self) -> Graph:
        values: dict[str, Value] = {}
        self.expect("graph")
        self.expect("(")
        inputs = self.until(")", lambda: self.input(values))
        self.expect("{")
        while self.peek() != "return":
            self.node(values)
        self.expect("return")
        outputs = self.until("}", lambda: self.known(values))
        return Graph(inputs, outputs)

    def input(self, values: dict[str, Value]) -> Value:
        from_name = self.take("value", "a value such as %0")
        self.expect(":")
        type_ = self.type()
        made = make_node(self.ops("input"), (), {"type": type_, "name": None}, (type_,)).outputs[0]
        self.define(values, from_name, made)
        return made

    def define(self, values: dict[str, Value], name: str, value: Value) -> None:
        if name in values:
            self.fail(f"{name} to be defined once")
        values[name] = value

    def known(self, values: Mapping[str, Value]) -> Value:
        name = self.take("value", "a value such as %0")
        if name not in values:
            self.at -= 1
            self.fail("a value that is defined above")
        return values[name]

    def node(self, values: dict[str, Value]) -> None:
        names = [self.take("value", "a value such as %0, or 'return'")]
        while self.accept(","):
            names.append(self.take("value", "a value such as %0"))
        self.expect("=")
        op = self.ops(self.take("name", "an op's name"))
        self.expect("(")
        inputs = tuple(self.until(")", lambda: self.known(values)))
        attrs = dict(self.until("}", self.attr)) if self.accept("{") else {}
        self.expect(":")
        types = [self.type()]
        while self.accept(","):
            types.append(self.type())
        if len(types) != len(names):
            self.fail(f"{len(names)} types")
        made = make_node(op, inputs, attrs, types)
        for name, value in zip(names, made.outputs, strict=True):
            self.define(values, name, value)

    def attr(self) -> tuple[str, Any]:
        name = self.take("name", "an attribute's name")
        self.expect("=")
        return name, self.literal()

    def type(self) -> TensorType:
        dtype = self.dtype()
        self.expect("[")
        return tensor_type(dtype, tuple(self.until("]", self.size)))

    def dtype(self) -> DType:
        if self.peek() not in DTYPES:
            self.fail("a dtype")
        self.at += 1
        return DTYPES[self.peek(-1)]

    def size(self) -> Size:
        size = self.literal()
        if isinstance(size, bool) or not isinstance(size, (int, Expr)):
            self.fail("a size")
        return size

    # ----------------------------------------------------------------------------- literals

    def expr(self) -> Expr:
        return self.as_expr(self.literal())

    def as_expr(self, value: Any) -> Expr:
        """A literal as an operand: numbers in expressions are int64 or truth values."""
        if isinstance(value, Expr):
            return value
        if isinstance(value, bool):
            return scalar.const(value, DTYPES["bool"])
        if not isinstance(value, int):
            self.fail("an expression")
        return scalar.const(value)

    def literal(self) -> Any:
        """An attribute's value, or an expression with at most one operator outside parentheses."""
        left = self.operand()
        fn = _FUNCTION_OF.get(self.peek())
        if fn is None or self.tokens[self.at][0] != "sign":
            return left
        self.at += 1
        a, b = self.as_expr(left), self.as_expr(self.operand())
        return scalar.make(fn, (a, b), _result(fn, b))

    def operand(self) -> Any:
        kind, text, _ = self.tokens[self.at]
        if kind == "name":
            return self.named(text)
        self.at += 1
        if kind == "string":
            return ast.literal_eval(text)
        if kind == "number":
            return ast.literal_eval(text)
        if text == "-":
            return -self.operand()
        if text == "[":
            return self.until("]", self.literal)
        if text == "(":
            items = self.until(")", self.literal)
            is_tuple = len(items) != 1 or self.peek(-2) == ","
            return tuple(items) if is_tuple else items[0]
        self.at -= 1
        self.fail("an attribute's value")

    def named(self, text: str) -> Any:
        """A value that starts with a name."""
        if text in DTYPES:
            return self.typed()
        if text == "graph":
            return self.graph()
        self.at += 1
        if text in _WORDS:
            return _WORDS[text]
        if text.startswith("numpy."):
            self.expect("(")
            return DTYPES[text.removeprefix("numpy.")].numpy.type(self.until(")", self.literal)[0])
        if self.accept("("):
            return self.called(text, self.until(")", self.literal))
        return scalar.size_var(text)

    def typed(self) -> Any:
        """`float32`, `float32(1.0)`, `float32[2]` or `float32[2]{1.0, 2.0}`."""
        if self.peek(1) == "[":
            type_ = self.type()
            return self.array(type_) if self.accept("{") else type_
        dtype = self.dtype()
        if not self.accept("("):
            return dtype
        return scalar.const(self.until(")", self.literal)[0], dtype)

    def array(self, type_: TensorType) -> Array:
        numpy = type_.dtype.numpy
        shape: Any = type_.shape
        if self.accept("hex"):
            written = ast.literal_eval(self.take("string", "the constant's bytes"))
            self.expect("}")
            elements = np.frombuffer(bytes.fromhex(written), numpy.newbyteorder("<")).astype(numpy)
        else:
            elements = np.array(self.until("}", self.literal), numpy)
        if elements.size != type_.numel:
            self.fail(f"{type_.numel} elements")
        return Array(elements.reshape(shape), type_.dtype)

    def called(self, fn: str, args: list[Any]) -> Any:
        """A function of scalars, or one of the forms written like one."""
        if fn == "slice":
            return slice(*args)
        if fn == "var":
            name, dtype, low, extent = args
            return scalar.var(name, dtype, low, extent)
        if fn == "load":
            buffer, dtype, *rest = args
            return scalar.make("load", tuple(self.as_expr(a) for a in rest), dtype, buffer)
        if fn in ("cast", "bitcast"):
            return scalar.make(fn, (self.as_expr(args[1]),), args[0])
        if fn not in scalar.FUNCTIONS or len(args) != scalar.FUNCTIONS[fn].arity:
            self.fail(f"a scalar function of {len(args)} arguments, not {fn!r}")
        operands = tuple(self.as_expr(a) for a in args)
        return scalar.make(fn, operands, _result(fn, operands[-1]))


_WORDS = {"None": None, "True": True, "False": False, "inf": float("inf"), "nan": float("nan")}


def _result(fn: str, last: Expr) -> DType:
    return DTYPES["bool"] if scalar.FUNCTIONS[fn].result == "bool" else last.dtype
