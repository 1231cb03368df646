"""Whole training steps as one program: forward, backward, clipping, the optimizer."""

from __future__ import annotations

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn, optim
from deepseek.errors import TraceError


def data(n=8):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 4)).astype(np.float32)
    return ds.asarray(x), ds.asarray((x.sum(1) > 0).astype(np.int64))


def make(optimizer=optim.AdamW, **kwargs):
    ds.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return model, optimizer(model.parameters(), **({"lr": 0.01} | kwargs))


def step_at_start(model, opt, x, y, clip=1.0):
    opt.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
    opt.step()
    return loss, norm


def step_at_end(model, opt, x, y, clip=1.0):
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
    opt.step()
    opt.zero_grad()
    return loss, norm


def weights(model):
    return np.concatenate([p.numpy().ravel() for p in model.parameters()])


@pytest.mark.parametrize("step", [step_at_start, step_at_end])
@pytest.mark.parametrize(
    "settings",
    [
        (optim.SGD, {}),
        (optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (optim.SGD, {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}),
        (optim.Adam, {"weight_decay": 0.1}),
        (optim.AdamW, {"amsgrad": True}),
    ],
)
def test_a_compiled_step_is_the_eager_step(work, step, settings):
    optimizer, kwargs = settings
    x, y = data()
    model, opt = make(optimizer, **kwargs)
    eager = [[t.item() for t in step(model, opt, x, y)] for _ in range(5)]
    wanted = weights(model)

    model, opt = make(optimizer, **kwargs)
    jitted = ds.jit(lambda x, y: step(model, opt, x, y))
    with work() as done:
        compiled = [[t.item() for t in jitted(x, y)] for _ in range(5)]
    assert done.traces == 1 and done.programs == 1
    np.testing.assert_allclose(compiled, eager, rtol=1e-5)
    np.testing.assert_allclose(weights(model), wanted, rtol=1e-4, atol=1e-6)


def test_model_and_optimizer_as_arguments(work):
    x, y = data()
    step = ds.jit(step_at_start)
    model, opt = make()
    step(model, opt, x, y)
    with work() as done:
        first = step(model, opt, x, y)[0].item()
    assert done.traces == 0
    other, other_opt = make()
    with work() as done:
        step(other, other_opt, x, y)
        assert step(other, other_opt, x, y)[0].item() == pytest.approx(first, rel=1e-5)
    assert done.traces == 1


def test_gradients_are_dropped_and_reading_one_says_so():
    x, y = data()
    model, opt = make()
    step = ds.jit(lambda x, y: step_at_start(model, opt, x, y))
    for _ in range(2):
        step(x, y)
        with pytest.raises(TraceError, match="keep_grads=True"):
            _ = model[0].weight.grad
    opt.zero_grad()
    assert model[0].weight.grad is None


def test_keep_grads():
    x, y = data()
    model, opt = make()
    eager_model, eager_opt = make()
    step = ds.jit(lambda x, y: step_at_start(model, opt, x, y), keep_grads=True)
    for _ in range(2):
        step(x, y)
        step_at_start(eager_model, eager_opt, x, y)
        for p, q in zip(model.parameters(), eager_model.parameters(), strict=True):
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-3, atol=1e-6)


def test_a_dropped_gradient_cannot_be_accumulated_into():
    x, y = data()
    model, opt = make()
    step = ds.jit(lambda x, y: step_at_start(model, opt, x, y))
    step(x, y)
    with pytest.raises(TraceError, match="keep_grads=True"):
        nn.functional.cross_entropy(model(x), y).backward()
    opt.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    assert model[0].weight.grad is not None


def test_eager_and_compiled_steps_mix(work):
    x, y = data()
    model, opt = make()
    for _ in range(6):
        step_at_start(model, opt, x, y)
    wanted = weights(model)
    model, opt = make()
    step = ds.jit(lambda x, y: step_at_start(model, opt, x, y))
    for _ in range(3):
        step(x, y)
        step_at_start(model, opt, x, y)
    np.testing.assert_allclose(weights(model), wanted, rtol=1e-4, atol=1e-6)


def test_hyper_parameters_take_effect_and_compile_nothing(work):
    x, y = data()
    model, opt = make(optim.AdamW, weight_decay=0.1)
    step = ds.jit(lambda x, y: step_at_start(model, opt, x, y))
    eager, eager_opt = make(optim.AdamW, weight_decay=0.1)
    changes = [
        {}, {"lr": 0.1}, {"betas": (0.8, 0.9)}, {"weight_decay": 0.5}, {"eps": 1e-3},
        {"lr": 0.0}, {"weight_decay": 0.0},
    ]  # fmt: skip
    step(x, y)
    step_at_start(eager, eager_opt, x, y)
    for change in changes:
        for o in (opt, eager_opt):
            o.param_groups[0].update(change)
        with work() as done:
            step(x, y)
        step_at_start(eager, eager_opt, x, y)
        assert done.kernels == done.programs == 0, change
        np.testing.assert_allclose(weights(model), weights(eager), rtol=1e-4, atol=1e-6)


def test_momentum_of_sgd_is_an_input_too(work):
    x, y = data()
    model, opt = make(optim.SGD, momentum=0.9)
    eager, eager_opt = make(optim.SGD, momentum=0.9)
    step = ds.jit(lambda x, y: step_at_start(model, opt, x, y))
    for momentum in (0.9, 0.5, 0.1):
        opt.param_groups[0]["momentum"] = eager_opt.param_groups[0]["momentum"] = momentum
        with work() as done:
            step(x, y)
        step_at_start(eager, eager_opt, x, y)
    assert done.traces == 0
    np.testing.assert_allclose(weights(model), weights(eager), rtol=1e-4, atol=1e-6)


def test_a_group_added_later_is_updated(work):
    x, y = data()
    model, opt = make(optim.SGD)
    extra = ds.zeros((2,), requires_grad=True)

    @ds.jit
    def step(x, y):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(model(x) + extra, y)
        loss.backward()
        opt.step()
        return loss

    step(x, y)
    assert extra.tolist() == [0, 0]
    opt.zero_grad()
    extra.grad = None
    opt.add_param_group({"params": [extra], "lr": 1.0})
    step(x, y)
    assert extra.tolist() != [0, 0]


def test_gradient_accumulation_over_calls(work):
    x, y = data()

    def micro(model, x, y):
        (nn.functional.cross_entropy(model(x), y) / 2).backward()

    def update(opt):
        opt.step()
        opt.zero_grad()

    def run(micro, update):
        model, opt = make(optim.SGD)
        for _ in range(3):
            micro(model, x[:4], y[:4])
            micro(model, x[4:], y[4:])
            update(opt)
        return weights(model)

    np.testing.assert_allclose(run(ds.jit(micro), ds.jit(update)), run(micro, update), rtol=1e-4)


def test_parameters_are_updated_in_place_unless_somebody_looks():
    x, y = data()
    model, opt = make()
    step = ds.jit(lambda x, y: step_at_start(model, opt, x, y))
    step(x, y)

    def ptrs():
        return [p._value.data.ptr for p in model.parameters()]

    before = ptrs()
    step(x, y)
    assert ptrs() == before
    view = model[0].weight.numpy()
    old = view.copy()
    step(x, y)
    np.testing.assert_array_equal(view, old)
    assert not np.array_equal(model[0].weight.numpy(), old)
    after = ptrs()
    assert after[0] != before[0] and after[1:] == before[1:]


def test_learning_rate_schedule_through_a_number(work):
    w = ds.asarray(np.array([1.0], np.float32)).requires_grad_()

    @ds.jit
    def step(lr):
        w.grad = None
        (w * w).sum().backward()
        with ds.no_grad():
            w[:] = w - lr * w.grad

    step(0.1)
    with work() as done:
        step(0.2)
        step(0.0)
    assert done.traces == 0
    np.testing.assert_allclose(w.numpy(), 0.8 * 0.6, rtol=1e-6)


def test_dropout_in_a_step_matches_eager_with_the_seed():
    x, y = data()

    def run(compiled):
        ds.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 2))
        opt = optim.SGD(model.parameters(), lr=0.1)
        step = ds.jit(step_at_start) if compiled else step_at_start
        losses = [step(model, opt, x, y)[0].item() for _ in range(4)]
        return losses, weights(model)

    losses, final = run(True)
    wanted_losses, wanted = run(False)
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-4)
    np.testing.assert_allclose(final, wanted, rtol=1e-3, atol=1e-6)


def test_frozen_parameters_stay(work):
    x, y = data()
    model, opt = make(optim.SGD)
    step = ds.jit(lambda x, y: step_at_start(model, opt, x, y))
    step(x, y)
    opt.zero_grad()
    model[0].requires_grad_(False)
    frozen = model[0].weight.numpy().copy()
    step(x, y)
    np.testing.assert_array_equal(model[0].weight.numpy(), frozen)
    model[0].requires_grad_(True)
    step(x, y)
    assert not np.array_equal(model[0].weight.numpy(), frozen)


def test_loss_can_be_differentiated_outside():
    x, y = data()
    model, _ = make()
    forward = ds.jit(lambda x: model(x))
    nn.functional.cross_entropy(forward(x), y).backward()
    got = [p.grad.numpy().copy() for p in model.parameters()]
    for p in model.parameters():
        p.grad = None
    nn.functional.cross_entropy(model(x), y).backward()
    for g, p in zip(got, model.parameters(), strict=True):
        np.testing.assert_allclose(g, p.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_batch_sizes_share_entries(work):
    model, opt = make()
    step = ds.jit(lambda x, y: step_at_start(model, opt, x, y))
    with work() as done:
        step(*data(8))
        step(*data(6))
    assert done.traces == 2
    with work() as done:
        for n in (5, 7, 12, 8, 6):
            step(*data(n))
    assert done.traces == done.programs == done.kernels == 0
