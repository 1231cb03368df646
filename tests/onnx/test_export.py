"""`ds.onnx.export`: models run in onnxruntime, sizes stay open, names and lines are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import deepseek as ds
from deepseek.errors import ArgumentError, BackendError, CompileError, TraceError
from deepseek.ir.op import REGISTRY, Sample
from deepseek.ir.scalar import call
from deepseek.nn import functional as F
from deepseek.onnx import builder, export
from deepseek.ops.define import FLOATS, composite, elementwise


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(path: Path, *arrays: Any) -> list[Any]:
    opened = session(path)
    names = [i.name for i in opened.get_inputs()]
    return list(opened.run(None, dict(zip(names, map(np.asarray, arrays), strict=True))))


def operators(path: Path) -> list[str]:
    return [n.op_type for n in onnx.load(path).graph.node]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def randn(*shape: int) -> ds.Tensor:
    return ds.randn(*shape, generator=ds.Generator(sum(shape)))


# ------------------------------------------------------------------------------------- models


def conv_net() -> ds.nn.Module:
    ds.manual_seed(0)
    return ds.nn.Sequential(
        ds.nn.Conv2d(1, 8, 3, padding=1),
        ds.nn.BatchNorm2d(8),
        ds.nn.ReLU(),
        ds.nn.MaxPool2d(2),
        ds.nn.Conv2d(8, 8, 3, stride=2, groups=4, bias=False),
        ds.nn.GELU(),
        ds.nn.Flatten(),
        ds.nn.Dropout(0.5),
        ds.nn.Linear(8, 10),
    )


def test_a_conv_net_with_any_batch(path: Path) -> None:
    net = conv_net()
    report = export(net, randn(4, 1, 8, 8), path, dynamic={0: {0: "batch"}})
    assert report.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert report.inputs == {"x": "float32[batch, 1, 8, 8]"}
    assert report.outputs == {"output": "float32[batch, 10]"}
    assert report.conditions == []
    net.eval()
    for batch in (1, 2, 7):
        x = randn(batch, 1, 8, 8)
        (got,) = run(path, x.numpy())
        np.testing.assert_allclose(got, net(x).numpy(), rtol=1e-4, atol=1e-5)


def test_the_model_keeps_its_mode_and_statistics(path: Path) -> None:
    net = conv_net()
    before = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    export(net, randn(4, 1, 8, 8), path)
    assert all(m.training for m in net.modules())
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[key])


def test_parameters_are_initializers_under_their_keys(path: Path) -> None:
    net = conv_net()
    export(net, randn(2, 1, 8, 8), path)
    model = onnx.load(path)
    held = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for key in ("0.weight", "0.bias", "1.running_mean", "4.weight", "8.weight", "8.bias"):
        np.testing.assert_array_equal(held[key], net.state_dict()[key].numpy())
    assert "Dropout" not in operators(path)


def test_a_convolution_takes_its_bias(path: Path) -> None:
    for kind, shape in (("Conv1d", (9,)), ("Conv2d", (9, 8)), ("Conv3d", (5, 6, 7))):
        layer = getattr(ds.nn, kind)(2, 3, 3)
        export(layer, randn(2, 2, *shape), path)
        (node,) = onnx.load(path).graph.node
        assert list(node.input) == ["x", "weight", "bias"]


def test_only_a_bias_is_taken_for_one(path: Path) -> None:
    weight, rows = randn(3, 2, 3, 3), randn(3)

    def f(x: ds.Tensor) -> ds.Tensor:
        return F.conv2d(x, weight) + rows.reshape(3, 1)  # for each row, not each channel

    export(f, randn(2, 2, 5, 5), path)
    assert operators(path) == ["Conv", "Add"]

    def g(x: ds.Tensor) -> ds.Tensor:
        return F.conv2d(x, weight, rows)

    export(g, randn(2, 2, 5, 5), path)
    assert operators(path) == ["Conv"]


def origin(node: Any) -> dict[str, str]:
    """What a node says about where it comes from, in either of the two ways."""
    if node.doc_string:
        return dict(line.split(": ", 1) for line in node.doc_string.splitlines())
    return {p.key.removeprefix("deepseek."): p.value for p in node.metadata_props}


@pytest.mark.parametrize("opset", [13, 20, 21, 26])
def test_nodes_carry_the_users_line(opset: int, path: Path) -> None:
    def f(x: ds.Tensor) -> ds.Tensor:
        return x.exp() + 1  # a line to be found

    export(f, randn(2), path, opset=opset)
    model = onnx.load(path)
    assert [origin(n)["op"] for n in model.graph.node] == ["exp", "add"]
    for node in model.graph.node:
        assert bool(node.metadata_props) == (model.ir_version >= 10)
        assert "test_export.py" in origin(node)["line"]
        assert "a line to be found" in origin(node)["line"]


class Block(ds.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = ds.nn.Sequential(ds.nn.Linear(4, 4), ds.nn.Tanh())
        self.register_buffer("shift", ds.ones(4))

    def forward(self, x: ds.Tensor) -> ds.Tensor:
        return self.inner(x * 2) + self.shift


def test_nodes_carry_the_path_of_their_module(path: Path) -> None:
    net = ds.nn.Sequential(Block(), ds.nn.ReLU(), Block())
    export(net, randn(2, 4), path)
    found = [(n.op_type, origin(n)["module"]) for n in onnx.load(path).graph.node]
    block = ["", ".inner.0", ".inner.1", ""]
    wanted = [f"0{p}" for p in block] + ["1"] + [f"2{p}" for p in block]
    assert [module for _, module in found] == wanted
    assert all("forward" not in vars(m) for m in net.modules())


def test_functions_of_modules_keep_their_keys_too(path: Path) -> None:
    first, second = Block(), Block()
    export(lambda x: first(x).exp(), randn(2, 4), path)
    names = {t.name for t in onnx.load(path).graph.initializer}
    assert {"inner.0.weight", "inner.0.bias", "shift"} <= names
    export(lambda x: second(first(x)), randn(2, 4), path)
    names = {t.name for t in onnx.load(path).graph.initializer}
    assert {"first.inner.0.weight", "second.shift"} <= names
    export(first.forward, randn(2, 4), path)
    assert "shift" in {t.name for t in onnx.load(path).graph.initializer}


def test_a_text_model_with_any_length(path: Path) -> None:
    ds.manual_seed(0)
    net = ds.nn.Sequential(
        ds.nn.Embedding(11, 16),
        ds.nn.LayerNorm(16),
        ds.nn.Linear(16, 16),
        ds.nn.GELU(approximate="tanh"),
        ds.nn.Linear(16, 4),
    )
    tokens = np.arange(6).reshape(2, 3)
    export(net, tokens, path, dynamic={"x": {0: "batch", 1: "time"}})
    assert "LayerNormalization" in operators(path)
    other = np.array([[10, 3, 9, 1, 0]])
    (got,) = run(path, other)
    np.testing.assert_allclose(got, net(ds.asarray(other)).numpy(), rtol=1e-4, atol=1e-5)


def test_attention_with_any_length(path: Path) -> None:
    ds.manual_seed(0)
    layer = ds.nn.MultiheadAttention(16, 4, batch_first=True)

    def f(x: ds.Tensor) -> ds.Tensor:
        attended, _ = layer(x, x, x)
        mixed = F.scaled_dot_product_attention(x, x, x, is_causal=True)
        return attended + mixed

    report = export(f, randn(2, 5, 16), path, dynamic={"x": {0: "batch", 1: "time"}})
    assert report.conditions == []
    for shape in ((1, 1, 16), (3, 9, 16)):
        x = randn(*shape)
        np.testing.assert_allclose(run(path, x.numpy())[0], f(x).numpy(), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------- dynamic sizes


def strided(x: ds.Tensor) -> ds.Tensor:
    rows = x.shape[0]
    padded = x.pad(((1, rows // 2), (0, 0)))
    return padded[2:] * rows - x.mean() + ds.arange(rows + rows // 2 - 1).reshape(-1, 1)


def several(x: ds.Tensor) -> dict[str, Any]:
    return {
        "flipped": x.flip(0),
        "joined": ds.concat([x, x * 2, x[:1]], axis=0),
        "pairs": (x @ x.T, ds.stack([x, x])),
        "ordered": x.sort(axis=0),
        "summed": x.cumulative_sum(axis=0),
        "best": x.argmax(),
        "taken": x.take(ds.asarray([0, -1, 0]), axis=0),
        "spread": x.var(axis=0),
        "ones": ds.ones(x.shape[0], 2),
        "tiles": x.reshape(1, -1).broadcast_to((2, x.size)),
    }


@pytest.mark.parametrize("f", [strided, several])
def test_computed_sizes_follow_the_inputs(f: Any, path: Path) -> None:
    report = export(f, randn(6, 3), path, dynamic={"x": {0: "rows"}})
    for rows in (2, 5, 9):
        x = randn(rows, 3)
        wanted = f(x)
        flat = wanted.values() if isinstance(wanted, dict) else [wanted]
        tensors = [t for v in flat for t in (v if isinstance(v, tuple) else (v,))]
        for got, tensor, name in zip(run(path, x.numpy()), tensors, report.outputs, strict=True):
            np.testing.assert_allclose(got, tensor.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_names_of_nested_results(path: Path) -> None:
    report = export(several, randn(6, 3), path)
    assert list(report.outputs)[:4] == ["flipped", "joined", "pairs_output_0", "pairs_output_1"]


def test_two_inputs_share_a_named_size(path: Path) -> None:
    sizes = {"x": {0: "n", 1: "k"}, "y": {0: "k", -1: "m"}}
    report = export(lambda x, y: x @ y, (randn(2, 3), randn(3, 4)), path, dynamic=sizes)
    assert report.outputs == {"output": "float32[n, m]"}
    assert run(path, np.ones((5, 7), np.float32), np.ones((7, 2), np.float32))[0].shape == (5, 2)


def test_a_question_about_a_size_is_reported(path: Path) -> None:
    def f(x: ds.Tensor) -> ds.Tensor:
        return x * 2 if x.shape[0] > 3 else -x

    report = export(f, randn(5), path, dynamic={0: {0: "n"}})
    assert report.conditions == ["3 < n"]
    assert "holds   where 3 < n" in str(report)
    report = export(f, randn(3), path, dynamic={0: {0: "n"}})
    assert report.conditions == ["not 3 < n"]


def test_fixing_a_dynamic_size_is_an_error(path: Path) -> None:
    def f(x: ds.Tensor) -> ds.Tensor:
        return x * 2 if x.shape[0] == 5 else -x

    with pytest.raises(CompileError, match=r"'n' was fixed: the model needs n == 5") as caught:
        export(f, randn(5), path, dynamic={0: {0: "n"}})
    assert "test_export.py" in str(caught.value)
    assert not path.exists()


# -------------------------------------------------------------------------------- control flow


def test_control_flow(path: Path) -> None:
    limit = ds.asarray(3.0)

    def f(x: ds.Tensor, up: ds.Tensor) -> Any:
        once = ds.cond(up, lambda a: a + limit, lambda a: a - limit, x)
        count, grown = ds.while_loop(
            lambda s: s[1].sum() < 100, lambda s: (s[0] + 1, s[1] * 2), (ds.asarray(0), once.abs())
        )
        total, steps = ds.scan(lambda s, row: (s + row, s * row), ds.zeros(2), grown)
        last, none = ds.scan(lambda s, _: (s * 0.5, None), total, None, length=3)
        assert none is None or none == ()
        return once, count, grown, total, steps, last

    x = randn(4, 2)
    report = export(f, (x, ds.asarray(True)), path, dynamic={"x": {0: "rows"}})
    assert {"If", "Loop", "Scan"} <= set(report.operators)
    for rows, up in ((2, False), (5, True)):
        x = randn(rows, 2)
        for got, wanted in zip(
            run(path, x.numpy(), np.array(up)), f(x, ds.asarray(up)), strict=True
        ):
            np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-5)


# ------------------------------------------------------------------------ inputs, outputs, types


def test_nested_arguments_and_captured_tensors(path: Path) -> None:
    weight = randn(3, 2)
    hidden = (weight * 2).tanh()  # not computed yet

    def f(pair: tuple[Any, ...], options: dict[str, Any], scale: float) -> Any:
        a, b = pair
        return a @ hidden * scale + options["bias"] + b

    args = ((randn(4, 3), randn(4, 1)), {"bias": randn(2)}, 0.5)
    report = export(f, args, path)
    assert list(report.inputs) == ["pair_0", "pair_1", "options_bias"]
    (got,) = run(path, args[0][0].numpy(), args[0][1].numpy(), args[1]["bias"].numpy())
    np.testing.assert_allclose(got, f(*args).numpy(), rtol=1e-5, atol=1e-6)


def test_inputs_and_constants_as_results(path: Path) -> None:
    table = randn(3)
    export(lambda x, unused: (x, x, table, x * 0 + 1), (randn(2), randn(5)), path)
    x = randn(2)
    same, again, held, ones = run(path, x.numpy(), np.zeros(5, np.float32))
    np.testing.assert_array_equal(same, x.numpy())
    np.testing.assert_array_equal(again, x.numpy())
    np.testing.assert_array_equal(held, table.numpy())
    np.testing.assert_array_equal(ones, 1)


def test_given_names(path: Path) -> None:
    report = export(
        lambda a, b: (a + b, a), (randn(2), randn(2)), path,
        input_names=["left", "right"], output_names=["sum", "copy"],
        dynamic={"left": {0: "n"}, "right": {0: "n"}},
    )  # fmt: skip
    assert report.inputs == {"left": "float32[n]", "right": "float32[n]"}
    assert [o.name for o in session(path).get_outputs()] == ["sum", "copy"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_float_types(dtype: str, path: Path) -> None:
    net = conv_net().to(dtype)
    report = export(net, randn(2, 1, 8, 8).astype(getattr(ds, dtype)), path)
    assert report.outputs == {"output": f"{dtype}[2, 10]"}
    assert report.errors["output"] < 0.05
    # onnxruntime has no convolution of the other two.
    runtime = "onnxruntime" if dtype == "float16" else "onnx.reference"
    assert report.runtime is not None
    assert report.runtime.startswith(runtime)


def test_a_jitted_function(path: Path) -> None:
    @ds.jit
    def f(x: ds.Tensor) -> ds.Tensor:
        return x.exp().sum()

    export(f, randn(3), path, check=False)
    assert operators(path) == ["Exp", "ReduceSum"]


def test_an_op_made_here_needs_no_more(path: Path) -> None:
    """A composite that nobody told ONNX about is written as what it expands to."""

    def reference(x: Any) -> Any:
        return x * np.tanh(np.log1p(np.exp(x)))

    @composite(reference=reference, samples=lambda: [Sample(((3,),))])
    def toy_mish(x: ds.Tensor) -> ds.Tensor:
        return x * x.exp().log1p().tanh()

    try:
        report = export(toy_mish, randn(3, 4), path)
        assert report.opened == {"toy_mish": 1}
        assert report.errors["output"] < 1e-6
    finally:
        del REGISTRY["toy_mish"]


def test_a_scalar_function_made_here_needs_no_more(path: Path) -> None:
    @elementwise(reference=lambda x, y: np.hypot(x, y), takes=FLOATS)
    def toy_hypot(x: Any, y: Any) -> Any:
        return call("sqrt", call("add", call("mul", x, x), call("mul", y, y)))

    try:
        report = export(toy_hypot, (randn(3, 4), randn(4)), path)
        assert report.operators == {"Mul": 2, "Add": 1, "Sqrt": 1}
        assert report.errors["output"] < 1e-6
    finally:
        del REGISTRY["toy_hypot"]


def test_integers_of_64_bits_are_compared_whole(path: Path) -> None:
    """onnxruntime's Min, Max and Sign look at their lower halves only."""
    numbers = np.array([2**32 - 1, 4, 2**33 - 1, -7, 3, 2**40 - 1, 2**32 - 1, 2**32 - 1] * 2)

    def f(x: ds.Tensor) -> Any:
        return ds.minimum(x, 4), ds.maximum(x, 4), ds.sign(x), x.clip(-2, 5)

    report = export(f, numbers, path)
    assert set(report.errors.values()) == {0.0}
    assert not {"Min", "Max", "Sign", "Clip"} & set(report.operators)


def test_broadcasting_is_left_to_onnx(path: Path) -> None:
    export(lambda x, y: (x * 2 + y) / (x + 1), (randn(4, 3), randn(3)), path)
    assert sorted(operators(path)) == ["Add", "Add", "Div", "Mul"]


def test_the_opset_and_version_are_what_onnxruntime_takes(path: Path) -> None:
    export(lambda x: x + x, randn(3), path)
    model = onnx.load(path)
    assert (model.opset_import[0].version, model.ir_version) == (21, 10)
    assert model.producer_name == "deepseek"
    export(lambda x: x + x, randn(3), path, opset=26)
    model = onnx.load(path)
    assert (model.opset_import[0].version, model.ir_version) == (26, 13)
    export(lambda x: x + x, randn(3), path, opset=13)
    model = onnx.load(path)
    assert (model.opset_import[0].version, model.ir_version) == (13, 7)


# -------------------------------------------------------------------------------------- errors


def test_random_numbers_are_an_error_at_their_line(path: Path) -> None:
    def f(x: ds.Tensor) -> ds.Tensor:
        return F.dropout(x, 0.5, training=True)

    with pytest.raises(CompileError, match=r"op 'dropout'.*random_bits") as caught:
        export(f, randn(3), path)
    assert "return F.dropout(x, 0.5, training=True)" in str(caught.value)
    assert "eval()" in str(caught.value)
    assert not path.exists()


def test_host_functions_are_an_error(path: Path) -> None:
    with pytest.raises(CompileError, match=r"op 'inv'.*it calls Python"):
        export(lambda x: ds.inv(x + ds.eye(3)), randn(3, 3), path)


def test_changing_a_tensor_from_outside_is_an_error(path: Path) -> None:
    mean, variance = ds.zeros(3), ds.ones(3)

    def f(x: ds.Tensor) -> ds.Tensor:
        return F.batch_norm(x, mean, variance, training=True)

    with pytest.raises(TraceError, match="changes tensors"):
        export(f, randn(4, 3), path, check=False)
    np.testing.assert_array_equal(mean.numpy(), 0)


def test_a_branch_on_a_value_is_an_error(path: Path) -> None:
    with pytest.raises(TraceError, match="not known"):
        export(lambda x: x if x.sum() > 0 else -x, randn(3), path, check=False)


def test_an_opset_that_the_package_does_not_know(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx.defs, "onnx_opset_version", lambda: 22)
    export(lambda x: x + 1, randn(2), path, opset=22)
    with pytest.raises(BackendError, match=r"(?s)opset 23 needs a newer onnx.*pip install -U"):
        export(lambda x: x + 1, randn(2), path, opset=23)


def test_onnx_has_to_be_installed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"pip install 'deepseek\[onnx\]'"):
        export(lambda x: x, randn(2), path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 12}, r"unknown ONNX opset 12; valid: 13"),
        ({"dynamic": {"y": {0: "n"}}}, r"unknown input in dynamic 'y'; valid: x"),
        ({"dynamic": {0: {2: "n"}}}, r"axis 2 of 'x'"),
        ({"dynamic": {0: {0: 3}}}, r"got 3; wanted a name"),
        ({"dynamic": {0: {0: "n", 1: "n"}}}, r"'n' is 2 elsewhere and 3 at axis 1"),
        ({"input_names": ["a", "b"]}, r"wanted 1 different names"),
        ({"output_names": ["x"]}, r"share a name"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str, path: Path) -> None:
    with pytest.raises(ArgumentError, match=message):
        export(lambda x: x + 1, randn(2, 3), path, **options)
    assert not path.exists()


def test_a_result_that_differs_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REGISTRY["exp"], "onnx", "Sin")
    path.write_text("before")
    with pytest.raises(CompileError, match=r"computes 'output' otherwise"):
        export(lambda x: x.exp(), randn(3), path)
    assert path.read_text() == "before"  # the file is written last, and whole
