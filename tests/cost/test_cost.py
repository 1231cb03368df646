"""Exact costs that need no clock: launches, arena bytes, traces, programs, kernels."""

from __future__ import annotations

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.program import ir
from deepseek.program.plan_memory import memory_plan


def cost_of(function, *args):
    """Launches and externs of one call of a jitted function."""
    entry = function.entry_for(*args)
    counted = ir.cost(entry.executable.program)
    assert counted["hosts"] == counted["copies"] == 0
    return counted["launches"] + counted["externs"]


@pytest.mark.parametrize(
    "name, body",
    [
        ("softmax", lambda x: ds.softmax(x, -1)),
        ("log_softmax", lambda x: ds.log_softmax(x, -1)),
        ("layer_norm", lambda x: ds.layer_norm(x, (64,), ds.ones((64,)), ds.zeros((64,)))),
        ("gelu chain", lambda x: ds.gelu(x * 2 + 1) * ds.sigmoid(x) + x),
        ("mean and variance", lambda x: (x.mean(axis=1), x.var(axis=1))),
        ("matmul, bias, gelu", lambda x: ds.gelu(x @ x.T + ds.ones((16,)))),
        ("transposed sum", lambda x: (x.T + 1).sum(axis=0)),
        ("padded slices", lambda x: ds.concat([x[:, ::2], x[:, 1::2] * 2], axis=1) + x),
    ],
)
def test_one_kernel(name, body):
    function = ds.jit(body)
    x = ds.asarray(np.linspace(-1, 1, 1024, dtype=np.float32).reshape(16, 64))
    assert cost_of(function, x) == 1, name
    for got, wanted in zip(flat(function(x)), flat(body(x)), strict=True):
        np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=2e-5, atol=2e-6)


def flat(out):
    return list(out) if isinstance(out, tuple) else [out]


def test_conv_bn_relu_in_eval_is_one_kernel():
    ds.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    x = ds.randn(2, 3, 9, 9)
    model(x).evaluate()
    model.eval()

    @ds.jit
    def infer(x):
        with ds.no_grad():
            return model(x)

    entry = infer.entry_for(x)
    assert ir.cost(entry.executable.program)["launches"] == 1
    np.testing.assert_allclose(infer(x).numpy(), model(x).numpy(), rtol=1e-4, atol=1e-5)
    # The folded weight and bias were made once, and are made again when a parameter changes.
    prepared = entry.executable.prepared
    assert prepared.nbytes == 4 * (8 * 3 * 9 + 8)
    first = prepared.versions
    infer(x)
    assert prepared.versions == first
    nn.init.ones_(model[0].weight)
    np.testing.assert_allclose(infer(x).numpy(), model(x).numpy(), rtol=1e-4, atol=1e-5)
    assert prepared.versions != first


def digits_step():
    ds.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    optimizer = ds.optim.AdamW(model.parameters(), lr=3e-3)

    @ds.jit
    def step(x, y):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return step


def batch(n):
    rng = np.random.default_rng(n)
    return ds.asarray(rng.random((n, 1, 8, 8), np.float32)), ds.asarray(rng.integers(0, 10, n))


def test_digits_step():
    step = digits_step()
    x, y = batch(64)
    assert cost_of(step, x, y) <= 40
    entry = step.entry_for(x, y)
    executable = entry.executable
    plan = memory_plan(executable.program, executable.loaded, (), entry.graph)
    assert plan.arena_bytes <= 1.05 * plan.lower_bound
    assert plan.arena_bytes <= plan.freed_by_count
    assert plan.freed_by_count <= plan.keep_everything


def test_parameters_update_in_three_launches():
    step = digits_step()
    program = step.entry_for(*batch(64)).executable.program
    outputs = [(i, s) for i, s in enumerate(program.slots) if s.kind == ir.OUTPUT]
    replaced = {i: program.slots[s.takes].label for i, s in outputs if s.takes is not None}
    parameters = [i for i, label in replaced.items() if "_parameters" in label]
    updating = [
        s for s in program.body
        if any(r.slot in parameters for r in ir.reads_writes(s, program.kernels)[1])
    ]  # fmt: skip
    assert len(parameters) == 11
    assert len(updating) <= 3


@pytest.mark.parametrize("columns", [48, 80])
def test_operands_of_products_are_computed_before_them(columns):
    """Also where an operand has the shape of the result, so that its indices look alike."""
    x, w = ds.ones((48, 48)), ds.ones((48, columns))
    assert cost_of(ds.jit(lambda x, w: ds.exp(x) @ w), x, w) == 2
    assert cost_of(ds.jit(lambda x, w: ds.exp(w) + x @ w), x, w) == 1


def test_an_update_keeps_nothing_of_its_own_in_memory():
    """Averages and parameters are scaled in the kernel that also computes the gradient."""
    model = nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 10))
    optimizer = ds.optim.AdamW(model.parameters())

    @ds.jit
    def step(x, y):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    x, y = ds.ones((16, 24)), ds.zeros((16,), dtype=ds.int64)
    program = step.entry_for(x, y).executable.program
    shapes = {p.shape for p in model.parameters()}
    kept = [s.type for s in program.slots if s.kind == ir.TEMP and s.type.shape in shapes]
    assert kept == []


def test_a_thousand_steps_trace_once():
    x = ds.asarray(np.linspace(0, 1, 8, dtype=np.float32))
    w = nn.Parameter(ds.ones((8,)))
    optimizer = ds.optim.SGD([w], lr=1e-3, momentum=0.9)

    @ds.jit
    def step(x):
        optimizer.zero_grad()
        loss = ((w * x - 2) ** 2).sum()
        loss.backward()
        optimizer.step()
        return loss

    before = ds.counters.traces, ds.counters.programs
    losses = [step(x) for _ in range(1000)]
    assert (ds.counters.traces - before[0], ds.counters.programs - before[1]) == (1, 1)
    assert losses[-1].item() < losses[0].item()


def test_three_batch_sizes_trace_twice():
    step = digits_step()
    before = ds.counters.traces
    step(*batch(64))
    step(*batch(32))
    kernels = ds.counters.kernels
    for n in (16, 48, 7):
        step(*batch(n))
    assert ds.counters.traces - before == 2
    assert ds.counters.kernels == kernels
