"""RNN, LSTM and GRU against plain loops in float64: layers, directions, lengths, states, keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError, ShapeError

KINDS = {"RNN": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM}


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def one_step(kind: str, gates: Any, state: Any) -> Any:
    """The next state from (input part, state part) of the gates."""
    xs, hs = gates
    if kind == "RNN":
        return (np.tanh(xs + hs),)
    if kind == "GRU":
        (xr, xz, xn), (hr, hz, hn) = np.split(xs, 3), np.split(hs, 3)
        z = sigmoid(xz + hz)
        return ((1 - z) * np.tanh(xn + sigmoid(xr + hr) * hn) + z * state[0],)
    i, f, g, o = np.split(xs + hs, 4)
    c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def by_loops(kind: str, layer: Any, x: Any, starts: Any, lengths: Any) -> Any:
    """(outputs, states) with x (time, batch, features), in float64."""
    weights = {k: v.numpy().astype(np.float64) for k, v in layer.state_dict().items()}
    ends: list[Any] = []
    for depth in range(layer.num_layers):
        outputs = []
        for direction in range(1 + layer.bidirectional):
            suffix = f"_l{depth}" + "_reverse" * direction
            at = len(ends)
            states = [s[at].copy() for s in starts]
            out = np.zeros((*x.shape[:2], layer.hidden_size))
            for b in range(x.shape[1]):
                order = range(lengths[b])[:: -1 if direction else 1]
                for t in order:
                    gates = [
                        weights[f"weight_{n}{suffix}"] @ v + weights.get(f"bias_{n}{suffix}", 0)
                        for n, v in (("ih", x[t, b]), ("hh", states[0][b]))
                    ]
                    new = one_step(kind, gates, [s[b] for s in states])
                    for s, n in zip(states, new, strict=True):
                        s[b] = n
                    out[t, b] = new[0]
            outputs.append(out)
            ends.append(states)
        x = np.concatenate(outputs, axis=-1)
    return x, [np.stack([e[i] for e in ends]) for i in range(len(starts))]


def as_states(states: Any) -> Any:
    return states if isinstance(states, tuple) else (states,)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bias": False},
        {"bidirectional": True},
        {"num_layers": 2, "bidirectional": True, "batch_first": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("cut", [False, True])
def test_agrees_with_loops(kind: str, options: dict[str, Any], cut: bool) -> None:
    ds.manual_seed(0)
    layer = KINDS[kind](3, 4, **options)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((5, 2, 3)).astype(np.float32)
    lengths = [5, 2] if cut else [5, 5]
    count = layer.num_layers * (1 + layer.bidirectional)
    sizes = ((count, 2, 4),) * (2 if kind == "LSTM" else 1)
    starts = [rng.standard_normal(size).astype(np.float32) for size in sizes]
    given = [ds.asarray(s) for s in starts]
    fed = ds.asarray(x.swapaxes(0, 1).copy() if layer.batch_first else x)

    def call(fed: Any, *given: Any) -> Any:
        hx = given if kind == "LSTM" else given[0]
        return layer(fed, hx, lengths=ds.asarray(lengths) if cut else None)

    wanted, ends = by_loops(kind, layer, x.astype(np.float64), starts, lengths)
    for run in (call, ds.jit(call)):
        out, states = run(fed, *given)
        got = out.numpy().swapaxes(0, 1) if layer.batch_first else out.numpy()
        np.testing.assert_allclose(got, wanted, atol=1e-5)
        for state, end in zip(as_states(states), ends, strict=True):
            np.testing.assert_allclose(state.numpy(), end, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_one_sequence_without_a_batch(kind: str) -> None:
    layer = KINDS[kind](3, 4)
    x = ds.randn(5, 3)
    out, states = layer(x)
    batched, _ = layer(x.reshape(5, 1, 3))
    assert out.shape == (5, 4) and as_states(states)[0].shape == (1, 4)
    np.testing.assert_array_equal(out.numpy(), batched.numpy()[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_cells_are_one_step(kind: str) -> None:
    layer = KINDS[kind](3, 4)
    cell = getattr(nn, kind + "Cell")(3, 4)
    state = layer.state_dict()
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in state.items()})
    x = ds.randn(2, 3)
    new = as_states(cell(x))
    _, ends = layer(x.reshape(1, 2, 3))
    for n, end in zip(new, as_states(ends), strict=True):
        np.testing.assert_allclose(n.numpy(), end.numpy()[0], rtol=1e-6)
    assert as_states(cell(x[0]))[0].shape == (4,)


def test_keys_are_pytorchs() -> None:
    layer = nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    wanted = [f"{n}{s}" for s in ("_l0", "_l0_reverse", "_l1", "_l1_reverse") for n in names]
    assert list(layer.state_dict()) == wanted
    assert layer.weight_ih_l1.shape == (16, 4) and layer.weight_hr_l0.shape == (2, 4)
    assert repr(nn.GRU(3, 4, batch_first=True)) == "GRU(3, 4, batch_first=True)"


def test_gradients_reach_every_weight() -> None:
    layer = nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2)

    @ds.jit
    def step(x: ds.Tensor) -> ds.Tensor:
        out, (h, c) = layer(x)
        loss = out.square().sum() + h.sum() + c.sum()
        loss.backward()
        return loss

    step(ds.randn(5, 2, 3))
    eager = nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2)
    out, (h, c) = eager(ds.randn(5, 2, 3))
    (out.square().sum() + h.sum() + c.sum()).backward()
    for parameter in eager.parameters():
        assert parameter.grad is not None and np.abs(parameter.grad.numpy()).max() > 0


def test_dropout_is_between_layers_in_training() -> None:
    layer = nn.GRU(3, 4, num_layers=2, dropout=1.0)
    x = ds.randn(5, 2, 3)
    dropped = layer(x)[0].numpy()
    np.testing.assert_allclose(dropped[:, 0], dropped[:, 1], rtol=1e-6)
    layer.eval()
    assert np.abs(np.diff(layer(x)[0].numpy(), axis=1)).max() > 1e-4


def test_what_does_not_fit() -> None:
    layer = nn.GRU(3, 4)
    with pytest.raises(ShapeError, match="gru_layer.*wanted x"):
        layer(ds.ones(5, 2, 7))
    with pytest.raises(ShapeError, match="batch_first"):
        layer(ds.ones(3))
    with pytest.raises(ArgumentError, match="hidden_size=0"):
        nn.LSTM(3, 0)
    with pytest.raises(ArgumentError, match="proj_size=4"):
        nn.LSTM(3, 4, proj_size=4)
    with pytest.raises(ArgumentError, match="nonlinearity"):
        nn.RNN(3, 4, nonlinearity="sin")
