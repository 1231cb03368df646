"""Conversions between scalar types.

Float to integer goes through the integer that C would use. 16-bit floats are bits: bfloat16 is
converted with integer instructions everywhere (the processor's own flush denormals), float16 by the
processor where it can, and with integer instructions where not. Rounding is to nearest even; NaN
stays NaN.
"""

from __future__ import annotations

from deepseek.backends.cpu.emit_store import Stores
from deepseek.backends.cpu.emit_types import is_half, literal_of, register_type, vector_type
from deepseek.ir.dtype import DType, bfloat16, bool_, float16, float32, float64, int32, int64


class Convert(Stores):
    """Casts and bitcasts of operands."""

    def convert(self, op: str, source: DType, target: DType, lanes: int, level: int) -> str:
        if source is target:
            return op
        if is_half(source):
            widen = self._from_bfloat16 if source is bfloat16 else self._from_float16
            return self.convert(widen(op, lanes, level), float32, target, lanes, level)
        if is_half(target):
            if source is float64:
                op = self._to_odd(op, lanes, level)
            elif source is not float32:
                op = self.convert(op, source, float32, lanes, level)
            narrow = self._to_bfloat16 if target is bfloat16 else self._to_float16
            return narrow(op, lanes, level)
        a = vector_type(register_type(source), lanes)
        b = vector_type(register_type(target), lanes)
        if target is bool_:
            if source.is_float:
                return self.ins(f"fcmp une {a} {op}, {self._zero(lanes, '0.0')}", level)
            return self.ins(f"icmp ne {a} {op}, {self._zero(lanes, '0')}", level)
        if source.is_float and target.is_float:
            way = "fpext" if target.bits > source.bits else "fptrunc"
            return self.ins(f"{way} {a} {op} to {b}", level)
        if source.is_float:
            return self._float_to_integer(op, source, target, lanes, level)
        if target.is_float:
            way = "sitofp" if source.kind == "i" else "uitofp"
            return self.ins(f"{way} {a} {op} to {b}", level)
        if target.bits == source.bits and source is not bool_:
            return op
        if target.bits < source.bits:
            return self.ins(f"trunc {a} {op} to {b}", level)
        return self.ins(f"{'sext' if source.kind == 'i' else 'zext'} {a} {op} to {b}", level)

    def _zero(self, lanes: int, scalar: str) -> str:
        return "zeroinitializer" if lanes else scalar

    def _float_to_integer(self, op: str, source: DType, target: DType, lanes: int,
                          level: int) -> str:  # fmt: skip
        a = vector_type(register_type(source), lanes)
        if target.kind == "u" and target.bits == 64:
            return self.ins(f"fptoui {a} {op} to {vector_type('i64', lanes)}", level)
        # Smaller unsigned types keep the low bits of a signed number, so that -1.0 wraps round.
        middle = int32 if target.bits < 32 or target is int32 else int64
        b = vector_type(register_type(middle), lanes)
        number = self.ins(f"fptosi {a} {op} to {b}", level)
        return self.convert(number, middle, target, lanes, level)

    def bitcast(self, op: str, source: DType, target: DType, lanes: int, level: int) -> str:
        a, b = register_type(source), register_type(target)
        if a == b:
            return op
        if bool_ in (source, target):
            return self.convert(op, source, target, lanes, level)
        return self.ins(f"bitcast {vector_type(a, lanes)} {op} to {vector_type(b, lanes)}", level)

    # ------------------------------------------------------------------------------ 16-bit floats

    def _word(self, value: int, lanes: int) -> str:
        return f"splat (i32 {value})" if lanes else str(value)

    def _from_bfloat16(self, op: str, lanes: int, level: int) -> str:
        i16, i32 = vector_type("i16", lanes), vector_type("i32", lanes)
        wide = self.ins(f"zext {i16} {op} to {i32}", level)
        bits = self.ins(f"shl {i32} {wide}, {self._word(16, lanes)}", level)
        return self.ins(f"bitcast {i32} {bits} to {vector_type('float', lanes)}", level)

    def _to_bfloat16(self, op: str, lanes: int, level: int) -> str:
        i32, f32 = vector_type("i32", lanes), vector_type("float", lanes)
        bits = self.ins(f"bitcast {f32} {op} to {i32}", level)
        high = self.ins(f"lshr {i32} {bits}, {self._word(16, lanes)}", level)
        odd = self.ins(f"and {i32} {high}, {self._word(1, lanes)}", level)
        half = self.ins(f"add {i32} {bits}, {self._word(0x7FFF, lanes)}", level)
        up = self.ins(f"add {i32} {half}, {odd}", level)
        rounded = self.ins(f"lshr {i32} {up}, {self._word(16, lanes)}", level)
        quiet = self.ins(f"or {i32} {high}, {self._word(0x40, lanes)}", level)
        nan = self.ins(f"fcmp uno {f32} {op}, {op}", level)
        chosen = self.ins(
            f"select {vector_type('i1', lanes)} {nan}, {i32} {quiet}, {i32} {rounded}", level
        )
        return self.ins(f"trunc {i32} {chosen} to {vector_type('i16', lanes)}", level)

    def _from_float16(self, op: str, lanes: int, level: int) -> str:
        i16, f32 = vector_type("i16", lanes), vector_type("float", lanes)
        if self.target.has_f16c:
            half = vector_type("half", lanes)
            bits = self.ins(f"bitcast {i16} {op} to {half}", level)
            return self.ins(f"fpext {half} {bits} to {f32}", level)
        i32 = vector_type("i32", lanes)
        wide = self.ins(f"zext {i16} {op} to {i32}", level)
        sign = self.ins(f"and {i32} {wide}, {self._word(0x8000, lanes)}", level)
        magnitude = self.ins(f"and {i32} {wide}, {self._word(0x7FFF, lanes)}", level)
        shifted = self.ins(f"shl {i32} {magnitude}, {self._word(13, lanes)}", level)
        # Scaling by 2**112 puts the exponent right, denormals included; infinity and NaN need all
        # ones.
        small = self.ins(f"bitcast {i32} {shifted} to {f32}", level)
        factor = _float_literal(2.0**112, lanes)
        number = self.ins(f"fmul {f32} {small}, {factor}", level)
        bits = self.ins(f"bitcast {f32} {number} to {i32}", level)
        special = self.ins(f"icmp uge {i32} {magnitude}, {self._word(0x7C00, lanes)}", level)
        full = self.ins(f"or {i32} {shifted}, {self._word(0x7F800000, lanes)}", level)
        chosen = self.ins(
            f"select {vector_type('i1', lanes)} {special}, {i32} {full}, {i32} {bits}", level
        )
        top = self.ins(f"shl {i32} {sign}, {self._word(16, lanes)}", level)
        signed = self.ins(f"or {i32} {chosen}, {top}", level)
        return self.ins(f"bitcast {i32} {signed} to {f32}", level)

    def _to_float16(self, op: str, lanes: int, level: int) -> str:
        f32, i16 = vector_type("float", lanes), vector_type("i16", lanes)
        if self.target.has_f16c:
            half = vector_type("half", lanes)
            number = self.ins(f"fptrunc {f32} {op} to {half}", level)
            return self.ins(f"bitcast {half} {number} to {i16}", level)
        i32, i1 = vector_type("i32", lanes), vector_type("i1", lanes)
        bits = self.ins(f"bitcast {f32} {op} to {i32}", level)
        sign = self.ins(f"and {i32} {bits}, {self._word(-(2**31), lanes)}", level)
        magnitude = self.ins(f"xor {i32} {bits}, {sign}", level)
        # Normal: round the 13 lost bits to nearest even, and take 112 off the exponent.
        cut = self.ins(f"lshr {i32} {magnitude}, {self._word(13, lanes)}", level)
        odd = self.ins(f"and {i32} {cut}, {self._word(1, lanes)}", level)
        near = self.ins(f"add {i32} {magnitude}, {self._word(0xFFF - (112 << 23), lanes)}", level)
        up = self.ins(f"add {i32} {near}, {odd}", level)
        normal = self.ins(f"lshr {i32} {up}, {self._word(13, lanes)}", level)
        # Denormal: adding 0.5 leaves the rounded result in the low bits.
        number = self.ins(f"bitcast {i32} {magnitude} to {f32}", level)
        moved = self.ins(f"fadd {f32} {number}, {_float_literal(0.5, lanes)}", level)
        low = self.ins(f"bitcast {f32} {moved} to {i32}", level)
        denormal = self.ins(f"sub {i32} {low}, {self._word(0x3F000000, lanes)}", level)
        tiny = self.ins(f"icmp ult {i32} {magnitude}, {self._word(113 << 23, lanes)}", level)
        finite = self.ins(f"select {i1} {tiny}, {i32} {denormal}, {i32} {normal}", level)
        huge = self.ins(f"icmp uge {i32} {magnitude}, {self._word(0x47800000, lanes)}", level)
        nan = self.ins(f"icmp ugt {i32} {magnitude}, {self._word(0x7F800000, lanes)}", level)
        payload = self.ins(f"or {i32} {cut}, {self._word(0x7E00, lanes)}", level)
        kept = self.ins(f"and {i32} {payload}, {self._word(0x7FFF, lanes)}", level)
        special = self.ins(
            f"select {i1} {nan}, {i32} {kept}, {i32} {self._word(0x7C00, lanes)}", level
        )
        chosen = self.ins(f"select {i1} {huge}, {i32} {special}, {i32} {finite}", level)
        top = self.ins(f"lshr {i32} {sign}, {self._word(16, lanes)}", level)
        whole = self.ins(f"or {i32} {chosen}, {top}", level)
        return self.ins(f"trunc {i32} {whole} to {i16}", level)

    def _to_odd(self, op: str, lanes: int, level: int) -> str:
        """float64 to float32, inexact results made odd, so that rounding once more is exact."""
        f32, f64 = vector_type("float", lanes), vector_type("double", lanes)
        i32, i1 = vector_type("i32", lanes), vector_type("i1", lanes)
        near = self.ins(f"fptrunc {f64} {op} to {f32}", level)
        back = self.ins(f"fpext {f32} {near} to {f64}", level)
        size = "llvm.fabs." + (f"v{lanes}f64" if lanes else "f64")
        a = self.ins(f"call {f64} @{size}({f64} {op})", level)
        b = self.ins(f"call {f64} @{size}({f64} {back})", level)
        bits = self.ins(f"bitcast {f32} {near} to {i32}", level)
        above = self.ins(f"fcmp ogt {f64} {b}, {a}", level)
        one = self.ins(f"zext {i1} {above} to {i32}", level)
        lower = self.ins(f"sub {i32} {bits}, {one}", level)
        inexact = self.ins(f"fcmp one {f64} {a}, {b}", level)
        odd = self.ins(f"zext {i1} {inexact} to {i32}", level)
        result = self.ins(f"or {i32} {lower}, {odd}", level)
        return self.ins(f"bitcast {i32} {result} to {f32}", level)


def _float_literal(value: float, lanes: int) -> str:
    text = literal_of(value, float32)
    return f"splat (float {text})" if lanes else text


__all__ = ["Convert", "float16"]
