"""Symbolic sizes: from the second signature on, a new size costs a lookup."""

from __future__ import annotations

import numpy as np
import pytest

import deepseek as ds


def ramp(*shape: int, dtype: object = np.float32) -> ds.Tensor:
    n = int(np.prod(shape))
    return ds.asarray(np.arange(n, dtype=dtype).reshape(shape))


def check(work, function, sizes, make=lambda n: (ramp(n, 3),), traces=2):
    """The jitted function is the plain one at every size."""
    jitted = ds.jit(function)
    with work() as done:
        for n in sizes:
            got, wanted = jitted(*make(n)), function(*make(n))
            np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=1e-5, atol=1e-6)
    assert done.traces == traces


def run_compiled_only(work, function, sizes, make=lambda n: (ramp(n, 3),)):
    jitted = ds.jit(function)
    for n in sizes[:2]:
        jitted(*make(n))
    with work() as done:
        for n in sizes[2:]:
            jitted(*make(n))
    return done


BODIES = {
    "elementwise": lambda x: x * 2 + 1,
    "sum": lambda x: x.sum(axis=0),
    "mean": lambda x: x.mean(),
    "mean over the symbol": lambda x: x.mean(axis=0) / x.shape[0],
    "first half": lambda x: x[: x.shape[0] // 2],
    "last half": lambda x: x[x.shape[0] // 2 :],
    "all but one": lambda x: x[1:] - x[:-1],
    "flatten": lambda x: x.reshape((-1,)),
    "flatten by size": lambda x: x.reshape((x.shape[0] * 3,)),
    "two axes": lambda x: x.reshape((x.shape[0], 1, 3)).sum(axis=1),
    "transpose": lambda x: (x.T @ x) / x.shape[0],
    "concat": lambda x: ds.concat([x, x * 2], axis=0),
    "arange": lambda x: ds.arange(x.shape[0])[:, None] + x,
    "zeros": lambda x: ds.zeros((x.shape[0], 2)).sum(axis=1) + x[:, 0],
    "softmax": lambda x: ds.softmax(x * 0.1, 0),
    "var": lambda x: x.var(axis=0),
    "cumulative": lambda x: x.cumulative_sum(axis=0),
    "len": lambda x: x.sum() * x.shape[0],
    "matmul": lambda x: x @ ds.ones((3, 5)),
    "pad": lambda x: ds.pad(x, (0, 0, 1, 1)),
    "sort": lambda x: ds.sort(-x, axis=0),
    "argmax": lambda x: x.argmax(axis=0),
    "take": lambda x: ds.take(x, ds.arange(x.shape[0]), axis=0),
}


@pytest.mark.parametrize("name", BODIES)
def test_three_and_more_sizes(work, name):
    check(work, BODIES[name], (4, 6, 5, 9, 4, 12))


@pytest.mark.parametrize("name", ["elementwise", "first half", "transpose", "softmax"])
def test_new_sizes_compile_nothing(work, name):
    done = run_compiled_only(work, BODIES[name], (4, 6, 5, 9, 4, 12))
    assert (done.traces, done.programs, done.kernels) == (0, 0, 0)


def test_zero_and_one_are_their_own(work):
    def f(x):
        return x.sum(axis=0) + x.shape[0]

    jitted = ds.jit(f)
    for n in (1, 3, 0, 4, 1, 0, 5):
        np.testing.assert_allclose(jitted(ramp(n, 3)).numpy(), f(ramp(n, 3)).numpy())
    with work() as done:
        for n in (0, 1, 7, 2):
            np.testing.assert_allclose(jitted(ramp(n, 3)).numpy(), f(ramp(n, 3)).numpy())
    assert done.traces == 0


def compared(work, f, shapes):
    """How often f is traced and compiled for these shapes, of which each gives what f does."""
    jitted = ds.jit(f)
    wanted = [f(ramp(*shape)).numpy() for shape in shapes]
    with work() as done:
        got = [jitted(ramp(*shape)).numpy() for shape in shapes]
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    return done.traces, done.programs


@pytest.mark.parametrize(
    "sizes",
    [(5, 3, 1, 4), (5, 1, 3, 1), (1, 5, 1, 3)],
    ids=["met late", "met second", "met first"],
)
def test_code_for_any_size_serves_size_one(work, sizes):
    def f(x):
        y = ds.layer_norm(x, (4,)) @ ds.ones((4, 3))
        return ds.softmax(y, axis=-1) + y.mean(axis=0)

    assert compared(work, f, [(n, 4) for n in sizes]) == (2, 2)


def test_two_sizes_need_one_code_for_ones_in_either(work):
    def f(x):
        return (x * x).sum(axis=1).exp() + x.reshape((x.shape[0], -1)).max(axis=1)

    shapes = [(3, 5), (1, 4), (6, 1), (1, 1), (2, 7), (1, 9)]
    assert compared(work, f, shapes) == (2, 2)


ASKING = {
    "squeeze": lambda x: x.squeeze().sum(axis=-1),
    "broadcast": lambda x: x + ds.ones((5, 4)),
    "branch": lambda x: x * 2 if x.shape[0] == 1 else x.sum(axis=0),
    "outer": lambda x: ds.einsum("ij,ij->j", x, ds.ones((5, 4))),
    "grid": lambda x: ds.take_along_axis(x, ds.zeros((5, 4), dtype=ds.int64), axis=1),
}


@pytest.mark.parametrize("name", ASKING)
def test_what_depends_on_a_size_of_one_is_traced_for_it(work, name):
    """Twice in the second call: it begins with symbols, and finds that it has to know."""
    shapes = [(5, 4), (1, 4), (5, 4), (1, 4)]
    traces, programs = compared(work, ASKING[name], shapes)
    assert traces <= 3
    assert programs == 2


def test_broadcast_against_one_stays_right():
    @ds.jit
    def f(a, b):
        return a + b

    for n, m in ((3, 3), (4, 4), (4, 1), (1, 4), (5, 5), (5, 1)):
        assert f(ramp(n), ramp(m)).shape == (max(n, m),)


def test_sizes_that_must_agree_are_guarded():
    @ds.jit
    def f(a, b):
        return a + b

    f(ramp(3), ramp(3))
    f(ramp(4), ramp(4))
    assert f(ramp(7), ramp(7)).shape == (7,)
    with pytest.raises(ds.errors.ShapeError, match="add"):
        f(ramp(7), ramp(5))
    assert f(ramp(9), ramp(9)).tolist() == (ramp(9) * 2).tolist()


def test_each_axis_gets_its_own_symbol(work):
    @ds.jit
    def f(a):
        return a.sum(axis=1) * a.shape[0] + a.shape[1]

    def plain(a):
        return a.sum(axis=1) * a.shape[0] + a.shape[1]

    for shape in ((2, 3), (4, 3), (4, 5)):
        assert f(ramp(*shape)).tolist() == plain(ramp(*shape)).tolist()
    with work() as done:
        for shape in ((7, 9), (3, 3), (9, 2)):
            assert f(ramp(*shape)).tolist() == plain(ramp(*shape)).tolist()
    assert done.traces == 0


def test_branches_on_sizes_are_guarded(work):
    @ds.jit
    def f(a):
        if a.shape[0] > 4:
            return a * 2
        return a * 3

    for n in (2, 3, 4, 8, 16, 3, 9):
        assert f(ramp(n)).tolist() == (ramp(n) * (2 if n > 4 else 3)).tolist()
    with work() as done:
        f(ramp(11))
        f(ramp(4))
    assert done.traces == 0


def test_loops_over_a_size_are_guarded():
    @ds.jit
    def f(a):
        total = a[0] * 0
        for row in a:
            total = total + row
        for i in range(a.shape[0]):
            total = total + i
        return total

    for n in (2, 3, 5, 3):
        assert f(ramp(n, 2)).tolist() == (ramp(n, 2).sum(axis=0) + sum(range(n))).tolist()


def test_divisibility():
    @ds.jit
    def f(a):
        return a.reshape((2, -1)).sum(axis=0) if a.shape[0] % 2 == 0 else a

    for n in (4, 6, 7, 8, 9, 10):
        wanted = ramp(n).numpy()
        wanted = wanted.reshape(2, -1).sum(0) if n % 2 == 0 else wanted
        np.testing.assert_array_equal(f(ramp(n)).numpy(), wanted)


def test_reshape_that_does_not_divide_is_an_error():
    @ds.jit
    def f(a):
        return a.reshape((-1, 2))

    for n in (4, 6, 8):
        assert f(ramp(n)).shape == (n // 2, 2)
    with pytest.raises(ds.errors.ShapeError):
        f(ramp(7))
    assert f(ramp(10)).shape == (5, 2)


def test_sizes_are_returned_as_numbers():
    @ds.jit
    def f(a):
        return a.shape, a.shape[0] * 2, len(a), {"n": a.size}

    for n in (3, 4, 5, 6):
        shape, double, length, rest = f(ramp(n, 2))
        assert shape == (n, 2) and double == 2 * n and length == n and rest == {"n": 2 * n}
        assert type(shape[0]) is int and type(double) is int


def test_static_sizes_on_request(work):
    @ds.jit(dynamic=False)
    def f(a):
        return a + 1

    with work() as done:
        for n in (2, 3, 4):
            assert f(ramp(n)).shape == (n,)
    assert done.traces == 3
    with work() as done:
        f(ramp(3))
    assert done.traces == 0


def test_sizes_of_hidden_inputs(work):
    w = ramp(4)

    @ds.jit
    def f(a):
        return a.sum() + w.sum() * w.shape[0]

    for n in (4, 5, 6, 4):
        w = ramp(n)
        assert f(ramp(2)).item() == 1 + ramp(n).sum().item() * n


def test_the_same_size_twice_uses_the_first_entry(work):
    @ds.jit
    def f(a):
        return a * 2

    f(ramp(3))
    f(ramp(4))
    with work() as done:
        f(ramp(3))
        f(ramp(4))
    assert done.traces == 0


def test_in_place_on_symbolic_sizes():
    @ds.jit
    def f(a):
        a += a.shape[0]
        a[0] = 0.0

    for n in (2, 3, 4, 5):
        a = ramp(n)
        f(a)
        assert a.tolist() == [0.0] + [i + float(n) for i in range(1, n)]


def test_gradients_on_symbolic_sizes():
    w = ds.asarray(np.array([2.0], np.float32)).requires_grad_()

    @ds.jit
    def f(a):
        return (a * w).mean()

    for n in (2, 3, 4, 7):
        w.grad = None
        a = ramp(n).requires_grad_()
        f(a).backward()
        np.testing.assert_allclose(w.grad.numpy(), [ramp(n).mean().item()], rtol=1e-6)
        np.testing.assert_allclose(a.grad.numpy(), np.full(n, 2 / n), rtol=1e-6)


def test_random_numbers_of_symbolic_shape():
    @ds.jit
    def f(a):
        return ds.rand(a.shape) + a * 0

    for n in (3, 4, 5, 6):
        ds.manual_seed(n)
        wanted = ds.rand((n,)).tolist()
        ds.manual_seed(n)
        np.testing.assert_allclose(f(ramp(n)).tolist(), wanted, rtol=1e-6)


def test_dims_pass_for_integers():
    @ds.jit
    def f(a):
        n = a.shape[0]
        assert isinstance(n, int)
        assert n + 1 > n and 2 * n == n + n and n - n == 0
        assert f"{n}" == str(int(n))
        return a.sum() / n + n**2 + max(n, 2) + divmod(n, 2)[0] + -n + n / 2

    def plain(n):
        s = n * (n - 1) / 2
        return s / n + n**2 + max(n, 2) + n // 2 - n + n / 2

    for n in (3, 4, 5, 8, 5):
        np.testing.assert_allclose(f(ramp(n)).item(), plain(n), rtol=1e-6)
