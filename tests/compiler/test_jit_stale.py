"""Never silently stale: whatever a trace read, changing it changes what the compiled function does.

Each case is a plain function and a change. After the change the compiled function must do what the
plain one does; before it, a second call must trace nothing.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import os
import types

import numpy as np
import pytest

import deepseek as ds
from deepseek import config, nn, optim

NUMBER = 2
TEXT = "up"
LIST = [1, 2]
DICT = {"a": 1, "nested": {"b": [2]}}
TUPLE = (1, 2)
SET = {1, 2}
ARRAY = np.array([1.0, 2.0], np.float32)
SPACE = types.SimpleNamespace(k=1, inner=types.SimpleNamespace(k=5))
DISPATCH = {"f": lambda a: a + 1}
STEPS = collections.deque([1, 2])
DEFAULTS = collections.defaultdict(int, a=3)


def vec(*values: float) -> ds.Tensor:
    return ds.asarray(np.array(values, np.float32))


def helper(a):
    return a * 3


def helper_of_helper(a):
    return a * deep()


def deep():
    return NUMBER


def make_closure(n):
    def inner(a):
        return a * n

    return inner


CLOSURE = make_closure(2)


class Base:
    rate = 2

    @property
    def factor(self):
        return self._factor

    @staticmethod
    def static(a):
        return a + 1

    @classmethod
    def by_class(cls, a):
        return a * cls.rate


class Thing(Base):
    def __init__(self, factor=3):
        self._factor = factor
        self.part = types.SimpleNamespace(offset=1)
        self.values = [1, 2]

    def method(self, a):
        return a * self.factor + self.part.offset

    def __call__(self, a):
        return a * self._factor

    def __add__(self, other):
        return other + self._factor

    def __getitem__(self, i):
        return self.values[i]


THING = Thing()


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


COLOUR = Colour.RED


@dataclasses.dataclass
class Settings:
    width: int = 2


SETTINGS = Settings()


class Lazy:
    """Attributes made by __getattr__ from a dict."""

    def __init__(self):
        self.data = {"k": 4}

    def __getattr__(self, name):
        if name == "data":
            raise AttributeError(name)
        return self.data[name]


LAZY = Lazy()


class Slots:
    __slots__ = ("k",)

    def __init__(self):
        self.k = 6


SLOTS = Slots()


def set_global(name, value):
    return lambda patch: patch.setitem(globals(), name, value)


def set_attr(obj, name, value):
    return lambda patch: patch.setattr(obj, name, value)


def mutate(function, undo):
    """A change of something in place, undone after the test."""

    def change(patch):
        patch.setattr(Undo, "todo", undo)
        function()

    return change


class Undo:
    todo = staticmethod(lambda: None)


def set_item(values, i, value):
    before = values[i]
    return mutate(lambda: values.__setitem__(i, value), lambda: values.__setitem__(i, before))


def globals_seen():
    try:
        return {"LATER": LATER}  # noqa: F821
    except NameError:
        return {}


def with_default(a, n=4, *, k=1):
    return a * n * k


def helper_of_two(n, a):
    return a * n


def sum_of(values, a):
    return a * sum(values)


def doubled(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args) * 2

    return inner


@doubled
def wrapped(a):
    return a * NUMBER


class Faster(Thing):
    rate = 99


BOUND = THING.method
PARTIAL = functools.partial(helper_of_two, 3)
LIST_PARTIAL = functools.partial(sum_of, LIST)


CASES = {
    "global number": (lambda a: a * NUMBER, set_global("NUMBER", 5)),
    "global number to a float": (lambda a: a * NUMBER, set_global("NUMBER", 2.5)),
    "global number to a bool": (
        lambda a: a * (7 if NUMBER is True else 1),
        set_global("NUMBER", True),
    ),
    "global string": (lambda a: a * len(TEXT), set_global("TEXT", "down")),
    "global tuple": (lambda a: a * TUPLE[1], set_global("TUPLE", (1, 9))),
    "global list replaced": (lambda a: a * LIST[0], set_global("LIST", [7, 2])),
    "list element": (lambda a: a * LIST[0], set_item(LIST, 0, 9)),
    "list appended to": (
        lambda a: a * len(LIST),
        mutate(lambda: LIST.append(3), lambda: LIST.pop()),
    ),
    "dict value": (lambda a: a * DICT["a"], lambda p: p.setitem(DICT, "a", 4)),
    "dict key added": (lambda a: a * len(DICT), lambda p: p.setitem(DICT, "new", 4)),
    "dict key removed": (lambda a: a * ("a" in DICT), lambda p: p.delitem(DICT, "a")),
    "nested containers": (
        lambda a: a * DICT["nested"]["b"][0],
        set_item(DICT["nested"]["b"], 0, 8),
    ),
    "set": (lambda a: a * len(SET), mutate(lambda: SET.add(9), lambda: SET.discard(9))),
    "set of as many": (
        lambda a: a * sum(SET),
        mutate(lambda: (SET.discard(1), SET.add(9)), lambda: (SET.discard(9), SET.add(1))),
    ),
    "deque": (lambda a: a * STEPS[0], mutate(lambda: STEPS.rotate(1), lambda: STEPS.rotate(-1))),
    "defaultdict": (lambda a: a * DEFAULTS["a"], lambda p: p.setitem(DEFAULTS, "a", 4)),
    "numpy array in place": (
        lambda a: a + ARRAY,
        mutate(lambda: ARRAY.__setitem__(0, 50), lambda: ARRAY.__setitem__(0, 1)),
    ),
    "numpy array replaced": (
        lambda a: a + ARRAY,
        set_global("ARRAY", np.array([7.0, 8.0], np.float32)),
    ),
    "numpy array of another shape": (
        lambda a: a + ARRAY.sum(),
        set_global("ARRAY", np.ones(4, np.float32)),
    ),
    "closure cell": (
        lambda a: CLOSURE(a),
        lambda p: p.setattr(CLOSURE.__closure__[0], "cell_contents", 6),
    ),
    "function from the same code": (lambda a: CLOSURE(a), set_global("CLOSURE", make_closure(11))),
    "helper redefined": (lambda a: helper(a), set_global("helper", lambda a: a - 1)),
    "helper's code": (
        lambda a: helper(a),
        set_attr(helper, "__code__", (lambda a: a * 8).__code__),
    ),
    "helper's helper": (lambda a: helper_of_helper(a), set_global("deep", lambda: 7)),
    "helper's global": (lambda a: helper_of_helper(a), set_global("NUMBER", 13)),
    "default changed": (
        lambda a: with_default(a),
        lambda p: p.setattr(with_default, "__defaults__", (9,)),
    ),
    "keyword default changed": (
        lambda a: with_default(a),
        lambda p: p.setattr(with_default, "__kwdefaults__", {"k": 9}),
    ),
    "function in a dict": (
        lambda a: DISPATCH["f"](a),
        lambda p: p.setitem(DISPATCH, "f", lambda a: a * 9),
    ),
    "attribute of an object": (lambda a: THING.method(a), set_attr(THING, "_factor", 10)),
    "attribute of an attribute": (lambda a: THING.method(a), set_attr(THING.part, "offset", 10)),
    "attribute replaced by an object": (
        lambda a: THING.method(a),
        set_attr(THING, "part", types.SimpleNamespace(offset=20)),
    ),
    "attribute added over the class": (
        lambda a: a * THING.rate,
        lambda p: p.setattr(THING, "rate", 9, raising=False),
    ),
    "namespace": (lambda a: a * SPACE.inner.k, set_attr(SPACE.inner, "k", 3)),
    "class attribute through an instance": (lambda a: a * THING.rate, set_attr(Base, "rate", 6)),
    "class attribute": (lambda a: a * Thing.rate, set_attr(Base, "rate", 6)),
    "class attribute shadowed": (lambda a: a * Thing.rate, lambda p: p.setattr(Thing, "rate", 7)),
    "class method's class attribute": (lambda a: Thing.by_class(a), set_attr(Base, "rate", 6)),
    "method replaced": (
        lambda a: THING.method(a),
        set_attr(Thing, "method", lambda self, a: a - 5),
    ),
    "method of one object": (lambda a: THING.method(a), set_attr(THING, "method", lambda a: a - 7)),
    "property replaced": (
        lambda a: THING.method(a),
        set_attr(Base, "factor", property(lambda s: 21)),
    ),
    "static method replaced": (
        lambda a: Thing.static(a),
        set_attr(Base, "static", staticmethod(lambda a: a * 4)),
    ),
    "special method replaced": (
        lambda a: THING(a),
        set_attr(Thing, "__call__", lambda self, a: a * 44),
    ),
    "operator replaced": (lambda a: THING + a, set_attr(Thing, "__add__", lambda self, a: a * 45)),
    "subscript of an object": (lambda a: a * THING[0], set_item(THING.values, 0, 6)),
    "class of an object": (
        lambda a: a * THING.rate,
        lambda p: p.setattr(THING, "__class__", Faster),
    ),
    "bound method of a global": (lambda a: BOUND(a), set_attr(THING, "_factor", 31)),
    "partial": (lambda a: PARTIAL(a), set_global("PARTIAL", functools.partial(helper_of_two, 9))),
    "partial's argument": (lambda a: LIST_PARTIAL(a), set_item(LIST, 0, 77)),
    "enum": (lambda a: a * COLOUR.value, set_global("COLOUR", Colour.BLUE)),
    "dataclass": (lambda a: a * SETTINGS.width, set_attr(SETTINGS, "width", 9)),
    "attribute by __getattr__": (lambda a: a * LAZY.k, lambda p: p.setitem(LAZY.data, "k", 9)),
    "slot": (lambda a: a * SLOTS.k, set_attr(SLOTS, "k", 9)),
    "constant getattr": (lambda a: a * getattr(SPACE, "k"), set_attr(SPACE, "k", 12)),  # noqa: B009
    "getattr with a default": (
        lambda a: a * getattr(SPACE, "absent", 1),
        lambda p: p.setattr(SPACE, "absent", 12, raising=False),
    ),
    "hasattr": (
        lambda a: a * (5 if hasattr(SPACE, "other") else 1),
        lambda p: p.setattr(SPACE, "other", 1, raising=False),
    ),
    "environment variable": (
        lambda a: a * int(os.environ.get("NOT_OURS", "1")),
        lambda p: p.setenv("NOT_OURS", "5"),
    ),
    "environment by getenv": (
        lambda a: a * int(os.getenv("NOT_OURS", "1")),
        lambda p: p.setenv("NOT_OURS", "5"),
    ),
    "global that was not there": (
        lambda a: a * (1 if "LATER" not in globals_seen() else 2),
        lambda p: p.setitem(globals(), "LATER", 1),
    ),
    "builtin shadowed": (
        lambda a: a * len(LIST),
        lambda p: p.setitem(globals(), "len", lambda _: 30),
    ),
    "comprehension": (lambda a: sum([a * i for i in LIST]), set_item(LIST, 1, 9)),
    "nested function": (lambda a: (lambda b: b * NUMBER)(a), set_global("NUMBER", 9)),
    "wrapped function": (lambda a: wrapped(a), set_global("NUMBER", 9)),
    "callback through the library": (
        lambda a: ds.grad(lambda t: (t * t * NUMBER).sum())(a),
        set_global("NUMBER", 9),
    ),
}


@pytest.fixture
def patch(monkeypatch):
    yield monkeypatch
    Undo.todo()


@pytest.mark.parametrize("name", CASES)
def test_plain_python(work, patch, name):
    plain, change = CASES[name]
    jitted = ds.jit(plain)
    a = vec(1, 2)
    before = plain(a).tolist()
    assert jitted(a).tolist() == before
    with work() as done:
        assert jitted(a).tolist() == before
    assert done.traces == 0
    change(patch)
    after = plain(a).tolist()
    assert after != before, "the case changes nothing"
    assert jitted(a).tolist() == after
    with work() as done:
        assert jitted(a).tolist() == after
    assert done.traces == 0


def test_going_back_needs_no_trace(work, monkeypatch):
    jitted = ds.jit(lambda a: a * NUMBER)
    a = vec(1)
    for value in (2, 3):
        monkeypatch.setitem(globals(), "NUMBER", value)
        jitted(a)
    with work() as done:
        for value in (2, 3, 2):
            monkeypatch.setitem(globals(), "NUMBER", value)
            assert jitted(a).numpy() == value
    assert done.traces == 0


def test_a_deleted_global_is_pythons_own_error(monkeypatch):
    jitted = ds.jit(lambda a: a * NUMBER)
    jitted(vec(1))
    monkeypatch.delitem(globals(), "NUMBER")
    with pytest.raises(NameError, match="NUMBER"):
        jitted(vec(1))


# --------------------------------------------------------------------------------------- modules


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.drop = nn.Dropout(0.0)
        self.act = nn.ReLU()
        self.scale = 1.0
        self.options = {"k": [1]}
        self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

    def forward(self, x):
        x = self.act(self.norm(self.conv(x))) * self.scale * self.options["k"][0]
        x = self.drop(x).mean(axis=(2, 3))
        for block in self.blocks:
            x = block(x)
        return x


def init(parameter, value):
    with ds.no_grad():
        parameter[:] = ds.zeros(parameter.shape) + value


MODULE_CASES = {
    "eval": lambda m: m.eval(),
    "one part's mode": lambda m: m.norm.eval(),
    "stride": lambda m: setattr(m.conv, "stride", (2, 2)),
    "padding": lambda m: setattr(m.conv, "padding", (1, 1)),
    "dropout": lambda m: setattr(m.drop, "p", 1.0),
    "eps": lambda m: setattr(m.norm, "eps", 10.0),
    "momentum": lambda m: setattr(m.norm, "momentum", 1.0),
    "own attribute": lambda m: setattr(m, "scale", 7.0),
    "own container in place": lambda m: m.options["k"].__setitem__(0, 5),
    "part replaced": lambda m: setattr(m, "act", nn.GELU()),
    "part of a list replaced": lambda m: m.blocks.__setitem__(0, nn.Identity()),
    "part appended": lambda m: m.blocks.append(nn.ReLU()),
    "parameter replaced": lambda m: setattr(
        m.blocks[0], "weight", nn.Parameter(ds.ones((2, 2)) * 3)
    ),
    "parameter removed": lambda m: setattr(m.blocks[0], "bias", None),
    "parameter in place": lambda m: init(m.blocks[0].weight, 0.5),
    "buffer replaced": lambda m: (m.eval(), setattr(m.norm, "running_mean", ds.ones((2,)) * 9)),
    "state loaded": lambda m: m.load_state_dict({k: v * 0 + 1 for k, v in m.state_dict().items()}),
    "forward replaced": lambda m: setattr(m.act, "forward", lambda x: x * 0 + 1),
    "dtype": lambda m: m.double(),
}


def sample(model):
    rng = np.random.default_rng(0)
    return ds.asarray(rng.standard_normal((4, 1, 5, 5))).astype(model.conv.weight.dtype)


@pytest.mark.parametrize("name", MODULE_CASES)
@pytest.mark.parametrize("how", ["global", "argument", "module"])
def test_modules(work, name, how):
    ds.manual_seed(0)
    plain = Net()
    ds.manual_seed(0)
    model = Net()
    call = {
        "global": ds.jit(lambda x: model(x)),
        "argument": functools.partial(ds.jit(lambda m, x: m(x)), model),
        "module": ds.jit(model),
    }[how]

    def same():
        np.testing.assert_allclose(
            call(sample(model)).numpy(), plain(sample(plain)).numpy(), rtol=1e-4, atol=1e-5
        )

    same()
    with work() as done:
        same()
    assert done.traces == 0
    for m in (plain, model):
        MODULE_CASES[name](m)
    same()
    same()


def test_class_attribute_of_a_module():
    class Scale(nn.Module):
        factor = 2

        def forward(self, x):
            return x * self.factor

    model = Scale()
    f = ds.jit(lambda x: model(x))
    assert f(vec(1)).numpy() == 2
    Scale.factor = 3
    assert f(vec(1)).numpy() == 3


def test_other_models_in_between(work):
    """Changes to unrelated modules cost a check, not a trace."""
    model = nn.Linear(2, 2)
    f = ds.jit(lambda x: model(x))
    f(vec(1, 2))
    nn.Linear(3, 3).eval()
    with work() as done:
        f(vec(1, 2))
    assert done.traces == 0


# ---------------------------------------------------------------------------------- surroundings


def test_backend_option(work):
    f = ds.jit(lambda a: a * 2)
    a = vec(1)
    f(a)
    with config.override(backend="reference"), work() as done:
        f(a)
    assert done.traces == 1
    with work() as done:
        f(a)
    assert done.traces == 0


def test_dtype_of_a_hidden_input():
    w = vec(1, 2)
    f = ds.jit(lambda a: a + w)
    assert f(vec(1, 1)).dtype == ds.float32
    w = w.astype(ds.float64)
    assert f(vec(1, 1)).dtype == ds.float64


def test_requires_grad_of_a_hidden_input():
    w = vec(1, 2)
    f = ds.jit(lambda a: a + w)
    assert not f(vec(1, 1)).requires_grad
    w.requires_grad_()
    out = f(vec(1, 1))
    out.sum().backward()
    assert w.grad.tolist() == [1, 1]


def test_grad_mode():
    w = vec(1, 2).requires_grad_()
    f = ds.jit(lambda a: a + w)
    assert f(vec(1, 1)).requires_grad
    with ds.no_grad():
        assert not f(vec(1, 1)).requires_grad
    assert f(vec(1, 1)).requires_grad


def test_generator_reseeded(work):
    f = ds.jit(lambda: ds.rand((4,)))
    ds.manual_seed(1)
    first = f().tolist()
    assert f().tolist() != first
    ds.manual_seed(1)
    with work() as done:
        assert f().tolist() == first
        ds.manual_seed(2)
        assert f().tolist() != first
    assert done.traces == 0


def test_dict_of_tensors_gains_a_key():
    tensors = {"a": vec(1)}
    f = ds.jit(lambda: sum(tensors.values(), vec(0)))
    assert f().numpy() == 1
    tensors["b"] = vec(2)
    assert f().numpy() == 3
    del tensors["a"]
    assert f().numpy() == 2


def test_keys_that_are_tensors():
    key, other = vec(1), vec(1)
    table = {key: vec(10)}
    f = ds.jit(lambda a: a + table[key])
    assert f(vec(0)).numpy() == 10
    table.clear()
    table[other] = vec(20)
    with pytest.raises(KeyError):
        f(vec(0))
    table[key] = vec(30)
    assert f(vec(0)).numpy() == 30


def test_optimizer_hyper_parameters():
    w = ds.ones((2,), requires_grad=True)
    opt = optim.SGD([w], lr=1.0)

    @ds.jit
    def step():
        opt.zero_grad()
        w.sum().backward()
        opt.step()

    for lr, wanted in ((1.0, 0.0), (0.5, -0.5), (0.0, -0.5), (2.0, -2.5)):
        opt.param_groups[0]["lr"] = lr
        step()
        assert w.tolist() == [wanted] * 2
    opt.param_groups[0]["weight_decay"] = 1.0
    step()
    assert w.tolist() == [-2.5 - 2 * (1 - 2.5)] * 2
    opt.param_groups[0]["maximize"] = True
    before = w.tolist()[0]
    step()
    assert w.tolist() != [before - 2 * (1 + before)] * 2


def test_optimizer_replaced():
    w = ds.ones((2,), requires_grad=True)
    box = {"opt": optim.SGD([w], lr=1.0)}

    @ds.jit
    def step():
        w.grad = None
        (w * w).sum().backward()
        box["opt"].step()

    step()
    assert w.tolist() == [-1, -1]
    box["opt"] = optim.SGD([w], lr=0.25)
    step()
    assert w.tolist() == [-0.5, -0.5]


def test_gradient_that_appears():
    w = vec(2).requires_grad_()

    @ds.jit
    def f(a):
        return a if w.grad is None else a + w.grad

    assert f(vec(1)).numpy() == 1
    (w * 5).sum().backward()
    assert f(vec(1)).numpy() == 6
    w.grad = None
    assert f(vec(1)).numpy() == 1
