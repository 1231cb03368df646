"""Devices of tensors: naming one, moving there, and that an op's tensors share one.

What was created from numbers alone belongs to no device yet, and is computed where it is read, as
are tensors of one element that the processor has. `without_devices` takes the notion out of a graph
before it is compiled: a program runs on one device as a whole.
"""

from __future__ import annotations

import threading
from typing import Any

from deepseek import _runtime
from deepseek.config import handed_on, options
from deepseek.errors import (
    ArgumentError,
    BackendError,
    TraceError,
    format_line,
    op_error,
    user_line,
)
from deepseek.frontend.tensor import Tensor, hooks, leaf, record, state
from deepseek.ir.device import Device, cuda_device, named
from deepseek.ir.graph import INPUT, Graph, Node, Value, make_node, reach
from deepseek.ir.op import Kind, Op, internal


class Current(threading.local):
    """The CUDA device that `device="cuda"` means in this thread."""

    index = 0


current = Current()


def why_unavailable() -> str:
    """Why this machine has no CUDA device that we can use; "" where it has."""
    return _runtime.cuda_unavailable()


def checked_device(given: Any) -> Device | None:
    """The device that a name, a number of a CUDA device or a Device means; None for the processor.

    Raises ArgumentError for what is none, BackendError where this machine cannot use it.
    """
    if given is None:
        return None
    kind, number = ("cuda", given) if type(given) is int else named(str(given))
    if kind == "cpu":
        return None
    reason = why_unavailable()
    if reason:
        raise BackendError(f"device {str(given)!r} cannot be used here: {reason}")
    index = current.index if number is None else number
    count = _runtime.cuda_device_count()
    if not 0 <= index < count:
        valid = ", ".join(f"cuda:{i}" for i in range(count))
        raise ArgumentError(f"unknown device {str(given)!r}; valid: cpu, {valid}")
    return cuda_device(index)


# ------------------------------------------------------------------------------------------ moving


def _moved_back(g: Tensor, _: Tensor, x: Tensor, **__: Any) -> tuple[Tensor]:
    return (moved(g, x._value.type.device),)


PLACE = internal(
    Op(
        "place", Kind.ELEMENTWISE, lambda x, *, device: (x.on(device),), vjp=_moved_back,
        doc="The same elements on another device.",
    )
)  # fmt: skip


def moved(x: Tensor, device: Device | None) -> Tensor:
    """x on a device; gradients flow back to where it was. x itself where it is there already.

    Inside `@ds.jit` tensors can be moved from the processor only: raises TraceError otherwise.
    """
    now = x._value.type.device
    if now is device:
        return x
    if now is None and (state.trace is not None or x._value.data is None and is_open(x._value)):
        made: Tensor = record(PLACE, x, device=device)
        return made
    if state.trace is not None:
        raise TraceError(
            f"inside @ds.jit a tensor cannot be moved from {now}: the function runs there as a "
            f"whole\n  at {format_line(user_line())}\n  help: return it, and move it outside"
        )
    value = x._computed()
    data = value.data.to(-1 if device is None else device.number)
    if not (value.requires_grad and state.grad):
        return Tensor(leaf(data, value.type.dtype, value.type.shape, device=device))
    node = make_node(PLACE, (value,), {"device": device}, (value.type.on(device),), user_line())
    out = node.outputs[0]
    out.data = data
    out.requires_grad = True
    return Tensor(out)


def moved_in_place(x: Tensor, device: Device | None) -> None:
    """Let the handle, a leaf's or one without a history, show its elements on another device."""
    value = x._value
    if value.type.device is not device:
        made = moved(x.detach(), device)._computed()  # type: ignore[attr-defined]
        type_ = made.type
        x._rebind(leaf(made.data, type_.dtype, type_.shape, value.requires_grad, device))
        if isinstance(x._grad, Tensor):
            x._grad = moved(x._grad, device)


# ----------------------------------------------------------------------------------- of one device


def is_open(value: Value) -> bool:
    """Whether a value of the processor may as well be one of another device."""
    if given(value):
        return value.type.numel == 1
    nodes = reach([value], set())
    return all(v.type.numel == 1 for node in nodes for v in node.inputs if given(v))


def given(value: Value) -> bool:
    """Whether the value is somebody's data, rather than computed."""
    return value.data is not None or value.node.op is INPUT


def check_devices(node: Node) -> None:
    """Raises ArgumentError where a node of a device reads elements that the processor has."""
    if node.op is PLACE:
        return
    if all(v.type.device is not None or is_open(v) for v in node.inputs):
        return
    types = [f"{v.type} on cpu" if v.type.device is None else v.type for v in node.inputs]
    raise op_error(
        ArgumentError, node.op.name, types, "tensors of one device", node.line,
        "move one of them with x.to(y.device)",
    )  # fmt: skip


def device_of(graph: Graph) -> Device | None:
    """Where a graph runs: the one device that values of it are on; None for the processor."""
    for value in (*graph.outputs, *graph.inputs):
        if value.type.device is not None:
            return value.type.device
    return None


def without_devices(graph: Graph) -> Graph:
    """The graph as passes and backends see it: without devices, and without moves between them."""
    inputs = [leaf_of(v) for v in graph.inputs]
    done: dict[Value, Value] = dict(zip(graph.inputs, inputs, strict=True))
    for node in graph.nodes:
        if node.op is PLACE:
            done[node.outputs[0]] = done[node.inputs[0]]
            continue
        types = [v.type.on(None) for v in node.outputs]
        copy = make_node(node.op, tuple(done[v] for v in node.inputs), node.attrs, types, node.line)
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.requires_grad = old.requires_grad
            done[old] = new
    return Graph(inputs, [done[v] for v in graph.outputs])


def on_device(graph: Graph, device: Device | None) -> Graph:
    """A graph without devices, for one: its outputs say where it runs."""
    if device is None:
        return graph
    return Graph(graph.inputs, [placed(v, device) for v in graph.outputs])


def on_one_device(value: Value, device: Device | None) -> Value:
    """An output of a traced function that runs on a device: what it computes is there as well."""
    return value if value.type.device is device or given(value) else placed(value, device)


def placed(value: Value, device: Device | None) -> Value:
    made = make_node(PLACE, (value,), {"device": device}, (value.type.on(device),)).outputs[0]
    made.requires_grad = value.requires_grad
    return made


def leaf_of(value: Value) -> Value:
    type_ = value.type.on(None)
    made = make_node(INPUT, (), {"type": type_, "name": None}, (type_,)).outputs[0]
    made.data = value.data
    made.requires_grad = value.requires_grad
    return made


hooks.check_devices = check_devices

# The runtime opens the driver when it is first asked for a device, and keeps these for all threads.
_runtime.cuda_set_driver(options.cuda_driver)
handed_on["cuda_driver"] = _runtime.cuda_set_driver
handed_on["cuda_sync"] = _runtime.cuda_set_synchronous
handed_on["cuda_capture"] = _runtime.cuda_set_graphs
_runtime.cuda_set_synchronous(options.cuda_sync)
_runtime.cuda_set_graphs(options.cuda_capture)
