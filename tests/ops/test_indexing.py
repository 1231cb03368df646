"""`x[key]`, `x[key] = value` and in-place operators against NumPy, and the errors of bad keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek.config import override
from deepseek.errors import ArgumentError, DeepseekError, DTypeError, ShapeError

X = np.arange(120).reshape(4, 5, 6).astype(np.float32)
BASIC = [
    0, -1, (1, 2), (1, 2, 3), ..., (..., 1), (slice(None), 2), None, (None, 1), (1, None, 2),
    slice(1, 3), slice(None, None, 2), slice(None, None, -1), slice(3, 0, -2), slice(-2, None),
    slice(2, 2), slice(10, 20), slice(-100, 100), (slice(None), slice(4, None, -3), 1),
    (..., slice(1, 5, 2)), (0, ..., -1), (slice(2, 0), None, 3), (slice(None, None, 7),),
]  # fmt: skip
ARRAYS = [
    np.array([0, 3, -1]), (slice(None), np.array([[1, 0], [4, -2]])), (np.array([1, 2]), 0),
    (np.array([0, 1]), np.array([2, 3])), (np.array([[0], [1]]), np.array([2, 3])),
    (np.array([0, 1]), slice(None), np.array([2, 3])), (..., np.array([5, 0])),
    (slice(1, 3), np.array([0, 4]), np.array([1, 1])), (None, np.array([1, 2])),
]  # fmt: skip


def tensor_key(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(tensor_key(k) for k in key)
    return ds.asarray(key) if isinstance(key, np.ndarray) else key


@pytest.mark.parametrize("key", BASIC + ARRAYS, ids=repr)
def test_getitem_is_numpys(key: Any) -> None:
    got = ds.asarray(X)[tensor_key(key)].numpy()
    assert np.array_equal(got, X[key]) and got.shape == X[key].shape


@pytest.mark.parametrize("key", BASIC, ids=repr)
@pytest.mark.parametrize("whole", [False, True])
def test_setitem_is_numpys(key: Any, whole: bool) -> None:
    wanted = X.copy()
    value = -np.arange(wanted[key].size, dtype=np.float32).reshape(wanted[key].shape) - 1
    x = ds.asarray(X)
    before = x * 1
    wanted[key] = value if whole else 7
    x[key] = ds.asarray(value) if whole else 7
    assert np.array_equal(x.numpy(), wanted)
    assert np.array_equal(before.numpy(), X), "another tensor changed"


def test_setitem_broadcasts_and_converts() -> None:
    x = ds.zeros(3, 4, dtype=ds.int32)
    x[1:, ::2] = ds.asarray([[1.9], [2.9]])
    assert x.numpy().tolist() == [[0, 0, 0, 0], [1, 0, 1, 0], [2, 0, 2, 0]]
    x[x > 1] = 9
    assert x.numpy()[2].tolist() == [9, 0, 9, 0]


def test_gradients_flow_through_keys_and_assignments() -> None:
    x = ds.asarray(X[0], requires_grad=True)
    v = ds.asarray(np.ones(6, np.float32), requires_grad=True)
    y = x * 2
    y[1] = v * 3
    (y[1:3, ::2].sum() + y[ds.asarray([0, 0])].sum()).backward()
    wanted = np.zeros_like(X[0])
    wanted[0], wanted[2, ::2] = 4, 2
    assert np.array_equal(x.grad.numpy(), wanted)
    assert v.grad.numpy().tolist() == [3, 0, 3, 0, 3, 0]


def test_in_place_operators_rebind_the_handle() -> None:
    x = ds.asarray([1, 2, 3])
    other = x
    alias = ds.asarray(x)
    kept = x + 0
    x += 2
    x *= 3
    assert other is x and alias is x
    assert x.numpy().tolist() == [9, 12, 15] and x.dtype is ds.int64
    assert kept.numpy().tolist() == [1, 2, 3]
    x //= 2
    x -= 1
    x &= 6
    assert x.numpy().tolist() == [2, 4, 6]
    y = ds.ones(2, dtype=ds.bfloat16)
    y /= ds.asarray([2.0, 4.0])
    assert y.dtype is ds.bfloat16 and y.tolist() == [0.5, 0.25]


def test_in_place_operators_keep_dtype_and_shape() -> None:
    x = ds.asarray([1, 2, 3])
    with pytest.raises(DTypeError, match="a result that int64 can hold"):
        x += 0.5
    with pytest.raises(ShapeError, match="broadcasts to the left"):
        x += ds.ones(2, 3, dtype=ds.int64)


def test_a_leaf_that_requires_gradients_is_changed_only_under_no_grad() -> None:
    w = ds.ones(3, requires_grad=True)
    for change in (lambda: w.__iadd__(1), lambda: w.__setitem__(0, 5.0)):
        with pytest.raises(ArgumentError, match="no_grad"):
            change()
    (w * w).sum().backward()
    with ds.no_grad():
        w -= 0.5 * w.grad
        w[0] = 4
    assert w.requires_grad and w.is_leaf
    assert w.numpy().tolist() == [4, 0, 0]
    w.grad = None
    (w * 3).sum().backward()
    assert w.grad.numpy().tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (4, "-4 <= index < 4"), ((0, 0, 0, 0), "at most 3"), ((..., ...), "one '...'"),
        (slice(None, None, 0), "another step"), (1.5, "integers, slices"),
        ("a", "integers, slices"),
        (np.array([0.5]), "an integer tensor"), (X[0] > 3, "a mask of shape"),
        ([0, 4], "-4 <= index < 4"), ((0, np.array([[-6]])), "-5 <= index < 5"),
    ],
    ids=repr,
)  # fmt: skip
def test_bad_keys_say_what_is_wanted(key: Any, said: str) -> None:
    with pytest.raises(DeepseekError, match="op 'getitem'") as error:
        ds.asarray(X)[key]
    assert said in str(error.value)
    assert "test_indexing.py" in str(error.value)


def test_bad_assignments_say_what_is_wanted() -> None:
    x = ds.asarray(X)
    with pytest.raises(ShapeError, match="broadcasts to"):
        x[0] = ds.ones(7)
    with pytest.raises(ShapeError, match="broadcasts to"):
        x[ds.asarray([0, 1])] = ds.ones(3, 1, 1)
    with pytest.raises(ShapeError, match="116 true elements"):
        x[x > 3] = ds.ones(2)


def test_a_computed_mask_selects_outside_of_a_jit_only() -> None:
    x = ds.asarray(X)
    assert np.array_equal(x[x > 7].numpy(), X[X > 7])
    with pytest.raises(ArgumentError, match="ds.where"):
        ds.jit(lambda x: x[x > 7])(x)

    @ds.jit
    def clipped(x: ds.Tensor) -> ds.Tensor:
        y = x * 1
        y[y > 7] = 7
        return y

    assert np.array_equal(clipped(x).numpy(), np.minimum(X, 7))


OUT_OF_RANGE: dict[str, Callable[[ds.Tensor], ds.Tensor]] = {
    "getitem": lambda i: ds.ones(3, 4)[ds.asarray([0]), i],
    "setitem": lambda i: ds.ones(4).index_put((i,), ds.zeros(1)),
    "take": lambda i: ds.take(ds.ones(4), i),
    "take_along_axis": lambda i: ds.take_along_axis(ds.ones(4), i),
    "gather": lambda i: ds.gather(ds.ones(4), 0, i),
    "scatter": lambda i: ds.scatter(ds.ones(4), 0, i, 5.0),
    "scatter_add": lambda i: ds.scatter_add(ds.ones(4), 0, i, ds.ones(1)),
    "index_add": lambda i: ds.index_add(ds.ones(4), 0, i, ds.ones(1)),
    "index_select": lambda i: ds.index_select(ds.ones(4), 0, i),
    "put": lambda i: ds.put(ds.ones(4), i, 5.0),
    "embedding": lambda i: ds.embedding(i, ds.ones(4, 2)),
    "Embedding": lambda i: ds.nn.Embedding(4, 2)(i),
    "nll_loss": lambda i: ds.nll_loss(ds.ones(1, 4), i),
    "cross_entropy": lambda i: ds.cross_entropy(ds.ones(1, 4), i),
    "multi_margin_loss": lambda i: ds.multi_margin_loss(ds.ones(1, 4), i),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_indices_out_of_range_are_refused_where_their_values_are_there(name: str) -> None:
    call = OUT_OF_RANGE[name]
    call(ds.asarray([3]))
    with pytest.raises(ShapeError, match=r"(index|target) 4 .*\n  at .*test_indexing.py"):
        call(ds.asarray([4]))
    computed = ds.asarray([3]) + 1
    call(computed)
    for option in ({"eager": True}, {"verify": 1}):
        with override(**option), pytest.raises(ShapeError, match="(index|target) 4 "):
            call(computed)


def test_indices_out_of_range_that_are_computed_read_the_nearest_and_write_nothing() -> None:
    x, source = ds.asarray(X), ds.ones(2)

    def at() -> ds.Tensor:
        return ds.asarray([-1, 3]) + 1

    assert np.array_equal(x[at()].numpy(), X[[0, 3]])
    for jit in (lambda f: f, ds.jit):
        added = jit(lambda i, s: ds.scatter_add(ds.zeros(4), 0, i, s))(at(), source)
        assert added.tolist() == [1, 0, 0, 0]
        rows = jit(lambda i, j: ds.zeros(2, 3).index_put((i, j), ds.ones(2)))(at(), at() - 1)
        assert rows.tolist() == [[0, 0, 1], [0, 0, 0]], "index -1 of the other axis is its last"


def test_the_reference_backend_refuses_indices_out_of_range() -> None:
    with override(backend="reference"):
        for call in (OUT_OF_RANGE["take"], OUT_OF_RANGE["scatter_add"], OUT_OF_RANGE["embedding"]):
            with pytest.raises(ShapeError, match=r"index 4 .*\n  at .*test_indexing.py"):
                call(ds.asarray([3]) + 1).numpy()


def test_targets_that_are_ignored_need_not_be_classes() -> None:
    scores, target = ds.ones(2, 4), ds.asarray([1, 9])
    assert ds.cross_entropy(scores, target, None, 9).item() == pytest.approx(np.log(4))
    assert ds.nll_loss(scores, target, ignore_index=9).item() == -1
    with pytest.raises(ShapeError, match="or 8, which counts nothing"):
        ds.cross_entropy(scores, target, ignore_index=8)


def test_gradients_flow_through_advanced_assignments() -> None:
    x = ds.asarray(X[0], requires_grad=True)
    v = ds.asarray(np.array([1.0, 2, 3], np.float32), requires_grad=True)
    y = x * 2
    y[ds.asarray([1, 3, 1]), 0] = v
    y[x > 25] = 0
    y.sum().backward()
    wanted = np.where(X[0] > 25, 0.0, 2.0)
    wanted[[1, 3], 0] = 0
    assert np.array_equal(x.grad.numpy(), wanted)
    assert v.grad.tolist() == [0, 1, 1], "the first value was overwritten"


def test_iteration_and_unpacking() -> None:
    a, b = ds.asarray([[1, 2], [3, 4]])
    assert a.tolist() == [1, 2] and b.tolist() == [3, 4]


def test_methods_that_change_a_tensor_change_the_handle_only() -> None:
    x = ds.asarray(np.array([[1.0, -2.0], [3.0, 4.0]], np.float32))
    kept, alias = x * 1, x
    assert x.mul_(2).sub_(1).abs_() is x is alias
    assert x.tolist() == [[1, 5], [5, 7]] and kept.tolist() == [[1, -2], [3, 4]]
    assert x.clamp_(2, 6).tolist() == [[2, 5], [5, 6]]
    assert x.masked_fill_(x > 5, 0).tolist() == [[2, 5], [5, 0]]
    assert x.index_add_(0, ds.asarray([1]), ds.ones(1, 2)).tolist() == [[2, 5], [6, 1]]
    assert x.scatter_(1, ds.asarray([[0], [1]]), 9).tolist() == [[9, 5], [6, 9]]
    assert x.copy_(ds.asarray([1, 2])).tolist() == [[1, 2], [1, 2]]
    assert x.fill_(3).zero_().tolist() == [[0, 0], [0, 0]] and x.dtype is ds.float32
    with pytest.raises(ShapeError, match="broadcasts to the left"):
        x.add_(ds.ones(2, 2, 2))
    with pytest.raises(ArgumentError, match="no_grad"):
        ds.ones(2, requires_grad=True).zero_()


def test_a_changed_tensor_is_an_output_of_a_compiled_function() -> None:
    cache = ds.zeros(3, 2)

    @ds.jit
    def store(cache: ds.Tensor, at: ds.Tensor, row: ds.Tensor) -> None:
        cache[at] = row

    store(cache, ds.asarray(1), ds.ones(2))
    assert cache.tolist() == [[0, 0], [1, 1], [0, 0]]
