"""What compiling costs, in counts: regions lowered, kernels and modules compiled, calls a layer."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.backends.cpu import BACKEND
from deepseek.compiler import caches
from deepseek.compiler import compile as compiling
from deepseek.ir.recent import Recent
from deepseek.ir.scalar import walk
from deepseek.kernel import lower as lowering
from deepseek.kernel.ir import expressions, statements
from deepseek.passes import PassContext, run_passes
from deepseek.program.ir import Launch


def training_step(layers):
    """A step of a stack of transformer layers, and arguments for it."""
    ds.manual_seed(0)
    stack = nn.ModuleList(
        [
            nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
            for _ in range(layers)
        ]
    )
    head = nn.Linear(32, 5)
    optimizer = ds.optim.AdamW([*stack.parameters(), *head.parameters()], lr=1e-3)

    @ds.jit
    def step(x, y):
        optimizer.zero_grad()
        for layer in stack:
            x = layer(x)
        loss = nn.functional.cross_entropy(head(x.mean(axis=1)), y)
        loss.backward()
        optimizer.step()
        return loss

    rng = np.random.default_rng(0)
    x = ds.asarray(rng.standard_normal((4, 8, 32)).astype(np.float32))
    return step, (x, ds.asarray(rng.integers(0, 5, 4)))


def recorded(monkeypatch, owner, name):
    """The arguments of each call of a function, from now on."""
    calls = []
    function = getattr(owner, name)

    def passed_on(*args, **kwargs):
        calls.append(args)
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, passed_on)
    return calls


def work(layers):
    """Of a step compiled with nothing remembered: regions, those lowered, kernels by module."""
    step, args = training_step(layers)
    for x in args:
        x.evaluate()
    with pytest.MonkeyPatch.context() as patch, ds.config.override(cache_size=0):
        caches.forget()
        patch.setattr(lowering, "_lowered", Recent(4096))
        built = recorded(patch, compiling.building, "build")
        lowered = recorded(patch, lowering, "lower_region")
        modules = recorded(patch, BACKEND, "compile")
        step.entry_for(*args)
    return len(built[-1][0].nodes), len(lowered), [len(kernels) for (kernels,) in modules]


def test_layers_that_are_alike_are_lowered_and_compiled_once():
    regions, lowered, modules = work(2)
    more_regions, same_lowered, same_modules = work(8)
    assert more_regions > 2 * regions
    assert same_lowered == lowered < regions
    assert same_modules == modules
    assert len(modules) == 1, "the kernels of a program are one module"
    assert modules[0] <= lowered


def calls_of_passes(layers):
    """How many calls, those of built-in functions too, the passes make for a step."""
    step, args = training_step(layers)
    graph = step.entry_for(*args).graph
    count = 0

    def called(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        run_passes(graph, PassContext())
    finally:
        sys.setprofile(None)
    return count


def test_passes_are_linear_in_the_number_of_layers():
    few, some, many = (calls_of_passes(n) for n in (4, 8, 16))
    assert many - some <= 2.2 * (some - few)


def test_an_update_rule_is_recorded_once_for_parameters_of_a_type():
    entered = 0
    rule = ds.optim.AdamW.rule.__code__

    def called(frame, event, argument):
        nonlocal entered
        entered += event == "call" and frame.f_code is rule

    parameters = [nn.Parameter(ds.ones((n % 2 + 2,))) for n in range(10)]
    optimizer = ds.optim.AdamW(parameters, lr=0.5)
    for p in parameters:
        p.grad = ds.ones(p.shape)
    sys.setprofile(called)
    try:
        optimizer.step()
    finally:
        sys.setprofile(None)
    assert entered == 2
    for p in parameters:
        np.testing.assert_allclose(p.numpy(), np.full(p.shape, 1 - 0.5 * 0.01 - 0.5), rtol=1e-5)


def with_powers(kernels):
    """The kernels that compute a power."""
    return [
        k for k in kernels
        if any(e.fn == "pow" for s in statements(k.body) for e in walk(expressions(s)))
    ]  # fmt: skip


def test_a_costly_scalar_is_computed_by_one_kernel_for_all():
    """The corrections of AdamW, which take powers of the step count in float64."""
    step, args = training_step(2)
    program = step.entry_for(*args).executable.program
    (kernel,) = with_powers(program.kernels)
    number = program.kernels.index(kernel)
    (launch,) = [s for s in program.body if isinstance(s, Launch) and s.kernel == number]
    assert len(launch.rows) == 1


def test_a_costly_scalar_stays_in_a_kernel_that_alone_reads_it():
    def scaled(t, *tensors):
        return [x * t.pow(1.5) for x in tensors]

    t, x, y = ds.asarray(2.0), ds.ones((64,)), ds.ones((8, 8))
    for tensors, kernels in (((x,), 1), ((x, y), 3)):
        program = ds.jit(scaled).entry_for(t, *tensors).executable.program
        assert len(with_powers(program.kernels)) == 1
        assert sum(len(step.rows) for step in program.body) == kernels
