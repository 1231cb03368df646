"""Gradients in NumPy by a tape: for the float64 reference and for NumPy's own rows.

Every op of `neutral.Ops` is written here once more beside the derivative it has. What goes in are
arrays, what comes out is a loss and its gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import erf, expit

Array = np.ndarray[Any, Any]
Pull = Callable[[Array], Array]


class Variable:
    """A value, and from which others it came: each with a function from its cotangent to theirs."""

    __array_ufunc__ = None  # so that NumPy hands array + variable over

    def __init__(self, value: Array, sources: Sequence[tuple[Any, Pull]] = ()) -> None:
        self.value = value
        self.sources = [(s, pull) for s, pull in sources if isinstance(s, Variable)]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    def __add__(self, other: Any) -> Variable:
        return Variable(self.value + raw(other), [(self, like(self)), (other, like(other))])

    def __sub__(self, other: Any) -> Variable:
        fit = like(other)
        return Variable(self.value - raw(other), [(self, like(self)), (other, lambda g: fit(-g))])

    def __mul__(self, other: Any) -> Variable:
        a, b, fit_a, fit_b = self.value, raw(other), like(self), like(other)
        return Variable(a * b, [(self, lambda g: fit_a(g * b)), (other, lambda g: fit_b(g * a))])

    __radd__, __rmul__ = __add__, __mul__

    def __matmul__(self, other: Any) -> Variable:
        a, b, fit_a, fit_b = self.value, raw(other), like(self), like(other)
        return Variable(
            a @ b,
            [(self, lambda g: fit_a(g @ b.mT)), (other, lambda g: fit_b(a.mT @ g))],
        )

    def __rmatmul__(self, other: Array) -> Variable:
        fit = like(self)
        return Variable(other @ self.value, [(self, lambda g: fit(other.mT @ g))])


def raw(x: Any) -> Any:
    return x.value if isinstance(x, Variable) else x


def like(x: Any) -> Pull:
    """Sums a cotangent over the axes along which x was repeated."""
    shape = np.shape(raw(x))

    def fit(g: Array) -> Array:
        g = g.sum(tuple(range(g.ndim - len(shape))))
        repeated = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
        return g.sum(repeated, keepdims=True)

    return fit


class TapeOps:
    def relu(self, x: Variable) -> Variable:
        return Variable(np.maximum(x.value, 0), [(x, lambda g: g * (x.value > 0))])

    def gelu(self, x: Variable) -> Variable:
        v = x.value
        below = 0.5 * (1 + erf(v * 0.5**0.5))
        density = np.exp(-0.5 * v * v) * (2 * np.pi) ** -0.5
        return Variable(v * below, [(x, lambda g: g * (below + v * density))])

    def sigmoid(self, x: Variable) -> Variable:
        s = expit(x.value)
        return Variable(s, [(x, lambda g: g * s * (1 - s))])

    def softmax(self, x: Variable) -> Variable:
        e = np.exp(x.value - x.value.max(-1, keepdims=True))
        p = e / e.sum(-1, keepdims=True)
        return Variable(p, [(x, lambda g: p * (g - (g * p).sum(-1, keepdims=True)))])

    def layer_norm(self, x: Variable, weight: Any, bias: Any) -> Variable:
        centred = x.value - x.value.mean(-1, keepdims=True)
        scale = 1 / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5)
        unit = centred * scale

        def pull(g: Array) -> Array:
            along = unit * (g * unit).mean(-1, keepdims=True)
            return scale * (g - g.mean(-1, keepdims=True) - along)

        return Variable(unit, [(x, pull)]) * weight + bias

    def cross_entropy(self, logits: Variable, labels: Array) -> Variable:
        rows = np.arange(len(labels))
        shifted = logits.value - logits.value.max(-1, keepdims=True)
        e = np.exp(shifted)
        sums = e.sum(-1, keepdims=True)

        def pull(g: Array) -> Array:
            p = e / sums
            p[rows, labels] -= 1
            return p * (g / len(labels))

        loss = (np.log(sums[:, 0]) - shifted[rows, labels]).mean()
        return Variable(np.asarray(loss, logits.value.dtype), [(logits, pull)])

    def sum(self, x: Variable, axis: int) -> Variable:
        spread = x.shape
        return Variable(
            x.value.sum(axis), [(x, lambda g: np.broadcast_to(np.expand_dims(g, axis), spread))]
        )

    def transpose(self, x: Variable, axes: tuple[int, ...]) -> Variable:
        back = tuple(np.argsort(axes))
        return Variable(x.value.transpose(axes), [(x, lambda g: g.transpose(back))])

    def reshape(self, x: Variable, shape: tuple[int, ...]) -> Variable:
        before = x.shape
        return Variable(x.value.reshape(shape), [(x, lambda g: g.reshape(before))])

    def concat(self, tensors: Sequence[Variable], axis: int) -> Variable:
        ends = np.cumsum([t.shape[axis] for t in tensors])[:-1]

        def part(i: int) -> Pull:
            return lambda g: np.split(g, ends, axis)[i]

        joined = np.concatenate([t.value for t in tensors], axis)
        return Variable(joined, [(t, part(i)) for i, t in enumerate(tensors)])

    def take(self, x: Variable, rows: Array) -> Variable:
        def pull(g: Array) -> Array:
            out = np.zeros_like(x.value)
            np.add.at(out, rows, g)
            return out

        return Variable(x.value[rows], [(x, pull)])


OPS = TapeOps()


def value_and_grad(body: Callable[..., Variable], inputs: Sequence[Array], n: int) -> list[Array]:
    """The loss that the body gives, then its gradients by the first n inputs."""
    variables = [Variable(x) for x in inputs[:n]]
    loss = body(OPS, *variables, *inputs[n:])
    cotangents = {id(loss): np.ones_like(loss.value)}
    for variable in reversed(in_order(loss)):
        g = cotangents[id(variable)]
        for source, pull in variable.sources:
            pulled = pull(g)
            known = cotangents.get(id(source))
            cotangents[id(source)] = pulled if known is None else known + pulled
    return [loss.value, *(cotangents[id(v)] for v in variables)]


def in_order(loss: Variable) -> list[Variable]:
    """Everything the loss came from, sources first."""
    order: list[Variable] = []
    seen: set[int] = set()
    pending: list[tuple[Variable, bool]] = [(loss, False)]
    while pending:
        variable, ready = pending.pop()
        if ready:
            order.append(variable)
        elif id(variable) not in seen:
            seen.add(id(variable))
            pending.append((variable, True))
            pending += [(source, False) for source, _ in variable.sources]
    return order
