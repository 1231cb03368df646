"""Collectives: what the processes of a group do together. `ds.distributed` is their public face.

Input 0 and output 0 of each is its turn (`groups.py`), the others are data. Gradients are those of
the sum of all ranks' losses. References work on the list of all ranks' arrays, reduced in the order
of the ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepseek import _runtime
from deepseek.errors import ArgumentError, DTypeError, ShapeError, op_error, unknown, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.dtype import uint8
from deepseek.ir.op import Kind, Message, Sample
from deepseek.ir.shape import TensorType, same, tensor_type
from deepseek.ops.comparison import equal
from deepseek.ops.define import (
    ALL,
    NUMERIC,
    as_tensor,
    describe,
    expanded,
    op_of,
    primitive,
    quotient,
    shape_of,
    times,
)
from deepseek.ops.groups import Group, group_or_default, groups, refuse_rank, take_turn

__all__: list[str] = []

Arrays = Sequence[Any]
REDUCTIONS = ("sum", "prod", "min", "max", "avg")


def checked(op: str, x: Tensor, reduction: str = "") -> Tensor:
    """x as a tensor that may be reduced so."""
    x = as_tensor(x, op)
    if not reduction:
        return x
    if reduction not in REDUCTIONS:
        raise unknown(f"reduction of op '{op}'", reduction, REDUCTIONS)
    if x.dtype.is_bool and reduction not in ("min", "max"):
        raise op_error(
            DTypeError, op, f"{describe(x)} with {reduction!r}", "numbers", user_line(),
            "use 'max' for any, 'min' for all, or convert with x.astype(ds.int64)",
        )  # fmt: skip
    if reduction == "avg" and not x.dtype.is_float:
        raise op_error(
            DTypeError, op, f"{describe(x)} with 'avg'", "floats", user_line(),
            "use 'sum', or convert with x.astype(ds.float32)",
        )  # fmt: skip
    return x


def refuse_other_type(target: Tensor, result: Tensor) -> None:
    """Raises where a destination cannot show the result."""
    if target.dtype is not result.dtype:
        got, wanted = describe(target), f"{result.dtype}"
        raise op_error(DTypeError, "destination", got, wanted, user_line())
    if target.ndim != result.ndim or not all(map(same, shape_of(target), shape_of(result))):
        got, wanted = describe(target), f"the shape of {describe(result)}"
        raise op_error(ShapeError, "destination", got, wanted, user_line())


# ------------------------------------------------------------------------------------ references


def reduced(arrays: Arrays, reduction: str) -> Any:
    """The ranks' arrays reduced in the order of the ranks."""
    combine: dict[str, Callable[[Any, Any], Any]] = {
        "prod": np.multiply, "min": np.minimum, "max": np.maximum,
    }  # fmt: skip
    out = arrays[0].copy()
    for array in arrays[1:]:
        out = combine.get(reduction, np.add)(out, array)
    return out / len(arrays) if reduction == "avg" else out


OVER_RANKS: dict[str, Callable[..., list[Any]]] = {
    "all_reduce": lambda xs, reduction: [reduced(xs, reduction)] * len(xs),
    "reduce_to": lambda xs, reduction, root: [
        reduced(xs, reduction) if r == root else np.zeros_like(x) for r, x in enumerate(xs)
    ],
    "broadcast": lambda xs, root: [xs[root]] * len(xs),
    "all_gather": lambda xs: [np.concatenate(xs)] * len(xs),
    "reduce_scatter": lambda xs, reduction: np.split(reduced(xs, reduction), len(xs)),
    "all_to_all": lambda xs: [
        np.concatenate(parts) for parts in zip(*(np.split(x, len(xs)) for x in xs), strict=True)
    ],
}
"""What each rank gets, from the list of what each gives."""


def gathered(x: Any, group: str, ranks: int) -> tuple[int, list[Any]]:
    """This process's rank, and the arrays of all ranks."""
    if ranks == 1:
        return 0, [x]
    given = np.ascontiguousarray(x)
    there = _runtime.communicator(group)
    taken = np.empty((ranks, given.nbytes), np.uint8)
    bytes_ = given.reshape(-1).view(np.uint8)
    there.run("all_gather", count=given.nbytes, given=bytes_.data, taken=taken.data)
    return there.rank, [row.view(given.dtype).reshape(x.shape) for row in taken]


def reference_of(verb: str) -> Callable[..., Any]:
    """The reference of a collective: all ranks' arrays are gathered, and each takes its own."""

    def reference(turn: Any, x: Any, *, group: str, ranks: int, **attrs: Any) -> Any:
        rank, arrays = gathered(x, group, ranks)
        return turn, OVER_RANKS[verb](arrays, **attrs)[rank]

    return reference


def message(verb: str, **names: str) -> Callable[..., Message]:
    """The meaning of a collective, whose attributes are these fields of its Message."""

    def meaning(turn: TensorType, x: TensorType, *, group: str, ranks: int, **attrs: Any) -> Any:
        fields = {field: attrs[name] for field, name in names.items()}
        return Message(group, ranks, verb, x.dtype, x.numel, **fields)

    return meaning


# ------------------------------------------------------------------------------------- reductions


def _same_types(turn: TensorType, x: TensorType, **_: Any) -> tuple[TensorType, ...]:
    return turn, x


def no_gradient(op: str, reduction: str, remedy: str) -> ArgumentError:
    got = f"a gradient through {reduction!r}"
    return op_error(ArgumentError, op, got, "'sum' or 'avg'", user_line(), remedy)


def _all_reduce_vjp(
    g: Any, y: Any, turn: Tensor, x: Tensor, *, group: str, ranks: int, reduction: str
) -> tuple[None, Tensor]:
    there = groups.named(group)
    if reduction in ("sum", "avg"):
        return None, all_reduce(g[1], reduction, there)
    if reduction == "prod":
        raise no_gradient("all_reduce", reduction, "take the product of all_gather(x)")
    at = equal(x, y[1]).astype(x.dtype)
    return None, at * all_reduce(g[1], "sum", there) / all_reduce(at, "sum", there)


def some(*shape: int) -> Any:
    """Random float32 elements, for samples of what floats alone can do."""
    return np.random.default_rng(0).uniform(-2, 2, shape).astype(np.float32)


@primitive(
    Kind.COLLECTIVE,
    infer=_same_types,
    meaning=message("all_reduce", reduction="reduction"),
    reference=reference_of("all_reduce"),
    vjp=_all_reduce_vjp,
    takes=NUMERIC,
    samples=lambda: [
        Sample(((3, 37),)), Sample(((),)),
        Sample(((0, 3),)), Sample((some(5),), {"reduction": "avg"}),
        Sample(((2, 5),), {"reduction": "max"}),
    ],
)  # fmt: skip
def all_reduce(x: Tensor, /, reduction: str = "sum", group: Group | None = None) -> Tensor:
    """All ranks' tensors of one shape, reduced element by element; every rank gets the same bits.

    `reduction` is sum, prod, min, max or avg; truth values take min (all) and max (any). 16-bit
    floats are reduced in float32. Gradients pass through all but prod.
    """
    x = checked("all_reduce", x, reduction)
    (out,) = take_turn(op_of(all_reduce), group_or_default(group), x, reduction=reduction)
    return out


def _reduce_vjp(
    g: Any, y: Any, turn: Tensor, x: Tensor, *, group: str, ranks: int, reduction: str, root: int
) -> tuple[None, Tensor]:
    if reduction not in ("sum", "avg"):
        raise no_gradient("reduce_to", reduction, "use all_reduce")
    out = broadcast(g[1], root, groups.named(group))
    return None, out / ranks if reduction == "avg" else out


@primitive(
    Kind.COLLECTIVE,
    infer=_same_types,
    meaning=message("reduce", reduction="reduction", peer="root"),
    reference=reference_of("reduce_to"),
    vjp=_reduce_vjp,
    takes=NUMERIC,
    samples=lambda: [Sample(((3, 37),)), Sample(((),)), Sample(((0, 3),))],
)
def reduce_to(
    x: Tensor, /, root: int = 0, reduction: str = "sum", group: Group | None = None
) -> Tensor:
    """As all_reduce, but the root alone gets the result; other ranks get zeros."""
    group = group_or_default(group)
    x = checked("reduce_to", x, reduction)
    refuse_rank("reduce_to", group, root)
    (out,) = take_turn(op_of(reduce_to), group, x, reduction=reduction, root=root)
    return out


def _split_types(op: str) -> Callable[..., tuple[TensorType, ...]]:
    def infer(turn: TensorType, x: TensorType, *, ranks: int, **_: Any) -> tuple[TensorType, ...]:
        rows = quotient(x.shape[0], ranks) if x.rank else 0
        if not x.rank or not same(times(rows, ranks), x.shape[0]):
            wanted = f"as many rows, along the first axis, for each of {ranks} ranks"
            raise op_error(ShapeError, op, x, wanted, user_line())
        return turn, x if op == "all_to_all" else tensor_type(x.dtype, (rows, *x.shape[1:]))

    return infer


def _reduce_scatter_vjp(
    g: Any, y: Any, turn: Tensor, x: Tensor, *, group: str, ranks: int, reduction: str
) -> tuple[None, Tensor]:
    if reduction not in ("sum", "avg"):
        raise no_gradient("reduce_scatter", reduction, "use all_reduce, and take the rows")
    out = all_gather(g[1], groups.named(group))
    return None, out / ranks if reduction == "avg" else out


@primitive(
    Kind.COLLECTIVE,
    infer=_split_types("reduce_scatter"),
    meaning=message("reduce_scatter", reduction="reduction"),
    reference=reference_of("reduce_scatter"),
    vjp=_reduce_scatter_vjp,
    takes=NUMERIC,
    samples=lambda: [
        Sample(((3, 37),)), Sample(((0, 3),)), Sample((some(5),), {"reduction": "avg"}),
    ],
)  # fmt: skip
def reduce_scatter(x: Tensor, /, reduction: str = "sum", group: Group | None = None) -> Tensor:
    """All ranks' tensors reduced, of which each rank gets its part along the first axis.

    Raises ShapeError unless there are as many rows for each rank.
    """
    x = checked("reduce_scatter", x, reduction)
    (out,) = take_turn(op_of(reduce_scatter), group_or_default(group), x, reduction=reduction)
    return out


# --------------------------------------------------------------------------------- what only moves


@primitive(
    Kind.COLLECTIVE,
    infer=_same_types,
    meaning=message("broadcast", peer="root"),
    reference=reference_of("broadcast"),
    vjp=lambda g, y, turn, x, *, group, ranks, root: (
        None, reduce_to(g[1], root, "sum", groups.named(group)),
    ),
    takes=ALL,
    samples=lambda: [Sample(((3, 37),)), Sample(((),)), Sample(((0, 3),))],
)  # fmt: skip
def broadcast(x: Tensor, /, root: int = 0, group: Group | None = None) -> Tensor:
    """The root's tensor, on every rank. Of other ranks only the type of x counts."""
    group = group_or_default(group)
    x = checked("broadcast", x)
    refuse_rank("broadcast", group, root)
    (out,) = take_turn(op_of(broadcast), group, x, root=root)
    return out


def _gathered_types(turn: TensorType, x: TensorType, *, ranks: int, **_: Any) -> Any:
    if not x.rank:
        remedy = "x.reshape(1) has one"
        raise op_error(ShapeError, "all_gather", x, "at least one axis", user_line(), remedy)
    return turn, tensor_type(x.dtype, (times(x.shape[0], ranks), *x.shape[1:]))


@primitive(
    Kind.COLLECTIVE,
    infer=_gathered_types,
    meaning=message("all_gather"),
    reference=reference_of("all_gather"),
    vjp=lambda g, y, turn, x, *, group, ranks: (
        None, reduce_scatter(g[1], "sum", groups.named(group)),
    ),
    takes=ALL,
    samples=lambda: [Sample(((3, 37),)), Sample(((5,),)), Sample(((0, 3),))],
)  # fmt: skip
def all_gather(x: Tensor, /, group: Group | None = None) -> Tensor:
    """All ranks' tensors of one shape, one after the other along the first axis.

    Raises ShapeError for a tensor without axes.
    """
    (out,) = take_turn(op_of(all_gather), group_or_default(group), checked("all_gather", x))
    return out


def _all_to_all_vjp(
    g: Any, y: Any, turn: Tensor, x: Tensor, *, group: str, ranks: int
) -> tuple[None, Tensor]:
    return None, all_to_all(g[1], groups.named(group))


@primitive(
    Kind.COLLECTIVE,
    infer=_split_types("all_to_all"),
    meaning=message("all_to_all"),
    reference=reference_of("all_to_all"),
    vjp=_all_to_all_vjp,
    takes=ALL,
    samples=lambda: [Sample(((3, 37),)), Sample(((5,),)), Sample(((0, 3),))],
)
def all_to_all(x: Tensor, /, group: Group | None = None) -> Tensor:
    """Part i of x, along the first axis, goes to rank i; what comes is in the order of the ranks.

    Raises ShapeError unless there are as many rows for each rank.
    """
    (out,) = take_turn(op_of(all_to_all), group_or_default(group), checked("all_to_all", x))
    return out


def _exchange_types(
    turn: TensorType, x: TensorType, *, source: int, **_: Any
) -> tuple[TensorType, ...]:
    return turn, x if source >= 0 else tensor_type(x.dtype, ())


def _exchange_reference(
    turn: Any, x: Any, *, group: str, ranks: int, peer: int, source: int
) -> tuple[Any, Any]:
    given = np.ascontiguousarray(x).reshape(x.shape)
    taken = np.zeros(given.shape if source >= 0 else (), given.dtype)
    if ranks == 1:
        return turn, given if source >= 0 else taken
    _runtime.communicator(group).run(
        "exchange", peer=peer, source=source, count=given.nbytes,
        given=given.reshape(-1).view(np.uint8).data, taken=taken.reshape(-1).view(np.uint8).data,
    )  # fmt: skip
    return turn, taken


def _exchange_vjp(
    g: Any, y: Any, turn: Tensor, x: Tensor, *, group: str, ranks: int, peer: int, source: int
) -> tuple[None, Tensor]:
    there = groups.named(group)
    if source < 0:  # nothing came, so g is a number, and x only says what the cotangent is like
        return None, exchange(x, -1, peer, there)
    back = exchange(g[1], source, peer, there)
    return None, back if peer >= 0 else expanded(back, shape_of(x))


@primitive(
    Kind.COLLECTIVE,
    infer=_exchange_types,
    meaning=message("exchange", peer="peer", source="source"),
    reference=_exchange_reference,
    vjp=_exchange_vjp,
    takes=ALL,
    samples=lambda: [Sample(((3, 37),)), Sample(((),)), Sample(((0, 3),))],
)
def exchange(x: Tensor, /, peer: int = 0, source: int = 0, group: Group | None = None) -> Tensor:
    """Gives x to the rank `peer`, and what the rank `source` gives, which is like x; -1: nobody.

    From nobody comes a 0, without axes: through it, or through the x of who gives nothing, the
    gradient finds its way back. The two ranks must name each other.
    """
    group = group_or_default(group)
    x = checked("exchange", x)
    alone = peer != source
    for rank in (peer, source):
        if rank != -1:
            refuse_rank("exchange", group, rank, others_only=alone)
    if peer == source == -1:
        got = "nobody to give to or to take from"
        raise op_error(ArgumentError, "exchange", got, "a rank", user_line())
    (out,) = take_turn(op_of(exchange), group, x, peer=peer, source=source)
    return out


def send(x: Tensor, /, peer: int, group: Group | None = None) -> Tensor:
    """Gives x to a rank, which calls recv. Returns a 0 that carries the gradient: add it to the
    loss, or call backward on it, and the receiver's cotangent comes back.
    """
    return exchange(x, peer, -1, group)


def recv(like: Tensor, /, source: int, group: Group | None = None) -> Tensor:
    """What a rank sends, of the shape and dtype of `like`. Where `like` requires gradients, so does
    the result, and its cotangent goes back to the sender.
    """
    return exchange(like, -1, source, group)


def _barrier_message(turn: TensorType, *, group: str, ranks: int) -> Message:
    return Message(group, ranks, "barrier", turn.dtype, 0)


def _barrier_reference(turn: Any, *, group: str, ranks: int) -> Any:
    if ranks > 1:
        _runtime.communicator(group).run("barrier")
    return turn


@primitive(
    Kind.COLLECTIVE,
    infer=lambda turn, **_: (turn,),
    meaning=_barrier_message,
    reference=_barrier_reference,
    takes=(uint8,),
    samples=lambda: [Sample(())],
)
def barrier(group: Group | None = None) -> None:
    """Waits until every rank of the group has come here."""
    take_turn(op_of(barrier), group_or_default(group))
