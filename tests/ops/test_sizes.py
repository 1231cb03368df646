"""Ops on symbolic sizes: one trace serves them all, and index maps of common views stay simple."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek.config import override
from deepseek.errors import ShapeError
from deepseek.frontend.tensor import Tensor
from deepseek.ir import scalar
from deepseek.ir.scalar import Expr
from deepseek.ops.view import reshaped_index

N, M = scalar.size_var("n"), scalar.size_var("m")

# (source shape, target shape) of reshapes that must not need a division for each element
PLAIN = [
    ((N, 3, 4), (N, 12), 1), ((N, 12), (N, 3, 4), 0), ((N, M), (N, 1, M), 0),
    ((N, 1, M), (N, M), 0), ((4, N, 6), (4, N, 2, 3), 0), ((N, M, 2, 3), (N, M, 6), 1),
    ((1, N), (N,), 0), ((8, 5), (8, 5, 1), 0),
]  # fmt: skip


def divisions(e: Expr) -> int:
    return sum(node.fn in ("floordiv", "mod") for node in scalar.walk([e]))


@pytest.mark.parametrize(("source", "target", "merged"), PLAIN, ids=repr)
def test_common_reshapes_need_no_division(source: Any, target: Any, merged: int) -> None:
    shapes = [tuple(scalar.as_expr(s) for s in shape) for shape in (source, target)]
    index = tuple(scalar.var(f"i{k}", low=0, extent=s) for k, s in enumerate(shapes[1]))
    found = reshaped_index(index, shapes[1], shapes[0])
    assert len(found) == len(source)
    assert sum(divisions(e) for e in found) <= 2 * merged
    if merged:  # only the axis that was split is divided
        assert divisions(found[0]) == 0


FUNCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "mean": lambda x: x.mean(axis=0),
    "var": lambda x: x.var(axis=(0, 1), correction=1),
    "argmax": lambda x: x.argmax(axis=0),
    "cumulative_sum": lambda x: x.cumulative_sum(axis=0),
    "softmax": lambda x: ds.softmax(x, 0),
    "log_softmax": lambda x: ds.log_softmax(x.reshape(-1, 6), 1),
    "layer_norm": lambda x: ds.layer_norm(x, (6,)),
    "reshape": lambda x: x.reshape(-1, 2, 3).permute_dims((1, 0, 2)).flatten(1),
    "concat": lambda x: ds.concat([x, x[:1], x * 2], axis=0),
    "stack": lambda x: ds.stack([x, x + 1], axis=1),
    "slice": lambda x: x[1:, ::2],
    "last": lambda x: x[-1] + x[0],
    "negative_step": lambda x: x[::-1],
    "flip": lambda x: ds.flip(x, 0),
    "pad": lambda x: x.pad(((1, 2), (0, 0)), value=3.0),
    "roll": lambda x: ds.roll(x, 1, 0),
    "take": lambda x: x.take(ds.asarray([0, -1, 1]), axis=0),
    "gather": lambda x: x.gather(1, x.argmax(axis=1, keepdims=True)),
    "scatter_add": lambda x: x.scatter_add(0, ds.zeros_like(x, dtype=ds.int64), x),
    "matmul": lambda x: x @ x.mT,
    "batched_matmul": lambda x: x.reshape(-1, 2, 3) @ x.reshape(-1, 3, 2),
    "attention": lambda x: ds.scaled_dot_product_attention(x, x, x, is_causal=True),
    "conv": lambda x: ds.conv1d(x.reshape(-1, 2, 3), ds.ones(4, 2, 2), padding=1),
    "conv_over": lambda x: ds.conv1d(x.mT.reshape(1, 6, -1), ds.ones(4, 6, 2), padding=1),
    "conv_transposed": lambda x: ds.conv_transpose1d(ds.ones(1, 6, 4), x.mT.reshape(6, 1, -1)),
    "heads": lambda x: ds.scaled_dot_product_attention(
        x.reshape(1, -1, 2, 3), ds.ones(1, 1, 4, 3), ds.ones(1, 1, 4, 5), enable_gqa=True
    ),
    "chunk": lambda x: ds.concat(ds.chunk(x, 2)[::-1]),
    "tensor_split": lambda x: ds.stack(ds.tensor_split(ds.concat([x, x]), 2)),
    "max_pool": lambda x: ds.max_pool1d(x.mT.reshape(1, 6, -1), 2, 1),
    "avg_pool": lambda x: ds.avg_pool1d(x.reshape(-1, 1, 6), 3, 2, 1, count_include_pad=False),
    "cross_entropy": lambda x: ds.cross_entropy(x, ds.arange(x.shape[0]) % 6),
    "batch_norm": lambda x: ds.batch_norm(x, None, None, training=True),
    "sort": lambda x: x.sort(axis=0),
    "arange": lambda x: ds.arange(x.shape[0]) * 2,
    "full": lambda x: ds.full((x.shape[0], 2), x.shape[0]),
    "tril": lambda x: ds.tril(x),
    "scan": lambda x: ds.scan(lambda s, row: (s + row, s * 2), x[0] * 0, x)[1],
    "gradient": lambda x: ds.grad(lambda x: (ds.softmax(x, 1) * x[::-1]).sum())(x),
    "conv_gradient": lambda x: ds.grad(
        lambda x: ds.conv1d(x.reshape(-1, 2, 3), ds.ones(4, 2, 2), padding=1).square().sum()
    )(x),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_trace_serves_every_size(name: str) -> None:
    function = FUNCTIONS[name]
    compiled = ds.jit(function)
    rng = np.random.default_rng(0)
    for rows in (4, 7, 3, 12):
        x = ds.asarray(rng.normal(size=(rows, 6)).astype(np.float32))
        traces = ds.counters.traces
        got, wanted = compiled(x).numpy(), function(x).numpy()
        assert got.shape == wanted.shape
        assert np.allclose(got, wanted, rtol=1e-4, atol=1e-5)
    assert ds.counters.traces == traces, "traced again for the fourth size"


NO_ROOM = {
    "conv2d": (lambda x: ds.conv2d(x, ds.ones((1, 1, 3, 3))), 2),
    "max_pool2d": (lambda x: ds.max_pool2d(ds.max_pool2d(x, 2), 2), 3),
    "avg_pool2d": (lambda x: ds.avg_pool2d(x[..., ::3], 2, 1), 3),
}


@pytest.mark.parametrize("name", NO_ROOM)
def test_a_window_that_does_not_fit_is_an_error_of_open_sizes_too(name: str) -> None:
    function, small = NO_ROOM[name]
    compiled = ds.jit(function)
    for size in (19, 14):  # from the second on sizes are open
        assert compiled(ds.ones((1, 1, size, size))).size > 0
    with pytest.raises(ShapeError, match="fit|at least as large"):
        compiled(ds.ones((1, 1, 19, small)))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_positions_beside_an_empty_axis(backend: str) -> None:
    with override(backend=backend):
        assert ds.argmax(ds.zeros((3, 0)), axis=0).numpy().shape == (0,)
