"""Transformer layers and stacks of them (Vaswani 2017), with PyTorch's names, defaults and keys."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from deepseek.errors import unknown
from deepseek.frontend.tensor import Tensor
from deepseek.nn import functional as F
from deepseek.nn import init
from deepseek.nn.attention import MultiheadAttention
from deepseek.nn.basic import Linear
from deepseek.nn.container import ModuleList
from deepseek.nn.dropouts import Dropout
from deepseek.nn.module import Module
from deepseek.nn.normalization import LayerNorm
from deepseek.ops.create import full, triu

__all__ = [
    "Transformer", "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder",
    "TransformerEncoderLayer",
]  # fmt: skip

Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Activation] = {"relu": F.relu, "gelu": F.gelu}


class _Layer(Module):
    """What encoder and decoder layers share: self attention, the feed-forward block, the norms."""

    settings = ("norm_first", "activation")

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if isinstance(activation, str) and activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        where = {"device": device, "dtype": dtype}
        self.self_attn = self._attention(d_model, nhead, dropout, bias, batch_first, where)
        if self.crosses:
            self.multihead_attn = self._attention(d_model, nhead, dropout, bias, batch_first, where)
        self.linear1 = Linear(d_model, dim_feedforward, bias, **where)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **where)
        self.norm_first = norm_first
        blocks = 3 if self.crosses else 2
        for i in range(1, blocks + 1):
            setattr(self, f"norm{i}", LayerNorm(d_model, layer_norm_eps, bias=bias, **where))
        for i in range(1, blocks + 1):
            setattr(self, f"dropout{i}", Dropout(dropout))
        self.activation = ACTIVATIONS[activation] if isinstance(activation, str) else activation

    crosses = False

    def _attention(
        self, d_model: int, nhead: int, dropout: float, bias: bool, batch_first: bool, where: Any
    ) -> MultiheadAttention:
        return MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **where)

    def _block(self, number: int, x: Tensor, function: Activation) -> Tensor:
        """x plus what a block makes of it, the norm before the block or after the sum."""
        norm, dropout = getattr(self, f"norm{number}"), getattr(self, f"dropout{number}")
        if self.norm_first:
            return x + dropout(function(norm(x)))
        return norm(x + dropout(function(x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class TransformerEncoderLayer(_Layer):
    """Self attention and a feed-forward block, each with a residual, dropout and a layer norm.

    Tensors are (length, batch, d_model), with `batch_first` (batch, length, d_model), or without a
    batch (length, d_model). Masks are True, or -inf, where attention is forbidden.

    >>> layer = ds.nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> layer(ds.ones(2, 5, 8)).shape
    (2, 5, 8)
    """

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        def attend(x: Tensor) -> Tensor:
            return self.self_attn(  # type: ignore[no-any-return]
                x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal
            )[0]

        return self._block(2, self._block(1, src, attend), self._feed_forward)


class TransformerDecoderLayer(_Layer):
    """Self attention, attention to the encoder's output (`memory`) and a feed-forward block.

    Shapes and masks are those of TransformerEncoderLayer.

    >>> layer = ds.nn.TransformerDecoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> layer(ds.ones(2, 5, 8), ds.ones(2, 7, 8), tgt_is_causal=True).shape
    (2, 5, 8)
    """

    crosses = True

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        def attend(x: Tensor) -> Tensor:
            return self.self_attn(  # type: ignore[no-any-return]
                x, x, x, tgt_key_padding_mask, False, tgt_mask, is_causal=tgt_is_causal
            )[0]

        def look_back(x: Tensor) -> Tensor:
            return self.multihead_attn(  # type: ignore[no-any-return]
                x, memory, memory, memory_key_padding_mask, False, memory_mask,
                is_causal=memory_is_causal,
            )[0]  # fmt: skip

        x = self._block(2, self._block(1, tgt, attend), look_back)
        return self._block(3, x, self._feed_forward)


class _Stack(Module):
    """Copies of a layer, one after the other, and a norm at the end if there is one."""

    def __init__(self, layer: Module, num_layers: int, norm: Module | None) -> None:
        super().__init__()
        self.layers = ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        self.num_layers = num_layers
        self.norm = norm

    def run(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        for layer in self.layers:
            x = layer(x, *args, **kwargs)
        return x if self.norm is None else self.norm(x)


class TransformerEncoder(_Stack):
    """`num_layers` copies of an encoder layer, then `norm`.

    >>> layer = ds.nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> ds.nn.TransformerEncoder(layer, num_layers=2)(ds.ones(2, 5, 8), is_causal=True).shape
    (2, 5, 8)
    """

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__(encoder_layer, num_layers, norm)

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        return self.run(src, mask, src_key_padding_mask, is_causal=is_causal)


class TransformerDecoder(_Stack):
    """`num_layers` copies of a decoder layer, then `norm`.

    >>> layer = ds.nn.TransformerDecoderLayer(16, 4, batch_first=True)
    >>> ds.nn.TransformerDecoder(layer, 2)(ds.randn(2, 5, 16), ds.randn(2, 7, 16)).shape
    (2, 5, 16)
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__(decoder_layer, num_layers, norm)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        return self.run(
            tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask,
            tgt_is_causal, memory_is_causal,
        )  # fmt: skip


class Transformer(Module):
    """An encoder and a decoder of the given depths and widths.

    >>> model = ds.nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    >>> model(ds.ones(2, 7, 8), ds.ones(2, 5, 8), tgt_is_causal=True).shape
    (2, 5, 8)
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Activation = "relu",
        custom_encoder: Module | None = None,
        custom_decoder: Module | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        given = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first,
                 norm_first, bias, device, dtype)  # fmt: skip

        def norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype)

        self.encoder = custom_encoder or TransformerEncoder(
            TransformerEncoderLayer(*given), num_encoder_layers, norm()
        )
        self.decoder = custom_decoder or TransformerDecoder(
            TransformerDecoderLayer(*given), num_decoder_layers, norm()
        )
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool = False,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        memory = self.encoder(src, src_mask, src_key_padding_mask, is_causal=src_is_causal)
        return self.decoder(  # type: ignore[no-any-return]
            tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask,
            tgt_is_causal, memory_is_causal,
        )  # fmt: skip

    @staticmethod
    def generate_square_subsequent_mask(size: int) -> Tensor:
        """A (size, size) mask of 0 and, above the diagonal, -inf.

        >>> ds.nn.Transformer.generate_square_subsequent_mask(2).numpy().tolist()
        [[0.0, -inf], [0.0, 0.0]]
        """
        return triu(full((size, size), -math.inf), 1)
