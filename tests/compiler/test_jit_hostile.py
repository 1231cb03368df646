"""Objects that try to break the dispatcher: half made, comparing by code of their own, shrinking
meanwhile, with values besides their values; and results that are changed afterwards.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import gc
import pickle
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

import deepseek as ds
from deepseek.config import override
from deepseek.errors import TraceError


def vec(*values: float) -> ds.Tensor:
    return ds.asarray(np.array(values, np.float32)).evaluate()


@pytest.fixture
def greedy():
    """Garbage collection at every allocation, so that finalizers run where they can."""
    before = gc.get_threshold()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*before)


# ------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize("verify", [0, 1, 2])
def test_gradients_of_several_arguments_are_read(verify):
    """What hangs on one argument does not take the place of the next."""
    a, b = (vec(1, 2).requires_grad_() for _ in range(2))

    def step(a, b, factor):
        (b * b * factor).sum().backward()
        return a.grad, b.grad

    with override(verify=verify):
        compiled = ds.jit(step)
        for i in range(1, 4):
            none, gradient = compiled(a, b, 2.0)
            assert none is None
            np.testing.assert_array_equal(gradient.numpy(), [4 * i, 8 * i])


class Unfinished(ds.Tensor):
    def __init__(self):
        pass


def test_tensors_without_a_value_are_refused():
    f = ds.jit(lambda a: a + 1)
    f(vec(1))
    emptied = vec(1)
    del emptied._value
    for bad in (ds.Tensor.__new__(ds.Tensor), Unfinished(), emptied):
        with pytest.raises(TypeError, match="holds no value"):
            f(bad)
    assert f(vec(1)).numpy() == 2


class Twin:
    """Equal to all of its kind, and different."""

    def __init__(self, factor):
        self.factor = factor

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 1


def test_keys_that_are_objects_count_by_identity():
    a = vec(1)

    @ds.jit
    def f(d):
        return a * next(iter(d)).factor

    assert f({Twin(2): a}).numpy() == 2
    assert f({Twin(5): a}).numpy() == 5


@pytest.mark.parametrize("make", [
    lambda: (1, int("2")), lambda: (1, 2, int("3")), lambda: (("a", float("1.5")), None),
    lambda: frozenset([int("1")]), lambda: float("1.5"), lambda: int("12345"), lambda: "a" * 3,
])  # fmt: skip
def test_keys_that_are_values_count_by_value(make, work):
    f = ds.jit(lambda d: sum(d.values(), vec(0)))
    hidden = {}
    g = ds.jit(lambda: sum(hidden.values(), vec(0)))
    with work() as done:
        for _ in range(3):
            assert f({make(): vec(3)}).numpy() == 3
            hidden.clear()
            hidden[make()] = vec(3)
            if isinstance(make(), (int, float, str)):
                assert g().numpy() == 3
    assert done.traces <= 2


def test_an_ordered_dict_is_read_in_its_own_order():
    one, five = vec(1), vec(5)
    first = ds.jit(lambda d: [*d.values()][0] * 1)
    given = collections.OrderedDict(a=one, b=five)
    hidden = collections.OrderedDict(a=one, b=five)
    plain = collections.OrderedDict(a=1, b=5)
    first_hidden = ds.jit(lambda: [*hidden.values()][0] * 1)
    first_plain = ds.jit(lambda: one * [*plain.values()][0])
    for wanted in (1, 5, 1):
        assert first(given).numpy() == wanted
        assert first_hidden().numpy() == wanted
        assert first_plain().numpy() == wanted
        for d in (given, hidden, plain):
            d.move_to_end(next(iter(d)))


class Shrinking(np.ndarray):
    """Empties a list as soon as somebody takes it for an array."""

    victims: list[list] = []

    def __array_finalize__(self, other):
        while Shrinking.victims:
            Shrinking.victims.pop().clear()
            gc.collect()


def test_a_list_that_shrinks_while_it_is_matched(greedy):
    def make():
        return [
            np.ones(3, np.float32).view(Shrinking),
            *[ds.ones((3,)).evaluate() for _ in range(40)],
        ]

    f = ds.jit(lambda tensors: sum(tensors[1:], tensors[0]))
    assert f(make()).numpy()[0] == 41
    for _ in range(3):
        given = make()
        Shrinking.victims.append(given)
        try:
            f(given)
        except IndexError:  # what the plain function raises for an empty list
            assert not given
    assert f(make()).numpy()[0] == 41


class Treacherous(float):
    """Empties containers when it is compared."""

    victims: list = []

    def __eq__(self, other):
        while Treacherous.victims:
            Treacherous.victims.pop().clear()
            gc.collect()
        return float(self) == float(other)

    __hash__ = float.__hash__


@pytest.mark.parametrize("kind", ["list", "dict", "ordered", "deque", "set", "argument"])
def test_containers_that_are_emptied_while_they_are_compared(kind, greedy):
    a = vec(1)

    def fill():
        values = [Treacherous(1000 + i) for i in range(20)]
        if kind == "list":
            return values
        if kind in ("deque", "set"):
            return {"deque": collections.deque, "set": set}[kind](values)
        plain = dict(zip(map(str, range(20)), values, strict=True))
        return collections.OrderedDict(plain) if kind == "ordered" else plain

    box = fill()

    def plain(given=None):
        return a * len(box if given is None else given)

    compiled = ds.jit(plain)
    arguments = (fill(),) if kind == "argument" else ()
    assert compiled(*arguments).numpy() == 20
    for _ in range(4):
        box = fill()
        arguments = (fill(),) if kind == "argument" else ()
        Treacherous.victims = [box, *arguments]
        got = compiled(*arguments).numpy()
        Treacherous.victims = []
        assert got == plain(*arguments).numpy() or got == 20


@pytest.mark.parametrize("value", [float("nan"), 0.0, -0.0, np.float32("nan"), np.int64(3), True])
def test_odd_numbers_settle(value, work):
    """A NaN that is compared with itself does not trace anew; zeros have a sign."""
    hidden = {"k": value}

    def plain(a, n):
        return ds.where(a > 0, a, a + 1) * (2 if str(n) == "nan" else 3), str(hidden["k"])

    compiled = ds.jit(plain)
    with work() as done:
        for _ in range(3):
            hidden["k"] = copy.copy(type(value)(value))
            n = 1 if isinstance(value, np.generic) else type(value)(value)
            got, text = compiled(vec(1), n)
            assert got.numpy() == plain(vec(1), n)[0].numpy() and text == str(value)
    assert done.traces == 1


def test_zero_and_minus_zero_differ():
    box = {"k": 0.0}
    f = ds.jit(lambda a: ds.copysign(a, box["k"]))
    assert f(vec(1)).numpy() == 1
    box["k"] = -0.0
    assert f(vec(1)).numpy() == -1


# ----------------------------------------------------------- values that are more than their value


class Whole(int):
    pass


class Real(float):
    pass


class Text(str):
    pass


class Single(np.float32):
    pass


class Row(list):
    scale = 1.0

    def total(self):
        return sum(self) * FACTOR


class Pair(tuple):
    scale = 1.0


class Table(dict):
    scale = 1.0


class Bag(set):
    scale = 1.0


FACTOR = 1


@pytest.mark.parametrize("make", [
    lambda: Whole(3), lambda: Real(3), lambda: Text("3"), lambda: Row([1, 2]), lambda: Pair([1, 2]),
    lambda: Table(a=1), lambda: Bag([1]),
])  # fmt: skip
@pytest.mark.parametrize("hidden", [False, True])
def test_attributes_of_values_are_read_anew(make, hidden):
    a, thing = vec(1), make()

    def scaled(given):
        return a * (thing if hidden else given).scale

    f = ds.jit(scaled)
    thing.scale = 2.0
    given = None if hidden else thing
    assert f(given).numpy() == 2
    thing.scale = 7.0
    assert f(given).numpy() == 7
    if not hidden:
        other = make()
        other.scale = 9.0
        assert f(other).numpy() == 9 and f(thing).numpy() == 7


def test_attributes_of_a_numpy_number_are_read_anew():
    a, number = vec(1), Single(3)
    f = ds.jit(lambda: a * number.scale)
    for number.scale in (2.0, 7.0):
        assert f().numpy() == number.scale


@pytest.mark.parametrize("kind", [Row, Pair, Table, Bag])
def test_attributes_of_a_containers_class_are_read_anew(kind, monkeypatch):
    thing = kind([("a", 1)]) if kind is Table else kind([1])
    f = ds.jit(lambda a: a * thing.scale)
    assert f(vec(1)).numpy() == 1
    monkeypatch.setattr(kind, "scale", 4.0)
    assert f(vec(1)).numpy() == 4


def test_methods_of_a_container_are_followed(monkeypatch):
    row = Row([1, 2])
    f = ds.jit(lambda a: a * row.total())
    assert f(vec(1)).numpy() == 3
    monkeypatch.setitem(globals(), "FACTOR", 10)
    assert f(vec(1)).numpy() == 30
    monkeypatch.setattr(Row, "total", lambda self: 100)
    assert f(vec(1)).numpy() == 100


def test_what_a_container_says_about_itself_is_not_believed():
    class Liar(list):
        def __iter__(self):
            return iter([7.0])

        def __len__(self):
            return 1

    liar = Liar([1.0, 2.0])

    def plain(a):
        return a * sum(liar) + len(liar)

    f = ds.jit(plain)
    for _ in range(2):
        assert f(vec(1)).numpy() == 8
    liar.append(3.0)
    assert f(vec(1)).numpy() == plain(vec(1)).numpy()


def test_the_types_in_a_set_count():
    numbers = {1}
    whole = ds.asarray([1, 2])
    f = ds.jit(lambda: whole * next(iter(numbers)))
    assert f().dtype is ds.int64
    numbers.clear()
    numbers.add(1.0)
    assert f().dtype is ds.float32


def test_slots_are_read_past_what_a_class_makes_of_attributes():
    class Guarded:
        __slots__ = ("v",)

        def __getattribute__(self, name):
            if asked and name == "v":
                raise RuntimeError("asked from outside")
            return object.__getattribute__(self, name)

    asked = False
    guarded = Guarded()
    guarded.v = 2.0
    f = ds.jit(lambda a: a * guarded.v)
    assert f(vec(1)).numpy() == 2
    asked = True
    with pytest.raises(RuntimeError, match="asked"):  # as the plain function does
        f(vec(1))
    asked = False
    guarded.v = 3.0
    assert f(vec(1)).numpy() == 3


def test_a_weak_reference_to_an_argument_can_be_followed():
    w = vec(2)
    reference = weakref.ref(w)
    f = ds.jit(lambda a: a + reference())
    assert f(w).numpy() == 4 and f(w).numpy() == 4


def test_a_tensor_that_is_only_held_weakly_is_refused():
    held = [vec(2)]
    found = weakref.WeakValueDictionary(w=held[0])
    with pytest.raises(TraceError, match="cannot be found again"):
        ds.jit(lambda a: a + found["w"])(vec(1))


# --------------------------------------------------------------------------------------- results


def test_containers_among_results_are_new_each_time():
    def plain(a):
        return (
            a, {1, 2}, collections.deque([1], maxlen=3), collections.Counter("aab"),
            {"x": [1]}, collections.defaultdict(list, {1: [2]}),
        )  # fmt: skip

    f = ds.jit(plain)
    for _ in range(2):
        a, numbers, queue, counter, nested, default = f(vec(1))
        assert (numbers, queue, counter, nested, default) == plain(vec(1))[1:]
        assert queue.maxlen == 3 and default["new"] == []
        numbers.add(3)
        queue.append(2)
        counter["c"] = 1
        nested["x"].append(2)
        default[1].append(3)


refusing = threading.Event()  # what guards do not see


class Picky(collections.namedtuple("Picky", "a b")):  # noqa: SLOT002
    def __new__(cls, a, b):
        if refusing.is_set():
            raise LookupError("not now")
        return super().__new__(cls, a, b)


def test_a_result_that_cannot_be_made_leaves_no_claims():
    total = vec(0)

    @ds.jit
    def f(a):
        nonlocal total
        total += a
        return Picky(total, 1)

    assert f(vec(1)).b == 1
    refusing.set()
    with pytest.raises(LookupError, match="not now"):
        f(vec(1))
    refusing.clear()
    assert total.numpy() == 2
    assert f(vec(1)).a.numpy() == total.numpy() == 3


# --------------------------------------------------------------------------- generators, failures


@pytest.mark.parametrize("name, value", [
    ("draws", "x"), ("draws", None), ("draws", -3), ("draws", 2**63 - 1), ("draws", 2**70),
    ("seed", "x"), ("seed", None), ("seed", -3), ("seed", 2**70),
])  # fmt: skip
def test_generators_in_disorder_are_refused(name, value):
    f = ds.jit(lambda g: ds.rand((2,), generator=g))
    f(ds.Generator(1))
    generator = ds.Generator(1)
    setattr(generator, name, value)
    with pytest.raises(ValueError, match=f"ds.Generator: {name} is .*; wanted a whole number"):
        f(generator)
    assert getattr(generator, name) == value


def test_a_call_that_fails_in_the_middle_changes_nothing():
    matrix, count = ds.ones((3, 3)).evaluate(), vec(0)

    @ds.jit
    def f(a):
        nonlocal matrix, count
        count += 1
        matrix += a
        matrix += ds.inv(a) * 0
        return ds.rand((2,))

    good, bad = ds.eye(3).evaluate(), ds.zeros((3, 3)).evaluate()
    f(good)
    state = ds.default_generator.get_state()
    before = matrix.numpy().copy(), count.numpy().copy()
    for _ in range(3):
        with pytest.raises(np.linalg.LinAlgError):
            f(bad)
        np.testing.assert_array_equal(matrix.numpy(), before[0])
        np.testing.assert_array_equal(count.numpy(), before[1])
        assert ds.default_generator.get_state() == state
    f(good)
    assert count.numpy() == 2


def test_a_file_whose_name_is_no_text_can_be_traced():
    names: dict = {}
    exec(compile("def f(a):\n    return a + 1\n", "bad\udcff.py", "exec"), names)  # noqa: S102
    assert ds.jit(names["f"])(vec(1)).numpy() == 2


def test_functions_that_call_each_other_for_ever_end():
    class Value(float):
        def __eq__(self, other):
            f(vec(1))
            return True

        __hash__ = float.__hash__

    box = collections.deque([Value(1.0)])

    def plain(a):
        return a * len(box)

    f = ds.jit(plain)
    assert f(vec(1)).numpy() == 1
    box[0] = Value(1.0)
    with contextlib.suppress(RecursionError):
        assert f(vec(1)).numpy() == 1
    box[0] = 1.0
    assert f(vec(1)).numpy() == 1


# ------------------------------------------------------------------------------- lives of functions


def test_a_function_forgets_the_objects_of_old_calls():
    class Thing:
        pass

    f = ds.jit(lambda a, thing: a + 1)
    a, seen = vec(1), []
    for _ in range(300):
        thing = Thing()
        seen.append(weakref.ref(thing))
        f(a, thing)
    del thing
    gc.collect()
    assert sum(ref() is not None for ref in seen) <= 256
    assert len(f.seen) <= 256 and len(f.reasons) <= 256


@ds.jit
def at_the_top(a):
    return a + 1


class Model:
    def __init__(self):
        self.factor = 2.0
        self.step = ds.jit(self.plain)

    def plain(self, a):
        return a * self.factor


def test_functions_are_copied_and_pickled_as_functions_are():
    assert copy.deepcopy(at_the_top) is at_the_top
    assert pickle.loads(pickle.dumps(at_the_top)) is at_the_top
    model = Model()
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        again.factor = 5.0
        assert model.step(vec(1)).numpy() == 2 and again.step(vec(1)).numpy() == 5
    anonymous = ds.jit(functools.partial(lambda a, n: a * n, n=3))
    assert copy.deepcopy(anonymous)(vec(1)).numpy() == 3


DYING = """
import threading, time
import deepseek as ds
a = ds.ones((400_000,)).evaluate()
f = ds.jit(lambda x: (x * 2 + 1).exp().sum())
f(a)
def loop():
    while True:
        f(a)
for _ in range(3):
    threading.Thread(target=loop, daemon=True).start()
time.sleep(0.3)
"""


def test_threads_that_compute_while_the_process_ends():
    ended = subprocess.run(
        [sys.executable, "-c", DYING], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, "")


LATE = """
seen = dict(locals())
def twice(x):
    return x * 2
"""


def test_a_module_that_is_imported_by_a_trace_may_read_what_it_likes(tmp_path, monkeypatch):
    (tmp_path / "late_module.py").write_text(LATE)
    monkeypatch.syspath_prepend(str(tmp_path))

    @ds.jit
    def f(a):
        import late_module

        return late_module.twice(a)

    assert f(vec(1, 2)).numpy().tolist() == [2, 4]
    with pytest.raises(TraceError, match=r"cannot see what locals\(\) reads"):
        ds.jit(lambda a: a * len(locals()))(vec(1))
