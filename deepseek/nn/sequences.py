"""Sequences of different lengths as one padded tensor, and back: PyTorch's `nn.utils.rnn`.

Packed sequences have no counterpart: recurrent layers take padded batches and their lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepseek.errors import ArgumentError, ShapeError, unknown
from deepseek.frontend.tensor import Tensor
from deepseek.ops import pad, stack, swapaxes

__all__ = ["pad_sequence", "unpad_sequence"]

SIDES = ("right", "left")


def pad_sequence(
    sequences: Sequence[Tensor], batch_first: bool = False, padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:  # fmt: skip
    """Tensors (length, ...) as one: (longest, batch, ...), or with `batch_first` the first two
    axes the other way round.

    Raises ArgumentError for no tensors, ShapeError where they differ in more than their lengths.

    >>> ds.nn.utils.rnn.pad_sequence([ds.ones(3), ds.ones(1)], batch_first=True)
    tensor([[1., 1., 1.],
            [1., 0., 0.]])
    """
    if padding_side not in SIDES:
        raise unknown("padding_side", padding_side, SIDES)
    given = list(sequences)
    if not given:
        raise ArgumentError("pad_sequence: got no tensors; wanted one or more")
    if any(not t.ndim or t.shape[1:] != given[0].shape[1:] for t in given):
        types = ", ".join(str(t._value.type) for t in given)
        raise ShapeError(f"pad_sequence: got {types}; wanted shapes that differ in the first size")
    longest = max(t.shape[0] for t in given)
    padded = []
    for t in given:
        missing = longest - t.shape[0]
        ends = (0, missing) if padding_side == "right" else (missing, 0)
        padded.append(pad(t, (0, 0) * (t.ndim - 1) + ends, value=padding_value))
    return stack(padded, axis=0 if batch_first else 1)


def unpad_sequence(
    padded_sequences: Tensor, lengths: Any, batch_first: bool = False
) -> list[Tensor]:
    """The tensors (length, ...) that `pad_sequence` made one of, padded on the right.

    `lengths` are integers, or a tensor of them, whose values are looked at. Raises ShapeError
    unless there is one for each sequence.

    >>> padded = ds.asarray([[1, 2, 3], [4, 0, 0]])
    >>> [t.tolist() for t in ds.nn.utils.rnn.unpad_sequence(padded, [3, 1], batch_first=True)]
    [[1, 2, 3], [4]]
    """
    rows = padded_sequences if batch_first else swapaxes(padded_sequences, 0, 1)
    known = lengths.tolist() if isinstance(lengths, Tensor) else list(lengths)
    if len(known) != rows.shape[0]:
        raise ShapeError(
            f"unpad_sequence: got {len(known)} lengths and {padded_sequences._value.type}; "
            f"wanted one for each of {rows.shape[0]} sequences"
        )
    return [rows[i, : int(n)] for i, n in enumerate(known)]
