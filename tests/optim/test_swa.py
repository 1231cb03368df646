"""Averages of weights: exponential and plain, with buffers, compiled; statistics; annealing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError
from deepseek.optim import EMA, SGD, swa_utils
from deepseek.optim.swa_utils import SWALR, AveragedModel, update_bn


def mean(seen: list[np.ndarray]) -> np.ndarray:
    return np.mean(seen, axis=0)


def moving(seen: list[np.ndarray]) -> np.ndarray:
    average = seen[0]
    for x in seen[1:]:
        average = 0.75 * average + 0.25 * x
    return average


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize(
    ("make", "reference"),
    [
        (lambda m: AveragedModel(m), mean),
        (lambda m: AveragedModel(m, multi_avg_fn=swa_utils.get_swa_multi_avg_fn()), mean),
        (lambda m: AveragedModel(m, avg_fn=swa_utils.get_ema_avg_fn(0.75)), moving),
        (lambda m: EMA(m, 0.75), moving),
    ],
    ids=["mean", "means", "moving", "EMA"],
)
def test_the_average_is_that_of_the_weights_seen(
    make: Callable, reference: Callable, compiled: bool
) -> None:
    ds.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).to(ds.float64)
    optimizer = SGD(model.parameters(), lr=0.1)
    averaged = make(model)

    def step(x):
        optimizer.zero_grad()
        (model(x) ** 2).mean().backward()
        optimizer.step()
        averaged.update_parameters(model)

    run = ds.jit(step) if compiled else step
    seen = []
    for _ in range(5):
        run(ds.randn(6, 3).astype(ds.float64))
        seen.append(model[0].weight.numpy().copy())
    np.testing.assert_allclose(averaged.module[0].weight.numpy(), reference(seen), rtol=1e-12)
    assert averaged.n_averaged.item() == 5
    np.testing.assert_array_equal(
        averaged.module[1].running_mean.numpy(), model[1].running_mean.numpy()
    )
    x = ds.ones((2, 3), dtype=ds.float64)
    np.testing.assert_array_equal(averaged.eval()(x).numpy(), averaged.module(x).numpy())


def test_buffers_are_averaged_where_asked_for() -> None:
    model = nn.BatchNorm1d(1)
    averaged = AveragedModel(model, use_buffers=True)
    for value in (1.0, 2.0, 6.0):
        nn.init.constant_(model.running_mean, value)
        averaged.update_parameters(model)
    assert averaged.module.running_mean.item() == 3.0
    assert averaged.module.num_batches_tracked.item() == model.num_batches_tracked.item()


def test_an_average_is_saved_and_goes_on() -> None:
    model = nn.Linear(1, 1, bias=False)
    averaged = EMA(model, 0.5)
    nn.init.constant_(model.weight, 1.0)
    averaged.update_parameters(model)
    state = averaged.state_dict()
    assert set(state) == {"n_averaged", "module.weight"}
    other = EMA(model, 0.5)
    other.load_state_dict(state)
    nn.init.constant_(model.weight, 3.0)
    other.update_parameters(model)
    assert other.module.weight.item() == 2.0 and other.n_averaged.item() == 2


def test_the_model_itself_is_left_alone() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.numpy().copy()
    averaged = EMA(model, 0.5)
    nn.init.zeros_(averaged.module.weight)
    np.testing.assert_array_equal(model.weight.numpy(), before)


def test_statistics_are_the_means_over_the_data() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).eval()
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((4, 2)).astype(np.float32) for _ in range(3)]
    update_bn([(ds.asarray(x), None) for x in batches], model)
    weight, bias = model[0].weight.numpy(), model[0].bias.numpy()
    hidden = [x @ weight.T + bias for x in batches]
    norm = model[1]
    np.testing.assert_allclose(
        norm.running_mean.numpy(), mean([h.mean(0) for h in hidden]), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        norm.running_var.numpy(), mean([h.var(0, ddof=1) for h in hidden]), rtol=1e-4
    )
    assert norm.momentum == 0.1 and not model.training


@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_annealing_to_a_constant_rate(strategy: str) -> None:
    groups = [{"params": nn.Parameter(ds.ones(1)), "lr": lr} for lr in (1.0, 0.2)]
    optimizer = SGD(groups)
    scheduler = SWALR(optimizer, [0.5, 0.1], 4, strategy)
    rates = []
    for _ in range(7):
        rates.append(scheduler.get_last_lr())
        scheduler.step()
    for t, rate in enumerate(rates):
        part = min(t / 4, 1.0)
        share = part if strategy == "linear" else (1 - math.cos(math.pi * part)) / 2
        np.testing.assert_allclose(rate, [1 - 0.5 * share, 0.2 - 0.1 * share], rtol=1e-12)


def test_annealing_at_once() -> None:
    optimizer = SGD([nn.Parameter(ds.ones(1))], lr=1.0)
    scheduler = SWALR(optimizer, 0.5, anneal_epochs=0)
    scheduler.step()
    assert scheduler.get_last_lr() == [0.5]


def test_what_is_wrong_is_named() -> None:
    model = nn.Linear(1, 1)
    optimizer = SGD(model.parameters())
    with pytest.raises(ArgumentError, match="got avg_fn and multi_avg_fn; wanted one of them"):
        AveragedModel(model, swa_utils.get_swa_avg_fn(), swa_utils.get_swa_multi_avg_fn())
    with pytest.raises(ArgumentError, match="decay: got 1.5; wanted a number >= 0 and <= 1"):
        EMA(model, 1.5)
    with pytest.raises(ArgumentError, match="got a model of 1 parameters; wanted 2"):
        EMA(model).update_parameters(nn.Linear(1, 1, bias=False))
    with pytest.raises(ArgumentError, match="unknown anneal_strategy of SWALR 'up'"):
        SWALR(optimizer, 0.1, anneal_strategy="up")
    with pytest.raises(ArgumentError, match="got anneal_epochs=-1"):
        SWALR(optimizer, 0.1, -1)
