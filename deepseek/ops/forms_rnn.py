"""Recurrent layers in ONNX: one LSTM, GRU or RNN node for each direction of each layer.

PyTorch's gates are put into ONNX's order by nodes, so that weights stay under their own names;
runtimes do that once. 16-bit floats are computed in float32, which runtimes have kernels for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.ir.dtype import float64, int32
from deepseek.ir.graph import Node
from deepseek.ops.forms import Form, form, types_of
from deepseek.ops.forms_nn import given


def ordered(b: Any, weight: str, size: int, order: Sequence[int]) -> str:
    """The gates of a weight, one below the other, in another order."""
    if len(order) == 1:
        return weight
    sizes = b.array(np.full(len(order), size))
    gates = b.node("Split", weight, sizes, axis=0, outputs=len(order))
    return str(b.node("Concat", *(gates[i] for i in order), axis=0))


def layer(operator: str, order: Sequence[int], states: Sequence[str], **fixed: Any) -> Form:
    """One direction of one layer. `order` says where ONNX's gates stand among PyTorch's."""

    @form(operator)
    def write(b: Any, node: Node, *inputs: str) -> Any:
        a, hidden = node.attrs, types_of(node)[1].shape[1]
        x, w_ih, w_hh, lengths = given(node, inputs, "x", "w_ih", "w_hh", "lengths")
        biases = given(node, inputs, "b_ih", "b_hh")
        projected = "w_hr" in node.op.parameters and "w_hr" not in a
        dtype = types_of(node)[0].dtype
        given_as_numbers = a.get("lengths") is not None
        if projected or given_as_numbers or not isinstance(hidden, int) or dtype is float64:
            return None  # onnxruntime has no layers of float64
        carried = dtype.accumulator
        first = b.array([0])

        def direction(value: str) -> str:
            return str(b.node("Unsqueeze", b.cast(value, carried), first))

        def gates(value: str) -> str:
            return ordered(b, value, hidden, order)

        if lengths is not None:  # as here, a longer one is as good as the whole
            lengths = b.cast(b.node("Min", lengths, b.size(types_of(node)[0].shape[0])), int32)
        bias = ""
        if any(biases):
            none = b.array(np.zeros(hidden * len(order)), dtype)
            both = [gates(v) if v is not None else none for v in biases]
            bias = direction(b.node("Concat", *both, axis=0))
        weights = [direction(gates(v)) for v in (w_ih, w_hh) if v is not None]
        names = given(node, inputs, *states)
        ends = [direction(v) for v in names if v is not None]
        activation = {"activations": [a["nonlinearity"].title()]} if "nonlinearity" in a else {}
        out, *last = b.node(
            operator, b.cast(x, carried), *weights, bias,
            lengths or "", *ends, outputs=1 + len(ends),
            hidden_size=hidden, direction="reverse" if a["reverse"] else "forward",
            **activation, **fixed,
        )  # fmt: skip
        made = [b.node("Squeeze", out, b.array([1])), *(b.node("Squeeze", v, first) for v in last)]
        return [b.cast(v, dtype) for v in made]

    return write


lstm = layer("LSTM", (0, 3, 1, 2), ("h0", "c0"))  # input, output, forget, cell
gru = layer("GRU", (1, 0, 2), ("h0",), linear_before_reset=1)  # update, reset, new
rnn = layer("RNN", (0,), ("h0",))
