"""Losses as modules, with PyTorch's names and settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deepseek.frontend.tensor import Tensor
from deepseek.nn import functional as F
from deepseek.nn.simple import Loss

__all__ = [
    "BCELoss", "BCEWithLogitsLoss", "CTCLoss", "CosineEmbeddingLoss", "CrossEntropyLoss",
    "GaussianNLLLoss", "HingeEmbeddingLoss", "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss",
    "MarginRankingLoss", "MultiLabelMarginLoss", "MultiLabelSoftMarginLoss", "MultiMarginLoss",
    "NLLLoss", "PoissonNLLLoss", "SmoothL1Loss", "SoftMarginLoss", "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
]  # fmt: skip


class MSELoss(Loss):
    """(input - target)**2."""

    function = F.mse_loss


class L1Loss(Loss):
    """|input - target|."""

    function = F.l1_loss


class SmoothL1Loss(Loss):
    """Half the square over beta where |input - target| is below beta, else |...| - beta / 2."""

    function = F.smooth_l1_loss
    reduction: str = "mean"
    beta: float = 1.0


class HuberLoss(Loss):
    """Half the square where |input - target| is below delta, else delta * (|...| - delta / 2)."""

    function = F.huber_loss
    reduction: str = "mean"
    delta: float = 1.0


class NLLLoss(Loss):
    """-input[class], input being log-probabilities (batch, classes, ...), target the classes."""

    function = F.nll_loss
    weight: Tensor | None = None
    ignore_index: int = -100


class CrossEntropyLoss(Loss):
    """-log(softmax(input)[class]), input being (batch, classes, ...).

    Targets are the classes, or probabilities shaped like the input.
    """

    function = F.cross_entropy
    weight: Tensor | None = None
    ignore_index: int = -100
    reduction: str = "mean"
    label_smoothing: float = 0.0


class BCELoss(Loss):
    """Cross entropy of the probability input with the target, each in [0, 1]."""

    function = F.binary_cross_entropy
    weight: Tensor | None = None


class BCEWithLogitsLoss(Loss):
    """Cross entropy of the probability sigmoid(input) with the target, each in [0, 1].

    `pos_weight` weighs the positive part.
    """

    function = F.binary_cross_entropy_with_logits
    weight: Tensor | None = None
    reduction: str = "mean"
    pos_weight: Tensor | None = None


class KLDivLoss(Loss):
    """target * (log(target) - input), input being log-probabilities; "batchmean" is a reduction."""

    function = F.kl_div
    reductions = ("mean", "sum", "none", "batchmean")
    reduction: str = "mean"
    log_target: bool = False


class PoissonNLLLoss(Loss):
    """exp(input) - target * input: -log P(target) for a Poisson variable, without its constant."""

    function = F.poisson_nll_loss
    log_input: bool = True
    full: bool = False
    eps: float = 1e-8


class GaussianNLLLoss(Loss):
    """(log(var) + (input - target)**2 / var) / 2, called with (input, target, var)."""

    function = F.gaussian_nll_loss
    full: bool = False
    eps: float = 1e-6


class HingeEmbeddingLoss(Loss):
    """The distance input where target is 1, max(0, margin - input) where it is -1."""

    function = F.hinge_embedding_loss
    margin: float = 1.0


class MarginRankingLoss(Loss):
    """max(0, -target * (input1 - input2) + margin), called with (input1, input2, target)."""

    function = F.margin_ranking_loss
    margin: float = 0.0


class CosineEmbeddingLoss(Loss):
    """1 - cos where target is 1, max(0, cos - margin) where it is -1; (input1, input2, target)."""

    function = F.cosine_embedding_loss
    margin: float = 0.0


class SoftMarginLoss(Loss):
    """log(1 + exp(-target * input)), target being 1 or -1."""

    function = F.soft_margin_loss


class MultiMarginLoss(Loss):
    """Each class's max(0, margin - input[class] + input)**p, over the classes but the right one."""

    function = F.multi_margin_loss
    p: int = 1
    margin: float = 1.0
    weight: Tensor | None = None


class MultiLabelMarginLoss(Loss):
    """max(0, 1 - input[right] + input[wrong]) over all pairs; targets list classes up to a -1."""

    function = F.multilabel_margin_loss


class MultiLabelSoftMarginLoss(Loss):
    """The mean over the classes of each one's binary cross entropy with sigmoid(input)."""

    function = F.multilabel_soft_margin_loss
    weight: Tensor | None = None


class TripletMarginLoss(Loss):
    """max(0, d(anchor, positive) - d(anchor, negative) + margin), d being a p-norm."""

    function = F.triplet_margin_loss
    margin: float = 1.0
    p: float = 2.0
    eps: float = 1e-6
    swap: bool = False


class TripletMarginWithDistanceLoss(Loss):
    """max(0, d(anchor, positive) - d(anchor, negative) + margin), d being a function of two
    tensors, `F.pairwise_distance` by default. All settings are given by name.

    >>> def far(a, b): return ds.abs(a - b).max(axis=-1)
    >>> loss = ds.nn.TripletMarginWithDistanceLoss(distance_function=far, margin=2.0)
    >>> loss(ds.zeros((1, 3)), ds.ones((1, 3)), ds.ones((1, 3)) * 2)
    tensor(1.)
    """

    function = F.triplet_margin_with_distance_loss
    distance_function: Callable[[Any, Any], Any] | None = None
    margin: float = 1.0
    swap: bool = False
    reduction: str = "mean"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)


class CTCLoss(Loss):
    """-log P(labels) without their places in time (Graves 2006); see `F.ctc_loss`.

    Called with (log_probs, targets, input_lengths, target_lengths).
    """

    function = F.ctc_loss
    blank: int = 0
    reduction: str = "mean"
    zero_infinity: bool = False
