"""Expressions: from an Expr to the operands that hold its value, each distinct one computed once.

In flow expressions over known variables; out flow Values at the outermost level where their
arguments are known. Transcendentals come from the polyfills as short programs over the functions
below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deepseek.backends.cpu.emit_builder import Block
from deepseek.backends.cpu.emit_index import Indices
from deepseek.backends.cpu.emit_types import (
    NOTHING,
    Value,
    is_half,
    mangled,
    register_type,
    vector_type,
)
from deepseek.backends.cpu.target import Target
from deepseek.errors import CompileError
from deepseek.ir.dtype import DType, bool_, float32
from deepseek.ir.scalar import Expr, bounds, int64
from deepseek.kernel import polyfill

_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INTEGER = {"add": "add", "sub": "sub", "mul": "mul", "bitand": "and", "bitor": "or",
            "bitxor": "xor"}  # fmt: skip
_COMPARE_FLOAT = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole"}
_COMPARE_SIGNED = {"eq": "eq", "ne": "ne", "lt": "slt", "le": "sle"}
_COMPARE_UNSIGNED = {"eq": "eq", "ne": "ne", "lt": "ult", "le": "ule"}
_INTRINSIC = {"sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "trunc": "trunc",
              "round": "roundeven"}  # fmt: skip

HELPER = "@of_rare_"  # what names of functions that kernels share begin with

# Operands of one instruction: the dtype of each argument, lanes, where to put it.
Emit = Callable[[Sequence[str]], str]


class Expressions(Indices):
    """Values of expressions. `functions` are those that a kernel calls: their names and texts."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.functions: dict[polyfill.Program, tuple[str, str]] = {}

    def value(self, e: Expr) -> Value:
        found = self.known.get(e)
        if found is not None:
            return found
        stack = [e]
        while stack:
            node = stack[-1]
            if node in self.known:
                stack.pop()
                continue
            # What a load's index is made of becomes an address, only what that takes of it a value.
            args = node.args[1:] if node.fn == "load" else node.args
            missing = [a for a in args if a not in self.known]
            if missing and not self.is_index_node(node):
                stack.extend(reversed(missing))
                continue
            stack.pop()
            self.remember(node, self._node(node))
        return self.known[e]

    def _node(self, e: Expr) -> Value:
        match e.fn:
            case "const":
                return self.constant(e)
            case "var":
                return self._variable(e)
            case "load":
                return self.load(e)
        if self.is_index_node(e):
            found = self.index_node(e)
            if found is not None:
                return found
        args = [self.value(a) for a in e.args]
        if e.fn in ("cast", "bitcast"):
            source = e.args[0].dtype
            if e.fn == "cast":
                return self.per_copy(
                    args, [source], lambda ops, lanes, level: self.convert(
                        ops[0], source, e.dtype, lanes, level
                    )
                )  # fmt: skip
            return self.per_copy(
                args, [source], lambda ops, lanes, level: self.bitcast(
                    ops[0], source, e.dtype, lanes, level
                )
            )  # fmt: skip
        return self.apply(e.fn, args, [a.dtype for a in e.args], e)

    def _variable(self, e: Expr) -> Value:
        vector = self.vector
        if vector is None or e is not vector.var:
            raise CompileError(f"variable {e.name!r} is used outside the scope that defines it")
        return self.lane_numbers()

    # ---------------------------------------------------------------------------------- functions

    def per_copy(self, args: Sequence[Value], dtypes: Sequence[DType],
                 emit: Callable[[list[str], int, int], str]) -> Value:  # fmt: skip
        """Emit an instruction for each copy of its arguments, at their deepest level."""
        lanes = level = 0
        copies = 1
        reads = NOTHING
        for a in args:
            lanes = lanes or a.lanes
            level = max(level, a.level)
            copies = max(copies, len(a.ops))
            if a.reads:
                reads = reads | a.reads
        if lanes:
            args = [
                a if a.lanes else self.widen(a, register_type(d), lanes)
                for a, d in zip(args, dtypes, strict=True)
            ]
        ops = tuple(emit([a.op(c) for a in args], lanes, level) for c in range(copies))
        return Value(ops, lanes, level, reads)

    def apply(
        self, fn: str, args: Sequence[Value], dtypes: Sequence[DType], e: Expr | None
    ) -> Value:
        """A function of the vocabulary on known values."""
        dtype = dtypes[-1]
        if is_half(dtype) and fn != "where":
            return self._in_float32(fn, args, dtypes)
        program = polyfill.program(fn, dtype, self.target.has_fma)
        if program is not None:
            return self._run(program, args)
        return self.per_copy(
            args,
            dtypes,
            lambda ops, lanes, level: self.instruction(fn, dtype, ops, lanes, level, e),
        )

    def _in_float32(self, fn: str, args: Sequence[Value], dtypes: Sequence[DType]) -> Value:
        """A 16-bit float function: in float32, rounded once."""
        half = dtypes[-1]
        wide = [
            self.per_copy([a], [d], lambda ops, n, at: self.convert(ops[0], half, float32, n, at))
            for a, d in zip(args, dtypes, strict=True)
        ]
        result = self.apply(fn, wide, [float32] * len(wide), None)
        if fn in _COMPARE_FLOAT:
            return result
        return self.per_copy(
            [result], [float32], lambda ops, n, at: self.convert(ops[0], float32, half, n, at)
        )

    def _run(self, program: polyfill.Program, args: Sequence[Value]) -> Value:
        """A polyfill on these arguments: its steps, each once."""
        values: dict[Expr, Value] = dict(zip(program.parameters, args, strict=True))
        dtype, lanes = program.result.dtype, max(a.lanes for a in args)
        scales = program.parts is not None and self.target.scales(dtype, lanes)
        for node in program.part_steps if scales else program.steps:
            if node.fn == "const":
                values[node] = self.constant(node)
                continue
            inner = [values[a] for a in node.args]
            values[node] = self.step_of(node, inner)
        if scales:
            return self._scaled(dtype, [values[part] for part in program.parts or ()])
        usual = values[program.result]
        if program.rare is None or program.otherwise is None:
            return usual
        return self._unless(values[program.rare], program.otherwise, args, usual)

    def _scaled(self, dtype: DType, parts: Sequence[Value]) -> Value:
        """number * 2**exponent in one instruction, which rounds once."""

        def one(ops: Sequence[str], lanes: int, level: int) -> str:
            t = vector_type(register_type(dtype), lanes)
            bits = lanes * dtype.bits
            name = f"llvm.x86.avx512.mask.scalef.p{'s' if dtype is float32 else 'd'}.{bits}"
            mask = f"i{max(8, lanes)} -1" + (", i32 4" if bits == 512 else "")
            return self.ins(
                f"call {t} @{name}({t} {ops[0]}, {t} {ops[1]}, {t} poison, {mask})", level
            )

        return self.per_copy(parts, [dtype] * 2, one)

    def _unless(
        self, rare: Value, otherwise: polyfill.Program, args: Sequence[Value], usual: Value
    ) -> Value:
        """The usual value; where a lane is rare, by a jump, the other program's in such lanes."""
        lanes, level = usual.lanes, usual.level
        mask = vector_type("i1", lanes)
        any_lane = rare.ops[0]
        for op in rare.ops[1:]:
            any_lane = self.ins(f"or {mask} {any_lane}, {op}", level)
        any_lane = self.ins(f"freeze {mask} {any_lane}", level)  # lanes behind the end hold poison
        if lanes:
            reduce = f"call i1 @llvm.vector.reduce.or.{mangled('i1', lanes)}"
            any_lane = self.ins(f"{reduce}({mask} {any_lane})", level)
        block = self.scopes[level].block
        inside, after = self.name("rare"), self.name("after")
        before = block.label
        block.lines.append(f"  br i1 {any_lane}, label %{inside}, label %{after}")
        block.lines.append(f"{inside}:")
        block.label = inside
        if lanes:
            found = self._one_by_one(otherwise, args[0], block, level)
        else:
            found = [self._called(otherwise, args[0].ops[0], level)]
        t = vector_type(register_type(otherwise.result.dtype), lanes)
        chosen = [
            self.ins(f"select {mask} {rare.op(c)}, {t} {found[c]}, {t} {op}", level)
            for c, op in enumerate(usual.ops)
        ]
        came_from = block.label
        block.lines.append(f"  br label %{after}")
        block.lines.append(f"{after}:")
        block.label = after
        ops = tuple(
            self.ins(f"phi {t} [ {a}, %{came_from} ], [ {b}, %{before} ]", level)
            for a, b in zip(chosen, usual.ops, strict=True)
        )
        return Value(ops, lanes, level, usual.reads)

    def _one_by_one(
        self, program: polyfill.Program, x: Value, block: Block, level: int
    ) -> list[str]:
        """A program of one argument in a loop over its lanes."""
        scalar = register_type(program.result.dtype)
        t = vector_type(scalar, x.lanes)
        room = self.alloca(f"[{len(x.ops)} x {t}]")
        places = [
            self.ins(f"getelementptr {t}, ptr {room}, i64 {c}", level) for c in range(len(x.ops))
        ]
        block.lines += [f"  store {t} {op}, ptr {p}" for op, p in zip(x.ops, places, strict=True)]
        before, inside, after = block.label, self.name("lanes"), self.name("exit")
        index, following = f"%{self.name('i')}", f"%{self.name('i')}"
        block.lines.append(f"  br label %{inside}")
        block.lines.append(f"{inside}:")
        block.label = inside
        block.lines.append(f"  {index} = phi i64 [ 0, %{before} ], [ {following}, %{inside} ]")
        place = self.ins(f"getelementptr {scalar}, ptr {room}, i64 {index}", level)
        one = self.ins(f"load {scalar}, ptr {place}", level)
        found = self._called(program, one, level)
        block.lines.append(f"  store {scalar} {found}, ptr {place}")
        block.lines.append(f"  {following} = add i64 {index}, 1")
        again = self.ins(f"icmp ult i64 {following}, {len(x.ops) * x.lanes}", level)
        block.lines.append(f"  br i1 {again}, label %{inside}, label %{after}")
        block.lines.append(f"{after}:")
        block.label = after
        return [self.ins(f"load {t}, ptr {p}", level) for p in places]

    def _called(self, program: polyfill.Program, x: str, level: int) -> str:
        """A program of one number as a function of its own, compiled as quickly as can be."""
        t = register_type(program.result.dtype)
        if program not in self.functions:
            inner = type(self)(self.target)
            result = inner._run(program, [Value(("%x",))]).ops[0]
            name = f"{HELPER}{program.name}"
            attributes = f'optnone noinline nounwind "target-cpu"="{self.target.cpu}"'
            head = f"define internal {t} {name}({t} %x) {attributes} {self.target.attributes} {{"
            lines = [head, "entry:", *inner.block.lines, f"  ret {t} {result}", "}", ""]
            self.functions[program] = name, "\n".join(lines)
        name, _ = self.functions[program]
        return self.ins(f"call {t} {name}({t} {x})", level)

    def step_of(self, node: Expr, args: list[Value]) -> Value:
        source = node.args[0].dtype
        if node.fn == "cast":
            return self.per_copy(
                args,
                [source],
                lambda ops, n, at: self.convert(ops[0], source, node.dtype, n, at),
            )
        if node.fn == "bitcast":
            return self.per_copy(
                args,
                [source],
                lambda ops, n, at: self.bitcast(ops[0], source, node.dtype, n, at),
            )
        return self.apply(node.fn, args, [a.dtype for a in node.args], node)

    def instruction(self, fn: str, dtype: DType, ops: Sequence[str], lanes: int, level: int,
                    e: Expr | None) -> str:  # fmt: skip
        """One function on operands of one type; `dtype` is the last argument's."""
        scalar = register_type(dtype)
        t = vector_type(scalar, lanes)
        if fn == "where":
            condition = vector_type("i1", lanes)
            return self.ins(f"select {condition} {ops[0]}, {t} {ops[1]}, {t} {ops[2]}", level)
        if dtype.is_float:
            return self._float(fn, scalar, t, ops, lanes, level)
        if fn in _COMPARE_SIGNED:
            table = _COMPARE_SIGNED if dtype.kind == "i" else _COMPARE_UNSIGNED
            return self.ins(f"icmp {table[fn]} {t} {ops[0]}, {ops[1]}", level)
        if dtype is bool_:
            return self._boolean(fn, t, ops, level)
        if fn in _INTEGER:
            return self.ins(f"{_INTEGER[fn]} {t} {ops[0]}, {ops[1]}", level)
        return self._integer(fn, dtype, ops, lanes, level, e)

    def _boolean(self, fn: str, t: str, ops: Sequence[str], level: int) -> str:
        table = {"bitand": "and", "bitor": "or", "bitxor": "xor", "mul": "and", "add": "or",
                 "minimum": "and", "maximum": "or"}  # fmt: skip
        if fn not in table:
            raise CompileError(f"scalar function {fn!r} has no meaning on bool")
        return self.ins(f"{table[fn]} {t} {ops[0]}, {ops[1]}", level)

    def _float(self, fn: str, scalar: str, t: str, ops: Sequence[str], lanes: int,
               level: int) -> str:  # fmt: skip
        if fn in _FLOAT:
            return self.ins(f"{_FLOAT[fn]} {t} {ops[0]}, {ops[1]}", level)
        if fn in _COMPARE_FLOAT:
            return self.ins(f"fcmp {_COMPARE_FLOAT[fn]} {t} {ops[0]}, {ops[1]}", level)
        if fn == "fma":
            if self.target.has_fma:
                return self.ins(
                    f"call {t} @llvm.fma.{mangled(scalar, lanes)}"
                    f"({t} {ops[0]}, {t} {ops[1]}, {t} {ops[2]})",
                    level,
                )
            product = self.ins(f"fmul {t} {ops[0]}, {ops[1]}", level)
            return self.ins(f"fadd {t} {product}, {ops[2]}", level)
        if fn in ("minimum", "maximum"):
            # The instruction gives its second operand where either is NaN, so that a NaN in `a`
            # stays; one in `b` is put back. A carried value is `a`: its chain is short.
            a, b = ops
            first, second = (b, a) if fn == "minimum" else (a, b)
            mask = vector_type("i1", lanes)
            closer = self.ins(f"fcmp olt {t} {first}, {second}", level)
            best = self.ins(f"select {mask} {closer}, {t} {b}, {t} {a}", level)
            nan = self.ins(f"fcmp uno {t} {b}, {b}", level)
            return self.ins(f"select {mask} {nan}, {t} {b}, {t} {best}", level)
        if fn == "neg":
            return self.ins(f"fneg {t} {ops[0]}", level)
        name = "fabs" if fn == "abs" else _INTRINSIC.get(fn)
        if name is None:
            raise CompileError(f"scalar function {fn!r} has no meaning on floats")
        return self.ins(f"call {t} @llvm.{name}.{mangled(scalar, lanes)}({t} {ops[0]})", level)

    def _integer(self, fn: str, dtype: DType, ops: Sequence[str], lanes: int, level: int,
                 e: Expr | None) -> str:  # fmt: skip
        scalar = register_type(dtype)
        t = vector_type(scalar, lanes)
        signed = dtype.kind == "i"
        a = ops[0]
        if fn == "neg":
            return self.ins(f"sub {t} {self.all_of(scalar, 0, lanes)}, {a}", level)
        if fn == "abs":
            if not signed:
                return a
            return self.ins(
                f"call {t} @llvm.abs.{mangled(scalar, lanes)}({t} {a}, i1 false)", level
            )
        if fn == "fma":
            product = self.ins(f"mul {t} {a}, {ops[1]}", level)
            return self.ins(f"add {t} {product}, {ops[2]}", level)
        if fn in ("minimum", "maximum"):
            name = ("s" if signed else "u") + fn[:3]
            return self.ins(
                f"call {t} @llvm.{name}.{mangled(scalar, lanes)}({t} {a}, {t} {ops[1]})", level
            )
        if fn in ("shl", "shr"):
            return self._shift(fn, dtype, ops, lanes, level)
        if fn == "mulhi":
            wide = vector_type("i64", lanes)
            x = self.ins(f"zext {t} {a} to {wide}", level)
            y = self.ins(f"zext {t} {ops[1]} to {wide}", level)
            xy = self.ins(f"mul {wide} {x}, {y}", level)
            high = self.ins(f"lshr {wide} {xy}, {self.all_of('i64', 32, lanes)}", level)
            return self.ins(f"trunc {wide} {high} to {t}", level)
        if fn in ("floordiv", "mod"):
            divide = self._signed_division if signed else self._unsigned_division
            return divide(fn, scalar, ops, lanes, level, e)
        raise CompileError(f"scalar function {fn!r} has no meaning on {dtype}")

    def all_of(self, scalar: str, value: int, lanes: int) -> str:
        """A constant operand."""
        return f"splat ({scalar} {value})" if lanes else str(value)

    def _shift(self, fn: str, dtype: DType, ops: Sequence[str], lanes: int, level: int) -> str:
        """Shifts by the width or more give 0, or the sign."""
        scalar = register_type(dtype)
        t = vector_type(scalar, lanes)
        a, by = ops
        bits = dtype.bits
        known = _constant_of(by)
        if known is not None and 0 <= known < bits:
            operation = "shl" if fn == "shl" else "ashr" if dtype.kind == "i" else "lshr"
            return self.ins(f"{operation} {t} {a}, {by}", level)
        last = self.all_of(scalar, bits - 1, lanes)
        small = self.ins(
            f"call {t} @llvm.umin.{mangled(scalar, lanes)}({t} {by}, {t} {last})", level
        )
        if fn == "shr" and dtype.kind == "i":
            return self.ins(f"ashr {t} {a}, {small}", level)
        shifted = self.ins(f"{'shl' if fn == 'shl' else 'lshr'} {t} {a}, {small}", level)
        inside = self.ins(f"icmp ule {t} {by}, {last}", level)
        mask = vector_type("i1", lanes)
        zero = self.all_of(scalar, 0, lanes)
        return self.ins(f"select {mask} {inside}, {t} {shifted}, {t} {zero}", level)

    def _unsigned_division(self, fn: str, scalar: str, ops: Sequence[str], lanes: int, level: int,
                           e: Expr | None) -> str:  # fmt: skip
        t = vector_type(scalar, lanes)
        operation = "udiv" if fn == "floordiv" else "urem"
        a, b = ops
        if _constant_of(b):
            return self.ins(f"{operation} {t} {a}, {b}", level)
        mask = vector_type("i1", lanes)
        zero, one = self.all_of(scalar, 0, lanes), self.all_of(scalar, 1, lanes)
        none = self.ins(f"icmp eq {t} {b}, {zero}", level)
        safe = self.ins(f"select {mask} {none}, {t} {one}, {t} {b}", level)
        result = self.ins(f"{operation} {t} {a}, {safe}", level)
        return self.ins(f"select {mask} {none}, {t} {zero}, {t} {result}", level)

    def _signed_division(self, fn: str, scalar: str, ops: Sequence[str], lanes: int, level: int,
                         e: Expr | None) -> str:  # fmt: skip
        """Rounds towards minus infinity; where the signs are known this is one instruction."""
        t = vector_type(scalar, lanes)
        a, b = ops
        known = _constant_of(b)
        if known is not None and known > 0 and known & (known - 1) == 0:
            if fn == "mod":
                return self.ins(f"and {t} {a}, {self.all_of(scalar, known - 1, lanes)}", level)
            shift = self.all_of(scalar, known.bit_length() - 1, lanes)
            return self.ins(f"ashr {t} {a}, {shift}", level)
        positive = known is not None and known > 0
        if e is not None and e.args[1].dtype is int64:
            positive = positive or (bounds(e.args[1])[0] or 0) > 0
            if positive and (bounds(e.args[0])[0] or 0) >= 0 and bounds(e.args[0])[0] is not None:
                return self.ins(f"{'udiv' if fn == 'floordiv' else 'urem'} {t} {a}, {b}", level)
        mask = vector_type("i1", lanes)
        zero, one = self.all_of(scalar, 0, lanes), self.all_of(scalar, 1, lanes)
        safe, none, minus = b, None, None
        if not positive:
            # Dividing by 0 and the lowest number by -1 trap; both are done by 1 and then put right.
            none = self.ins(f"icmp eq {t} {b}, {zero}", level)
            minus = self.ins(f"icmp eq {t} {b}, {self.all_of(scalar, -1, lanes)}", level)
            either = self.ins(f"or {mask} {none}, {minus}", level)
            safe = self.ins(f"select {mask} {either}, {t} {one}, {t} {b}", level)
        quotient = self.ins(f"sdiv {t} {a}, {safe}", level)
        product = self.ins(f"mul {t} {quotient}, {safe}", level)
        rest = self.ins(f"sub {t} {a}, {product}", level)
        inexact = self.ins(f"icmp ne {t} {rest}, {zero}", level)
        signs = rest if positive else self.ins(f"xor {t} {rest}, {safe}", level)
        differ = self.ins(f"icmp slt {t} {signs}, {zero}", level)
        below = self.ins(f"and {mask} {inexact}, {differ}", level)
        if fn == "mod":
            shifted = self.ins(f"add {t} {rest}, {safe}", level)
            return self.ins(f"select {mask} {below}, {t} {shifted}, {t} {rest}", level)
        lower = self.ins(f"sub {t} {quotient}, {one}", level)
        result = self.ins(f"select {mask} {below}, {t} {lower}, {t} {quotient}", level)
        if none is None:
            return result
        negated = self.ins(f"sub {t} {zero}, {a}", level)
        result = self.ins(f"select {mask} {minus}, {t} {negated}, {t} {result}", level)
        return self.ins(f"select {mask} {none}, {t} {zero}, {t} {result}", level)


def _constant_of(op: str) -> int | None:
    """The value of a constant integer operand, scalar or splat."""
    text = op.removeprefix("splat (").rstrip(")").split(" ")[-1]
    if op.startswith("%") or op.startswith("<"):
        return None
    try:
        return int(text)
    except ValueError:
        return None
