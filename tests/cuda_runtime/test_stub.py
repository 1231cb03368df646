"""CUDA devices without one: whole programs on the stub driver, each test in a process of its own.

A process has one driver for its life, and may lose its devices, so a test is a script. The kernels
are the processor's; what is held here is where values lie, what is copied, and what errors say.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import stub  # noqa: E402

START = """
import gc
import numpy as np
import pytest
import deepseek as ds
from deepseek.errors import *
import stub
driver = stub.start()
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stub.build(tmp_path_factory.mktemp("stub"))


@pytest.fixture
def script(library: Path) -> Callable[..., None]:
    """Runs a script, after START, in a new process; environment variables by keyword."""

    def run(text: str, start: str = START, **environment: str) -> None:
        env = {
            **os.environ, "PYTHONPATH": str(HERE), "DS_CUDA_DRIVER": str(library), **environment,
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-P", "-c", start + textwrap.dedent(text)],
            env=env, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    return run


PLAIN = "import deepseek as ds, pytest\nfrom deepseek.errors import *\n"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"DS_CUDA_DRIVER": "/nowhere/libcuda.so.1"}, "there is no CUDA driver: /nowhere"),
        ({"DS_CUDA_DRIVER": "libm.so.6"}, "it lacks cuInit, cuDriverGetVersion"),
        ({"STUB_VERSION": "11080"}, "too old: it supports CUDA 11.8, wanted 12.0"),
        ({"STUB_DEVICES": "0"}, "finds no device"),
        ({"STUB_FAIL": "cuInit:1:34"}, "is a stub of the CUDA toolkit"),
        ({"STUB_FAIL": "cuInit:1:803"}, "are of different versions"),
        ({"STUB_FAIL": "cuInit:1:2"}, r"does not start: CUDA_ERROR_OUT_OF_MEMORY \(2\)"),
    ],
)
def test_without_a_driver_the_error_says_what_is_missing(script, environment, said) -> None:
    script(
        f"""
        assert not ds.cuda.is_available() and ds.cuda.device_count() == 0
        for make in (
            lambda: ds.zeros(3, device="cuda"), lambda: ds.ones(2).cuda(),
            lambda: ds.nn.Linear(2, 2).to("cuda:0"), ds.cuda.synchronize,
        ):
            with pytest.raises(BackendError, match=r"cannot be used here: .*{said}") as error:
                make()
            assert "help: " in str(error.value)
        assert (ds.ones(2, device="cpu") + 1).tolist() == [2, 2]
        """,
        PLAIN,
        **environment,
    )


def test_a_device_that_cannot_be_started_is_an_error(script) -> None:
    script(
        """
        with pytest.raises(BackendError, match="cuda:0 cannot be used: CUDA_ERROR_OUT_OF_MEMORY"):
            ds.ones(2).evaluate().cuda()
        """,
        STUB_FAIL="cuDevicePrimaryCtxRetain:1:2",
    )


def test_devices_have_names_and_numbers(script) -> None:
    script(
        """
        assert ds.cuda.is_available() and ds.cuda.device_count() == 2
        assert ds.cuda.get_device_name("cuda:1") == "Stub 1"
        assert ds.cuda.get_device_capability() == (9, 0)
        found = ds.cuda.get_device_properties(0)
        assert found.total_memory == 2**30 and found.multi_processor_count == 132
        with pytest.raises(AttributeError, match="it has: name"):
            found.cores
        assert ds.cuda.can_device_access_peer(0, 1)
        assert ds.zeros(1, device="cuda").device == "cuda:0" == ds.zeros(1, device=0).device
        with ds.cuda.device(1):
            assert ds.cuda.current_device() == 1 and ds.ones(2).cuda().device == "cuda:1"
        assert ds.cuda.current_device() == 0
        ds.cuda.set_device("cuda:1")
        assert ds.zeros(1, device="cuda").device == "cuda:1"
        for bad, said in (("cuda:2", "cpu, cuda:0, cuda:1"), ("gpu", "valid: cpu, cuda"),
                          ("cuda:x", "valid: cpu, cuda")):
            with pytest.raises(ArgumentError, match=said):
                ds.zeros(1, device=bad)
        with pytest.raises(ArgumentError, match="wanted a CUDA device"):
            ds.cuda.synchronize("cpu")
        """
    )


def test_tensors_move_and_gradients_move_back(script) -> None:
    script(
        """
        x = ds.tensor([1.0, 2.0, 3.0], requires_grad=True)
        y = x.cuda()
        assert y.device == "cuda:0" and y.cpu().device == "cpu" and y.cuda(0) is y
        assert repr(y.detach()) == "tensor([1., 2., 3.], device='cuda:0')"
        (y * y.to(1).to("cuda:0")).sum().backward()
        assert x.grad.device == "cpu" and x.grad.tolist() == [2, 4, 6]
        for made in (ds.zeros(3, device="cuda"), ds.arange(3, device="cuda"),
                     ds.asarray([1, 2, 3], device="cuda"), ds.rand(3, device="cuda"),
                     ds.linspace(0, 1, 3, device="cuda"), ds.eye(3, device="cuda"),
                     ds.zeros_like(y), ds.randn_like(y), ds.randint(0, 5, (3,), device="cuda"),
                     ds.zeros(3).to(y), ds.randperm(3, device="cuda")):
            assert made.device == "cuda:0" and made.numpy().shape[0] == 3, made
        ds.manual_seed(7)
        here = ds.rand(5)
        ds.cuda.manual_seed(7)
        assert (here.numpy() == ds.rand(5, device="cuda").numpy()).all()
        """
    )


def test_two_devices_are_an_error_with_the_line_and_the_remedy(script) -> None:
    script(
        """
        x, y = ds.asarray([1.0, 2.0]), ds.asarray([1.0, 2.0], device="cuda")
        z = ds.asarray([1.0, 2.0], device="cuda:1")
        for bad, got in ((lambda: x + y, "float32.2. on cpu and float32.2. on cuda:0"),
                         (lambda: y * z, "on cuda:0 and float32.2. on cuda:1"),
                         (lambda: ds.matmul(y, x * 2), "on cpu")):
            with pytest.raises(ArgumentError, match=got + "(.|\\\\n)*x.to.y.device."):
                bad()
        with pytest.raises(ArgumentError, match="on cpu"):
            ds.jit(lambda a, b: a + b)(x, y)
        # Numbers, and what is made of them, go where they are read.
        assert (y + 1 + ds.ones(2) + ds.tensor(2.0)).tolist() == [5, 6]
        """
    )


def test_jit_compiles_for_the_device_of_its_arguments(script) -> None:
    script(
        """
        @ds.jit
        def f(a, b):
            return (a @ b).softmax(-1) + ds.zeros(b.shape[1], device=a.device), ds.arange(3)
        rng = np.random.default_rng(0)
        for i in range(8):
            a, b = rng.random((3 + i % 2, 5)), rng.random((5, 4))
            e = np.exp(a @ b)
            got, row = f(ds.asarray(a).cuda(), ds.asarray(b).cuda())
            assert got.device == row.device == "cuda:0" and row.tolist() == [0, 1, 2]
            np.testing.assert_allclose(got, e / e.sum(-1, keepdims=True), rtol=1e-12)
        on_device = f.cache_info()["entries"]
        got, row = f(ds.asarray(a), ds.asarray(b))
        assert got.device == row.device == "cpu" and f.cache_info()["entries"] == on_device + 1
        f(ds.asarray(a).cuda(1), ds.asarray(b).cuda(1))
        assert f.cache_info()["entries"] == on_device + 2
        with pytest.raises(TraceError, match="cannot be moved from cuda:0"):
            ds.jit(lambda x: x.cpu())(ds.ones(3, device="cuda").evaluate())
        moved = ds.jit(lambda x: x.cuda() + 1)(ds.asarray([1.0, 2.0]))
        assert moved.device == "cuda:0" and moved.tolist() == [2, 3]
        """
    )


def test_a_training_step_learns_on_the_device_as_on_the_processor(script) -> None:
    script(
        """
        def losses(device):
            ds.manual_seed(0)
            model = ds.nn.Sequential(
                ds.nn.Linear(8, 16), ds.nn.ReLU(), ds.nn.BatchNorm1d(16), ds.nn.Linear(16, 3))
            model.to(device)
            assert {str(p.device) for p in model.parameters()} == {device}
            optimizer = ds.optim.AdamW(model.parameters(), lr=1e-2)
            x = ds.randn(32, 8).evaluate().to(device)
            t = ds.randint(0, 3, (32,)).evaluate().to(device)
            @ds.jit
            def step(x, t):
                loss = ds.nn.functional.cross_entropy(model(x), t)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                return loss
            return [step(x, t).item() for _ in range(12)]
        there, here = losses("cuda:0"), losses("cpu")
        assert there[-1] < there[0] and there == here, (there, here)
        """
    )


def test_host_ops_and_sorting_run_on_copies(script) -> None:
    script(
        """
        rng = np.random.default_rng(0)
        a = rng.random((4, 4))
        x = ds.asarray(a).cuda()
        np.testing.assert_allclose(ds.linalg.inv(x), np.linalg.inv(a), rtol=1e-9)
        np.testing.assert_array_equal(ds.sort(x, axis=1), np.sort(a, 1))
        got = ds.jit(lambda x: ds.sort(ds.linalg.inv(x) + 1).sum())(x)
        assert got.device == "cuda:0"
        np.testing.assert_allclose(got, (np.linalg.inv(a) + 1).sum(), rtol=1e-9)
        count = ds.jit(lambda x: ds.while_loop(lambda v: v.sum() < 100, lambda v: v * 2, x))(x)
        assert count.device == "cuda:0"
        """
    )


def test_streams_and_events(script) -> None:
    script(
        """
        x = ds.asarray([1.0, 2.0]).cuda()
        side = ds.cuda.Stream()
        assert ds.cuda.current_stream() == ds.cuda.default_stream() != side
        with ds.cuda.stream(side):
            assert ds.cuda.current_stream() == side
            y = (x + 1).evaluate()
        assert ds.cuda.current_stream() == ds.cuda.default_stream()
        assert (y * 2).tolist() == [4, 6]
        start, end = (ds.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        z = (y * 3).evaluate()
        end.record()
        with pytest.raises(BackendError, match="not happened yet"):
            start.elapsed_time(end)
        ds.cuda.synchronize()
        assert end.query() and start.elapsed_time(end) > 0
        side.wait_event(end)
        side.wait_stream(ds.cuda.current_stream())
        side.record_event().synchronize()
        assert side.query()
        """
    )


def test_memory_is_counted_limited_and_given_back(script) -> None:
    script(
        """
        ds.cuda.reset_peak_memory_stats()
        x = ds.asarray(np.zeros(2**20, np.float32), device="cuda")
        assert ds.cuda.memory_allocated() == 2**22 <= ds.cuda.max_memory_allocated()
        assert ds.cuda.memory_stats()["allocated_bytes.all.current"] == 2**22
        assert "asarray" in ds.cuda.memory_summary() and "Stub 0" in ds.cuda.memory_summary()
        assert "asarray" not in ds.cuda.memory_summary(abbreviated=True)
        ds.cuda.set_per_process_memory_fraction(6 / 1024)
        with pytest.raises(OutOfMemoryError, match="out of memory on cuda:0(.|\\\\n)*held by: "):
            y = (x + 1).evaluate()
        ds.cuda.set_per_process_memory_fraction(1)
        y = (x + 1).evaluate()
        del x, y
        gc.collect()  # what failed is a cycle
        assert ds.cuda.memory_allocated() == 0 < ds.cuda.memory_reserved()
        ds.cuda.empty_cache()
        assert ds.cuda.memory_reserved() == 0 == ds.cuda.memory_allocated("cuda:1")
        assert ds.cuda.mem_get_info() == (2**30, 2**30)
        left = driver.left()
        assert left["memory"] == left["bytes"] == left["pinned"] == left["events"] == 0, left
        """
    )


def test_a_thousand_steps_hold_no_more_than_ten(script) -> None:
    script(
        """
        w = ds.ones(64, device="cuda").evaluate()
        @ds.jit
        def step(w, x):
            return (w * 0.5 + x.sum(0)).tanh(), (w * x).mean()
        def steps(count):
            global w
            for i in range(count):
                w, loss = step(w, ds.asarray(np.full((8, 64), i / 100, np.float32), device="cuda"))
            loss.item()
            return ds.cuda.memory_reserved(), driver.left()
        before = steps(10)
        assert steps(990) == before
        counters = step.entries[0].executable.loaded.counters()
        assert counters["captures"] <= 1
        """
    )


def test_an_illegal_access_is_an_error_and_the_device_is_lost(script) -> None:
    script(
        """
        x = ds.asarray([1.0, 2.0], device="cuda")
        f = ds.jit(lambda x: ((x + 1).sum() * x).sum())
        f(x).item()
        driver.fail("cuLaunchKernel", 1, 700)
        with pytest.raises(BackendError, match="launch of '.*step 0 of.*ILLEGAL_ADDRESS"):
            f(x).item()
        for look in (x.tolist, (x + 1).tolist, lambda: ds.zeros(3, device=0).evaluate()):
            with pytest.raises(BackendError, match="is lost to this process(.|\\n)*new process"):
                look()
        assert (ds.ones(2, device="cuda:1") + 1).tolist() == [2, 2]
        """,
        DS_CUDA_CAPTURE="0",
    )


def test_a_fork_is_an_error_in_the_child(script) -> None:
    script(
        """
        import os
        x = ds.asarray([1.0, 2.0], device="cuda")
        child = os.fork()
        if child == 0:
            try:
                x.tolist()
            except BackendError as error:
                os._exit(0 if "does not survive a fork" in str(error) else 1)
            os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert x.tolist() == [1, 2]
        """
    )
