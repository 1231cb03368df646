"""`ds.explain`: the figures are exact, the lines are the user's, the page stands alone."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.compiler.compile import Compiled
from deepseek.config import override
from deepseek.debug.counting import TRANSCENDENTAL
from deepseek.debug.palette import as_bytes
from deepseek.ir.scalar import FUNCTIONS
from deepseek.program import ir

SCALE = 3.0


def test_elementwise_work_is_exact() -> None:
    explained = ds.explain(lambda x, y: ds.exp(x) * y + 1, ds.ones(30, 7), ds.ones(7))
    assert {step: n for step, n in explained.counts.items() if n} == {"launches": 1}
    assert explained.work.read == 4 * (30 * 7 + 7)
    assert explained.work.written == 4 * 30 * 7
    assert explained.flops == 3 * 30 * 7
    assert explained.work.transcendental == 30 * 7


@pytest.mark.parametrize("m,k,n", [(7, 13, 5), (64, 64, 64), (1, 300, 17), (129, 40, 70)])
def test_a_product_is_two_operations_for_each_product(m: int, k: int, n: int) -> None:
    explained = ds.explain(lambda a, b: ds.relu(a @ b), ds.ones(m, k), ds.ones(k, n))
    assert explained.counts["launches"] == 1
    assert explained.flops == 2 * m * k * n + m * n
    assert explained.bytes_moved == 4 * (m * k + k * n + m * n)


def test_a_convolution_counts_its_padding() -> None:
    x, w = ds.ones(2, 3, 8, 8), ds.ones(5, 3, 3, 3)
    explained = ds.explain(lambda x, w: ds.conv2d(x, w, padding=1), x, w)
    assert explained.flops == 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)


def test_reductions_count_their_steps() -> None:
    explained = ds.explain(lambda x: x.sum(1), ds.ones(10, 100))
    assert explained.flops == 10 * 100
    assert (explained.work.read, explained.work.written) == (4000, 40)


def test_loops_count_their_turns() -> None:
    def loop(x: ds.Tensor, rows: ds.Tensor) -> Any:
        return ds.scan(lambda carry, row: (carry * 2 + row, carry.sum()), x, rows)

    few, many = (ds.explain(loop, ds.ones(50), ds.ones(n, 50)) for n in (3, 9))
    assert [s.depth for s in few.steps] == [s.depth for s in many.steps]
    inner = [sum((s.work.flops for s in e.steps if s.depth), 0) for e in (few, many)]
    assert inner[0] > 0
    assert inner[1] == 3 * inner[0]


def test_symbolic_sizes_are_those_of_the_call() -> None:
    @ds.jit
    def scaled(x: ds.Tensor) -> ds.Tensor:
        return x * 2

    for rows in (10, 20, 30):
        explained = ds.explain(scaled, ds.ones(rows, 4))
        assert explained.bytes_moved == 2 * 4 * 4 * rows
    assert explained.sizes == {"n0": 30}
    assert "the size n0 is 2 or more" in explained.guards


def test_sizes_that_a_trace_found_equal_are_so_in_an_explanation() -> None:
    """Compiling asks again which sizes are equal, also when the trace is long over."""
    f = ds.jit(lambda x, y: ds.cross_entropy(x, y))
    for n in (8, 5, 6):
        batch = ds.randn(n, 3), ds.zeros(n, dtype=ds.int64)
        f(*batch)
    assert ds.explain(f, *batch).counts["launches"] >= 1
    assert ds.debug.bisect(f, *batch).what == "nothing"


def test_steps_are_numbered_as_the_runtime_does() -> None:
    def branchy(x: ds.Tensor) -> ds.Tensor:
        y = ds.cond(x.sum() > 0, lambda x: ds.exp(x) @ x, lambda x: x - 1, x)
        return ds.sort(y) + 1

    x = ds.ones(6, 6)
    function = ds.jit(branchy)
    explained = ds.explain(function, x)
    executable = function.entry_for(x).executable
    assert isinstance(executable, Compiled)
    steps = executable.loaded.steps
    assert [s.number for s in explained.steps] == list(range(len(steps)))
    assert [(s.kind.removesuffix("_"), s.label) for s in explained.steps] == [
        (kind.removesuffix("_"), label) for kind, label in steps
    ]
    assert explained.memory is not None
    assert len(explained.memory.steps) == len(explained.steps)
    assert explained.counts["externs"] == 1


def test_kernels_say_which_lines_they_compute() -> None:
    def f(x: ds.Tensor) -> ds.Tensor:
        big = ds.exp(x)  # the first line
        return big.sum(0) * SCALE  # the second line

    (kernel,) = ds.explain(f, ds.ones(20, 30)).kernels
    assert [line.split("# ")[-1] for line in kernel.lines] == ["the first line", "the second line"]
    assert all(Path(__file__).name in line for line in kernel.lines)
    assert (kernel.launches, kernel.rows) == (1, 1)
    assert kernel.text().startswith(f"kernel {kernel.name}\n")


def test_rows_of_one_launch_are_counted_each() -> None:
    def f(x: ds.Tensor, y: ds.Tensor) -> Any:
        return ds.sin(x) + 1, ds.sin(y) + 1

    explained = ds.explain(f, ds.ones(64), ds.ones(64))
    (step,) = explained.steps
    assert step.rows == 2
    assert step.work.bytes == 2 * 2 * 64 * 4
    assert explained.kernels[0].rows == 2


def test_stages_are_those_that_changed_something() -> None:
    explained = ds.explain(lambda x: ds.softmax(x, dim=1), ds.ones(5, 6))
    names = [stage.name for stage in explained.stages]
    assert "claim_or_expand" in names and names[-1] == "fuse"
    assert "layout" not in names
    assert set(names) <= set(explained.seconds)
    assert all(seconds >= 0 for seconds in explained.seconds.values())
    assert "= softmax(" in explained.graph and "= softmax(" not in explained.stages[-1].text()
    assert [stage.nodes for stage in explained.stages][-1] == 1


def test_guards_are_sentences() -> None:
    settings = {"mode": "fast"}
    w = ds.ones(3)

    def f(x: ds.Tensor, n: int) -> ds.Tensor:
        y = x * SCALE if settings["mode"] == "fast" else x
        return y * w if n > 2 else y

    guards = ds.explain(f, ds.ones(4, 3), 5).guards
    assert "argument 0 is float32[4, 3]" in guards
    assert "argument 1 equals 5: the trace used its value" in guards
    assert "SCALE equals 3.0" in guards
    assert "settings['mode'] equals 'fast'" in guards
    assert "w is float32[3], read anew at each call" in guards
    assert any(g.endswith("f has the same code") for g in guards)


def test_nothing_is_run_and_nothing_is_counted_twice() -> None:
    w = ds.zeros(3).evaluate()

    @ds.jit
    def f(x: ds.Tensor) -> ds.Tensor:
        w[0] = 7.0
        return x + w

    traces, programs = ds.counters.traces, ds.counters.programs
    ds.explain(f, ds.ones(3))
    assert (ds.counters.traces, ds.counters.programs) == (traces + 1, programs + 1)
    ds.explain(f, ds.ones(3))
    assert (ds.counters.traces, ds.counters.programs) == (traces + 1, programs + 1)
    assert w.numpy().tolist() == [0, 0, 0]
    assert f(ds.ones(3)).numpy().tolist() == [8, 1, 1]


def test_methods_modules_and_functions_are_explained() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 5)

        def forward(self, x: ds.Tensor) -> ds.Tensor:
            return ds.relu(self.linear(x))

        @ds.jit
        def predict(self, x: ds.Tensor) -> ds.Tensor:
            return self.forward(x).argmax(axis=1)

    model, x = Model(), ds.ones(6, 4)
    assert ds.explain(model, x).counts["launches"] == 1
    explained = ds.explain(model.predict, x)
    assert "predict" in explained.name
    assert any("linear.weight is float32[5, 4]" in g for g in explained.guards)
    assert ds.explain(model.forward, x).flops == 2 * 6 * 4 * 5 + 2 * 6 * 5


def test_memory_figures_are_those_of_the_plan() -> None:
    def f(x: ds.Tensor) -> ds.Tensor:
        y = x.sum(0)
        return (x * y).sum(1) + (x - y).max()

    explained = ds.explain(f, ds.ones(50, 60))
    plan = explained.memory
    assert plan is not None
    assert plan.lower_bound <= plan.arena_bytes <= plan.keep_everything
    figures = f"arena {as_bytes(plan.arena_bytes)}, lower bound {as_bytes(plan.lower_bound)}"
    assert figures in str(explained)
    assert all(t.first <= t.last < len(plan.steps) for t in plan.temps)


def test_prepared_bytes_are_reported() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    explained = ds.explain(lambda x: model(x), ds.ones(1, 3, 8, 8))
    assert explained.prepared_bytes == 4 * (8 * 3 * 3 * 3 + 8)


def test_the_reference_backend_has_no_program() -> None:
    with override(backend="reference"):
        explained = ds.explain(lambda x: x + 1, ds.ones(3))
    assert explained.program is None and explained.steps == []
    assert "interpreted" in str(explained)
    ElementTree.fromstring(explained.svg_graph())


def test_every_float_function_has_a_cost_or_moves_only() -> None:
    free = {"floor", "ceil", "trunc", "round", "where", "eq", "ne", "lt", "le"}
    integers = {"floordiv", "mod", "bitand", "bitor", "bitxor", "shl", "shr", "mulhi"}
    counted = {"add", "sub", "mul", "div", "fma", "neg", "abs", "minimum", "maximum"}
    assert set(FUNCTIONS) == free | integers | counted | TRANSCENDENTAL


# -------------------------------------------------------------------------------- text and page


class Checker(HTMLParser):
    """Collects what a page refers to, and whether its tags are balanced."""

    VOID = {"meta", "br", "path", "rect"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def trained() -> Any:
    """A training step with everything in it that is drawn."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = ds.optim.AdamW(model.parameters(), lr=1e-3)

    def step(x: ds.Tensor, y: ds.Tensor) -> ds.Tensor:
        optimizer.zero_grad()
        loss = ds.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return ds.explain(step, ds.ones(4, 6), ds.asarray(np.arange(4) % 3))


def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    trained().html(path)
    text = path.read_text()
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert checker.references == []
    assert set(re.findall(r"https?://[^\"'<> ]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in text and "<script" not in text
    assert not re.findall(r"url\((?!#)", text)


def test_lines_with_markup_in_them_are_escaped(tmp_path: Path) -> None:
    explained = ds.explain(lambda x: ds.where(x < 2, x, 1) & 3 > 1, ds.asarray([1, 2]))  # <b>&
    explained.html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "# &lt;b&gt;&amp;" in text and "# <b>&" not in text
    ElementTree.fromstring(explained.svg_graph())


def test_drawings_are_well_formed() -> None:
    explained = trained()
    for text in (explained.svg_graph(), explained.svg_memory()):
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert float(root.attrib["width"]) > 0


def test_every_step_is_drawn_once() -> None:
    explained = trained()
    root = ElementTree.fromstring(explained.svg_graph())
    notes = [t.text or "" for t in root.iter("{http://www.w3.org/2000/svg}text")]
    numbers = [int(m[1]) for note in notes if (m := re.match(r"#(\d+) ", note))]
    assert sorted(numbers) == [s.number for s in explained.steps if s.depth == 0]


def test_every_value_of_the_arena_is_drawn() -> None:
    explained = trained()
    root = ElementTree.fromstring(explained.svg_memory())
    blocks = [r for r in root.iter("{http://www.w3.org/2000/svg}rect") if r.get("class") == "block"]
    assert explained.memory is not None
    assert len(blocks) == len(explained.memory.temps)


def test_the_text_has_all_parts() -> None:
    text = str(trained())
    for part in ("recorded graph", "passes", "steps", "kernels", "used again while", "lower bound"):
        assert part in text
    assert "loss.backward()" in text and "optimizer.step()" in text


def test_a_long_graph_is_counted_by_line() -> None:
    def f(x: ds.Tensor) -> ds.Tensor:
        for _ in range(50):
            x = x * 2 + 1
        return x

    explained = ds.explain(f, ds.ones(3))
    text = str(explained)
    assert "x = x * 2 + 1\n" in text and "50 multiply" in text
    assert len(text.splitlines()) < len(explained.graph.splitlines())
    assert text.count("= multiply(") == 0 and explained.graph.count("= multiply(") == 50


def test_an_explanation_of_nothing() -> None:
    explained = ds.explain(lambda x: x, ds.ones(3))
    assert explained.counts["launches"] == 0 and explained.flops == 0
    assert isinstance(explained.program, ir.Program)
    for text in (explained.svg_graph(), explained.svg_memory()):
        ElementTree.fromstring(text)
