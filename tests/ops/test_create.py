"""Creation: values against NumPy, sources that tensors are made from, and what is refused."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

import deepseek as ds
from deepseek.errors import ArgumentError, DTypeError, ShapeError
from deepseek.ir.dtype import DTYPES


@pytest.mark.parametrize("dtype", list(DTYPES.values()), ids=str)
def test_arrays_keep_their_dtype_and_elements(dtype) -> None:  # noqa: ANN001
    array = np.arange(6).reshape(2, 3).astype(dtype.numpy)
    x = ds.asarray(array)
    assert x.dtype is dtype and np.array_equal(x.numpy(), array)
    array[0, 0] = 1
    assert x.numpy()[0, 0] == 0, "the elements are a copy"


def test_python_numbers_and_lists_take_default_dtypes() -> None:
    assert ds.asarray(1.5).dtype is ds.float32
    assert ds.asarray([1, 2]).dtype is ds.int64
    assert ds.asarray([[True], [False]]).dtype is ds.bool_
    assert ds.asarray([1, 2.5]).tolist() == [1, 2.5]
    assert ds.asarray([1, 2], dtype="bfloat16").numpy().dtype == ml_dtypes.bfloat16
    assert ds.asarray([]).shape == (0,)


def test_lists_of_tensors_are_stacked() -> None:
    x = ds.asarray([[ds.asarray(1.0), 2], [3, ds.asarray(4.0)]])
    assert x.shape == (2, 2) and x.tolist() == [[1, 2], [3, 4]]


def test_tensors_pass_through_asarray_and_lose_their_history_in_array() -> None:
    w = ds.ones(2, requires_grad=True)
    assert ds.asarray(w) is w
    assert not ds.array(w * 2).requires_grad
    assert ds.array([1.0], requires_grad=True).requires_grad


def test_dlpack_goes_both_ways() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    x = ds.from_dlpack(array)
    assert x.dtype is ds.int32 and np.array_equal(x.numpy(), array)
    assert np.array_equal(np.from_dlpack(x * 2), array * 2)


@pytest.mark.parametrize(
    "args", [(5,), (2, 7), (7, 2), (7, 2, -2), (0, 10, 3), (0.5, 2.0, 0.25), (1, 2, 0.3), (3, 3)]
)
def test_arange_is_numpys(args: tuple[float, ...]) -> None:
    x = ds.arange(*args)
    wanted = np.arange(*args)
    assert x.dtype is (ds.int64 if wanted.dtype.kind == "i" else ds.float32)
    assert np.array_equal(x.numpy(), wanted.astype(x.dtype.numpy))


@pytest.mark.parametrize(
    "args", [(0, 1, 5), (-1, 3, 7), (2, -2, 4), (1, 1, 3), (0, 1, 1), (5, 9, 0)]
)
@pytest.mark.parametrize("endpoint", [True, False])
def test_linspace_is_numpys(args: tuple[float, float, int], endpoint: bool) -> None:
    x = ds.linspace(*args, endpoint=endpoint, dtype=ds.float64).numpy()
    wanted = np.linspace(*args, endpoint=endpoint)
    assert np.allclose(x, wanted, rtol=1e-15, atol=1e-15)
    if endpoint and args[2] > 1:
        assert x[0] == args[0] and x[-1] == args[1]


def test_eye_and_triangles_are_numpys() -> None:
    assert np.array_equal(ds.eye(3).numpy(), np.eye(3))
    assert np.array_equal(ds.eye(3, 4, k=-1).numpy(), np.eye(3, 4, -1))
    x = np.arange(24).reshape(2, 3, 4)
    for k in (-1, 0, 2):
        assert np.array_equal(ds.tril(ds.asarray(x), k=k).numpy(), np.tril(x, k))
        assert np.array_equal(ds.triu(ds.asarray(x), k=k).numpy(), np.triu(x, k))
        assert np.array_equal(ds.asarray(x).tril(k).numpy(), np.tril(x, k))
        assert np.array_equal(ds.asarray(x).triu(diagonal=k).numpy(), np.triu(x, k))


def test_sizes_come_as_a_tuple_or_apart() -> None:
    assert ds.zeros(2, 3).shape == ds.zeros((2, 3)).shape == ds.zeros([2, 3]).shape == (2, 3)
    assert ds.ones(()).shape == () and ds.empty(4).shape == (4,)
    assert ds.full((2,), ds.asarray(3)).tolist() == [3, 3]
    assert ds.full((2,), math.inf).dtype is ds.float32
    assert ds.zeros_like(ds.ones(2, dtype=ds.int8)).dtype is ds.int8


def test_signed_zeros_stay_apart() -> None:
    both = ds.stack([ds.full((), 0.0), ds.full((), -0.0)])
    assert np.signbit(both.numpy()).tolist() == [False, True]


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(ArgumentError, match="unknown device 'tpu'; valid: cpu"):
        ds.zeros(2, device="tpu")
    with pytest.raises(ArgumentError, match="unknown dtype 'float12'; valid: bool, int8"):
        ds.zeros(2, dtype="float12")
    with pytest.raises(DTypeError, match="complex128"):
        ds.asarray(np.zeros(2, complex))
    with pytest.raises(DTypeError, match="<U1"):
        ds.asarray(["a"])
    with pytest.raises(ShapeError, match="rows of equal length"):
        ds.asarray([[1, 2], [3]])
    with pytest.raises(DTypeError, match="only float tensors"):
        ds.zeros(2, dtype=ds.int64, requires_grad=True)
    with pytest.raises(ArgumentError, match="step 0"):
        ds.arange(0, 5, 0)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("float", ds.float32), ("double", ds.float64), ("half", ds.float16), ("bool", ds.bool),
        ("bfloat16", ds.bfloat16), ("char", ds.int8), ("byte", ds.uint8), ("short", ds.int16),
        ("int", ds.int32), ("long", ds.int64),
    ],
)  # fmt: skip
def test_conversions_under_pytorchs_names(name: str, dtype) -> None:  # noqa: ANN001
    x = ds.asarray([0.0, 1.0, 3.5])
    assert getattr(x, name)().dtype is dtype
    assert getattr(x, name)().tolist() == x.astype(dtype).tolist()


def test_a_clone_is_a_value_of_its_own_that_gradients_flow_through() -> None:
    x = ds.tensor([1.0, 2.0], requires_grad=True)
    y = x.clone()
    y *= 3
    y.sum().backward()
    assert x.tolist() == [1.0, 2.0] and x.grad.tolist() == [3.0, 3.0]
    array = np.arange(3.0)
    copied = ds.from_numpy(array)
    array[0] = 7
    assert copied.tolist() == [0.0, 1.0, 2.0] and copied.dtype is ds.float64
    with pytest.raises(ArgumentError, match="wanted a NumPy array"):
        ds.from_numpy([1.0])


def test_odd_arguments_are_refused_by_name() -> None:
    with pytest.raises(DTypeError, match="'one_hot': got float32.*wanted integers"):
        ds.one_hot(ds.ones(2), 3)
    with pytest.raises(ArgumentError, match="unknown combine 'sub'; valid: set, mul"):
        ds.scatter_elements(ds.ones(3), 0, [0], ds.ones(1), combine="sub")
    with pytest.raises(ShapeError, match="'flatten'.*the axes 1 to 0"):
        ds.flatten(ds.ones(2, 3), 1, 0)
    with pytest.raises(ShapeError, match="'broadcast_arrays'"):
        ds.broadcast_arrays(ds.ones(2), ds.ones(3))
    with pytest.raises(ArgumentError, match="'relu': got an unexpected keyword"):
        ds.relu(ds.ones(2), inplace=True)
    assert ds.bernoulli(ds.asarray([0, 1])).tolist() == [0.0, 1.0]
