"""What all optimizers share: training, groups, state, compiled steps, wrong arguments."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError, DTypeError
from deepseek.optim import SGD, Adam, AdamW, clip_grad_norm_

Array = np.ndarray


def quadratic(model: nn.Module, x: ds.Tensor) -> ds.Tensor:
    return (model(x) ** 2).mean()


def test_training_lowers_the_loss_and_frees_what_is_used() -> None:
    ds.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = AdamW(model.parameters(), lr=0.01)
    x = ds.randn(16, 4)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = quadratic(model, x)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(not p._value.node.inputs for p in model.parameters()), "no history is kept"


# ---------------------------------------------------------------------------------- inside @ds.jit


def trained(make: Callable[[nn.Module], ds.optim.Optimizer], compile_: Callable) -> list[Array]:
    """The model's state after each of some steps whose learning rate falls."""
    ds.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = make(model)

    def step(x: ds.Tensor) -> ds.Tensor:
        model.zero_grad()
        loss = quadratic(model, x)
        loss.backward()
        clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        return loss

    run = compile_(step)
    seen = []
    for i in range(5):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (i + 1)
        run(ds.randn(6, 3))
        seen += [v.numpy().copy() for v in model.state_dict().values()]
    return seen


@pytest.mark.parametrize(
    "make",
    [
        lambda m: SGD(m.parameters(), momentum=0.9, nesterov=True),
        lambda m: AdamW(m.parameters()),
        lambda m: Adam(
            [{"params": m[0].parameters()}, {"params": m[2].parameters(), "betas": (0.5, 0.5)}]
        ),
    ],
    ids=["SGD", "AdamW", "groups"],
)
def test_a_compiled_step_is_traced_once_and_follows_the_learning_rate(make: Callable) -> None:
    plain = trained(make, lambda f: f)
    before = ds.counters.traces
    compiled = trained(make, ds.jit)
    assert ds.counters.traces == before + 1
    for a, b in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_parameters_without_gradients_are_left_and_their_steps_not_counted(compiled: bool) -> None:
    a, b = nn.Parameter(ds.ones(2)), nn.Parameter(ds.ones(2))
    optimizer = Adam([a, b])

    def only_a() -> None:
        optimizer.zero_grad()
        (a * 2).sum().backward()
        optimizer.step()

    run = ds.jit(only_a) if compiled else only_a
    run()
    run()
    assert b.numpy().tolist() == [1.0, 1.0]
    assert optimizer.state[a]["step"].item() == 2
    assert optimizer.state[b]["step"].item() == 0


# ------------------------------------------------------------------------------ groups and state


def test_groups_have_hyper_parameters_of_their_own() -> None:
    a, b = nn.Parameter(ds.ones(1)), nn.Parameter(ds.ones(1))
    optimizer = SGD([{"params": [a]}, {"params": b, "lr": 1.0}], lr=0.5)
    a.grad = b.grad = ds.ones(1)
    optimizer.step()
    assert (a.item(), b.item()) == (0.5, 0.0)
    c = nn.Parameter(ds.ones(1))
    optimizer.add_param_group({"params": c})
    assert len(optimizer.param_groups) == 3 and optimizer.param_groups[2]["lr"] == 0.5


def test_the_state_is_there_from_the_start_and_a_group_shares_its_step() -> None:
    model = nn.Linear(2, 3)
    optimizer = AdamW(model.parameters())
    weight, bias = model.parameters()
    assert set(optimizer.state[weight]) == {"step", "exp_avg", "exp_avg_sq"}
    assert optimizer.state[weight]["exp_avg"].shape == (3, 2)
    assert optimizer.state[weight]["step"] is optimizer.state[bias]["step"]


def test_a_state_dict_is_in_pytorchs_layout() -> None:
    model = nn.Linear(2, 3)
    optimizer = AdamW(model.parameters(), lr=0.1)
    state = optimizer.state_dict()
    assert list(state) == ["state", "param_groups"]
    assert set(state["state"]) == {0, 1}
    assert state["state"][1]["exp_avg"].shape == (3,)
    assert state["state"][0]["step"].shape == ()
    (group,) = state["param_groups"]
    assert group["params"] == [0, 1]
    assert group["lr"] == 0.1 and group["betas"] == (0.9, 0.999)


@pytest.mark.parametrize("make", [lambda p: AdamW(p, lr=0.1), lambda p: SGD(p, 0.1, 0.9, 0.5)])
def test_training_goes_on_from_a_state_dict(make: Callable) -> None:
    ds.manual_seed(0)
    model = nn.Linear(3, 2)
    x = ds.randn(5, 3)

    def run(model: nn.Module, optimizer: ds.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            quadratic(model, x).backward()
            optimizer.step()

    optimizer = make(model.parameters())
    run(model, optimizer, 3)
    state = optimizer.state_dict()
    other = copy.deepcopy(model)
    resumed = make(other.parameters())
    resumed.param_groups[0]["lr"] = 99.0
    resumed.load_state_dict(state)
    run(model, optimizer, 3)
    run(other, resumed, 3)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert np.array_equal(a.numpy(), b.numpy())


def test_a_state_dict_is_a_snapshot() -> None:
    p = nn.Parameter(ds.ones(1))
    optimizer = Adam([p])
    state = optimizer.state_dict()
    p.grad = ds.ones(1)
    optimizer.step()
    assert state["state"][0]["step"].item() == 0
    optimizer.load_state_dict(state)
    p.grad = ds.ones(1)
    optimizer.step()
    assert optimizer.state[p]["step"].item() == 1


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    a, b = nn.Linear(2, 3), nn.Linear(2, 4)
    optimizer = Adam(a.parameters(), lr=0.1)
    other = Adam(b.parameters(), lr=0.2)
    with pytest.raises(ArgumentError) as error:
        optimizer.load_state_dict(other.state_dict())
    assert "parameter 0, exp_avg: got shape (4, 2); wanted shape (3, 2)" in str(error.value)
    assert "parameter 1, exp_avg_sq" in str(error.value)
    with pytest.raises(ArgumentError, match=r"groups of \[1\] parameters; wanted groups of \[2\]"):
        optimizer.load_state_dict(Adam([a.weight]).state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_steps_that_differ_are_loaded_apart() -> None:
    model = nn.Linear(2, 3)
    optimizer = Adam(model.parameters())
    state = optimizer.state_dict()
    state["state"][0]["step"] = ds.full((), 7.0)
    state["state"][1]["step"] = 3
    optimizer.load_state_dict(state)
    for p in model.parameters():
        p.grad = ds.ones(p.shape)
    optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in model.parameters()] == [8.0, 4.0]


def test_a_closure_is_called_with_gradients_on() -> None:
    p = nn.Parameter(ds.ones(1))
    optimizer = SGD([p], lr=0.5)

    def closure() -> ds.Tensor:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 1.0
    assert p.item() == 0.0


def test_zero_grad() -> None:
    p = nn.Parameter(ds.ones(1))
    optimizer = SGD([p])
    p.grad = ds.full((1,), float("nan"))
    optimizer.zero_grad(set_to_none=False)
    assert p.grad.numpy().tolist() == [0.0]
    optimizer.zero_grad()
    assert p.grad is None


WRONG: list[tuple[Callable[[nn.Parameter], object], type[Exception], str]] = [
    (lambda p: SGD([]), ArgumentError, "got no parameters"),
    (lambda p: SGD([1]), ArgumentError, "got a int; wanted tensors"),
    (lambda p: SGD([p, p]), ArgumentError, "appears twice"),
    (lambda p: SGD([p * 2]), ArgumentError, "computed by an op; wanted a leaf"),
    (lambda p: SGD([ds.zeros(1, dtype=ds.int64)]), DTypeError, "wanted a float dtype"),
    (lambda p: SGD([p], lr=-1), ArgumentError, "lr: got -1; wanted a number >= 0"),
    (lambda p: SGD([p], nesterov=True), ArgumentError, "wanted momentum > 0"),
    (lambda p: Adam([p], betas=(0.9, 1.0)), ArgumentError, "betas: .* wanted a number >= 0 and"),
    (lambda p: Adam([p], betas=(0.9,)), ArgumentError, "wanted two numbers"),
    (lambda p: Adam([{"parameters": [p]}]), ArgumentError, "wanted a dict with 'params'"),
]


@pytest.mark.parametrize(("make", "kind", "message"), WRONG, ids=[w[2] for w in WRONG])
def test_what_is_wrong_is_named(make: Callable, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make(nn.Parameter(ds.ones(1)))


def test_repr() -> None:
    text = repr(SGD([nn.Parameter(ds.ones(1))], lr=0.5))
    assert text.startswith("SGD (\nParameter Group 0\n    dampening: 0.0\n    lr: 0.5\n")
