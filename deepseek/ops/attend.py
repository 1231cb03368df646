"""Attention as a composite: what a backend may claim whole, and what it means if none does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.ir.op import Sample
from deepseek.ir.shape import Size
from deepseek.ops import forms_nn
from deepseek.ops.activation import softmax, widened
from deepseek.ops.create import arange
from deepseek.ops.define import composite, converted, describe, filled, quotient, shape_of
from deepseek.ops.elementwise import where
from deepseek.ops.nn import dropout_
from deepseek.ops.random import Generator, next_draw

__all__ = ["scaled_dot_product_attention"]


def _reference(
    query: Any, key: Any, value: Any, attn_mask: Any, seed: Any, draw: Any, dropout_p: float,
    is_causal: bool, scale: float | None, enable_gqa: bool,
) -> Any:  # fmt: skip
    if enable_gqa:
        key, value = (np.repeat(t, query.shape[-3] // t.shape[-3], axis=-3) for t in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = np.einsum("...le,...se->...ls", query, key) * scale
    if is_causal:
        scores = np.where(np.tri(*scores.shape[-2:]) > 0, scores, -np.inf)
    if attn_mask is not None:
        hidden = np.where(attn_mask, 0.0, -np.inf) if attn_mask.dtype == bool else attn_mask
        scores = scores + hidden
    blind = np.isneginf(scores).all(axis=-1, keepdims=True)
    scores = np.where(blind, 0, scores)
    e = np.where(blind, 0, np.exp(scores - scores.max(axis=-1, keepdims=True)))
    weights = e / np.where(blind, 1, e.sum(axis=-1, keepdims=True))
    return np.einsum("...ls,...sv->...lv", weights, value)


def _samples() -> list[Sample]:
    plain = {
        "attn_mask": None, "seed": None, "draw": None, "dropout_p": 0.0, "is_causal": False,
        "scale": None, "enable_gqa": False,
    }  # fmt: skip
    qkv = ((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 6))
    masked = {k: v for k, v in plain.items() if k != "attn_mask"}
    mask = np.arange(35).reshape(5, 7) % 3 > 0
    bias = np.linspace(-1, 1, 35).reshape(5, 7).astype(np.float32)
    return [
        Sample(qkv, plain),
        Sample(((2, 6, 4),) * 3, plain | {"is_causal": True}),
        Sample((*qkv, mask), masked),
        Sample((*qkv, bias), masked | {"scale": 0.5}),
        Sample((*qkv, mask & (np.arange(5) != 2)[:, None]), masked),
        Sample(((2, 6, 5, 4), (2, 3, 7, 4), (2, 2, 7, 3)), plain | {"enable_gqa": True}),
    ]


def _divides(t: Tensor, query: Tensor) -> bool:
    return min(t.ndim, query.ndim) > 2 and query.shape[-3] % t.shape[-3] == 0


def _shared(t: Tensor, heads: Size) -> Tensor:
    """Heads repeated, so that there are as many as of the query: a view."""
    *lead, own, length, features = shape_of(t)
    each = quotient(heads, own)
    wide = (*lead, own, each, length, features)
    apart = t.reshape((*lead, own, 1, length, features)).broadcast_to(wide)
    return apart.reshape((*lead, heads, length, features))


def _default_scale(scores: Tensor, features: Size) -> Any:
    if isinstance(features, int):
        return 1 / math.sqrt(features)
    return filled((), features, scores.dtype).rsqrt()


@composite(
    reference=_reference, samples=_samples, tolerance=64, precision="low", onnx=forms_nn.attention
)
def scaled_dot_product_attention_(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, seed: Tensor | None,
    draw: Tensor | None, dropout_p: float, is_causal: bool, scale: float | None,
    enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """Attention with its randomness, if any, given by (seed, draw)."""
    if enable_gqa:
        heads = shape_of(query)[-3]
        key, value = (_shared(t, heads) for t in (key, value))
    scores = widened(query @ key.mT)
    scores = scores * (_default_scale(scores, shape_of(query)[-1]) if scale is None else scale)
    if is_causal:
        rows, columns = shape_of(scores)[-2:]
        seen = arange(columns) <= arange(rows).reshape((-1, 1))
        scores = where(seen, scores, -math.inf)
    if attn_mask is not None:
        if attn_mask.dtype.is_bool:
            scores = where(attn_mask, scores, -math.inf)
        else:
            scores = scores + converted(attn_mask, scores.dtype)
    if attn_mask is None:
        soft = softmax(scores, -1)
    else:  # who may see nothing gets zeros, as in PyTorch, and zero gradients
        blind = scores.max(axis=-1, keepdims=True) == -math.inf
        soft = where(blind, 0, softmax(where(blind, 0, scores), -1))
    weights = converted(soft, value.dtype)
    if dropout_p and seed is not None and draw is not None:
        weights = dropout_(weights, seed, draw, dropout_p)
    return weights @ value


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
    enable_gqa: bool = False, *, generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """softmax(query @ key.mT * scale + mask) @ value, over (..., length, features).

    A boolean mask says what may be seen, a float one is added to the scores; `is_causal` hides what
    comes later; who may see nothing gets zeros. With `enable_gqa` groups of the query's heads, on
    the third axis from the last, share one head of key and value (Ainslie et al. 2023). The scale
    is 1 / sqrt(features) by default (Vaswani et al. 2017).

    Raises ShapeError for sizes that do not fit. ArgumentError for a dropout_p that is no
    probability.

    >>> q, k, v = ds.randn(2, 4, 5, 8), ds.randn(2, 4, 7, 8), ds.randn(2, 4, 7, 3)
    >>> ds.scaled_dot_product_attention(q, k, v).shape
    (2, 4, 5, 3)
    """
    if min(query.ndim, key.ndim, value.ndim) < 2:
        got = [describe(t) for t in (query, key, value)]
        raise op_error(
            ShapeError, "scaled_dot_product_attention", got, "(..., length, features)", user_line()
        )
    if not 0 <= dropout_p <= 1:
        raise op_error(
            ArgumentError, "scaled_dot_product_attention", f"dropout_p={dropout_p}",
            "a probability", user_line(),
        )  # fmt: skip
    if enable_gqa and not all(_divides(t, query) for t in (key, value)):
        got = [describe(t) for t in (query, key, value)]
        raise op_error(
            ShapeError, "scaled_dot_product_attention", got,
            "heads on the third axis from the last, the query's a multiple of the others'",
            user_line(),
        )  # fmt: skip
    seed, draw = next_draw(generator) if dropout_p else (None, None)
    return scaled_dot_product_attention_(
        query, key, value, attn_mask, seed, draw, float(dropout_p), bool(is_causal),
        None if scale is None else float(scale), bool(enable_gqa),
    )  # fmt: skip
