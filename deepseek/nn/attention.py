"""Multi-head attention with PyTorch's parameters and masks."""

from __future__ import annotations

import math
from typing import Any

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor
from deepseek.nn import functional as F
from deepseek.nn import init
from deepseek.nn.basic import Linear, new_parameter
from deepseek.nn.module import Module
from deepseek.ops.create import arange, zeros
from deepseek.ops.elementwise import where
from deepseek.ops.view import concat

__all__ = ["MultiheadAttention"]


class MultiheadAttention(Module):
    """Attention of `num_heads` heads between projections of query, key and value (Vaswani 2017).

    Tensors are (length, batch, embed_dim), with `batch_first` (batch, length, embed_dim), or
    without a batch (length, embed_dim). `kdim` and `vdim` are the widths of key and value where
    they differ from embed_dim; then q_proj_weight, k_proj_weight and v_proj_weight stand in for
    in_proj_weight. Raises ArgumentError unless num_heads divides embed_dim.

    >>> x = ds.randn(2, 5, 16)
    >>> y, weights = ds.nn.MultiheadAttention(16, 4, batch_first=True)(x, x, x)
    >>> y.shape, weights.shape
    ((2, 5, 16), (2, 5, 5))
    """

    settings = ("embed_dim", "num_heads", "head_dim", "dropout", "add_zero_attn", "batch_first")

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ArgumentError(
                f"MultiheadAttention: got embed_dim={embed_dim}, num_heads={num_heads}; "
                "wanted embed_dim to be a multiple of num_heads"
            )
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.dropout = dropout
        self.add_zero_attn = add_zero_attn
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.batch_first = batch_first
        together = self.kdim == embed_dim == self.vdim
        widths = {
            "q_proj_weight": None if together else embed_dim,
            "k_proj_weight": None if together else self.kdim,
            "v_proj_weight": None if together else self.vdim,
        }
        whole = new_parameter((3 * embed_dim, embed_dim), dtype, device) if together else None
        self.register_parameter("in_proj_weight", whole)
        for name, width in widths.items():
            own = None if width is None else new_parameter((embed_dim, width), dtype, device)
            self.register_parameter(name, own)
        in_bias = new_parameter((3 * embed_dim,), dtype, device) if bias else None
        self.register_parameter("in_proj_bias", in_bias)
        for name in ("bias_k", "bias_v"):
            extra = new_parameter((1, 1, embed_dim), dtype, device) if add_bias_kv else None
            self.register_parameter(name, extra)
        self.out_proj = Linear(embed_dim, embed_dim, bias, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the projections as Glorot says; biases are 0."""
        for weight in (
            self.in_proj_weight,
            self.q_proj_weight,
            self.k_proj_weight,
            self.v_proj_weight,
        ):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                init.xavier_normal_(extra)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(output, attention weights or None).

        `key_padding_mask` (batch, source) and `attn_mask` ((target, source), or one for each batch
        and head) are True where attention is forbidden, or numbers that are added to the scores.
        """
        if query.ndim not in (2, 3) or key.ndim != query.ndim or value.ndim != query.ndim:
            types = [t._value.type for t in (query, key, value)]
            raise op_error(
                ShapeError, "MultiheadAttention", types, "tensors of 3 axes (or 2)", user_line()
            )
        alone = query.ndim == 2
        self_attention = query is key and key is value
        if alone:
            key_padding_mask = key_padding_mask[None] if key_padding_mask is not None else None
            query, key, value = (t[None] for t in (query, key, value))
        elif not self.batch_first:
            query, key, value = (t.permute_dims((1, 0, 2)) for t in (query, key, value))
        if self_attention:
            key = value = query
        source = key.shape[1]
        q, k, v = (self._heads(t) for t in self._extended(self._projected(query, key, value)))
        if self.add_zero_attn:
            k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
        mask = self._mask(q, source, key_padding_mask, attn_mask, is_causal)
        added_places = k.shape[2] - source
        if mask is not None and (self.bias_k is not None or self.add_zero_attn):
            mask = F.pad(mask, (0, added_places))
        p = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q / math.sqrt(self.head_dim)) @ k.permute_dims((0, 1, 3, 2))
            weights = F.softmax(scores if mask is None else scores + mask, -1)
            weights = F.dropout(weights, p)
            out = weights @ v
            if average_attn_weights:
                weights = weights.mean(axis=1)
            weights = weights[0] if alone else weights
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, p)
        batch, _, length, _ = out.shape
        out = out.permute_dims((0, 2, 1, 3)).reshape((batch, length, self.embed_dim))
        out = self.out_proj(out)
        if alone:
            return out[0], weights
        return (out if self.batch_first else out.permute_dims((1, 0, 2))), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, each (batch, length, embed_dim)."""
        width, whole, bias = self.embed_dim, self.in_proj_weight, self.in_proj_bias
        if whole is not None and query is key and key is value:
            joined = F.linear(query, whole, bias)
            return tuple(joined[..., i * width : (i + 1) * width] for i in range(3))
        if whole is not None:
            weights = [whole[i * width : (i + 1) * width] for i in range(3)]
        else:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        biases = [None if bias is None else bias[i * width : (i + 1) * width] for i in range(3)]
        inputs = (query, key, value)
        return tuple(F.linear(*args) for args in zip(inputs, weights, biases, strict=True))

    def _extended(self, projected: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Queries, and keys and values with bias_k and bias_v behind them."""
        if self.bias_k is None:
            return projected
        q, k, v = projected
        one = (q.shape[0], 1, self.embed_dim)
        k, v = (
            concat([t, bias.broadcast_to(one)], axis=1)
            for t, bias in ((k, self.bias_k), (v, self.bias_v))
        )
        return q, k, v

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, length, embed_dim) as (batch, head, length, head_dim)."""
        batch, length, _ = x.shape
        split = x.reshape((batch, length, self.num_heads, self.head_dim))
        return split.permute_dims((0, 2, 1, 3))

    def _mask(
        self,
        q: Tensor,
        source: int,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
        is_causal: bool,
    ) -> Tensor | None:
        """All masks together as numbers to add to scores (batch, head, target, source)."""
        batch, heads, target, _ = q.shape
        masks = []
        if key_padding_mask is not None:
            masks.append(added(key_padding_mask, q).reshape((batch, 1, 1, source)))
        if attn_mask is not None:
            mask = added(attn_mask, q)
            shape = (batch, heads, target, source) if mask.ndim == 3 else (target, source)
            masks.append(mask.reshape(shape))
        elif is_causal:
            later = arange(source) > arange(target).reshape((-1, 1))
            masks.append(added(later, q))
        if not masks:
            return None
        return masks[0] if len(masks) == 1 else masks[0] + masks[1]


def added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as numbers to add to scores: -inf where it is True."""
    if mask.dtype.is_bool:
        return where(mask, -math.inf, zeros((), dtype=like.dtype))
    return mask.astype(like.dtype)
