"""nn.functional: activations, losses, convolutions, poolings, normalisations, attention.

Nearly all have PyTorch's names and arguments; those are in no table.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from adapt import LOG_SOFTMAX, Entry, LeftOut, same, via

import deepseek as ds

F = ds.nn.functional


def padded(mode: str) -> Entry:
    def call(x: Any, pad: Any, mode: str = mode, value: Any = None) -> Any:
        return F.pad(x, pad, mode=mode, value=0 if value is None else value)

    return via("pad", call)


def resized(mode: str) -> Entry:
    def call(x: Any, size: Any = None, scale_factor: Any = None, mode: str = mode,
             align_corners: Any = None, recompute_scale_factor: Any = None,
             antialias: bool = False) -> Any:  # fmt: skip
        return F.interpolate(x, size=size, scale_factor=scale_factor, mode=mode,
                             align_corners=align_corners, **{
                                 k: v for k, v in (
                                     ("recompute_scale_factor", recompute_scale_factor),
                                     ("antialias", antialias)) if v})  # fmt: skip

    return via("interpolate", call)


def sampled(x: Any, grid: Any, mode: int, padding: int, align_corners: bool) -> Any:
    return F.grid_sample(
        x, grid, ("bilinear", "nearest", "bicubic")[mode],
        ("zeros", "border", "reflection")[padding], align_corners,
    )  # fmt: skip


def looked_up(
    weight: Any, index: Any, max_norm: Any = None, norm_type: float = 2.0,
    scale_grad_by_freq: bool = False, sparse: bool = False, **rest: Any,
) -> Any:  # fmt: skip
    return F.embedding(index, weight, **rest)


def not_in_place(weight: Any, *_: Any, max_norm: Any = None, scale_grad_by_freq: bool = False,
                 **__: Any) -> str | None:  # fmt: skip
    if max_norm is not None:
        return "changes the weight in place"
    return "gradients scaled by frequency" if scale_grad_by_freq else None


def bagged(
    weight: Any, index: Any, offsets: Any = None, max_norm: Any = None, norm_type: float = 2.0,
    sparse: bool = False, **rest: Any,
) -> Any:  # fmt: skip
    return F.embedding_bag(index, weight, offsets, **rest)


def renormed(weight: Any, *_: Any, max_norm: Any = None, **__: Any) -> str | None:
    return None if max_norm is None else "changes the weight in place"


def grouped(x: Any, weight: Any, bias: Any, n: int, c: int, hw: int, group: int, eps: float) -> Any:
    return F.group_norm(x, group, weight, bias, eps)


def no_channels(x: Any, *_: Any, **__: Any) -> str | None:
    return "a batch without channels" if x.ndim < 2 else None


def no_dims(x: Any, *_: Any, **__: Any) -> str | None:
    return "a batch of one, given without its dim" if x.ndim < 2 else None


def nothing_left(x: Any, pad: Any, *_: Any, **__: Any) -> str | None:
    pairs = zip(pad[::2], x.shape[::-1], strict=False)
    pairs = [*pairs, *zip(pad[1::2], x.shape[::-1], strict=False)]
    gone = any(p + size <= 0 for p, size in pairs)
    return "nothing is left that could be repeated" if gone else None


def classified(
    x: Any, weights: Any, target: Any, *, linear_bias: Any = None, ignore_index: Any = None,
    options: Any = None, **rest: Any,
) -> Any:  # fmt: skip
    if weights.ndim != 2:
        raise LeftOut("classes in an array of several dims")
    if ignore_index is not None:
        rest["ignore_index"] = ignore_index
    return F.cross_entropy(F.linear(x, weights, linear_bias), target, **rest)


ENTRIES: dict[str, Entry] = {
    "softmax": same("softmax"),
    "softmax.with_dtype": same("softmax"),
    "log_softmax": same("log_softmax"),
    "log_softmax.with_dtype": same("log_softmax"),
    "nn.functional.pad.constant": padded("constant"),
    "nn.functional.pad.reflect": padded("reflect"),
    "nn.functional.pad.replicate": padded("replicate"),
    "nn.functional.pad.replicate_negative": replace(padded("replicate"), left_out=nothing_left),
    "nn.functional.pad.circular": padded("circular"),
    "constant_pad_nd": via("pad", lambda x, pad, value=0: F.pad(x, pad, value=value)),
    "nn.functional.interpolate.nearest": resized("nearest"),
    "nn.functional.interpolate.nearest-exact": resized("nearest-exact"),
    "nn.functional.interpolate.linear": resized("linear"),
    "nn.functional.interpolate.bilinear": resized("bilinear"),
    "nn.functional.interpolate.bicubic": resized("bicubic"),
    "nn.functional.interpolate.trilinear": resized("trilinear"),
    "nn.functional.interpolate.area": resized("area"),
    "nn.functional.upsample_nearest": resized("nearest"),
    "nn.functional.upsample_bilinear": via("interpolate", lambda x, size=None, scale_factor=None: (
        F.interpolate(x, size=size, scale_factor=scale_factor, mode="bilinear",
                      align_corners=True))),
    "nn.functional.embedding": via("embedding", looked_up, left_out=not_in_place, lenient={
        "must be 2-D": "what is looked up may have any shape"}),
    "nn.functional.embedding_bag": via("embedding_bag", bagged, left_out=renormed),
    "nn.functional.ctc_loss": same("ctc_loss", before=LOG_SOFTMAX),
    "nn.functional.feature_alpha_dropout.with_train": same(
        "feature_alpha_dropout", left_out=no_channels
    ),
    "nn.functional.feature_alpha_dropout.without_train": same(
        "feature_alpha_dropout", left_out=no_channels
    ),
    "nn.functional.fractional_max_pool2d": same(
        "fractional_max_pool2d", check="type", gradients=False
    ),
    "nn.functional.fractional_max_pool3d": same(
        "fractional_max_pool3d", check="type", gradients=False
    ),
    # Where windows overlap PyTorch gives the gradient to each of them that chose an element; the
    # `.grad` variants, whose places differ, are compared.
    "nn.functional.max_unpool1d": same("max_unpool1d", gradients=False),
    "nn.functional.max_unpool2d": same("max_unpool2d", gradients=False),
    "nn.functional.max_unpool3d": same("max_unpool3d", gradients=False),
    **{
        f"nn.functional.linear_cross_entropy{variant}": via("linear cross_entropy", classified)
        for variant in ("", ".chunked", ".chunked_none")
    },
    "nn.functional.batch_norm": same("batch_norm", left_out=no_channels),
    "nn.functional.multi_margin_loss": same("multi_margin_loss", left_out=no_dims),
    "nn.functional.multilabel_margin_loss": same("multilabel_margin_loss", left_out=no_dims),
    "grid_sampler_2d": via("grid_sample", sampled),
    "grid_sampler_3d": via("grid_sample", sampled),
    "native_layer_norm": via("layer_norm", lambda x, shape, weight, bias, eps: F.layer_norm(
        x, shape, weight, bias, eps), outputs=lambda out: out[0]),
    "native_group_norm": via("group_norm", grouped, outputs=lambda out: out[0]),
}  # fmt: skip
