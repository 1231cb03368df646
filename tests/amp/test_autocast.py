"""Autocast: the dtypes of every op, eager against compiled, gradients, guards, training."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from sampling import cases_of, is_operand

import deepseek as ds
from deepseek import amp, nn
from deepseek.errors import ArgumentError, DTypeError
from deepseek.ir.dtype import bfloat16, float16, float32, float64
from deepseek.ir.graph import Graph
from deepseek.ir.op import REGISTRY, Kind
from deepseek.ir.shape import tensor_type
from deepseek.nn import functional as F
from deepseek.passes.simplify import simplify
from deepseek.program import ir

# What PyTorch 2.13 documents for CUDA and CPU (docs: amp, "Autocast Op Reference"), in our names.
# Beyond the documented lists: what sums or takes logarithms counts as those it is made of.
PYTORCH_LOW = """
convolution convolution_input_grad convolution_weight_grad linear matmul prelu
scaled_dot_product_attention gru_layer lstm_layer rnn_layer contract_axes
"""
PYTORCH_HIGH = """
acos asin binary_cross_entropy binary_cross_entropy_with_logits cdist cosh cosine_embedding_loss
cosine_similarity cross_entropy cumulative_sum exp expm1 hinge_embedding_loss huber_loss inv kl_div
l1_loss layer_norm log log10 log1p log2 log_softmax margin_ranking_loss mse_loss multi_margin_loss
multilabel_margin_loss nll_loss normalize pdist poisson_nll_loss pow prod reciprocal rsqrt sinh
smooth_l1_loss soft_margin_loss softmax softmin softplus solve square sum tan triplet_margin_loss
vector_norm
"""
PYTORCH_NEITHER = """
abs add atan atan2 avg_pool bilinear concat cos cross divide dropout elu embedding erf floor gelu
hardtanh leaky_relu max max_pool maximum min multiply negative relu scatter_add sigmoid silu sin
sort sqrt subtract take tanh where
"""


def low_of(name):
    return amp.autocast("cpu", dtype=name)


@pytest.mark.parametrize(
    "names, precision",
    [(PYTORCH_LOW, "low"), (PYTORCH_HIGH, "high"), (PYTORCH_NEITHER, "promote")],
    ids=["low", "high", "promote"],
)
def test_classes_are_pytorchs(names, precision):
    listed = {name: REGISTRY[name].precision for name in names.split() if name in REGISTRY}
    assert len(listed) >= 10
    assert set(listed.values()) == {precision}, {k for k, v in listed.items() if v != precision}


def test_there_are_three_classes():
    assert {op.precision for op in REGISTRY.values()} == {"low", "high", "promote"}


def sample_of(op, dtype):
    """The first sample of an op with a float tensor in it that runs in a dtype, or None."""
    for case in cases_of(op):
        free = [a for a in case.sample.args if isinstance(a, tuple)]
        given = free or any(is_operand(a) for a in case.sample.args)
        if case.dtype is dtype and given and any(a.dtype == dtype.numpy for a in case.arrays):
            return case
    return None


def types(case, low):
    """The result dtypes of a sample, recorded under an autocast (None: without)."""
    if low is None:
        return [t.dtype for t in case.call(case.tensors())]
    with low_of(low):
        return [t.dtype for t in case.call(case.tensors())]


# The others have nothing that autocast could change; control flow has the classes of what is in it.
WITH_FLOATS = [
    name
    for name, op in REGISTRY.items()
    if op.kind is not Kind.CONTROL and sample_of(op, float32) is not None
]


@pytest.mark.parametrize("name", WITH_FLOATS)
@pytest.mark.parametrize("low", [bfloat16, float16], ids=str)
def test_dtypes_of_every_record(name, low):
    """float32 inputs fall where that is good enough, 16-bit ones rise where it is not."""
    op = REGISTRY[name]
    wide, narrow = sample_of(op, float32), sample_of(op, low)
    plain = types(wide, None)
    expected = {
        "low": [low if d is float32 else d for d in plain],
        "high": plain,
        "promote": plain,
    }
    assert types(wide, low) == expected[op.precision]
    if narrow is None:
        return
    plain = types(narrow, None)
    expected = {
        "low": plain,
        "high": [float32 if d is low else d for d in plain],
        "promote": plain,
    }
    if "dtype" not in narrow.sample.kwargs:
        assert types(narrow, low) == expected[op.precision]
    double = sample_of(op, float64)
    if double is not None:
        assert types(double, low) == types(double, None)


MIXED = {
    "add": (lambda a, b: a + b, float32),
    "where": (lambda a, b: ds.where(a > 0, a, b), float32),
    "concat": (lambda a, b: ds.concat([a, b]), float32),
    "maximum": (lambda a, b: ds.maximum(a, b), float32),
    "matmul": (lambda a, b: a @ b, bfloat16),
    "einsum": (lambda a, b: ds.einsum("ij,jk->ik", a, b), bfloat16),
    "linear": (lambda a, b: F.linear(a, b, b[0]), bfloat16),
    "mse_loss": (lambda a, b: F.mse_loss(a, b), float32),
    "kwargs": (lambda a, b: F.linear(b, weight=a, bias=None), bfloat16),
    "array": (lambda a, b: a @ np.ones((4, 4), np.float32), bfloat16),
    "float64 stays": (lambda a, b: a.astype(float64) @ b.astype(float64), float64),
    "float64 wins": (lambda a, b: a @ b.astype(float64), float64),
    "an explicit cast": (lambda a, b: (a @ b).astype(float16), float16),
    "an explicit dtype": (lambda a, b: ds.sum(a, dtype=float16), float16),
    "sum of a product": (lambda a, b: (a @ b).sum(), float32),
    "power": (lambda a, b: a**2, float32),
    "integers": (lambda a, b: ds.arange(3).sum(), ds.int64),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_inputs(name):
    function, wanted = MIXED[name]
    a = ds.ones((4, 4), dtype=bfloat16)
    b = ds.ones((4, 4))
    with amp.autocast("cpu"):
        assert function(a, b).dtype is wanted


# ---------------------------------------------------------------------------------- the context


def product(x):
    return (x @ x.T).dtype


def test_nested_contexts_and_errors_inside():
    x = ds.ones((2, 2))
    assert product(x) is float32
    with amp.autocast("cpu") as nothing:
        assert nothing is None or isinstance(nothing, amp.autocast)
        assert product(x) is bfloat16
        with amp.autocast("cpu", dtype=float16):
            assert product(x) is float16
            with amp.autocast("cpu", enabled=False):
                assert product(x) is float32
                assert not amp.is_autocast_enabled()
            assert product(x) is float16
        with pytest.raises(ValueError), amp.autocast("cpu", float16):
            raise ValueError
        assert product(x) is bfloat16 and amp.get_autocast_dtype() is bfloat16
    assert product(x) is float32


def test_one_context_many_times():
    x = ds.ones((2, 2))
    context = amp.autocast("cpu")
    for _ in range(2):
        with context, context:
            assert product(x) is bfloat16
        assert product(x) is float32


def test_other_threads_do_not_see_it():
    x = ds.ones((2, 2))
    seen = []
    with amp.autocast("cpu"):
        thread = threading.Thread(target=lambda: seen.append(product(x)))
        thread.start()
        thread.join()
    assert seen == [float32]


def test_decorator():
    @amp.autocast("cpu", dtype="float16")
    def f(x, *, scale):
        """Doubles."""
        return (x @ x) * scale

    assert f(ds.ones((2, 2)), scale=2).dtype is float16
    assert f.__doc__ == "Doubles." and f.__name__ == "f"

    class Net(nn.Module):
        @amp.autocast("cpu")
        def forward(self, x):
            return x @ x

    assert Net()(ds.ones((2, 2))).dtype is bfloat16


def test_bad_arguments():
    with pytest.raises(ArgumentError, match="tpu"):
        amp.autocast("tpu")
    with pytest.raises(DTypeError, match="got dtype float64; wanted bfloat16 or float16"):
        amp.autocast("cpu", dtype=float64)
    assert repr(amp.autocast("cpu")) == "autocast(dtype=bfloat16)"
    assert repr(amp.autocast("cpu", enabled=False)) == "autocast(enabled=False)"


# ------------------------------------------------------------------------------------ compiled


def test_compiled_calls_depend_on_the_state_outside():
    x = ds.ones((2, 2))
    f = ds.jit(lambda x: x @ x)
    for _ in range(2):
        assert f(x).dtype is float32
        with amp.autocast("cpu"):
            assert f(x).dtype is bfloat16
            with amp.autocast("cpu", dtype=float16):
                assert f(x).dtype is float16
            with amp.autocast("cpu", enabled=False):
                assert f(x).dtype is float32
    assert f.cache_info()["entries"] == 3


def test_entering_inside_a_compiled_function():
    use = True

    @ds.jit
    def f(x):
        with amp.autocast("cpu", enabled=use):
            y = x @ x
        return y, x @ x

    assert [t.dtype for t in f(ds.ones((2, 2)))] == [bfloat16, float32]
    use = False
    assert [t.dtype for t in f(ds.ones((2, 2)))] == [float32, float32]


def test_a_decorated_function_is_guarded():
    """What it reads is looked at through the decorator."""
    scale = 2.0
    w = [ds.ones((2, 2))]

    @amp.autocast("cpu")
    def inner(x):
        return (x @ w[0]) * scale

    @ds.no_grad()
    def outer(x):
        return inner(x)

    f = ds.jit(lambda x: outer(x))
    x = ds.ones((1, 2))
    assert f(x).tolist() == [[4, 4]]
    scale = 3.0
    assert f(x).tolist() == [[6, 6]]
    w[0] = ds.zeros((2, 2))
    assert f(x).tolist() == [[0, 0]]


def test_control_flow_has_the_classes_of_what_is_in_it():
    x = ds.ones((2, 2))
    with amp.autocast("cpu"):
        y = ds.cond(x.sum() > 0, lambda x: x @ x, lambda x: (x + x) @ x, x)
        state, rows = ds.scan(lambda s, r: ((s + r @ x).astype(float32), r @ x), x[0], x)
    assert (y.dtype, state.dtype, rows.dtype) == (bfloat16, float32, bfloat16)
    with amp.autocast("cpu"), pytest.raises(DTypeError, match="convert it with astype"):
        ds.scan(lambda s, r: (s @ x, r), x[0], x)


# ---------------------------------------------------------------------------------- gradients


def network(seed=0):
    ds.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(128, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 10),
    )  # fmt: skip


def images(n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 1, 8, 8)).astype(np.float32)
    return ds.asarray(x), ds.asarray(rng.integers(0, 10, n))


def distance(got, wanted):
    """The norm of the difference relative to the norm."""
    a, b = (np.asarray(t.numpy(), np.float64) for t in (got, wanted))
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def gradients(model, jit, autocast_backward=False):
    x, y = images(16)

    def step(x, y):
        model.zero_grad()
        with amp.autocast("cpu"):
            out = model(x)
            loss = F.cross_entropy(out, y)
            if autocast_backward:
                loss.backward()
        if not autocast_backward:
            loss.backward()
        return loss, out

    loss, out = (ds.jit(step) if jit else step)(x, y)
    assert (loss.dtype, out.dtype) == (float32, bfloat16)
    return {"loss": loss} | {n: p.grad for n, p in model.named_parameters()}


def test_gradients_of_parameters_are_float32_and_close():
    exact = network()
    x, y = images(16)
    F.cross_entropy(exact(x), y).backward()
    got = gradients(network(), jit=False)
    for name, p in exact.named_parameters():
        assert got[name].dtype is float32
        if name != "0.bias":  # a batch norm takes it out again: it has no gradient but rounding
            assert distance(got[name], p.grad) < 0.1, name


def test_eager_is_compiled():
    """Up to the roundings between ops that share a kernel, which are left out."""
    eager, compiled = gradients(network(), jit=False), gradients(network(), jit=True)
    for name, wanted in eager.items():
        assert compiled[name].dtype is wanted.dtype
        if name != "0.bias":
            assert distance(compiled[name], wanted) < 0.03, name


def test_each_product_is_bit_equal_eager_and_compiled():
    ds.manual_seed(0)
    w = ds.randn(24, 8)

    @amp.autocast("cpu")
    def f(x):
        return x @ w, F.softmax(x @ w, axis=-1).argmax(axis=-1), (x.exp() * 2).sum()

    x = ds.randn(5, 24)
    for a, b in zip(ds.jit(f)(x), f(x), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_backward_follows_the_forward_wherever_it_is_called():
    inside = gradients(network(), jit=False, autocast_backward=True)
    outside = gradients(network(), jit=False)
    for name, wanted in outside.items():
        assert inside[name].dtype is wanted.dtype
        if name != "0.bias":
            assert distance(inside[name], wanted) < 0.03, name


def test_functional_gradients():
    with amp.autocast("cpu"):
        g = ds.grad(lambda x: (x @ x).sum())(ds.ones((2, 2)))
        _, pullback = ds.vjp(lambda x: x @ x, ds.ones((2, 2)))
        (back,) = pullback(ds.ones((2, 2), dtype=bfloat16))
    assert (g.dtype, back.dtype) == (float32, float32)
    assert g.tolist() == [[4, 4], [4, 4]] and back.tolist() == [[4, 4], [4, 4]]


# ------------------------------------------------------------------------------------- costs


def casts_of(values, graph):
    """The nodes of a graph that convert some values."""
    return [n for n in graph.nodes if n.op.name == "astype" and n.inputs[0] in values]


def slots_written(step, program):
    return {r.slot for r in ir.reads_writes(step, program.kernels)[1]}


def test_a_weight_is_converted_once_for_a_step():
    w = nn.Parameter(ds.randn(64, 64))
    optimizer = ds.optim.SGD([w], lr=0.1)

    @ds.jit
    def step(x):
        optimizer.zero_grad()
        with amp.autocast("cpu"):
            for _ in range(4):
                x = F.relu(x @ w)
            loss = x.mean()
        loss.backward()
        optimizer.step()
        return loss

    entry = step.entry_for(ds.ones((8, 64)))
    (weight,) = (v for v in entry.graph.inputs if v.type.shape == (64, 64))
    assert len(casts_of({weight}, entry.graph)) == 4
    assert len(casts_of({weight}, simplify(entry.graph))) == 1
    # In the compiled step one launch reads it and writes it in 16 bits.
    program = entry.executable.program
    low = tensor_type(bfloat16, weight.type.shape)
    made = [i for i, s in enumerate(program.slots) if s.type is low]
    writers = [s for s in program.body if made[0] in slots_written(s, program)]
    assert len(made) == len(writers) == 1


def test_a_weight_that_stays_is_converted_once_for_all_calls():
    w = nn.Parameter(ds.randn(64, 64))

    @ds.jit
    def infer(x):
        with ds.no_grad(), amp.autocast("cpu"):
            return (x @ w) @ w

    x = ds.ones((8, 64))
    entry = infer.entry_for(x)
    infer(x)
    assert entry.executable.prepared.nbytes == 2 * 64 * 64


def test_nothing_is_recorded_without_it():
    x = ds.ones((2, 2))
    with amp.autocast("cpu", enabled=False):
        assert not casts_of({x._value}, Graph([x._value], [(x @ x).exp()._value]))


# ----------------------------------------------------------------------------------- training


def digits():
    """Ten kinds of noisy pictures that a small network tells apart."""
    rng = np.random.default_rng(3)
    kinds = rng.standard_normal((10, 1, 8, 8))
    labels = rng.integers(0, 10, 640)
    pictures = kinds[labels] + 0.7 * rng.standard_normal((640, 1, 8, 8))
    return pictures.astype(np.float32), labels


def accuracy(low, epochs=3):
    pictures, labels = digits()
    model = network()
    optimizer = ds.optim.AdamW(model.parameters(), lr=3e-3)

    @ds.jit
    def step(x, y):
        optimizer.zero_grad()
        with amp.autocast("cpu", enabled=low):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(epochs):
        for i in range(0, 512, 64):
            step(ds.asarray(pictures[i : i + 64]), ds.asarray(labels[i : i + 64]))
    model.eval()
    with ds.no_grad(), amp.autocast("cpu", enabled=low):
        guesses = model(ds.asarray(pictures[512:])).argmax(axis=-1)
    return float((guesses.numpy() == labels[512:]).mean())


def test_training_reaches_the_same_accuracy():
    exact, low = accuracy(False), accuracy(True)
    assert exact >= 0.95
    assert low >= exact - 0.02
