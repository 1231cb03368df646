"""The functions of scalar expressions in C++, for each kind of type.

In flow a function's node and the texts of its arguments; out flows its text. Arithmetic keeps the
order of the expression, so that it rounds as the expression says. Floats use the device's own
functions where their error is within what the polyfills promise, 2 ulp in float32 and 4 in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepseek.backends.cuda.c_types import INT_HIGH, c_type, fits_int, is_half, value_type
from deepseek.ir.dtype import DType, bool_, float32, float64, int32, int64, uint32
from deepseek.ir.scalar import Expr, bounds

# How tightly the outermost operator of a text binds.
CHOICE, LOGIC, COMPARE, SUM, PRODUCT, UNARY, ATOM = range(7)

# What a name in a kernel must not be: words of the language, and functions that the text calls.
_WORDS = """
auto bool break case char class const continue default delete do double else enum extern false float
for friend goto if inline int long namespace new operator private public register return short
signed sizeof static struct switch template this throw true try typedef typename union unsigned
using virtual void volatile while and or not xor bitand bitor compl int8 int16 int64 uint8 uint16
uint32 uint64 float16 bfloat16 minimum maximum exp log sin cos tanh atan erf pow floor ceil trunc
fabs fma sqrt scratch own
"""
RESERVED = frozenset(_WORDS.split())

_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<="}
_INFIX = {"add": ("+", SUM), "sub": ("-", SUM), "mul": ("*", PRODUCT), "div": ("/", PRODUCT)}
_BITS = {"bitand": "&", "bitor": "|", "bitxor": "^"}
_WRAPPING = {"add": "wrapping_add", "sub": "wrapping_sub", "mul": "wrapping_mul"}
# The device's functions, by the errors in ulp that its programming guide tells (float32, float64).
_DEVICE = {
    "exp": "exp", "expm1": "expm1", "log": "log", "log1p": "log1p", "sqrt": "sqrt", "sin": "sin",
    "cos": "cos", "tanh": "tanh", "atan": "atan", "erf": "erf", "floor": "floor", "ceil": "ceil",
    "trunc": "trunc", "round": "rint", "abs": "fabs", "fma": "fma", "pow": "pow",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Text:
    """A value as text, and how tightly its outermost operator binds."""

    text: str
    level: int


def inside(text: Text, level: int) -> str:
    """The text as an operand of an operator that binds so tightly."""
    return text.text if text.level >= level else f"({text.text})"


def infix(a: Text, operator: str, b: Text, level: int) -> Text:
    """Operators of one level associate to the left."""
    right = inside(b, level + 1)
    if operator in "+-" and right.startswith("-"):
        right = f"({right})"
    return Text(f"{inside(a, level)} {operator} {right}", level)


def invoke(name: str, *args: str) -> Text:
    return Text(f"{name}({', '.join(args)})", ATOM)


def needs_polyfill(fn: str, dtype: DType) -> bool:
    """Powers of float32: the device's powf is off by up to 4 ulp."""
    return fn == "pow" and dtype is float32


# ------------------------------------------------------------------------------------ conversions


def cast(e: Expr, arg: Text) -> Text:
    """A conversion of the value."""
    source, target = e.args[0].dtype, e.dtype
    if is_half(source):
        return converted(invoke("to_float", arg.text), float32, target)
    if source is int64 and target is int32 and fits_int(e.args[0]):
        return arg
    return converted(arg, source, target)


def converted(arg: Text, source: DType, target: DType) -> Text:
    if source is target:
        return arg
    if target is bool_:
        return infix(arg, "!=", Text("0", ATOM), COMPARE)
    if is_half(target):
        if source not in (float32, float64):
            arg = invoke("float", arg.text)
        return invoke(f"to_{target.name}", arg.text)
    if source.is_float and target.is_integer and target.bits < 64 and target is not int32:
        # The low bits of a signed number, so that -1.0 wraps round.
        arg = invoke("int" if target.bits < 32 else "int64", arg.text)
    return invoke(c_type(target), arg.text)


def bitcast(e: Expr, arg: Text) -> Text:
    """The same bits as another type."""
    source, target = e.args[0].dtype, e.dtype
    if source is target:
        return arg
    if bool_ in (source, target):
        return converted(arg, source, target)
    exact = arg if value_type(e.args[0]) == c_type(source) else invoke("int64", arg.text)
    return invoke(f"bitcast<{c_type(target)}>", exact.text)


# ---------------------------------------------------------------------------------------- indices


def index(e: Expr, args: Sequence[Text]) -> Text:
    """int64 arithmetic that never wraps, in 32 bits where all of it fits."""
    if e.fn == "where":
        return choose(args)
    wide = not (fits_int(e) and all(fits_int(a) for a in e.args if a.dtype is int64))
    if wide and not any(a.dtype is int64 and not fits_int(a) for a in e.args):
        args = [invoke("int64", args[0].text), *args[1:]]
    text = _index(e, args, "int64" if wide else "int")
    if wide and fits_int(e) and e.dtype is int64:
        return invoke("int", text.text)
    return text


def _index(e: Expr, args: Sequence[Text], kind: str) -> Text:
    a, b = args[0], args[-1]
    match e.fn:
        case "add" | "sub" | "mul":
            return _sum(e, a, b)
        case "floordiv" | "mod":
            if _never_negative(e.args[0]) and (bounds(e.args[1])[0] or 0) > 0:
                return infix(a, "/" if e.fn == "floordiv" else "%", b, PRODUCT)
            name = "floor_div" if e.fn == "floordiv" else "floor_mod"
            return invoke(f"{name}<{kind}>", a.text, b.text)
        case "neg":
            return Text(f"-{inside(a, ATOM)}", UNARY)
    return _integer(e, args, kind)


def _sum(e: Expr, a: Text, b: Text) -> Text:
    """A sum or product; a negative term is taken off."""
    operator, level = _INFIX[e.fn]
    if e.fn == "mul":
        factor = e.args[1]
        if "0" in (a.text, b.text):
            return Text("0", ATOM)
        if factor.fn == "const" and factor.attr < 0 and not b.text.startswith("("):
            if factor.attr == -1:
                return Text(f"-{inside(a, ATOM)}", UNARY)
            return Text(f"-{b.text[1:]} * {inside(a, UNARY)}", PRODUCT)
    if e.fn == "add":
        if "0" in (a.text, b.text):
            return b if a.text == "0" else a
        for first, second in ((a, b), (b, a)):
            if second.text.startswith("-") and second.level in (UNARY, PRODUCT):
                taken = Text(second.text[1:], ATOM if second.level == UNARY else PRODUCT)
                return infix(first, "-", taken, SUM)
    return infix(a, operator, b, level)


def _never_negative(e: Expr) -> bool:
    low = bounds(e)[0]
    return low is not None and low >= 0


# ---------------------------------------------------------------------------------------- by type


def apply(e: Expr, args: Sequence[Text]) -> Text:
    """A function of any type's arguments, with the meaning that FUNCTIONS gives it."""
    if e.fn == "where":
        return choose(args)
    dtype = e.args[-1].dtype
    if dtype is bool_:
        return _boolean(e, args)
    if is_half(dtype):
        wide = [invoke("to_float", a.text) for a in args]
        text = _float(e.fn, wide, float32)
        return text if e.dtype is bool_ else invoke(f"to_{dtype.name}", text.text)
    if dtype.is_float:
        return _float(e.fn, args, dtype)
    return _integer(e, args, c_type(dtype))


def choose(args: Sequence[Text]) -> Text:
    condition, a, b = args
    return Text(f"{inside(condition, LOGIC)} ? {inside(a, LOGIC)} : {inside(b, LOGIC)}", CHOICE)


def _boolean(e: Expr, args: Sequence[Text]) -> Text:
    a, b = args
    if e.fn in _COMPARE:
        return infix(a, _COMPARE[e.fn], b, COMPARE)
    match e.fn:
        case "bitxor":
            if e.args[1].fn == "const":
                return Text(f"!{inside(a, ATOM)}", UNARY) if e.args[1].attr else a
            return infix(a, "!=", b, COMPARE)
        case "bitand" | "minimum":
            return Text(f"{inside(a, LOGIC)} && {inside(b, COMPARE)}", LOGIC)
        case _:
            # In brackets, since && and || share a level here.
            return Text(f"({inside(a, COMPARE)} || {inside(b, COMPARE)})", ATOM)


def _float(fn: str, args: Sequence[Text], dtype: DType) -> Text:
    if fn in _INFIX:
        return infix(args[0], _INFIX[fn][0], args[1], _INFIX[fn][1])
    if fn in _COMPARE:
        return infix(args[0], _COMPARE[fn], args[1], COMPARE)
    if fn == "neg":
        return Text(f"-{inside(args[0], ATOM)}", UNARY)
    texts = [a.text for a in args]
    if fn in _DEVICE:
        return invoke(_DEVICE[fn] + ("f" if dtype is float32 else ""), *texts)
    name = {"mod": "float_mod", "floordiv": "float_floor_div"}.get(fn, fn)
    return invoke(f"{name}<{c_type(dtype)}>", *texts)


def _integer(e: Expr, args: Sequence[Text], kind: str) -> Text:
    """Arithmetic that wraps round; types shorter than int are brought back from it."""
    dtype = e.args[-1].dtype
    short = dtype.bits < 32
    if e.fn in _COMPARE:
        return infix(args[0], _COMPARE[e.fn], args[1], COMPARE)
    texts = [a.text for a in args]
    if e.fn in _BITS:
        text = f"{inside(args[0], ATOM)} {_BITS[e.fn]} {inside(args[1], ATOM)}"
        return invoke(kind, text) if short else Text(text, CHOICE)
    match e.fn:
        case "add" | "sub" | "mul":
            if dtype.kind == "u" and not short:
                return infix(args[0], _INFIX[e.fn][0], args[1], _INFIX[e.fn][1])
            return invoke(f"{_WRAPPING[e.fn]}<{kind}>", *texts)
        case "neg":
            return invoke(f"wrapping_sub<{kind}>", "0", *texts)
        case "abs":
            return invoke(f"absolute<{kind}>", *texts)
        case "fma":
            product = invoke(f"wrapping_mul<{kind}>", *texts[:2])
            return invoke(f"wrapping_add<{kind}>", product.text, texts[2])
        case "shl" | "shr":
            return _shift(e, args, kind)
        case "mulhi":
            return invoke("__umulhi", *texts)
    names = {"floordiv": "floor_div", "mod": "floor_mod", "pow": "integer_power"}
    if e.fn in ("floordiv", "mod") and dtype.kind == "u" and not short and _positive(e.args[1]):
        return infix(args[0], "/" if e.fn == "floordiv" else "%", args[1], PRODUCT)
    return invoke(f"{names.get(e.fn, e.fn)}<{kind}>", *texts)


def _positive(e: Expr) -> bool:
    return e.fn == "const" and 0 < e.attr <= INT_HIGH


def _shift(e: Expr, args: Sequence[Text], kind: str) -> Text:
    by, dtype = e.args[1], e.args[0].dtype
    known = by.fn == "const" and 0 <= by.attr < dtype.bits
    if known and dtype is uint32:
        operator = "<<" if e.fn == "shl" else ">>"
        return Text(f"{inside(args[0], ATOM)} {operator} {by.attr}", CHOICE)
    name = "shift_left" if e.fn == "shl" else "shift_right"
    return invoke(f"{name}<{kind}>", args[0].text, args[1].text)
