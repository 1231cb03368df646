"""A backend is a folder: a toy one in a temporary folder, and the null backend.

The toy registers by entry point, runs kernels through their text on the kernels' interpreter,
claims softmax, and passes a sample of the op sweep; nothing in deepseek knows of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import backends
from deepseek.backends.cpu.target import TARGETS
from deepseek.compiler import caches
from deepseek.config import override
from deepseek.errors import ArgumentError, BackendError

TOY = '''
"""Kernels as text, interpreted one by one."""

import numpy as np

from deepseek.backends import Backend, Claim, Launchable
from deepseek.kernel.interpret import interpret
from deepseek.kernel.text import parse_kernel, print_kernel

CLAIMED = []


class ToyKernel(Launchable):
    def __init__(self, text):
        self.kernel = parse_kernel(text)

    def add(self, block, kernel, rows, grain, label, loader):
        for refs, sizes, grid in loader.rows(rows):
            block.host(self.run, refs, sizes, label)

    def run(self, views, sizes):
        buffers = []
        for view, buffer in zip(views, self.kernel.globals(), strict=True):
            item = buffer.dtype.numpy.itemsize
            data = np.frombuffer(view, np.uint8)
            buffers.append(data[: data.size // item * item].view(buffer.dtype.numpy))
        interpret(self.kernel, buffers, sizes)


def softmax(node):
    (x,) = node.inputs
    dtype, axis = x.type.dtype.numpy, node.attrs["dim"]

    def run(views, sizes):
        CLAIMED.append(sizes)
        shape = sizes[: len(sizes) // 2]
        x, y = (np.frombuffer(v, np.uint8).view(dtype).reshape(shape) for v in views)
        e = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
        y[...] = e / e.sum(axis=axis, keepdims=True)

    return run


class Toy(Backend):
    name = "toy"
    claims = (Claim("softmax", lambda node: node.inputs[0].type.dtype.name == "float32", softmax),)

    def lanes(self):
        return 4

    def compile(self, kernels):
        return "\\0".join(print_kernel(kernel) for _, kernel in kernels).encode()

    def load(self, data, symbols):
        texts = data.decode().split("\\0")
        assert len(texts) == len(symbols)
        return [ToyKernel(text) for text in texts]


BACKEND = Toy()
'''

SWEEP = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import toy_backend
from compare import assert_near
from sampling import case_name, cases
import deepseek as ds
from deepseek import backends
from deepseek.frontend.tensor import hooks
from deepseek.ir.interpret import interpret

assert backends.names().count("toy") == 1
wanted = set(sys.argv[2].split())
count = 0
for case in cases():
    if case.op.name not in wanted or case.dtype.name not in ("float32", "int32", "bool"):
        continue
    got = case.call(case.tensors())
    hooks.evaluate([t._value for t in got])
    with np.errstate(all="ignore"):
        exact = interpret(case.graph(), case.arrays, wide=True)
    for tensor, array in zip(got, exact, strict=True):
        assert_near(tensor.numpy(), array, 4 * case.op.tolerance, case_name(case))
    wanted.add(case.op.name)
    count += 1
assert count > 40, count

# A whole training step, claims and their gradients included.
w = ds.asarray(np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3))
w.requires_grad = True
x = ds.asarray(np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 4))

@ds.jit
def step(x):
    loss = (ds.softmax(x @ w, -1) ** 2).sum()
    loss.backward()
    return loss

before = len(toy_backend.CLAIMED)
loss = step(x).item()
assert np.isfinite(loss)
assert w.grad is not None and np.abs(w.grad.numpy()).max() > 1e-3
ds.softmax(ds.asarray(np.ones((2, 3), np.float32)), -1).numpy()
assert len(toy_backend.CLAIMED) > before
assert ds.counters.kernels > 0
assert "llvmlite" not in sys.modules
print(count, len(toy_backend.CLAIMED))
"""

OPS = (
    "add multiply exp where astype sum argmax var cumulative_sum reshape permute_dims pad flip "
    "concat take gather scatter_add matmul conv2d max_pool2d softmax layer_norm gelu "
    "cross_entropy cond while_loop scan sort random_bits arange inv"
)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """The toy as an installed package: its module, and what says that it is a backend."""
    (tmp_path / "toy_backend.py").write_text(TOY)
    told = tmp_path / "toy_backend-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-backend\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text("[deepseek.backends]\ntoy = toy_backend:BACKEND\n")
    return tmp_path


def run_with(folder: Path, code: str, *args: str, **env: str) -> str:
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_backend_in_a_folder_passes_the_sweep(toy: Path) -> None:
    out = run_with(toy, SWEEP, str(Path(__file__).parent / "ops"), OPS, DS_BACKEND="toy")
    ran, claimed = map(int, out.split())
    assert ran > 40
    assert claimed > 0


def test_a_backend_that_cannot_be_imported_says_so(toy: Path) -> None:
    (toy / "toy_backend.py").write_text("raise ImportError('no such device')")
    code = (
        "from deepseek import backends; print([r for r in backends.available() if r[0] == 'toy'])"
    )
    assert "no such device" in run_with(toy, code)


# ------------------------------------------------------------------------------------ null


def small_step(x: Any) -> Any:
    total, _ = ds.scan(lambda s, row: (s + row, s), x[0], x)
    return ds.softmax(x @ x, -1).sum(axis=0), total, ds.inv(x), x


@pytest.mark.parametrize("level", TARGETS)
def test_null_compiles_for_every_level_and_runs_nothing(level: str) -> None:
    with override(backend="null", cpu_level=level):
        assert backends.load("null").target() == f"null {level}"
        caches.forget()
        before = ds.counters.kernels
        x = ds.asarray(np.ones((20, 20), np.float32))  # singular: inv would fail
        results = ds.jit(small_step)(x)
        assert ds.counters.kernels > before
        for result in results[:3]:
            assert not result.numpy().any()
        assert np.array_equal(results[3].numpy(), x.numpy())
        assert not (x * 2 + 1).numpy().any()


def test_null_makes_the_cpu_backends_code() -> None:
    kernel = next(iter(caches._kernels))[1] if caches._kernels else None
    if kernel is None:
        (ds.asarray(np.ones(7, np.float32)) * 3).numpy()
        kernel = next(iter(caches._kernels))[1]
    with override(cpu_level="v2"):
        null, cpu = backends.load("null"), backends.load("cpu")
        assert null.emit(kernel) == cpu.emit(kernel)
        assert null.compile([("k", kernel)]) == cpu.compile([("k", kernel)])


NO_LLVM = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "llvmlite":
            raise ModuleNotFoundError(name)

class Hidden:
    def __init__(self, inner):
        self.inner = inner
    def find_spec(self, name, path=None, target=None):
        return None if name == "llvmlite" else self.inner.find_spec(name, path, target)

sys.meta_path[:] = [Hidden(f) for f in sys.meta_path]
import numpy as np
import deepseek as ds
assert not (ds.asarray(np.ones(9, np.float32)) + 1).numpy().any()
assert ds.counters.kernels > 0
print("llvmlite" in sys.modules)
"""


def test_null_works_without_llvmlite(tmp_path: Path) -> None:
    out = run_with(tmp_path, NO_LLVM, DS_BACKEND="null", DS_CACHE=str(tmp_path / "c"))
    assert out.strip() == "False"


# ------------------------------------------------------------------------------------ names


def test_unknown_backends_list_the_known_ones() -> None:
    with pytest.raises(
        ArgumentError, match="unknown backend 'cpus'; valid: .*cpu.*null.*reference"
    ):
        backends.load("cpus")


def test_backends_that_lack_an_answer_say_so() -> None:
    plain = backends.Backend()
    with pytest.raises(BackendError, match="has no kernel language"):
        plain.emit(None)  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="cannot compile kernels"):
        plain.compile([])
    with pytest.raises(BackendError, match="cannot run kernels"):
        plain.load(b"", [])


def test_versions_change_with_the_sources(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("x = 1")
    first = backends.sources_hash(tmp_path)
    assert backends.sources_hash(file) != first
    backends.sources_hash.cache_clear()
    (tmp_path / "notes.txt").write_text("not a source")
    assert backends.sources_hash(tmp_path) == first
    backends.sources_hash.cache_clear()
    file.write_text("x = 2")
    assert backends.sources_hash(tmp_path) != first
    assert len({backends.load(name).version() for name in ("cpu", "null", "reference")}) == 3
