"""Emitted CUDA texts as whole programs of a device: our runtime, the stub driver, the host shim.

Everything is the product's path but two: NVRTC is g++ with the shim, and the driver is the stub,
which calls what g++ made. So arguments, grids, scratch and the order of launches are held against
the CPU's results. Each test is a process of its own, since a process has one driver.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import shim_run

from deepseek.frontend.devices import why_unavailable

HERE = Path(__file__).parent
DRIVER = HERE.parents[1] / "runtime" / "tests" / "stub_driver.cpp"

SETUP = """
import sys
sys.path[:0] = [sys.argv[1]]
import numpy as np
import on_stub
import deepseek as ds
"""

Script = Callable[[str], None]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a process that has the stub as its driver."""
    if reason := shim_run.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("device")
    library = folder / "libstub_driver.so"
    command = ["c++", "-std=c++20", "-O1", "-shared", "-fPIC", "-o", str(library), str(DRIVER)]
    subprocess.run(command, check=True)
    return {**os.environ, "DS_CUDA_DRIVER": str(library), "DS_CACHE": str(folder / "cache")}


@pytest.fixture(scope="module")
def script(environment: dict[str, str]) -> Script:
    """Runs a script in such a process."""

    def run(text: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", SETUP + textwrap.dedent(text), str(HERE)],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def test_emitted_programs_compute_what_the_processor_does(script: Script) -> None:
    script(
        """
        def f(x, w, i):
            h = ds.softmax(ds.gelu(x @ w), -1)
            rows = ds.take(h, i, axis=0)
            at = ds.expand_dims(i, 1).broadcast_to((4, 9))
            total = ds.scatter_add(ds.zeros_like(h), 0, at, rows)
            turned = ds.permute_dims(h, (1, 0)) + 1
            return h, rows, total.sum(axis=0), turned, ds.argmax(h, axis=-1)

        rng = np.random.default_rng(0)
        x, w = ds.asarray(rng.standard_normal((5, 7))), ds.asarray(rng.standard_normal((7, 9)))
        i = ds.asarray(np.array([4, 0, 4, 2]))
        wanted = [t.numpy() for t in f(x, w, i)]
        for run in (f, ds.jit(f)):
            for _ in range(3):  # op by op, as a whole, captured
                got = run(x.cuda(), w.cuda(), i.cuda())
                assert {t.device for t in got} == {"cuda:0"}
                for a, b in zip(got, wanted):
                    np.testing.assert_allclose(a.numpy(), b, rtol=1e-5, atol=1e-6)
        assert on_stub.BACKEND.compiled > 5
        """
    )


def test_a_training_step_of_emitted_kernels_learns_as_on_the_processor(script: Script) -> None:
    script(
        """
        def losses(device):
            ds.manual_seed(0)
            layers = ds.nn.Linear(4, 8), ds.nn.GELU(), ds.nn.Linear(8, 3)
            model = ds.nn.Sequential(*layers).to(device)
            optimizer = ds.optim.AdamW(model.parameters(), lr=1e-2)
            x, y = ds.randn(6, 4).to(device), ds.asarray(np.arange(6) % 3).to(device)

            @ds.jit
            def step(x, y):
                optimizer.zero_grad()
                loss = ds.nn.functional.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                return loss

            return [step(x, y).item() for _ in range(5)]

        np.testing.assert_allclose(losses("cuda"), losses("cpu"), rtol=1e-5)
        """
    )


def test_large_scratch_is_brought_by_the_launch(script: Script) -> None:
    script(
        """
        x = np.random.default_rng(0).standard_normal((3, 20_000)).astype(np.float32)
        got = ds.jit(lambda x: ds.softmax(x, -1))(ds.asarray(x).cuda()).numpy()
        np.testing.assert_allclose(got, ds.softmax(ds.asarray(x), -1).numpy(), rtol=1e-5)
        assert on_stub.BACKEND.brought
        """
    )


def test_nothing_is_launched_for_no_elements(script: Script) -> None:
    script(
        """
        x = ds.zeros(0, 5, device="cuda")
        assert (ds.exp(x) + 1).numpy().shape == (0, 5) and ds.sum(x).item() == 0
        """
    )


def test_a_machine_without_a_driver_says_so() -> None:
    if not why_unavailable():
        pytest.skip("this machine has a CUDA driver")
    code = "from deepseek import backends; backends.load('cuda')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "BackendError: backend 'cuda' cannot be used here: " in done.stderr


@pytest.mark.slow
def test_what_a_gpu_is_to_show_is_rehearsed(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-P", str(HERE / "gpu_check.py"), "--rehearse", "--cases", "6"]
    for seconds in ("0", "900"):  # stopped at once, then gone on with
        done = subprocess.run(
            [*command, "--out", str(tmp_path), "--seconds", seconds],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == (1 if seconds == "0" else 0), done.stdout + done.stderr
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert set(found) == {"training", "sweep", "gradients", "speed"}
    for results in found.values():
        assert results["done"] and results["checked"] and not results["wrong"]
        assert len(set(results["checked"])) == len(results["checked"])
        assert results["device"] == "Stub 0" and results["target"] == "sm_90a"
