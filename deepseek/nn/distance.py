"""How far or how like vectors are, as modules."""

from __future__ import annotations

from deepseek.nn import functional as F
from deepseek.nn.simple import Function

__all__ = ["CosineSimilarity", "PairwiseDistance"]


class CosineSimilarity(Function):
    """The cosine of the angle between vectors along an axis."""

    function = F.cosine_similarity
    terse = True
    dim: int = 1
    eps: float = 1e-8


class PairwiseDistance(Function):
    """The p-norm of x1 - x2 + eps along the last axis."""

    function = F.pairwise_distance
    terse = True
    p: float = 2.0
    eps: float = 1e-6
    keepdim: bool = False
