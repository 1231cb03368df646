"""The rules of a well-formed Kernel.

In flows a Kernel; out flows nothing, or a VerifyError that names the kernel, the statement and the
rule.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from deepseek.errors import VerifyError
from deepseek.ir.dtype import DType, bool_, int64, uint32
from deepseek.ir.scalar import FALSE, FUNCTIONS, Expr, variables, walk
from deepseek.kernel.ir import (
    GLOBAL,
    GRID,
    REGISTER,
    SERIAL,
    SHARED,
    UNROLL,
    VECTOR,
    Axis,
    Barrier,
    Buffer,
    Carry,
    Fold,
    Kernel,
    Let,
    Loop,
    Mma,
    Prefetch,
    Stmt,
    Store,
)

_KINDS = (GRID, SERIAL, VECTOR, UNROLL)
_SPACES = (GLOBAL, SHARED, REGISTER)
_FLOAT_ONLY = {"div", "exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tanh", "atan", "erf",
               "floor", "ceil", "trunc", "round"}  # fmt: skip
_NO_FLOAT = {"bitand", "bitor", "bitxor", "shl", "shr", "mulhi"}
_BOOL_TOO = {"eq", "ne", "lt", "le", "bitand", "bitor", "bitxor", "where", "minimum", "maximum"}


def verify(kernel: Kernel) -> None:
    """Raise VerifyError where the kernel breaks a rule."""
    _Verifier(kernel).run()


class _Verifier:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.buffers: dict[str, Buffer] = {}
        self.scope: dict[str, Expr] = {}
        self.checked: set[Expr] = set()
        self.varying: set[Expr] = set()  # variables that differ between a vector loop's lanes
        self.where = ""

    def fail(self, rule: str) -> None:
        place = f", {self.where}" if self.where else ""
        raise VerifyError(f"kernel {self.kernel.name!r}{place}: {rule}")

    def check(self, condition: bool, rule: str, e: Expr | None = None) -> None:
        """Fail where the condition is false; `e` is what is wrong."""
        if not condition:
            self.fail(rule if e is None else f"{_short(e)} {rule}")

    def run(self) -> None:
        self.name(self.kernel.name)
        for size in self.kernel.sizes:
            self.check(
                size.fn == "var" and size.dtype is int64, f"size {size} is no int64 variable"
            )
            self.bind(size)
        spaces = [b.space == GLOBAL for b in self.kernel.buffers]
        self.check(spaces == sorted(spaces, reverse=True), "global buffers come first")
        for buffer in self.kernel.buffers:
            self.buffer(buffer)
        body = self.kernel.body
        for axis in self.kernel.grid():
            self.where = f"grid loop over {axis.var}"
            sizes = set(self.kernel.sizes)
            self.check(
                all(v in sizes for v in variables(axis.extent)),
                f"the extent {axis.extent} of a grid axis may use sizes only",
            )
            self.axis(axis)
            self.bind(axis.var)
            assert isinstance(body[0], Loop)
            body = body[0].body
        self.body(body, vector=False)

    def buffer(self, buffer: Buffer) -> None:
        self.where = f"buffer {buffer.name!r}"
        self.name(buffer.name)
        self.check(buffer.name not in self.buffers, "the name is used twice")
        self.check(buffer.space in _SPACES, f"space {buffer.space!r}; wanted one of {_SPACES}")
        if buffer.space != GLOBAL:
            self.check(buffer.size is not None, "scratch needs a size")
            self.check(not buffer.written, "`written` is for global buffers")
        if buffer.size is not None:
            self.expr(buffer.size, int64)
            constant = buffer.size.fn == "const" and buffer.size.value > 0
            self.check(buffer.space != REGISTER or constant, "register buffers have constant size")
        self.expr(buffer.streamed, bool_)
        self.check(buffer.written or buffer.streamed is FALSE, "`streamed` is for written buffers")
        self.buffers[buffer.name] = buffer
        self.where = ""

    # -------------------------------------------------------------------------------------- scopes

    def name(self, name: str) -> None:
        good = name.isidentifier() and not keyword.iskeyword(name)
        self.check(good and re.fullmatch(r"_\d+", name) is None, f"{name!r} is not a usable name")

    def bind(self, var: Expr) -> None:
        self.check(var.fn == "var", f"{var} is bound but is no variable")
        self.name(var.name)
        self.check(var.name not in self.scope, f"{var.name!r} is already defined here")
        self.check(var.name not in self.buffers, f"{var.name!r} is a buffer's name")
        self.scope[var.name] = var

    @contextmanager
    def inner(self) -> Iterator[None]:
        outer = dict(self.scope)
        yield
        self.scope = outer
        # What was checked inside may use variables that are gone.
        self.checked.clear()

    # ---------------------------------------------------------------------------------- statements

    def body(self, body: Iterable[Stmt], vector: bool) -> None:
        with self.inner():
            for stmt in body:
                self.statement(stmt, vector)

    def statement(self, stmt: Stmt, vector: bool) -> None:
        match stmt:
            case Let():
                self.let(stmt)
            case Store():
                self.store(stmt)
            case Loop():
                self.loop(stmt, vector)
            case Fold():
                self.fold(stmt, vector)
            case Mma():
                self.mma(stmt, vector)
            case Prefetch(buffer, index):
                self.where = f"prefetch of {buffer!r}"
                self.check(self.known(buffer).space == GLOBAL, "scratch is in the caches as it is")
                self.expr(index, int64)
            case Barrier():
                self.where = "barrier"
                self.check(not vector, "not inside a vector loop")
            case _:
                self.fail(f"{type(stmt).__name__} is no statement")

    def let(self, let: Let) -> None:
        self.where = f"let {let.var}"
        self.expr(let.value, let.var.dtype)
        self.bind(let.var)
        if self.varies(let.value):
            self.varying.add(let.var)

    def varies(self, e: Expr) -> bool:
        return any(v in self.varying for v in variables(e))

    def store(self, store: Store) -> None:
        self.where = f"store to {store.buffer!r}"
        buffer = self.known(store.buffer)
        self.check(buffer.space != GLOBAL or buffer.written, "the buffer is not marked as written")
        self.expr(store.index, int64)
        self.expr(store.value, buffer.dtype)
        self.expr(store.guard, bool_)
        self.check(store.atomic in (None, "add"), f"atomic {store.atomic!r}; wanted None or 'add'")
        if store.atomic is not None:
            dtype = buffer.dtype
            wide = dtype.is_integer or (dtype.is_float and dtype.bits >= 32)
            self.check(wide, f"atomic adds of {dtype} are not supported")

    def known(self, name: str) -> Buffer:
        if name not in self.buffers:
            self.fail(f"unknown buffer {name!r}; there are {', '.join(self.buffers) or 'none'}")
        return self.buffers[name]

    def axis(self, axis: Axis) -> None:
        self.check(axis.kind in _KINDS, f"axis kind {axis.kind!r}; wanted one of {_KINDS}")
        self.check(axis.var.dtype is int64, f"axis variable {axis.var} is not int64")
        self.expr(axis.extent, int64)
        self.check(
            not self.varies(axis.extent), "differs between the lanes of a vector loop", axis.extent
        )

    def loop(self, loop: Loop, vector: bool) -> None:
        axis = loop.axis
        self.where = f"{axis.kind} loop over {axis.var}"
        self.axis(axis)
        self.check(axis.kind != GRID, "grid loops are the outermost, around everything")
        self.check(not (vector and axis.kind == VECTOR), "inside another vector loop")
        if axis.kind == UNROLL:
            self.check(axis.extent.fn == "const", "the extent of an unrolled loop is constant")
        outer = set(self.varying)
        with self.inner():
            self.bind(axis.var)
            if axis.kind == VECTOR:
                self.varying.add(axis.var)
            self.body(loop.body, vector or axis.kind == VECTOR)
        self.varying = outer

    def fold(self, fold: Fold, vector: bool) -> None:
        self.where = f"fold over {', '.join(str(a.var) for a in fold.axes)}"
        self.check(bool(fold.axes) and bool(fold.carries), "needs an axis and a carried value")
        lanes = fold.lanes
        self.check(lanes > 0 and lanes & (lanes - 1) == 0, f"{lanes} lanes; wanted a power of two")
        last = fold.axes[-1].kind
        self.check(
            all(a.kind == SERIAL for a in fold.axes[:-1]) and last in (SERIAL, VECTOR),
            "axes are serial, but for the last, which may be vector",
        )
        self.check(not (vector and last == VECTOR), "a vector axis inside a vector loop")
        self.check(not (fold.prefix and last == VECTOR), "prefix stores need serial axes")
        for carry in fold.carries:
            self.expr(carry.init, carry.var.dtype)
        with self.inner():
            for axis in fold.axes:
                self.axis(axis)
                self.bind(axis.var)
            for carry in fold.carries:
                self.bind(carry.var)
            for stmt in fold.body:
                hints = isinstance(stmt, Let | Prefetch)
                self.check(hints, "the body of a fold holds lets and prefetches only")
                self.statement(stmt, vector)
            self.steps(fold.carries)
            for store in fold.prefix:
                self.store(store)
        with self.inner():
            for carry in fold.carries:
                self.bind(carry.var)
                self.bind(carry.other)
            self.where = "merge of a fold"
            for carry in fold.carries:
                self.check(carry.other.dtype is carry.var.dtype, f"dtype of {carry.other}")
                self.expr(carry.merge, carry.var.dtype)
        for carry in fold.carries:
            self.bind(carry.var)
            if vector:
                self.varying.add(carry.var)

    def steps(self, carries: Iterable[Carry]) -> None:
        self.where = "step of a fold"
        for carry in carries:
            self.expr(carry.step, carry.var.dtype)

    def mma(self, mma: Mma, vector: bool) -> None:
        self.where = f"mma on {mma.acc!r}"
        acc = self.known(mma.acc)
        self.known(mma.a)
        self.known(mma.b)
        self.check(not vector, "not inside a vector loop")
        self.check(acc.space == REGISTER, "the accumulators are a register buffer")
        self.check(mma.m > 0 and mma.n > 0, f"{mma.m} x {mma.n} accumulators")
        self.check(mma.width >= mma.n, f"rows of {mma.n} accumulators that lie {mma.width} apart")
        assert acc.size is not None
        self.check(
            acc.size.value >= mma.m * mma.width,
            f"{mma.m} x {mma.width} accumulators in a buffer of {acc.size}",
        )
        for e in (mma.a_at, mma.b_at, mma.depth):
            self.expr(e, int64)

    # --------------------------------------------------------------------------------- expressions

    def expr(self, e: Expr, dtype: DType) -> None:
        for node in walk([e]):
            if node not in self.checked:
                self.node(node)
                self.checked.add(node)
        self.check(e.dtype is dtype, f"is {e.dtype.name}; wanted {dtype.name}", e)

    def node(self, e: Expr) -> None:
        if e.fn == "const":
            return
        if e.fn == "var":
            self.check(self.scope.get(e.name) is e, f"variable {e.name!r} is not defined here")
        elif e.fn == "load":
            self.load(e)
        elif e.fn == "cast":
            self.check(len(e.args) == 1, "cast has one argument")
        elif e.fn == "bitcast":
            self.check(e.args[0].dtype.bits == e.dtype.bits, "reinterprets another size", e)
        else:
            self.function(e)

    def load(self, e: Expr) -> None:
        buffer = self.known(e.attr)
        self.check(e.dtype is buffer.dtype, f"is not {buffer.dtype.name}", e)
        self.check(e.args[0].dtype is int64, "has an index that is not int64", e)
        self.check(len(e.args) in (1, 3), "needs an index, or index, guard, otherwise", e)
        if len(e.args) == 3:
            self.check(e.args[1].dtype is bool_, "has a guard that is not bool", e)
            self.check(e.args[2].dtype is e.dtype, "gives another dtype otherwise", e)

    def function(self, e: Expr) -> None:
        function = FUNCTIONS.get(e.fn)
        if function is None:
            self.fail(f"unknown function {e.fn!r}")
            return
        self.check(len(e.args) == function.arity, f"{e.fn} has {function.arity} arguments")
        values = e.args[1:] if e.fn == "where" else e.args
        if e.fn == "where":
            self.check(e.args[0].dtype is bool_, "has a condition that is not bool", e)
        dtype = values[0].dtype
        same = all(v.dtype is dtype for v in values)
        self.check(same, "has arguments of different dtypes", e)
        result = bool_ if function.result == "bool" else dtype
        self.check(e.dtype is result, f"is {e.dtype.name}; wanted {result.name}", e)
        self.check(
            not (e.fn in _FLOAT_ONLY and not dtype.is_float)
            and not (e.fn in _NO_FLOAT and dtype.is_float)
            and not (dtype is bool_ and e.fn not in _BOOL_TOO)
            and not (e.fn == "mulhi" and dtype is not uint32),
            f"{e.fn} has no meaning on {dtype.name}",
        )


def _short(e: Expr, depth: int = 3) -> str:
    """The top of an expression; the whole of it may be very long."""
    if not e.args:
        return f"buffer {e.name}" if e.fn == "load" else e.text
    name = e.attr if e.fn == "load" else e.fn
    inside = ", ".join(_short(a, depth - 1) for a in e.args) if depth else "..."
    return f"{name}({inside})"
