"""Updates as part of compiled programs: launches, numbers that compile nothing, undone steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.program import ir

SHAPES = [(16, 1, 3, 3), (16,), (16,), (32, 16, 3, 3), (32,), (32,), (10, 128), (10,)]
LAUNCHES: list[tuple[str, dict[str, Any], int]] = [
    ("SGD", {}, 1),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, 1),
    ("SGD", {"momentum": 0.9, "dampening": 0.1}, 2),
    ("ASGD", {}, 4),  # step, eta and mu are one each
    ("Rprop", {}, 2),
    ("Adam", {"amsgrad": True}, 2),
    ("AdamW", {}, 2),
    ("Adamax", {}, 3),
    ("NAdam", {}, 3),
    ("RAdam", {}, 2),
    ("RMSprop", {"momentum": 0.9, "centered": True}, 2),
    ("Adagrad", {}, 2),
    ("Adadelta", {}, 2),
    ("Lion", {}, 2),
]


def update(name: str, options: dict[str, Any]) -> tuple[Any, list[ds.Tensor], Any]:
    """A compiled step on given gradients, the gradients, and the optimizer."""
    rng = np.random.default_rng(0)
    parameters = [nn.Parameter(ds.asarray(rng.random(s, np.float32))) for s in SHAPES]
    optimizer = getattr(ds.optim, name)(parameters, **options)

    @ds.jit
    def step(*gradients):
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g
        optimizer.step()

    return step, [ds.asarray(rng.standard_normal(s).astype(np.float32)) for s in SHAPES], optimizer


def launches(step: Any, *args: Any) -> int:
    counted = ir.cost(step.entry_for(*args).executable.program)
    return counted["launches"] + counted["externs"] + counted["hosts"] + counted["copies"]


@pytest.mark.parametrize(("name", "options", "most"), LAUNCHES)
def test_all_parameters_update_in_a_handful_of_launches(
    name: str, options: dict[str, Any], most: int
) -> None:
    step, gradients, _ = update(name, options)
    assert launches(step, *gradients) <= most


@pytest.mark.parametrize("name", ["LAMB", "Adafactor"])
def test_norms_of_each_parameter_need_no_more_launches_for_more_parameters(name: str) -> None:
    """Kernels with reductions are made for a shape; parameters of one shape share them."""
    counts = []
    for copies in (1, 4):
        parameters = [nn.Parameter(ds.ones((8, 5))) for _ in range(2 * copies)]
        optimizer = getattr(ds.optim, name)(parameters)

        @ds.jit
        def step(gradient, parameters=parameters, optimizer=optimizer):
            for p in parameters:
                p.grad = gradient * 2.0
            optimizer.step()

        counts.append(launches(step, ds.ones((8, 5))))
    assert counts[1] <= counts[0] + 1


def test_an_average_of_weights_is_one_launch_and_a_count() -> None:
    ds.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2))
    ema = ds.optim.EMA(model, 0.9)
    assert launches(ds.jit(lambda: ema.update_parameters(model))) == 2


CHANGES: dict[str, list[dict[str, Any]]] = {
    "SGD": [{"lr": 0.1}, {"momentum": 0.5}, {"weight_decay": 0.1}],
    "ASGD": [{"lr": 0.1}, {"lambd": 0.1}, {"alpha": 0.5}, {"t0": 2.0}],
    "Rprop": [{"lr": 0.1}, {"etas": (0.3, 1.3)}, {"step_sizes": (0.01, 0.02)}],
    "Adam": [{"lr": 0.1}, {"betas": (0.7, 0.8)}, {"eps": 0.1}, {"weight_decay": 0.1}],
    "Adamax": [{"lr": 0.1}, {"betas": (0.7, 0.8)}],
    "NAdam": [{"lr": 0.1}, {"momentum_decay": 0.1}],
    "RAdam": [{"lr": 0.1}, {"betas": (0.5, 0.6)}],
    "RMSprop": [{"lr": 0.1}, {"alpha": 0.5}, {"momentum": 0.5}],
    "Adagrad": [{"lr": 0.1}, {"lr_decay": 0.1}],
    "Adadelta": [{"lr": 0.1}, {"rho": 0.5}],
    "Lion": [{"lr": 0.1}, {"betas": (0.7, 0.8)}],
    "LAMB": [{"lr": 0.1}, {"eps": 0.1}],
    "Adafactor": [{"lr": 0.1}, {"beta2_decay": -0.5}, {"d": 1.5}],
}
OPTIONS = {"SGD": {"momentum": 0.9}, "RMSprop": {"momentum": 0.9}}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_hyper_parameters_compile_nothing_and_count(name: str) -> None:
    """They are inputs of the compiled step, which does what eager steps do."""
    options = OPTIONS.get(name, {}) | {"lr": 0.01}
    step, gradients, optimizer = update(name, options)
    eager, _, plain = update(name, options)
    step(*gradients)
    eager.function(*gradients)
    for change in CHANGES[name]:
        optimizer.param_groups[0].update(change)
        plain.param_groups[0].update(change)
        before = ds.counters.traces, ds.counters.programs
        step(*gradients)
        assert (ds.counters.traces, ds.counters.programs) == before
        eager.function(*gradients)
    for a, b in zip(optimizer.parameters(), plain.parameters(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-5, atol=1e-6)


def test_a_changing_learning_rate_compiles_nothing_outside_of_jit() -> None:
    ds.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = ds.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = ds.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    x = ds.randn(16, 4)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            (model(x) ** 2).mean().backward()
            optimizer.step()
            scheduler.step()

    train(6)
    before = ds.counters.programs, ds.counters.kernels
    train(6)
    assert (ds.counters.programs, ds.counters.kernels) == before


def test_momentum_that_is_switched_on_later_has_a_buffer() -> None:
    results = []
    for compiled in (True, False):
        p = nn.Parameter(ds.zeros(2))
        optimizer = ds.optim.SGD([p], lr=1.0)

        def step(g, p=p, optimizer=optimizer):
            p.grad = g
            optimizer.step()

        run = ds.jit(step) if compiled else step
        run(ds.ones(2))
        optimizer.param_groups[0]["momentum"] = 0.5
        run(ds.ones(2))
        run(ds.ones(2))
        results.append(p.tolist())
    assert results[0] == results[1] == [-3.5, -3.5]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", [*CHANGES, "AdamW"])
def test_a_step_that_found_inf_changes_nothing(name: str, compiled: bool) -> None:
    p = nn.Parameter(ds.asarray([[1.0, 2.0], [3.0, 4.0]]))
    optimizer = getattr(ds.optim, name)([p], **OPTIONS.get(name, {}))

    def step(g):
        p.grad = g
        optimizer.found_inf = ~ds.isfinite(g).all()
        optimizer.step()
        optimizer.found_inf = None

    run = ds.jit(step) if compiled else step
    run(ds.ones((2, 2)))
    before = optimizer.state_dict()["state"][0] | {"p": p.detach()}
    run(ds.asarray([[1.0, float("inf")], [float("nan"), 1.0]]))
    after = optimizer.state_dict()["state"][0] | {"p": p}
    for key, value in before.items():
        np.testing.assert_array_equal(after[key].numpy(), value.numpy())
    run(ds.ones((2, 2)))
    assert p.tolist() != before["p"].tolist()


TRAINED = [
    ("SGD", {"momentum": 0.9, "nesterov": True}), ("ASGD", {"lr": 0.1}), ("Rprop", {}),
    ("Adam", {}), ("AdamW", {}), ("Adamax", {"lr": 0.02}), ("NAdam", {}), ("RAdam", {}),
    ("RMSprop", {}), ("Adagrad", {"lr": 0.1}), ("Adadelta", {}), ("Lion", {"lr": 1e-3}),
    ("LAMB", {}), ("Adafactor", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), TRAINED, ids=[name for name, _ in TRAINED])
def test_a_small_model_trains_alike_eager_and_compiled(name: str, options: dict[str, Any]) -> None:
    """Two groups, clipping, an averaged copy and a warm-up, for 12 steps in float64."""
    results = []
    for compiled in (False, True):
        ds.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).to(ds.float64)
        groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.05}]
        optimizer = getattr(ds.optim, name)(groups, **options)
        schedules = ds.optim.lr_scheduler
        scheduler = schedules.SequentialLR(
            optimizer,
            [
                schedules.LinearLR(optimizer, 0.1, total_iters=3),
                schedules.CosineAnnealingLR(optimizer, 20),
            ],
            milestones=[3],
        )
        ema = ds.optim.EMA(model, 0.9)
        x = ds.randn(16, 4).astype(ds.float64)
        goal = x.sum(axis=1, keepdims=True)

        def step(x, goal, model=model, optimizer=optimizer, scheduler=scheduler, ema=ema):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), goal)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            ema.update_parameters(model)
            scheduler.step()
            return loss

        run = ds.jit(step) if compiled else step
        traces = ds.counters.traces
        losses = [run(x, goal).item() for _ in range(12)]
        made = ds.counters.traces - traces
        assert made == 1 if compiled else made <= len(optimizer.param_groups)  # their updates
        assert losses[-1] < losses[0]
        weights = [p.numpy().ravel() for m in (model, ema) for p in m.parameters()]
        results.append(np.concatenate([losses, scheduler.get_last_lr(), *weights]))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-8, atol=1e-10)
