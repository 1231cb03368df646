"""Recurrent layers with PyTorch's names, weight layout and keys: RNN, LSTM, GRU and their cells.

Each direction of each layer is one composite (`ops.recurrent`). Sequences of different lengths are
given as a padded batch and their `lengths`, in place of packed sequences: states stop and outputs
are 0 after a sequence's end.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.nn import functional as F
from deepseek.nn import init
from deepseek.nn.basic import new_parameter
from deepseek.nn.module import Module
from deepseek.ops.create import zeros
from deepseek.ops.define import describe, shape_of
from deepseek.ops.recurrent import gru_layer, lstm_layer, rnn_layer
from deepseek.ops.view import concat, stack, swapaxes

__all__ = ["GRU", "GRUCell", "LSTM", "LSTMCell", "RNN", "RNNCell"]

States = tuple[Tensor, ...]


class _Recurrent(Module):
    """What the layers share: weights per layer and direction, batches, states, lengths."""

    gates: ClassVar[int]
    settings = (
        "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout",
        "bidirectional", "proj_size",
    )  # fmt: skip

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: int,
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
        for what, size in sizes.items():
            if not isinstance(size, int) or size < 1:
                raise ArgumentError(f"{name}: got {what}={size!r}; wanted an integer above 0")
        if not 0 <= dropout <= 1:
            raise ArgumentError(f"{name}: got dropout={dropout}; wanted a probability")
        if not 0 <= proj_size < hidden_size:
            raise ArgumentError(
                f"{name}: got proj_size={proj_size}; wanted 0 (none) up to hidden_size - 1"
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        rows, out = self.gates * hidden_size, proj_size or hidden_size
        for layer in range(num_layers):
            features = out * (1 + bidirectional) if layer else input_size
            shapes = {"weight_ih": (rows, features), "weight_hh": (rows, out)}
            if bias:
                shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
            if proj_size:
                shapes["weight_hr"] = (proj_size, hidden_size)
            for suffix in self.suffixes(layer):
                for kind, shape in shapes.items():
                    parameter = new_parameter(shape, dtype, device)
                    self.register_parameter(kind + suffix, parameter)
        self.reset_parameters()

    def suffixes(self, layer: int) -> tuple[str, ...]:
        """What a layer's parameters end in, for each direction."""
        return (f"_l{layer}", f"_l{layer}_reverse")[: 1 + self.bidirectional]

    def reset_parameters(self) -> None:
        """Draw all evenly over [-1 / sqrt(hidden_size), 1 / sqrt(hidden_size))."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def weights(self, suffix: str) -> tuple[Tensor | None, ...]:
        """w_ih, w_hh, b_ih, b_hh of one direction of one layer."""
        biases = ("bias_ih", "bias_hh") if self.bias else ()
        found = [getattr(self, kind + suffix) for kind in ("weight_ih", "weight_hh", *biases)]
        return (*found, *(None,) * (4 - len(found)))

    def step(
        self, x: Tensor, states: States, suffix: str, lengths: Tensor | None, reverse: bool
    ) -> States:
        """(outputs, *last states) of one direction of one layer."""
        raise NotImplementedError

    def state_sizes(self) -> tuple[int, ...]:
        """The size of each state."""
        return (self.proj_size or self.hidden_size,)

    def run(self, x: Tensor, hx: States | None, lengths: Tensor | None) -> tuple[Tensor, States]:
        """The outputs and the last states (layers * directions, batch, size)."""
        batched = x.ndim == 3
        if x.ndim not in (2, 3) or (lengths is not None and not batched):
            raise op_error(
                ShapeError, type(self).__name__, describe(x),
                "(time, batch, features), with batch_first=True (batch, time, features), or "
                "(time, features) for one sequence without lengths", user_line(),
            )  # fmt: skip
        if not batched:
            x = x.reshape((shape_of(x)[0], 1, shape_of(x)[1]))
            hx = None if hx is None else tuple(h.reshape((-1, 1, shape_of(h)[-1])) for h in hx)
        elif self.batch_first:
            x = swapaxes(x, 0, 1)
        directions = 1 + self.bidirectional
        if hx is None:
            batch = shape_of(x)[1]
            count = self.num_layers * directions
            hx = tuple(zeros((count, batch, n), dtype=x.dtype) for n in self.state_sizes())
        last: list[States] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction, suffix in enumerate(self.suffixes(layer)):
                start = tuple(h[layer * directions + direction] for h in hx)
                out, *states = self.step(x, start, suffix, lengths, bool(direction))
                outputs.append(out)
                last.append(tuple(states))
            x = outputs[0] if directions == 1 else concat(outputs, axis=-1)
            if layer + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        ends = tuple(stack([states[i] for states in last]) for i in range(len(hx)))
        if not batched:
            return x[:, 0], tuple(h[:, 0] for h in ends)
        return (swapaxes(x, 0, 1) if self.batch_first else x), ends

    def extra_repr(self) -> str:
        said = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False,
                    "dropout": 0.0, "bidirectional": False}  # fmt: skip
        said += [f"{n}={getattr(self, n)}" for n, d in defaults.items() if getattr(self, n) != d]
        return ", ".join(said)


class RNN(_Recurrent):
    """h_t = nonlinearity(w_ih x_t + b_ih + w_hh h_(t-1) + b_hh) (Elman 1990), layer upon layer.

    Takes x (time, batch, input_size), optionally h_0 (layers * directions, batch, hidden_size) and
    `lengths` (batch,); gives (outputs (time, batch, directions * hidden_size), h_n).

    >>> out, h = ds.nn.RNN(3, 5)(ds.ones(4, 2, 3))
    >>> out.shape, h.shape
    ((4, 2, 5), (1, 2, 5))
    """

    gates = 1
    settings = ("nonlinearity",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ArgumentError(f"RNN: got nonlinearity={nonlinearity!r}; wanted 'tanh' or 'relu'")
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout,
                         bidirectional, 0, device, dtype)  # fmt: skip
        self.nonlinearity = nonlinearity

    def step(
        self, x: Tensor, states: States, suffix: str, lengths: Tensor | None, reverse: bool
    ) -> States:
        return rnn_layer(  # type: ignore[no-any-return]
            x, *states, *self.weights(suffix), lengths, reverse=reverse,
            nonlinearity=self.nonlinearity,
        )  # fmt: skip

    def forward(
        self, x: Tensor, hx: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        out, (h,) = self.run(x, None if hx is None else (hx,), lengths)
        return out, h


class GRU(_Recurrent):
    """Gated recurrent units (Cho 2014), layer upon layer, gates in the order reset, update, new.

    Takes x (time, batch, input_size), optionally h_0 (layers * directions, batch, hidden_size) and
    `lengths` (batch,); gives (outputs (time, batch, directions * hidden_size), h_n).

    >>> gru = ds.nn.GRU(3, 5, num_layers=2, bidirectional=True, batch_first=True)
    >>> out, h = gru(ds.ones(2, 4, 3), lengths=ds.asarray([4, 1]))
    >>> out.shape, h.shape
    ((2, 4, 10), (4, 2, 5))
    """

    gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout,
                         bidirectional, 0, device, dtype)  # fmt: skip

    def step(
        self, x: Tensor, states: States, suffix: str, lengths: Tensor | None, reverse: bool
    ) -> States:
        return gru_layer(  # type: ignore[no-any-return]
            x, *states, *self.weights(suffix), lengths, reverse=reverse
        )

    def forward(
        self, x: Tensor, hx: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        out, (h,) = self.run(x, None if hx is None else (hx,), lengths)
        return out, h


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), gates in the order input, forget,
    cell, output; `proj_size` projects the outputs (Sak 2014).

    Takes x (time, batch, input_size), optionally (h_0, c_0) and `lengths` (batch,); gives (outputs
    (time, batch, directions * size), (h_n, c_n)), the states (layers * directions, batch, size).

    >>> out, (h, c) = ds.nn.LSTM(3, 5, proj_size=2)(ds.ones(4, 2, 3))
    >>> out.shape, h.shape, c.shape
    ((4, 2, 2), (1, 2, 2), (1, 2, 5))
    """

    gates = 4

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout,
                         bidirectional, proj_size, device, dtype)  # fmt: skip

    def state_sizes(self) -> tuple[int, ...]:
        return (self.proj_size or self.hidden_size, self.hidden_size)

    def step(
        self, x: Tensor, states: States, suffix: str, lengths: Tensor | None, reverse: bool
    ) -> States:
        projection = getattr(self, "weight_hr" + suffix) if self.proj_size else None
        return lstm_layer(  # type: ignore[no-any-return]
            x, *states, *self.weights(suffix), projection, lengths, reverse=reverse
        )

    def forward(
        self, x: Tensor, hx: States | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, States]:
        return self.run(x, None if hx is None else tuple(hx), lengths)


class _Cell(Module):
    """One step of one layer: (batch, input_size) and a state to the next state."""

    gates: ClassVar[int]
    settings = ("input_size", "hidden_size", "bias")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        rows = self.gates * hidden_size
        self.weight_ih = new_parameter((rows, input_size), dtype, device)
        self.weight_hh = new_parameter((rows, hidden_size), dtype, device)
        self.bias_ih = new_parameter((rows,), dtype, device) if bias else None
        self.bias_hh = new_parameter((rows,), dtype, device) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all evenly over [-1 / sqrt(hidden_size), 1 / sqrt(hidden_size))."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def run(
        self, layer: Any, x: Tensor, states: States | None, count: int, **kwargs: Any
    ) -> States:
        """The states after a sequence of one step."""
        alone = x.ndim == 1
        row = x.reshape((1, 1, -1)) if alone else x.reshape((1, *shape_of(x)))
        if states is None:
            states = (zeros((shape_of(row)[1], self.hidden_size), dtype=x.dtype),) * count
        elif alone:
            states = tuple(s.reshape((1, -1)) for s in states)
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        _, *new = layer(row, *states, *weights, **kwargs)
        return tuple(s[0] for s in new) if alone else tuple(new)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class RNNCell(_Cell):
    """One step of `RNN`: x (batch, input_size), h (batch, hidden_size) to the next h.

    >>> ds.nn.RNNCell(3, 5)(ds.ones(2, 3), ds.zeros(2, 5)).shape
    (2, 5)
    """

    gates = 1
    settings = ("nonlinearity",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ArgumentError(
                f"RNNCell: got nonlinearity={nonlinearity!r}; wanted 'tanh' or 'relu'"
            )
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        states = None if hx is None else (hx,)
        return self.run(rnn_layer, x, states, 1, nonlinearity=self.nonlinearity)[0]


class GRUCell(_Cell):
    """One step of `GRU`: x (batch, input_size), h (batch, hidden_size) to the next h.

    >>> ds.nn.GRUCell(3, 5)(ds.ones(2, 3), ds.zeros(2, 5)).shape
    (2, 5)
    """

    gates = 3

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        return self.run(gru_layer, x, None if hx is None else (hx,), 1)[0]


class LSTMCell(_Cell):
    """One step of `LSTM`: x (batch, input_size), (h, c) of (batch, hidden_size) to the next.

    >>> h, c = ds.nn.LSTMCell(3, 5)(ds.ones(2, 3))
    >>> h.shape, c.shape
    ((2, 5), (2, 5))
    """

    gates = 4

    def forward(self, x: Tensor, hx: States | None = None) -> States:
        return self.run(lstm_layer, x, None if hx is None else tuple(hx), 2)
