"""What a compiled function cannot do, and what the error says: where, and what to write instead."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

import deepseek as ds
from deepseek.errors import TraceError

LOG = []
COUNT = 0
KEPT = []


def vec(*values: float) -> ds.Tensor:
    return ds.asarray(np.array(values, np.float32))


class Counter:
    def __init__(self):
        self.n = 0
        self.last = None


def branch(a):
    if a.sum() > 0:  # the user's line
        return a
    return -a


VALUE_CASES = {
    "if": branch,
    "while": lambda a: while_loop(a),
    "bool": lambda a: a * bool(a[0]),
    "float": lambda a: a * float(a[0]),
    "int": lambda a: a * int(a[0]),
    "item": lambda a: a * a[0].item(),
    "numpy": lambda a: a * a.numpy().sum(),
    "tolist": lambda a: a * sum(a.tolist()),
    "asarray": lambda a: a * np.asarray(a).sum(),
    "index": lambda a: a * LIST_OF_THREE[a.astype(ds.int32)[0]],
    "format": lambda a: a * len(f"{a[0]:.2f}"),
    "in": lambda a: a * (1.0 in a),
    "max": lambda a: max(a[0], a[1]),
}
LIST_OF_THREE = [1, 2, 3]
CHOICES = ("ds.where", "ds.cond", "ds.scan", "ds.while_loop")
ARRAYS = ("compute with the tensor itself", "look at it outside")
WANT_ARRAYS = ("item", "numpy", "tolist", "asarray", "format")


def while_loop(a):
    while a.sum() < 10:
        a = a * 2
    return a


@pytest.mark.parametrize("name", VALUE_CASES)
def test_looking_at_a_value(name):
    with pytest.raises(TraceError) as error:
        ds.jit(VALUE_CASES[name])(vec(1, 2))
    text = str(error.value)
    assert "test_jit_errors.py" in text
    for words in ARRAYS if name in WANT_ARRAYS else CHOICES:
        assert words in text


def test_the_users_line_is_named():
    with pytest.raises(TraceError, match="the user's line"):
        ds.jit(branch)(vec(1))


def test_printing_while_tracing_shows_the_type(capsys):
    @ds.jit
    def f(a):
        print(a)
        return a

    f(vec(1))
    assert "float32[1]" in capsys.readouterr().out


def by_eval(a):
    return a * eval("COUNT + 1")


def by_exec(a):
    exec("COUNT + 1")
    return a


def by_globals(a):
    return a * (globals()["COUNT"] + 1)


def by_vars(a):
    return a * len(vars(Counter))


def by_getattr(a):
    name = "n" + str(COUNT)[:0]
    return a * getattr(Counter(), name)


def by_getattr_of_an_argument(a, name="n"):
    return a * getattr(Counter(), name, 1)


def by_locals(a):
    return a * len(locals())


def by_dict(a):
    return a * Counter().__dict__["n"]


def by_getattr_alias(a):
    get = getattr
    return a * get(Counter(), "n")


@pytest.mark.parametrize(
    "function",
    [by_eval, by_exec, by_globals, by_vars, by_getattr, by_getattr_of_an_argument, by_locals,
     by_dict, by_getattr_alias],
)  # fmt: skip
def test_reads_that_cannot_be_seen(function):
    with pytest.raises(TraceError) as error:
        ds.jit(function)(vec(1))
    assert "test_jit_errors.py" in str(error.value) and function.__name__ in str(error.value)


def test_reads_in_a_helper_are_seen_too():
    with pytest.raises(TraceError, match="by_eval"):
        ds.jit(lambda a: by_eval(a))(vec(1))


def by_local_import(a):
    import random as chance

    return a * chance.random()


def by_local_name(a):
    from time import time as now

    return a * now()


def by_local_submodule(a):
    import numpy.random as draw

    return a * draw.rand()


IMPURE = {
    "a local import": by_local_import,
    "a local name": by_local_name,
    "a local submodule": by_local_submodule,
    "random": lambda a: a * random.random(),
    "numpy.random": lambda a: a * np.random.rand(),
    "numpy generator": lambda a: a * RNG.normal(),
    "time": lambda a: a * time.time(),
}
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", IMPURE)
def test_what_would_be_frozen_is_refused(name):
    with pytest.raises(TraceError) as error:
        ds.jit(IMPURE[name])(vec(1))
    assert "test_jit_errors.py" in str(error.value)


def counts(a):
    global COUNT
    COUNT += 1
    return a * COUNT


def logs(a):
    LOG.append(1)
    return a * len(LOG)


def test_changing_what_was_read_is_an_error():
    counter = Counter()

    def method(a):
        counter.n += 1
        return a * counter.n

    for function in (counts, logs, method):
        with pytest.raises(TraceError, match="changed"):
            ds.jit(function)(vec(1))


def test_a_memo_that_settles_is_fine(work):
    memo = {}

    @ds.jit
    def f(a):
        if "scale" not in memo:
            memo["scale"] = 3.0
        return a * memo["scale"]

    assert f(vec(1)).numpy() == 3
    with work() as done:
        assert f(vec(2)).numpy() == 6
    assert done.traces == 0
    memo["scale"] = 4.0
    assert f(vec(1)).numpy() == 4


def test_a_traced_tensor_kept_outside():
    counter = Counter()

    @ds.jit
    def attribute(a):
        counter.last = a * 2
        return a

    @ds.jit
    def appended(a):
        KEPT.append(a * 2)
        return a

    for f in (attribute, appended):
        with pytest.raises(TraceError, match="return"):
            f(vec(1))
            for kept in (counter.last, KEPT[-1]):
                kept.numpy()
    KEPT.clear()


def test_a_tensor_nobody_shows():
    def make():
        w = vec(1)
        return iter([w])

    source = make()

    @ds.jit
    def f(a):
        return a + next(source)

    with pytest.raises(TraceError, match="argument"):
        f(vec(1))


def test_shape_errors_name_the_users_line():
    @ds.jit
    def f(a):
        return a @ a  # does not fit

    with pytest.raises(ds.errors.ShapeError, match="does not fit"):
        f(ds.ones((2, 3)))


def test_errors_of_the_function_pass_through():
    @ds.jit
    def f(a):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        f(vec(1))


def test_deleted_arguments_and_closures():
    def outer():
        if COUNT < 0:
            late = 1

        def f(a):
            return a * late

        return f

    with pytest.raises(NameError):
        ds.jit(outer())(vec(1))
