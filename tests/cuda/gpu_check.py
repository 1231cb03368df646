"""`make gpu-check`: what only a GPU can show, in stages of a few minutes that can be gone on with.

    python tests/cuda/gpu_check.py                      all stages that are not finished
    python tests/cuda/gpu_check.py sweep --seconds 450  one stage, for so long; run again to go on
    python tests/cuda/gpu_check.py --again              from the start
    python tests/cuda/gpu_check.py --rehearse           on the stub driver with the host shim

A stage writes one file, out/gpu/<stage>.json, whole or not at all: what it checked, what was wrong,
its figures, and whether it is done. The end is a table of them all, for docs/gpu.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent / "ops")]

import numpy as np  # noqa: E402
from compare import assert_near  # noqa: E402
from sampling import Case, case_name, cases  # noqa: E402

import deepseek as ds  # noqa: E402
from deepseek import _runtime  # noqa: E402
from deepseek.backends.cuda import target  # noqa: E402
from deepseek.frontend.devices import why_unavailable  # noqa: E402
from deepseek.frontend.tensor import hooks  # noqa: E402
from deepseek.ir.interpret import interpret  # noqa: E402

TYPES = ("float32", "bfloat16", "float16", "int32", "bool")
SAVE_EVERY = 50  # cases
STEPS, WARM = 1000, 10  # of the soak

Results = dict[str, Any]
Stage = Callable[["Check", Results], Iterator[None]]


class Check:
    """A run: where results go, how long a stage may take, how much of it is wanted."""

    def __init__(self, out: Path, seconds: float, limit: int | None, again: bool) -> None:
        self.out = out
        self.seconds = seconds
        self.limit = limit
        self.again = again

    def run(self, name: str) -> Results:
        """Go on with a stage until it is done or its time is up."""
        path = self.out / f"{name}.json"
        results: Results = {"stage": name, "done": False, "checked": [], "wrong": {}}
        if path.exists() and not self.again:
            results = json.loads(path.read_text())
        if results["done"]:
            return results
        results |= about()
        end = time.monotonic() + self.seconds
        late = False
        for number, _ in enumerate(STAGES[name](self, results), 1):
            late = time.monotonic() > end
            if late or number % SAVE_EVERY == 0:
                self.save(path, results)
            if late:
                break
        results["done"] = not late
        self.save(path, results)
        return results

    def save(self, path: Path, results: Results) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(results, indent=1) + "\n")
        part.rename(path)

    def some(self, wanted: list[Case]) -> list[Case]:
        """All cases, or as many as a rehearsal asks for, spread over them."""
        if self.limit is None:
            return wanted
        return wanted[:: max(1, len(wanted) // self.limit)][: self.limit]


def about() -> Results:
    """Where and when this is measured."""
    found = _runtime.cuda_properties(0)
    git = subprocess.run(
        ["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return {
        "device": found["name"],
        "capability": f"{found['major']}.{found['minor']}",
        "target": target.current_target().arch,
        "date": datetime.date.today().isoformat(),
        "commit": git.stdout.strip() or "unknown",
    }


def note(results: Results, name: str, check: Callable[[], None]) -> None:
    """Run a check, unless it was; keep its name, and what was wrong."""
    if name in results["checked"]:
        return
    try:
        check()
    except Exception as error:  # noqa: BLE001  (each goes into the report)
        results["wrong"][name] = f"{type(error).__name__}: {str(error)[:400]}"
    results["checked"].append(name)


# --------------------------------------------------------------------------------------- the stages


def sweep(run: Check, results: Results) -> Iterator[None]:
    """Every op's samples on the device, against their meaning in float64."""
    for case in run.some([c for c in cases(thin=True) if c.dtype.name in TYPES]):

        def check(case: Case = case) -> None:
            got = case.call([t.cuda() for t in case.tensors()])
            hooks.evaluate([t._value for t in got])
            with np.errstate(all="ignore"):
                exact = interpret(case.graph(), case.arrays, wide=True)
            for tensor, array in zip(got, exact, strict=True):
                assert_near(tensor.numpy(), array, 4 * case.op.tolerance, case_name(case))

        note(results, case_name(case), check)
        yield


def gradients(run: Check, results: Results) -> Iterator[None]:
    """Gradients on the device, against the processor's."""
    able = [
        c
        for c in cases(thin=True)
        if c.op.differentiable and c.dtype.name == "float32" and c.op.name != "while_loop"
    ]  # a loop of unknown length has none
    for case in run.some(able):

        def check(case: Case = case) -> None:
            for got, wanted in zip(pulled(case, True), pulled(case, False), strict=True):
                assert_near(got, wanted, 64 * case.op.tolerance, case_name(case))

        note(results, case_name(case), check)
        yield


def pulled(case: Case, device: bool) -> list[np.ndarray[Any, Any]]:
    leaves = case.tensors(requires_grad=True)
    floats = [t for t in case.call([t.cuda() if device else t for t in leaves]) if t.requires_grad]
    weights = [np.cos(np.arange(t.size)).reshape(t.shape).astype(np.float32) for t in floats]
    if floats:
        weighted = [
            (t * ds.asarray(a).to(t.device)).sum() for t, a in zip(floats, weights, strict=True)
        ]
        sum(weighted[1:], weighted[0]).backward()
    return [t.grad.numpy() for t in leaves if t.grad is not None]


def training(run: Check, results: Results) -> Iterator[None]:
    """A step trains as on the processor, eager as compiled; random bits; memory over many steps."""
    note(results, "losses", lambda: near(losses("cuda", True), losses("cpu", True), 1e-4))
    yield
    note(results, "eager", lambda: near(losses("cuda", False), losses("cuda", True), 1e-4))
    yield
    note(results, "random bits", random_bits)
    yield
    steps = STEPS if run.limit is None else 2 * WARM
    note(results, "memory over many steps", lambda: soak(steps))
    yield


def near(got: list[float], wanted: list[float], tolerance: float) -> None:
    np.testing.assert_allclose(got, wanted, rtol=tolerance)


def step_on(device: str, compiled: bool) -> Callable[[], ds.Tensor]:
    """A training step of a small convolutional network on fixed data."""
    ds.manual_seed(0)
    nn = ds.nn
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    model = nn.Sequential(*layers).to(device)
    optimizer = ds.optim.AdamW(model.parameters(), lr=1e-2)
    x, y = ds.randn(8, 1, 8, 8).to(device), ds.asarray(np.arange(8) % 10).to(device)

    def step() -> ds.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return ds.jit(step) if compiled else step


def losses(device: str, compiled: bool) -> list[float]:
    step = step_on(device, compiled)
    return [step().item() for _ in range(5)]


def random_bits() -> None:
    for draw in (ds.rand, ds.randn):
        ds.manual_seed(5)
        here = draw(1000).numpy()
        ds.manual_seed(5)
        np.testing.assert_allclose(draw(1000, device="cuda").numpy(), here, rtol=1e-6)


def soak(steps: int) -> None:
    step = step_on("cuda", True)
    for _ in range(WARM):
        step().item()
    before = ds.cuda.memory_allocated()
    for _ in range(steps):
        step().item()
    assert ds.cuda.memory_allocated() <= before, f"{before} bytes became more"


def speed(run: Check, results: Results) -> Iterator[None]:
    """Device time of memory-bound kernels, as bytes a second beside a copy's."""
    rows, columns = (4096, 4096) if run.limit is None else (64, 64)
    x = ds.rand(rows, columns, device="cuda")
    moved = 2 * 4 * rows * columns
    bodies: dict[str, Callable[[ds.Tensor], ds.Tensor]] = {
        "copy": lambda x: x + 0,
        "gelu": ds.gelu,
        "softmax": lambda x: ds.softmax(x, -1),
        "layer_norm": lambda x: ds.layer_norm(x, (columns,)),
        "transpose": lambda x: ds.permute_dims(x, (1, 0)),
    }
    reached = results.setdefault("GB/s", {})
    for name, body in bodies.items():

        def check(name: str = name, body: Callable[[ds.Tensor], ds.Tensor] = body) -> None:
            reached[name] = round(moved / device_seconds(body, x) / 1e9, 1)

        note(results, name, check)
        yield


def device_seconds(body: Callable[[ds.Tensor], ds.Tensor], x: ds.Tensor) -> float:
    """The median of some calls between two events."""
    compiled = ds.jit(body)
    samples = []
    for _ in range(20):
        began, ended = (ds.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        compiled(x)
        ended.record()
        ended.synchronize()
        samples.append(began.elapsed_time(ended) / 1e3)
    return max(statistics.median(samples[5:]), 1e-9)


STAGES: dict[str, Stage] = {
    "training": training,
    "sweep": sweep,
    "gradients": gradients,
    "speed": speed,
}


def table(found: list[Results]) -> str:
    header = "| stage | device | date, commit | checked | wrong | done |"
    lines = [header, "|---|---|---|---|---|---|"]
    for r in found:
        where = f"{r['device']} ({r['target']})"
        checked = ", ".join(f"{k} {v} GB/s" for k, v in r.get("GB/s", {}).items())
        lines.append(
            f"| {r['stage']} | {where} | {r['date']}, {r['commit']} | "
            f"{checked or len(r['checked'])} | {len(r['wrong'])} | {'yes' if r['done'] else 'no'} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__)
    parser.add_argument("stages", nargs="*", choices=[[], *STAGES], default=[])
    parser.add_argument("--seconds", type=float, default=450, help="that a stage may take")
    parser.add_argument("--cases", type=int, help="of a sweep; small sizes elsewhere")
    parser.add_argument("--again", action="store_true", help="forget what was done")
    parser.add_argument("--rehearse", action="store_true", help="on the stub driver")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gpu")
    given = parser.parse_args()
    if given.rehearse:
        import on_stub  # noqa: F401, PLC0415  (it takes the place of the cuda backend)
    reason = why_unavailable()
    if reason:
        print(f"gpu-check: {reason}")
        return 2
    run = Check(given.out, given.seconds, given.cases, given.again)
    found = [run.run(name) for name in given.stages or STAGES]
    for r in found:
        for name, why in r["wrong"].items():
            print(f"{r['stage']}: {name}: {why}")
    print(table(found))
    return 0 if all(r["done"] and not r["wrong"] for r in found) else 1


if __name__ == "__main__":
    sys.exit(main())
