"""Learning rate schedules against formulas of the step, alone and together, inside @ds.jit too."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError, TraceError
from deepseek.optim import SGD, AdamW
from deepseek.optim import lr_scheduler as schedules
from deepseek.optim.lr_scheduler import LRScheduler

LR, STEPS = 0.5, 30
Formula = Callable[[int], float]


def optimizer(kind: type = SGD, **options: Any) -> Any:
    """Two groups, the second with a quarter of the rate."""
    groups = [{"params": nn.Parameter(ds.ones(1)), "lr": rate} for rate in (LR, LR / 4)]
    return kind(groups, **options)


def cosine(t: float, length: float, least: float = 0.0) -> float:
    """From 1 to `least` (a share) in `length` steps."""
    return least + (1 - least) * (1 + math.cos(math.pi * t / length)) / 2


def restarts(t: int, first: int, factor: int) -> float:
    while t >= first:
        t -= first
        first *= factor
    return cosine(t, first)


CHAINED: list[tuple[str, Callable[[Any], LRScheduler], Formula]] = [
    ("lambda", lambda o: schedules.LambdaLR(o, lambda t: 0.95**t), lambda t: 0.95**t),
    (
        "multiplicative",
        lambda o: schedules.MultiplicativeLR(o, lambda t: 1 / (1 + t)),
        lambda t: 1 / math.factorial(t + 1),
    ),
    ("step", lambda o: schedules.StepLR(o, 3, 0.5), lambda t: 0.5 ** (t // 3)),
    (
        "milestones",
        lambda o: schedules.MultiStepLR(o, [2, 5, 5, 11], 0.5),
        lambda t: 0.5 ** sum(t >= m for m in (2, 5, 5, 11)),
    ),
    ("constant", lambda o: schedules.ConstantLR(o, 0.25, 4), lambda t: 0.25 if t < 4 else 1.0),
    (
        "linear",
        lambda o: schedules.LinearLR(o, 0.25, 0.75, 7),
        lambda t: 0.25 + 0.5 * min(t, 7) / 7,
    ),
    ("exponential", lambda o: schedules.ExponentialLR(o, 0.9), lambda t: 0.9**t),
    ("polynomial", lambda o: schedules.PolynomialLR(o, 9, 2.0), lambda t: (1 - min(t, 9) / 9) ** 2),
    ("cosine", lambda o: schedules.CosineAnnealingLR(o, 6), lambda t: cosine(t, 6)),
    (
        "warm restarts",
        lambda o: schedules.CosineAnnealingWarmRestarts(o, 4, 2),
        lambda t: restarts(t, 4, 2),
    ),
    (
        "restarts",
        lambda o: schedules.CosineAnnealingWarmRestarts(o, 4),
        lambda t: restarts(t, 4, 1),
    ),
]
IDS = [name for name, _, _ in CHAINED]


def run(o: Any, scheduler: Any, steps: int = STEPS) -> np.ndarray:
    rates = [scheduler.get_last_lr()]
    for _ in range(steps):
        o.step()
        scheduler.step()
        rates.append(scheduler.get_last_lr())
        assert [group["lr"] for group in o.param_groups] == rates[-1]
    return np.array(rates)


@pytest.mark.parametrize(("name", "make", "formula"), CHAINED, ids=IDS)
def test_step_by_step_it_is_the_formula(name: str, make: Callable, formula: Formula) -> None:
    o = optimizer()
    wanted = np.array([formula(t) for t in range(STEPS + 1)])
    rates = run(o, make(o))
    np.testing.assert_allclose(rates[:, 0], LR * wanted, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(rates[:, 1], LR / 4 * wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "make", "formula"),
    [case for case in CHAINED if case[0] != "multiplicative"],  # has no closed form
    ids=[name for name in IDS if name != "multiplicative"],
)
def test_it_can_be_set_to_any_epoch(name: str, make: Callable, formula: Formula) -> None:
    o = optimizer()
    scheduler = make(o)
    for epoch in (0, 7, 3, 20, 1):
        scheduler.step(epoch)
        np.testing.assert_allclose(scheduler.get_last_lr()[0], LR * formula(epoch), rtol=1e-12)
        assert scheduler.last_epoch == epoch


def test_a_cosine_ends_at_eta_min_and_fractions_of_epochs_restart() -> None:
    o = SGD([nn.Parameter(ds.ones(1))], lr=LR)
    rates = run(o, schedules.CosineAnnealingLR(o, 7, eta_min=0.05), 21)
    wanted = [LR * cosine(t, 7, 0.1) for t in range(22)]
    np.testing.assert_allclose(rates[:, 0], wanted, rtol=1e-12)
    scheduler = schedules.CosineAnnealingWarmRestarts(o, 2, 2)
    for epoch, wanted_rate in [(0.5, cosine(0.5, 2)), (2.0, 1.0), (3.0, cosine(1, 4))]:
        scheduler.step(epoch)
        np.testing.assert_allclose(scheduler.get_last_lr()[0], LR * wanted_rate, rtol=1e-12)


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_cyclic(kind: type, mode: str) -> None:
    o = optimizer(kind, **({"momentum": 0.9} if kind is SGD else {}))
    scheduler = schedules.CyclicLR(o, 0.1, [1.0, 2.0], 3, 5, mode, gamma=0.95)
    rates, momenta = [scheduler.get_last_lr()], []
    for _ in range(20):
        momenta.append([g["momentum"] if kind is SGD else g["betas"][0] for g in o.param_groups])
        scheduler.step()
        rates.append(scheduler.get_last_lr())
    for t, momentum in enumerate(momenta):
        up, cycle = t % 8, t // 8
        height = up / 3 if up <= 3 else (8 - up) / 5
        height *= {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": 0.95**t}[mode]
        wanted = [0.1 + 0.9 * height, 0.1 + 1.9 * height]
        np.testing.assert_allclose(rates[t], wanted, rtol=1e-12)
        np.testing.assert_allclose(momentum, [0.9 - 0.1 * height] * 2, rtol=1e-12)


def test_cyclic_scaled_by_a_function() -> None:
    o = optimizer()
    scheduler = schedules.CyclicLR(
        o, 0.1, 1.1, 2, scale_fn=lambda t: 1 / (1 + t), scale_mode="iterations",
        cycle_momentum=False,
    )  # fmt: skip
    rates = run(o, scheduler, 4)[:, 0]
    np.testing.assert_allclose(rates, [0.1, 0.1 + 0.25, 0.1 + 1 / 3, 0.1 + 0.125, 0.1], rtol=1e-12)


@pytest.mark.parametrize("three_phase", [False, True])
def test_one_cycle(three_phase: bool) -> None:
    o = optimizer(AdamW)
    scheduler = schedules.OneCycleLR(o, 1.0, epochs=4, steps_per_epoch=5, three_phase=three_phase)
    rates, momenta = [], []
    for t in range(20):
        rates.append(scheduler.get_last_lr()[0])
        momenta.append(o.param_groups[0]["betas"][0])
        if t < 19:
            scheduler.step()
    corners = [0, 5, 10, 19] if three_phase else [0, 5, 19]
    heights = [1 / 25, 1.0, 1 / 25, 4e-6] if three_phase else [1 / 25, 1.0, 4e-6]
    lows = [0.95, 0.85, 0.95, 0.95] if three_phase else [0.95, 0.85, 0.95]
    for i, (a, b) in enumerate(zip(corners, corners[1:], strict=False)):
        for t in range(a, b + 1):
            share = cosine(t - a, b - a)
            height = heights[i + 1] + (heights[i] - heights[i + 1]) * share
            np.testing.assert_allclose(rates[t], height, rtol=1e-10)
            low = lows[i + 1] + (lows[i] - lows[i + 1]) * share
            np.testing.assert_allclose(momenta[t], low, rtol=1e-10)
    scheduler.step()
    with pytest.raises(ArgumentError, match="got step 21 of a schedule of total_steps=20"):
        scheduler.step()


def test_one_cycle_in_lines() -> None:
    o = optimizer()
    scheduler = schedules.OneCycleLR(
        o, [1.0, 2.0], total_steps=11, pct_start=6 / 11, anneal_strategy="linear",
        cycle_momentum=False, div_factor=10.0, final_div_factor=10.0,
    )  # fmt: skip
    rates = run(o, scheduler, 10)
    wanted = np.interp(np.arange(11), [0, 5, 10], [0.1, 1.0, 0.01])
    np.testing.assert_allclose(rates, np.stack([wanted, 2 * wanted], 1), rtol=1e-12)


# -------------------------------------------------------------------------------------- together


def warm_up(o: Any) -> LRScheduler:
    parts = [schedules.LinearLR(o, 0.1, total_iters=5), schedules.CosineAnnealingLR(o, 10)]
    return schedules.SequentialLR(o, [*parts, schedules.ExponentialLR(o, 0.9)], [5, 15])


def warm_up_at(t: int) -> float:
    if t < 5:
        return 0.1 + 0.9 * t / 5
    return cosine(t - 5, 10) if t < 15 else 0.9 ** (t - 15)


def test_one_after_the_other() -> None:
    o = optimizer()
    rates = run(o, warm_up(o))
    np.testing.assert_allclose(rates[:, 0], [LR * warm_up_at(t) for t in range(31)], rtol=1e-12)


def test_all_at_once() -> None:
    o = optimizer()
    parts = [schedules.ConstantLR(o, 0.1, 3), schedules.ExponentialLR(o, 0.9), warm_up(o)]
    scheduler = schedules.ChainedScheduler(parts[:2])
    rates = run(o, scheduler, 8)[:, 0]
    # The sequence set the initial rates when it was made, after the constant's tenth.
    start = LR * 0.1
    factors = [1.0] * 3 + [10.0] * 6
    wanted = [start * 0.9**t * f for t, f in zip(range(9), factors, strict=True)]
    np.testing.assert_allclose(rates, wanted, rtol=1e-12)


def test_a_chain_of_a_sequence() -> None:
    o = optimizer()
    scheduler = schedules.ChainedScheduler([warm_up(o), schedules.ExponentialLR(o, 0.99)])
    rates = run(o, scheduler, 4)[:, 0]
    np.testing.assert_allclose(rates, [LR * warm_up_at(t) * 0.99**t for t in range(5)], rtol=1e-12)


# --------------------------------------------------------------------------------------- plateau


@pytest.mark.parametrize("mode", ["min", "max"])
def test_plateau(mode: str) -> None:
    o = optimizer()
    scheduler = schedules.ReduceLROnPlateau(
        o, mode, factor=0.5, patience=1, threshold=0.1, cooldown=2, min_lr=[0.1, 0.05]
    )
    sign = 1 if mode == "min" else -1
    # The best; twice better by less than a tenth: reduced; two that do not count; two bad ones:
    # reduced; two that do not count, the second of which is good; two bad ones: at min_lr.
    losses = [1.0, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95, 0.4, 0.4, 0.4]
    wanted = [0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.125, 0.125, 0.125, 0.125, 0.1]
    got = []
    for loss in losses:
        scheduler.step(ds.asarray(10 + sign * (loss - 10 * (mode == "min"))))
        got.append(scheduler.get_last_lr()[0])
    if mode == "min":
        assert got == wanted
    assert scheduler.get_last_lr() == [0.1, 0.05]


def test_plateau_by_differences() -> None:
    o = optimizer()
    scheduler = schedules.ReduceLROnPlateau(
        o, factor=0.1, patience=0, threshold=1.0, threshold_mode="abs", eps=0.1
    )
    for loss, rate in [(10.0, 0.5), (9.5, 0.05), (8.0, 0.05), (7.5, 0.05)]:
        scheduler.step(loss)
        assert scheduler.get_last_lr()[0] == pytest.approx(rate)  # the last would change too little


# ----------------------------------------------------------------------------------------- state

RESUMED: list[tuple[str, Callable[[Any], Any]]] = [
    *((name, make) for name, make, _ in CHAINED),
    ("cyclic", lambda o: schedules.CyclicLR(o, 0.1, 1.0, 3)),
    ("one cycle", lambda o: schedules.OneCycleLR(o, 1.0, 31)),
    ("sequence", warm_up),
    ("chain", lambda o: schedules.ChainedScheduler([warm_up(o), schedules.StepLR(o, 2)])),
    ("swa", lambda o: ds.optim.swa_utils.SWALR(o, 0.05, 12)),
]


@pytest.mark.parametrize(("name", "make"), RESUMED, ids=[name for name, _ in RESUMED])
def test_it_goes_on_from_a_state(name: str, make: Callable) -> None:
    def fresh() -> tuple[Any, Any]:
        o = optimizer(momentum=0.9)
        return o, make(o)

    o, scheduler = fresh()
    run(o, scheduler, 9)
    saved = o.state_dict(), scheduler.state_dict()
    wanted = run(o, scheduler, 20)
    other, resumed = fresh()
    run(other, resumed, 2)
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    np.testing.assert_array_equal(run(other, resumed, 20), wanted)
    assert [g["momentum"] for g in other.param_groups] == [g["momentum"] for g in o.param_groups]


def test_a_plateau_goes_on_from_a_state() -> None:
    o = optimizer()
    scheduler = schedules.ReduceLROnPlateau(o, patience=3)
    for loss in (1.0, 2.0, 2.0):
        scheduler.step(loss)
    other = optimizer()
    resumed = schedules.ReduceLROnPlateau(other, patience=3)
    resumed.load_state_dict(scheduler.state_dict())
    assert (resumed.best, resumed.num_bad_epochs, resumed.last_epoch) == (1.0, 2, 3)


def test_a_resumed_schedule_by_its_last_epoch() -> None:
    o = optimizer()
    scheduler = schedules.ExponentialLR(o, 0.9)
    run(o, scheduler, 3)
    resumed = schedules.ExponentialLR(o, 0.9, last_epoch=scheduler.last_epoch - 1)
    assert resumed.last_epoch == 3 and resumed.get_last_lr() == scheduler.get_last_lr()
    resumed.step()
    np.testing.assert_allclose(resumed.get_last_lr()[0], LR * 0.9**4, rtol=1e-12)


def test_a_state_holds_what_callables_know_but_no_functions() -> None:
    class Decay:
        def __init__(self, rate: float) -> None:
            self.rate = rate

        def __call__(self, t: int) -> float:
            return self.rate**t

    o = optimizer()
    scheduler = schedules.LambdaLR(o, [Decay(0.5), lambda t: 1.0])
    state = scheduler.state_dict()
    assert state["lr_lambdas"] == [{"rate": 0.5}, None]
    other = schedules.LambdaLR(optimizer(), [Decay(0.9), lambda t: 1.0])
    other.load_state_dict(state)
    other.step()
    assert other.get_last_lr()[0] == LR * 0.5


def test_a_state_of_another_kind_changes_nothing() -> None:
    o = optimizer()
    scheduler = warm_up(o)
    other = schedules.SequentialLR(
        o, [schedules.StepLR(o, 3), schedules.StepLR(o, 3), schedules.StepLR(o, 3)], [5, 15]
    )
    other.step()
    before = scheduler.state_dict()
    with pytest.raises(ArgumentError, match="does not fit LinearLR; nothing was loaded"):
        scheduler.load_state_dict(other.state_dict())
    assert scheduler.state_dict() == before


# ------------------------------------------------------------------------------------ inside jit


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("one cycle", lambda o: schedules.OneCycleLR(o, 0.1, 20)),
        ("sequence", warm_up),
        ("chain", lambda o: schedules.ChainedScheduler([warm_up(o), schedules.StepLR(o, 2)])),
        ("function", lambda o: schedules.LambdaLR(o, lambda t: 1 / (1 + t))),
        ("restarts", lambda o: schedules.CosineAnnealingWarmRestarts(o, 3)),
    ],
)
def test_a_step_inside_a_compiled_function_is_made_at_each_call(name: str, make: Callable) -> None:
    results = []
    for compiled in (False, True):
        o = optimizer(AdamW)
        scheduler = make(o)
        parameters = list(o.parameters())

        def step(g, o=o, scheduler=scheduler, parameters=parameters):
            for p in parameters:
                p.grad = g * p
            o.step()
            scheduler.step()

        function = ds.jit(step) if compiled else step
        traces = ds.counters.traces
        seen = []
        for _ in range(12):
            function(ds.ones(1))
            betas = [group["betas"][0] for group in o.param_groups]
            seen.append([*scheduler.get_last_lr(), *betas, *(p.item() for p in parameters)])
        made = ds.counters.traces - traces
        assert made == 1 if compiled else made <= len(o.param_groups)  # their updates
        results.append(np.array(seen))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-6)
    assert len(np.unique(results[0][:, 0])) > 2


def test_the_rate_a_compiled_step_used_can_be_returned() -> None:
    p = nn.Parameter(ds.ones(1))
    o = SGD([p], lr=1.0)
    scheduler = schedules.StepLR(o, 1, 0.5)

    @ds.jit
    def step(g):
        p.grad = g
        used = scheduler.get_last_lr()[0] * ds.ones(())
        o.step()
        scheduler.step()
        return used

    traces = ds.counters.traces
    assert [step(ds.ones(1)).item() for _ in range(3)] == [1.0, 0.5, 0.25]
    assert ds.counters.traces == traces + 1
    assert scheduler.get_last_lr() == [0.125]


def test_reading_the_rate_after_the_step_is_an_error() -> None:
    p = nn.Parameter(ds.ones(1))
    o = SGD([p], lr=1.0)
    scheduler = schedules.StepLR(o, 1, 0.5)

    @ds.jit
    def step(g):
        p.grad = g
        scheduler.step()
        o.step()

    with pytest.raises(TraceError, match="after everything that reads the learning rate"):
        step(ds.ones(1))
    assert scheduler.get_last_lr() == [1.0] and p.item() == 1.0


def test_a_step_inside_a_compiled_loop_is_an_error() -> None:
    scheduler = schedules.StepLR(optimizer(), 1, 0.5)

    def body(carry, x):
        scheduler.step()
        return carry + x, carry

    with pytest.raises(TraceError, match="outside ds.cond, ds.scan and ds.while_loop"):
        ds.jit(lambda x: ds.scan(body, ds.zeros(()), x))(ds.ones(3))


def test_a_plateau_wants_a_value() -> None:
    scheduler = schedules.ReduceLROnPlateau(optimizer())

    @ds.jit
    def step(x):
        scheduler.step(x)

    with pytest.raises(TraceError, match="return the metric from the compiled step"):
        step(ds.ones(()))


def test_a_rate_that_is_a_tensor_keeps_its_handle() -> None:
    rate = ds.asarray(1.0)
    p = nn.Parameter(ds.ones(1))
    o = SGD([p], lr=rate)
    scheduler = schedules.ExponentialLR(o, 0.5)
    scheduler.step()
    assert o.param_groups[0]["lr"] is rate and rate.item() == 0.5
    p.grad = ds.ones(1)
    o.step()
    assert p.item() == 0.5


WRONG: list[tuple[Callable[[Any], Any], str]] = [
    (lambda o: schedules.StepLR(None, 1), "StepLR: got a NoneType; wanted an Optimizer"),
    (lambda o: schedules.StepLR(o, 0), "got step_size=0; wanted an integer >= 1"),
    (lambda o: schedules.LambdaLR(o, [abs]), "lr_lambda: got 1 values; wanted one for each of 2"),
    (lambda o: schedules.MultiplicativeLR(o, 0.9), "got lr_lambda=0.9; wanted a function"),
    (lambda o: schedules.ConstantLR(o, 1.5), "got factor=1.5; wanted a number >= 0 and <= 1"),
    (lambda o: schedules.LinearLR(o, 0.0), "got start_factor=0.0; wanted a number > 0 and <= 1"),
    (lambda o: schedules.LinearLR(o, end_factor=-1), "got end_factor=-1"),
    (lambda o: schedules.CosineAnnealingWarmRestarts(o, 0), "got T_0=0; wanted an integer > 0"),
    (lambda o: schedules.CosineAnnealingWarmRestarts(o, 2, 1.5), "got T_mult=1.5"),
    (lambda o: schedules.CyclicLR(o, 0.1, 1.0), "got cycle_momentum=True and Adagrad"),
    (lambda o: schedules.CyclicLR(o, 0.1, 1.0, mode="up"), "unknown mode of CyclicLR 'up'"),
    (lambda o: schedules.OneCycleLR(o, 1.0), "got neither total_steps nor both"),
    (lambda o: schedules.OneCycleLR(o, 1.0, 2.5), "got total_steps=2.5; wanted an integer > 0"),
    (lambda o: schedules.OneCycleLR(o, 1.0, 5, pct_start=2.0), "got pct_start=2.0; wanted 0 to 1"),
    (lambda o: schedules.OneCycleLR(o, 1.0, 5, anneal_strategy="step"), "unknown anneal_strategy"),
    (lambda o: schedules.ReduceLROnPlateau(o, factor=1.0), "got factor=1.0; wanted a number < 1"),
    (lambda o: schedules.ReduceLROnPlateau(o, "low"), "unknown mode of ReduceLROnPlateau 'low'"),
    (lambda o: schedules.SequentialLR(o, [], []), "got no schedulers; wanted at least one"),
    (
        lambda o: schedules.SequentialLR(o, [schedules.StepLR(o, 1)], [3]),
        "got 1 schedulers and 1 milestones",
    ),
    (
        lambda o: schedules.ChainedScheduler([schedules.ReduceLROnPlateau(o)]),
        "got a ReduceLROnPlateau at 0",
    ),
    (
        lambda o: schedules.ChainedScheduler([schedules.StepLR(x, 1) for x in (o, optimizer())]),
        "the scheduler at 1 is of another optimizer",
    ),
    (lambda o: schedules.StepLR(o, 1, last_epoch=3), "has no 'initial_lr' to resume from"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_is_wrong_is_named(make: Callable, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make(optimizer(ds.optim.Adagrad))


def test_groups_added_later_are_an_error() -> None:
    o = optimizer()
    scheduler = schedules.StepLR(o, 1)
    o.add_param_group({"params": nn.Parameter(ds.ones(1))})
    with pytest.raises(ArgumentError, match="add groups before the scheduler is made"):
        scheduler.step(2)
