"""What computing costs: about how many instructions a node takes, and which scalars are costly.

A value of one element is recomputed by every kernel that reads it, outside of its loops. That is
free where it is a sum or a quotient. A power of the step count is hundreds of instructions, to be
compiled into each of them: such values are named here, and `grouping` has them computed once.
"""

from __future__ import annotations

from collections.abc import Iterator

from deepseek.ir import scalar
from deepseek.ir.access import inlined
from deepseek.ir.graph import Graph, Node, Value
from deepseek.ir.op import Kind

REPEATED_WORK = 8  # instructions per element that may be spent again to save a trip to memory
HEAVY = {"div": 4, "sqrt": 4, "floordiv": 4, "mod": 4, "pow": 20} | dict.fromkeys(
    ("exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "atan", "erf"), 10
)


def weight(node: Node) -> int:
    """About how many instructions one element of a pointwise node takes."""
    if node.op.kind is not Kind.ELEMENTWISE:
        return REPEATED_WORK
    assert node.op.meaning is not None
    operands = [scalar.var(f"x{i}", v.type.dtype) for i, v in enumerate(node.inputs)]
    parts = scalar.walk([node.op.meaning(*operands, **node.attrs)])
    return sum(HEAVY.get(e.fn, 1) for e in parts if e.args)


def costly_scalars(graph: Graph) -> Iterator[Value]:
    """The values of one element that take more than REPEATED_WORK to compute from memory."""
    spent: dict[Value, int] = {}
    for node in graph.nodes:
        value = node.outputs[0]
        if value.type.numel != 1 or not inlined(value):
            continue
        own = weight(node) if node.op.kind is Kind.ELEMENTWISE else 0
        spent[value] = own + sum([spent.get(v, 0) for v in node.inputs])
        if own and spent[value] > REPEATED_WORK:
            yield value
