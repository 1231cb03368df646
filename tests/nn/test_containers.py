"""ModuleDict, ParameterList and ParameterDict: listing, state, changes that a trace must notice."""

from __future__ import annotations

import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError


def test_module_dict() -> None:
    layers = nn.ModuleDict({"a": nn.Linear(2, 3)})
    layers["b"] = nn.ReLU()
    layers.update([("c", nn.Linear(3, 1, bias=False))])
    assert list(layers) == ["a", "b", "c"] and len(layers) == 3 and "b" in layers
    assert list(layers.state_dict()) == ["a.weight", "a.bias", "c.weight"]
    assert isinstance(layers.pop("b"), nn.ReLU) and list(layers.keys()) == ["a", "c"]
    assert [type(m).__name__ for m in layers.values()] == ["Linear", "Linear"]
    with pytest.raises(KeyError):
        layers["b"]
    with pytest.raises(ArgumentError, match="wanted a Module"):
        layers["x"] = ds.ones(3)
    layers.clear()
    assert len(layers) == 0


def test_parameter_list() -> None:
    values = nn.ParameterList([ds.ones(2), nn.Parameter(ds.zeros(3), requires_grad=False)])
    values.append(ds.ones(1))
    assert [p.shape for p in values] == [(2,), (3,), (1,)]
    assert values[-1].shape == (1,) and not values[1].requires_grad
    values[0] = ds.zeros(5)
    assert list(values.state_dict()) == ["0", "1", "2"] and values[0].shape == (5,)
    with pytest.raises(IndexError):
        values[3]
    with pytest.raises(ArgumentError, match="got a int"):
        values.append(3)


def test_parameter_dict() -> None:
    values = nn.ParameterDict({"w": ds.ones(2)})
    values["b"] = ds.zeros(3)
    assert list(values) == ["w", "b"] and [p.requires_grad for p in values.values()] == [True, True]
    del values["w"]
    assert "w" not in values and list(dict(values.items())) == ["b"]
    with pytest.raises(ArgumentError, match="dot"):
        values["a.b"] = ds.ones(1)


def test_a_compiled_function_sees_another_part() -> None:
    layers = nn.ModuleDict({"a": nn.Identity()})
    scales = nn.ParameterList([ds.ones(1)])

    @ds.jit
    def f(x: ds.Tensor) -> ds.Tensor:
        return layers["a"](x) * scales[0]

    x = ds.asarray([-1.0, 2.0])
    assert f(x).numpy().tolist() == [-1.0, 2.0]
    layers["a"] = nn.ReLU()
    assert f(x).numpy().tolist() == [0.0, 2.0]
    scales[0] = ds.full((1,), 3.0)
    assert f(x).numpy().tolist() == [0.0, 6.0]
