"""What a node's scalar meaning computes, evaluated in NumPy over all indices at once.

Slow and literal: reads are checked to be in range wherever their guard holds, folds are stepped
element by element in a few interleaved lanes that are merged at the end, contractions visit every
product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.ir import scalar
from deepseek.ir.access import point_value
from deepseek.ir.dtype import dtype_of
from deepseek.ir.graph import Node
from deepseek.ir.op import Contraction, Folding, Kind, Operand, Scatter
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import TensorType

SCALAR_KINDS = {
    Kind.ELEMENTWISE, Kind.CREATE, Kind.VIEW, Kind.INDEX, Kind.RANDOM, Kind.REDUCE, Kind.PREFIX,
    Kind.CONTRACT, Kind.SCATTER,
}  # fmt: skip
LANES = 4
COMBINED: dict[str, Any] = {
    "add": np.add, "mul": np.multiply, "maximum": np.maximum, "minimum": np.minimum,
}  # fmt: skip
Array = np.ndarray[Any, Any]


def evaluate_meaning(node: Node, arrays: Sequence[Array]) -> list[Array]:
    """The node's outputs by its meaning."""
    kind = node.op.kind
    if kind.pointwise:
        return [_pointwise(node, arrays)]
    if kind is Kind.REDUCE:
        return _reduce(node, arrays[0])
    if kind is Kind.PREFIX:
        return _prefix(node, arrays[0])
    if kind is Kind.CONTRACT:
        return [_contract(node, arrays)]
    assert kind is Kind.SCATTER
    return [_scatter(node, arrays)]


class Grid:
    """Index variables of a shape, bound to every index at once."""

    def __init__(self, shape: Sequence[int], variables: Sequence[Expr] | None = None) -> None:
        self.shape = tuple(shape)
        self.variables = tuple(variables) if variables is not None else tuple(
            scalar.ZERO if n == 1 else scalar.var(f"d{i}", low=0, extent=n)
            for i, n in enumerate(shape)
        )  # fmt: skip
        self.env = {}
        for i, (v, n) in enumerate(zip(self.variables, self.shape, strict=True)):
            if v.fn == "var":
                at = [1] * len(self.shape)
                at[i] = n
                self.env[v] = np.arange(n).reshape(at)

    def value(self, e: Expr, arrays: Sequence[Array] = ()) -> Array:
        """An expression at every index."""

        def read(name: str, index: Any, guard: Any, otherwise: Any) -> Any:
            flat = arrays[int(name[1:])].reshape(-1)
            inside = np.asarray(True if guard is None else guard)
            index = np.broadcast_to(index, self.shape)
            inside = np.broadcast_to(inside, self.shape)
            assert np.all((index >= 0) & (index < flat.size) | ~inside), f"{name} read out of range"
            found = np.zeros(index.shape, flat.dtype)
            found[inside] = flat[index[inside]]
            return found if otherwise is None else np.where(inside, found, otherwise)

        return np.broadcast_to(scalar.evaluate(e, self.env, read), self.shape)


def _reader(types: Sequence[TensorType]) -> Any:
    """`read(k, index, guard)` as loads that widen 16-bit floats; each axis must be in range."""

    def read(k: int, index: Sequence[Expr], guard: Expr = scalar.TRUE) -> Expr:
        type_ = types[k]
        assert len(index) == type_.rank
        at = scalar.ZERO
        for i, size in zip(index, type_.shape, strict=True):
            at = scalar.add(scalar.mul(at, scalar.as_expr(size)), i)
        return scalar.cast(scalar.load(f"x{k}", type_.dtype, at, guard), type_.dtype.accumulator)

    return read


def _types(node: Node) -> list[TensorType]:
    return [v.type for v in node.inputs]


def _pointwise(node: Node, arrays: Sequence[Array]) -> Array:
    out = node.outputs[0].type
    grid = Grid(out.shape)
    value = point_value(node, grid.variables, _reader(_types(node)))
    return scalar.convert(grid.value(value, arrays), out.dtype)


class Carried:
    """A folding's carries, one array each, and how they take in elements."""

    def __init__(self, folding: Folding, kept: tuple[int, ...]) -> None:
        self.folding = folding
        self.mine = tuple(scalar.var(f"c{i}", e.dtype) for i, e in enumerate(folding.init))
        self.other = tuple(scalar.var(f"o{i}", e.dtype) for i, e in enumerate(folding.init))
        self.kept = kept

    def start(self) -> list[Array]:
        return [np.broadcast_to(scalar.evaluate(e, {}), self.kept) for e in self.folding.init]

    def step(self, carries: list[Array], element: Array, position: int) -> list[Array]:
        x = scalar.var("element", dtype_of(element.dtype))
        at = scalar.var("position")
        env = dict(zip(self.mine, carries, strict=True)) | {x: element, at: np.int64(position)}
        wide = scalar.cast(x, x.dtype.accumulator)
        return [scalar.evaluate(e, env) for e in self.folding.step(self.mine, wide, at)]

    def merge(self, a: list[Array], b: list[Array]) -> list[Array]:
        env = dict(zip(self.mine, a, strict=True)) | dict(zip(self.other, b, strict=True))
        return [scalar.evaluate(e, env) for e in self.folding.merge(self.mine, self.other)]

    def finish(self, carries: list[Array], count: int) -> list[Array]:
        env = dict(zip(self.mine, carries, strict=True))
        results = self.folding.finish(self.mine, scalar.const(count))
        return [np.broadcast_to(scalar.evaluate(e, env), self.kept) for e in results]


def _reduce(node: Node, x: Array) -> list[Array]:
    axes = node.attrs["axes"]
    last = np.moveaxis(x, axes, range(-len(axes), 0))
    kept = last.shape[: x.ndim - len(axes)]
    count = int(np.prod([x.shape[a] for a in axes]))
    rows = last.reshape(*kept, count)
    assert node.op.meaning is not None
    carried = Carried(node.op.meaning(node.inputs[0].type.dtype, **node.attrs), kept)
    lanes = [carried.start() for _ in range(LANES)]
    for i in range(count):
        lanes[i % LANES] = carried.step(lanes[i % LANES], rows[..., i], i)
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [carried.merge(lanes[i], lanes[i + half]) for i in range(half)]
    return carried.finish(lanes[0], count)


def _prefix(node: Node, x: Array) -> list[Array]:
    axis = node.attrs["axis"]
    rows = np.moveaxis(x, axis, -1)
    assert node.op.meaning is not None
    carried = Carried(node.op.meaning(node.inputs[0].type.dtype, **node.attrs), rows.shape[:-1])
    out = np.empty(rows.shape, node.outputs[0].type.dtype.numpy)
    carries = carried.start()
    for i in range(rows.shape[-1]):
        carries = carried.step(carries, rows[..., i], i)
        out[..., i] = carried.finish(carries, i + 1)[0]
    return [np.moveaxis(out, -1, axis)]


def _contract(node: Node, arrays: Sequence[Array]) -> Array:
    out = node.outputs[0].type
    assert node.op.meaning is not None
    meaning: Contraction = node.op.meaning(_types(node), out, **node.attrs)
    extents = [int(v.attr[2].value) for v in meaning.folded]
    grid = Grid((*out.shape, *extents), (*meaning.axes, *meaning.folded))
    read = _reader(_types(node))

    def operand(k: int, at: Operand) -> Array:
        return grid.value(read(k, at.index, at.guard), arrays)

    products = operand(0, meaning.left) * operand(1, meaning.right)
    total = products.sum(axis=tuple(range(out.rank, len(grid.shape))), dtype=products.dtype)
    return scalar.convert(total, out.dtype)


def _scatter(node: Node, arrays: Sequence[Array]) -> Array:
    types = _types(node)
    grid = Grid(types[-1].shape)
    assert node.op.meaning is not None
    meaning: Scatter = node.op.meaning(
        grid.variables, _reader(types), types, node.outputs[0].type, **node.attrs
    )
    target = tuple(grid.value(e, arrays) for e in meaning.target)
    counts = grid.value(meaning.guard, arrays)
    value = grid.value(meaning.value, arrays)
    out = arrays[0].astype(types[0].dtype.accumulator.numpy)
    places = tuple(t[counts] for t in target)
    if meaning.combine == "set":
        out[places] = value[counts]
    else:
        COMBINED[meaning.combine].at(out, places, value[counts])
    return scalar.convert(out, types[0].dtype)
