"""`make cuda-full`: every kernel of the op sweep, forward and backward, compiled and run.

In flow the cases; out flow lines of `out/cuda-full/results.jsonl`, one for each batch of cases: how
many were right, how many kernels NVRTC compiled for each architecture, the most registers and local
memory. A batch whose line is there is not run again, unless the sources changed; a text that was
compiled is not compiled again.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent / "ops"), str(HERE.parent / "kernel")]
OUT = ROOT / "out" / "cuda-full"
# A cache of its own: what is found in a cache is not compiled, and so not seen.
os.environ["DS_CACHE"] = tempfile.mkdtemp(prefix="deepseek-cuda-full-")
atexit.register(shutil.rmtree, os.environ["DS_CACHE"], ignore_errors=True)
os.environ.setdefault("DS_SEED", "0")

import shim_run  # noqa: E402  (what it imports reads the environment)
from cases import backward_cases, check, check_backward, forward_cases  # noqa: E402
from sampling import Case, case_name  # noqa: E402

from deepseek import backends  # noqa: E402
from deepseek.backends.cuda import BACKEND as CUDA  # noqa: E402
from deepseek.backends.cuda import emit, nvrtc  # noqa: E402
from deepseek.backends.cuda.cubin import resources  # noqa: E402
from deepseek.config import override  # noqa: E402

BATCH = 40
ARCHES = ("sm_80", "sm_90a")


def main() -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    done = results()
    texts = Texts(done)
    backends._own()[shim_run.BACKEND.name] = lambda: shim_run.BACKEND
    wrong = 0
    with override(backend=shim_run.BACKEND.name):
        for name, cases, run in batches():
            key = f"{name} {version()}"
            if key not in done:
                done[key] = batch(cases, run, texts)
                with open(OUT / "results.jsonl", "a") as file:
                    file.write(json.dumps({"batch": key, **done[key]}) + "\n")
                print(name, shown(done[key]), flush=True)
            wrong += len(done[key]["wrong"])
    current = [line for key, line in done.items() if key.endswith(version())]
    print(f"{sum(line['cases'] for line in current)} cases, {wrong} wrong")
    return min(wrong, 1)


def results() -> dict[str, Any]:
    path = OUT / "results.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {line["batch"]: line for line in map(json.loads, lines)}


def version() -> str:
    sources = [shim_run.BACKEND.version(), *(p.read_text() for p in sorted(HERE.glob("*.py")))]
    sources += [p.read_text() for p in sorted((ROOT / "deepseek" / "kernel").glob("*.py"))]
    return hashlib.sha256("".join(sources).encode()).hexdigest()[:12]


def batches() -> Iterator[tuple[str, list[Case], Callable[..., Any]]]:
    for what, cases, run in (
        ("forward", forward_cases(), lambda c, b: check(c, [x.graph() for x in c], b)),
        ("backward", backward_cases(), check_backward),
    ):
        for start in range(0, len(cases), BATCH):
            yield f"{what} {start}", cases[start : start + BATCH], run


class Texts:
    """The kernels that programs asked for, each text once."""

    def __init__(self, done: dict[str, Any]) -> None:
        self.seen = {text for line in done.values() for text in line["texts"]}
        self.new: dict[str, Any] = {}
        compile_ = shim_run.BACKEND.compile

        def noted(kernels: Any) -> bytes:
            for _, kernel in kernels:
                text = emit.emit(kernel, "kernel").text
                name = "k_" + hashlib.sha256(text.encode()).hexdigest()[:16]
                if name not in self.seen:
                    self.seen.add(name)
                    self.new[name] = kernel
            return compile_(kernels)

        shim_run.BACKEND.compile = noted  # type: ignore[method-assign]

    def taken(self) -> dict[str, Any]:
        new, self.new = self.new, {}
        return new


def batch(cases: list[Case], run: Callable[..., Any], texts: Texts) -> dict[str, Any]:
    """Run some cases; where that fails, halves of them, down to the one that is wrong."""
    wrong: dict[str, str] = {}

    def attempt(some: list[Case]) -> None:
        try:
            run(some, shim_run.BACKEND)
        except Exception as error:  # noqa: BLE001  (all of them are reported)
            if len(some) == 1:
                wrong[case_name(some[0])] = f"{type(error).__name__}: {error}"[:500]
                return
            attempt(some[: len(some) // 2])
            attempt(some[len(some) // 2 :])

    attempt(cases)
    new = texts.taken()
    line = {"cases": len(cases), "wrong": wrong, "texts": list(new), "registers": 0, "local": 0}
    for arch in ARCHES if new and nvrtc.find() else ():
        with override(cuda_arch=arch):
            found = resources(CUDA.compile(list(new.items())))
        assert set(found) == set(new)
        line[arch] = len(found)
        line["registers"] = max(line["registers"], *(r.registers for r in found.values()))
        line["local"] = max(line["local"], *(r.local for r in found.values()))
    return line


def shown(line: dict[str, Any]) -> str:
    compiled = ", ".join(f"{line.get(arch, 0)} for {arch}" for arch in ARCHES)
    most = f"at most {line['registers']} registers and {line['local']} bytes of local memory"
    wrong = "".join(f"\n  {name}: {error}" for name, error in line["wrong"].items())
    return f"{line['cases']} cases; kernels compiled: {compiled}; {most}{wrong}"


if __name__ == "__main__":
    sys.exit(main())
