"""`make bench`: results are checked, tables say what the samples say, probes do what they count."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import limits
import measure
import neutral
import numpy as np
import page
import processes
import pytest
import render
import summary
import tape
import timing
import variants
import workloads
from goals import Goals
from measure import Bench, Cell, Effort, Row, SweepRow
from neutral import Spec
from summary import Summary, Table
from variants import Variant

ROOT = Path(__file__).resolve().parents[2]
OURS = Variant("ours", "deepseek", "frameworks.ours", peer=False)
PEER = Variant("torch-compile", "torch.compile", "frameworks.torch_compile")
OTHER = Variant("jax", "JAX", "frameworks.jax_cpu")
ADD = workloads.find("call: add of 2 vectors of 4")


def row(**times):
    """A row whose variants have these samples, in seconds; its limit is one second."""
    cells = {name.replace("_", "-"): Cell(wall={"1": list(s)}) for name, s in times.items()}
    probes = {"streaming": [1.0, 1.25], "plain": [1.5], "float32": [1e-3]}
    return Row("a row", "", 8, 8, 100.0, True, 1e-5, cells, {"1": probes})


def cells_of(table, index=0):
    return dict(zip(table.header, table.rows[index], strict=True))


def test_comparison_shows_ratios_and_the_limit():
    measured = row(ours=[2.0, 2.0, 2.5], torch_compile=[5.0], jax=[3.0, 4.0, 3.5])
    table = summary.comparison(Summary([OURS, PEER, OTHER]), [measured], "1")
    said = cells_of(table)
    assert (said["deepseek"], said["best peer"], said["its time"]) == ("2 s", "JAX", "3.5 s")
    assert (said["ratio"], said["to torch.compile"], said["to JAX"]) == ("1.75x", "2.50x", "1.75x")
    assert (said["limit"], said["reached"], said[""]) == ("1 s memory", "50%", "")
    by_minimum = summary.comparison(Summary([OURS, PEER, OTHER], "min"), [measured], "1")
    assert cells_of(by_minimum)["ratio"] == "1.50x"
    for name, seconds in {"ours": 1.5, "jax": 2.0}.items():
        measured.cells[name].cpu["1"] = [seconds, 9.0]
    by_cpu = cells_of(summary.comparison(Summary([OURS, OTHER], "cpu"), [measured], "1"))
    assert (by_cpu["deepseek"], by_cpu["its time"]) == ("1.5 s", "2 s")


def test_comparison_ends_in_geometric_means():
    rows = [row(ours=[2.0], jax=[1.0]), row(ours=[2.0], jax=[16.0])]
    foot = cells_of(summary.comparison(Summary([OURS, OTHER]), rows, "1"), -1)
    assert (foot["row"], foot["ratio"]) == ("geometric mean of 2", "2.00x")
    assert summary.geometric_mean([None, 4.0, 9.0]) == pytest.approx(6)
    assert summary.geometric_mean([None]) is None


def test_a_row_that_beats_its_limit_is_reported():
    table = summary.comparison(Summary([OURS, OTHER]), [row(ours=[2.0], jax=[0.9])], "1")
    assert cells_of(table)[""] == "BAD PROBE: beaten by JAX"
    tied = summary.comparison(Summary([OURS, OTHER]), [row(ours=[0.98], jax=[2.0])], "1")
    assert cells_of(tied)[""] == ""


def test_the_limit_is_what_takes_longer():
    measured = row(ours=[2.0])
    assert summary.limit_of(measured, "1") == (1.0, "memory")
    measured.flops = 4000.0
    assert summary.limit_of(measured, "1") == (4.0, "arithmetic")
    assert summary.limit_of(measured, "2") == (None, "")


def test_troubles_are_notes_and_not_times():
    measured = row(ours=[2.0], jax=[1.0])
    measured.cells["jax"].trouble = "wrong: error 1.0e-02"
    table = summary.everything(Summary([OURS, OTHER]), [measured], "1")
    assert cells_of(table)["JAX"] == "*"
    assert table.notes == ["a row, JAX: wrong: error 1.0e-02"]
    assert cells_of(summary.comparison(Summary([OURS, OTHER]), [measured], "1"))["ratio"] == "–"


def test_first_calls_peaks_and_sweeps():
    columns = Summary([OURS, OTHER])
    measured = row(ours=[1.0], jax=[1.0])
    measured.cells["ours"] = Cell(first={"cold": 0.5, "warm": 0.002}, start=0.1, peak=50 << 20)
    measured.cells["jax"].peak = 100 << 20
    first = summary.first_calls(columns, [measured])
    assert cells_of(first)["deepseek"] == "100 ms"
    assert cells_of(first, 1)["deepseek"] == "500 ms / 2 ms"
    measured.cells["ours"].first |= {"cold cpu": 0.25, "warm cpu": 0.001}
    busy = summary.first_calls(Summary([OURS, OTHER], "cpu"), [measured])
    assert cells_of(busy, 1)["deepseek"] == "250 ms / 1 ms"
    leanest = "ours / leanest of torch and JAX"
    assert cells_of(summary.peaks(columns, [measured]))[leanest] == "50%"
    cell = {"done": 3, "new": 2.0, "again": 1.0, "compiles": {"traces": 2}, "general": 1.1}
    swept = summary.sweeps(columns, [SweepRow("sizes", "", 4, 1e-5, {"ours": cell})])
    assert cells_of(swept)["deepseek"] == "2 s / 1 s (3 sizes only)"
    assert swept.notes == ["sizes, deepseek: 2 traces; 1.10x the time of code for one size"]


def test_goals_stand_beside_figures():
    quick, slow = row(ours=[2.0, 2.0], jax=[4.0, 4.0]), row(ours=[4.0, 4.0], jax=[2.0, 2.0])
    slow.name = "slow"
    processes = {"NumPy": [0.1], "first result": [0.15], "idle workers": [0.002]}
    cell = {"compiles": {"traces": 2, "programs": 4}, "general": 1.2}
    name = "sizes: block at 500 batch x sequence"
    sweep = SweepRow(name, "", 500, 1e-5, {"ours": cell})
    asked = Goals(Summary([OURS, OTHER]), [quick, slow], [sweep], processes)
    said = {line[0]: line[1:] for line in asked.table().rows}
    assert said["every row beside its best peer"] == [
        "≥ 0.97x",
        "1 of 2 rows",
        "missed",
        "slow 0.50x",
    ]
    assert said["geometric mean to the JAX"][1:3] == ["1.00x", "missed"]
    assert said["rows bound by memory, of bandwidth"][1] == "0 of 2 rows"
    assert said["first result of a fresh process, beyond NumPy's"][1:3] == ["50 ms", "met"]
    assert said["CPU time of idle workers after a call"][1:3] == ["2 ms", "missed"]
    assert said["traces at 500 sizes"][1:3] == ["2", "met"]
    assert said["programs at 500 sizes"][1:3] == ["4", "missed"]
    assert not [goal for goal in said if goal.startswith("first call")]  # of which nothing is known


def test_a_second_thread_is_held_against_what_it_gains_the_machine():
    measured = row(ours=[2.0, 2.0])
    measured.cells["ours"].wall["2"] = [1.5, 1.5]
    measured.limits["2"] = {"streaming": [0.5]}
    said = {r.goal: r for r in Goals(Summary([OURS]), [measured], [], {}).threads()}
    assert said["the same, geometric mean"].measured == "67%"


def test_processes_are_measured_whole():
    found = processes.measured(1)
    assert set(found) == {"NumPy", "first result", "idle workers"}
    assert all(seconds >= 0 for samples in found.values() for seconds in samples)
    assert min(found["NumPy"] + found["first result"]) > 0


def test_tables_render():
    table = Table("Title", ["row", "time"], [["one", "1 ms"], ["two", "20 ms"]], ["a note"])
    assert render.as_text(table) == (
        "Title\nrow   time\n----------\none   1 ms\ntwo  20 ms\n* a note\n"
    )
    assert "| two | 20 ms |\n\n- a note\n" in render.as_markdown(table)


def test_page_has_tables_and_bars():
    measured = row(ours=[2.0], jax=[40.0], torch_compile=[3.0])
    table = Table("A <b> title", ["row"], [["x"]], foot=True)
    text = page.page({"date": "today"}, [table], [measured], [OURS, OTHER, PEER])
    assert text.count("<rect") == 3
    assert text.count("class='limit'") == 1
    assert "A &lt;b&gt; title" in text
    assert "40 s …" in text  # longer than the chart


def test_markers_are_filled_and_needed(tmp_path):
    document = tmp_path / "page.md"
    document.write_text(f"before\n{render.BEGIN}\nold\n{render.END}\nafter\n")
    render.put_between_markers(document, "new \\1")
    assert document.read_text() == f"before\n{render.BEGIN}\nnew \\1\n{render.END}\nafter\n"
    document.write_text("nothing")
    with pytest.raises(ValueError, match="lacks the lines"):
        render.put_between_markers(document, "new")
    performance = (ROOT / "docs" / "performance.md").read_text()
    assert render.BEGIN in performance and render.END in performance


def test_rows_are_chosen_by_name_part_or_pattern():
    named = [w.name for w in workloads.chosen("softmax,mlp b, *512x512x512")]
    assert "softmax 4096²" in named and "matmul 512x512x512" in named
    assert "matmul 256x256x256" not in named
    assert [w.name for w in workloads.chosen("mlp batch 1")] == ["mlp batch 1"]
    assert len(workloads.chosen("", quick=True)) < 10 < len(workloads.chosen(""))
    assert len({w.name for w in workloads.WORKLOADS}) == len(workloads.WORKLOADS)
    assert len([w for w in workloads.WORKLOADS if not w.cold]) == 40
    assert not [name for name in workloads.BY_NAME if "," in name]  # which separates them


def test_every_framework_declares_its_variants():
    found = variants.all_variants()
    names = [v.name for v in found]
    assert names[0] == "ours"
    assert {"ours-eager", "ours-reference", "torch", "torch-tuned"} < set(names)
    assert len(set(names)) == len(names)
    tuned = next(v for v in found if v.keeping)
    assert tuned.base in names and "GLIBC_TUNABLES" in tuned.environment


@pytest.mark.parametrize("loss", ["mlp training step batch 128", "transformer 2 layers step"])
def test_the_tape_agrees_with_differences(loss):
    workload = workloads.find(loss)
    inputs = [x.astype(np.float64) if x.dtype == np.float32 else x for x in workload.arrays()]
    n, rng = workload.parameters, np.random.default_rng(1)
    direction = [rng.standard_normal(x.shape) for x in inputs[:n]]
    _, *gradients = tape.value_and_grad(workload.body, inputs, n)

    def moved(step):
        along = [x + step * d for x, d in zip(inputs[:n], direction, strict=True)]
        return float(tape.value_and_grad(workload.body, [*along, *inputs[n:]], n)[0])

    # A small step, since every relu that changes sides within it adds an error.
    slope = (moved(1e-8) - moved(-1e-8)) / 2e-8
    wanted = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    assert slope == pytest.approx(wanted, rel=1e-4)


def test_distance_sees_one_wrong_element_and_what_is_not_finite():
    wanted = np.ones(1 << 20)
    got = wanted.astype(np.float32)
    assert timing.distance(got, wanted) == 0
    got[7] = 2
    assert timing.distance(got, wanted) == pytest.approx(2**-10)
    got[7] = np.nan
    assert timing.distance(got, wanted) == math.inf


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("stores", ["plain", "streaming"])
def test_streams_write_every_element(stores, threads):
    turns = 5
    floats = turns * limits.UNROLL * limits.LANES
    out, a, b = (limits.aligned(floats) for _ in range(3))
    a[:], b[:], out[:] = np.arange(floats), 0.5, 0
    probe = limits.Probe(limits.stream_ir(2, stores), [out, a, b], turns, threads, True)
    probe.run(2)
    np.testing.assert_array_equal(out, np.arange(floats) + 0.5)


def test_reading_reads_every_element():
    turns = 7
    x = limits.aligned(turns * limits.UNROLL * limits.LANES)
    x[:] = np.arange(len(x))
    out = limits.aligned(limits.UNROLL * limits.LANES)
    limits.Probe(limits.stream_ir(1, "none"), [out, x], turns, 1, True).run(1)
    assert out.sum() == x.sum()


@pytest.mark.parametrize("dtype", limits.dtypes())
def test_peaks_do_every_operation(dtype):
    turns, ones = 3, {"float32": 1.0, "bfloat16": 1.0, "int8": 1}[dtype]
    factors = limits.aligned(16)
    raw = {"float32": np.float32(1).tobytes(), "bfloat16": b"\x80\x3f", "int8": b"\x01"}[dtype]
    factors[:] = np.frombuffer(raw * (64 // len(raw)), np.float32)
    out = limits.aligned(limits.CHAINS * 16)
    limits.Probe(limits.peak_ir(dtype), [out, factors], turns, 1, False).run(1)
    lanes = limits.LANES * limits.CHAINS
    sums = (out if dtype != "int8" else out.view(np.int32))[:lanes]
    products = limits.MULTIPLY_ADDS[dtype][3] // 2 // limits.LANES  # in one lane
    assert set(sums.tolist()) == {turns * products * ones}


def bench(tmp_path, columns):
    return Bench(columns, [1], Effort(rounds=2, seconds=0.001, patience=60), tmp_path)


LIARS = """
import os
from frameworks.numpy_cpu import NumPyFramework
from neutral import Case, NotSupported

class Wrong(NumPyFramework):
    def case(self, workload, inputs):
        case = super().case(workload, inputs)
        return Case(case.call, lambda out: [x + 1e-3 for x in case.results(out)])

class Dying(NumPyFramework):
    def case(self, workload, inputs):
        return Case(lambda: os._exit(3), list)

class Unable(NumPyFramework):
    def case(self, workload, inputs):
        raise NotSupported("no vectors here")

def make(variant, threads):
    return {"wrong": Wrong, "dying": Dying, "unable": Unable}[variant]()
"""


def test_what_is_wrong_is_caught_and_not_timed(tmp_path, monkeypatch):
    (tmp_path / "liars.py").write_text(LIARS)
    liars = [Variant(n, n, "liars") for n in ("wrong", "dying", "unable")]
    numpy = next(v for v in variants.all_variants() if v.name == "numpy")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (measured,) = bench(tmp_path, [numpy, *liars]).rows([ADD])
    troubles = {name: cell.trouble for name, cell in measured.cells.items()}
    assert troubles["numpy"] == ""
    assert troubles["wrong"].startswith("wrong: error ")
    assert troubles["dying"].startswith("died: exit status 3")
    assert troubles["unable"] == "no vectors here"
    timed = {name for name, cell in measured.cells.items() if cell.wall}
    assert timed == {"numpy"}
    assert len(measured.cells["numpy"].wall["1"]) >= 2
    assert measure.load(tmp_path / "rows" / f"{measure.slug(ADD.name)}.json") == measured


def test_specs_and_sweeps_make_the_same_arrays_each_time():
    assert Spec((3,), below=2).array(np.random.default_rng(0)).dtype == np.int64
    (sweep, *_) = workloads.SWEEPS
    (first, inputs), (again, _) = sweep.arrays(), sweep.arrays()
    np.testing.assert_array_equal(first[0], again[0])
    assert len({x.shape for x in inputs}) == 50
    assert workloads.MLP_STEP.steps == neutral.CHECKED_STEPS


@pytest.mark.slow
def test_a_run_from_end_to_end(tmp_path):
    out = tmp_path / "out"
    chosen = ["--rows", "call: add*,mlp batch 1", "--frameworks", "ours,ours-eager,numpy"]
    done = subprocess.run(
        [sys.executable, ROOT / "bench", *chosen, "--rounds", "1", "--threads", "1", "--out", out],
        capture_output=True, text=True, env=os.environ, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Beside peers, 1 thread" in done.stdout
    said = json.loads((out / "bench.json").read_text())
    assert {"date", "cpu", "commit", "versions"} < set(said["about"])
    measured = {r["name"]: r for r in said["rows"]}
    for name in ("call: add of 2 vectors of 4", "mlp batch 1"):
        for variant in ("ours", "ours-eager", "numpy"):
            cell = measured[name]["cells"][variant]
            assert cell["trouble"] == "" and min(cell["wall"]["1"]) > 0
            assert cell["error"] <= measured[name]["tolerance"] and cell["peak"] > 0
    assert set(measured["mlp batch 1"]["limits"]["1"]) == {"float32", "read 1", "read 4"}
    assert (out / "bench.html").read_text().count("<rect") == 3 * len(measured)
    assert "Goals" in done.stdout and "AVX2 alone" in done.stdout
    assert [r["name"] for r in said["narrow"]] == ["mlp batch 1"]  # what the machine limits
