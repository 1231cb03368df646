"""One direction of one recurrent layer as a composite: LSTM, GRU, plain RNN over (time, batch, in).

All steps' products with the input are one matmul; a scan carries the state. Weights are laid out as
PyTorch lays them out: gates one below the other, (gates * hidden, features). Where `lengths` are
given, a sequence's state stays and its outputs are 0 after its end; `reverse` starts at its end.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.op import Sample
from deepseek.ir.shape import same
from deepseek.ops import forms_rnn
from deepseek.ops.control import scan
from deepseek.ops.create import arange
from deepseek.ops.define import composite, describe, quotient, shape_of, times
from deepseek.ops.elementwise import maximum, where
from deepseek.ops.nn import linear
from deepseek.ops.slicing import narrow

__all__ = ["gru_layer", "lstm_layer", "rnn_layer"]

States = tuple[Tensor, ...]


def check(op: str, gates: int, x: Tensor, h0: Tensor, w_ih: Tensor, w_hh: Tensor) -> None:
    """Raise ShapeError unless the sizes of a layer's arguments fit."""
    x_shape, h_shape = shape_of(x), shape_of(h0)
    fits = (
        x.ndim == 3 and h0.ndim == 2 and w_ih.ndim == 2 and w_hh.ndim == 2
        and same(x_shape[1], h_shape[0])
        and same(shape_of(w_ih)[1], x_shape[2])
        and same(shape_of(w_hh)[1], h_shape[1])
        and same(shape_of(w_ih)[0], shape_of(w_hh)[0])
    )  # fmt: skip
    if not fits:
        got = [f"{n} {describe(t)}" for n, t in
               (("x", x), ("h0", h0), ("w_ih", w_ih), ("w_hh", w_hh))]  # fmt: skip
        raise op_error(
            ShapeError, op, got,
            f"x (time, batch, features), h0 (batch, hidden), w_ih ({gates} * hidden, features), "
            f"w_hh ({gates} * hidden, hidden)", user_line(),
        )  # fmt: skip


def run(step: Any, first: States, inputs: Tensor, lengths: Tensor | None, reverse: bool) -> States:
    """(outputs, *last states) of `step(states, row)`, whose first new state is the output."""
    if lengths is None:

        def plain(states: States, row: Tensor) -> tuple[States, Tensor]:
            new = step(states, row)
            return new, new[0]

        last, out = scan(plain, first, inputs, reverse=reverse)
        return (out, *last)
    going = arange(shape_of(inputs)[0]).reshape((-1, 1, 1)) < lengths.reshape((1, -1, 1))

    def masked(states: States, row: tuple[Tensor, Tensor]) -> tuple[States, Tensor]:
        x, here = row
        new = step(states, x)
        kept = tuple(where(here, n, old) for n, old in zip(new, states, strict=True))
        return kept, where(here, new[0], 0)

    last, out = scan(masked, first, (inputs, going), reverse=reverse)
    return (out, *last)


def chunks(x: Tensor, count: int) -> list[Tensor]:
    """The gates side by side on the last axis."""
    size = quotient(shape_of(x)[-1], count)
    return [narrow(x, -1, times(size, i), size) for i in range(count)]


# ------------------------------------------------------------------------------------- references


def _walk(step: Any, x: Any, states: Any, lengths: Any, reverse: bool) -> Any:
    time, batch = x.shape[:2]
    states = [np.array(s) for s in states]
    out = np.zeros((time, *states[0].shape), states[0].dtype)
    for b in range(batch):
        end = time if lengths is None else int(lengths[b])
        order = range(end)[::-1] if reverse else range(end)
        for t in order:
            new = step(x[t, b], *(s[b] for s in states))
            for s, n in zip(states, new, strict=True):
                s[b] = n
            out[t, b] = new[0]
    return (out, *states)


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _or_zero(bias: Any) -> Any:
    return 0 if bias is None else bias


def _lstm_reference(
    x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, w_hr: Any, lengths: Any,
    reverse: bool,
) -> Any:  # fmt: skip
    def step(row: Any, h: Any, c: Any) -> Any:
        i, f, g, o = np.split(w_ih @ row + w_hh @ h + _or_zero(b_ih) + _or_zero(b_hh), 4)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        return (h if w_hr is None else w_hr @ h), c

    return _walk(step, x, (h0, c0), lengths, reverse)


def _gru_reference(
    x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, lengths: Any, reverse: bool
) -> Any:
    def step(row: Any, h: Any) -> Any:
        (xr, xz, xn), (hr, hz, hn) = (
            np.split(w_ih @ row + _or_zero(b_ih), 3), np.split(w_hh @ h + _or_zero(b_hh), 3),
        )  # fmt: skip
        z, n = _sigmoid(xz + hz), np.tanh(xn + _sigmoid(xr + hr) * hn)
        return ((1 - z) * n + z * h,)

    return _walk(step, x, (h0,), lengths, reverse)


def _rnn_reference(
    x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, lengths: Any, reverse: bool,
    nonlinearity: str,
) -> Any:  # fmt: skip
    def step(row: Any, h: Any) -> Any:
        new = w_ih @ row + w_hh @ h + _or_zero(b_ih) + _or_zero(b_hh)
        return (np.tanh(new) if nonlinearity == "tanh" else np.maximum(new, 0),)

    return _walk(step, x, (h0,), lengths, reverse)


def _samples(gates: int, states: int, **kwargs: Any) -> list[Sample]:
    def sizes(time: int, batch: int, features: int, hidden: int, bias: bool = True) -> Any:
        start = ((time, batch, features), *[(batch, hidden)] * states)
        weights = ((gates * hidden, features), (gates * hidden, hidden))
        return start + weights + ((gates * hidden,),) * (2 if bias else 0)

    # The tensors before `lengths`: an LSTM's also has the projection.
    cut = (*sizes(4, 3, 2, 3), *((None,) if states == 2 else ()), np.array([4, 1, 2]))
    return [
        Sample(sizes(5, 3, 4, 6), kwargs, low=-1, high=1),
        Sample(sizes(3, 2, 1, 5, bias=False), kwargs | {"reverse": True}, low=-1, high=1),
        Sample(cut, kwargs, low=-1, high=1),
        Sample(cut, kwargs | {"reverse": True}, low=-1, high=1),
    ]


# ----------------------------------------------------------------------------------------- layers


@composite(
    reference=_lstm_reference,
    samples=lambda: [
        *_samples(4, 2),
        Sample(((3, 2, 4), (2, 3), (2, 5), (20, 4), (20, 3), (20,), (20,), (3, 5)), low=-1, high=1),
    ],
    tolerance=64,
    precision="low",
    onnx=forms_rnn.lstm,
)
def lstm_layer(
    x: Tensor, h0: Tensor, c0: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
    b_hh: Tensor | None = None, w_hr: Tensor | None = None, lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """One direction of one LSTM layer: (outputs (time, batch, hidden), last h, last c).

    Gates stand in the order input, forget, cell, output (Hochreiter and Schmidhuber 1997; forget
    gate Gers 1999). `w_hr` projects the output (Sak 2014): h is then (batch, projected).

    >>> x, h, w_ih, w_hh = ds.ones(5, 1, 2), ds.zeros(1, 3), ds.ones(12, 2), ds.ones(12, 3)
    >>> [y.shape for y in ds.lstm_layer(x, h, h, w_ih, w_hh)]
    [(5, 1, 3), (1, 3), (1, 3)]
    """
    check("lstm_layer", 4, x, h0, w_ih, w_hh)

    def step(states: States, row: Tensor) -> States:
        h, c = states
        i, f, g, o = chunks(row + linear(h, w_hh, b_hh), 4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return (h if w_hr is None else linear(h, w_hr)), c

    out, h, c = run(step, (h0, c0), linear(x, w_ih, b_ih), lengths, reverse)
    return out, h, c


@composite(
    reference=_gru_reference, samples=lambda: _samples(3, 1), tolerance=64, precision="low",
    onnx=forms_rnn.gru,
)  # fmt: skip
def gru_layer(
    x: Tensor, h0: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
    b_hh: Tensor | None = None, lengths: Tensor | None = None, reverse: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One direction of one GRU layer: (outputs (time, batch, hidden), last h).

    Gates stand in the order reset, update, new; the reset gate multiplies the state's product and
    its bias (Cho 2014, in the form of cuDNN and PyTorch).

    >>> x, h, w_ih, w_hh = ds.ones(5, 1, 2), ds.zeros(1, 3), ds.ones(9, 2), ds.ones(9, 3)
    >>> [y.shape for y in ds.gru_layer(x, h, w_ih, w_hh)]
    [(5, 1, 3), (1, 3)]
    """
    check("gru_layer", 3, x, h0, w_ih, w_hh)

    def step(states: States, row: Tensor) -> States:
        (h,) = states
        (xr, xz, xn), (hr, hz, hn) = chunks(row, 3), chunks(linear(h, w_hh, b_hh), 3)
        z, n = (xz + hz).sigmoid(), (xn + (xr + hr).sigmoid() * hn).tanh()
        return (n + z * (h - n),)

    out, h = run(step, (h0,), linear(x, w_ih, b_ih), lengths, reverse)
    return out, h


@composite(
    reference=_rnn_reference,
    samples=lambda: [*_samples(1, 1), *_samples(1, 1, nonlinearity="relu")[:2]],
    tolerance=64,
    precision="low",
    onnx=forms_rnn.rnn,
)
def rnn_layer(
    x: Tensor, h0: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
    b_hh: Tensor | None = None, lengths: Tensor | None = None, reverse: bool = False,
    nonlinearity: str = "tanh",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One direction of one plain recurrent layer (Elman 1990): (outputs (time, batch, hidden),
    last h), the state being tanh or relu of its own product plus the input's.

    Raises ArgumentError for other nonlinearities.

    >>> x, h, w_ih, w_hh = ds.ones(5, 1, 2), ds.zeros(1, 3), ds.ones(3, 2), ds.ones(3, 3)
    >>> [y.shape for y in ds.rnn_layer(x, h, w_ih, w_hh)]
    [(5, 1, 3), (1, 3)]
    """
    check("rnn_layer", 1, x, h0, w_ih, w_hh)
    if nonlinearity not in ("tanh", "relu"):
        raise op_error(
            ArgumentError, "rnn_layer", f"nonlinearity={nonlinearity!r}", "'tanh' or 'relu'",
            user_line(),
        )  # fmt: skip

    def step(states: States, row: Tensor) -> States:
        new = row + linear(states[0], w_hh, b_hh)
        return (new.tanh() if nonlinearity == "tanh" else maximum(0, new),)

    out, h = run(step, (h0,), linear(x, w_ih, b_ih), lengths, reverse)
    return out, h
