"""Collectives between processes: against the references over lists of ranks, and gone wrong.

The processes run `jobs.py`; what they return is compared here.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
from world import Raised, World

import deepseek as ds
from deepseek import distributed
from deepseek.errors import ArgumentError, BackendError, DistributedError, VerifyError
from deepseek.frontend.tensor import Tensor, no_grad
from deepseek.ir.dtype import DTYPES, dtype_of, float32
from deepseek.ir.graph import Graph, input_value
from deepseek.ir.op import Message
from deepseek.ops import collective
from deepseek.ops.collective import OVER_RANKS
from deepseek.ops.define import isolated
from deepseek.ops.groups import Group, groups
from deepseek.passes.fuse import fuse
from deepseek.program.build import build
from deepseek.program.interpret import interpret
from deepseek.program.ir import cost
from deepseek.program.text import parse_program, print_program
from deepseek.program.verify import verify

Worlds = Callable[[int], World]


def well(results: list[Any]) -> list[Any]:
    for result in results:
        assert not isinstance(result, Raised), result
    return results


def wanted(verb: str, ranks: int, shape: tuple[int, ...], dtype: str) -> list[Any]:
    """What each rank should get, computed here; 16-bit floats in float32."""
    kind = dtype_of(dtype)
    arrays = [jobs.given(r, shape, dtype) for r in range(ranks)]
    if kind.is_float and kind.bits == 16:
        arrays = [a.astype(np.float32) for a in arrays]
    if verb in jobs.REDUCTIONS:
        found = OVER_RANKS["all_reduce"](arrays, reduction=verb)
    else:
        found = OVER_RANKS[verb](arrays, **jobs.VERBS[verb][1])
    return [f.astype(kind.numpy) for f in found]


def check_verbs(world: World, shape: tuple[int, ...], dtype: str) -> None:
    kind = dtype_of(dtype)
    ranks = len(world.ranks)
    results = well(world.run("verbs", shape, dtype, not kind.is_bool, True))
    assert results[0].keys() >= {"broadcast", "all_gather", "all_to_all", "min", "max"}
    for verb in results[0]:
        # One order of the ranks: the same bits as the reference, and so on every rank.
        for (name, size, data), array in zip(
            [r[verb] for r in results], wanted(verb, ranks, shape, dtype), strict=True
        ):
            assert (name, size) == (dtype, array.shape), verb
            assert data == array.tobytes(), f"{verb} of {dtype} differs"


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_collectives_agree_with_the_reference(world: Worlds, dtype: str) -> None:
    check_verbs(world(2), (6, 5), dtype)


@pytest.mark.parametrize("ranks", [3, 4])
def test_more_ranks_agree_with_the_reference(world: Worlds, ranks: int) -> None:
    for shape, dtype in [((12, 3), "float32"), ((12,), "bfloat16"), ((0, 3), "int32")]:
        check_verbs(world(ranks), shape, dtype)


def test_large_tensors_go_in_chunks_and_come_out_with_the_same_bits(world: Worlds) -> None:
    check_verbs(world(2), (200_002,), "float32")
    runs = [well(world(2).run("verbs", (200_002,), "float32", True, False)) for _ in range(3)]
    assert runs[0] == runs[1] == runs[2]


def expected_gradient(verb: str, rank: int, ranks: int, shape: tuple[int, ...]) -> Any:
    """By differences of the sum of all ranks' losses, which is linear in what a rank gives."""
    arrays = [jobs.given(r, shape, "float64") for r in range(ranks)]

    def total(given: Any) -> float:
        moved = [given if r == rank else a for r, a in enumerate(arrays)]
        found = OVER_RANKS[verb](moved, **jobs.VERBS[verb][1])
        return float(sum((y * jobs.weights(r, y.shape)).sum() for r, y in enumerate(found)))

    out = np.zeros(shape)
    for place in np.ndindex(*shape):
        step = np.zeros(shape)
        step[place] = 1
        out[place] = total(arrays[rank] + step) - total(arrays[rank])
    return out


@pytest.mark.parametrize(("ranks", "jit"), [(3, False), (2, True)])
def test_gradients_are_those_of_the_sum_of_all_losses(
    world: Worlds, ranks: int, jit: bool
) -> None:
    shape = (6, 2)
    for rank, found in enumerate(well(world(ranks).run("gradients", shape, jit))):
        for verb in jobs.VERBS:
            np.testing.assert_allclose(
                found[verb], expected_gradient(verb, rank, ranks, shape), atol=1e-9, err_msg=verb
            )
        x = jobs.given(rank, shape, "float64")
        np.testing.assert_allclose(found["through jit"], ranks * 2 * x)  # each rank sums up all


def test_gradients_of_reductions(world: Worlds) -> None:
    first, second = well(world(2).run("reduction_gradients"))
    assert first["avg"] == second["avg"] == [1.0, 1.0, 1.0]
    assert first["max"] == [1.0, 2.0, 0.0]  # of two losses; what is equal shares
    assert second["max"] == [1.0, 0.0, 2.0]
    assert first["min"] == [1.0, 0.0, 2.0]
    assert "got a gradient through 'prod'" in first["prod"]


def test_messages_and_their_gradients(world: Worlds) -> None:
    results = well(world(3).run("messages"))
    assert results[0]["gradient"] == [20.0, 400.0]
    assert results[1]["received"] == [1.0, 4.0]
    assert [r["around"] for r in results] == [(2.0, 2.0), (0.0, 0.0), (1.0, 1.0)]


def test_compiled_collectives_are_neither_dropped_nor_merged(world: Worlds) -> None:
    for result in well(world(2).run("compiled")):
        assert result["collectives"] == 4
        assert result["results"] == [[2.0] * n for n in (3, 5, 5, 4)]


def test_compiled_collectives_keep_their_order(world: Worlds) -> None:
    first, second = well(world(2).run("in_order", 3))
    assert second == [32.0] * 3
    assert first == [36.0] * 3


def test_a_data_parallel_step_equals_the_whole_batch(world: Worlds) -> None:
    model, x, y = jobs.model_and_data()
    optimizer = ds.optim.AdamW(model.parameters(), lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        optimizer.step()
    first, second = well(world(2).run("training", 5))
    assert first == second, "the ranks drift apart"
    for found, parameter in zip(first, model.parameters(), strict=True):
        np.testing.assert_allclose(found, parameter.numpy(), atol=2e-6)


def test_functions_with_names_of_pytorch(world: Worlds) -> None:
    first, second = well(world(2).run("torch_names"))
    for result in (first, second):
        assert result["all_reduce"] == (True, [3.0, 10.0])
        assert result["all_gather"] == [[1.0, 0.0], [2.0, 10.0]]
        assert result["all_gather_into_tensor"] == [1.0, 0.0, 2.0, 10.0]
        assert result["broadcast"] == [2.0, 10.0]
        assert result["parameter"] == (True, True, [1.0, 0.0])
    assert (first["reduce_scatter"], second["reduce_scatter"]) == ([3.0, 10.0], [6.0, 20.0])
    assert first["reduce_scatter_tensor"] == first["reduce_scatter"]
    assert first["all_to_all"] == [[1.0, 0.0], [2.0, 10.0]]
    assert second["all_to_all"] == [[2.0, 0.0], [4.0, 20.0]]
    assert (first["reduce"], second["reduce"]) == ([2.0, 10.0], [0.0, 0.0])
    assert (first["new_group"], second["new_group"]) == (None, (0, 1))
    assert second["in it"] == [7]


# -------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("which", "one", "other"),
    [
        ("shape", "all_reduce (sum) of 4 float32", "all_reduce (sum) of 6 float32"),
        ("dtype", "all_reduce (sum) of 4 float32", "all_reduce (sum) of 4 float64"),
        ("op", "all_reduce (sum) of 4 float32", "all_reduce (max) of 4 float32"),
        ("order", "all_gather of 4 float32", "all_reduce (sum) of 4 float32"),
        ("root", "with root 0", "with root 1"),
    ],
)
def test_ranks_that_disagree(world: Worlds, which: str, one: str, other: str) -> None:
    for said in well(world(2).run("disagreement", which)):
        assert one in said
        assert other in said
        assert "is of no use any more" in said


def test_a_rank_that_is_late_is_named(world: Worlds) -> None:
    first, second = well(world(2).run("lateness"))
    assert "rank 0 waits for rank 1 in all_reduce (sum) of 4 float32" in first
    assert "in 300 ms has not come: it is in none of the group's collectives" in first
    assert "rank 0 gave up: rank 0 waits for rank 1" in second


def test_a_rank_that_leaves_is_named(world: Worlds) -> None:
    first, _ = well(world(2).run("leaving"))
    assert "rank 0 waits for rank 1 in barrier, which has left the group" in first


def test_nothing_is_left_of_groups(world: Worlds) -> None:
    for found in well(world(2).run("made_again", 8)):
        assert found["files"] == []
        assert len(set(found["numbers"])) == 1, found["numbers"]


def test_a_forked_process_is_told_to_make_its_own_group(world: Worlds) -> None:
    for said in well(world(2).run("forked")):
        assert "belongs to the process that this one was forked from" in said


def test_compiled_functions_see_a_new_world(world: Worlds) -> None:
    assert well(world(2).run("made_anew")) == [[2, 1, 2]] * 2


# -------------------------------------------------------------------------------------- launching

SCRIPT = """
import os, sys
import deepseek as ds
ds.distributed.init_process_group(timeout=60)
rank = ds.distributed.get_rank()
total = ds.distributed.all_reduce(ds.asarray(rank + 1)).item()
os.write(1, f"sum {total} {sys.argv[1]}\\n".encode())  # whole lines, whoever else writes
if len(sys.argv) > 2 and rank == 1:
    os._exit(7)
ds.distributed.barrier()
"""


def launch(tmp_path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = ["-m", "deepseek.distributed.run", "--nproc", "2", str(script), *args]
    return subprocess.run([sys.executable, "-P", *command], capture_output=True, text=True)


def test_the_launcher_runs_a_script(tmp_path: Path) -> None:
    done = launch(tmp_path, "word")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["sum 3 word"] * 2


def test_the_launcher_tells_of_a_rank_that_dies(tmp_path: Path) -> None:
    done = launch(tmp_path, "word", "die")
    assert done.returncode == 7
    assert "rank 1 ended with exit code 7" in done.stderr
    assert "rank 0 waits for rank 1 in barrier, which has died" in done.stderr


def test_spawn_tells_what_a_process_raised() -> None:
    with pytest.raises(DistributedError, match=r"(?s)rank 0 ended with exit code 1.*TypeError"):
        distributed.spawn(int, ("no number",), nprocs=1)
    with pytest.raises(ArgumentError, match="got nprocs=0; wanted 1 or more"):
        distributed.spawn(print, nprocs=0)


# ------------------------------------------------------------------------------ a world of one rank


def test_without_a_group_there_is_a_remedy() -> None:
    for call in (
        distributed.get_rank, distributed.barrier, lambda: distributed.all_reduce(ds.ones(2)),
    ):  # fmt: skip
        with pytest.raises(DistributedError, match=r"call ds.distributed.init_process_group\(\)"):
            call()


def test_bad_arguments_are_named() -> None:
    with distributed.CommContext() as comm:
        for call, said in (
            (lambda: comm.all_reduce(ds.ones(2), op="mean"), "'mean'; valid: sum, prod, min"),
            (lambda: comm.all_reduce(ds.ones(2) > 0), "wanted numbers"),
            (lambda: comm.all_reduce(ds.arange(2), op="avg"), "wanted floats"),
            (lambda: comm.broadcast(ds.ones(2), root=1), "rank 1; wanted a rank of group"),
            (lambda: comm.send(ds.ones(2), 0), "wanted another rank than its own"),
            (lambda: comm.all_gather(ds.ones(())), "wanted at least one axis"),
            (lambda: comm.reduce_scatter(ds.ones(())), "as many rows"),
            (lambda: comm.all_reduce(ds.ones(2), ds.ones(3)), "wanted the shape of"),
            (lambda: comm.all_reduce(ds.ones(2), ds.arange(2)), "wanted float32"),
        ):
            with pytest.raises((ArgumentError, ValueError, TypeError)) as raised:
                call()
            assert said in str(raised.value), raised.value
    with pytest.raises(DistributedError, match="no longer"):
        comm.get_rank()


def test_backends_that_are_not_there_say_so(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no transport over Gloo yet\n  help: use 'shm'"):
        distributed.CommContext("gloo")
    with pytest.raises(ArgumentError, match="valid: shm, nccl, gloo"):
        distributed.CommContext("mpi")
    with (
        ds.config.override(nccl=str(tmp_path / "libnccl.so.2")),
        pytest.raises(DistributedError, match="NCCL cannot be opened.*\n  help: "),
    ):
        distributed.CommContext("nccl")


def test_places_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, port, said in (
        ("2", "1", "got rank 2 of 2"), ("x", "1", "RANK: got 'x'"), ("0", "", "no MASTER_PORT"),
    ):  # fmt: skip
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("MASTER_PORT", port)
        with pytest.raises(ArgumentError, match=said):
            distributed.init_process_group()
    monkeypatch.setenv("MASTER_ADDR", "10.1.2.3")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(DistributedError, match="another machine"):
        distributed.init_process_group()
    with pytest.raises(ArgumentError, match="wanted env://, tcp://"):
        distributed.init_process_group(init_method="here")
    with pytest.raises(DistributedError, match="waited 100 ms for rank 1 to join it"):
        distributed.init_process_group(init_method="file:///nobody/comes", rank=0, timeout=0.1)
    assert not distributed.is_initialized()


def test_a_collective_refuses_bodies_and_checkpoints() -> None:
    with distributed.CommContext() as comm:
        x = ds.ones(2, requires_grad=True)
        with pytest.raises(ds.errors.TraceError, match="stands in the body of ds.cond"):
            ds.cond(ds.asarray(True), comm.all_reduce, lambda x: x, x)
        with pytest.raises(ds.errors.TraceError, match="ds.checkpoint, which would run it twice"):
            ds.checkpoint(lambda x: comm.all_reduce(x * x))(x)


def test_a_reference_backend_talks_to_nobody_alone() -> None:
    with ds.config.override(backend="reference"):
        assert collective.all_reduce(ds.ones(2)).tolist() == [1.0, 1.0]


def test_the_meaning_of_a_program_among_others() -> None:
    pair = Group("pair", 0, 2, "shm")
    x = input_value(float32, (3,))
    with isolated(), no_grad():
        groups.known["pair"] = pair
        try:
            y = collective.all_reduce(Tensor(x) * 2, "sum", pair) + 1
        finally:
            del groups.known["pair"]
    program = build(fuse(Graph([x], [y._value])))
    verify(program)
    assert cost(program)["collectives"] == 1
    assert print_program(parse_program(print_program(program))) == print_program(program)
    given = np.array([1.0, 2.0, 3.0], np.float32)

    def communicate(message: Message, mine: Any, taken: Any) -> None:
        assert message[:5] == ("pair", 2, "all_reduce", float32, 3)
        taken.view(np.float32)[:] = mine.view(np.float32) + 10

    (found,) = interpret(program, [given], communicate=communicate)
    assert found.view(np.float32).tolist() == [13.0, 15.0, 17.0]
    with pytest.raises(VerifyError, match="told of no other ranks"):
        interpret(program, [given])


def test_every_rank_is_asked_for_something_else() -> None:
    """The arrays of the tests tell ranks and orders of summation apart."""
    arrays = [jobs.given(r, (6, 5), "float32") for r in range(3)]
    orders = {
        OVER_RANKS["all_reduce"](list(order), reduction="sum")[0].tobytes()
        for order in itertools.permutations(arrays)
    }
    assert len(orders) > 1
