"""Recomputation: the same gradients bit for bit, each effect once, a lower peak."""

from __future__ import annotations

import numpy as np
import pytest

import deepseek as ds
from deepseek import config, nn
from deepseek.errors import ArgumentError
from deepseek.ir.graph import Graph
from deepseek.ir.text import parse_graph, print_graph
from deepseek.nn import functional as F
from deepseek.program import ir
from deepseek.program.plan_memory import memory_plan
from deepseek.recompute import CHECKPOINT, checkpoint


def plain(function):
    return function


def array(*shape: int, seed: int = 0) -> ds.Tensor:
    return ds.asarray(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


class Block(nn.Module):
    """Attention and an MLP, each with a residual, norms and dropout."""

    def __init__(self, width: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(4 * width, width),
        )  # fmt: skip

    def forward(self, x: ds.Tensor) -> ds.Tensor:
        normed = self.norm(x)
        x = x + self.attention(normed, normed, normed)[0]
        return x + self.mlp(x)


def mlp(dropout: float) -> nn.Module:
    parts = [nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Dropout(dropout), nn.Linear(32, 16)]
    return nn.Sequential(*parts)


MODELS = {
    "mlp": (lambda: [mlp(0.0) for _ in range(3)], (8, 16)),
    "mlp with dropout": (lambda: [mlp(0.3) for _ in range(3)], (8, 16)),
    "transformer": (lambda: [Block(16) for _ in range(2)], (2, 5, 16)),
    "convolutions": (
        lambda: [
            nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())
            for _ in range(2)
        ],
        (4, 3, 6, 6),
    ),
    "modules": (lambda: [nn.CheckpointModule(mlp(0.3)) for _ in range(2)], (8, 16)),
}


def trained(make, shape, wrap, jit, steps=2):
    """Losses, gradients, parameters and buffers after some steps of training."""
    ds.manual_seed(0)
    layers = make()
    if wrap is plain:
        layers = [x.module if isinstance(x, nn.CheckpointModule) else x for x in layers]
    model = nn.ModuleList(layers) if hasattr(nn, "ModuleList") else nn.Sequential(*layers)
    optimizer = ds.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    calls = [wrap(layer) for layer in layers]
    x, y = array(*shape), array(*shape, seed=1)

    def step(x, y):
        optimizer.zero_grad()
        h = x
        for call in calls:
            h = call(h)
        loss = ((h - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    if jit:
        step = ds.jit(step, keep_grads=True)
    losses = [step(x, y).numpy().copy() for _ in range(steps)]
    grads = [p.grad.numpy().copy() for p in model.parameters()]
    state = [t.numpy().copy() for t in model.state_dict().values()]
    return [*losses, *grads, *state], ds.rand(()).numpy()


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", MODELS)
def test_training_is_the_same_bit_for_bit(name, jit):
    """Gradients, running statistics, and how many random numbers were drawn."""
    make, shape = MODELS[name]
    wanted, after = trained(make, shape, plain, jit)
    got, after_too = trained(make, shape, checkpoint, jit)
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    assert after == after_too


def gradients(function, *args, jit=False):
    """The gradients of a function of several arguments and parameters, as arrays."""
    inputs = [ds.asarray(x.numpy()).requires_grad_() for x in args]

    def run(*inputs):
        return ds.value_and_grad(function, tuple(range(len(inputs))))(*inputs)

    ds.manual_seed(5)
    value, grads = (ds.jit(run) if jit else run)(*inputs)
    return [value.numpy().copy(), *(g.numpy().copy() for g in grads)]


def several(wrap):
    """Several inputs and outputs, a static one, an integer one; nested; passed through."""

    def inner(x, scale):
        return {"a": (x * scale).exp(), "b": [x.sin(), x]}

    def part(x, y, n, *, shift):
        made = wrap(inner)(x * n, y)
        kept = made["b"][0] @ shift
        return made["a"], (kept, x), ds.argmax(y, axis=-1), None

    def function(x, y):
        a, (b, same), places, nothing = wrap(part)(x, y, 3, shift=y)
        assert nothing is None
        return (a * b).sum() + (same * places.astype(ds.float32).reshape((-1, 1))).sum()

    return function


def partly_without(wrap):
    """Gradients that are stopped inside stay stopped."""

    def part(x, y):
        with ds.no_grad():
            weight = (x * y).sum(axis=-1, keepdims=True)
        return x.exp() * weight + y.detach() * x

    return lambda x, y: (wrap(part)(x, y) * y).sum()


def of_second_order(wrap):
    """A gradient inside a gradient."""

    def part(x, y):
        return (x * y).tanh() @ (y * y)

    def function(x, y):
        slope = ds.grad(lambda x, y: wrap(part)(x, y).sum())(x, y)
        return (slope * slope).sum() + (wrap(part)(x, y) ** 2).sum()

    return function


def with_loops(wrap):
    """Control flow inside, with a draw for each step."""

    def part(x, y):
        def body(h, row):
            return (h @ y).tanh() * 0.5 + F.dropout(row, 0.5, True), h

        h, rows = ds.scan(body, x[0], x)
        return ds.cond(h.sum() > 0, lambda h: h * 2, lambda h: h * 3, h), rows

    def function(x, y):
        h, rows = wrap(part)(x, y)
        return (h * h).sum() + rows.sum()

    return function


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("make", [several, partly_without, of_second_order, with_loops])
def test_gradients_are_the_same(make, jit):
    x, y = array(5, 5), array(5, 5, seed=1)
    wanted = gradients(make(plain), x, y, jit=jit)
    got = gradients(make(checkpoint), x, y, jit=jit)
    assert all(np.any(w != 0) for w in wanted[1:])
    # Compiled, sums may be fused otherwise; a second gradient adds up its parts otherwise.
    tolerance = 1e-6 if jit or make is of_second_order else 0
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=10 * tolerance)


def test_what_is_looked_at_inside():
    """Values that are computed while the part is recorded are computed again all the same."""
    w = array(4, 4).requires_grad_()

    def part(x):
        h = x @ w
        seen.append(h.numpy().copy())
        return h.tanh() @ w

    seen = []
    x = array(3, 4, seed=1)
    checkpoint(part)(x).sum().backward()
    got = w.grad.numpy().copy()
    w.grad = None
    part(x).sum().backward()
    np.testing.assert_array_equal(got, w.grad.numpy())
    np.testing.assert_array_equal(*seen)


def test_each_op_at_once():
    with config.override(eager=True):
        got = gradients(several(checkpoint), array(5, 5), array(5, 5, seed=1))
    wanted = gradients(several(plain), array(5, 5), array(5, 5, seed=1))
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_without_gradients_nothing_is_wrapped():
    w = array(4, 4).requires_grad_()
    part = checkpoint(lambda x: (x @ w).tanh())
    x = array(3, 4)
    assert part(x)._value.node.op is CHECKPOINT
    with ds.no_grad():
        assert part(x)._value.node.op is not CHECKPOINT
    frozen = checkpoint(lambda x: x.tanh())
    assert frozen(x)._value.node.op is not CHECKPOINT


def test_running_statistics_change_once():
    def after(wrap):
        ds.manual_seed(0)
        norm = nn.BatchNorm1d(4)
        wrap(norm)(array(8, 4)).sum().backward()
        return norm.running_mean.numpy().copy(), int(norm.num_batches_tracked)

    (mean, count), (wanted, _) = after(checkpoint), after(plain)
    np.testing.assert_array_equal(mean, wanted)
    assert count == 1


def test_decorator_on_a_method_and_new_sizes():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        @checkpoint
        def forward(self, x, scale=1.0):
            """Says what it does."""
            return self.linear(x).tanh() * scale

    net = Net()
    assert Net.forward.__doc__ == "Says what it does."

    @ds.jit
    def step(x):
        net.zero_grad()
        (net(x, scale=2.0) ** 2).mean().backward()
        return net.linear.weight.grad

    for rows in (3, 5, 7):
        x = array(rows, 4, seed=rows)
        net.zero_grad()
        (2.0 * net.linear(x).tanh()).square().mean().backward()
        wanted = net.linear.weight.grad.numpy().copy()
        np.testing.assert_allclose(step(x).numpy(), wanted, rtol=1e-5, atol=1e-7)
    assert step.cache_info()["entries"] == 2


def test_a_function_wrapped_outside_is_guarded():
    scale = 2.0
    part = checkpoint(lambda x: x * scale)
    f = ds.jit(lambda x: part(x))
    x = ds.ones((2,), requires_grad=True)
    assert f(x).tolist() == [2, 2]
    scale = 3.0
    assert f(x).tolist() == [3, 3]


# --------------------------------------------------------------------------------------- the module


def test_module_has_the_names_of_what_it_wraps():
    layer = mlp(0.1)
    model = nn.Sequential(nn.CheckpointModule(layer), nn.Linear(16, 2))
    bare = nn.Sequential(layer, nn.Linear(16, 2))
    assert list(model.state_dict()) == list(bare.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in bare.named_parameters()]
    model.load_state_dict(bare.state_dict())
    assert model[0].module is layer
    model.eval()
    assert not layer.training
    assert "CheckpointModule" in repr(model)


def test_errors():
    with pytest.raises(ArgumentError, match="checkpoint: got 3; wanted a function"):
        checkpoint(3)
    with pytest.raises(ArgumentError, match=r"CheckpointModule: got a function; wanted a Module"):
        nn.CheckpointModule(plain)


# ------------------------------------------------------------------------------------------ memory


def planned(wrap, layers, shape, keep_grads=False):
    """The plan and cost of a jitted training step."""
    ds.manual_seed(0)
    model = nn.Sequential(*layers)
    optimizer = ds.optim.SGD(model.parameters(), lr=0.1)
    calls = [wrap(layer) for layer in layers]

    def step(x):
        optimizer.zero_grad()
        for call in calls:
            x = call(x)
        loss = (x * x).mean()
        loss.backward()
        optimizer.step()
        return loss

    entry = ds.jit(step, keep_grads=keep_grads).entry_for(array(*shape))
    executable = entry.executable
    plan = memory_plan(executable.program, executable.loaded, (), entry.graph)
    return plan, ir.cost(executable.program), entry


def deep_mlp(depth):
    def part():
        hidden = [nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU()]
        return nn.Sequential(*hidden, nn.Linear(256, 64), nn.Dropout(0.1))

    return [part() for _ in range(depth)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, shape, part",
    [
        (lambda depth: deep_mlp(depth), (1024, 64), 0.3),
        (lambda depth: [Block(64, 0.1) for _ in range(depth)], (64, 64, 64), 0.4),
    ],
    ids=["mlp", "transformer"],
)
def test_planned_peak_is_lower(make, shape, part):
    before, _, _ = planned(plain, make(6), shape)
    after, cost, _ = planned(checkpoint, make(6), shape)
    assert after.arena_bytes < part * before.arena_bytes
    deeper, deeper_cost, _ = planned(checkpoint, make(8), shape)
    boundaries = 2 * 4 * np.prod(shape)  # the inputs of two more parts
    parameters = sum(p.nbytes for layer in make(2) for p in layer.parameters())
    assert deeper.arena_bytes - after.arena_bytes <= boundaries + parameters
    assert deeper_cost["launches"] > cost["launches"]


def test_the_forward_is_computed_twice():
    """Merging does not take the second computation for the first, nor do launches join."""

    def matmuls(entry):
        program = entry.executable.program
        steps = [s for s in program.body if isinstance(s, ir.Launch)]
        return sum(len(s.rows) for s in steps if "matmul" in program.kernels[s.kernel].name)

    _, _, before = planned(plain, deep_mlp(3), (256, 64))
    _, _, after = planned(checkpoint, deep_mlp(3), (256, 64))
    # Of each part's three products all but the last are needed again.
    assert matmuls(after) == matmuls(before) + 3 * 2


def test_eager_keeps_the_boundaries_only():
    def held(wrap):
        layers = deep_mlp(4)
        x = array(256, 64)
        loss = x
        for layer in layers:
            loss = wrap(layer)(loss)
        loss = loss.sum()
        before = ds.memory_stats()["in_use"]
        loss.evaluate()
        return ds.memory_stats()["in_use"] - before

    assert held(checkpoint) < 0.2 * held(plain)


def test_text_round_trip():
    w = array(4, 4).requires_grad_()
    x = array(3, 4)

    @ds.jit
    def step(x):
        loss = checkpoint(lambda x: (x @ w).tanh() @ w)(x).square().sum()
        loss.backward()
        return loss, w.grad

    graph: Graph = step.entry_for(x).graph
    text = print_graph(graph)
    assert "checkpoint" in text and "late" in text
    assert parse_graph(text) == graph


def test_every_pass_keeps_the_meaning():
    with config.override(verify=2):
        _, _, entry = planned(checkpoint, deep_mlp(2), (8, 64))
    assert entry.in_runtime


def test_under_autocast():
    """What is computed again has the dtypes that it had."""

    def grads(wrap, jit):
        ds.manual_seed(0)
        model = mlp(0.2)

        def run(x):
            model.zero_grad()
            with ds.amp.autocast("cpu"):
                out = wrap(model)(x)
            (out.astype(ds.float32) ** 2).sum().backward()
            return [p.grad for p in model.parameters()]

        out = (ds.jit(run) if jit else run)(array(8, 16))
        assert all(g.dtype is ds.float32 for g in out)
        return [g.numpy().copy() for g in out]

    for jit in (False, True):
        for a, b in zip(grads(checkpoint, jit), grads(plain, jit), strict=True):
            np.testing.assert_allclose(a, b, rtol=0.05, atol=0.02 * np.abs(b).max())


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_a_compiled_part(jit):
    w = array(4, 4).requires_grad_()
    part = ds.jit(lambda x: (x @ w).tanh() @ w)

    def run(x, call):
        w.grad = None
        loss = call(x).square().sum()
        loss.backward()
        return loss, w.grad

    x = array(3, 4, seed=1)
    wanted = [t.numpy().copy() for t in run(x, part)]
    step = ds.jit(lambda x: run(x, checkpoint(part))) if jit else lambda x: run(x, checkpoint(part))
    for got, value in zip(step(x), wanted, strict=True):
        np.testing.assert_allclose(got.numpy(), value, rtol=1e-5)


def test_inside_a_loop_nothing_changes():
    """The gradient of a loop computes its body again anyway."""
    w = array(4, 4).requires_grad_()

    def loop(wrap):
        def body(h, _):
            return wrap(lambda h: (h @ w).tanh())(h), None

        w.grad = None
        h, _ = ds.scan(body, array(4, seed=1), length=3)
        h.sum().backward()
        return w.grad.numpy().copy()

    np.testing.assert_array_equal(loop(checkpoint), loop(plain))
