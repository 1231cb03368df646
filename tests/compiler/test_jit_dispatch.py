"""The dispatcher: no leaks, exact reference counts, many threads, entries that come and go."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import numpy as np
import pytest

import deepseek as ds
from deepseek import _runtime, config, nn, optim
from deepseek.errors import TraceError

CALLS = 20_000


def vec(*values: float) -> ds.Tensor:
    return ds.asarray(np.array(values, np.float32)).evaluate()


def census() -> tuple[int, int, int]:
    """Python objects, live blocks and bytes of the pool."""
    gc.collect()
    stats = _runtime.pool_stats()
    return len(gc.get_objects()), stats["live_blocks"], stats["in_use"]


def grown(call, calls: int) -> tuple[int, int, int]:
    """How much there is more of everything after some calls than after a few."""
    for _ in range(10):
        call()
    before = census()
    for _ in range(calls):
        call()
    return tuple(a - b for a, b in zip(census(), before, strict=True))  # type: ignore[return-value]


def assert_nothing_grew(call, calls: int = CALLS) -> None:
    objects, blocks, bytes_ = grown(call, calls)
    assert objects < calls // 100 and blocks <= 0 and bytes_ <= 0


def test_plain_calls_leak_nothing():
    a, b = vec(1, 2), vec(3, 4)
    total = vec(0, 0)

    @ds.jit
    def f(a, b, n, *, named):
        nonlocal total
        total += a
        return {"sum": a + b * n, "others": [named, (a, "x")]}

    def call():
        f(a, b, 2.5, named=b)

    assert_nothing_grew(call)
    references = [sys.getrefcount(x) for x in (a, b, a._value, f, f.function)]
    for _ in range(1000):
        call()
    assert [sys.getrefcount(x) for x in (a, b, a._value, f, f.function)] == references


def test_calls_that_fail_leak_nothing():
    a = vec(1, 2)

    @ds.jit
    def f(a, b):
        return a + b

    f(a, a)
    bad = vec(1, 2, 3)

    def call():
        with pytest.raises(ds.errors.ShapeError):
            f(a, bad)
        with pytest.raises(TypeError):
            f(a)
        with pytest.raises(TypeError):
            f(a, a, c=3)

    assert_nothing_grew(call, 50)


def test_calls_on_arrays_and_with_new_sizes_leak_nothing():
    arrays = [np.ones(n, np.float32) for n in range(2, 40)]

    @ds.jit
    def f(a):
        return a * a.shape[0], a.shape

    for a in arrays:
        f(a)

    def call():
        for a in arrays:
            f(a)

    assert_nothing_grew(call, 500)


def test_training_steps_leak_nothing():
    ds.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    opt = optim.AdamW(model.parameters(), lr=0.01)
    x, y = ds.ones((8, 4)).evaluate(), ds.zeros((8,), dtype=ds.int64).evaluate()

    @ds.jit
    def step(x, y):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss

    assert_nothing_grew(lambda: step(x, y), 2000)


def test_gradients_through_calls_leak_nothing():
    w = vec(1, 2).requires_grad_()

    @ds.jit
    def f(a):
        return (a * w).sum()

    a = vec(3, 4)

    def call():
        w.grad = None
        f(a).backward()
        w.grad.evaluate()

    assert_nothing_grew(call, 300)


def cyclic_function():
    class Holder:
        pass

    holder = Holder()
    holder.w = vec(1)

    @ds.jit
    def f(a):
        return a + holder.w

    f(vec(1))
    holder.f = f  # a cycle through the guard table
    return weakref.ref(f), weakref.ref(holder)


def test_a_function_can_die():
    gone = cyclic_function()
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_arguments_are_not_kept():
    @ds.jit
    def f(a):
        return a * 2

    a = vec(1)
    value = weakref.ref(a._value)
    f(a)
    f(a)
    del a
    gc.collect()
    assert value() is None


def test_old_entries_go():
    @ds.jit
    def f(a, name):
        return a * len(name)

    for i in range(300):
        assert f(vec(1), "x" * (i % 280)).numpy() == i % 280
    assert f.cache_info()["entries"] <= 256


def test_the_newest_entry_does_not_hide_the_others(work):
    @ds.jit
    def f(a, how):
        return a + 1 if how else a - 1

    for _ in range(3):
        assert f(vec(1), True).numpy() == 2 and f(vec(1), False).numpy() == 0
    assert f.cache_info()["entries"] == 2


def run_together(*functions, rounds: int = 1):
    """Each function on a thread of its own, all starting at once; errors come back."""
    barrier = threading.Barrier(len(functions))
    errors: list[BaseException] = []

    def work(function):
        barrier.wait()
        try:
            for _ in range(rounds):
                function()
        except BaseException as error:  # noqa: BLE001  (handed to the test)
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f,)) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_many_threads_call_one_function():
    w = vec(*range(64))

    @ds.jit
    def f(a, n):
        return (a * n + w).sum()

    def caller(k):
        a = vec(*([k] * 64))

        def call():
            assert f(a, float(k)).item() == 64 * k * k + 2016

        return call

    run_together(*[caller(k) for k in range(6)], rounds=300)


def test_updates_from_many_threads_are_not_lost():
    """A call that changes a tensor is seen whole: the next one waits for it."""
    big = ds.zeros((200_000,)).evaluate()
    one = ds.ones((200_000,)).evaluate()

    @ds.jit
    def bump(a):
        nonlocal big
        big += a

    bump(one)
    rounds = 100
    run_together(*[lambda: bump(one)] * 4, rounds=rounds)
    assert np.unique(big.numpy()).tolist() == [1 + 4 * rounds]


def test_draws_of_many_threads_differ():
    @ds.jit
    def draw():
        return ds.rand((4,))

    draw()
    seen: list[tuple[float, ...]] = []
    run_together(*[lambda: seen.append(tuple(draw().tolist()))] * 4, rounds=100)
    assert len(set(seen)) == 400


def test_threads_trace_one_after_the_other(work):
    w = vec(2)

    @ds.jit
    def f(a, n):
        total = a
        for _ in range(n):
            total = total * w
        return total

    def check(n):
        assert f(vec(1), n).numpy() == 2**n

    with work() as done:
        run_together(*[lambda n=n: check(n) for n in (2, 3, 4, 2, 3, 4)])
    assert done.traces == 3


def test_grad_mode_and_backend_are_the_threads_own():
    w = vec(2).requires_grad_()

    @ds.jit
    def f(a):
        return a * w

    def plain():
        assert f(vec(1)).requires_grad

    def without():
        with ds.no_grad():
            assert not f(vec(1)).requires_grad

    def reference():
        with config.override(backend="reference"):
            assert f(vec(1)).numpy() == 2

    run_together(plain, without, reference, plain, rounds=100)


def test_an_interpreting_backend_is_dispatched_alike():
    def losses(compiled):
        ds.manual_seed(0)
        model = nn.Linear(3, 2)
        opt = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        def step(x):
            opt.zero_grad()
            loss = (model(x) ** 2).mean()
            loss.backward()
            opt.step()
            return loss, x.shape

        step = ds.jit(step) if compiled else step
        return [step(ds.ones((n, 3)))[0].item() for n in (2, 4, 3, 5)]

    with config.override(backend="reference"):
        np.testing.assert_allclose(losses(True), losses(False), rtol=1e-5, atol=1e-12)


def test_calling_conventions():
    @ds.jit
    def f(a, /, b, *rest, c=1, **others):
        return a + b + sum(rest, vec(0)) + c + others.get("d", 0)

    a = vec(1)
    assert f(a, a).numpy() == 3
    assert f(a, b=a).numpy() == 3
    assert f(a, a, a, a, c=10).numpy() == 14
    assert f(*[a] * 5, **{"c": 2, "d": a}).numpy() == 8
    assert f(a, d=a, b=a, c=3).numpy() == 6
    assert ds.jit(lambda: vec(7) * 1)().numpy() == 7


def test_a_method_table_is_kept():
    class Layer:
        @ds.jit
        def double(self, a):
            return a * 2

    layer = Layer()
    bound = layer.double
    assert bound.__self__ is layer and bound.__func__ is Layer.double
    assert bound(vec(2)).numpy() == 4


def test_what_changes_between_tracing_and_running_is_told():
    box = {"n": 1}

    class Fickle:
        def __len__(self):
            box["n"] += 1
            return 2

    fickle = Fickle()

    @ds.jit
    def f(a):
        return a * len(fickle) * box["n"]

    with pytest.raises(TraceError, match="changed"):
        f(vec(1))


def test_pending_hidden_tensors_are_computed_together(work):
    tensors = [vec(i) for i in range(5)]

    @ds.jit
    def f():
        return sum(tensors, vec(0))

    assert f().numpy() == 10
    for t in tensors:
        t += 1
    assert f().numpy() == 15


def test_dispatcher_is_configured_once_for_all():
    with pytest.raises(TypeError):
        _runtime.configure_dispatch(tensor=ds.Tensor)
    with pytest.raises(TypeError):
        _runtime.Dispatcher()
