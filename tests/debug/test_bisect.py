"""`ds.debug.bisect` names what is wrong: a rule, an expansion, a region, a kernel, its code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import passes
from deepseek.backends.cpu import Cpu
from deepseek.config import override
from deepseek.debug import bisection
from deepseek.ir import scalar
from deepseek.ir.graph import Graph, Node
from deepseek.ir.op import REGISTRY, Op, Sample
from deepseek.ir.rewrite import Rule, rule, with_inputs
from deepseek.kernel.text import parse_kernel, print_kernel
from deepseek.ops.define import composite, elementwise, record

Install = Callable[[Rule], None]
X = np.linspace(0.5, 2, 12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(autouse=True)
def own_ops() -> Iterator[None]:
    """Ops defined in a test are gone after it."""
    before = dict(REGISTRY)
    yield
    for name in set(REGISTRY) - set(before):
        del REGISTRY[name]


def test_right_results_are_left_alone() -> None:
    finding = ds.debug.bisect(lambda x: ds.softmax(x @ x.mT, dim=0), ds.asarray(X))
    assert finding.what == "nothing"
    assert "nothing differs" in str(finding)


def test_a_wrong_rule_is_named_with_its_line(install: Install) -> None:
    @rule("multiply")
    def x_times_y_is_x(node: Node) -> Any:
        """Wrong for one of the four products below."""
        return node.inputs[0] if node.inputs[1].node.op.name == "exp" else None

    @rule("multiply")
    def commutes(node: Node) -> Any:
        a, b = node.inputs
        return None if a.node.sequence >= b.node.sequence else with_inputs(node, (b, a)).outputs[0]

    install(commutes)
    install(x_times_y_is_x)

    def f(x: ds.Tensor) -> ds.Tensor:
        y = x * x.sin()
        z = y * x.exp()  # this one
        return y * z

    finding = ds.debug.bisect(f, ds.asarray(X))
    assert (finding.what, finding.name) == ("pass", "x_times_y_is_x")
    assert finding.rule == "rule x_times_y_is_x on op 'multiply'"
    assert finding.line.endswith("# this one")
    assert finding.difference is not None and finding.difference.error > 0.1
    assert str(finding).startswith("the pass 'x_times_y_is_x' makes the result differ\n")


def test_a_wrong_expansion_is_named() -> None:
    @composite(reference=lambda x: x * 3, samples=lambda: [Sample(((3,),))])
    def tripled(x: ds.Tensor) -> ds.Tensor:
        return x * 2

    def f(x: ds.Tensor) -> ds.Tensor:
        y = ds.softmax(x, dim=0)
        return ds.gelu(tripled(y)) + ds.relu(y)  # the second line

    finding = ds.debug.bisect(f, ds.asarray(X))
    assert (finding.what, finding.name) == ("pass", "claim_or_expand")
    assert finding.rule == "rule expand on op 'tripled'"
    assert finding.line.endswith("# the second line")


def test_a_wrong_region_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fusion takes no fuel: the region is found by the values it should give."""
    at = next(i for i, (name, _) in enumerate(passes.PIPELINE) if name == "fuse")
    fuse = passes.PIPELINE[at][1]

    def wrong(graph: Graph, context: passes.PassContext) -> Graph:
        fused = fuse(graph, context)
        for node in fused.nodes:
            body = node.attrs.get("body")
            if body is not None and any(n.op.name == "subtract" for n in body.nodes):
                node.inputs = node.inputs[::-1]
        return fused

    pipeline = [*passes.PIPELINE[:at], ("fuse", wrong), *passes.PIPELINE[at + 1 :]]
    monkeypatch.setattr(passes, "PIPELINE", pipeline)
    monkeypatch.setattr(bisection, "PIPELINE", pipeline)

    def f(x: ds.Tensor) -> ds.Tensor:
        y, z = ds.sort(x), ds.sort(x * 2)
        return ds.sort(y - z)  # wrongly fused

    with override(verify=0):
        finding = ds.debug.bisect(f, ds.asarray(X))
    assert (finding.what, finding.name) == ("pass", "fuse")
    assert finding.line.endswith("# wrongly fused")


def test_a_kernel_that_does_not_mean_its_op_is_named() -> None:
    """An op whose scalar meaning is not its reference: its kernels do what the meaning says."""

    @elementwise(reference=np.square, takes=REGISTRY["square"].dtypes)
    def cubed(x: Any) -> Any:
        return scalar.mul(scalar.mul(x, x), x)

    def f(x: ds.Tensor) -> ds.Tensor:
        y = x.sum(axis=0)
        return cubed(y - 2).sum()  # cubed here

    finding = ds.debug.bisect(f, ds.asarray(X))
    assert finding.what == "kernel"
    assert finding.rule == "the way it was lowered"
    assert "cubed" in finding.name and "# cubed here" in finding.line
    assert finding.details.startswith(f"kernel {finding.name}")


def test_wrong_code_is_told_from_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_ = Cpu.compile

    def wrong(self: Cpu, kernels: Any) -> bytes:
        changed = [(symbol, subtracting(kernel)) for symbol, kernel in kernels]
        return compile_(self, changed)

    monkeypatch.setattr(Cpu, "compile", wrong)
    monkeypatch.setattr(Cpu, "version", lambda self: "wrong")

    def f(x: ds.Tensor) -> ds.Tensor:
        y = x.exp().max(axis=0)
        return (y + 1.2345) * y.sum()  # added here

    with override(cache_size="0"):
        finding = ds.debug.bisect(f, ds.asarray(X))
    assert finding.what == "emitted code of the kernel"
    assert "# added here" in finding.line


def subtracting(kernel: Any) -> Any:
    """The kernel with another constant."""
    return parse_kernel(print_kernel(kernel).replace("1.2345", "-1.2345"))


def test_it_works_with_symbolic_sizes_and_hidden_inputs(install: Install) -> None:
    @rule("sin")
    def sin_of_x_is_x(node: Node) -> Any:
        return node.inputs[0]

    w = ds.asarray(X[0]).evaluate()

    @ds.jit
    def f(x: ds.Tensor) -> ds.Tensor:
        return (x * w).sin().sum(0)

    for n in (3, 5):
        f(ds.ones(n, 4))
    install(sin_of_x_is_x)
    finding = ds.debug.bisect(f, ds.ones(7, 4))
    assert finding.rule == "rule sin_of_x_is_x on op 'sin'"


def test_nothing_that_the_function_reads_is_changed() -> None:
    model = ds.nn.Linear(4, 3)
    optimizer = ds.optim.SGD(model.parameters(), lr=1.0)

    @ds.jit
    def step(x: ds.Tensor) -> ds.Tensor:
        optimizer.zero_grad()
        loss = ds.relu(model(x)).sum()
        loss.backward()
        optimizer.step()
        return loss

    before = model.weight.numpy().copy()
    finding = ds.debug.bisect(step, ds.asarray(X))
    assert finding.what == "nothing"
    np.testing.assert_array_equal(model.weight.numpy(), before)


def test_the_reference_backend_is_right_by_definition() -> None:
    with override(backend="reference"):
        finding = ds.debug.bisect(lambda x: ds.tanh(x), ds.asarray(X))
    assert finding.what == "nothing" and "interprets" in finding.name


def test_an_op_is_recorded_with_the_line_it_is_called_at() -> None:
    def f(x: ds.Tensor) -> Any:
        return record(op_named("exp"), x)  # recorded

    assert "# recorded" in ds.explain(f, ds.asarray(X)).graph


def op_named(name: str) -> Op:
    return REGISTRY[name]
