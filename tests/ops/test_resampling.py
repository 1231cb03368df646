"""interpolate, grid_sample and affine_grid: options, kernels, symbolic sizes, errors.

The places and weights are held against NumPy by the sweep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek.errors import DeepseekError

RNG = np.random.default_rng(0)


def image(*shape: int) -> ds.Tensor:
    return ds.asarray(RNG.normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_images_are_read_once_an_axis(mode: str) -> None:
    """Besides, a small kernel makes the places and weights of each axis."""
    x = image(2, 3, 8, 9)
    explained = ds.explain(ds.jit(lambda x: ds.interpolate(x, size=(13, 11), mode=mode)), x)
    assert explained.counts["launches"] == 4


def test_whole_factors_of_nearest_are_views() -> None:
    x = image(2, 3, 4, 5)
    grown = ds.jit(lambda x: ds.interpolate(x * 2, scale_factor=(2, 3)) + 1)
    assert ds.explain(grown, x).counts["launches"] == 1
    wanted = x.numpy().repeat(2, axis=2).repeat(3, axis=3) * 2 + 1
    assert np.array_equal(grown(x).numpy(), wanted)
    slope = ds.jit(ds.grad(lambda x: ds.interpolate(x, scale_factor=2).sum()))
    assert np.all(slope(x).numpy() == 4)


def test_integers_are_repeated_as_they_are() -> None:
    x = ds.asarray([[[1, 2, 3]]])
    assert ds.interpolate(x, size=5).tolist() == [[[1, 1, 2, 2, 3]]]
    assert ds.interpolate(x, size=6).dtype is ds.int64


def test_a_recomputed_factor_is_the_ratio_of_the_sizes() -> None:
    x = image(1, 1, 5)
    kept = ds.interpolate(x, scale_factor=1.5, mode="linear")
    again = ds.interpolate(x, scale_factor=1.5, mode="linear", recompute_scale_factor=True)
    sized = ds.interpolate(x, size=7, mode="linear")
    assert kept.shape == again.shape == (1, 1, 7)
    assert np.array_equal(again.numpy(), sized.numpy())
    assert not np.allclose(kept.numpy(), sized.numpy())


def test_sampling_at_the_grid_of_the_identity_gives_the_image_back() -> None:
    x = image(2, 3, 4, 5)
    still = ds.asarray(np.tile(np.eye(2, 3, dtype=np.float32), (2, 1, 1)))
    for align in (False, True):
        grid = ds.affine_grid(still, x.shape, align)
        assert np.allclose(
            ds.grid_sample(x, grid, align_corners=align).numpy(), x.numpy(), atol=1e-5
        )
    turned = ds.affine_grid(still * ds.asarray([[-1.0], [1.0]]), x.shape, False)
    flipped = ds.grid_sample(x, turned, "nearest", "border", False)
    assert np.allclose(flipped.numpy(), x.numpy()[..., ::-1])


SYMBOLIC: dict[str, Callable[[Any], Any]] = {
    "nearest": lambda x: ds.interpolate(x, scale_factor=2),
    "linear": lambda x: ds.interpolate(x, scale_factor=3, mode="linear", align_corners=True),
    "fixed": lambda x: ds.interpolate(x, size=5, mode="linear"),
    "grid": lambda x: ds.grid_sample(x.reshape(1, 2, 1, -1), ds.zeros(1, 1, 1, 2)),
}


@pytest.mark.parametrize("name", SYMBOLIC)
def test_one_trace_serves_every_size(name: str) -> None:
    function = SYMBOLIC[name]
    compiled = ds.jit(function)
    for length in (4, 7, 3, 12):
        x = image(1, 2, length)
        traces = ds.counters.traces
        got, wanted = compiled(x).numpy(), function(x).numpy()
        assert got.shape == wanted.shape and np.allclose(got, wanted, rtol=1e-4, atol=1e-5)
    assert ds.counters.traces == traces, "traced again for the fourth size"


X = image(1, 2, 4, 5)
REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: ds.interpolate(X, size=3, mode="linear"), "with 1 sizes"),
    (lambda: ds.interpolate(X, size=3, mode="bilinar"), "did you mean 'bilinear'"),
    (lambda: ds.interpolate(X), "either a size or a scale factor"),
    (lambda: ds.interpolate(X, 3, 2), "either a size or a scale factor"),
    (lambda: ds.interpolate(X, 3, recompute_scale_factor=True), "either a size or"),
    (lambda: ds.interpolate(X, (3, 3, 3)), "or 2 of them"),
    (lambda: ds.interpolate(X, 0), "one positive number"),
    (lambda: ds.interpolate(X, scale_factor=0.1), "at least one element"),
    (lambda: ds.interpolate(X, 3, align_corners=True), "linear and cubic modes"),
    (lambda: ds.interpolate(X, 3, mode="bilinear", antialias=True), "antialias=False"),
    (lambda: ds.interpolate(X.astype(ds.int32), 3, mode="bilinear"), "wanted floats"),
    (lambda: ds.grid_sample(X, ds.zeros(1, 2, 2, 3)), "(batch, *places, axes)"),
    (lambda: ds.grid_sample(X, ds.zeros(2, 2, 2, 2)), "(batch, *places, axes)"),
    (lambda: ds.grid_sample(X, ds.zeros(1, 2, 2, 2), "cubic"), "did you mean 'bicubic'"),
    (lambda: ds.grid_sample(X, ds.zeros(1, 2, 2, 2), padding_mode="edge"), "reflection"),
    (lambda: ds.affine_grid(ds.zeros(1, 2, 2), (1, 1, 2, 2)), "(batch, n, n + 1)"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_bad_arguments_are_refused(case: int) -> None:
    call, said = REFUSED[case]
    with pytest.raises(DeepseekError) as error:
        call()
    assert said in str(error.value)
