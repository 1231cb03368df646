"""DS_DUMP writes what there is to see; DS_VERIFY finds passes that break a graph or a result."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek.backends import Claim
from deepseek.backends.cpu import Cpu
from deepseek.config import override
from deepseek.errors import ArgumentError, CompileError, VerifyError
from deepseek.ir.graph import Node, make_node
from deepseek.ir.op import REGISTRY
from deepseek.ir.rewrite import Rule, rule, with_inputs
from deepseek.ir.text import parse_graph
from deepseek.kernel.text import parse_kernel

Install = Callable[[Rule], None]


@rule("tanh")
def tanh_of_x_is_x(node: Node) -> Any:
    return node.inputs[0]


@rule("add")
def a_plus_b_is_b_plus_a(node: Node) -> Any:
    """True, and applies once: the larger sequence number comes first."""
    a, b = node.inputs
    if a.node.sequence >= b.node.sequence:
        return None
    return with_inputs(node, (b, a)).outputs[0]


@rule("tanh")
def half_as_long(node: Node) -> Any:
    """Breaks the graph: the type is not that of the op."""
    wrong = REGISTRY["sum"]
    return make_node(wrong, node.inputs, {"axes": (0,)}, [node.outputs[0].type]).outputs[0]


# ------------------------------------------------------------------------------------------ dump


def only_folder(root: Path, name: str) -> Path:
    (found,) = [path for path in root.iterdir() if path.name.endswith(name)]
    return found


def test_a_compilation_becomes_a_folder(tmp_path: Path) -> None:
    def softmaxes(x: ds.Tensor) -> ds.Tensor:
        return ds.softmax(x, dim=1) + 1  # a line of the user's

    with override(dump=tmp_path):
        ds.jit(softmaxes)(ds.asarray(np.ones((4, 5), np.float32)))
    folder = only_folder(tmp_path, "softmaxes")
    names = sorted(path.name for path in folder.iterdir())
    assert names[:2] == ["000-recorded.txt", "030-claim_or_expand.txt"]
    assert "100-program.txt" in names and "050-layout.txt" not in names
    recorded = (folder / "000-recorded.txt").read_text()
    assert "softmax" in recorded and "# a line of the user's" in recorded
    assert len(parse_graph(recorded).nodes) >= 2
    (kernel,) = [name for name in names if name.startswith("200-") and "emitted" not in name]
    assert parse_kernel((folder / kernel).read_text()).name == kernel[4:-4]
    emitted = (folder / kernel.replace(".txt", ".emitted.txt")).read_text()
    assert "define" in emitted


def test_each_compilation_gets_a_number(tmp_path: Path) -> None:
    with override(dump=tmp_path):
        for n in (2, 3):
            ds.jit(lambda x, n=n: x * n)(ds.asarray([1.0]))
    numbers = sorted(int(path.name[:4]) for path in tmp_path.iterdir())
    assert numbers == list(range(len(numbers))) and len(numbers) == 2


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        override(dump=tmp_path / "file" / "inside"),
        pytest.raises(ArgumentError, match=r"DS_DUMP: got .*cannot be used"),
    ):
        ds.jit(lambda x: x * 3.25)(ds.ones(7)).numpy()


def test_the_stage_before_a_failure_is_there(tmp_path: Path, install: Install) -> None:
    @rule("tanh")
    def fails(node: Node) -> Any:
        raise ZeroDivisionError

    install(fails)
    with override(dump=tmp_path), pytest.raises(CompileError, match="pass 'fails' failed"):
        ds.jit(lambda x: ds.tanh(x))(ds.asarray([1.0]))
    (folder,) = tmp_path.iterdir()
    assert "tanh" in (folder / "000-recorded.txt").read_text()


# ---------------------------------------------------------------------------------------- verify


def test_a_broken_graph_is_found(install: Install) -> None:
    install(half_as_long)
    with override(verify=1), pytest.raises(VerifyError):
        ds.jit(lambda x: ds.tanh(x))(ds.asarray([1.0, 2.0]))


def test_a_changed_result_is_found(install: Install) -> None:
    install(tanh_of_x_is_x)
    with override(verify=2), pytest.raises(VerifyError) as caught:
        ds.jit(lambda x: ds.tanh(x) + 1)(ds.asarray([1.0, 2.0]))
    text = str(caught.value)
    assert "pass 'tanh_of_x_is_x' changed a result" in text and "bisect" in text
    with override(verify=1):
        ds.jit(lambda x: ds.tanh(x) + 2)(ds.asarray([1.0, 2.0]))


def test_a_change_that_these_inputs_do_not_show_is_none(install: Install) -> None:
    install(tanh_of_x_is_x)
    with override(verify=2):
        assert ds.jit(lambda x: ds.tanh(x) + 3)(ds.asarray([0.0])).item() == 3


def test_without_fuel_no_rule_is_applied(install: Install) -> None:
    install(tanh_of_x_is_x)
    x = ds.asarray([1.0]).evaluate()
    with override(fuel=0):
        assert ds.jit(lambda x: ds.gelu(ds.tanh(x)))(x).item() == pytest.approx(0.591, abs=1e-3)
    with override(fuel=-1):
        assert ds.jit(lambda x: ds.gelu(ds.tanh(x)))(x).item() == pytest.approx(0.841, abs=1e-3)


def test_rounding_is_no_change(install: Install) -> None:
    install(a_plus_b_is_b_plus_a)
    x = ds.asarray(np.linspace(-1, 1, 100)).astype(ds.bfloat16).evaluate()

    def f(x: ds.Tensor) -> ds.Tensor:
        return ds.layer_norm((x * 3).astype(ds.float16).astype(ds.float32) + ds.exp(x), (100,))

    with override(verify=2):
        ds.jit(f)(x)


def test_integers_are_compared_exactly(install: Install) -> None:
    @rule("multiply")
    def one_more(node: Node) -> Any:
        if not node.outputs[0].type.dtype.is_integer or node.inputs[0].node.op.name == "add":
            return None
        big = ds.frontend.tensor.Tensor(node.inputs[0])
        return with_inputs(node, ((big + 1)._value, node.inputs[1])).outputs[0]

    install(one_more)
    x = ds.asarray(np.array([2**40], np.int64)).evaluate()
    with override(verify=2), pytest.raises(VerifyError, match="was 3298534883328 and became"):
        ds.jit(lambda x: x * 3)(x)


def test_many_sizes_are_verified_too() -> None:
    @ds.jit
    def f(x: ds.Tensor) -> ds.Tensor:
        return ds.softmax(x.reshape(-1, 2), dim=0).mean(0) + x.shape[0]

    with override(verify=2):
        for n in (4, 6, 10):
            wanted = np.full(2, 1 / n) + n
            np.testing.assert_allclose(f(ds.ones(n, 2)).numpy(), wanted, rtol=1e-6)


def test_prepared_parts_are_verified_too() -> None:
    model = ds.nn.Sequential(ds.nn.Conv2d(3, 8, 3), ds.nn.BatchNorm2d(8)).eval()
    x = ds.ones(1, 3, 8, 8).evaluate()
    with override(backend="reference"):
        wanted = model(x).numpy()
    with override(verify=2):
        got = ds.jit(lambda x: model(x))(x).numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_a_training_step_verifies() -> None:
    ds.manual_seed(0)
    model = ds.nn.Sequential(ds.nn.Linear(6, 8), ds.nn.GELU(), ds.nn.Dropout(), ds.nn.Linear(8, 3))
    optimizer = ds.optim.AdamW(model.parameters(), lr=1e-2)

    @ds.jit
    def step(x: ds.Tensor, y: ds.Tensor) -> ds.Tensor:
        optimizer.zero_grad()
        loss = ds.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    with override(verify=2):
        losses = [step(ds.ones(4, 6), ds.asarray(np.arange(4) % 3)).item() for _ in range(5)]
    assert np.isfinite(losses).all()


def test_eager_ops_are_verified_too(install: Install) -> None:
    install(tanh_of_x_is_x)
    with override(verify=2), pytest.raises(VerifyError, match="op 'tanh'"):
        print(ds.tanh(ds.asarray(np.array([[1.0, 2.0, 3.0]]))))


def test_large_graphs_are_not_interpreted(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install(tanh_of_x_is_x)
    a = ds.ones(400, 400).evaluate()
    with override(verify=2), caplog.at_level(logging.WARNING, "deepseek"):
        ds.jit(lambda a: ds.tanh(a @ a))(a)
    assert "checks its structure only: interpreting 128 Mflop would take long" in caplog.text


def test_host_functions_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    inv = REGISTRY["inv"]
    reference = inv.reference
    assert reference is not None

    def counted(x: Any) -> Any:
        calls.append(x.dtype)
        return reference(x)

    monkeypatch.setattr(inv, "reference", counted)

    def f(x: ds.Tensor) -> ds.Tensor:
        return ds.softmax(ds.inv(x) + ds.inv(x.mT), dim=0)

    x = ds.asarray(np.eye(3, dtype=np.float32) * 2).evaluate()
    function = ds.jit(f)
    with override(verify=2):
        function.entry_for(x)
        assert calls == [np.float64] * 2
        function(x)
    assert calls[2:] == [np.float32] * 2


def test_claims_are_as_exact_as_their_types(monkeypatch: pytest.MonkeyPatch) -> None:
    def product(wrong: float) -> Claim:
        def pack(node: Node) -> Any:
            def run(views: list[memoryview], sizes: tuple[int, ...]) -> None:
                a, b, c = (np.frombuffer(view, np.float32).reshape(8, 8) for view in views)
                np.matmul(a, b, out=c)
                c[0, 0] += wrong

            return run

        return Claim("matmul", lambda node: node.inputs[0].type.shape == (8, 8), pack)

    x = ds.asarray(np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)).evaluate()
    with override(verify=2):
        monkeypatch.setattr(Cpu, "claims", (product(0.0),))
        ds.jit(lambda x: ds.softmax(x @ x, dim=1))(x)
        monkeypatch.setattr(Cpu, "claims", (product(0.1),))
        with pytest.raises(VerifyError, match="pass 'claim_or_expand'"):
            ds.jit(lambda x: ds.softmax(x @ x, dim=1))(x)


# ------------------------------------------------------------------------------------------- log


def test_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    scale = [2.0]

    @ds.jit
    def f(x: ds.Tensor) -> ds.Tensor:
        return x * scale[0]

    with override(log_level="info"), caplog.at_level(logging.INFO, "deepseek"):
        f(ds.ones(3))
        f(ds.ones(3))
        f(ds.ones(4))
        scale[0] = 3.0
        f(ds.ones(5))
    traced = [m.split(": ", 1)[1] for m in caplog.messages if m.startswith("traced ")]
    assert traced == [
        "new types of arguments",
        "argument 0 is float32[4], was float32[3]",
        "scale[0] changed",
    ]
    assert list(f.reasons) == traced
    compiled = [m for m in caplog.messages if m.startswith("compiled ") and "<locals>.f " in m]
    assert len(compiled) == 3
    assert "nodes to 1 kernels in " in compiled[0]
