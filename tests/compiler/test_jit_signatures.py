"""What counts as the same call: structures, dtypes, numbers, static values, aliases, nesting."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import pytest

import deepseek as ds
from deepseek import config
from deepseek.errors import TraceError


class Pair(NamedTuple):
    left: object
    right: object


def vec(*values: float, dtype: object = np.float32) -> ds.Tensor:
    return ds.asarray(np.array(values, dtype))


def test_nested_arguments_and_results(work):
    @ds.jit
    def f(pair, others, *, scale):
        a, b = pair
        total = a + b
        for t in others["list"]:
            total = total + t
        return {"sum": total * scale, "pair": Pair(a, [b, None, "name"]), "none": None}

    def call(n):
        return f(
            Pair(vec(n), vec(2 * n)), {"list": [vec(1), vec(2)], "unused": ()}, scale=vec(10)
        )

    first = call(1)
    with work() as done:
        second = call(5)
    assert done.traces == 0
    assert first["sum"].numpy() == 60 and second["sum"].numpy() == 180
    assert type(second["pair"]) is Pair
    assert second["pair"].left.numpy() == 5 and second["pair"].right[0].numpy() == 10
    assert second["pair"].right[1:] == [None, "name"] and second["none"] is None


def test_structure_is_part_of_the_signature(work):
    @ds.jit
    def f(items):
        return sum(items[1:], items[0])

    f([vec(1), vec(2)])
    with work() as done:
        assert f([vec(1), vec(2), vec(3)]).numpy() == 6
        assert f((vec(1), vec(2))).numpy() == 3
    assert done.traces == 2


def test_dict_keys_and_their_order(work):
    @ds.jit
    def f(d):
        first = next(iter(d))
        return d[first] * 2

    assert f({"a": vec(1), "b": vec(5)}).numpy() == 2
    assert f({"b": vec(5), "a": vec(1)}).numpy() == 10
    assert f({"c": vec(7)}).numpy() == 14


def test_keyword_and_positional(work):
    @ds.jit
    def f(a, b=None):
        return a if b is None else a - b

    assert f(vec(5)).numpy() == 5
    assert f(vec(5), vec(1)).numpy() == 4
    assert f(vec(5), b=vec(2)).numpy() == 3
    assert f(b=vec(2), a=vec(5)).numpy() == 3


def test_a_wrong_call_is_the_functions_own_error():
    @ds.jit
    def f(a):
        return a

    with pytest.raises(TypeError, match="unexpected keyword"):
        f(vec(1), c=2)


def test_numpy_arrays_become_tensors(work):
    @ds.jit
    def f(a):
        return a * 2

    assert f(np.array([1.0, 2.0], np.float32)).tolist() == [2, 4]
    with work() as done:
        assert f(np.array([3.0, 4.0], np.float32)).tolist() == [6, 8]
        assert f(vec(3, 4)).tolist() == [6, 8]
    assert done.traces == 0
    assert f(np.array([3, 4])).dtype == ds.int64


def test_numpy_scalars(work):
    @ds.jit
    def f(a, s):
        return a * s

    eager = vec(1, 2) * np.float32(3)
    assert f(vec(1, 2), np.float32(3)).tolist() == eager.tolist() == [3, 6]
    assert f(vec(1, 2), np.float32(4)).tolist() == [4, 8]
    assert f(vec(1, 2), np.int64(5)).tolist() == [5, 10]


@pytest.mark.parametrize("kind", [int, float])
def test_numbers_in_arithmetic_are_inputs(work, kind):
    @ds.jit
    def f(a, n):
        return a * n + (n - 1) / 2

    def plain(a, n):
        return a * n + (n - 1) / 2

    assert f(vec(1, 2), kind(3)).tolist() == plain(vec(1, 2), kind(3)).tolist()
    for n in (kind(4), kind(-7), kind(0)):
        wanted = plain(vec(1, 2), n)
        with work() as done:
            got = f(vec(1, 2), n)
        assert got.tolist() == wanted.tolist() and got.dtype == wanted.dtype
        assert done.traces == done.programs == 0


def test_int_and_float_are_different_signatures():
    @ds.jit
    def f(a, n):
        return a + n

    a = ds.asarray(np.array([1, 2]))
    assert f(a, 1).dtype == ds.int64
    assert f(a, 1.0).dtype == (a + 1.0).dtype


def test_numbers_in_control_flow_are_guarded(work):
    @ds.jit
    def f(a, n):
        for _ in range(n):
            a = a * 2
        return a if n > 2 else -a

    assert f(vec(1), 3).numpy() == 8
    with work() as done:
        assert f(vec(2), 3).numpy() == 16
    assert done.traces == 0
    with work() as done:
        assert f(vec(1), 2).numpy() == -4
        assert f(vec(1), 3).numpy() == 8
        assert f(vec(1), 2).numpy() == -4
    assert done.traces == 1


def test_numbers_as_index_and_axis(work):
    @ds.jit
    def f(a, i):
        return a[i] + a.sum(axis=i)[0]

    a = ds.asarray(np.arange(4, dtype=np.float32).reshape(2, 2))
    assert f(a, 0).tolist() == [2, 3]
    assert f(a, 1).tolist() == [3, 4]
    assert f(a, 0).tolist() == [2, 3]


def test_number_used_both_ways():
    @ds.jit
    def f(a, n):
        return a * n if n > 0 else a

    assert f(vec(2), 3.0).numpy() == 6
    assert f(vec(2), 4.0).numpy() == 8
    assert f(vec(2), -1.0).numpy() == 2


def test_numbers_are_returned_as_they_are():
    @ds.jit
    def f(a, n):
        return a + n, n, n * 2

    assert f(vec(1), 3)[1:] == (3, 6)
    assert f(vec(1), 4)[1:] == (4, 8)


def test_nan_number():
    @ds.jit
    def f(a, n):
        return a if n == n else -a

    nan = float("nan")
    assert f(vec(1), 2.0).numpy() == 1
    assert f(vec(1), nan).numpy() == -1
    assert f(vec(1), 2.0).numpy() == 1


def test_negative_zero_is_not_zero():
    @ds.jit
    def f(a, n):
        return a * float(n)

    assert not np.signbit(f(vec(1), 0.0).numpy())[0]
    assert np.signbit(f(vec(1), -0.0).numpy())[0]


def test_big_integers():
    @ds.jit
    def f(a, n):
        return a + n % 7

    assert f(vec(1), 2**100).numpy() == 1 + 2**100 % 7


@pytest.mark.parametrize("values", [("up", "down"), (None, "x"), (True, False), (ds.sum, ds.mean)])
def test_other_arguments_are_static(work, values):
    first, second = values

    @ds.jit
    def f(a, how):
        return a * 2 if how == first else a * 3

    assert f(vec(1), first).numpy() == 2
    with work() as done:
        assert f(vec(1), second).numpy() == 3
        assert f(vec(1), first).numpy() == 2
        assert f(vec(4), second).numpy() == 12
    assert done.traces == 1


def test_true_is_not_one():
    @ds.jit
    def f(a, how):
        return a * 2 if how is True else a * 3

    assert f(vec(1), True).numpy() == 2
    assert f(vec(1), 1).numpy() == 3
    assert f(vec(1), 1.0).numpy() == 3


def test_slices_and_dtypes_are_static():
    @ds.jit
    def f(a, part, dtype):
        return a[part].astype(dtype)

    got = f(vec(1, 2, 3), slice(1, None), ds.int32)
    assert got.tolist() == [2, 3] and got.dtype == ds.int32
    got = f(vec(1, 2, 3), slice(0, 1), ds.float64)
    assert got.tolist() == [1] and got.dtype == ds.float64


def test_unhashable_keys_in_arguments():
    @ds.jit
    def f(a, names):
        return a * len(names)

    assert f(vec(1), {"a", "b"}).numpy() == 2
    assert f(vec(1), {"a"}).numpy() == 1


def test_one_tensor_given_twice():
    @ds.jit
    def f(a, b):
        a += 1
        return b

    one, two = vec(1), vec(1)
    assert f(one, two).numpy() == 1 and one.numpy() == 2
    both = vec(1)
    assert f(both, both).numpy() == 2 and both.numpy() == 2
    assert f(one, two).numpy() == 1 and one.numpy() == 3


def test_dtype_and_rank_and_requires_grad_retrace(work):
    @ds.jit
    def f(a):
        return (a * 2).sum()

    f(vec(1, 2))
    with work() as done:
        f(vec(1, 2, dtype=np.float64))
        f(ds.asarray(np.ones((1, 2), np.float32)))
        out = f(vec(1, 2).requires_grad_())
    assert done.traces == 3
    assert out.requires_grad


def test_no_grad_is_part_of_the_signature():
    @ds.jit
    def f(a):
        return a * 2

    a = vec(1).requires_grad_()
    assert f(a).requires_grad
    with ds.no_grad():
        assert not f(a).requires_grad
    assert f(a).requires_grad


def test_nested_jit_is_part_of_the_outer_trace(work):
    @ds.jit
    def inner(a):
        return a + 1

    @ds.jit
    def outer(a):
        return inner(a) * inner(a * 2)

    with work() as done:
        assert outer(vec(3)).numpy() == 28
    assert done.traces == done.programs == 1
    assert inner(vec(1)).numpy() == 2


def test_recursion(work):
    @ds.jit
    def f(a, n):
        return a if n == 0 else f(a * 2, n - 1)

    with work() as done:
        assert f(vec(1), 5).numpy() == 32
    assert done.traces == 1


def test_methods():
    class Scaler:
        def __init__(self, factor):
            self.factor = factor

        @ds.jit
        def scale(self, a, *, plus=0):
            return a * self.factor + plus

        @staticmethod
        @ds.jit
        def double(a):
            return a * 2

        @classmethod
        def build(cls, factor):
            return cls(factor)

    two, three = Scaler(2), Scaler.build(vec(3))
    assert two.scale(vec(5)).numpy() == 10
    assert three.scale(vec(5), plus=1).numpy() == 16
    two.factor = 4
    assert two.scale(vec(5)).numpy() == 20
    three.factor += 1
    assert three.scale(vec(5)).numpy() == 20
    assert Scaler.double(vec(4)).numpy() == 8
    assert Scaler.scale(two, vec(1)).numpy() == 4


def test_decorator_forms_and_metadata():
    @ds.jit(dynamic=False)
    def f(a):
        """What it does."""
        return a + 1

    assert f.__name__ == "f" and f.__doc__ == "What it does."
    assert f(vec(1)).numpy() == 2
    assert ds.jit(lambda a: a * 2)(vec(2)).numpy() == 4


def test_partials_and_callables(work):
    class Adder:
        def __init__(self, n):
            self.n = n

        def __call__(self, a):
            return a + self.n

    adder = Adder(2)
    f = ds.jit(adder)
    assert f(vec(1)).numpy() == 3
    adder.n = 5
    assert f(vec(1)).numpy() == 6
    g = ds.jit(functools.partial(lambda a, b: a - b, vec(10)))
    assert g(vec(1)).numpy() == 9
    h = ds.jit(adder.__call__)
    assert h(vec(1)).numpy() == 6


def test_jit_of_a_jitted_function_and_of_a_module():
    linear = ds.nn.Linear(3, 2)
    f = ds.jit(linear)
    x = ds.ones((4, 3))
    np.testing.assert_allclose(f(x).numpy(), linear(x).numpy(), rtol=1e-6)
    linear.bias.requires_grad_(False)
    ds.nn.init.ones_(linear.bias)
    np.testing.assert_allclose(f(x).numpy(), linear(x).numpy(), rtol=1e-6)
    again = ds.jit(ds.jit(lambda a: a + 1))
    assert again(vec(1)).numpy() == 2


def test_functions_that_cannot_be_traced():
    def steps(a):
        yield a

    async def later(a):
        return a

    async def many(a):
        yield a

    for f in (steps, later, many):
        with pytest.raises(TraceError, match=f.__name__):
            ds.jit(f)
    with pytest.raises(TraceError, match="callable"):
        ds.jit(3)


def test_generators_inside_are_fine():
    @ds.jit
    def f(a):
        return sum(a * i for i in range(3))

    assert f(vec(2)).numpy() == 6


def test_results_without_tensors(work):
    @ds.jit
    def f(a):
        return 3, "x", a.shape, {"k": None}

    assert f(vec(1, 2)) == (3, "x", (2,), {"k": None})
    with work() as done:
        assert f(vec(3, 4)) == (3, "x", (2,), {"k": None})
    assert done.traces == 0


def test_arguments_returned_as_they_are():
    @ds.jit
    def f(a, b):
        return a, b, a

    a, b = vec(1), vec(2)
    out = f(a, b)
    assert [t.numpy()[0] for t in out] == [1, 2, 1]
    out[0].numpy()
    a += 1
    assert out[0].numpy() == 1 and a.numpy() == 2


def test_no_arguments():
    w = vec(1, 2)

    @ds.jit
    def f():
        return w * 2, ds.ones((2,))

    assert f()[0].tolist() == [2, 4]
    w += 1
    assert f()[0].tolist() == [4, 6] and f()[1].tolist() == [1, 1]


def test_pending_arguments_are_computed():
    @ds.jit
    def f(a):
        return a + 1

    a = vec(1) * 2
    b = a + 3
    assert f(b).numpy() == 6 and f(a).numpy() == 3
    assert f(f(a)).numpy() == 4


def test_many_arguments(work):
    @ds.jit
    def f(*args):
        return functools.reduce(lambda a, b: a + b, args)

    many = [vec(i) for i in range(20)]
    assert f(*many).numpy() == 190
    with work() as done:
        assert f(*reversed(many)).numpy() == 190
    assert done.traces == 0


def test_backends_agree_and_have_entries_of_their_own(work):
    @ds.jit
    def f(a, n):
        return (a * n).sum(), a

    a = vec(1, 2, 3)
    assert f(a, 2)[0].numpy() == 12
    with config.override(backend="reference"), work() as done:
        assert f(a, 2)[0].numpy() == 12
        assert f(a, 3)[0].numpy() == 18
    assert done.traces == 1
    with work() as done:
        assert f(a, 3)[0].numpy() == 18
    assert done.traces == 0


def test_our_own_functions_are_jitted_as_they_are(work):
    for function in (ds.exp, ds.sum, ds.nn.functional.gelu, ds.ones_like):
        compiled = ds.jit(function)
        x = vec(0.5, 2)
        assert compiled(x).tolist() == function(x).tolist()
        with work() as done:
            compiled(x + 1)
        assert done.traces == 0
