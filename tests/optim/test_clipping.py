"""Norms of gradients and clipping, eager and as part of a compiled step."""

from __future__ import annotations

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError, ShapeError, TraceError
from deepseek.nn.utils import (
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
    parameters_to_vector,
    vector_to_parameters,
)


def with_gradients() -> list[nn.Parameter]:
    parameters = [nn.Parameter(ds.zeros(2)), nn.Parameter(ds.zeros((2, 2)))]
    parameters[0].grad = ds.asarray([3.0, 0.0])
    parameters[1].grad = ds.asarray([[0.0, -4.0], [12.0, 0.0]])
    return [*parameters, nn.Parameter(ds.zeros(1))]


@pytest.mark.parametrize(
    ("kind", "norm"), [(2.0, 13.0), (1.0, 19.0), (float("inf"), 12.0), (3, 1819 ** (1 / 3))]
)
def test_clip_grad_norm(kind: float, norm: float) -> None:
    parameters = with_gradients()
    got = clip_grad_norm_(parameters, 2.0, norm_type=kind)
    np.testing.assert_allclose(got.item(), norm, rtol=1e-6)
    np.testing.assert_allclose(parameters[0].grad.numpy(), [6 / norm, 0], rtol=1e-5)
    np.testing.assert_allclose(parameters[1].grad.numpy()[1], [24 / norm, 0], rtol=1e-5)
    assert parameters[2].grad is None
    clip_grad_norm_(iter(parameters), 100.0)
    np.testing.assert_allclose(parameters[0].grad.numpy(), [6 / norm, 0], rtol=1e-5)


def test_clip_grad_norm_of_nothing_and_of_nonsense() -> None:
    assert clip_grad_norm_([], 1.0).item() == 0.0
    p = nn.Parameter(ds.zeros(1))
    p.grad = ds.full((1,), float("inf"))
    with pytest.raises(ArgumentError, match="the norm of the gradients is inf"):
        clip_grad_norm_(p, 1.0, error_if_nonfinite=True)
    assert p.grad.item() == float("inf")
    with pytest.raises(ArgumentError, match="norm_type: got 0.0; wanted a number > 0"):
        clip_grad_norm_(p, 1.0, norm_type=0)


def test_clip_grad_value() -> None:
    parameters = with_gradients()
    clip_grad_value_(parameters, 3.5)
    assert parameters[0].grad.numpy().tolist() == [3.0, 0.0]
    assert parameters[1].grad.numpy().tolist() == [[0.0, -3.5], [3.5, 0.0]]


def test_total_norm_and_clipping_with_it_are_the_two_halves() -> None:
    parameters = with_gradients()
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    assert norm.item() == 13.0
    clip_grads_with_norm_(parameters, 6.5, norm)
    np.testing.assert_allclose(parameters[0].grad.numpy(), [1.5, 0], rtol=1e-5)
    with pytest.raises(ArgumentError, match="the norm of the gradients is inf"):
        get_total_norm(ds.asarray([1.0, float("inf")]), error_if_nonfinite=True)


def test_norms_of_narrow_gradients_do_not_overflow() -> None:
    p = nn.Parameter(ds.zeros(4, dtype="float16"))
    p.grad = ds.full((4,), 300.0, dtype="float16")  # their squares sum up to 360000
    norm = clip_grad_norm_([p], 30.0)
    assert norm.dtype is ds.float32 and norm.item() == 600.0
    assert p.grad.dtype is ds.float16
    np.testing.assert_allclose(p.grad.numpy().astype(float), [15.0] * 4, rtol=1e-3)


@pytest.mark.parametrize("kind", [2.0, 1.0, 3.0, float("inf")])
def test_clipping_is_part_of_a_compiled_step(kind: float) -> None:
    rng = np.random.default_rng(0)
    shapes = [(3, 4), (5,), ()]
    gradients = [np.asarray(rng.standard_normal(s)) for s in shapes]
    parameters = [nn.Parameter(ds.zeros(s, dtype=ds.float64)) for s in shapes]

    @ds.jit(keep_grads=True)
    def clip_both(most, *given):
        for p, g in zip(parameters, given, strict=True):
            p.grad = g
        norm = clip_grad_norm_(parameters, most, kind)
        clip_grad_value_(parameters, 0.3)
        return norm

    everything = np.concatenate([np.ravel(g) for g in gradients])
    wanted = np.linalg.norm(everything, kind)
    traces = ds.counters.traces
    for most in (0.5, 1.5, 100.0):
        norm = clip_both(most, *[ds.asarray(g) for g in gradients])
        np.testing.assert_allclose(norm.item(), wanted, rtol=1e-12)
        scale = min(1.0, most / (wanted + 1e-6))
        for p, g in zip(parameters, gradients, strict=True):
            np.testing.assert_allclose(p.grad.numpy(), np.clip(g * scale, -0.3, 0.3), rtol=1e-6)
    assert ds.counters.traces == traces + 1


def test_a_norm_cannot_be_looked_at_while_tracing() -> None:
    p = nn.Parameter(ds.zeros(2))

    @ds.jit
    def step(g):
        p.grad = g
        return clip_grad_norm_([p], 1.0, error_if_nonfinite=True)

    with pytest.raises(TraceError, match="not known while @ds.jit traces"):
        step(ds.ones(2))


def test_parameters_as_one_vector_and_back() -> None:
    parameters = [nn.Parameter(ds.ones((2, 2))), nn.Parameter(ds.zeros((), dtype=ds.float64))]
    vector = parameters_to_vector(parameters)
    assert vector.dtype is ds.float64 and vector.tolist() == [1, 1, 1, 1, 0]
    vector_to_parameters(ds.arange(5, dtype=ds.float64), parameters)
    assert parameters[0].tolist() == [[0, 1], [2, 3]] and parameters[0].dtype is ds.float32
    assert parameters[1].item() == 4 and parameters[1].requires_grad
    with pytest.raises(ShapeError, match=r"got float32\[4\]; wanted a vector of 5 elements"):
        vector_to_parameters(ds.zeros(4), parameters)
    assert parameters[1].item() == 4
