"""Connectionist temporal classification (Graves et al., 2006): the loss of a sequence of labels
without a place in time.

In flow log-probabilities (time, batch, classes), labels, and how much of each counts; out flows
-log P(labels). A scan over time carries, for every place in the labels with blanks between them,
the log of the probability of having come so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, DTypeError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, state
from deepseek.ir.dtype import int64
from deepseek.ir.op import Sample
from deepseek.ir.shape import Size, same
from deepseek.ops.activation import floating, widened
from deepseek.ops.control import scan
from deepseek.ops.create import arange, full
from deepseek.ops.define import (
    as_tensor,
    composite,
    converted,
    describe,
    expanded,
    filled,
    is_size,
    minus,
    shape_of,
    times,
)
from deepseek.ops.elementwise import logical_and, maximum, minimum, where
from deepseek.ops.index import take, take_along_axis
from deepseek.ops.loss import REDUCTIONS, reduced_loss, reduced_reference
from deepseek.ops.slicing import narrow
from deepseek.ops.transcendental import logaddexp
from deepseek.ops.view import concat, stack

__all__ = ["ctc_loss"]

# The log of what is impossible: finite, so that no difference of two of them is NaN.
IMPOSSIBLE = -1e30

Lengths = Tensor | Sequence[int]


def _paths(labels: Any, blank: int, time: int) -> Any:
    """Every sequence of classes of length `time` that reads as the labels, for the reference."""
    extended = [blank]
    for label in labels:
        extended += [label, blank]
    found = [[0]]
    if len(extended) > 1:
        found.append([1])
    if time == 0:
        return [[]] if len(labels) == 0 else []
    for _ in range(time - 1):
        longer = []
        for path in found:
            at = path[-1]
            longer += [[*path, at], [*path, at + 1]]
            if at + 2 < len(extended) and extended[at + 2] not in (blank, extended[at]):
                longer.append([*path, at + 2])
        found = [p for p in longer if p[-1] < len(extended)]
    return [[extended[s] for s in p] for p in found if p[-1] >= len(extended) - 2]


def _ctc_reference(
    log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any, blank: int,
    reduction: str, zero_infinity: bool,
) -> Any:  # fmt: skip
    """The sum over all paths, one by one."""
    losses = np.zeros(log_probs.shape[1], log_probs.dtype)
    for n in range(len(losses)):
        time, count = int(input_lengths[n]), int(target_lengths[n])
        paths = _paths(targets[n, :count].tolist(), blank, time)
        total = sum(np.exp(log_probs[np.arange(time), n, path].sum()) for path in paths)
        losses[n] = -np.log(total) if total else (0 if zero_infinity else np.inf)
    if reduction == "mean":
        losses = losses / np.maximum(target_lengths, 1).astype(losses.dtype)
    return reduced_reference(losses, reduction)


def _samples() -> list[Sample]:
    labels = np.array([[1, 2, 2], [3, 1, 0], [2, 0, 0]])
    times_, counts = np.array([6, 5, 4]), np.array([3, 2, 1])
    plain: dict[str, Any] = {"blank": 0, "zero_infinity": False}
    made = [
        Sample(((6, 3, 4), labels, times_, counts), plain | {"reduction": r}, low=-3.0, high=-0.5)
        for r in REDUCTIONS
    ]
    late = plain | {"blank": 3, "reduction": "mean"}
    short = {"blank": 0, "zero_infinity": True, "reduction": "none"}
    none = np.zeros((2, 0), np.int64)
    made += [
        Sample(((5, 2, 4), np.array([[0, 1], [2, 2]], np.int32), np.array([5, 4], np.int32),
                np.array([2, 1], np.int32)), late, low=-3.0, high=-0.5),
        Sample(((3, 3, 4), labels, np.array([3, 3, 0]), counts), short, low=-3.0, high=-0.5),
        Sample(((3, 2, 4), none, np.array([3, 0]), np.array([0, 0])), short, low=-3.0, high=-0.5),
    ]  # fmt: skip
    return made


@composite(reference=_ctc_reference, samples=_samples, tolerance=64, precision="high")
def ctc_loss_(
    log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank: int,
    reduction: str, zero_infinity: bool,
) -> Tensor:  # fmt: skip
    """-log P(labels) of log_probs (time, batch, classes) and targets (batch, labels)."""
    counts = converted(target_lengths, int64)
    labels = _with_blanks(converted(targets, int64), blank)
    scores, skips = _scores(widened(log_probs), labels), _may_skip(labels, blank)
    batch, places = shape_of(labels)
    before = full((batch, minus(places, 1)), IMPOSSIBLE, dtype=scores.dtype)
    start = concat([full((batch, 1), 0, dtype=scores.dtype), before], axis=1)
    steps = arange(shape_of(scores)[0]).reshape((-1, 1, 1))
    going = steps < converted(input_lengths, int64).reshape((1, -1, 1))

    def step(reached: Tensor, row: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[()]]:
        score, here = row
        moved = logaddexp(reached, _shifted(reached, 1))
        moved = logaddexp(moved, where(skips, _shifted(reached, 2), IMPOSSIBLE)) + score
        return where(here, maximum(moved, IMPOSSIBLE), reached), ()

    reached, _ = scan(step, start, (scores, going))
    end = (counts * 2).reshape((-1, 1))
    at_blank = take_along_axis(reached, end, axis=1)
    at_label = take_along_axis(reached, maximum(end - 1, 0), axis=1)
    total = logaddexp(at_blank, where(end > 0, at_label, IMPOSSIBLE)).reshape((-1,))
    missed = 0.0 if zero_infinity else float("inf")
    losses = where(total > IMPOSSIBLE / 2, -total, missed)
    if reduction == "mean":
        losses = losses / converted(maximum(counts, 1), losses.dtype)
    return converted(reduced_loss(losses, reduction, "ctc_loss"), log_probs.dtype)


def _with_blanks(labels: Tensor, blank: int) -> Tensor:
    """Labels (batch, n) with blanks before, between and behind them: (batch, 2 n + 1)."""
    batch, count = shape_of(labels)
    blanks = full((batch, count), blank, dtype=int64)
    pairs = stack([blanks, labels], axis=2).reshape((batch, times(count, 2)))
    return concat([pairs, full((batch, 1), blank, dtype=int64)], axis=1)


def _scores(log_probs: Tensor, labels: Tensor) -> Tensor:
    """The log-probability of each place's label at each time: (time, batch, places)."""
    time = shape_of(log_probs)[0]
    column = labels.reshape((1, *shape_of(labels)))
    places = expanded(column, (time, *shape_of(labels)))
    return maximum(take_along_axis(log_probs, places, axis=2), IMPOSSIBLE)


def _may_skip(labels: Tensor, blank: int) -> Tensor:
    """Whether a place can be reached from the last but one: past a blank to another label."""
    other = labels != _shifted(labels, 2, blank)
    return logical_and(labels != blank, other)


def _shifted(x: Tensor, by: int, fill: float = IMPOSSIBLE) -> Tensor:
    """Each row of x moved to the right."""
    batch, places = shape_of(x)
    front = full((batch, by), fill, dtype=x.dtype)
    return narrow(concat([front, x], axis=1), 1, 0, places)


# ---------------------------------------------------------------------------------- its arguments


def ctc_loss(
    log_probs: Tensor, targets: Tensor, input_lengths: Lengths, target_lengths: Lengths,
    blank: int = 0, reduction: str = "mean", zero_infinity: bool = False,
) -> Tensor:  # fmt: skip
    """-log P(labels): the probability of all ways to write the labels, repeated and with blanks.

    `log_probs` are (time, batch, classes), the logs of probabilities; `targets` are classes other
    than `blank`, (batch, labels), or one vector with those of all samples, each of its length.
    `input_lengths` and `target_lengths` (batch) say how much of each counts. Without a batch
    log_probs are (time, classes). "mean" divides each loss by the number of its labels first.
    `zero_infinity` makes losses 0 where the labels do not fit into the time, which are infinite.

    The gradient is that of the formula; PyTorch's is the same once it has passed through a
    log_softmax. Inside `@ds.jit` pass targets (batch, labels): the length of the longest one is not
    known there, so that one vector of them takes more work.

    Raises ShapeError, DTypeError and ArgumentError where the arguments do not fit each other.

    >>> logs = ds.log_softmax(ds.zeros((2, 1, 3)), -1)  # 3 of the 9 ways to write a 1
    >>> round(ds.ctc_loss(logs, ds.asarray([[1]]), [2], [1]).exp().item(), 4)
    3.0
    """
    op = "ctc_loss"
    log_probs, targets = floating(as_tensor(log_probs, op)), as_tensor(targets, op)
    if reduction not in REDUCTIONS:
        known = ", ".join(map(repr, REDUCTIONS))
        raise op_error(ArgumentError, op, f"reduction={reduction!r}", known, user_line())
    if log_probs.ndim not in (2, 3):
        got, wanted = describe(log_probs), "(time, batch, classes) or (time, classes)"
        raise op_error(ShapeError, op, got, wanted, user_line())
    if not targets.dtype.is_integer:
        raise op_error(DTypeError, op, f"targets {describe(targets)}", "integers", user_line())
    alone = log_probs.ndim == 2
    if alone:
        log_probs = log_probs[:, None]
        targets = targets if targets.ndim == 2 else targets.reshape((1, -1))
    time, batch, classes = shape_of(log_probs)
    if isinstance(classes, int) and not 0 <= blank < classes:
        raise op_error(ArgumentError, op, f"blank={blank}", f"a class of {classes}", user_line())
    inputs = _lengths("input_lengths", input_lengths, batch, time)
    longest = shape_of(targets)[-1] if targets.ndim else 0
    counts = _lengths("target_lengths", target_lengths, batch, longest)
    if targets.ndim == 1:
        targets = _padded(targets, counts, target_lengths)
    elif targets.ndim != 2 or not same(shape_of(targets)[0], batch):
        got, wanted = f"targets {describe(targets)}", f"({batch}, labels), or a vector"
        raise op_error(ShapeError, op, got, wanted, user_line())
    out: Tensor = ctc_loss_(
        log_probs, targets, inputs, counts, int(blank), reduction, bool(zero_infinity)
    )
    return out[0] if alone and reduction == "none" else out


def _known(lengths: Any) -> Any:
    """Lengths as an array where their values can be had."""
    if not isinstance(lengths, Tensor):
        return np.asarray(lengths)
    return None if state.trace is not None else lengths.numpy()


def _lengths(name: str, given: Lengths, batch: Size, most: Size) -> Tensor:
    """Lengths as a vector of int64, one for each sample. Raises."""
    values = _known(given)
    if values is not None and not isinstance(given, Tensor) and not values.size:
        values = values.astype(np.int64)
    lengths = as_tensor(values if not isinstance(given, Tensor) else given, "ctc_loss")
    if not lengths.dtype.is_integer:
        got = f"{name} {describe(lengths)}"
        raise op_error(DTypeError, "ctc_loss", got, "integers", user_line())
    lengths = lengths.reshape((-1,))
    if not same(shape_of(lengths)[0], batch):
        got, wanted = f"{name} {describe(lengths)}", f"one for each of {batch} samples"
        raise op_error(ShapeError, "ctc_loss", got, wanted, user_line())
    if values is not None and values.size and isinstance(most, int):
        wrong = values[(values < 0) | (values > most)]
        if wrong.size:
            got = f"{name} with {wrong.flat[0]}"
            raise op_error(ArgumentError, "ctc_loss", got, f"0 to {most}", user_line())
    return converted(lengths, int64)


def _padded(targets: Tensor, counts: Tensor, given: Lengths) -> Tensor:
    """The labels of all samples, one after the other, as (batch, labels)."""
    values = _known(given)
    total = shape_of(targets)[0]
    if values is not None and isinstance(total, int) and values.sum() > total:
        got = f"target_lengths that sum to {values.sum()} and targets {describe(targets)}"
        raise op_error(ArgumentError, "ctc_loss", got, "as many targets", user_line())
    longest: Any = total if values is None else int(values.max(initial=0))
    if is_size(total, 0) or is_size(longest, 0):
        return full((shape_of(counts)[0], 0), 0, dtype=int64)
    starts = (counts.cumulative_sum(axis=0) - counts).reshape((-1, 1))
    places = minimum(starts + arange(longest), filled((), minus(total, 1), int64))
    return take(targets, places, axis=0)
