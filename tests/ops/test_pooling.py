"""Pooling and transposed convolutions by PyTorch's names: sizes, options, errors, symbolic sizes.

The windows themselves are held against NumPy by the sweep; here it is what stands around them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek.errors import DeepseekError

RNG = np.random.default_rng(0)


def image(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_indices_say_where_the_values_were(rank: int) -> None:
    x = image(2, 3, *(7, 6, 5)[:rank])
    pool: Any = getattr(ds, f"max_pool{rank}d")
    values, indices = pool(ds.asarray(x), 3, 2, 1, ceil_mode=True, return_indices=True)
    flat = x.reshape(2, 3, -1)
    taken = np.take_along_axis(flat, indices.numpy().reshape(2, 3, -1), axis=-1)
    assert np.array_equal(taken.reshape(values.shape), values.numpy())
    back = getattr(ds, f"max_unpool{rank}d")(values, indices, 3, 2, 1, x.shape).numpy()
    assert back.shape == x.shape
    assert np.array_equal(back[back != 0], x[back != 0]) and len(np.unique(back)) > 2


@pytest.mark.parametrize("kind", ["avg", "max"])
@pytest.mark.parametrize("sizes", [(2, 3), (3, 4), (4, 6), (None, 5), 1])
def test_adaptive_pooling_reduces_pytorchs_parts(kind: str, sizes: Any) -> None:
    x = image(2, 3, 4, 6)
    got = getattr(ds, f"adaptive_{kind}_pool2d")(ds.asarray(x), sizes).numpy()
    rows, columns = (1, 1) if sizes == 1 else (sizes[0] or 4, sizes[1])
    assert got.shape == (2, 3, rows, columns)
    for i, j in np.ndindex(rows, columns):
        part = x[:, :, i * 4 // rows : -(-(i + 1) * 4 // rows),
                 j * 6 // columns : -(-(j + 1) * 6 // columns)]  # fmt: skip
        wanted = part.mean(axis=(2, 3)) if kind == "avg" else part.max(axis=(2, 3))
        assert np.allclose(got[:, :, i, j], wanted, rtol=1e-5, atol=1e-6)


def test_adaptive_maxima_send_gradients_to_one_element() -> None:
    x = ds.zeros(1, 1, 5, requires_grad=True)
    ds.adaptive_max_pool1d(x, 2).sum().backward()
    assert x.grad.tolist() == [[[1, 0, 1, 0, 0]]]


@pytest.mark.parametrize("rank", [2, 3])
def test_fractional_pooling_follows_grahams_sequences(rank: int) -> None:
    x, u = image(2, 3, *(9, 8, 7)[:rank]), RNG.random((2, 3, rank)).astype(np.float32)
    sizes, k = (4, 3, 5)[:rank], 2
    pool: Any = getattr(ds, f"fractional_max_pool{rank}d")
    values, indices = pool(ds.asarray(x), k, sizes, None, True, ds.asarray(u))
    assert values.shape == (2, 3, *sizes)
    for b, c in np.ndindex(2, 3):
        starts = []
        for axis, count in enumerate(sizes):
            shift = u[b, c, rank - 1 - axis if rank == 2 else axis]
            alpha = np.float32((x.shape[2 + axis] - k) / (count - 1))
            at = [int((i + shift) * alpha) - int(shift * alpha) for i in range(count - 1)]
            starts.append([*at, x.shape[2 + axis] - k])
        for place in np.ndindex(*sizes):
            part = tuple(slice(s[p], s[p] + k) for s, p in zip(starts, place, strict=True))
            assert values.numpy()[(b, c, *place)] == x[b, c][part].max()
            assert x[b, c].reshape(-1)[indices.numpy()[(b, c, *place)]] == x[b, c][part].max()
    drawn = pool(ds.asarray(x[0]), k, output_ratio=0.5, generator=ds.Generator(1))
    assert drawn.shape == (3, *(n // 2 for n in x.shape[2:]))


def test_powers_are_averaged() -> None:
    x = image(1, 2, 6)
    got = ds.lp_pool1d(ds.asarray(np.abs(x)), 3.0, 2, 3, ceil_mode=False).numpy()
    wanted = sum(np.abs(x[..., i::3][..., :2]) ** 3 for i in range(2)) ** (1 / 3)
    assert np.allclose(got, wanted, rtol=1e-4)


def scattered(
    x: Any, w: Any, stride: int, padding: int, more: int, groups: int, dilation: int
) -> Any:
    """A transposed convolution of (batch, channels, length) as it is said: everything scattered."""
    batch, channels, length = x.shape
    out, window = w.shape[1] * groups, w.shape[2]
    full = np.zeros((batch, out, (length - 1) * stride + dilation * (window - 1) + 1 + more))
    for c, i, k in np.ndindex(channels, length, window):
        group = c // (channels // groups)
        some = slice(group * w.shape[1], (group + 1) * w.shape[1])
        full[:, some, i * stride + k * dilation] += x[:, c, i, None] * w[c, :, k]
    return full[:, :, padding : full.shape[2] - padding]


@pytest.mark.parametrize(
    ("stride", "padding", "more", "groups", "dilation"),
    [(1, 0, 0, 1, 1), (2, 1, 1, 1, 1), (3, 2, 2, 2, 1), (1, 1, 1, 2, 2), (2, 0, 1, 4, 3)],
)
def test_transposed_convolutions_scatter_the_window(
    stride: int, padding: int, more: int, groups: int, dilation: int
) -> None:
    x, w, bias = image(2, 4, 6), image(4, 3, 3), image(3 * groups)
    wanted = scattered(x, w, stride, padding, more, groups, dilation) + bias[:, None]
    got = ds.conv_transpose1d(
        ds.asarray(x), ds.asarray(w), ds.asarray(bias), stride, padding, more, groups, dilation
    )
    assert got.shape == wanted.shape and np.allclose(got.numpy(), wanted, rtol=1e-4, atol=1e-5)
    # One row of a plane, and of a box, is the same.
    for rank in (2, 3):
        ones = (1,) * (rank - 1)
        strides, gaps, ends = (*ones, stride), (*ones, dilation), (*(0,) * (rank - 1), padding)
        wide = getattr(ds, f"conv_transpose{rank}d")(
            ds.asarray(x[0].reshape(4, *ones, 6)), ds.asarray(w.reshape(4, 3, *ones, 3)),
            ds.asarray(bias), strides, ends, (*(0,) * (rank - 1), more), groups, gaps,
        )  # fmt: skip
        assert np.allclose(wide.numpy().reshape(wanted[0].shape), wanted[0], rtol=1e-4, atol=1e-5)


def test_a_transposed_convolution_is_one_kernel() -> None:
    x, w = ds.asarray(image(2, 4, 6, 5)), ds.asarray(image(4, 3, 3, 3))
    explained = ds.explain(ds.jit(lambda x, w: ds.conv_transpose2d(x, w, stride=2).relu()), x, w)
    assert explained.counts["launches"] == 1


SYMBOLIC: dict[str, Callable[[Any], Any]] = {
    "ceil": lambda x: ds.max_pool1d(x, 3, 2, 1, ceil_mode=True, return_indices=True)[1],
    "avg_ceil": lambda x: ds.avg_pool1d(x, 3, 2, ceil_mode=True),
    "transposed": lambda x: ds.conv_transpose1d(x, ds.ones(2, 3, 3), stride=2, output_padding=1),
    "unfold": lambda x: x.unfold(2, 3, 1) if hasattr(x, "unfold") else x,
}


@pytest.mark.parametrize("name", SYMBOLIC)
def test_one_trace_serves_sizes_alike(name: str) -> None:
    function = SYMBOLIC[name]
    compiled = ds.jit(function)
    for length in (9, 13, 7, 21):
        x = ds.asarray(image(1, 2, length))
        traces = ds.counters.traces
        got, wanted = compiled(x).numpy(), function(x).numpy()
        assert got.shape == wanted.shape and np.allclose(got, wanted, rtol=1e-4, atol=1e-5)
    assert ds.counters.traces == traces, "traced again for the fourth size"


X, W = ds.ones(1, 2, 8), ds.ones(2, 3, 3)
REFUSED: list[tuple[Callable[[], Any], str, str]] = [
    (lambda: ds.max_pool1d(X[0, 0], 2), "max_pool1d", "(batch, channels, 1 sizes)"),
    (lambda: ds.max_pool1d(X, 2, padding=2), "max_pool1d", "at most half of the window"),
    (lambda: ds.avg_pool2d(X, 2, divisor_override=0), "avg_pool2d", "another number"),
    (lambda: ds.adaptive_avg_pool1d(X, (2, 2)), "adaptive_avg_pool1d", "an int of at least 0"),
    (lambda: ds.fractional_max_pool2d(X, 2), "fractional_max_pool2d", "one of them"),
    (lambda: ds.fractional_max_pool2d(X, 2, 9), "fractional_max_pool2d", "fit side by side"),
    (lambda: ds.max_unpool1d(X, ds.arange(3), 2), "max_unpool", "one shape"),
    (lambda: ds.max_unpool1d(X, X, 2, output_size=(1, 2, 30)), "max_unpool1d", "less than the"),
    (lambda: ds.conv_transpose1d(X, W[0]), "conv_transpose1d", "(channels, out / groups"),
    (lambda: ds.conv_transpose1d(X, W[:1]), "conv_transpose1d", "the weight's first size"),
    (lambda: ds.conv_transpose1d(X, W, output_padding=1), "conv_transpose1d", "less than the"),
    (lambda: ds.conv_transpose1d(X, W, padding=6), "conv_transpose1d", "less padding"),
    (lambda: ds.conv_transpose1d(X, W, padding="same"), "conv_transpose1d", "numbers"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_bad_arguments_are_refused(case: int) -> None:
    call, op, said = REFUSED[case]
    with pytest.raises(DeepseekError) as error:
        call()
    text = str(error.value)
    assert text.startswith(f"op '{op}'") and said in text and "test_pooling.py" in text
