"""Programs and kernels on disk: found again, never trusted, never needed."""

from __future__ import annotations

import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek import backends
from deepseek._runtime import Buffer
from deepseek.compiler import caches, store
from deepseek.compiler.compile import Compiled, Executable, compile_graph
from deepseek.config import override
from deepseek.frontend.tensor import Tensor, no_grad
from deepseek.ir.dtype import float32
from deepseek.ir.graph import Graph, constant, input_value
from deepseek.ir.op import REGISTRY
from deepseek.ir.scalar import size_var
from deepseek.ir.shape import Size
from deepseek.ops.define import composite, isolated
from deepseek.program.text import print_program

RAMP = np.linspace(-1, 1, 600, dtype=np.float32).reshape(20, 30)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder, and a process that remembers nothing."""
    path = tmp_path / "cache"
    with override(cache=path):
        caches.forget()
        caches.misses.clear()
        yield path


@contextmanager
def counted() -> Iterator[Callable[[], tuple[int, int]]]:
    """(programs, kernels) compiled since the beginning of the block; kernels are not remembered."""
    caches.forget()
    before = ds.counters.programs, ds.counters.kernels
    yield lambda: (ds.counters.programs - before[0], ds.counters.kernels - before[1])


def graph_of(function: Callable[..., Any], *shapes: tuple[Size, ...]) -> Graph:
    values = [input_value(float32, shape) for shape in shapes]
    with isolated(), no_grad():
        out = function(*map(Tensor, values))
    return Graph(values, [t._value for t in (out if isinstance(out, tuple) else (out,))])


def two_kernels(x: Tensor) -> Tensor:
    return (x * 2 + 1).sum(axis=1).exp().cumulative_sum(axis=0)


def compiled(graph: Graph, *args: Any, **kwargs: Any) -> Executable:
    return compile_graph(graph, backends.load("cpu"), *args, **kwargs)


def run(executable: Executable, *arrays: Any, symbols: tuple[int, ...] = ()) -> list[bytes]:
    buffers = [Buffer.copy_of(np.ascontiguousarray(a).reshape(-1).view(np.uint8)) for a in arrays]
    return [bytes(out) for out in executable.run(buffers, symbols)]


def files(folder: Path, kind: str = "*") -> list[Path]:
    return sorted(p for p in folder.glob(f"{kind}/*"))


# ------------------------------------------------------------------------------------ found again


def test_a_program_is_found_again(folder: Path) -> None:
    graph = graph_of(two_kernels, (20, 30))
    with counted() as work:
        wanted = run(compiled(graph), RAMP)
        programs, kernels = work()
        assert programs == 1
        assert kernels == len(files(folder, "kernels")) > 0
        assert len(files(folder, "programs")) == 1
    with counted() as work:
        assert run(compiled(graph_of(two_kernels, (20, 30))), RAMP) == wanted
        assert work() == (0, 0)


def test_kernels_are_found_by_other_programs(folder: Path) -> None:
    compiled(graph_of(lambda x: x.exp(), (20, 30)))
    with counted() as work:
        compiled(graph_of(lambda x: (x.exp(), x), (20, 30)))
        assert work() == (1, 0)


def test_names_and_lines_make_no_other_kernel(folder: Path) -> None:
    first = graph_of(lambda x: x.exp(), (20, 30))
    second = graph_of(
        lambda x: x.exp(),
        (20, 30),
    )
    assert first.nodes[0].line != second.nodes[0].line
    compiled(first)
    with counted() as work:
        compiled(second)
        assert work() == (0, 0)


def test_symbolic_sizes(folder: Path) -> None:
    n = size_var("n0")
    compiled(graph_of(two_kernels, (n, 30)), [n])
    with counted() as work:
        again = compiled(graph_of(two_kernels, (n, 30)), [n])
        for size in (20, 7):
            (got,) = run(again, RAMP[:size], symbols=(size,))
            wanted = np.exp((RAMP[:size] * 2 + 1).sum(axis=1)).cumsum()
            np.testing.assert_allclose(np.frombuffer(got, np.float32), wanted, rtol=1e-4)
        assert again.output_shapes((7,)) == [(7,)]
        assert work() == (0, 0)


def test_constants_large_and_small(folder: Path) -> None:
    table = constant(RAMP, float32)

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.cumulative_sum(axis=0) + Tensor(table).cumulative_sum(axis=0), Tensor(table)

    wanted = run(compiled(graph_of(function, (20, 30))), RAMP)
    with counted() as work:
        assert run(compiled(graph_of(function, (20, 30))), RAMP) == wanted
        assert work() == (0, 0)
    with counted() as work:  # other elements are another program
        table = constant(RAMP + 1, float32)
        assert run(compiled(graph_of(function, (20, 30))), RAMP) != wanted
        assert work()[0] == 1


def test_control_flow_and_routines(folder: Path) -> None:
    def function(x: Tensor) -> Any:
        total, rows = ds.scan(lambda s, row: (s + row, s * 2), x[0], x)
        chosen = ds.cond(x.sum() > 0, lambda t: t.exp(), lambda t: t * 3, total)
        state = ds.while_loop(lambda s: s.sum() < 100, lambda s: s.abs() * 2 + 1, chosen)
        return total, rows, state, x.sort(axis=1)[0]

    wanted = run(compiled(graph_of(function, (20, 30))), RAMP)
    with counted() as work:
        assert run(compiled(graph_of(function, (20, 30))), RAMP) == wanted
        assert work() == (0, 0)


def test_donated_inputs_are_taken_over(folder: Path) -> None:
    for _ in range(2):
        executable = compiled(graph_of(lambda x: x * 2, (20, 30)), takes={0: 0})
        buffer = Buffer.copy_of(RAMP.reshape(-1).view(np.uint8))
        (out,) = executable.run([buffer], (), [True])
        assert out is buffer
        caches.forget()
    with counted() as work:  # without a takeover it is another program
        compiled(graph_of(lambda x: x * 2, (20, 30)))
        assert work() == (1, 0)


def test_outputs_that_are_inputs(folder: Path) -> None:
    for _ in range(2):
        executable = compiled(graph_of(lambda x: (x, x * 2, x.reshape((600,))), (20, 30)))
        got = run(executable, RAMP)
        assert got[0] == got[2] == RAMP.tobytes()
        assert got[1] == (RAMP * 2).tobytes()


def test_what_is_computed_once_is_kept_too(folder: Path) -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        return x * (w.exp().cumulative_sum(axis=0) + 1)

    graph = graph_of(function, (20, 30), (20, 30))
    first = compiled(graph, stable=(1,))
    assert isinstance(first, Compiled)
    assert first.prepared is not None
    wanted = run(first, RAMP, RAMP)
    with counted() as work:
        again = compiled(graph_of(function, (20, 30), (20, 30)), stable=(1,))
        assert isinstance(again, Compiled)
        assert again.prepared is not None
        assert again.prepared.sources == first.prepared.sources
        assert run(again, RAMP, RAMP) == wanted
        assert work() == (0, 0)


def test_the_program_can_still_be_read(folder: Path) -> None:
    graph = graph_of(two_kernels, (20, 30))
    fresh, found = compiled(graph, labels=["rows"]), compiled(graph, labels=["rows"])
    assert isinstance(fresh, Compiled)
    assert isinstance(found, Compiled)
    assert found.program == fresh.program
    assert "'rows'" in print_program(found.program)
    assert found.loaded.bind_info() == fresh.loaded.bind_info()
    assert found.loaded.steps == fresh.loaded.steps


# ------------------------------------------------------------------------------------ not found


def missed_because(text: str) -> bool:
    return text in ds.cache.explain()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda g: compiled(g, labels=["images"]), "differs in its labels: "),
        (lambda g: compiled(g, takes={0: 0}), "differs in its takes: "),
        (lambda g: compiled(g, stable=(0,)), "differs in its stable: "),
        (lambda g: compiled(graph_of(two_kernels, (20, 31))), "float32[20, 31]"),
        (
            lambda g: compiled(graph_of(lambda x: two_kernels(x) + 5, (20, 30))),
            "differs in its graph",
        ),
    ],
)
def test_explain_tells_the_first_difference(
    folder: Path, change: Callable[[Graph], Any], reason: str
) -> None:
    graph = graph_of(two_kernels, (20, 30))
    compiled(graph)
    assert missed_because("program 'graph': the cache had no programs yet")
    change(graph)
    assert missed_because(reason)


def test_another_target_misses(folder: Path) -> None:
    graph = graph_of(two_kernels, (20, 30))
    compiled(graph)
    with override(cpu_level="v2"), counted() as work:
        compiled(graph)
        assert work()[0] == 1
    assert missed_because("differs in its target: cpu v")


def test_another_version_misses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(two_kernels, (20, 30))
    compiled(graph)
    monkeypatch.setattr(caches, "version", lambda parts: "other sources")
    with counted() as work:
        compiled(graph)
        programs, kernels = work()
        assert (programs, kernels > 0) == (1, True)
    assert missed_because("was made by another version of deepseek, NumPy or Python")


def test_host_steps_are_never_kept(folder: Path) -> None:
    graph = graph_of(lambda x: ds.inv(x) * 2, (4, 4))
    for _ in range(2):
        with counted() as work:
            compiled(graph)
            assert work()[0] == 1
    assert not files(folder, "programs")
    assert missed_because("op 'inv' is a Python function")


def test_ops_from_elsewhere_are_never_kept(folder: Path) -> None:
    for factor in (2, 3):

        @composite(reference=lambda x, k=factor: x * k, samples=list)
        def scaled(x: Tensor) -> Tensor:
            return x * factor  # noqa: B023  (run before the next round)

        try:
            assert run(compiled(graph_of(scaled, (20, 30))), RAMP) == [(RAMP * factor).tobytes()]
        finally:
            del REGISTRY["scaled"]
    assert missed_because("op 'scaled' is defined outside deepseek")


def test_watched_passes_run(folder: Path) -> None:
    graph = graph_of(two_kernels, (20, 30))
    compiled(graph)
    with override(verify=1), counted() as work:
        compiled(graph)
        assert work() == (1, 0)
    assert missed_because("its passes are watched")


def test_size_zero_keeps_nothing(folder: Path) -> None:
    graph = graph_of(two_kernels, (20, 30))
    with override(cache_size=0):
        for _ in range(2):
            with counted() as work:
                compiled(graph)
                assert work()[0] == 1
        assert missed_because("DS_CACHE_SIZE is 0")
        assert ds.cache.info()["folder"] is None
        assert ds.cache.info()["unusable"] == "DS_CACHE_SIZE is 0"
    assert not folder.exists()


def test_a_folder_that_others_can_write_is_not_used(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    graph = graph_of(two_kernels, (20, 30))
    assert run(compiled(graph), RAMP) == run(compiled(graph), RAMP)
    assert caplog.text.count("can be written by others") == 1
    assert missed_because("can be written by others")
    assert not list(folder.iterdir())


def test_a_folder_that_can_only_be_read_is_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: Any) -> None:
        raise PermissionError(30, "Read-only file system")

    graph = graph_of(two_kernels, (20, 30))
    made = run(compiled(graph), RAMP)
    assert files(folder)
    monkeypatch.setattr(os, "utime", refused)
    with counted() as count:
        assert run(compiled(graph), RAMP) == made
    assert count() == (0, 0)


def test_a_full_disk_is_no_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    graph = graph_of(two_kernels, (20, 30))
    assert run(compiled(graph), RAMP) == run(compiled(graph), RAMP)
    assert not files(folder)


# ------------------------------------------------------------------------------------- damage


def damages(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """The bytes with one flipped, cut short, emptied, prolonged, or with a part replaced."""
    random_ = random.Random(seed)
    yield b""
    yield data + b"\0"
    yield data[len(store.MAGIC) :]
    for number in range(count):
        at = random_.randrange(len(data))
        match number % 3:
            case 0:
                yield data[:at] + bytes([data[at] ^ 1 << random_.randrange(8)]) + data[at + 1 :]
            case 1:
                yield data[:at]
            case _:
                part = random_.randbytes(random_.randrange(1, 40))
                yield data[:at] + part + data[at + len(part) :]


@pytest.mark.parametrize("kind", store.KINDS)
def test_damaged_files_are_rebuilt(folder: Path, kind: str) -> None:
    graph = graph_of(lambda x: x * 2 + 1, (20, 30))
    wanted = run(compiled(graph), RAMP)
    (path,) = files(folder, kind)
    (program,) = files(folder, "programs")
    lost = "its code could not be loaded" if kind == "modules" else "its file was damaged"
    good = path.read_bytes()
    for data in damages(good, 120, seed=7):
        if data == good:
            continue
        path.write_bytes(data)
        if kind != "programs":
            program.unlink()
        with counted() as work:
            assert run(compiled(graph), RAMP) == wanted
            assert work() == ((1, 0) if kind == "programs" else (1, 1))
        assert missed_because(lost)
        # Written anew; what stands in it beside when it was written is the same.
        assert store.unpack(path.read_bytes())[1] == store.unpack(good)[1]  # type: ignore[index]


def test_code_that_cannot_be_loaded_is_made_anew(folder: Path) -> None:
    graph = graph_of(lambda x: x * 2 + 1, (20, 30))
    wanted = run(compiled(graph), RAMP)
    (path,) = files(folder, "programs")
    unpacked = store.unpack(path.read_bytes())
    assert unpacked is not None
    data, kernels, *rest = unpacked[1]
    broken = [(symbol, code[:100]) for symbol, code in kernels]
    store.write("programs", path.name, {"name": "broken"}, (data, broken, *rest))
    with counted() as work:
        assert run(compiled(graph), RAMP) == wanted
        assert work() == (1, 0)
    assert missed_because("its code could not be loaded")
    with counted() as work:
        compiled(graph)
        assert work() == (0, 0)


def test_a_removed_folder_is_made_again(folder: Path) -> None:
    compiled(graph_of(lambda x: x * 2, (20, 30)))
    for path in [*files(folder), *folder.glob("*/"), *folder.glob("*")]:
        if path.is_dir():
            path.rmdir()
        elif path.exists():
            path.unlink()
    folder.rmdir()
    compiled(graph_of(lambda x: x * 3, (20, 30)))
    assert len(files(folder, "programs")) == 1
    assert (folder / "CACHEDIR.TAG").exists()


def test_files_are_the_owners_alone(folder: Path) -> None:
    compiled(graph_of(lambda x: x * 2, (20, 30)))
    for path in [folder, *folder.glob("*/"), *files(folder)]:
        if path.name != "CACHEDIR.TAG":
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


# --------------------------------------------------------------------------------------- its size


def test_what_was_not_used_for_longest_goes(folder: Path) -> None:
    body = b"x" * 10_000
    with override(cache_size=100_000):
        for number in range(9):
            store.write("kernels", f"k{number}", {}, body)
        now = time.time()
        for number in range(9):
            os.utime(folder / "kernels" / f"k{number}", (now - 100 + number,) * 2)
        assert store.read("kernels", "k0")[0] == body  # used now
        store.write("kernels", "k9", {}, body)
        left = {p.name for p in files(folder)}
        assert {"k0", "k9", "k8"} <= left
        assert "k1" not in left
        total = sum(p.stat().st_size for p in files(folder))
        assert total <= 80_000
        store.write("kernels", "large", {}, b"x" * 90_000)
        assert not (folder / "kernels" / "large").exists()


def test_what_interrupted_writes_left_is_swept_up(folder: Path) -> None:
    with override(cache_size=30_000):
        store.write("kernels", "k0", {}, b"x" * 10_000)
        left = folder / "kernels" / ".k9.123.0"
        left.write_bytes(b"x" * 10_000)
        os.utime(left, (1, 1))
        store.write("kernels", "k1", {}, b"x" * 10_000)
        for number in range(2, 2 + store.COUNT_AGAIN):
            store.write("kernels", f"k{number}", {}, b"x" * 10_000)
        assert not left.exists()
        assert ds.cache.info()["bytes"] <= 30_000


# ----------------------------------------------------------------------------------------- façade


def test_info_and_clear(folder: Path) -> None:
    before = ds.cache.info()
    graph = graph_of(two_kernels, (20, 30))
    compiled(graph)
    info = ds.cache.info()
    assert info["folder"] == folder
    assert info["programs"] == 1
    assert info["kernels"] == info["kernels_in_memory"] == len(files(folder, "kernels"))
    assert info["bytes"] == sum(p.stat().st_size for p in files(folder))
    compiled(graph)
    assert ds.cache.info()["program_hits"] == before["program_hits"] + 1
    ds.cache.clear()
    assert not files(folder)
    with counted() as work:
        compiled(graph)
        assert work()[0] == 1


def test_explain_without_misses(folder: Path) -> None:
    assert ds.cache.explain() == "No lookup has missed in this process."


def test_explain_shows_the_latest_first(folder: Path) -> None:
    for factor in range(9):
        compiled(graph_of(lambda x, k=factor: x * k, (20, 30)), name=f"times {factor}")
    told = ds.cache.explain(count=3)
    assert told.startswith("The last 3 lookups that missed, the latest first:")
    assert "program 'times 8'" in told
    assert "'times 3'" not in told.split("what is nearest")[0]
