"""The scalar value of anything in a region at an index: loads at the leaves, op meanings above.

16-bit floats are loaded as float32 and computed in float32; a cast that the user wrote still
rounds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from deepseek.errors import CompileError
from deepseek.ir import scalar
from deepseek.ir.access import Index, linear, point_value
from deepseek.ir.dtype import DType, float32
from deepseek.ir.graph import CONSTANT, Graph, Value
from deepseek.ir.scalar import TRUE, Expr
from deepseek.kernel.ir import Buffer


def working(dtype: DType) -> DType:
    """The type that values of a dtype are computed in."""
    return float32 if dtype.is_float and dtype.bits == 16 else dtype


@dataclass
class Evaluator:
    """Evaluates values of a region's body. `known` holds what loops have computed, and where."""

    body: Graph
    buffers: dict[Value, Buffer]
    known: dict[Value, tuple[Index, Expr]] = field(default_factory=dict)
    memo: dict[tuple[Value, Index, Expr], Expr] = field(default_factory=dict)

    def at(self, value: Value, index: Index, guard: Expr = TRUE) -> Expr:
        """The value at an index, in its working type; 0 where the guard is false."""
        if value in self.known:
            where, result = self.known[value]
            if where != index:
                raise CompileError(
                    f"{value} is needed at {index} but computed at {where}: a wrong fusion"
                )
            return result if guard is TRUE else scalar.where(guard, result, zero(result.dtype))
        key = (value, index, guard)
        if key not in self.memo:
            self.memo[key] = self._compute(value, index, guard)
        return self.memo[key]

    def _compute(self, value: Value, index: Index, guard: Expr) -> Expr:
        buffer = self.buffers.get(value)
        if buffer is not None:
            offset = linear(index, value.type.shape)
            return widened(scalar.load(buffer.name, buffer.dtype, offset, guard))
        node = value.node
        if node.op is CONSTANT:
            array = node.attrs["array"].numpy
            result = scalar.const(array.reshape(-1)[0].item(), working(value.type.dtype))
            return result if guard is TRUE else scalar.where(guard, result, zero(result.dtype))

        reads: list[Expr] = []

        def read(k: int, position: Index, inner: Expr = TRUE) -> Expr:
            reads.append(self.at(node.inputs[k], tuple(position), scalar.and_(guard, inner)))
            return reads[-1]

        result = widened(point_value(node, index, read))
        if guard is TRUE or result in reads:
            return result
        # What is computed from guarded reads need not be 0 itself: exp(0) is 1, a padding any
        # value.
        return scalar.where(guard, result, zero(result.dtype))


def widened(e: Expr) -> Expr:
    """A scalar in its working type."""
    return scalar.cast(e, working(e.dtype))


def zero(dtype: DType) -> Expr:
    return scalar.const(0, dtype)
