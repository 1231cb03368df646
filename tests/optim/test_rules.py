"""Every update rule against the formula of its paper, written again in NumPy and float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn

Array = np.ndarray
Reference = Callable[..., Iterator[Array]]

SHAPES = [(3, 4), (5,), (), (2, 3, 4), (1, 6)]
STEPS = 8
rng = np.random.default_rng(17)
STARTS = [np.asarray(rng.standard_normal(shape)) for shape in SHAPES]
GRADIENTS = [[np.asarray(rng.standard_normal(s)) for s in SHAPES] for _ in range(STEPS)]


def sgd(p, gs, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False):
    buffer = None
    for g in gs:
        g = g + weight_decay * p
        if momentum:
            buffer = g if buffer is None else momentum * buffer + (1 - dampening) * g
            g = g + momentum * buffer if nesterov else buffer
        p = p - lr * g
        yield p


def asgd(p, gs, lr=1e-2, lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0):
    eta = lr
    for t, g in enumerate(gs, 1):
        p = (1 - lambd * eta) * p - eta * (g + weight_decay * p)
        eta = lr / (1 + lambd * lr * t) ** alpha
        yield p


def rprop(p, gs, lr=1e-2, etas=(0.5, 1.2), step_sizes=(1e-6, 50)):
    sizes, before = np.full(p.shape, float(lr)), np.zeros(p.shape)
    for g in gs:
        g, flat_p, flat_g = g.copy(), p.reshape(-1).copy(), np.array(g, ndmin=1).reshape(-1).copy()
        sizes, before = sizes.reshape(-1), before.reshape(-1)
        for i in range(flat_g.size):
            if flat_g[i] * before[i] > 0:
                sizes[i] *= etas[1]
            elif flat_g[i] * before[i] < 0:
                sizes[i] *= etas[0]
                flat_g[i] = 0
            sizes[i] = min(max(sizes[i], step_sizes[0]), step_sizes[1])
            flat_p[i] -= np.sign(flat_g[i]) * sizes[i]
        before, p = flat_g, flat_p.reshape(p.shape)
        yield p


def adam(
    p, gs, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False, decoupled=False
):
    m = v = most = 0.0
    for t, g in enumerate(gs, 1):
        if decoupled:
            p = p * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        most = np.maximum(most, v)
        scale = np.sqrt((most if amsgrad else v) / (1 - betas[1] ** t)) + eps
        p = p - lr * m / (1 - betas[0] ** t) / scale
        yield p


def decoupled_adam(p, gs, decoupled_weight_decay=True, **options):
    return adam(p, gs, decoupled=decoupled_weight_decay, **options)


def adamw(p, gs, weight_decay=1e-2, **options):
    return adam(p, gs, weight_decay=weight_decay, decoupled=True, **options)


def adamax(p, gs, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0):
    m, u = 0.0, np.zeros(p.shape)
    for t, g in enumerate(gs, 1):
        g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        u = np.maximum(betas[1] * u, np.abs(g) + eps)
        p = p - lr / (1 - betas[0] ** t) * m / u
        yield p


def nadam(
    p, gs, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, momentum_decay=4e-3,
    decoupled_weight_decay=False,
):  # fmt: skip
    mus = [betas[0] * (1 - 0.5 * 0.96 ** (t * momentum_decay)) for t in range(STEPS + 2)]
    m = v = 0.0
    for t, g in enumerate(gs, 1):
        if decoupled_weight_decay:
            p = p * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        corrected = mus[t + 1] * m / (1 - np.prod(mus[1 : t + 2]))
        corrected = corrected + (1 - mus[t]) * g / (1 - np.prod(mus[1 : t + 1]))
        p = p - lr * corrected / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
        yield p


def radam(
    p, gs, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, decoupled_weight_decay=False
):
    m = v = 0.0
    most = 2 / (1 - betas[1]) - 1
    for t, g in enumerate(gs, 1):
        if decoupled_weight_decay:
            p = p * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        rho = most - 2 * t * betas[1] ** t / (1 - betas[1] ** t)
        step = lr * m / (1 - betas[0] ** t)
        if rho > 5:
            r = np.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
            step = step * r * np.sqrt(1 - betas[1] ** t) / (np.sqrt(v) + eps)
        p = p - step
        yield p


def rmsprop(p, gs, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False):
    v = mean = buffer = 0.0
    for g in gs:
        g = g + weight_decay * p
        v = alpha * v + (1 - alpha) * g * g
        mean = alpha * mean + (1 - alpha) * g
        buffer = momentum * buffer + g / (np.sqrt(v - mean**2 * centered) + eps)
        p = p - lr * buffer
        yield p


def adagrad(p, gs, lr=1e-2, lr_decay=0, weight_decay=0, initial_accumulator_value=0, eps=1e-10):
    total = initial_accumulator_value
    for t, g in enumerate(gs, 1):
        g = g + weight_decay * p
        total = total + g * g
        p = p - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(total) + eps)
        yield p


def adadelta(p, gs, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0):
    v = delta = 0.0
    for g in gs:
        g = g + weight_decay * p
        v = rho * v + (1 - rho) * g * g
        d = np.sqrt(delta + eps) / np.sqrt(v + eps) * g
        delta = rho * delta + (1 - rho) * d * d
        p = p - lr * d
        yield p


def lion(p, gs, lr=1e-4, betas=(0.9, 0.99), weight_decay=0):
    m = 0.0
    for g in gs:
        p = p - lr * (np.sign(betas[0] * m + (1 - betas[0]) * g) + weight_decay * p)
        m = betas[1] * m + (1 - betas[1]) * g
        yield p


def lamb(p, gs, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=1e-2):
    m = v = 0.0
    for t, g in enumerate(gs, 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        u = m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps) + weight_decay * p
        size, length = np.linalg.norm(np.ravel(p)), np.linalg.norm(np.ravel(u))
        p = p - lr * (size / length if size > 0 and length > 0 else 1.0) * u
        yield p


def adafactor(p, gs, lr=1e-2, beta2_decay=-0.8, eps=(None, 1e-3), d=1.0, weight_decay=0.0):
    least = np.finfo(np.float64).eps if eps[0] is None else eps[0]
    rows = columns = whole = 0.0
    for t, g in enumerate(gs, 1):
        share = t**beta2_decay
        size = max(eps[1], np.sqrt(np.mean(p**2))) * min(lr, 1 / np.sqrt(t))
        p = p * (1 - lr * weight_decay)
        if g.ndim > 1:
            rows = (1 - share) * rows + share * np.mean(g**2, axis=-1)
            columns = (1 - share) * columns + share * np.mean(g**2, axis=-2)
            v = np.einsum("...i,...j->...ij", rows, columns)
            v = v / np.maximum(np.mean(rows, axis=-1), least)[..., None, None]
        else:
            v = whole = (1 - share) * whole + share * g**2
        u = g / np.sqrt(np.maximum(v, least**2))
        p = p - size * u / max(1.0, np.sqrt(np.mean(u**2)) / d)
        yield p


CASES: list[tuple[str, Reference, dict[str, Any]]] = [
    ("SGD", sgd, {}),
    ("SGD", sgd, {"lr": 0.1, "weight_decay": 0.3}),
    ("SGD", sgd, {"lr": 0.1, "momentum": 0.9}),
    ("SGD", sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", sgd, {"lr": 0.1, "momentum": 0.8, "dampening": 0.45}),
    ("ASGD", asgd, {}),
    ("ASGD", asgd, {"lr": 0.1, "lambd": 0.3, "alpha": 0.5, "t0": 3, "weight_decay": 0.1}),
    ("Rprop", rprop, {}),
    ("Rprop", rprop, {"lr": 0.1, "etas": (0.3, 1.5), "step_sizes": (0.05, 0.2)}),
    ("Adam", adam, {}),
    ("Adam", adam, {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", adam, {"lr": 0.1, "amsgrad": True}),
    ("Adam", decoupled_adam, {"decoupled_weight_decay": True, "weight_decay": 0.1, "lr": 0.1}),
    ("AdamW", adamw, {}),
    ("AdamW", adamw, {"lr": 0.1, "weight_decay": 0.3, "amsgrad": True}),
    ("Adamax", adamax, {}),
    ("Adamax", adamax, {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("NAdam", nadam, {}),
    ("NAdam", nadam, {"lr": 0.1, "weight_decay": 0.1, "momentum_decay": 0.1}),
    ("NAdam", nadam, {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", radam, {}),
    ("RAdam", radam, {"lr": 0.1, "weight_decay": 0.1, "betas": (0.5, 0.6)}),
    ("RAdam", radam, {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RMSprop", rmsprop, {}),
    ("RMSprop", rmsprop, {"lr": 0.1, "centered": True, "momentum": 0.9, "weight_decay": 0.1}),
    ("RMSprop", rmsprop, {"lr": 0.1, "centered": True, "alpha": 0.5}),
    ("RMSprop", rmsprop, {"lr": 0.1, "momentum": 0.5, "eps": 1e-2}),
    ("Adagrad", adagrad, {}),
    ("Adagrad", adagrad, {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.3}),
    ("Adagrad", adagrad, {"lr": 0.1, "weight_decay": 0.1, "eps": 1e-2}),
    ("Adadelta", adadelta, {}),
    ("Adadelta", adadelta, {"lr": 0.5, "rho": 0.5, "weight_decay": 0.1, "eps": 1e-2}),
    ("Lion", lion, {}),
    ("Lion", lion, {"lr": 0.1, "betas": (0.5, 0.7), "weight_decay": 0.1}),
    ("LAMB", lamb, {}),
    ("LAMB", lamb, {"lr": 0.1, "betas": (0.5, 0.7), "eps": 1e-3, "weight_decay": 0.0}),
    ("Adafactor", adafactor, {}),
    ("Adafactor", adafactor, {"lr": 0.5, "beta2_decay": -0.5, "eps": (1e-3, 0.1), "d": 2.0}),
    ("Adafactor", adafactor, {"lr": 0.5, "weight_decay": 0.1}),
]


def label(case: tuple[str, Reference, dict[str, Any]]) -> str:
    return " ".join([case[0], *(f"{k}={v}" for k, v in case[2].items())])


def trajectory(
    name: str, options: dict[str, Any], compiled: bool, dtype: Any = ds.float64, sign: float = 1.0
) -> Iterator[Sequence[Array]]:
    """The parameters after each step along the given gradients."""
    parameters = [nn.Parameter(ds.asarray(x, dtype=dtype)) for x in STARTS]
    optimizer = getattr(ds.optim, name)(parameters, **options)

    def step(*gradients: ds.Tensor) -> None:
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g
        optimizer.step()

    run = ds.jit(step) if compiled else step
    for gradients in GRADIENTS:
        run(*[ds.asarray(sign * g, dtype=dtype) for g in gradients])
        assert all(p.requires_grad and p.is_leaf for p in parameters)
        yield [p.numpy() for p in parameters]


def expected(reference: Reference, options: dict[str, Any]) -> Iterator[Sequence[Array]]:
    each = [
        reference(start, [gradients[i] for gradients in GRADIENTS], **options)
        for i, start in enumerate(STARTS)
    ]
    return zip(*each, strict=True)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("case", CASES, ids=map(label, CASES))
def test_steps(case: tuple[str, Reference, dict[str, Any]], compiled: bool) -> None:
    name, reference, options = case
    steps = zip(trajectory(name, options, compiled), expected(reference, options), strict=True)
    for parameters, wanted in steps:
        for p, w in zip(parameters, wanted, strict=True):
            np.testing.assert_allclose(p, w, rtol=1e-9, atol=1e-11)


MAXIMIZE = [c for i, c in enumerate(CASES) if c[0] not in [other[0] for other in CASES[:i]]]


@pytest.mark.parametrize("case", MAXIMIZE, ids=[c[0] for c in MAXIMIZE])
def test_maximize_goes_up(case: tuple[str, Reference, dict[str, Any]]) -> None:
    """Along negated gradients it is the same as minimising."""
    name, reference, options = case
    steps = trajectory(name, options | {"maximize": True}, compiled=True, sign=-1.0)
    for parameters, wanted in zip(steps, expected(reference, options), strict=True):
        for p, w in zip(parameters, wanted, strict=True):
            np.testing.assert_allclose(p, w, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", MAXIMIZE, ids=[c[0] for c in MAXIMIZE])
def test_float32_is_as_good_as_it_can_be(case: tuple[str, Reference, dict[str, Any]]) -> None:
    """What all elements share, such as 1 - beta^t, is computed in float64."""
    name, reference, options = case
    if name == "Adafactor":
        options = options | {"eps": (1e-12, 1e-3)}  # by default the epsilon of the dtype
    options = options | {"lr": 0.1}
    steps = trajectory(name, options, compiled=True, dtype=ds.float32)
    for parameters, wanted in zip(steps, expected(reference, options), strict=True):
        for p, w in zip(parameters, wanted, strict=True):
            np.testing.assert_allclose(p, w, rtol=2e-5, atol=4e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", MAXIMIZE, ids=[c[0] for c in MAXIMIZE])
def test_narrow_parameters_are_updated_in_float32(
    case: tuple[str, Reference, dict[str, Any]], dtype: str
) -> None:
    """One step is the one in float32, rounded once; state has the parameter's own dtype."""
    narrow = getattr(ds, dtype)
    options = {"lr": 0.25}
    results = []
    for wanted in (narrow, ds.float32):
        p = nn.Parameter(ds.asarray([1.0, -2.0, 0.5], dtype=narrow).astype(wanted))
        optimizer = getattr(ds.optim, case[0])([p], **options)
        p.grad = ds.asarray([0.5, 1.0, -4.0], dtype=wanted)
        optimizer.step()
        results.append(p)
        for name, state in optimizer.state[p].items():
            assert state.dtype is wanted or name in optimizer.scalars
    assert results[0].dtype is narrow
    if case[0] == "Adafactor":  # its smallest variance is the dtype's epsilon
        np.testing.assert_allclose(
            results[0].numpy().astype(float), results[1].numpy(), rtol=0, atol=0.02
        )
    else:
        assert results[0].tolist() == results[1].astype(narrow).tolist()


def test_asgd_averages_from_t0_on() -> None:
    p = nn.Parameter(ds.asarray(STARTS[0]))
    optimizer = ds.optim.ASGD([p], lr=0.1, t0=3)
    values = []
    for gradients in GRADIENTS:
        p.grad = ds.asarray(gradients[0])
        optimizer.step()
        values.append(p.numpy().copy())
        t = len(values)
        wanted = values[-1] if t <= 5 else np.mean(values[4:], axis=0)
        np.testing.assert_allclose(optimizer.state[p]["ax"].numpy(), wanted, rtol=1e-12)


def test_lamb_leaves_zero_parameters_a_step_of_their_own() -> None:
    p = nn.Parameter(ds.zeros(2))
    optimizer = ds.optim.LAMB([p], lr=0.5, weight_decay=0.0)
    p.grad = ds.asarray([1.0, -1.0])
    optimizer.step()
    np.testing.assert_allclose(p.numpy(), [-0.5, 0.5], rtol=1e-4)
    p.grad = ds.zeros(2)
    optimizer.state[p]["exp_avg"][:] = 0.0
    before = p.numpy().copy()
    optimizer.step()
    np.testing.assert_array_equal(p.numpy(), before)
