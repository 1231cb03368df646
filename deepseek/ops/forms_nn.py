"""How composites are written in ONNX: reductions by name, layers, losses, norms and pooling.

The same kind of functions as in `forms`: None where the operator does not mean the same, and the
composite is then written as what it expands to.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepseek.ir import scalar
from deepseek.ir.dtype import float32, float64, int64
from deepseek.ir.graph import Node
from deepseek.ir.shape import Shape, exprs, simplify, size_of
from deepseek.ops.forms import Form, form, types_of, uniform


def given(node: Node, inputs: tuple[str, ...], *names: str) -> list[str | None]:
    """A composite's tensor arguments by name, None for those that are attributes."""
    values = iter(inputs)
    found = {p: None if p in node.attrs else next(values) for p in node.op.parameters}
    return [found[n] for n in names]


def normal(axes: Any, rank: int) -> list[int]:
    """Axes as an op takes them, sorted and counted from the front."""
    some = range(rank) if axes is None else [axes] if isinstance(axes, int) else axes
    return sorted(a % rank for a in some)


def reduced(operator: str) -> Form:
    """A reduction with `axis` and `keepdims`: of floats, some of them, over some axes."""

    @form(operator)
    def write(b: Any, node: Node, x: str) -> Any:
        (type_,) = types_of(node)
        axes = normal(node.attrs["axis"], type_.rank) if type_.rank else []
        if not type_.dtype.is_float or not axes or type_.numel == 0:
            return None
        keepdims = int(node.attrs["keepdims"])
        return b.node(operator, x, b.array(np.array(axes, np.int64)), keepdims=keepdims)

    return write


# ------------------------------------------------------------------------------------ activations


@form("ReduceL2")
def vector_norm(b: Any, node: Node, x: str) -> Any:
    """ReduceL2 or ReduceL1 over some axes; other orders are expanded."""
    operator = {1: "ReduceL1", 2: "ReduceL2"}.get(node.attrs["ord"])
    return None if operator is None else reduced(operator)(b, node, x)


def widely(write: Form) -> Form:
    """The form for floats up to 32 bits, computed in float32.

    Some runtimes write Softplus out and overflow in 16 bits; few have it in float64.
    """

    @form("Softplus")
    def wide(b: Any, node: Node, x: str) -> Any:
        dtype = types_of(node)[0].dtype
        if dtype is float64 or not dtype.is_float:
            return None
        made = write(b, node, b.cast(x, float32))
        return None if made is None else b.cast(made, dtype)

    return wide


@widely
def softplus(b: Any, node: Node, x: str) -> Any:
    """Softplus, which agrees with x itself to the last digit beyond a threshold as high as that."""
    if node.attrs["beta"] != 1 or node.attrs["threshold"] < 17:
        return None
    return b.node("Softplus", x)


@widely
def logsigmoid(b: Any, node: Node, x: str) -> Any:
    """-softplus(-x)."""
    return b.node("Neg", b.node("Softplus", b.node("Neg", x)))


@widely
def mish(b: Any, node: Node, x: str) -> Any:
    """x * tanh(softplus(x)), for opsets without Mish."""
    return b.node("Mul", x, b.node("Tanh", b.node("Softplus", x)))


def clipped(low: Any, high: Any) -> Form:
    """Clip of floats between two numbers, or attributes of these names."""

    @form("Clip")
    def write(b: Any, node: Node, x: str) -> Any:
        (type_,) = types_of(node)
        ends = [node.attrs[e] if isinstance(e, str) else e for e in (low, high)]
        if not type_.dtype.is_float:
            return None
        return b.node("Clip", x, *(b.number(e, type_.dtype) for e in ends))

    return write


@form("HardSigmoid")
def hardsigmoid(b: Any, node: Node, x: str) -> Any:
    """HardSigmoid with the slope of 1 / 6, which it keeps as a float32."""
    (type_,) = types_of(node)
    if not type_.dtype.is_float or type_.dtype is float64:
        return None
    return b.node("HardSigmoid", x, alpha=1 / 6, beta=0.5)


@form("PRelu")
def prelu(b: Any, node: Node, x: str, weight: str) -> Any:
    """PRelu, its slopes standing at the axis of channels."""
    type_, slopes = types_of(node)
    if not _alike(node) or type_.rank < 2:
        return None
    column = (-1,) + (1,) * (type_.rank - 2)
    return b.node("PRelu", x, b.node("Reshape", weight, b.array(np.array(column))))


# ---------------------------------------------------------------------------------------- layers


@form("Gather")
def embedding(b: Any, node: Node, indices: str, weight: str) -> Any:
    """Gather as it is: an index out of range is the runtime's error."""
    return b.node("Gather", weight, indices, axis=0)


@form("OneHot")
def one_hot(b: Any, node: Node, x: str) -> Any:
    depth = b.size(node.attrs["num_classes"])
    return b.node("OneHot", b.cast(x, int64), depth, b.array([0, 1]))


@form("Gemm")
def linear(b: Any, node: Node, *inputs: str) -> Any:
    """Gemm for matrices, else MatMul and Add."""
    x, weight, bias = given(node, inputs, "x", "weight", "bias")
    type_ = types_of(node)[0]
    if any(t.dtype is not type_.dtype for t in types_of(node)):
        return None
    if type_.rank == 2:
        return b.node("Gemm", x, weight, *([bias] if bias else []), transB=1)
    product = b.node("MatMul", x, b.node("Transpose", weight, perm=[1, 0]))
    return product if bias is None else b.node("Add", product, bias)


# ------------------------------------------------------------------------ networks: losses, norms


def _alike(node: Node) -> bool:
    """Whether all inputs that are floats have the first one's dtype."""
    floats = [t.dtype for t in types_of(node) if t.dtype.is_float]
    return all(d is floats[0] for d in floats)


def class_loss(operator: str) -> Form:
    """SoftmaxCrossEntropyLoss or NegativeLogLikelihoodLoss: of classes, without smoothing."""

    @form(operator)
    def write(b: Any, node: Node, *inputs: str) -> Any:
        scores, target, weight = given(node, inputs, "input", "target", "weight")
        types = types_of(node)
        smooth = node.attrs.get("label_smoothing", 0)
        if smooth or types[0].rank < 2 or not types[1].dtype.is_integer or not _alike(node):
            return None
        return b.node(
            operator, scores, target, *([weight] if weight else []),
            ignore_index=node.attrs["ignore_index"], reduction=node.attrs["reduction"],
        )  # fmt: skip

    return write


def _or_ones(b: Any, value: str | None, shape: Shape, dtype: Any) -> str:
    """A weight, ones where there is none."""
    return uniform(b, 1, shape, dtype) if value is None else value


@form("LayerNormalization")
def layer_norm(b: Any, node: Node, *inputs: str) -> Any:
    x, weight, bias = given(node, inputs, "x", "weight", "bias")
    type_ = types_of(node)[0]
    shape = node.attrs["normalized_shape"]
    count = 1 if isinstance(shape, int) else len(shape)
    last = type_.shape[type_.rank - count :]
    static = all(isinstance(s, int) for s in last)
    if not static or not _alike(node) or type_.dtype is float64:
        return None  # the operator's statistics are float32
    scale = _or_ones(b, weight, last, type_.dtype)
    return b.node(
        "LayerNormalization", x, scale, *([bias] if bias else []), axis=-count,
        epsilon=node.attrs["eps"],
    )  # fmt: skip


@form("GroupNormalization", since=21)
def group_norm(b: Any, node: Node, *inputs: str) -> Any:
    """GroupNormalization, which had a scale for each group before opset 21."""
    x, weight, bias = given(node, inputs, "x", "weight", "bias")
    type_ = types_of(node)[0]
    channels = type_.shape[1]
    if not isinstance(channels, int) or not _alike(node) or type_.rank < 3:
        return None
    if type_.dtype is float64 or not type_.dtype.is_float or type_.numel == 0:
        return None  # the operator's statistics are float32
    scale = _or_ones(b, weight, (channels,), type_.dtype)
    shift = uniform(b, 0, (channels,), type_.dtype) if bias is None else bias
    return b.node(
        "GroupNormalization", x, scale, shift, num_groups=node.attrs["num_groups"],
        epsilon=node.attrs["eps"],
    )  # fmt: skip


@form("RMSNormalization")
def rms_norm(b: Any, node: Node, *inputs: str) -> Any:
    x, weight = given(node, inputs, "x", "weight")
    type_, shape = types_of(node)[0], node.attrs["normalized_shape"]
    count = 1 if isinstance(shape, int) else len(shape)
    last = type_.shape[type_.rank - count :]
    static = all(isinstance(s, int) for s in last)
    if not static or not _alike(node) or type_.dtype is float64 or not type_.dtype.is_float:
        return None
    eps = node.attrs["eps"]
    least = float(np.finfo(np.float32).eps) if eps is None else eps
    scale = _or_ones(b, weight, last, type_.dtype)
    return b.node("RMSNormalization", x, scale, axis=-count, epsilon=least)


@form("LRN")
def local_response_norm(b: Any, node: Node, x: str) -> Any:
    """LRN of images, whose even windows lie the other way round."""
    (type_,), a = types_of(node), node.attrs
    if a["size"] % 2 == 0 or type_.dtype is float64 or not type_.dtype.is_float:
        return None
    return b.node("LRN", x, size=a["size"], alpha=a["alpha"], beta=a["beta"], bias=a["k"])


@form("Col2Im")
def fold(b: Any, node: Node, x: str) -> Any:
    """Col2Im of a batch."""
    (type_,), a = types_of(node), node.attrs
    if type_.rank != 3 or not type_.dtype.is_float or type_.numel == 0:
        return None

    def pair(name: str) -> list[int]:
        value = a[name]
        return [value] * 2 if isinstance(value, int) else list(value)

    return b.node(
        "Col2Im", x, b.array(pair("output_size")), b.array(pair("kernel_size")),
        dilations=pair("dilation"), strides=pair("stride"), pads=pair("padding") * 2,
    )  # fmt: skip


@form("BatchNormalization")
def batch_norm(b: Any, node: Node, *inputs: str) -> Any:
    names = ("x", "weight", "bias", "running_mean", "running_var")
    x, weight, bias, mean_, var = given(node, inputs, *names)
    type_ = types_of(node)[0]
    channels = type_.shape[1]
    if node.attrs["training"] or not isinstance(channels, int):
        return None
    dtype = type_.dtype if weight is None and bias is None else b.dtypes[weight or bias]
    scale = _or_ones(b, weight, (channels,), dtype)
    shift = uniform(b, 0, (channels,), dtype) if bias is None else bias
    return b.node("BatchNormalization", x, scale, shift, mean_, var, epsilon=node.attrs["eps"])


@form("InstanceNormalization")
def instance_norm(b: Any, node: Node, *inputs: str) -> Any:
    x, weight, bias = given(node, inputs, "x", "weight", "bias")
    type_ = types_of(node)[0]
    channels = type_.shape[1]
    if not isinstance(channels, int) or not _alike(node):
        return None
    scale = _or_ones(b, weight, (channels,), type_.dtype)
    shift = uniform(b, 0, (channels,), type_.dtype) if bias is None else bias
    return b.node("InstanceNormalization", x, scale, shift, epsilon=node.attrs["eps"])


@form("Attention")
def attention(b: Any, node: Node, *inputs: str) -> Any:
    """Attention on (batch, heads, length, features), or without heads; batches do not broadcast.

    A row that a mask hides whole gives zeros there as here.
    """
    a = node.attrs
    query, key, value, mask = given(node, inputs, "query", "key", "value", "attn_mask")
    q, k, v = types_of(node)[:3]
    rank = q.rank
    if a["dropout_p"] or rank not in (3, 4) or k.rank != rank or v.rank != rank:
        return None
    if not _alike(node) or q.dtype.bits not in (16, 32):  # onnxruntime has none of float64
        return None
    shared = bool(a["enable_gqa"]) and rank == 4
    heads = [t.shape[1] for t in (q, k, v)]
    alike = [(t.shape[i], q.shape[i]) for t in (k, v) for i in range(1 if shared else rank - 2)]
    if shared and heads[1] != heads[2] or not all(x is y or x == y for x, y in alike):
        return None
    if mask is not None:
        seen = types_of(node)[3]
        if seen.rank > rank or not seen.rank or seen.shape[-1] != k.shape[-2]:
            return None
        if rank == 3 and seen.rank == 3:
            mask = b.node("Unsqueeze", mask, b.array([1]))
    single = {"q_num_heads": 1, "kv_num_heads": 1} if rank == 3 else {}
    scale = {} if a["scale"] is None else {"scale": a["scale"]}
    return b.node(
        "Attention", query, key, value, *([mask] if mask else []),
        is_causal=int(a["is_causal"]), **single, **scale,
    )  # fmt: skip


def _overhang(size: Any, window: int, stride: int, padding: int, dilation: int) -> int | None:
    """How far a last window, which has to begin inside, reaches beyond the padding in ceil mode."""
    if not isinstance(size, int):
        return None
    room = size + 2 * padding - dilation * (window - 1) - 1
    steps = -(-room // stride)
    steps -= steps * stride >= size + padding
    return max(0, steps * stride - room)


def pool(operator: str, where: bool = False, **names: str) -> Form:
    """MaxPool or AveragePool; an axis is put in front where there is no batch.

    `where` gives MaxPool's places instead, in the last axes flattened. Before opset 22 ceil mode
    lets windows begin in the padding; there the ends are padded instead.
    """

    @form(operator)
    def write(b: Any, node: Node, x: str) -> Any:
        (type_,), a = types_of(node), node.attrs
        window, pads = a["kernel_size"], a["padding"]
        lead = len(window) + 2 - type_.rank
        axes = b.array(np.arange(lead))
        further = {k: int(a[n]) if isinstance(a[n], bool) else a[n] for k, n in names.items()}
        ends = pads
        if further.get("ceil_mode") and b.opset < 22:
            given = (type_.shape[2 - lead :], window, a["stride"], pads,
                     a.get("dilation", (1,) * len(window)))  # fmt: skip
            over = [_overhang(*each) for each in zip(*given, strict=True)]
            counted = further.get("count_include_pad") and any(pads)
            ends = [p + (o or 0) for p, o in zip(pads, over, strict=True)]
            small = all(e < k for e, k in zip(ends, window, strict=True))
            if None in over or counted or not small:
                return None
            further["ceil_mode"] = 0
            if "count_include_pad" in further:
                further["count_include_pad"] = 0
        if lead > 0:
            x = b.node("Unsqueeze", x, axes)
        elif lead < 0:
            return None
        out = b.node(
            operator, x, kernel_shape=window, strides=a["stride"], pads=(*pads, *ends), **further,
            outputs=2 if where else 1,
        )  # fmt: skip
        if where:  # ONNX counts through batch and channels
            count = b.size(simplify(scalar.product(exprs(type_.shape[-len(window) :]))))
            out = b.node("Mod", out[1], b.node("Squeeze", count))
        return b.node("Squeeze", out, axes) if lead > 0 else out

    return write


# ----------------------------------------------------------------------------------------- images


def sampled(since: int) -> Form:
    """GridSample, which opset 16 has for images and 20 for volumes too."""

    @form("GridSample", since=since)
    def write(b: Any, node: Node, x: str, grid: str) -> Any:
        (type_, places), a = types_of(node), node.attrs
        wide = float64 in (type_.dtype, places.dtype)  # few runtimes have that
        if wide or not type_.dtype.is_float or type_.rank > 4 and since < 20 or type_.numel == 0:
            return None
        mode = {"bilinear": "linear", "bicubic": "cubic"}.get(a["mode"], a["mode"])
        made = b.node(
            "GridSample", b.cast(x, float32), b.cast(grid, float32), mode=mode,
            padding_mode=a["padding_mode"], align_corners=int(bool(a["align_corners"])),
        )  # fmt: skip
        return b.cast(made, type_.dtype)

    return write


grid_sample = (sampled(20), sampled(16))


@form("AffineGrid")
def affine_grid(b: Any, node: Node, theta: str) -> Any:
    """AffineGrid, for which the only element of an axis with aligned corners is its first."""
    (type_,), aligned = types_of(node), bool(node.attrs["align_corners"])
    size = tuple(size_of(s) for s in node.attrs["size"])
    single = any(not isinstance(s, int) or s == 1 for s in size[2:])
    if type_.dtype is float64 or aligned and single:
        return None
    made = b.node("AffineGrid", b.cast(theta, float32), b.shape(size), align_corners=int(aligned))
    return b.cast(made, type_.dtype)
