"""Creation: tensors from numbers, sizes, NumPy arrays, lists and anything that speaks DLPack.

Sizes may be `Dim`s. Floats default to float32. Constants are recorded, so they cost nothing until
used.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, DTypeError, ShapeError, op_error, unknown, user_line
from deepseek.frontend.tensor import CPU, Device, Tensor, from_numpy, record
from deepseek.ir import scalar
from deepseek.ir.dtype import DTYPES, DType, bool_, dtype_of, float32, float64, int64, scalar_dtype
from deepseek.ir.op import Kind, Sample
from deepseek.ir.scalar import Expr, as_expr, cast, const
from deepseek.ir.shape import (
    Dim,
    Shape,
    Size,
    TensorType,
    current_sizes,
    dim,
    size_of,
    tensor_type,
)
from deepseek.ir.shape import shape_of as given_shape
from deepseek.ops import forms
from deepseek.ops.define import (
    as_tensor,
    converted,
    describe,
    filled,
    op_of,
    primitive,
    shape_of,
)
from deepseek.ops.elementwise import where
from deepseek.ops.methods import attribute, method
from deepseek.ops.view import stack

__all__ = [
    "arange", "array", "asarray", "empty", "empty_like", "eye", "from_dlpack", "full",
    "full_like", "linspace", "ones", "ones_like", "tril", "triu", "zeros", "zeros_like",
]  # fmt: skip

Index = tuple[Expr, ...]
DEVICES = (str(CPU),)


def check_device(device: Any) -> None:
    """Raises ArgumentError, listing the valid ones, unless tensors can live on the device."""
    if device is not None and str(device).partition(":")[0] not in DEVICES:
        raise unknown("device", str(device), DEVICES)


def finished(x: Tensor, requires_grad: bool) -> Tensor:
    """A new tensor with its gradient flag set."""
    return x.requires_grad_() if requires_grad else x


# ------------------------------------------------------------------------------------------- full


def _full_meaning(index: Index, out: TensorType, *, shape: Shape, value: Any, dtype: DType) -> Expr:
    if isinstance(value, Expr):
        return cast(value, dtype)
    return const(value, dtype)


def _full_reference(*, shape: Any, value: Any, dtype: DType) -> Any:
    if dtype.is_integer and isinstance(value, int):  # wraps, as a cast does
        value = np.asarray(value & (2**dtype.bits - 1), np.uint64).astype(dtype.numpy)
    return np.full(shape, value, dtype.numpy)


@primitive(
    Kind.CREATE,
    infer=lambda *, shape, value, dtype: (tensor_type(dtype, shape),),
    meaning=_full_meaning,
    reference=_full_reference,
    samples=lambda: [
        *(Sample((), {"shape": (3, 5), "fill_value": 1, "dtype": d}) for d in DTYPES.values()),
        Sample((), {"shape": (37,), "fill_value": -1.5}),
        Sample((), {"shape": (), "fill_value": -math.inf}),
        Sample((), {"shape": (2, 0), "fill_value": True}),
    ],
    onnx=forms.filled,
)
def full(
    shape: Any,
    fill_value: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of the given shape, every element `fill_value`, whose type decides the dtype.

    >>> ds.full((2, 2), 7)
    tensor([[7, 7],
            [7, 7]])
    """
    check_device(device)
    if isinstance(fill_value, Tensor):
        value = fill_value if dtype is None else converted(fill_value, dtype_of(dtype))
        return finished(value.broadcast_to(given_shape(shape)), requires_grad)
    if type(fill_value) is not Dim and not isinstance(fill_value, (bool, int, float)):
        fill_value = np.asarray(fill_value).item()
    made = dtype_of(dtype) if dtype is not None else scalar_dtype(fill_value)
    return finished(filled(given_shape(shape), fill_value, made), requires_grad)


def zeros(
    *shape: Any, dtype: Any = float32, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of zeros, float32 by default: `zeros((2, 3))` or `zeros(2, 3)`.

    >>> ds.zeros(2, 3).shape
    (2, 3)
    """
    return full(sizes(shape), 0, dtype=dtype, device=device, requires_grad=requires_grad)


def ones(
    *shape: Any, dtype: Any = float32, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of ones, float32 by default: `ones((2, 3))` or `ones(2, 3)`.

    >>> ds.ones(2, dtype=ds.int64)
    tensor([1, 1])
    """
    return full(sizes(shape), 1, dtype=dtype, device=device, requires_grad=requires_grad)


def empty(
    *shape: Any, dtype: Any = float32, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A tensor whose elements are not promised to be anything; they are zeros.

    >>> ds.empty(2, 3).shape
    (2, 3)
    """
    return zeros(*shape, dtype=dtype, device=device, requires_grad=requires_grad)


def sizes(shape: tuple[Any, ...]) -> Any:
    """A shape given as one tuple or as separate sizes."""
    return shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape


def full_like(
    x: Tensor, /, fill_value: Any, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """A tensor of x's shape and (by default) dtype, every element `fill_value`.

    >>> ds.full_like(ds.zeros(3), 0.5)
    tensor([0.5, 0.5, 0.5])
    """
    made = x.dtype if dtype is None else dtype
    return full(shape_of(x), fill_value, dtype=made, device=device, requires_grad=requires_grad)


def zeros_like(
    x: Tensor, /, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Zeros of x's shape and (by default) dtype.

    >>> ds.zeros_like(ds.asarray([2, 3]))
    tensor([0, 0])
    """
    return full_like(x, 0, dtype=dtype, device=device, requires_grad=requires_grad)


def ones_like(
    x: Tensor, /, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Ones of x's shape and (by default) dtype.

    >>> ds.ones_like(ds.asarray([2, 3]))
    tensor([1, 1])
    """
    return full_like(x, 1, dtype=dtype, device=device, requires_grad=requires_grad)


def empty_like(
    x: Tensor, /, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A tensor like x whose elements are not promised to be anything; they are zeros.

    >>> ds.empty_like(ds.ones(2, 3)).shape
    (2, 3)
    """
    return zeros_like(x, dtype=dtype, device=device, requires_grad=requires_grad)


# ----------------------------------------------------------------------------------------- arange


def _arange_meaning(
    index: Index, out: TensorType, *, size: Size, first: float, step: float, dtype: DType
) -> Expr:
    if dtype.is_integer:
        return cast(scalar.add(scalar.mul(index[0], as_expr(step)), as_expr(first)), dtype)  # type: ignore[arg-type]
    # In float64, so that long ranges do not drift.
    at = cast(index[0], float64)
    scaled = scalar.mul(at, const(step, float64))
    return cast(scalar.add(scaled, const(first, float64)), dtype)


@primitive(
    Kind.CREATE,
    infer=lambda *, size, first, step, dtype: (tensor_type(dtype, (size,)),),
    meaning=_arange_meaning,
    reference=lambda *, size, first, step, dtype: (first + np.arange(size) * step).astype(
        dtype.numpy
    ),
    samples=lambda: [
        Sample((37,), {}),
        Sample((5,), {"stop": -6, "step": -3, "dtype": DTYPES["int8"]}),
        Sample((0.5,), {"stop": 3, "step": 0.3}),
        Sample((7,), {"dtype": DTYPES["bfloat16"]}),
        Sample((-1,), {"stop": 1, "step": 1e-3, "dtype": float64}),
        Sample((3,), {"stop": 3}),
    ],
)
def arange(
    start: Any, /, stop: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """start, start + step, ... below stop; from 0 where only one bound is given.

    int64 for integers, else float32. Raises ArgumentError for a step of 0. DTypeError for truth
    values.

    >>> ds.arange(3), ds.arange(1, 2, 0.5)
    (tensor([0, 1, 2]), tensor([1. , 1.5]))
    """
    check_device(device)
    if stop is None:
        start, stop = 0, start
    start, stop, step = (
        dim(v, current_sizes()) if isinstance(v, Expr) else v for v in (start, stop, step)
    )
    if step == 0:
        raise op_error(ArgumentError, "arange", "step 0", "a step that is not 0", user_line())
    whole = all(isinstance(v, int) for v in (start, stop, step))
    first: Any
    if whole:
        count = -((start - stop) // step)
        size, first, step = size_of(count) if count > 0 else 0, size_of(start), size_of(step)
    else:
        first, step = float(start), float(step)
        count = (float(stop) - first) / step
        if not math.isfinite(count):
            raise op_error(
                ArgumentError, "arange", f"from {start} to {stop} in steps of {step}",
                "finite bounds", user_line(),
            )  # fmt: skip
        size = max(0, math.ceil(count))
    made = dtype_of(dtype) if dtype is not None else int64 if whole else float32
    if made is bool_:
        raise op_error(DTypeError, "arange", "dtype bool", "a dtype of numbers", user_line())
    out: Tensor = record(op_of(arange), size=size, first=first, step=step, dtype=made)
    return finished(out, requires_grad)


def places_along(x: Tensor, axis: int) -> Tensor:
    """0, 1, ... along an axis of x (int64), in a shape that broadcasts with x."""
    return arange(shape_of(x)[axis]).reshape((-1,) + (1,) * (x.ndim - axis - 1))


def linspace(
    start: float, stop: float, /, num: int, *, dtype: Any = None, device: Any = None,
    endpoint: bool = True, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """`num` evenly spaced numbers from start to stop, which `endpoint` says is one of them.

    >>> ds.linspace(0, 1, 5)
    tensor([0.  , 0.25, 0.5 , 0.75, 1.  ])
    """
    num = _count("linspace", num)
    made = dtype_of(dtype) if dtype is not None else float32
    gaps = max(num - 1 if endpoint else num, 1)
    step = (stop - start) / gaps
    i = arange(num, dtype=float64, device=device)
    # Counted from both ends, so that both are exact.
    x = where(i < gaps / 2, start + i * step, stop - (gaps - i) * step)
    if num == 1:
        x = full((1,), float(start), dtype=float64)
    return finished(converted(x, made), requires_grad)


def eye(
    n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = float32,
    device: Any = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """A matrix with ones on the k-th diagonal and zeros elsewhere.

    >>> ds.eye(2, 3, k=1)
    tensor([[0., 1., 0.],
            [0., 0., 1.]])
    """
    n_rows, n_cols = _count("eye", n_rows), None if n_cols is None else _count("eye", n_cols)
    rows = arange(n_rows, device=device).reshape((-1, 1))
    columns = arange(n_rows if n_cols is None else n_cols)
    return finished(converted(rows + k == columns, dtype_of(dtype)), requires_grad)


def _count(op: str, given: Any) -> Any:
    """A number of things: an integer (or a size) that is not below 0."""
    try:
        count = given if isinstance(given, Expr) else operator.index(given)
    except TypeError:
        raise op_error(
            DTypeError, op, f"{given!r}", "an integer for a number of elements", user_line()
        ) from None
    if isinstance(count, int) and count < 0:
        raise op_error(ArgumentError, op, f"{given} elements", "0 or more", user_line())
    return count


@method("tril")
def tril(x: Tensor, /, diagonal: int = 0) -> Tensor:
    """The lower triangles of x's matrices, up to a diagonal; zeros above.

    Raises ShapeError for fewer than two axes.

    >>> ds.tril(ds.ones(2, 3))
    tensor([[1., 0., 0.],
            [1., 1., 0.]])
    """
    rows, columns = _matrix_places("tril", x)
    return where(columns <= rows + diagonal, x, 0)


@method("triu")
def triu(x: Tensor, /, diagonal: int = 0) -> Tensor:
    """The upper triangles of x's matrices, from a diagonal on; zeros below.

    Raises ShapeError for fewer than two axes.

    >>> ds.triu(ds.ones(2, 3), 1)
    tensor([[0., 1., 1.],
            [0., 0., 1.]])
    """
    rows, columns = _matrix_places("triu", x)
    return where(columns >= rows + diagonal, x, 0)


def _matrix_places(op: str, x: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim < 2:
        raise op_error(ShapeError, op, describe(x), "at least two axes", user_line())
    m, n = x.shape[-2:]
    return arange(m).reshape((m, 1)), arange(n)


# ---------------------------------------------------------------------------- from other things


def asarray(
    obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """A tensor from a tensor, number, NumPy array, nested list or DLPack exporter.

    Python floats become float32, NumPy arrays keep their dtype. The elements are copied unless obj
    is a tensor. Raises DTypeError for dtypes that deepseek does not have. ShapeError for lists of
    rows of unequal length.

    >>> ds.asarray([[1, 2], [3, 4]]), ds.asarray(np.float64(0.5))
    (tensor([[1, 2],
            [3, 4]]), tensor(0.5, dtype=float64))
    """
    check_device(device)
    wanted = None if dtype is None else dtype_of(dtype)
    if isinstance(obj, Tensor):
        out = obj if wanted is None else converted(obj, wanted)
        return out.detach().requires_grad_() if requires_grad else out
    if not isinstance(obj, (np.ndarray, np.generic)) and hasattr(obj, "__dlpack__"):
        obj = np.from_dlpack(obj)
    plain = not isinstance(obj, (np.ndarray, np.generic)) and not hasattr(obj, "__array__")
    if plain and _holds_tensors(obj):
        return finished(_stacked(obj, wanted), requires_grad)
    try:
        array = np.asarray(obj)
    except ValueError as error:
        raise op_error(
            ShapeError, "asarray", f"a nested list ({error})", "rows of equal length", user_line()
        ) from None
    if wanted is None:
        wanted = _natural_dtype(array, plain)
    return finished(
        from_numpy(scalar.convert(array, wanted), wanted, label="asarray"), requires_grad
    )


def _natural_dtype(array: np.ndarray[Any, Any], plain: bool) -> DType:
    if plain and array.dtype.kind == "f":
        return float32
    try:
        return dtype_of(array.dtype)
    except ArgumentError:
        raise op_error(
            DTypeError, "asarray", f"an array of {array.dtype}", f"one of {', '.join(DTYPES)}",
            user_line(), "convert it in NumPy first",
        ) from None  # fmt: skip


def _holds_tensors(obj: Any) -> bool:
    return isinstance(obj, (list, tuple)) and any(
        isinstance(item, Tensor) or _holds_tensors(item) for item in obj
    )


def _stacked(obj: Any, dtype: DType | None) -> Tensor:
    if not isinstance(obj, (list, tuple)):
        return as_tensor(obj, "asarray", dtype)
    return stack([_stacked(item, dtype) for item in obj])


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor with a copy of the elements of a DLPack exporter on the CPU.

    >>> ds.from_dlpack(np.asarray([1.0, 2.0]))
    tensor([1., 2.], dtype=float64)
    """
    check_device(device)
    array = np.from_dlpack(x)
    return from_numpy(array, _natural_dtype(array, False), label="from_dlpack")


def array(
    data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A new leaf with a copy of anything that `asarray` takes, as NumPy's `array` makes one.

    >>> ds.array([[1, 2], [3, 4]]).shape
    (2, 2)
    """
    out = asarray(data, dtype=dtype, device=device, copy=True)
    return finished(out.detach() if isinstance(data, Tensor) else out, requires_grad)


def _to(x: Tensor, /, *targets: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """x with another dtype and on another device, given in any order. Text that is no dtype's name
    is a device's.
    """
    for target in targets:
        text = isinstance(target, str) and target not in DTYPES
        if text or isinstance(target, Device):
            device = target
        else:
            dtype = target
    check_device(device)
    return x if dtype is None else converted(x, dtype_of(dtype))


attribute("to", _to, __name__)
