"""GradScaler: against its rule in plain Python, as one Program, with every optimizer."""

from __future__ import annotations

import math

import numpy as np
import pytest

import deepseek as ds
from deepseek import amp, nn, optim
from deepseek.errors import ArgumentError, DTypeError, TraceError
from deepseek.ir.dtype import bfloat16, float16, float32
from deepseek.nn import functional as F
from deepseek.program import ir

OPTIMIZERS = {
    name: kind
    for name, kind in vars(optim).items()
    if isinstance(kind, type)
    and issubclass(kind, optim.Optimizer)
    and kind is not optim.Optimizer
    and kind.step is optim.Optimizer.step
}


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    return [
        nn.Parameter(ds.asarray(rng.standard_normal(shape).astype(np.float32)))
        for shape in ((3, 4), (4,))
    ]


def loss_of(params, x):
    w, b = params
    return ((x @ w + b).tanh() ** 2).mean()


X = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
BAD = X.copy()
BAD[0, 0] = np.inf


def everything(params, optimizer):
    """All that a step may change, by name, as arrays."""
    found = {f"parameter {i}": p.numpy().copy() for i, p in enumerate(params)}
    for number, own in optimizer.state_dict()["state"].items():
        for name, value in own.items():
            held = value.numpy() if isinstance(value, ds.Tensor) else value
            found[f"{number} {name}"] = np.array(held)
    return found


def make_step(params, optimizer, scaler, jit):
    def step(x):
        optimizer.zero_grad()
        loss = loss_of(params, x)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    return ds.jit(step) if jit else step


def test_names():
    assert amp.GradScaler is optim.GradientScaler
    assert amp.GradScaler.__name__ == "GradScaler"


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_scale_follows_the_rule(jit):
    """Backs off after overflow, grows after an interval of good steps, as computed here."""
    params = parameters()
    optimizer = optim.SGD(params, lr=0.1)
    scaler = amp.GradScaler(
        init_scale=512.0, growth_factor=4.0, backoff_factor=0.25, growth_interval=3
    )
    step = make_step(params, optimizer, scaler, jit)
    scale, good = 512.0, 0
    for overflow in (0, 0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0):
        step(ds.asarray(BAD if overflow else X))
        good = 0 if overflow else good + 1
        scale *= 0.25 if overflow else 1
        if good == 3:
            scale, good = scale * 4.0, 0
        assert scaler.get_scale() == scale
        assert scaler.state_dict()["_growth_tracker"] == good


def test_scale_does_not_grow_to_infinity():
    params = parameters()
    scaler = amp.GradScaler(init_scale=2.0**127, growth_interval=1)
    for p in params:
        p.grad = ds.zeros(p.shape)
    scaler.scale(ds.ones(()))
    scaler.step(optim.SGD(params, lr=0.1))
    scaler.update()
    assert scaler.get_scale() == 2.0**127


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_equal_those_without_and_skipped_ones_change_nothing(name, jit):
    def run(scaled):
        params = parameters()
        optimizer = OPTIMIZERS[name](params, lr=0.05)
        scaler = amp.GradScaler(init_scale=1024.0, enabled=scaled)
        step = make_step(params, optimizer, scaler, jit)
        step(ds.asarray(X))
        if scaled:
            before = everything(params, optimizer)
            step(ds.asarray(BAD))
            after = everything(params, optimizer)
            assert before.keys() == after.keys() and len(before) > 2 * (name != "SGD")
            for key, value in before.items():
                np.testing.assert_array_equal(after[key], value, err_msg=key)
        step(ds.asarray(X))
        return everything(params, optimizer)

    plain, scaled = run(False), run(True)
    for key, value in plain.items():
        np.testing.assert_allclose(scaled[key], value, rtol=2e-6, atol=1e-7, err_msg=key)


def test_a_whole_step_is_one_program():
    params = parameters()
    optimizer = optim.AdamW(params, lr=0.1)
    scaler = amp.GradScaler(init_scale=128.0)

    @ds.jit
    def step(x):
        optimizer.zero_grad()
        with amp.autocast("cpu", dtype=float16):
            loss = loss_of(params, x)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(params, 0.01)
        scaler.step(optimizer)
        scaler.update()
        return loss, norm

    x = ds.asarray(X)
    program = step.entry_for(x).executable.program
    counted = ir.cost(program)
    assert counted["hosts"] == counted["copies"] == 0
    before = ds.counters.traces, ds.counters.programs
    losses = []
    for _ in range(5):
        loss, norm = step(x)
        losses.append(loss)
    assert (ds.counters.traces, ds.counters.programs) == before
    assert step.cache_info()["entries"] == 1
    assert norm.item() > 0.01 and losses[-1].item() < losses[0].item()
    params_after = [p.numpy().copy() for p in params]
    step(ds.asarray(BAD))
    assert scaler.get_scale() == 64
    for p, kept in zip(params, params_after, strict=True):
        np.testing.assert_array_equal(p.numpy(), kept)


def test_two_optimizers():
    """Each skips for its own gradients; the scale backs off if either did."""
    first, second = parameters(), parameters(1)
    optimizers = [optim.SGD(first, lr=0.1), optim.SGD(second, lr=0.1)]
    scaler = amp.GradScaler(init_scale=64.0)
    losses = [loss_of(first, ds.asarray(BAD)), loss_of(second, ds.asarray(X))]
    for loss in scaler.scale(losses):
        loss.backward()
    before = [first[0].numpy().copy(), second[0].numpy().copy()]
    for optimizer in optimizers:
        scaler.step(optimizer)
    scaler.update()
    np.testing.assert_array_equal(first[0].numpy(), before[0])
    assert np.any(second[0].numpy() != before[1])
    assert scaler.get_scale() == 32.0


def test_accumulated_gradients():
    params = parameters()
    optimizer = optim.SGD(params, lr=0.1)
    scaler = amp.GradScaler(init_scale=2.0**20)
    gather = ds.jit(lambda x: scaler.scale(loss_of(params, x)).backward())
    for _ in range(3):
        gather(ds.asarray(X))
    scaler.unscale_(optimizer)
    got = [p.grad.numpy().copy() for p in params]
    optimizer.zero_grad()
    (3 * loss_of(params, ds.asarray(X))).backward()
    for g, p in zip(got, params, strict=True):
        np.testing.assert_allclose(g, p.grad.numpy(), rtol=1e-5, atol=1e-8)


def test_float16_losses_are_scaled_in_float32():
    scaler = amp.GradScaler()
    x = ds.full((), 3.0, dtype=float16, requires_grad=True)
    scaled = scaler.scale(x * 2)
    assert scaled.dtype is float32 and scaled.item() == 6 * 65536
    a, (b,) = scaler.scale((x, [x.astype(bfloat16)]))
    assert (a.dtype, b.dtype) == (float32, float32)


# ---------------------------------------------------------------------------------- disabled, state


def test_disabled():
    params = parameters()
    optimizer = optim.SGD(params, lr=0.5)
    scaler = amp.GradScaler(enabled=False)
    loss = loss_of(params, ds.asarray(X))
    assert scaler.scale(loss) is loss
    loss.backward()
    scaler.unscale_(optimizer)
    assert scaler.step(optimizer, closure=lambda: 5) == 5
    scaler.update()
    assert scaler.get_scale() == 1.0 and not scaler.is_enabled()
    assert scaler.state_dict() == {}
    scaler.load_state_dict({})


def test_state_in_pytorchs_layout():
    scaler = amp.GradScaler()
    assert scaler.state_dict() == {
        "scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000,
        "_growth_tracker": 0,
    }  # fmt: skip
    given = {
        "scale": 8.0, "growth_factor": 3.0, "backoff_factor": 0.1, "growth_interval": 7,
        "_growth_tracker": 5,
    }  # fmt: skip
    scaler.load_state_dict(given)
    assert scaler.state_dict() == given
    assert (scaler.get_growth_factor(), scaler.get_backoff_factor()) == (3.0, 0.1)
    assert scaler.get_growth_interval() == 7
    scaler.set_growth_factor(1.5)
    scaler.set_backoff_factor(0.9)
    scaler.set_growth_interval(1)
    assert scaler.state_dict() == given | {
        "growth_factor": 1.5, "backoff_factor": 0.9, "growth_interval": 1,
    }  # fmt: skip


def test_settings_and_loaded_state_reach_compiled_steps():
    params = parameters()
    scaler = amp.GradScaler(init_scale=4.0, growth_interval=100)
    step = make_step(params, optim.SGD(params, lr=0.1), scaler, jit=True)
    step(ds.asarray(X))
    scaler.set_growth_interval(2)
    step(ds.asarray(X))
    assert scaler.get_scale() == 8.0
    scaler.load_state_dict(scaler.state_dict() | {"scale": 1024.0})
    step(ds.asarray(BAD))
    assert scaler.get_scale() == 512.0


@pytest.mark.parametrize("new", [7.0, 7, ds.asarray(7.0), ds.asarray([7.0], dtype=float16)])
def test_a_new_scale(new):
    scaler = amp.GradScaler()
    scaler.scale(ds.ones(()))
    scaler.update(new)
    assert scaler.get_scale() == 7.0


# ------------------------------------------------------------------------------------------ errors


def begun(scaler=None):
    params = parameters()
    optimizer = optim.SGD(params, lr=0.1)
    scaler = scaler or amp.GradScaler()
    scaler.scale(loss_of(params, ds.asarray(X))).backward()
    return params, optimizer, scaler


def test_order_of_calls():
    params, optimizer, scaler = begun()
    scaler.unscale_(optimizer)
    with pytest.raises(ArgumentError, match="unscale_: it was already called on this SGD"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(ArgumentError, match=r"called after step\(\) on this SGD"):
        scaler.unscale_(optimizer)
    with pytest.raises(ArgumentError, match="step: it was already called on this SGD"):
        scaler.step(optimizer)
    scaler.update()
    with pytest.raises(ArgumentError, match="no step was made since the last update"):
        scaler.update()
    loss_of(params, ds.asarray(X)).backward()
    scaler.step(optimizer)


def test_nothing_scaled_and_no_gradients():
    optimizer = optim.SGD(parameters(), lr=0.1)
    scaler = amp.GradScaler()
    for call in (scaler.unscale_, scaler.step):
        with pytest.raises(ArgumentError, match="no loss was scaled yet"):
            call(optimizer)
    with pytest.raises(ArgumentError, match="no loss was scaled yet"):
        scaler.update()
    scaler.scale(ds.ones(()))
    with pytest.raises(ArgumentError, match="this SGD has no gradients"):
        scaler.step(optimizer)


def test_float16_gradients():
    p = nn.Parameter(ds.ones((2,), dtype=float16))
    scaler = amp.GradScaler()
    scaler.scale(p.sum()).backward()
    with pytest.raises(DTypeError, match="got float16 gradients"):
        scaler.step(optim.SGD([p], lr=0.1))


def test_what_cannot_be_skipped():
    params, optimizer, scaler = begun()
    with pytest.raises(ArgumentError, match="got a closure"):
        scaler.step(optimizer, closure=lambda: None)

    class Own(optim.SGD):
        def step(self, closure=None):
            for p in params:
                p.grad = None

    with pytest.raises(ArgumentError, match="Own has a step.. of its own"):
        scaler.step(Own(params, lr=0.1))


@pytest.mark.parametrize(
    "given",
    [
        {"growth_factor": 1.0}, {"backoff_factor": 1.0}, {"backoff_factor": 0.0},
        {"growth_interval": 0}, {"init_scale": 0.0}, {"init_scale": math.nan},
    ],
    ids=str,
)  # fmt: skip
def test_bad_factors(given):
    ((name, value),) = given.items()
    with pytest.raises(ArgumentError, match=f"got {name}={value}"):
        amp.GradScaler(**given)


def test_bad_arguments():
    scaler = amp.GradScaler()
    with pytest.raises(ArgumentError, match=r"GradScaler.scale': got 3"):
        scaler.scale(3)
    with pytest.raises(ArgumentError, match="scale"):
        scaler.load_state_dict({})
    scaler.scale(ds.ones(()))
    with pytest.raises(ArgumentError, match="got new_scale"):
        scaler.update(ds.ones((2,)))
    with pytest.raises(ArgumentError, match="got new_scale 'x'"):
        scaler.update("x")


def test_an_iteration_is_not_cut_in_two():
    params, optimizer, scaler = begun()
    scaler.unscale_(optimizer)
    with pytest.raises(ArgumentError, match="unscaled outside the compiled function"):
        ds.jit(lambda: scaler.step(optimizer))()
    scaler.step(optimizer)
    scaler.update()

    params, optimizer, scaler = begun()
    ds.jit(lambda: scaler.step(optimizer))()
    with pytest.raises(ArgumentError, match="in the same compiled function"):
        scaler.update()


def test_the_scale_is_not_known_while_tracing():
    params, optimizer, scaler = begun()
    with pytest.raises(TraceError, match="not known while"):
        ds.jit(lambda: scaler.get_scale())()


# -------------------------------------------------------------------------- what it is all about


def trained(scaler):
    """The last and first loss of a float16 network whose gradients are below float16's range."""
    ds.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = optim.Adam(model.parameters(), lr=3e-2, eps=1e-12)
    rng = np.random.default_rng(0)
    x = ds.asarray(rng.standard_normal((64, 8)).astype(np.float32))
    y = ds.asarray(np.sin(x.numpy().sum(axis=1, keepdims=True)))

    @ds.jit
    def step(x, y):
        optimizer.zero_grad()
        with amp.autocast("cpu", dtype=float16):
            # 2**-24 is the smallest float16: cotangents of this loss are far below.
            loss = F.mse_loss(model(x), y) * 2.0**-24
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss * 2.0**24

    losses = [step(x, y).item() for _ in range(120)]
    return losses[0], losses[-1], scaler


def test_a_network_that_underflows_learns_with_it_only():
    first, last, _ = trained(amp.GradScaler(enabled=False))
    assert last > 0.98 * first
    first, last, scaler = trained(amp.GradScaler(init_scale=2.0**34, growth_interval=20))
    assert last < 0.2 * first
    assert scaler.get_scale() > 1
