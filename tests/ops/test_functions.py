"""Functions that are made of records, and what the records leave to them, against plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek.errors import ArgumentError, ShapeError

RNG = np.random.default_rng(0)


def test_running_statistics_follow_the_batches() -> None:
    mean, var = ds.zeros(3), ds.ones(3)
    wanted_mean, wanted_var = np.zeros(3), np.ones(3)
    for _ in range(3):
        x = RNG.normal(2, 3, (4, 3, 5)).astype(np.float32)
        y = ds.batch_norm(ds.asarray(x), mean, var, training=True, momentum=0.3)
        wanted_mean = 0.7 * wanted_mean + 0.3 * x.mean(axis=(0, 2))
        wanted_var = 0.7 * wanted_var + 0.3 * x.var(axis=(0, 2), ddof=1)
        assert np.allclose(y.numpy().mean(axis=(0, 2)), 0, atol=1e-5)
    assert np.allclose(mean.numpy(), wanted_mean, rtol=1e-5)
    assert np.allclose(var.numpy(), wanted_var, rtol=1e-5)
    still = ds.batch_norm(ds.asarray(x), mean, var)
    scaled = (x - wanted_mean[:, None]) / np.sqrt(wanted_var[:, None] + 1e-5)
    assert np.allclose(still.numpy(), scaled, rtol=1e-4, atol=1e-5)


def test_instance_norm_moves_its_running_statistics() -> None:
    mean, var = ds.zeros(2), ds.ones(2)
    x = RNG.normal(1, 2, (3, 2, 7)).astype(np.float32)
    ds.instance_norm(ds.asarray(x), mean, var, momentum=0.5)
    assert np.allclose(mean.numpy(), x.mean(axis=(0, 2)) / 2, rtol=1e-5)
    assert np.allclose(var.numpy(), 0.5 + x.var(axis=2, ddof=1).mean(axis=0) / 2, rtol=1e-5)


def test_the_padding_row_of_an_embedding_gets_no_gradient() -> None:
    table = ds.asarray(RNG.normal(size=(4, 2)).astype(np.float32), requires_grad=True)
    rows = ds.embedding(ds.asarray([1, 0, 1, 3]), table, padding_idx=1)
    rows.sum().backward()
    assert table.grad.tolist() == [[1, 1], [0, 0], [0, 0], [1, 1]]


def test_max_pool_gives_the_gradient_to_the_first_of_equals() -> None:
    x = ds.zeros(1, 1, 4, requires_grad=True)
    ds.max_pool1d(x, 2).sum().backward()
    assert x.grad.tolist() == [[[1, 0, 1, 0]]]


def test_relu_has_no_gradient_at_zero() -> None:
    x = ds.asarray([-1.0, 0.0, 2.0], requires_grad=True)
    ds.relu(x).sum().backward()
    assert x.grad.tolist() == [0, 0, 1]


def test_softmax_of_a_hidden_row_part_has_clean_gradients() -> None:
    x = ds.asarray(RNG.normal(size=(3, 3)).astype(np.float32), requires_grad=True)
    ds.scaled_dot_product_attention(x, x, x, is_causal=True).square().sum().backward()
    assert np.isfinite(x.grad.numpy()).all()


def test_attention_that_sees_nothing_is_zero_and_so_is_its_gradient() -> None:
    q = ds.asarray(RNG.normal(size=(2, 3, 4)).astype(np.float32), requires_grad=True)
    mask = ds.asarray(np.array([[True, True, False], [False] * 3, [False, True, False]]))
    out = ds.scaled_dot_product_attention(q, q.detach(), q.detach(), mask)
    out.square().sum().backward()
    assert np.all(out.numpy()[:, 1] == 0) and np.all(q.grad.numpy()[:, 1] == 0)
    assert np.isfinite(q.grad.numpy()).all() and np.any(q.grad.numpy() != 0)


def test_grouped_heads_share_keys_without_copies() -> None:
    q, k = (ds.asarray(RNG.normal(size=(2, h, 5, 8)).astype(np.float32)) for h in (6, 2))
    wide = ds.repeat_interleave(k, 3, 1)
    got = ds.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    assert np.allclose(got.numpy(), ds.scaled_dot_product_attention(q, wide, wide).numpy())
    run = ds.jit(lambda q, k: ds.scaled_dot_product_attention(q, k, k, enable_gqa=True))
    plain = ds.jit(lambda q, k: ds.scaled_dot_product_attention(q, k, k))
    counts = ds.explain(run, q, k).counts
    assert counts["launches"] == ds.explain(plain, q, wide).counts["launches"]
    with pytest.raises(ShapeError, match="a multiple of the others"):
        ds.scaled_dot_product_attention(q, wide[:, :4], k, enable_gqa=True)


def test_attention_with_dropout_drops_weights() -> None:
    q = ds.ones(1, 4, 8)
    plain = ds.scaled_dot_product_attention(q, q, q)
    dropped = ds.scaled_dot_product_attention(q, q, q, dropout_p=0.5, generator=ds.Generator(1))
    assert np.allclose(plain.numpy(), 1)
    assert len(np.unique(dropped.numpy().round(3))) > 1


@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_padding_keeps_the_size(kernel: int, dilation: int) -> None:
    x, w = ds.ones(1, 1, 9), ds.ones(1, 1, kernel)
    assert ds.conv1d(x, w, padding="same", dilation=dilation).shape == (1, 1, 9)
    lone = ds.conv1d(x[0], w, ds.ones(1), padding="valid", dilation=dilation)
    assert lone.shape == (1, 9 - dilation * (kernel - 1))
    assert float(lone[0, 0]) == kernel + 1


def test_pooling_to_equal_parts() -> None:
    x = RNG.normal(size=(2, 3, 4, 6)).astype(np.float32)
    one = ds.adaptive_avg_pool2d(ds.asarray(x), 1)
    assert np.allclose(one.numpy(), x.mean(axis=(2, 3), keepdims=True), rtol=1e-5)
    parts = ds.adaptive_avg_pool2d(ds.asarray(x), (2, 3)).numpy()
    assert np.allclose(parts, x.reshape(2, 3, 2, 2, 3, 2).mean(axis=(3, 5)), rtol=1e-5)


def test_means_of_16_bit_floats_do_not_overflow() -> None:
    x = ds.full((100_000,), 2.0, dtype=ds.float16)
    assert float(x.mean()) == 2.0


def test_views_take_numpy_and_pytorch_forms() -> None:
    x = np.arange(24).reshape(2, 3, 4)
    t = ds.asarray(x)
    assert np.array_equal(t.permute(2, 0, 1).numpy(), x.transpose(2, 0, 1))
    assert np.array_equal(t.transpose(0, 2).numpy(), x.swapaxes(0, 2))
    assert np.array_equal(t.mT.numpy(), x.swapaxes(1, 2))
    assert np.array_equal(t.view(6, -1).numpy(), x.reshape(6, 4))
    assert np.array_equal(ds.moveaxis(t, 0, -1).numpy(), np.moveaxis(x, 0, -1))
    assert np.array_equal(ds.moveaxis(t, (0, 1), (1, 2)).numpy(), np.moveaxis(x, (0, 1), (1, 2)))
    assert np.array_equal(ds.expand_dims(t, (0, -1)).numpy(), np.expand_dims(x, (0, -1)))
    assert np.array_equal(ds.roll(t, 5, 2).numpy(), np.roll(x, 5, 2))
    assert np.array_equal(ds.roll(t, -7).numpy(), np.roll(x, -7))
    assert [p.shape for p in t.split(2, 1)] == [(2, 2, 4), (2, 1, 4)]
    assert [p.shape for p in t.chunk(3, 2)] == [(2, 3, 2), (2, 3, 2)]
    assert np.array_equal(ds.unstack(t, axis=1)[2].numpy(), x[:, 2])
    assert np.array_equal(ds.concat([t, t], axis=None).numpy(), np.concatenate([x, x], axis=None))
    assert t.flatten(1).shape == (2, 12) and t[None].squeeze().shape == (2, 3, 4)


def test_reductions_take_the_dtypes_of_the_array_api() -> None:
    small = ds.full((300,), 100, dtype=ds.int8)
    assert small.sum().dtype is ds.int64 and int(small.sum()) == 30_000
    assert ds.full((2,), 200, dtype=ds.uint8).sum().dtype is ds.uint64
    assert int((small > 3).sum()) == 300
    assert small.sum(dtype=ds.float32).dtype is ds.float32
    assert ds.asarray([1, 2]).mean().dtype is ds.float32
    x = np.arange(6.0).reshape(2, 3)
    assert float(ds.asarray(x).std(correction=1)) == pytest.approx(x.std(ddof=1))


def test_powers_of_integers_stay_integers() -> None:
    x = ds.asarray([2, 3, -4])
    assert (x**3).tolist() == [8, 27, -64] and (x**3).dtype is ds.int64
    assert (x**7).tolist() == [128, 2187, -16384]
    assert (2 ** ds.asarray([0, 5, -1])).tolist() == [1, 32, 0]
    assert ds.asarray([2.0]).pow(0.5).tolist() == [np.float32(2**0.5)]


def test_solving_undoes_multiplying() -> None:
    a = RNG.normal(size=(2, 4, 4)) + 4 * np.eye(4)
    b = RNG.normal(size=(2, 4, 3))
    x = ds.solve(ds.asarray(a), ds.asarray(b))
    assert np.allclose((ds.asarray(a) @ x).numpy(), b)
    assert np.allclose(ds.inv(ds.asarray(a)).numpy() @ a, np.eye(4))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular", "symmetric"])
def test_padding_by_elements_crops_first_and_is_one_kernel(mode: str) -> None:
    x = np.arange(30.0, dtype=np.float32).reshape(1, 5, 6)
    t = ds.asarray(x)
    numpys = {"replicate": "edge", "circular": "wrap"}.get(mode, mode)
    wanted = np.pad(x[:, 1:], ((0, 0), (0, 2), (3, 0)), mode=numpys)
    assert np.array_equal(ds.pad(t, (3, 0, -1, 2), mode=mode).numpy(), wanted)
    explained = ds.explain(ds.jit(lambda x: ds.pad(x * 2, (3, 1, 2, 2), mode=mode) + 1), t)
    assert explained.counts["launches"] <= 2
    compiled = ds.jit(lambda x: ds.pad(x, (2, 1), mode=mode))
    for columns in (4, 7, 3, 12):
        y = np.arange(2.0 * columns).reshape(2, columns)
        traces = ds.counters.traces
        assert np.array_equal(
            compiled(ds.asarray(y)).numpy(), np.pad(y, ((0, 0), (2, 1)), mode=numpys)
        )
    assert ds.counters.traces == traces, "traced again for the fourth size"


def test_unknown_padding_modes_are_refused() -> None:
    with pytest.raises(ArgumentError, match="did you mean 'reflect'"):
        ds.pad(ds.ones(3), (1, 1), mode="reflct")


def test_ldexp_reaches_what_two_to_the_exponent_does_not() -> None:
    x = ds.asarray(np.array([2.0**-100, 2.0**100, 1.0], np.float32))
    got = ds.ldexp(x, ds.asarray([200, -200, -149]))
    np.testing.assert_array_equal(got, np.float32([2.0**100, 2.0**-100, 2.0**-149]))


@pytest.mark.parametrize("x", [[1.5, 2.0, 3.0], [0.0, 2.0, 3.0], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
def test_second_derivatives_of_a_product_see_past_zeros(x: list[float]) -> None:
    def slope(x: ds.Tensor, i: int) -> ds.Tensor:
        return ds.grad(ds.prod)(x)[i]

    point = ds.asarray(np.array(x))
    hessian = [np.asarray(ds.grad(lambda x, i=i: slope(x, i))(point)) for i in range(3)]
    a, b, c = x
    np.testing.assert_array_equal(hessian, [[0, c, b], [c, 0, a], [b, a, 0]])


def test_the_gradient_of_a_product_beside_a_zero_does_not_overflow() -> None:
    x = np.full(64, 10, np.float32)
    x[3] = 0
    slopes = np.asarray(ds.grad(ds.prod)(ds.asarray(x)))
    assert slopes[3] == np.inf
    assert (np.delete(slopes, 3) == 0).all()


@pytest.mark.parametrize(
    "function",
    [
        ds.leaky_relu,
        ds.elu,
        lambda x, s: ds.hardtanh(x, -s, s),
        lambda x, s: ds.lerp(x, x * x, s),
        lambda x, s: ds.layer_norm(x, (3,), eps=s),
        lambda x, s: ds.vector_norm(x, ord=s + 1),
        lambda x, s: ds.nan_to_num(x / 0, posinf=s),
    ],
)
def test_a_compiled_functions_number_may_be_a_setting(function: Any) -> None:
    compiled = ds.jit(lambda x, s: function(x, s))
    x = ds.asarray([0.5, -1.5, 2.0])
    for setting in (0.25, 0.5, 0.25):
        np.testing.assert_allclose(compiled(x, setting), function(x, setting), rtol=1e-6)
