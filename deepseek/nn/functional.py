"""The functions behind the layers, under PyTorch's names; most are ops."""

from __future__ import annotations

from deepseek.frontend.tensor import Tensor
from deepseek.ops import (
    abs,  # noqa: A004
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    arange,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    batch_norm,
    conv1d,
    conv2d,
    conv3d,
    cross_entropy,
    dropout,
    embedding,
    exp,
    flatten,
    gelu,
    instance_norm,
    layer_norm,
    linear,
    log1p,
    log_softmax,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    maximum,
    mse_loss,
    nll_loss,
    one_hot,
    pad,
    relu,
    scaled_dot_product_attention,
    sigmoid,
    silu,
    softmax,
    tanh,
    where,
    zeros,
)
from deepseek.ops.nn import reduced_loss, widened

REDUCTIONS = ("mean", "sum", "none")

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "arange",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "conv1d",
    "conv2d",
    "conv3d",
    "cross_entropy",
    "dropout",
    "embedding",
    "flatten",
    "gelu",
    "instance_norm",
    "l1_loss",
    "layer_norm",
    "linear",
    "log_softmax",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "mse_loss",
    "nll_loss",
    "one_hot",
    "pad",
    "relu",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
    "where",
    "zeros",
]


def l1_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:  # noqa: A002
    """|input - target|: each, their mean or their sum."""
    difference = abs(widened(input) - widened(target))
    return reduced_loss(difference, reduction, "l1_loss").astype(input.dtype)


def binary_cross_entropy_with_logits(
    input: Tensor,  # noqa: A002
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """-target * log(p) - (1 - target) * log(1 - p) with p = sigmoid(input).

    `weight` weighs each element, `pos_weight` the first of the two parts.
    """
    x, y = widened(input), widened(target)
    # log(1 + exp(-x)) without overflow.
    softplus = log1p(exp(-abs(x))) + maximum(-x, 0.0)
    if pos_weight is not None:
        softplus = (1 + (widened(pos_weight) - 1) * y) * softplus
    losses = (1 - y) * x + softplus
    if weight is not None:
        losses = losses * widened(weight)
    name = "binary_cross_entropy_with_logits"
    return reduced_loss(losses, reduction, name).astype(input.dtype)
