"""A backend that is a package outside the tree passes the op sweep; nothing here knows of it.

`plugin_npu/` is what its author would publish. It is installed as pip would install it: its
package, and what its pyproject.toml says about entry points.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "plugin_npu"

SWEEP = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import deepseek_npu
from compare import assert_near
from sampling import case_name, cases_of
import deepseek as ds
from deepseek.config import override
from deepseek.frontend.tensor import hooks
from deepseek.ops.define import REGISTRY

def results(case, backend):
    with override(backend=backend), np.errstate(all="ignore"):
        got = case.call(case.tensors())
        hooks.evaluate([t._value for t in got])
        return [t.numpy() for t in got]

def gradients(case, backend):
    with override(backend=backend), np.errstate(all="ignore"):
        tensors = case.tensors(requires_grad=True)
        floats = [t for t in case.call(tensors) if t.requires_grad]
        if floats:
            weights = [np.cos(np.arange(t.size)).reshape(t.shape) for t in floats]
            sum((t * w.astype(t.numpy().dtype)).sum() for t, w in zip(floats, weights)).backward()
        return [t.grad.numpy() for t in tensors if t.grad is not None]

ran = pulled = 0
for op in sorted(REGISTRY.values(), key=lambda op: op.name):
    first = True
    for case in cases_of(op, thin=True):
        if case.dtype.name not in ("float32", "int32", "bool"):
            continue
        for got, wanted in zip(results(case, "npu"), results(case, "reference"), strict=True):
            assert_near(got, wanted, 8 * op.tolerance, case_name(case))
        ran += 1
        # A loop of unknown length has no gradient.
        if first and op.differentiable and case.dtype.name == "float32" and op.name != "while_loop":
            first = False
            found = zip(gradients(case, "npu"), gradients(case, "reference"), strict=True)
            for got, wanted in found:
                assert_near(got, wanted, 64 * op.tolerance, "gradient of " + case_name(case))
                pulled += 1
print(ran, pulled, deepseek_npu.device.PROCESSOR.launched, deepseek_npu.device.MEMORY.top)
assert "llvmlite" not in sys.modules
"""

TRAINING = """
import numpy as np
import deepseek as ds
import deepseek_npu

def trained(backend):
    with ds.config.override(backend=backend):
        ds.manual_seed(0)
        model = ds.nn.Sequential(ds.nn.Linear(4, 8), ds.nn.GELU(), ds.nn.Linear(8, 3))
        optimizer = ds.optim.AdamW(model.parameters(), lr=1e-2)
        x, y = ds.randn(16, 4), ds.arange(16) % 3

        @ds.jit
        def step(x, y):
            optimizer.zero_grad()
            loss = ds.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        return [step(x, y).item() for _ in range(5)]

there, here = trained("npu"), trained("cpu")
np.testing.assert_allclose(there, here, rtol=1e-5)
memory = deepseek_npu.device.MEMORY
assert there[-1] < there[0] and deepseek_npu.device.PROCESSOR.launched > 5
assert memory.uploaded > memory.downloaded > 0 and memory.top == 0
"""

FULL = """
import deepseek as ds
import deepseek_npu
deepseek_npu.device.MEMORY.cells = deepseek_npu.device.MEMORY.cells[:1024]
try:
    (ds.ones(10_000) + 1).numpy()
except Exception as error:
    print(type(error).__name__, error)
print(deepseek_npu.device.MEMORY.top, (ds.ones(3) + 1).numpy())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package and its metadata."""
    folder = tmp_path_factory.mktemp("npu")
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    shutil.copytree(SOURCE / "deepseek_npu", folder / "deepseek_npu")
    about = folder / f"deepseek_npu-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {where}" for name, where in points.items()))
    ]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


def ran(installed: Path, code: str, *args: str, backend: str = "npu") -> str:
    paths = [str(installed), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "DS_BACKEND": backend},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_it_passes_the_op_sweep(installed: Path) -> None:
    out = ran(installed, SWEEP, str(HERE / "ops"))
    cases, gradients, launches, left = map(int, out.split())
    assert cases > 1000 and gradients > 200
    assert launches > cases / 2  # some ops only create, view or run on the host
    assert left == 0


def test_a_model_trains_on_it_as_on_the_cpu(installed: Path) -> None:
    ran(installed, TRAINING, backend="cpu")


def test_its_errors_arrive_and_leave_it_usable(installed: Path) -> None:
    said, after = ran(installed, FULL).splitlines()
    assert "npu: 40000 bytes do not fit into the" in said
    assert after == "0 [2. 2. 2.]"


def test_doctor_lists_it(installed: Path) -> None:
    code = "from deepseek.backends import available; print(available())"
    assert "('npu', True, '')" in ran(installed, code, backend="cpu")
