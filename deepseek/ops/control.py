"""Control flow whose bodies are graphs: cond, while_loop and scan, as in JAX.

Body functions are traced once (see bodies.py). The gradient of a cond is a cond, that of a scan a
scan the other way; `hooks.pullback`, which autograd fills, differentiates the bodies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, hooks, record, state
from deepseek.ir.dtype import bool_, int64
from deepseek.ir.graph import Graph
from deepseek.ir.op import Branch, Kind, Repeat, Sample, Walk
from deepseek.ir.shape import Size, TensorType, same, simplify, tensor_type
from deepseek.ops import forms_flow
from deepseek.ops.bodies import (
    Tensors,
    flattened,
    merged,
    refuse_change,
    shown,
    traced,
    unflattened,
)
from deepseek.ops.create import arange
from deepseek.ops.define import as_tensor, describe, op_of, primitive, shape_of

__all__ = ["cond", "scan", "while_loop"]

Types = tuple[TensorType, ...]
Gradients = list[Tensor | None]


def outputs_of(graph: Graph) -> Types:
    return tuple(v.type for v in graph.outputs)


def as_list(out: Any) -> list[Tensor]:
    return list(out) if isinstance(out, tuple) else [out]


def predicate(op: str, x: Tensor) -> Tensor:
    """A 0-d truth value. Raises."""
    if shape_of(x) != ():
        raise op_error(
            ShapeError, op, f"a condition {describe(x)}", "a tensor of shape ()", user_line()
        )
    return x if x.dtype is bool_ else x != 0


# ---------------------------------------------------------------------------------------- cond


def _cond_vjp(
    g: Any, y: Any, pred: Tensor, *operands: Tensor, true_graph: Graph, false_graph: Graph
) -> tuple[Any, ...]:
    given = list(g) if isinstance(g, tuple) else [g]
    wanted = [i for i, x in enumerate(operands) if x.dtype.is_float]

    def pulled(graph: Graph) -> Callable[..., list[Tensor]]:
        def branch(*xs: Tensor) -> list[Tensor]:
            found = pulled_back(graph, xs, given)
            return [_or_zeros(found[i], xs[i]) for i in wanted]

        return branch

    grads: list[Tensor | None] = [None] * (len(operands) + 1)
    if wanted:
        found = cond(pred, pulled(true_graph), pulled(false_graph), *operands)
        for i, gradient in zip(wanted, found, strict=True):
            grads[i + 1] = gradient
    return tuple(grads)


def pulled_back(graph: Graph, inputs: Tensors, seeds: Sequence[Tensor | None]) -> Gradients:
    """The cotangents of a body's inputs, recorded in the body that is being traced."""
    inside = state.trace.admit(tuple([t._value for t in inputs]))
    return hooks.pullback(graph, [shown(v) for v in inside], seeds)


def _or_zeros(g: Tensor | None, like: Tensor) -> Tensor:
    return as_tensor(0, "zeros", like.dtype).broadcast_to(shape_of(like)) if g is None else g


def _cond_infer(
    pred: TensorType, *operands: TensorType, true_graph: Graph, false_graph: Graph
) -> Types:
    return outputs_of(true_graph)


@primitive(
    Kind.CONTROL,
    infer=_cond_infer,
    meaning=lambda *, true_graph, false_graph: Branch(true_graph, false_graph),
    reference=lambda pred, *xs, run, true_graph, false_graph: run(
        true_graph if pred else false_graph, xs
    ),
    vjp=_cond_vjp,
    samples=lambda: [
        Sample((np.array(True), lambda x: x.exp(), lambda x: x * 3, (3, 5))),
        Sample((np.array(False), lambda x, y: (x + y, y), lambda x, y: (x * y, x), (4,), (4,))),
    ],
    takes=(),
    onnx=forms_flow.cond,
)
def cond(
    pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], /, *operands: Any
) -> Any:
    """true_fn(*operands) if pred else false_fn(*operands), decided when it runs.

    Both must return the same structure of tensors: else ArgumentError; of the same types: else
    ShapeError or DTypeError.

    >>> halved = ds.jit(lambda x: ds.cond(x.sum() > 4, lambda x: x / 2, lambda x: x, x))
    >>> halved(ds.asarray([4.0, 2.0])), halved(ds.asarray([1.0, 2.0]))
    (tensor([2., 1.]), tensor([1., 2.]))
    """
    test = predicate("cond", as_tensor(pred, "cond"))
    leaves, form = flattened(tuple(operands), "cond")
    types = [t._value.type for t in leaves]

    def call(function: Callable[..., Any], tensors: Tensors) -> Any:
        return function(*unflattened(form, tensors))

    true_graph, result, first = traced(true_fn, types, call, "cond")
    false_graph, other, second = traced(false_fn, types, call, "cond")
    trues = [Tensor(v) for v in true_graph.outputs]
    refuse_change("cond", "a false_fn result", trues, false_graph.outputs, (result, other))
    (true_graph, false_graph), outside = merged([true_graph, false_graph], [first, second])
    if not true_graph.outputs:
        return unflattened(result, ())
    out = record(
        op_of(cond), test, *outside, *leaves, true_graph=true_graph, false_graph=false_graph
    )
    return unflattened(result, as_list(out))


# ---------------------------------------------------------------------------------- while_loop


def _while_reference(*xs: Any, run: Any, condition: Graph, body: Graph, consts: int) -> Any:
    outside, carried = list(xs[:consts]), list(xs[consts:])
    while run(condition, [*outside, *carried])[0]:
        carried = run(body, [*outside, *carried])
    return carried


def _while_vjp(g: Any, y: Any, *xs: Tensor, **attrs: Any) -> tuple[Any, ...]:
    raise op_error(
        ArgumentError, "while_loop", "a gradient through a loop of unknown length",
        "a loop of known length", user_line(), "write the loop with ds.scan(f, init, xs, length=n)",
    )  # fmt: skip


def _count_up(state: Any) -> Any:
    i, x = state
    return [i + 1, x * 2 + i]


@primitive(
    Kind.CONTROL,
    infer=lambda *xs, condition, body, consts: outputs_of(body),
    meaning=Repeat,
    reference=_while_reference,
    vjp=_while_vjp,
    samples=lambda: [
        Sample((lambda s: s[0] < 5, _count_up, [np.array(0), (3,)])),
        Sample((lambda s: s[0] < 0, _count_up, [np.array(0), (2, 2)])),
    ],
    takes=(),
    onnx=forms_flow.while_loop,
)
def while_loop(cond_fn: Callable[[Any], Any], body_fn: Callable[[Any], Any], init: Any, /) -> Any:
    """The state after `while cond_fn(state): state = body_fn(state)`, starting from init.

    The state's structure and types stay the same: else ArgumentError, ShapeError or DTypeError. It
    has no gradient: `scan` has one.

    >>> ds.while_loop(lambda x: x < 100, lambda x: x * 3, ds.asarray(2))
    tensor(162)
    """
    leaves, form = flattened(init, "while_loop")
    types = [t._value.type for t in leaves]

    def call(function: Callable[..., Any], tensors: Tensors) -> Any:
        return function(unflattened(form, tensors))

    def test(function: Callable[..., Any], tensors: Tensors) -> Any:
        return predicate("while_loop", as_tensor(call(function, tensors), "while_loop"))

    condition, _, first = traced(cond_fn, types, test, "while_loop")
    body, result, second = traced(body_fn, types, call, "while_loop")
    refuse_change("while_loop", "a state", leaves, body.outputs, (form, result))
    (condition, body), outside = merged([condition, body], [first, second])
    out = record(
        op_of(while_loop), *outside, *leaves, condition=condition, body=body, consts=len(outside)
    )
    return unflattened(form, as_list(out))


# ---------------------------------------------------------------------------------------- scan


def _scan_infer(
    *inputs: TensorType, body: Graph, consts: int, carries: int, length: Size, reverse: bool
) -> Types:
    made = outputs_of(body)
    stacks = [tensor_type(t.dtype, (length, *t.shape)) for t in made[carries:]]
    return (*made[:carries], *stacks)


def _scan_reference(
    *arrays: Any, run: Any, body: Graph, consts: int, carries: int, length: int, reverse: bool
) -> Any:
    outside, carried = list(arrays[:consts]), list(arrays[consts : consts + carries])
    xs = arrays[consts + carries :]
    rows: list[Any] = [None] * length
    for step in range(length - 1, -1, -1) if reverse else range(length):
        out = run(body, [*outside, *carried, *(x[step] for x in xs)])
        carried, rows[step] = list(out[:carries]), out[carries:]
    stacks = []
    for i, value in enumerate(body.outputs[carries:]):
        empty: Any = (0, *value.type.shape)
        column = [row[i] for row in rows]
        stacks.append(np.stack(column) if column else np.zeros(empty, value.type.dtype.numpy))
    return [*carried, *stacks]


def _scan_vjp(
    g: Any,
    y: Any,
    *inputs: Tensor,
    body: Graph,
    consts: int,
    carries: int,
    length: Size,
    reverse: bool,
) -> tuple[Any, ...]:
    """A scan the other way, over the states that a scan forwards kept."""
    given = list(g) if isinstance(g, tuple) else [g]
    outside, init = list(inputs[:consts]), list(inputs[consts : consts + carries])
    xs = list(inputs[consts + carries :])
    before = states_before(inputs, body, consts, carries, length, reverse)
    floats = [i for i, x in enumerate(inputs) if x.dtype.is_float]
    inner = [i for i in floats if i < consts]
    state_floats = [i - consts for i in floats if consts <= i < consts + carries]
    row_floats = [i - consts - carries for i in floats if i >= consts + carries]
    rows = [(i, r) for i, r in enumerate(given[carries:]) if r is not None]

    def step(flow: Any, row: Any) -> Any:
        from_state, totals = flow
        kept, elements, cotangents = row
        seeds: list[Tensor | None] = [None] * len(body.outputs)
        for i, t in zip(state_floats, from_state, strict=True):
            seeds[i] = t
        for (i, _), t in zip(rows, cotangents, strict=True):
            seeds[carries + i] = t
        found = pulled_back(body, [*outside, *kept, *elements], seeds)
        into_state = [_or_zeros(found[consts + i], kept[i]) for i in state_floats]
        sums = [t if found[i] is None else t + found[i] for i, t in zip(inner, totals, strict=True)]
        made = [_or_zeros(found[consts + carries + i], elements[i]) for i in row_floats]
        return (into_state, sums), made

    first = [_or_zeros(given[i], init[i]) for i in state_floats]
    none = [_or_zeros(None, outside[i]) for i in inner]
    over = (before, xs, [r for _, r in rows])
    (into_init, totals), made = scan(step, (first, none), over, length=length, reverse=not reverse)
    grads: list[Tensor | None] = [None] * len(inputs)
    for i, t in zip(inner, totals, strict=True):
        grads[i] = t
    for i, t in zip(state_floats, into_init, strict=True):
        grads[consts + i] = t
    for i, t in zip(row_floats, made, strict=True):
        grads[consts + carries + i] = t
    return tuple(grads)


def states_before(
    inputs: Tensors, body: Graph, consts: int, carries: int, length: Size, reverse: bool
) -> list[Tensor]:
    """The state that each step of a scan starts from, stacked."""
    kept = body.inputs[consts : consts + carries]
    graph = Graph(body.inputs, (*body.outputs[:carries], *kept))
    out = record(
        op_of(scan),
        *inputs,
        body=graph,
        consts=consts,
        carries=carries,
        length=length,
        reverse=reverse,
    )
    return as_list(out)[carries:] if carries else []


def _running(total: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    total = total * 0.5 + x
    return total, total.tanh()


@primitive(
    Kind.CONTROL,
    infer=_scan_infer,
    meaning=Walk,
    reference=_scan_reference,
    vjp=_scan_vjp,
    samples=lambda: [
        Sample((_running, (3,), (4, 3))),
        Sample((_running, (2,), (3, 2)), {"reverse": True}),
        Sample((lambda s, _: (s * 0.5 + 1, s.exp()), (2,), None), {"length": 3}),
        Sample((_running, (3,), (0, 3))),
    ],
    takes=(),
    onnx=forms_flow.scan,
)
def scan(
    f: Callable[..., Any],
    init: Any,
    xs: Any = None,
    /,
    *,
    length: Any = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """(final state, stacked results) of `state, result = f(state, x)` for each x along the first
    axis.

    `xs` is a structure of tensors with equal first axes, or None with a `length`. The state's
    structure and types stay the same. `reverse` starts from the last x. Raises ArgumentError unless
    f returns a pair.

    >>> ds.scan(lambda total, x: (total + x, total * x), ds.asarray(1), ds.asarray([2, 3, 4]))
    (tensor(10), tensor([ 2,  9, 24]))
    """
    carried, form = flattened(init, "scan")
    rows, rows_form = flattened(xs, "scan")
    count = _length(rows, length)
    types = [t._value.type for t in carried] + [tensor_type(int64, ())]
    types += [tensor_type(t.dtype, shape_of(t)[1:]) for t in rows]
    forms: list[Any] = []

    def call(function: Callable[..., Any], tensors: Tensors) -> Any:
        x = None if xs is None else unflattened(rows_form, tensors[len(carried) + 1 :])
        out = function(unflattened(form, tensors[: len(carried)]), x)
        if not isinstance(out, tuple) or len(out) != 2:
            raise op_error(
                ArgumentError, "scan", f"a body that returns {type(out).__name__}",
                "a pair (state, result)", user_line(),
            )  # fmt: skip
        forms.extend(flattened(part, "scan")[1] for part in out)
        return out

    body, _, outside = traced(f, types, call, "scan", step=len(carried))
    place = len(outside) + len(carried)
    if body.inputs[place] in body.uses():  # something was drawn at random
        rows = [arange(count), *rows]
    else:
        body = Graph((*body.inputs[:place], *body.inputs[place + 1 :]), body.outputs)
    refuse_change("scan", "a state", carried, body.outputs[: len(carried)], (form, forms[0]))
    out = as_list(record(
        op_of(scan), *outside, *carried, *rows, body=body, consts=len(outside),
        carries=len(carried), length=count, reverse=bool(reverse),
    ))  # fmt: skip
    return unflattened(form, out[: len(carried)]), unflattened(forms[1], out[len(carried) :])


def _length(rows: Tensors, length: Any) -> Size:
    count: Size | None = None if length is None else simplify(_size(length))
    for x in rows:
        if not x.ndim or (count is not None and not same(shape_of(x)[0], count)):
            raise op_error(
                ShapeError, "scan", f"xs {[describe(r) for r in rows]} and length {length}",
                "tensors with the same first size", user_line(),
            )  # fmt: skip
        count = shape_of(x)[0]
    if count is None:
        raise op_error(ArgumentError, "scan", "neither xs nor length", "one of them", user_line())
    return count


def _size(length: Any) -> Size:
    return getattr(length, "expr", length)  # type: ignore[no-any-return]
