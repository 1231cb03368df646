"""Meaning: what a graph computes in real numbers, to be compared before and after a pass.

In flow graphs over the same inputs, and one set of arrays; out flow their results with floats
widened to float64 and casts between floats taken as identity, and where two results differ. What
has effects (HOST ops) runs once: later evaluations get the same results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from deepseek.errors import VerifyError
from deepseek.ir import scalar
from deepseek.ir.dtype import float64
from deepseek.ir.graph import Graph, Node, Value
from deepseek.ir.interpret import expansion, interpret_node, last_uses, stored
from deepseek.ir.op import Kind
from deepseek.ir.rewrite import specialized
from deepseek.ir.scalar import Expr
from deepseek.ir.text import type_text
from deepseek.passes.prepare import Split

TOLERANCE = 1e-9  # relative to the largest element
NOTHING = 1e-6  # a largest element below this counts as this

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Difference:
    """Where two results first differ."""

    output: int
    type: str
    index: tuple[int, ...]
    before: Any
    after: Any
    error: float  # relative to the largest element; infinite where one is not a number

    def __str__(self) -> str:
        at = f" at {list(self.index)}" if self.index else ""
        return (
            f"output {self.output} ({self.type}){at} was {self.before} and became {self.after}, "
            f"an error of {self.error:.1e} of the largest element"
        )


class Meaning:
    """Evaluates graphs on one set of inputs."""

    def __init__(self, arrays: Sequence[Array], sizes: Mapping[Expr, int]) -> None:
        self.arrays = arrays
        self.sizes = dict(sizes)
        self.ran: dict[Any, list[Array]] = {}
        self.met: dict[Any, int] = {}
        self.known: tuple[Graph, list[Array]] | None = None

    def __call__(self, graph: Graph) -> list[Array]:
        """The graph's results; those of the graph asked for last are remembered."""
        if self.known is None or self.known[0] is not graph:
            fixed = specialized(graph, self.sizes) if self.sizes else graph
            self.met.clear()
            self.known = graph, self.evaluate(fixed, self.arrays)
        return self.known[1]

    def prepare(self, split: Split) -> None:
        """Give graphs from now on the further inputs that a prepared part computes."""
        fixed = specialized(split.prepared, self.sizes) if self.sizes else split.prepared
        self.met.clear()
        made = self.evaluate(fixed, [self.arrays[i] for i in split.sources])
        self.arrays = [*self.arrays, *made]

    def evaluate(self, graph: Graph, arrays: Sequence[Array]) -> list[Array]:
        values: dict[Value, Any] = {
            value: stored(np.asarray(array), value.type.dtype, wide=True)
            for value, array in zip(graph.inputs, arrays, strict=True)
        }
        last = last_uses(graph)
        with np.errstate(all="ignore"):
            for node in graph.nodes:
                results = self.node(node, [values[v] for v in node.inputs])
                values.update(zip(node.outputs, results, strict=True))
                for value in last.get(node, ()):
                    del values[value]
        return [np.asarray(values[v]) for v in graph.outputs]

    def node(self, node: Node, arrays: list[Array]) -> list[Array]:
        """One node's outputs; the graphs inside it are evaluated here too."""
        op = node.op
        if op.kind.ordered:
            return self.once(node, arrays)
        if is_float_cast(node):
            return arrays
        if op.kind is Kind.CREATE and node.outputs[0].type.dtype.is_float:
            assert op.reference is not None
            exact = {**node.attrs, "dtype": float64}  # a number is what was written, unrounded
            return [np.asarray(op.reference(*arrays, **exact))]
        if op.kind is Kind.REGION:
            return self.evaluate(node.attrs["body"], arrays)
        if op.kind is Kind.CONTROL and op.reference is not None:
            results = op.reference(*arrays, run=self.evaluate, **node.attrs)
            found = results if isinstance(results, (tuple, list)) else (results,)
            return [
                stored(np.asarray(r), v.type.dtype, wide=True)
                for r, v in zip(found, node.outputs, strict=True)
            ]
        if op.reference is None and op.expand is not None:
            return self.evaluate(expansion(node), arrays)
        return interpret_node(node, arrays, wide=True)

    def once(self, node: Node, arrays: list[Array]) -> list[Array]:
        """A node with effects: run the first time it is met, in whichever graph.

        Passes keep such nodes and their order, so it is told by its op (of claimed nodes, by the
        function that runs them) and how many like it came before.
        """
        claimed = node.attrs.get("run")
        like = node.op, claimed
        count = self.met[like] = self.met.get(like, 0) + 1
        found = self.ran.get((like, count))
        if found is None:
            found = self.ran[like, count] = (
                interpret_node(node, arrays, wide=True)
                if claimed is None
                else run_claimed(node, claimed, arrays)
            )
        return found


def is_float_cast(node: Node) -> bool:
    """Whether a node converts between floats, which in real numbers does nothing."""
    if node.op.kind is not Kind.ELEMENTWISE or len(node.inputs) != 1:
        return False
    given, made = node.inputs[0].type.dtype, node.outputs[0].type.dtype
    if given is made or not (given.is_float and made.is_float):
        return False
    assert node.op.meaning is not None
    meaning = node.op.meaning(scalar.var("x", given), **node.attrs)
    return bool(meaning.fn == "cast" and meaning.args[0].fn == "var")


def run_claimed(node: Node, run: Any, arrays: Sequence[Array]) -> list[Array]:
    """A node that a backend runs itself, in the types it has there."""
    types = [v.type for v in (*node.inputs, *node.outputs)]
    given = [
        np.ascontiguousarray(stored(a, v.type.dtype, wide=False))
        for a, v in zip(arrays, node.inputs, strict=True)
    ]
    made = [np.empty(shape_of(v), v.type.dtype.numpy) for v in node.outputs]
    views = [a.reshape(-1).view(np.uint8).data for a in (*given, *made)]
    run(views, tuple(size for t in types for size in t.shape))
    return [stored(a, v.type.dtype, wide=True) for a, v in zip(made, node.outputs, strict=True)]


def shape_of(value: Value) -> tuple[int, ...]:
    """A shape without symbols."""
    return tuple(int(size) for size in value.type.shape if isinstance(size, int))


def precision(before: Graph, after: Graph) -> float:
    """How far results may differ: what a backend newly claims is as exact as its own types."""
    known = {n.attrs.get("run") for n in before.nodes}
    claimed = [
        v.type.dtype.numpy
        for n in after.nodes
        if n.op.kind.ordered and n.attrs.get("run") not in known
        for v in n.outputs
        if v.type.dtype.is_float
    ]
    return max([TOLERANCE, *(256 * epsilon(d) for d in claimed)])


def epsilon(dtype: Any) -> float:
    """The spacing of numbers near 1."""
    return float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]


def difference(
    graph: Graph, before: Sequence[Array], after: Sequence[Array], tolerance: float = TOLERANCE
) -> Difference | None:
    """Where results first differ: floats by more than the tolerance, everything else at all."""
    for number, (value, a, b) in enumerate(zip(graph.outputs, before, after, strict=True)):
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            raise VerifyError(f"output {number}: the shape was {a.shape} and became {b.shape}")
        if not a.size:
            continue
        error = relative_error(a, b) if value.type.dtype.is_float else (a != b).astype(np.float64)
        worst = np.unravel_index(np.argmax(error), error.shape)
        if error[worst] > (tolerance if value.type.dtype.is_float else 0):
            index = tuple(map(int, worst))
            return Difference(
                number, type_text(value.type), index, a[index].item(), b[index].item(),
                float(error[worst]),
            )  # fmt: skip
    return None


def relative_error(a: Array, b: Array) -> Array:
    """|a - b| over the largest finite element; infinite where only one is NaN or infinite."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        error = np.abs(a - b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    finite = np.isfinite(a) & np.isfinite(b)
    scale = np.max(np.abs(a), where=np.isfinite(a), initial=0.0)
    # What cancels to nothing (the gradient of a bias before a batch norm) is only rounding.
    out: Array = np.where(same, 0.0, np.where(finite, error / max(scale, NOTHING), np.inf))
    return out
