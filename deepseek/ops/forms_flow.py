"""How control flow is written in ONNX: If, Loop and Scan, whose bodies are graphs of their own.

Bodies read values from outside as they are; only states and rows are passed in and out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.ir import scalar
from deepseek.ir.dtype import bool_, int64
from deepseek.ir.graph import Graph, Node, Value
from deepseek.ir.scalar import as_expr
from deepseek.ir.shape import simplify
from deepseek.ops.forms import form, types_of


def _graph(
    b: Any,
    name: str,
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[str],
    like: Sequence[Value],
) -> Any:
    """A body whose last outputs are of the types of some values."""
    shapes: list[Any] = [()] * (len(outputs) - len(like)) + [v.type.shape for v in like]
    made = [b.result(name, shape) for name, shape in zip(outputs, shapes, strict=True)]
    return b.onnx.helper.make_graph(nodes, b.name(name), inputs, made)


def _finished(b: Any, node: Node, operator: str, inputs: list[str], **attrs: Any) -> Any:
    """The node of a control flow operator, its outputs typed as ours."""
    made = [b.name(operator.lower()) for _ in node.outputs]
    b.append(operator, inputs, made, attrs)
    for name, value in zip(made, node.outputs, strict=True):
        b.dtypes[name] = b.carried(value.type.dtype)
    return b.arrived(node.outputs, made)


@form("If")
def cond(b: Any, node: Node, pred: str, *operands: str) -> Any:
    """If: the branches read the operands from outside."""
    branches = {}
    for side in ("true", "false"):
        nodes, outputs = b.body(node.attrs[f"{side}_graph"], operands)
        branches["then_branch" if side == "true" else "else_branch"] = _graph(
            b, side, nodes, [], outputs, node.attrs[f"{side}_graph"].outputs
        )
    return _finished(b, node, "If", [pred], **branches)


@form("Loop")
def while_loop(b: Any, node: Node, *inputs: str) -> Any:
    """Loop: the condition is computed before the first step and at the end of each."""
    condition, body, consts = (node.attrs[k] for k in ("condition", "body", "consts"))
    outside, carried = inputs[:consts], inputs[consts:]
    (before,) = b.graph(condition, inputs)
    carried = b.crossing(carried)
    states = [b.parameter("state", v.type) for v in body.inputs[consts:]]
    turn, going = b.parameter("turn", None, int64), b.parameter("going", None, bool_)
    b.scopes.append([])
    now = b.arrived(body.inputs[consts:], [s.name for s in states])
    after = b.graph(body, (*outside, *now))
    (again,) = b.graph(condition, (*outside, *after))
    ends = [b.fresh(v) for v in (again, *b.crossing(after))]
    inner = _graph(b, "body", b.scopes.pop(), [turn, going, *states], ends, body.outputs)
    return _finished(b, node, "Loop", ["", before, *carried], body=inner)


@form("Scan")
def scan(b: Any, node: Node, *inputs: str) -> Any:
    """Scan: the body reads outside values as they are."""
    body: Graph = node.attrs["body"]
    consts, carries, length = (node.attrs[k] for k in ("consts", "carries", "length"))
    outside, carried = inputs[:consts], inputs[consts : consts + carries]
    rows = inputs[consts + carries :]
    if isinstance(length, int) and length == 0:
        empty = [v.type for v in node.outputs[carries:]]
        return [*map(b.fresh, carried), *(b.empty(t.shape, t.dtype) for t in empty)]
    carried, rows = b.crossing(carried), b.crossing(rows)
    states = [b.parameter("at", v.type) for v in body.inputs[consts:]]
    nodes, outputs = b.body(body, (*outside, *(s.name for s in states)))
    if not rows:  # something has to say how often
        end = b.node("Squeeze", b.size(length))
        rows = (b.node("Range", b.number(0, int64), end, b.number(1, int64)),)
        states.append(b.parameter("step", None, int64))
    inner = _graph(b, "body", nodes, states, outputs, body.outputs)
    back, stacks = int(node.attrs["reverse"]), len(outputs) - carries
    return _finished(
        b, node, "Scan", [*carried, *rows], body=inner, num_scan_inputs=len(rows),
        scan_input_directions=[back] * len(rows),
        **({"scan_output_directions": [back] * stacks} if stacks else {}),
    )  # fmt: skip


@form("ReduceProd")
def product(b: Any, node: Node, x: str) -> Any:
    """ReduceProd of floats; integers row by row, since onnxruntime multiplies them as floats."""
    (type_,), axes, out = types_of(node), node.attrs["axes"], node.outputs[0].type
    if type_.dtype.is_float:
        return b.node("ReduceProd", x, b.array(np.array(axes, np.int64)), keepdims=0)
    first = b.expand(b.number(1, out.dtype), (), out.shape)
    if type_.numel == 0:
        return first
    kept = [a for a in range(type_.rank) if a not in axes]
    count = simplify(scalar.product(as_expr(type_.shape[a]) for a in axes))
    turned = b.node("Transpose", x, perm=[*axes, *kept])
    rows = b.node("Reshape", turned, b.shape((count, *out.shape)))
    state, row = b.parameter("product", out), b.parameter("row", out)
    b.scopes.append([])
    ends = [b.fresh(b.node("Mul", state.name, row.name))]
    inner = _graph(b, "body", b.scopes.pop(), [state, row], ends, node.outputs)
    (made,) = _finished(b, node, "Scan", [first, rows], body=inner, num_scan_inputs=1)
    return made
