"""Collectives as PyTorch has them: the tensor that is passed in shows the result afterwards.

`tensor` may be a leaf that requires gradients, such as a parameter: it stays one, and no gradient
passes through. Where it was computed, gradients pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from deepseek.distributed.context import done
from deepseek.distributed.process_group import group_of, run_recorded
from deepseek.errors import ArgumentError
from deepseek.frontend.tensor import Tensor
from deepseek.ops import collective
from deepseek.ops.groups import Group
from deepseek.ops.view import concat


class ReduceOp(StrEnum):
    """How the ranks' elements are combined.

    >>> ds.distributed.ReduceOp.SUM == "sum"
    True
    """

    SUM = "sum"
    PRODUCT = "prod"
    MIN = "min"
    MAX = "max"
    AVG = "avg"


def all_reduce(tensor: Tensor, op: str = ReduceOp.SUM, group: Group | None = None) -> Tensor:
    """Let the tensor show all ranks' reduced; the same bits on every rank. Returns it.

    >>> ds.distributed.init_process_group()
    >>> ds.distributed.all_reduce(ds.asarray([1, 2]))
    tensor([1, 2])
    >>> ds.distributed.destroy_process_group()
    """
    return done(collective.all_reduce(tensor, str(op), group_of(group)), tensor)


def reduce(
    tensor: Tensor, dst: int, op: str = ReduceOp.SUM, group: Group | None = None
) -> Tensor:
    """Let the tensor show all ranks' reduced on rank `dst`, and zeros elsewhere. Returns it.

    >>> ds.distributed.init_process_group()
    >>> ds.distributed.reduce(ds.asarray([1, 2]), dst=0)
    tensor([1, 2])
    >>> ds.distributed.destroy_process_group()
    """
    return done(collective.reduce_to(tensor, dst, str(op), group_of(group)), tensor)


def broadcast(tensor: Tensor, src: int, group: Group | None = None) -> Tensor:
    """Let the tensor show that of rank `src`. Returns it.

    >>> ds.distributed.init_process_group()
    >>> ds.distributed.broadcast(ds.asarray([1, 2]), src=0)
    tensor([1, 2])
    >>> ds.distributed.destroy_process_group()
    """
    return done(collective.broadcast(tensor, src, group_of(group)), tensor)


def all_gather(
    tensor_list: Sequence[Tensor], tensor: Tensor, group: Group | None = None
) -> None:
    """Let the tensors of the list, one for each rank, show the ranks' tensors.

    >>> ds.distributed.init_process_group()
    >>> found = [ds.zeros(2)]
    >>> ds.distributed.all_gather(found, ds.asarray([1.0, 2.0]))
    >>> found
    [tensor([1., 2.])]
    >>> ds.distributed.destroy_process_group()
    """
    there = one_each("all_gather", tensor_list, group)
    rows = collective.all_gather(tensor.unsqueeze(0), there)
    for target, row in zip(tensor_list, rows, strict=True):
        done(row, target)


def all_gather_into_tensor(
    output_tensor: Tensor, input_tensor: Tensor, group: Group | None = None
) -> Tensor:
    """Let the output show all ranks' inputs, one after the other along the first axis.

    >>> ds.distributed.init_process_group()
    >>> ds.distributed.all_gather_into_tensor(ds.zeros(2), ds.asarray([1.0, 2.0]))
    tensor([1., 2.])
    >>> ds.distributed.destroy_process_group()
    """
    return done(collective.all_gather(input_tensor, group_of(group)), output_tensor)


def reduce_scatter(
    output: Tensor, input_list: Sequence[Tensor], op: str = ReduceOp.SUM,
    group: Group | None = None,
) -> Tensor:  # fmt: skip
    """Let the output show the sum of what all ranks have in this rank's place of their lists.

    >>> ds.distributed.init_process_group()
    >>> ds.distributed.reduce_scatter(ds.zeros(2), [ds.asarray([1.0, 2.0])])
    tensor([1., 2.])
    >>> ds.distributed.destroy_process_group()
    """
    there = one_each("reduce_scatter", input_list, group)
    rows = concat([t.unsqueeze(0) for t in input_list])
    found = collective.reduce_scatter(rows, str(op), there)
    return done(found.squeeze(0), output)


def reduce_scatter_tensor(
    output: Tensor, input: Tensor, op: str = ReduceOp.SUM,  # noqa: A002
    group: Group | None = None,
) -> Tensor:  # fmt: skip
    """Let the output show this rank's part, along the first axis, of all ranks' inputs reduced.

    >>> ds.distributed.init_process_group()
    >>> ds.distributed.reduce_scatter_tensor(ds.zeros(2), ds.asarray([1.0, 2.0]))
    tensor([1., 2.])
    >>> ds.distributed.destroy_process_group()
    """
    return done(collective.reduce_scatter(input, str(op), group_of(group)), output)


def all_to_all(
    output_tensor_list: Sequence[Tensor], input_tensor_list: Sequence[Tensor],
    group: Group | None = None,
) -> None:  # fmt: skip
    """Input i goes to rank i; output i shows what came from rank i. Sizes are equal everywhere.

    >>> ds.distributed.init_process_group()
    >>> found = [ds.zeros(2)]
    >>> ds.distributed.all_to_all(found, [ds.asarray([1.0, 2.0])])
    >>> found
    [tensor([1., 2.])]
    >>> ds.distributed.destroy_process_group()
    """
    there = one_each("all_to_all", input_tensor_list, group)
    one_each("all_to_all", output_tensor_list, group)
    rows = concat([t.unsqueeze(0) for t in input_tensor_list])
    for target, row in zip(output_tensor_list, collective.all_to_all(rows, there), strict=True):
        done(row, target)


def all_to_all_single(output: Tensor, input: Tensor, group: Group | None = None) -> Tensor:  # noqa: A002
    """Part i of the input, along the first axis, goes to rank i; the output shows what comes.

    >>> ds.distributed.init_process_group()
    >>> ds.distributed.all_to_all_single(ds.zeros(2), ds.asarray([1.0, 2.0]))
    tensor([1., 2.])
    >>> ds.distributed.destroy_process_group()
    """
    return done(collective.all_to_all(input, group_of(group)), output)


def send(tensor: Tensor, dst: int, group: Group | None = None) -> Tensor:
    """Give the tensor to rank `dst`, which calls recv. Returns a 0 that carries the gradient: add
    it to the loss, or call backward on it. Raises ArgumentError for this rank itself.

    >>> ds.distributed.init_process_group()
    >>> try:
    ...     ds.distributed.send(ds.zeros(2), dst=0)
    ... except ValueError as error:
    ...     print("another rank" in str(error))
    True
    >>> ds.distributed.destroy_process_group()
    """
    return done(collective.send(tensor, dst, group_of(group)))


def recv(tensor: Tensor, src: int, group: Group | None = None) -> Tensor:
    """Let the tensor show what rank `src` sends, which is of its shape and dtype. Returns it.

    Raises ArgumentError for this rank itself.

    >>> ds.distributed.init_process_group()
    >>> try:
    ...     ds.distributed.recv(ds.zeros(2), src=0)
    ... except ValueError as error:
    ...     print("another rank" in str(error))
    True
    >>> ds.distributed.destroy_process_group()
    """
    return done(collective.recv(tensor, src, group_of(group)), tensor)


def barrier(group: Group | None = None) -> None:
    """Wait until every rank has come here.

    >>> ds.distributed.init_process_group()
    >>> ds.distributed.barrier()
    >>> ds.distributed.destroy_process_group()
    """
    collective.barrier(group_of(group))
    run_recorded()


def one_each(name: str, tensors: Sequence[Tensor], group: Group | None) -> Group:
    """The group. Raises ArgumentError unless there is a tensor for each of its ranks."""
    there = group_of(group)
    if len(tensors) != there.size:
        raise ArgumentError(
            f"{name}: got a list of {len(tensors)} tensors; wanted one for each of the "
            f"{there.size} ranks"
        )
    return there
