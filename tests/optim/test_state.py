"""States of optimizers in PyTorch's layout: keys, going on from one, and what does not fit."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError
from deepseek.optim import SGD, Adam, AdamW

# The keys of PyTorch 2.13's states, options under which they appear, and which are 0-d.
KEYS: list[tuple[str, dict[str, Any], set[str]]] = [
    ("SGD", {"momentum": 0.9}, {"momentum_buffer"}),
    ("ASGD", {}, {"step", "eta", "mu", "ax"}),
    ("Rprop", {}, {"step", "prev", "step_size"}),
    ("Adam", {}, {"step", "exp_avg", "exp_avg_sq"}),
    ("Adam", {"amsgrad": True}, {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}),
    ("AdamW", {}, {"step", "exp_avg", "exp_avg_sq"}),
    ("Adamax", {}, {"step", "exp_avg", "exp_inf"}),
    ("NAdam", {}, {"step", "mu_product", "exp_avg", "exp_avg_sq"}),
    ("RAdam", {}, {"step", "exp_avg", "exp_avg_sq"}),
    ("RMSprop", {}, {"step", "square_avg"}),
    (
        "RMSprop",
        {"momentum": 0.9, "centered": True},
        {"step", "square_avg", "momentum_buffer", "grad_avg"},
    ),
    ("Adagrad", {}, {"step", "sum"}),
    ("Adadelta", {}, {"step", "square_avg", "acc_delta"}),
    ("Adafactor", {}, {"step", "row_var", "col_var"}),
    ("Lion", {}, {"exp_avg"}),
    ("LAMB", {}, {"step", "exp_avg", "exp_avg_sq"}),
]
SCALARS = {"step", "eta", "mu", "mu_product"}


@pytest.mark.parametrize(("name", "options", "keys"), KEYS)
def test_keys_are_pytorchs(name: str, options: dict[str, Any], keys: set[str]) -> None:
    p = nn.Parameter(ds.ones((2, 3)))
    optimizer = getattr(ds.optim, name)([p], **options)
    state = optimizer.state_dict()
    assert list(state) == ["state", "param_groups"]
    assert set(state["state"][0]) == keys
    for key, value in state["state"][0].items():
        wanted = {"row_var": (2, 1), "col_var": (1, 3)}.get(key, () if key in SCALARS else (2, 3))
        assert value.shape == wanted
    (group,) = state["param_groups"]
    assert group["params"] == [0]
    assert group | options == group and group["lr"] == optimizer.defaults["lr"]


def train(model: nn.Module, optimizer: ds.optim.Optimizer, x: ds.Tensor, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) ** 2).mean().backward()
        optimizer.step()


@pytest.mark.parametrize(("name", "options", "keys"), KEYS)
def test_training_goes_on_bit_by_bit(name: str, options: dict[str, Any], keys: set[str]) -> None:
    ds.manual_seed(0)
    model, x = nn.Linear(3, 2), ds.randn(5, 3)
    optimizer = getattr(ds.optim, name)(model.parameters(), **options)
    train(model, optimizer, x, 3)
    other = copy.deepcopy(model)
    resumed = getattr(ds.optim, name)(other.parameters(), **options)
    train(other, resumed, x, 1)  # what was there before is forgotten
    other.load_state_dict(model.state_dict())
    resumed.param_groups[0]["lr"] = 99.0
    resumed.load_state_dict(optimizer.state_dict())
    train(model, optimizer, x, 3)
    train(other, resumed, x, 3)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert np.array_equal(a.numpy(), b.numpy())


def test_a_pytorch_state_is_taken_over() -> None:
    """As torch.save writes it: options that mean nothing here, absent states, other dtypes."""
    group = {
        "lr": 0.5, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False,
        "maximize": False, "foreach": None, "capturable": False, "differentiable": False,
        "fused": None, "decoupled_weight_decay": False, "params": [0, 1],
    }  # fmt: skip
    own = {
        "step": np.float32(7.0),
        "exp_avg": np.array([1.0, 2.0]),
        "exp_avg_sq": np.array([4.0, 4.0]),
    }
    a, b = nn.Parameter(ds.ones(2)), nn.Parameter(ds.ones(3))
    optimizer = Adam([a, b])
    b.grad = ds.ones(3)
    optimizer.step()
    optimizer.load_state_dict({"state": {0: own}, "param_groups": [group]})
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)
    assert optimizer.state[a]["exp_avg"].dtype is ds.float32
    assert optimizer.state[a]["exp_avg"].tolist() == [1.0, 2.0]
    assert optimizer.state[a]["step"].item() == 7.0
    assert optimizer.state[b]["step"].item() == 0.0, "PyTorch has no state before a first step"
    assert optimizer.state[b]["exp_avg"].tolist() == [0.0] * 3
    a.grad = ds.zeros(2)
    optimizer.step()
    m, v = 0.9 * np.array([1.0, 2.0]), 0.99 * 4.0
    wanted = 1 - 0.5 * (m / (1 - 0.9**8)) / np.sqrt(v / (1 - 0.99**8))
    np.testing.assert_allclose(a.numpy(), wanted, rtol=1e-5)


def test_sgd_knows_from_pytorchs_state_whether_there_was_a_step() -> None:
    p = nn.Parameter(ds.zeros(2))
    optimizer = SGD([p], lr=1.0, momentum=0.5, dampening=0.5)
    saved = optimizer.state_dict()
    saved["state"] = {0: {"momentum_buffer": np.array([4.0, 8.0])}}
    optimizer.load_state_dict(saved)
    p.grad = ds.full((2,), 2.0)
    optimizer.step()
    assert p.tolist() == [-3.0, -5.0]
    saved["state"] = {0: {"momentum_buffer": None}}
    optimizer.load_state_dict(saved)
    p.grad = ds.full((2,), 2.0)
    optimizer.step()
    assert p.tolist() == [-5.0, -7.0], "the first step takes all of the gradient"


def test_handles_of_the_state_stay_so_that_a_compiled_step_does() -> None:
    p = nn.Parameter(ds.ones(2))
    optimizer = AdamW([p], lr=0.1)

    @ds.jit
    def step(g):
        p.grad = g
        optimizer.step()

    step(ds.ones(2))
    saved, value = optimizer.state_dict(), p.numpy().copy()
    step(ds.ones(2))
    wanted = p.numpy().copy()
    optimizer.load_state_dict(saved)
    nn.init.constant_(p, value[0])
    traces = ds.counters.traces
    step(ds.ones(2))
    np.testing.assert_array_equal(p.numpy(), wanted)
    assert ds.counters.traces == traces


def broken(change: str) -> tuple[ds.optim.Optimizer, dict[str, Any]]:
    optimizer = Adam([nn.Parameter(ds.ones((3, 2))), nn.Parameter(ds.ones(3))], lr=0.1)
    state = optimizer.state_dict()
    first = state["state"][0]
    if change == "shape":
        first["exp_avg"] = ds.zeros((2, 3))
    elif change == "name":
        first["square_avg"] = first.pop("exp_avg_sq")
    elif change == "missing":
        del first["exp_avg"]
    elif change == "kind":
        first["exp_avg"] = "zeros"
    elif change == "groups":
        state["param_groups"] *= 2
    elif change == "option":
        state["param_groups"][0]["betas"] = (0.9, 2.0)
    elif change == "key":
        del state["param_groups"]
    state.get("param_groups", [{}])[0]["lr"] = 7.0
    return optimizer, state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("shape", r"parameter 0, exp_avg: got shape \(2, 3\); wanted shape \(3, 2\)"),
        ("name", "parameter 0: unknown state 'square_avg'; valid: step, exp_avg, exp_avg_sq"),
        ("missing", "parameter 0: exp_avg is missing"),
        ("kind", "parameter 0, exp_avg: got 'zeros'; wanted a tensor"),
        ("groups", r"got groups of \[2, 2\] parameters; wanted groups of \[2\]"),
        ("option", r"betas: got \(0.9, 2.0\); wanted a number >= 0 and < 1"),
        ("key", r"got no 'param_groups'; it has \['state'\]"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change: str, message: str) -> None:
    optimizer, state = broken(change)
    before = optimizer.state_dict()
    with pytest.raises(ArgumentError, match=message):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.1
    for number, own in optimizer.state_dict()["state"].items():
        for name, value in own.items():
            np.testing.assert_array_equal(value.numpy(), before["state"][number][name].numpy())


def test_names_of_parameters_are_kept() -> None:
    model = nn.Linear(2, 3)
    optimizer = SGD(model.named_parameters(), lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
    assert list(optimizer.parameters()) == list(model.parameters())
