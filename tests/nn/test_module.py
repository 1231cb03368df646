"""Module: attributes, listing, mode, state, conversion, text."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError, DTypeError, ShapeError
from deepseek.frontend.guards import structure
from deepseek.nn.parameter import assign


class Block(nn.Module):
    """A module with a parameter, buffers of both kinds, parts, and a part that is not there."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(ds.ones(3))
        self.linear = nn.Linear(3, 2)
        self.nothing = None
        self.register_buffer("count", ds.zeros((), dtype=ds.int64))
        self.register_buffer("scratch", ds.zeros(4), persistent=False)
        self.register_parameter("absent", None)
        self.inner = nn.Sequential(nn.ReLU(), nn.Linear(2, 2, bias=False))

    def forward(self, x: ds.Tensor) -> ds.Tensor:
        return self.inner(self.linear(x * self.scale))


KEYS = ["scale", "count", "linear.weight", "linear.bias", "inner.1.weight"]


def test_names_come_in_pytorchs_order() -> None:
    block = Block()
    assert list(block.state_dict()) == KEYS
    assert [n for n, _ in block.named_parameters()] == [k for k in KEYS if k != "count"]
    assert [n for n, _ in block.named_buffers()] == ["count", "scratch"]
    assert [n for n, _ in block.named_modules()] == ["", "linear", "inner", "inner.0", "inner.1"]
    assert [n for n, _ in block.named_children()] == ["linear", "inner"]
    assert [type(m) for m in block.children()] == [nn.Linear, nn.Sequential]
    assert [n for n, _ in block.named_parameters(recurse=False)] == ["scale"]
    assert block.get_submodule("inner.1") is block.inner[1]
    with pytest.raises(ArgumentError, match="unknown part of Block 'inner.2'; valid: .*inner.1"):
        block.get_submodule("inner.2")


def test_a_call_is_forward() -> None:
    block = Block()
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    state = {k: v.numpy() for k, v in block.state_dict().items()}
    hidden = (x * state["scale"]) @ state["linear.weight"].T + state["linear.bias"]
    expected = np.maximum(hidden, 0) @ state["inner.1.weight"].T
    np.testing.assert_allclose(block(ds.asarray(x)).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_shared_parameter_appears_once_among_parameters_and_twice_in_the_state() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    assert [n for n, _ in model.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    every = [n for n, _ in model.named_parameters(remove_duplicate=False)]
    assert every == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_a_shared_module_appears_once() -> None:
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, layer)
    assert [n for n, _ in model.named_modules()] == ["", "0"]
    assert len(list(model.parameters())) == 2
    assert len(list(model.children())) == 1


def test_attributes_of_a_kind_refuse_other_kinds() -> None:
    block = Block()
    with pytest.raises(ArgumentError, match=r"Block.scale is a parameter: got a Tensor"):
        block.scale = ds.ones(3)
    with pytest.raises(ArgumentError, match=r"Block.linear is a module: got a int; wanted a Modu"):
        block.linear = 3
    with pytest.raises(ArgumentError, match=r"Block.count is a buffer: got a int"):
        block.count = 3
    with pytest.raises(ArgumentError, match="already has an attribute 'scale'"):
        block.register_buffer("scale", ds.ones(3))
    with pytest.raises(ArgumentError, match="has no dot"):
        block.register_buffer("a.b", ds.ones(3))
    with pytest.raises(AttributeError, match="Block has no attribute 'weights'"):
        _ = block.weights
    block.scale = None
    assert "scale" not in dict(block.named_parameters())


def test_a_name_belongs_to_one_kind() -> None:
    block = Block()
    block.nothing = nn.ReLU()
    assert "nothing" in dict(block.named_children())
    block.linear = nn.Parameter(ds.ones(1))
    assert "linear" not in dict(block.named_children())
    assert "linear" in dict(block.named_parameters())
    del block.linear
    assert not hasattr(block, "linear")


def test_super_init_is_asked_for() -> None:
    class Hasty(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.Linear(1, 1)

    with pytest.raises(ArgumentError, match=r"call super\(\).__init__\(\) first in Hasty"):
        Hasty()


def test_mode_reaches_every_part() -> None:
    block = Block()
    assert all(m.training for m in block.modules())
    assert block.eval() is block
    assert not any(m.training for m in block.modules())
    block.train()
    assert all(m.training for m in block.modules())


CHANGES: dict[str, Callable[[Block], object]] = {
    "attribute": lambda b: setattr(b, "nothing", 3),
    "deletion": lambda b: delattr(b, "nothing"),
    "mode": lambda b: b.eval(),
    "part": lambda b: setattr(b, "linear", nn.Linear(3, 2)),
    "parameter": lambda b: setattr(b, "scale", nn.Parameter(ds.ones(3))),
    "buffer": lambda b: setattr(b, "count", ds.ones((), dtype=ds.int64)),
    "registration": lambda b: b.register_buffer("more", ds.ones(1)),
    "dtype": lambda b: b.double(),
    "gradients": lambda b: b.requires_grad_(False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_counted(name: str) -> None:
    block = Block()
    before = structure.version
    CHANGES[name](block)
    assert structure.version > before


def test_new_values_and_no_changes_are_not_counted() -> None:
    block = Block()
    x = ds.ones((2, 3))
    optimizer = ds.optim.SGD(block.parameters(), lr=0.1)
    before = structure.version
    block(x).sum().backward()
    optimizer.step()
    block.zero_grad()
    assign(block.count, block.count + 1)
    block.load_state_dict(block.state_dict())
    block.train()
    assert structure.version == before
    assert block.count.item() == 1


def test_a_buffer_may_be_assigned_inside_a_compiled_function() -> None:
    class Total(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", ds.zeros(()))

        def forward(self, x: ds.Tensor) -> ds.Tensor:
            self.total = self.total + x.sum()
            return self.total * 2

    model = Total()
    call = ds.jit(lambda x: model(x))
    before = ds.counters.traces
    assert [call(ds.ones(3)).item() for _ in range(3)] == [6.0, 12.0, 18.0]
    assert model.total.item() == 9.0
    assert ds.counters.traces == before + 1


def test_guards_look_at_what_forward_reads() -> None:
    assert set(nn.Dropout._ds_children_) >= {"_parameters", "_buffers", "_modules", "training", "p"}
    assert set(nn.BatchNorm2d._ds_children_) >= {"training", "eps", "momentum"}
    assert {"stride", "padding", "dilation", "groups"} <= set(nn.ConvActivation2d._ds_children_)


# ---------------------------------------------------------------------------------------- state


def test_the_state_is_a_snapshot() -> None:
    layer = nn.Linear(2, 1)
    state = layer.state_dict()
    before = state["weight"].numpy().copy()
    assign(layer.weight, layer.weight.detach() + 1)
    assert np.array_equal(state["weight"].numpy(), before)
    assert not state["weight"].requires_grad
    layer.load_state_dict(state)
    assert np.array_equal(layer.weight.numpy(), before)
    assert layer.weight.requires_grad and layer.weight.is_leaf


def test_a_state_is_converted_to_the_dtype_here() -> None:
    layer = nn.Linear(2, 1).double()
    layer.load_state_dict({"weight": np.ones((1, 2), np.float32), "bias": np.zeros(1, np.float16)})
    assert layer.weight.dtype is ds.float64
    assert layer.weight.numpy().tolist() == [[1.0, 1.0]]


def test_what_does_not_fit_is_listed_and_changes_nothing() -> None:
    block = Block()
    state = dict(block.state_dict())
    before = {k: v.numpy().copy() for k, v in state.items()}
    given = {k: v + 1 for k, v in state.items()}
    given["linear.weight"] = ds.zeros((2, 4))
    given["linear.bias"] = "b"
    given["extra"] = given.pop("scale")
    with pytest.raises(ArgumentError) as error:
        block.load_state_dict(given)
    text = str(error.value)
    assert "missing: scale" in text
    assert "unexpected: extra" in text
    assert "linear.weight: got shape (2, 4); wanted (2, 3)" in text
    assert "linear.bias: got a str; wanted a Tensor" in text
    with pytest.raises(ArgumentError, match="linear.weight: got shape"):
        block.load_state_dict(given, strict=False)
    for key, value in block.state_dict().items():
        assert np.array_equal(value.numpy(), before[key]), key


def test_not_strict_leaves_keys_aside() -> None:
    block = Block()
    result = block.load_state_dict({"scale": np.full(3, 7.0), "more": np.ones(1)}, strict=False)
    assert result.missing_keys == [k for k in KEYS if k != "scale"]
    assert result.unexpected_keys == ["more"]
    assert block.scale.numpy().tolist() == [7.0] * 3


def test_a_copy_is_independent() -> None:
    block = Block()
    block(ds.ones((1, 3))).sum().backward()
    other = copy.deepcopy(block)
    assert isinstance(other.scale, nn.Parameter) and other.scale.requires_grad
    assign(other.scale, other.scale.detach() * 5)
    assert block.scale.numpy().tolist() == [1.0] * 3
    assert [n for n, _ in other.named_parameters()] == [n for n, _ in block.named_parameters()]


# ----------------------------------------------------------------------------------- conversion


def test_to_converts_floats_only() -> None:
    block = Block()
    block(ds.ones((1, 3))).sum().backward()
    handle = block.scale
    assert block.to(ds.float16) is block
    assert block.scale is handle
    assert handle.dtype is ds.float16 and handle.requires_grad and handle.is_leaf
    assert handle.grad is not None and handle.grad.dtype is ds.float16
    assert block.count.dtype is ds.int64
    assert block.bfloat16().linear.weight.dtype is ds.bfloat16
    assert block.float().linear.weight.dtype is ds.float32
    assert block.to("cpu", ds.float64).linear.weight.dtype is ds.float64


def test_to_names_what_is_wrong() -> None:
    with pytest.raises(ArgumentError, match="unknown device 'tpu'; valid: .*cpu"):
        nn.Linear(1, 1).to("tpu")
    with pytest.raises(ArgumentError, match="wanted a float dtype"):
        nn.Linear(1, 1).to(ds.int8)


def test_requires_grad_and_zero_grad() -> None:
    block = Block()
    block(ds.ones((1, 3))).sum().backward()
    block.zero_grad(set_to_none=False)
    assert block.linear.weight.grad.numpy().tolist() == [[0.0] * 3] * 2
    block.zero_grad()
    assert all(p.grad is None for p in block.parameters())
    block.requires_grad_(False)
    assert not any(p.requires_grad for p in block.parameters())
    assert not block(ds.ones((1, 3))).requires_grad


def test_apply_goes_from_parts_to_wholes() -> None:
    seen: list[str] = []
    block = Block()
    assert block.apply(lambda m: seen.append(type(m).__name__)) is block
    assert seen == ["Linear", "ReLU", "Linear", "Sequential", "Block"]


def test_parameters_say_what_they_want() -> None:
    with pytest.raises(ArgumentError, match=r"write nn.Parameter\(ds.asarray"):
        nn.Parameter([1.0])
    with pytest.raises(DTypeError, match="wanted a float dtype"):
        nn.Parameter(ds.zeros(1, dtype=ds.int64))
    assert not nn.Parameter(ds.zeros(1, dtype=ds.int64), requires_grad=False).requires_grad
    assert repr(nn.Parameter(ds.zeros(1))).startswith("Parameter containing:\ntensor([0.]")


def test_assign_keeps_type_handle_and_gradient() -> None:
    p = nn.Parameter(ds.ones(2))
    (p * 3).sum().backward()
    with pytest.raises(ShapeError, match="assign"):
        assign(p, ds.ones(3))
    with pytest.raises(DTypeError, match="assign"):
        assign(p, ds.ones(2, dtype=ds.float64))
    assign(p, p * 2)
    assert p.is_leaf and p.requires_grad
    assert p.grad.numpy().tolist() == [3.0, 3.0]
    (p * p).sum().backward()
    assert p.grad.numpy().tolist() == [7.0, 7.0]


# ---------------------------------------------------------------------------------------- text


def test_repr_is_pytorchs() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Sequential(nn.Flatten(), nn.Linear(256, 10)),
    )
    assert repr(model) == "\n".join(
        [
            "Sequential(",
            "  (0): Conv2d(1, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)",
            "  (1): BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=True, bias=True, "
            "track_running_stats=True)",
            "  (2): ReLU(inplace=True)",
            "  (3): Sequential(",
            "    (0): Flatten(start_dim=1, end_dim=-1)",
            "    (1): Linear(in_features=256, out_features=10, bias=True)",
            "  )",
            ")",
        ]
    )
    assert repr(nn.ReLU()) == "ReLU()"
    assert repr(nn.MaxPool2d(2)) == (
        "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)"
    )


# ------------------------------------------------------------------------------------ containers


def test_sequential_is_indexed_and_sliced() -> None:
    a, b, c = nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)
    model = nn.Sequential(a, b, c)
    assert len(model) == 3 and list(model) == [a, b, c]
    assert model[0] is a and model[-1] is c
    tail = model[1:]
    assert isinstance(tail, nn.Sequential) and list(tail) == [b, c]
    assert list(tail.state_dict()) == ["2.weight", "2.bias"]
    model[1] = nn.Tanh()
    assert isinstance(model[1], nn.Tanh)
    del model[1]
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    model.append(b).insert(1, b)
    assert list(model) == [a, b, c, b]
    with pytest.raises(IndexError):
        model[4]
    with pytest.raises(ArgumentError, match="wanted modules"):
        nn.Sequential(nn.Linear(1, 1), ds.relu)


def test_sequential_takes_names() -> None:
    model = nn.Sequential({"first": nn.Linear(1, 2), "second": nn.ReLU()})
    assert list(model.state_dict()) == ["first.weight", "first.bias"]
    assert isinstance(model.second, nn.ReLU)


def test_module_list() -> None:
    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.floors = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))

    tower = Tower()
    tower.floors.extend([nn.Linear(2, 1)])
    weights = [f"floors.{i}.weight" for i in range(3)]
    assert list(tower.state_dict())[::2] == weights
    assert [type(m) for m in tower.floors[1:]] == [nn.Linear, nn.Linear]
