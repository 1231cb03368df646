"""Gradients: Graph to Graph.

`cotangents` walks from outputs to inputs and records, with ordinary ops, what each op's `vjp`
says. The gradient of a composite is itself a composite, made on demand: `softmax.vjp` expands to
the derivative of softmax's expansion, so a backend may claim the pair, and what the two have in
common is computed once. Everything else here (`backward`, `grad`, `value_and_grad`, `vjp`) is a
way of asking.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from deepseek import ops
from deepseek._runtime import History
from deepseek.errors import ArgumentError, DTypeError, ShapeError, op_error, user_line
from deepseek.frontend.gradient_hooks import after_hooks, after_leaf_hooks, registry
from deepseek.frontend.precision import computing_in
from deepseek.frontend.tensor import (
    Tensor,
    enable_grad,
    hooks,
    no_grad,
    record_values,
    state,
)
from deepseek.ir.graph import INPUT, Graph, Node, Value, make_node
from deepseek.ir.op import DERIVED, Kind, Op
from deepseek.ir.recent import Recent
from deepseek.ir.rewrite import inline
from deepseek.ir.shape import is_one
from deepseek.ops.define import composite_op
from deepseek.repetition import Start, recorded_again

Flows = Callable[[Value], bool]
Gradients = list[Tensor | None]


def requires_grad(value: Value) -> bool:
    """Gradients flow where recording said so."""
    return value.requires_grad


def is_leaf(value: Value) -> bool:
    """Whether gradients arrive here and go no further."""
    op = value.node.op
    return op is INPUT or not op.differentiable


def cotangents(
    outputs: Sequence[Value], seeds: Sequence[Tensor], wanted: Iterable[Value], flows: Flows,
    hooked: bool = False,
) -> dict[Value, Tensor]:  # fmt: skip
    """The cotangent of every wanted value, given those of the outputs.

    Values that the outputs do not depend on are absent. Cotangents have the types of the values,
    whatever autocast goes on. `hooked`: they are the user's, whose hooks see them.
    """
    with computing_in(None):
        return _cotangents(outputs, seeds, set(wanted), flows, hooked)


def _cotangents(
    outputs: Sequence[Value], seeds: Sequence[Tensor], targets: set[Value], flows: Flows,
    hooked: bool,
) -> dict[Value, Tensor]:  # fmt: skip
    found: dict[Value, Tensor] = {}
    for value, seed in zip(outputs, seeds, strict=True):
        found[value] = ops.add(found[value], seed) if value in found else seed
    for node in nodes_between(outputs, targets, flows):
        if hooked and registry.of_values:
            for value in node.outputs:
                if value in found:
                    found[value] = after_hooks(value, found[value])
        given = [found.get(v) for v in node.outputs]
        if all(g is None for g in given):
            continue
        for value, gradient in zip(node.inputs, node_vjp(node, given, flows), strict=True):
            if gradient is not None and flows(value):
                before = found.get(value)
                found[value] = gradient if before is None else ops.add(before, gradient)
        for value in node.outputs:
            if value not in targets:
                found.pop(value, None)
    return {v: found[v] for v in targets if v in found}


def nodes_between(outputs: Iterable[Value], inputs: set[Value], flows: Flows) -> list[Node]:
    """The nodes that gradients flow through, last recorded first."""
    seen: set[Node] = set()
    stack = [v.node for v in outputs if flows(v) and v not in inputs]
    while stack:
        node = stack.pop()
        if node in seen or node.op is INPUT or not node.op.differentiable:
            continue
        seen.add(node)
        stack.extend(v.node for v in node.inputs if flows(v) and v not in inputs)
    return sorted(seen, key=lambda n: -n.sequence)


def dependents(graph: Graph, inputs: Iterable[Value]) -> set[Value]:
    """The float values of a graph that depend differentiably on the given ones, these included."""
    reached = set(inputs)
    for node in graph.nodes:
        if node.op.differentiable and any(v in reached for v in node.inputs):
            reached.update(v for v in node.outputs if v.type.dtype.is_float)
    return reached


def node_vjp(node: Node, given: Sequence[Tensor | None], flows: Flows) -> Sequence[Tensor | None]:
    """The cotangents of a node's inputs."""
    op = node.op
    if op.kind is Kind.COMPOSITE and op.vjp is None:
        return _composite_vjp(node, given, flows)
    if op.vjp is None:
        return [None] * len(node.inputs)
    inputs = [shown(v) for v in node.inputs]
    outputs = [shown(v) for v in node.outputs]
    if len(outputs) == 1:
        return tuple(op.vjp(given[0], outputs[0], *inputs, **node.attrs))
    return tuple(op.vjp(tuple(given), tuple(outputs), *inputs, **node.attrs))


def shown(value: Value) -> Tensor:
    """A handle on an existing value that leaves the user's own handle in charge."""
    handle = value.handle
    tensor = Tensor(value)
    if handle is not None:
        value.handle = handle
    return tensor


def _composite_vjp(node: Node, given: Sequence[Tensor | None], flows: Flows) -> Gradients:
    wanted = tuple(i for i, v in enumerate(node.inputs) if flows(v) and v.type.dtype.is_float)
    out: Gradients = [None] * len(node.inputs)
    if not wanted:
        return out
    known = tuple(i for i, g in enumerate(given) if g is not None)
    operands = [g._value for g in given if g is not None] + list(node.inputs)
    which, of = vjp_attributes(node.op)
    attrs = {which: known, of: wanted} | node.attrs
    for i, value in zip(
        wanted, record_values(vjp_op(node.op), tuple(operands), attrs), strict=True
    ):
        out[i] = Tensor(value)
    return out


def vjp_attributes(op: Op) -> tuple[str, str]:
    """The names of the attributes that the gradient of an op adds to the op's own."""
    order = op.name.count(".vjp")
    return (f"cotangents{order + 1}", f"wanted{order + 1}") if order else ("cotangents", "wanted")


@functools.cache
def vjp_op(op: Op) -> Op:
    """The composite that computes a composite's gradient.

    Inputs: the cotangents of the outputs named in the attribute `cotangents`, then the primal
    inputs. Outputs: the cotangents of the inputs named in `wanted`.
    """

    def apply(tensors: Sequence[Tensor], attrs: dict[str, Any]) -> tuple[Tensor, ...]:
        attrs = dict(attrs)
        known, wanted = (attrs.pop(name) for name in vjp_attributes(op))
        seeds, primals = tensors[: len(known)], [t._value for t in tensors[len(known) :]]
        assert op.expand is not None
        expanded: Graph = op.expand(tuple(v.type for v in primals), attrs)
        graph = Graph(primals, inline(expanded, primals))
        inputs = [primals[i] for i in wanted]
        flows = dependents(graph, inputs).__contains__
        found = cotangents([graph.outputs[i] for i in known], seeds, inputs, flows)
        return tuple(found[v] if v in found else ops.zeros_like(shown(v)) for v in inputs)

    made = composite_op(f"{op.name}.vjp", apply)
    made.precision = op.precision
    made.tolerance = op.tolerance
    return made


DERIVED["vjp"] = vjp_op


def copied_as_recorded(nodes: Iterable[Node], done: dict[Value, Value]) -> dict[Value, Value]:
    """Copies of values, with gradients stopped where they were off while the nodes were recorded.

    `done` has what stands for the values that the nodes read from outside.
    """
    stop = ops.stop_gradient.op  # type: ignore[attr-defined]
    for node in nodes:
        inputs = tuple([done.get(v, v) for v in node.inputs])
        off = node.op.differentiable and not any(v.requires_grad for v in node.outputs)
        if off and any(v.requires_grad for v in node.inputs):
            inputs = tuple([make_node(stop, (v,), {}, (v.type,)).outputs[0] for v in inputs])
        types = [v.type for v in node.outputs]
        copy = make_node(node.op, inputs, node.attrs, types, node.line)
        done.update(zip(node.outputs, copy.outputs, strict=True))
    return done


# ------------------------------------------------------------------------------------- asking


def backward(loss: Tensor, gradient: Tensor | None = None, retain_graph: bool = False) -> None:
    """Add the gradient of `loss` to `.grad` of every leaf that requires gradients.

    `gradient` is the cotangent of loss, needed unless loss has one element. The history is let go
    afterwards unless `retain_graph`. Raises ArgumentError where loss does not depend on anything
    that requires gradients. Raises ShapeError without it for a loss of more.

    >>> x = ds.asarray([1.0, 2.0], requires_grad=True)
    >>> ds.backward((x * x).sum())
    >>> x.grad
    tensor([2., 4.])
    """
    value = loss._value
    if not value.requires_grad:
        raise op_error(
            ArgumentError, "backward", f"{value.type} that does not require gradients",
            "a tensor computed from one with requires_grad=True", user_line(),
            "set requires_grad=True on the inputs, compute outside ds.no_grad(), and call "
            "backward once for each computation, or with retain_graph=True",
        )  # fmt: skip
    if gradient is None and not is_one(value.type.numel):
        raise op_error(
            ShapeError, "backward", value.type, "a tensor of one element, or gradient=...",
            user_line(), "reduce it first, e.g. loss.mean().backward()",
        )  # fmt: skip
    history = History(value, keyed=state.trace is None)
    with no_grad():
        for leaf, g in arriving(history, loss, gradient):
            tensor = leaf.handle() if leaf.handle is not None else None
            if tensor is not None and tensor._value is leaf:
                g = after_leaf_hooks(tensor, g)
                tensor.grad = g if tensor.grad is None else ops.add(tensor.grad, g)
    if state.trace is None:
        state.losses = [r for r in state.losses if r() is not None] + [weakref.ref(loss)]
    if not retain_graph:
        history.forget()


# By the key of a history, and the type of the gradient given: which values backward reads of it,
# what it computes, and for which leaves.
_pullbacks: Recent[Any, tuple[tuple[int, ...], Graph, tuple[int, ...]]] = Recent(256)


def arriving(
    history: History, top: Tensor, gradient: Tensor | None = None
) -> list[tuple[Value, Tensor]]:
    """The leaves of a history with their gradients, given that of its top, or else ones.

    What was worked out for one history serves all that have its key, as one node.
    """
    values, leaves = history.values, history.leaves
    given = [] if gradient is None else [gradient._value]
    values += given
    key = history.key, *[v.type for v in given]
    hooked = bool(registry.of_values) and any(v in registry.of_values for v in values)
    again = bool(history.key) and not hooked
    known = _pullbacks.get(key) if again else None
    if known is not None:
        read, body, reached = known
        found = recorded_again(body, [values[i] for i in read])
        return [(leaves[i], Tensor(g)) for i, g in zip(reached, found, strict=True)]
    start = Start()
    seed = ops.ones_like(top) if gradient is None else gradient
    cotangent = cotangents([top._value], [seed], leaves, requires_grad, hooked=True)
    reached = tuple([i for i, leaf in enumerate(leaves) if leaf in cotangent])
    gradients = [cotangent[leaves[i]] for i in reached]
    if again:
        recorded = start.graph(values, [g._value for g in gradients])
        if recorded is not None:
            _pullbacks.put(key, (*recorded, reached))
    return [(leaves[i], g) for i, g in zip(reached, gradients, strict=True)]


def leaves_of(value: Value) -> list[Value]:
    """The leaves that require gradients under a value, in recorded order.

    An argument that is being differentiated by counts as one, unless somebody outside does so too.
    """
    seen: set[Value] = set()
    nodes: set[Node] = set()
    stack = [value]
    while stack:
        v = stack.pop()
        below = [u for u in v.node.inputs if u.requires_grad]
        if is_leaf(v) or not below:
            seen.add(v)
        elif v.node not in nodes:
            nodes.add(v.node)
            stack.extend(below)
    return sorted(seen, key=lambda v: v.node.sequence)


def vjp(function: Callable[..., Any], *primals: Tensor) -> tuple[Any, Callable[..., Any]]:
    """`(function(*primals), pullback)`; `pullback(cotangent)` gives one gradient per primal.

    >>> y, pullback = ds.vjp(lambda x: x**2, ds.asarray([1.0, 3.0]))
    >>> y, pullback(ds.asarray([1.0, 10.0]))
    (tensor([1., 9.], requires_grad=True), (tensor([ 2., 60.], requires_grad=True),))
    """
    inputs = [_fresh(p) for p in primals]
    with enable_grad():
        out = function(*inputs)
    outputs = list(out) if isinstance(out, (tuple, list)) else [out]

    def pullback(*seeds: Tensor) -> tuple[Tensor, ...]:
        values = [i._value for i in inputs]
        given = seeds[0] if len(seeds) == 1 and isinstance(seeds[0], (tuple, list)) else seeds
        found = cotangents(
            [o._value for o in outputs], list(given), values, requires_grad, hooked=True
        )
        return tuple(found[v] if v in found else ops.zeros_like(shown(v)) for v in values)

    return out, pullback


def value_and_grad(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that gives `(value, gradients)`; the value must have one element.

    `argnums` are the positions to differentiate by; with `has_aux`, function returns (value, aux).
    Raises ShapeError for a value of more elements. DTypeError for arguments that are not float
    tensors.

    >>> ds.value_and_grad(lambda a, b: (a * b).sum(), (0, 1))(ds.asarray([2.0]), ds.asarray([3.0]))
    (tensor(6.), (tensor([3.]), tensor([2.])))
    """
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        arguments = list(args)
        for i in positions:
            if not isinstance(arguments[i], Tensor) or not arguments[i].dtype.is_float:
                raise DTypeError(
                    f"value_and_grad: argument {i} is {arguments[i]!r}; wanted a float tensor"
                )
            arguments[i] = _fresh(arguments[i])
        with enable_grad():
            out = function(*arguments, **kwargs)
        value = out[0] if has_aux else out
        if not isinstance(value, Tensor) or not is_one(value._value.type.numel):
            raise op_error(
                ShapeError, "grad", getattr(value, "_value", value),
                "a function whose value has one element", user_line(),
                "reduce it, e.g. with .sum(), or use ds.vjp",
            )  # fmt: skip
        inputs = [arguments[i]._value for i in positions]
        # Where others are under it, somebody outside differentiates as well.
        history = History(value._value, keyed=state.trace is None)
        outer = [v for v in history.leaves if v not in inputs]
        with enable_grad() if outer else no_grad():
            if outer:
                seeds = [ops.ones_like(value)]
                found = cotangents([value._value], seeds, inputs, requires_grad, hooked=True)
            else:
                found = dict(arriving(history, value))
            grads = tuple(found[v] if v in found else ops.zeros_like(shown(v)) for v in inputs)
        if not outer:
            value = ops.stop_gradient(value)
        result = grads[0] if isinstance(argnums, int) else grads
        return ((value, out[1]) if has_aux else value), result

    return wrapped


def grad(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that gives the gradient(s) of `function`; see `value_and_grad`.

    >>> ds.grad(lambda x: x**3)(ds.asarray(2.0))
    tensor(12.)
    """
    both = value_and_grad(function, argnums, has_aux)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        out, grads = both(*args, **kwargs)
        return (grads, out[1]) if has_aux else grads

    return wrapped


def _fresh(x: Tensor) -> Tensor:
    """x as a new value that requires gradients and, where x does, passes them on."""
    tracked: Tensor = ops.positive(x)
    tracked._value.requires_grad = True
    return tracked


def pullback(graph: Graph, primals: Sequence[Tensor], given: Sequence[Tensor | None]) -> Gradients:
    """The cotangents of a body graph's inputs; the body is computed again."""
    values = [t._value for t in primals]
    again = Graph(values, inline(graph, values))
    if state.grad:  # somebody differentiates the gradient
        for v in (v for node in again.nodes for v in node.outputs):
            differentiable = v.type.dtype.is_float and v.node.op.differentiable
            v.requires_grad = differentiable and any(u.requires_grad for u in v.node.inputs)
    floats = [v for v in values if v.type.dtype.is_float]
    flows = dependents(again, floats).__contains__
    pairs = [(v, g) for v, g in zip(again.outputs, given, strict=True) if g is not None]
    found = cotangents([v for v, _ in pairs], [g for _, g in pairs], floats, flows)
    return [found.get(v) for v in values]


hooks.pullback = pullback
Tensor.backward = backward  # type: ignore[attr-defined]
