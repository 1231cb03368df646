"""What the processes of a world are asked to do. A job returns plain data."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import deepseek as ds
from deepseek import distributed
from deepseek.distributed import CommContext
from deepseek.ir.dtype import dtype_of

# By name: the call, and what the reference takes beside the ranks' arrays.
VERBS: dict[str, tuple[Callable[[CommContext, Any], Any], dict[str, Any]]] = {
    "all_reduce": (lambda comm, x: comm.all_reduce(x), {"reduction": "sum"}),
    "reduce_to": (lambda comm, x: comm.reduce(x, root=1), {"reduction": "sum", "root": 1}),
    "broadcast": (lambda comm, x: comm.broadcast(x, root=1), {"root": 1}),
    "all_gather": (lambda comm, x: comm.all_gather(x), {}),
    "reduce_scatter": (lambda comm, x: comm.reduce_scatter(x), {"reduction": "sum"}),
    "all_to_all": (lambda comm, x: comm.all_to_all(x), {}),
}
REDUCTIONS = ("sum", "prod", "min", "max", "avg")


def given(rank: int, shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    """What a rank gives: different for each, and odd enough to tell orders of summation apart."""
    random = np.random.default_rng(rank)
    array = random.standard_normal(shape) * 10.0 ** random.integers(-2, 3, shape)
    kind = dtype_of(dtype)
    if kind.is_bool:
        return array > 0
    if kind.is_integer:
        return random.integers(0, 127, shape).astype(kind.numpy)
    return array.astype(kind.numpy)


def plain(x: ds.Tensor) -> tuple[str, tuple[int, ...], bytes]:
    """A tensor's dtype, shape and bits."""
    return x.dtype.name, tuple(x.shape), x.numpy().tobytes()


def verbs(shape: tuple[int, ...], dtype: str, reductions: bool, moves: bool) -> dict[str, Any]:
    """Every collective that the dtype allows."""
    with CommContext(timeout=60) as comm:
        x = ds.asarray(given(comm.get_rank(), shape, dtype))
        out = {}
        for name, (call, attrs) in VERBS.items():
            if moves and (reductions or "reduction" not in attrs):
                out[name] = plain(call(comm, x))
        for op in REDUCTIONS:
            if reductions and (op != "avg" or x.dtype.is_float):
                out[op] = plain(comm.all_reduce(x, op=op))
        if x.dtype.is_bool:
            out["min"], out["max"] = (plain(comm.all_reduce(x, op=op)) for op in ("min", "max"))
        return out


def gradients(shape: tuple[int, ...], jit: bool) -> dict[str, Any]:
    """By verb, the gradient of the sum of all ranks' weighted results by this rank's tensor."""
    out = {}
    with CommContext(timeout=60) as comm:
        rank = comm.get_rank()
        for name, (call, _) in VERBS.items():

            def loss(x: ds.Tensor, call: Any = call) -> ds.Tensor:
                y = call(comm, x)
                return (y * weights_for(y)).sum()

            def weights_for(y: ds.Tensor) -> ds.Tensor:
                return ds.asarray(weights(rank, tuple(y.shape)))

            x = ds.asarray(given(rank, shape, "float64"))
            gradient = ds.grad(loss)
            out[name] = (ds.jit(gradient) if jit else gradient)(x).numpy().copy()
        # A compiled function that is differentiated from outside.
        inner = ds.jit(lambda x: comm.all_gather(x * x).sum())
        x = ds.asarray(given(rank, shape, "float64"))
        out["through jit"] = ds.grad(inner)(x).numpy().copy()
    return out


def weights(rank: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.cos(1.0 + rank + np.arange(np.prod(shape, dtype=int))).reshape(shape)


def reduction_gradients() -> dict[str, Any]:
    out = {}
    with CommContext(timeout=60) as comm:
        x = ds.asarray([1.0, 5.0, 2.0] if comm.get_rank() == 0 else [1.0, 3.0, 4.0])
        for op in ("avg", "max", "min"):
            out[op] = ds.grad(lambda x, op=op: comm.all_reduce(x, op=op).sum())(x).tolist()
        try:
            ds.grad(lambda x: comm.all_reduce(x, op="prod").sum())(x)
        except ValueError as error:
            out["prod"] = str(error)
    return out


def messages() -> dict[str, Any]:
    """A pair that sends and receives, with gradients, and a ring."""
    with CommContext(timeout=60) as comm:
        rank, ranks = comm.get_rank(), comm.get_world_size()
        out: dict[str, Any] = {}
        x = ds.asarray([1.0, 2.0], requires_grad=True)
        if rank == 0:
            carried = comm.send(x * x, 1)
            carried.backward()
            out["gradient"] = x.grad.tolist()  # type: ignore[union-attr]
        elif rank == 1:
            got = comm.recv(ds.zeros(2, requires_grad=True), 0)
            out["received"] = got.tolist()
            (got * ds.asarray([10.0, 100.0])).sum().backward()
        large = ds.full((300_000,), float(rank))
        around = comm.exchange(large, (rank + 1) % ranks, (rank - 1) % ranks)
        out["around"] = around[0].item(), around[-1].item()
        return out


def compiled() -> dict[str, Any]:
    """What becomes of collectives in a compiled function."""
    with CommContext(timeout=60) as comm:

        @ds.jit
        def f(x: ds.Tensor) -> ds.Tensor:
            comm.all_gather(x)  # nobody reads it
            comm.barrier()
            return comm.all_reduce(x) + comm.all_reduce(x)  # alike, and still two

        results = [f(ds.full((n,), float(comm.get_rank()))).tolist() for n in (3, 5, 5, 4)]
        counts = ds.explain(f, ds.zeros(4)).counts
        return {"results": results, "collectives": counts["collectives"]}


def in_order(rounds: int) -> list[float]:
    """Ranks that do different things, which fit only in the order they were written in."""
    rank = distributed.get_rank()

    @ds.jit
    def f(x: ds.Tensor) -> ds.Tensor:
        late = (x @ x).sum()  # what comes first waits longest
        with CommContextOfWorld() as comm:
            if rank == 0:
                comm.send(x * late, 1)
                return comm.recv(x, 1)
            got = comm.recv(x, 0)
            comm.send(got + 1, 0)
            return got

    return [f(ds.ones(2, 2)).sum().item() for _ in range(rounds)]


class CommContextOfWorld:
    """The functions of a context over the default group."""

    def __enter__(self) -> Any:
        return distributed

    def __exit__(self, *_: object) -> None:
        pass


def training(steps: int) -> list[list[Any]]:
    """Data-parallel steps in one compiled function: each rank has its part of the batch."""
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    model, x, y = model_and_data()
    part = slice(rank * 8 // ranks, (rank + 1) * 8 // ranks)
    optimizer = ds.optim.AdamW(model.parameters(), lr=0.05)

    @ds.jit
    def step(x: ds.Tensor, y: ds.Tensor) -> ds.Tensor:
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        for p in model.parameters():
            p.grad = distributed.all_reduce(p.grad, "avg")
        optimizer.step()
        optimizer.zero_grad()
        return distributed.all_reduce(loss.detach(), "avg")

    for _ in range(steps):
        step(x[part], y[part])
    return [p.tolist() for p in model.parameters()]


def model_and_data() -> tuple[Any, ds.Tensor, ds.Tensor]:
    ds.manual_seed(3)
    model = ds.nn.Sequential(ds.nn.Linear(5, 7), ds.nn.Tanh(), ds.nn.Linear(7, 2))
    return model, ds.randn(8, 5), ds.randn(8, 2)


# ------------------------------------------------------------------------------ PyTorch's names


def torch_names() -> dict[str, Any]:
    d = distributed
    rank, ranks = d.get_rank(), d.get_world_size()
    own = ds.asarray([rank + 1.0, 10.0 * rank])
    out: dict[str, Any] = {}
    x = ds.asarray(own.numpy())
    out["all_reduce"] = d.all_reduce(x, d.ReduceOp.SUM) is x, x.tolist()
    listed = [ds.zeros(2) for _ in range(ranks)]
    d.all_gather(listed, own)
    out["all_gather"] = [t.tolist() for t in listed]
    joined = d.all_gather_into_tensor(ds.zeros(2 * ranks), own)
    out["all_gather_into_tensor"] = joined.tolist()
    parts = [own * (r + 1) for r in range(ranks)]
    out["reduce_scatter"] = d.reduce_scatter(ds.zeros(2), parts).tolist()
    out["reduce_scatter_tensor"] = d.reduce_scatter_tensor(
        ds.zeros(2), ds.stack(parts).flatten()
    ).tolist()
    d.all_to_all(listed, parts)
    out["all_to_all"] = [t.tolist() for t in listed]
    out["broadcast"] = d.broadcast(ds.asarray(own.numpy()), 1).tolist()
    out["reduce"] = d.reduce(ds.asarray(own.numpy()), 0, d.ReduceOp.MAX).tolist()
    weight = ds.nn.Parameter(own)
    d.broadcast(weight, 0)
    out["parameter"] = weight.is_leaf, weight.requires_grad, weight.tolist()
    evens = d.new_group([1])
    out["new_group"] = None if evens is None else (d.get_rank(evens), d.get_world_size(evens))
    if evens is not None:
        out["in it"] = d.all_reduce(ds.asarray([7]), group=evens).tolist()
        d.destroy_process_group(evens)
    d.barrier()
    return out


# --------------------------------------------------------------------------------- what goes wrong


def disagreement(which: str) -> str:
    """The error of ranks that do not ask for the same."""
    comm = CommContext(timeout=60)
    first = comm.get_rank() == 0
    x = ds.zeros(4)
    try:
        match which:
            case "shape":
                comm.all_reduce(x if first else ds.zeros(6))
            case "dtype":
                comm.all_reduce(x if first else x.astype(ds.float64))
            case "op":
                comm.all_reduce(x, op="sum" if first else "max")
            case "order":
                for verb in (comm.all_gather, comm.all_reduce)[:: 1 if first else -1]:
                    verb(x)
            case "root":
                comm.broadcast(x, root=0 if first else 1)
    except ds.errors.DistributedError as error:
        after = ""
        try:
            comm.barrier()
        except ds.errors.DistributedError as again:
            after = str(again)
        comm.close()
        return f"{error}\n{after}"
    return "no error"


def lateness() -> str:
    comm = CommContext(timeout=0.3)
    try:
        if comm.get_rank() == 0:
            comm.all_reduce(ds.zeros(4))
        else:
            time.sleep(1)
            comm.all_reduce(ds.zeros(4))
    except ds.errors.DistributedError as error:
        return str(error)
    finally:
        comm.close()
    return "no error"


def leaving() -> str:
    with CommContext(timeout=60) as comm:
        if comm.get_rank() == 1:
            return ""
        try:
            comm.barrier()
        except ds.errors.DistributedError as error:
            return str(error)
    return "no error"


def made_again(times: int) -> dict[str, Any]:
    """What is left of groups that were made and left."""
    numbers = []
    for _ in range(times):
        with CommContext(timeout=60) as comm:
            comm.barrier()
        with open("/proc/self/maps") as maps:
            mapped = sum("/dev/shm/deepseek-" in line for line in maps)
        numbers.append((mapped, len(os.listdir("/proc/self/fd"))))
    return {"numbers": numbers, "files": [f for f in os.listdir("/dev/shm") if own_file(f)]}


def own_file(name: str) -> bool:
    place = distributed.meeting.meeting(None, -1, -1).place
    return name.startswith(os.path.basename(place))


def forked() -> str:
    """The error that a forked child gets."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            distributed.barrier()
            said = "no error"
        except ds.errors.DistributedError as error:
            said = str(error)
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    distributed.barrier()  # the parents go on
    return os.read(read, 1000).decode()


def made_anew() -> list[int]:
    """A compiled function that asks about the world, when the world changes."""
    where = os.environ["MASTER_PORT"]
    world = distributed.get_world_size(), distributed.get_rank()
    distributed.barrier()

    @ds.jit
    def f(x: ds.Tensor) -> ds.Tensor:
        return x * distributed.get_world_size()

    found = [int(f(ds.ones(1)).item())]
    distributed.destroy_process_group()
    distributed.init_process_group(world_size=1, rank=0, init_method=f"tcp://:{where}{world[1]}")
    found.append(int(f(ds.ones(1)).item()))
    distributed.destroy_process_group()
    distributed.init_process_group(timeout=60)
    found.append(int(f(ds.ones(1)).item()))
    return found
