"""Dropout as modules: of elements, of channels, and for networks of SELUs."""

from __future__ import annotations

from deepseek.errors import ArgumentError
from deepseek.nn import functional as F
from deepseek.nn.simple import Function

__all__ = [
    "AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout",
]  # fmt: skip


class _Dropout(Function):
    """What all have: a probability, and nothing done outside training."""

    p: float = 0.5
    inplace: bool = False

    def settle(self) -> None:
        if not 0 <= self.p <= 1:
            raise ArgumentError(f"{type(self).__name__}: got p={self.p}; wanted a probability")

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """In training, sets elements to 0 with probability p and divides the others by 1 - p."""

    function = F.dropout


class Dropout1d(_Dropout):
    """Dropout of whole channels of (batch, channels, length), or without a batch."""

    function = F.dropout1d


class Dropout2d(_Dropout):
    """Dropout of whole channels of (batch, channels, height, width)."""

    function = F.dropout2d


class Dropout3d(_Dropout):
    """Dropout of whole channels of (batch, channels, depth, height, width), or without a batch."""

    function = F.dropout3d


class AlphaDropout(_Dropout):
    """Dropout that keeps mean 0 and variance 1, for networks of SELUs (Klambauer 2017)."""

    function = F.alpha_dropout


class FeatureAlphaDropout(_Dropout):
    """AlphaDropout of whole channels of (batch, channels, ...)."""

    function = F.feature_alpha_dropout
