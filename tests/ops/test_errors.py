"""Bad arguments: the error names the op, what it got and wanted, the user's line and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek.errors import ArgumentError, DeepseekError, DTypeError, ShapeError

X = ds.ones(2, 3)
I = ds.ones(2, 3, dtype=ds.int64)  # noqa: E741
B = I > 0

CASES: list[tuple[Callable[[], Any], type[DeepseekError], str, str]] = [
    (lambda: X + ds.ones(4), ShapeError, "add", "shapes that broadcast"),
    (lambda: ds.exp([1.0]), ArgumentError, "exp", "ds.asarray"),
    (lambda: ds.exp("a"), ArgumentError, "exp", "a tensor, a NumPy array or a number"),
    (lambda: ds.add(X), ArgumentError, "add", "got 1 arguments; wanted 2"),
    (lambda: -B, DTypeError, "negative", "numbers, not truth values"),
    (lambda: X & X, DTypeError, "bitwise_and", "one of bool, int8"),
    (lambda: I**-1, ArgumentError, "pow", "an exponent that is not negative"),
    (lambda: X.sum(axis=2), ShapeError, "sum", "axis 2; wanted -2 <= axis < 2"),
    (lambda: X.sum(axis=(0, 0)), ShapeError, "sum", "each axis once"),
    (lambda: ds.zeros(0, 3).max(axis=0), ShapeError, "max", "at least one element"),
    (lambda: ds.zeros(0).argmin(), ShapeError, "argmin", "at least one element"),
    (lambda: X.cumulative_sum(), ShapeError, "cumulative_sum", "pass axis=..."),
    (lambda: X.reshape(4, 2), ShapeError, "reshape", "a shape of 6 elements"),
    (lambda: X.reshape(-1, -1), ShapeError, "reshape", "at most one -1"),
    (lambda: X.permute_dims((0, 0)), ShapeError, "permute_dims", "each of its axes once"),
    (lambda: X.squeeze(0), ShapeError, "squeeze", "an axis of size 1"),
    (lambda: ds.ones(2).T, ShapeError, "T", "x.mT"),
    (lambda: X.broadcast_to((3, 2)), ShapeError, "broadcast_to", "whose last sizes equal"),
    (lambda: ds.concat([X, ds.ones(2, 2, 3)]), ShapeError, "concat", "differ at axis 0 only"),
    (lambda: ds.concat([]), ShapeError, "concat", "at least one tensor"),
    (lambda: X.pad((1,)), ShapeError, "pad", "a pair for each axis"),
    (lambda: X.pad((0, -4)), ShapeError, "pad", "sizes that are not negative"),
    (lambda: X.pad((0, 3), mode="reflect"), ShapeError, "pad", "at most 2 of an axis of size 3"),
    (lambda: X.pad((4, 0), mode="circular"), ShapeError, "pad", "at most 3"),
    (lambda: X.pad((1, 1), mode="edge", value=1), ArgumentError, "pad", "neither"),
    (lambda: X.split([1, 2]), ShapeError, "split", "sizes that add up to 2"),
    (lambda: X.take([6]), ShapeError, "take", "-6 <= index < 6"),
    (lambda: X.take(np.array([0, -3]), axis=0), ShapeError, "take", "index -3 for an axis"),
    (lambda: X.scatter(0, [[2]], 1), ShapeError, "scatter", "-2 <= index < 2"),
    (lambda: X.scatter(0, I, X, reduce="max"), ArgumentError, "scatter", "'amax'"),
    (lambda: X.index_add(1, I, X), ShapeError, "index_add", "an index of one axis"),
    (lambda: X.masked_fill(X, 0), DTypeError, "masked_fill", "truth values"),
    (lambda: X.take(X, axis=0), DTypeError, "take", "integer indices"),
    (lambda: ds.ones(0).take(I, axis=0), ShapeError, "take", "elements on axis 0"),
    (lambda: ds.take_along_axis(X, I[:, :2], axis=0), ShapeError, "take_along_axis",
     "differ at axis 0 only"),
    (lambda: X.scatter_add(0, I, X[:1]), ShapeError, "scatter_add", "of one shape"),
    (lambda: X @ X, ShapeError, "matmul", "(..., m, k) and (..., k, n)"),
    (lambda: ds.ones(2, 3, 4) @ ds.ones(3, 4, 5), ShapeError, "matmul",
     "leading axes that broadcast"),
    (lambda: B @ B.T, DTypeError, "matmul", "numbers, not truth values"),
    (lambda: ds.conv2d(X, X), ShapeError, "conv2d", "(batch, channels, 2 sizes)"),
    (lambda: ds.conv1d(ds.ones(1, 3, 8), ds.ones(4, 2, 3)), ShapeError, "convolution",
     "channels in"),
    (lambda: ds.conv1d(ds.ones(1, 2, 2), ds.ones(4, 2, 3)), ShapeError, "convolution",
     "as large as"),
    (lambda: ds.conv1d(ds.ones(1, 2, 8), ds.ones(4, 2, 3), stride=0), ArgumentError, "conv1d",
     "stride=0"),
    (lambda: ds.conv1d(ds.ones(1, 2, 8), ds.ones(4, 2, 3), stride=2, padding="same"), ArgumentError,
     "conv1d", "stride 1"),
    (lambda: ds.max_pool2d(ds.ones(1, 1, 4, 4), 5), ShapeError, "windows", "windows that fit"),
    (lambda: ds.max_pool2d(ds.ones(1, 1, 4, 4), 2, padding=2), ArgumentError, "max_pool2d", "half"),
    (lambda: ds.layer_norm(X, (2,)), ShapeError, "layer_norm", "the sizes of its last axes"),
    (lambda: ds.batch_norm(X, None, None), ArgumentError, "batch_norm", "training=True"),
    (lambda: ds.batch_norm(ds.ones(1, 3), None, None, training=True), ShapeError, "batch_norm",
     "more than one value"),
    (lambda: ds.batch_norm(X, None, None, ds.ones(5), training=True), ShapeError, "batch_norm",
     "one number for each channel"),
    (lambda: ds.cat(X, X), ArgumentError, "concat", "axis float32[2, 3]"),
    (lambda: ds.cat([X, X[:, :2]]), ShapeError, "cat", "differ at axis 0 only"),
    (lambda: ds.concatenate([X, X[:, :2]]), ShapeError, "concatenate", "differ at axis 0 only"),
    (lambda: ds.stack([X, X[:, :2]]), ShapeError, "stack", "one shape"),
    (lambda: ds.hstack([X, X[:1]]), ShapeError, "hstack", "differ at axis 1 only"),
    (lambda: ds.vstack([X, X[:, :2]]), ShapeError, "vstack", "differ at axis 0 only"),
    (lambda: ds.dstack([X, X[:1]]), ShapeError, "dstack", "differ at axis 2 only"),
    (lambda: ds.column_stack([X, X[:1]]), ShapeError, "column_stack", "differ at axis 1 only"),
    (lambda: ds.hstack(3), ArgumentError, "hstack", "put the tensors into one list"),
    (lambda: ds.concat(3), ArgumentError, "concat", "a list of tensors"),
    (lambda: ds.stack(None), ArgumentError, "stack", "a list of tensors"),
    (lambda: ds.vstack([]), ShapeError, "vstack", "at least one tensor"),
    (lambda: ds.quantile(X[:, :0], 0.5, 1), ArgumentError, "quantile", "one at least"),
    (lambda: ds.slice_update(X, X, start=(0, 1)), ShapeError, "slice_update", "places that"),
    (lambda: ds.slice_update(X, X[:, :2], start=(0, -1)), ShapeError, "slice_update", "places"),
    (lambda: ds.slice_update(X, X[0], start=(0,)), ShapeError, "slice_update", "places that"),
    (lambda: ds.ones(1, dtype=ds.uint64) + ds.ones(1, dtype=ds.int64), DTypeError, "add",
     "uint64 and int64"),
    (lambda: ds.cross_entropy(X, I), ShapeError, "cross_entropy", "integer classes"),
    (lambda: ds.mse_loss(X, X, reduction="max"), ArgumentError, "mse_loss",
     "'none', 'mean' or 'sum'"),
    (lambda: ds.dropout(X, 2), ArgumentError, "dropout", "a probability"),
    (lambda: ds.gelu(X, approximate="x"), ArgumentError, "gelu", "'none' or 'tanh'"),
    (lambda: ds.linear(X, ds.ones(4, 2)), ShapeError, "linear", "a weight (out, in)"),
    (lambda: ds.softmax(X, 3), ShapeError, "softmax", "axis 3"),
    (lambda: ds.softmax(X), ArgumentError, "softmax", "dim"),
    (lambda: ds.inv(X), ShapeError, "inv", "square matrices"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "op", "said"), CASES)
def test_the_error_names_op_wanted_and_line(
    call: Callable[[], Any], kind: type[DeepseekError], op: str, said: str
) -> None:
    with pytest.raises(kind) as error:
        call()
    text = str(error.value)
    assert text.startswith(f"op '{op}'")
    assert said in text
    assert "; wanted " in text
    assert "at tests/ops/test_errors.py:" in text or "test_errors.py:" in text


def test_a_tensor_is_not_made_by_its_class() -> None:
    with pytest.raises(ArgumentError, match=r"ds.Tensor\(\[1.0\]\): .* ds.asarray"):
        ds.Tensor([1.0])


@pytest.mark.parametrize(
    ("look", "remedy"),
    [
        (lambda x: x.numpy(), "ds has NumPy's functions under their names"),
        (lambda x: np.sin(x), "ds has NumPy's functions under their names"),
        (lambda x: 1 if x.sum() > 0 else 2, "ds.where"),
        (lambda x: float(x.sum()), "ds.cond"),
    ],
)
def test_the_remedy_for_looking_at_values_that_are_traced(look: Any, remedy: str) -> None:
    with pytest.raises(ds.errors.TraceError, match=remedy):
        ds.jit(look)(X)
