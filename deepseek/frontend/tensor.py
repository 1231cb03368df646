"""The Tensor: a handle on a value in a graph.

Calling an op records a node and returns handles at once; nothing is computed until somebody looks
(`numpy()`, `print`, `bool`, ...). The compiler fills `hooks.evaluate`, which computes pending
values. Tensors are values, not aliases: `x += y` and `x[i] = v` make the handle show another
value, and no two tensors ever share memory that one of them can write.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy)
import numpy as np

from deepseek import _runtime
from deepseek._runtime import Buffer
from deepseek.config import options
from deepseek.errors import ArgumentError, DTypeError, TraceError, format_line, user_line
from deepseek.ir import graph
from deepseek.ir.device import CPU, Device
from deepseek.ir.dtype import DType, dtype_of
from deepseek.ir.graph import INPUT, INPUT_NODE, Attrs, Value, make_value
from deepseek.ir.op import Op
from deepseek.ir.shape import Shape, current_sizes, dim, is_one, tensor_type


class Hooks:
    """What layers above fill in: who computes values, who differentiates a graph, and who looks on
    while one is compiled (a `compiler.compile.Watch`), where DS_DUMP or DS_VERIFY ask for it. And
    the traces that go on, on all threads.
    """

    evaluate: Callable[[Sequence[Value]], None]
    check_devices: Callable[[graph.Node], None]  # of a node that is not the processor's
    pullback: Callable[..., list[Tensor | None]]  # (graph, inputs, cotangents of outputs) -> theirs
    watch: Callable[..., Any]
    traces: tuple[Any, ...] = ()


hooks = Hooks()


class Recording(threading.local):
    """Per-thread state of recording.

    `grad`: whether histories are kept. `autocast`: what the ops of the class "low" compute in, None
    for the dtypes they get. `trace`: the trace going on. `pending`: nodes since the last flush.
    `losses`: what `backward` started from, computed with the optimizer's next step. `calls`: how
    often a user's function was shown a gradient.
    """

    def __init__(self) -> None:
        self.grad = True
        self.autocast: DType | None = None
        self.trace: Any = None
        self.pending = 0
        self.losses: list[weakref.ref[Tensor]] = []
        self.calls = 0


state = Recording()


class no_grad:  # noqa: N801  (PyTorch's name)
    """Context manager and decorator: record without gradients.

    >>> x = ds.asarray([1.0], requires_grad=True)
    >>> with ds.no_grad():
    ...     y = 2 * x
    >>> y.requires_grad
    False
    """

    _on = False

    def __enter__(self) -> None:
        self._before = state.grad
        state.grad = self._on

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        state.grad = self._before

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with type(self)():
                return function(*args, **kwargs)

        return wrapped


class enable_grad(no_grad):  # noqa: N801
    """Context manager and decorator: record with gradients inside `no_grad`.

    >>> x = ds.asarray([1.0], requires_grad=True)
    >>> with ds.no_grad(), ds.enable_grad():
    ...     y = 2 * x
    >>> y.requires_grad
    True
    """

    _on = True


def is_grad_enabled() -> bool:
    """Whether recording keeps what gradients need.

    >>> ds.is_grad_enabled()
    True
    """
    return state.grad


class Tensor:
    """An n-dimensional array of one dtype.

    Create one with `ds.asarray`, `ds.zeros`, `ds.randn` and friends. Methods are the ops of the
    array API and PyTorch's names for them.

    >>> x = ds.asarray([[1, 2], [3, 4]])
    >>> x.shape, x.dtype, (x @ x).sum(axis=0)
    ((2, 2), deepseek.int64, tensor([22, 32]))
    """

    __slots__ = ("_value", "_grad", "__weakref__")
    __array_priority__ = 1000
    _value: Value

    def __init__(self, value: Value) -> None:
        self._value = value
        self._grad: Tensor | None | GradientDropped = None
        try:
            value.handle = weakref.ref(self)
        except AttributeError:
            raise ArgumentError(f"ds.Tensor({value!r}): tensors are made by ds.asarray") from None

    # ------------------------------------------------------------------------------ properties

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes; inside a trace for many sizes some of them are symbolic `Dim`s."""
        type_ = self._value.type
        if type_.static:
            return type_.shape  # type: ignore[return-value]
        sizes = current_sizes()
        return tuple(dim(s, sizes) for s in type_.shape)

    @property
    def dtype(self) -> DType:
        return self._value.type.dtype

    @property
    def ndim(self) -> int:
        return len(self._value.type.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return dim(self._value.type.numel, current_sizes())

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def device(self) -> Device:
        """Where the elements lie, or will: `cpu`, `cuda:0`, ..."""
        return self._value.type.device or CPU

    # ------------------------------------------------------------------------------- gradients

    @property
    def requires_grad(self) -> bool:
        return self._value.requires_grad

    @requires_grad.setter
    def requires_grad(self, on: bool) -> None:
        self.requires_grad_(on)

    def requires_grad_(self, on: bool = True) -> Tensor:
        """Mark this tensor as one that gradients are wanted for. Raises DTypeError unless float."""
        if on and not self.dtype.is_float:
            raise DTypeError(f"only float tensors can require gradients; this one is {self.dtype}")
        if on != self._value.requires_grad:
            value = self._value
            if not self.is_leaf:
                raise ArgumentError(
                    "requires_grad can be changed only where the tensor was created, and this one "
                    "was computed by an op that needs gradients\n  help: use x.detach()"
                )
            if value.data is None and value.node.op is not INPUT:
                hooks.evaluate([value])
            self._rebind(leaf_like(value, on))
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether gradients, if any, arrive here and go no further."""
        value = self._value
        return not value.requires_grad or value.node.op is INPUT or not value.node.op.differentiable

    @property
    def grad(self) -> Tensor | None:
        """The gradient that `backward` left here. Raises TraceError if a compiled step consumed
        it.
        """
        if state.trace is not None:
            state.trace.note_grad_read(self)
        if isinstance(self._grad, GradientDropped):
            raise TraceError(
                "this gradient was consumed inside a compiled step and was not kept\n"
                "  help: decorate the step with @ds.jit(keep_grads=True)"
            )
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None and value._value.type is not self._value.type:
            raise ArgumentError(
                f"grad: got {value._value.type}; wanted {self._value.type}, the tensor's own type"
            )
        if state.trace is not None:
            state.trace.note_grad(self)
        self._grad = value

    # ---------------------------------------------------------------------------------- values

    def _rebind(self, value: Value) -> Tensor:
        """Show another value. The trace that goes on, if any, makes this an output of its graph."""
        if state.trace is not None:
            state.trace.note_rebind(self)
        value.handle = weakref.ref(self)  # first: other threads follow it back
        self._value = value
        return self

    def _computed(self) -> Value:
        """This tensor's value with its data there."""
        value = self._value
        if value.data is None:
            if state.trace is not None:
                raise value_needed(self, OUTSIDE)
            if hooks.traces:
                value = settled(value)
            hooks.evaluate([value])
        return value

    def numpy(self) -> np.ndarray[Any, Any]:
        """The elements as a read-only NumPy array that shares this tensor's memory; from another
        device than the processor, a copy of them.

        Raises TraceError inside `@ds.jit`, where values are not known yet.
        """
        if state.trace is not None:
            raise value_needed(self, OUTSIDE)
        return view_of(self._computed())

    def item(self) -> Any:
        """The only element as a Python number. Raises ArgumentError if there are more or none."""
        if not is_one(self._value.type.numel):
            raise ArgumentError(f"item(): got {self._value.type}; wanted a tensor of one element")
        return self.numpy().item()

    def tolist(self) -> Any:
        """The elements as nested lists."""
        return self.numpy().tolist()

    def evaluate(self) -> Tensor:
        """Compute this tensor now, if it is pending."""
        self._computed()
        return self

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.numpy()
        if dtype is not None and np.dtype(dtype) != array.dtype:
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, **kwargs: Any) -> Any:
        # DLPack has no read-only flag before 1.0, so what we export is a copy.
        array = self.numpy().copy()
        if array.dtype == ml_dtypes.bfloat16:
            raise DTypeError("NumPy cannot export bfloat16 by DLPack\n  help: x.astype(ds.float32)")
        kwargs.pop("stream", None)
        return array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __bool__(self) -> bool:
        return bool(self._scalar("bool"))

    def __int__(self) -> int:
        return int(self._scalar("int"))

    def __float__(self) -> float:
        return float(self._scalar("float"))

    def __index__(self) -> int:
        if not self.dtype.is_integer:
            raise DTypeError(f"a {self._value.type} cannot be used as an index; wanted an integer")
        return int(self._scalar("int"))

    def _scalar(self, what: str) -> Any:
        if not is_one(self._value.type.numel):
            raise ArgumentError(
                f"{what}(): got {self._value.type}; wanted a tensor of one element\n"
                "  help: reduce it first, e.g. with x.any(), x.all() or x.sum()"
            )
        if state.trace is not None:
            raise value_needed(self, INSTEAD)
        return self.numpy().reshape(()).item()

    def __len__(self) -> int:
        if not self.ndim:
            raise ArgumentError("len(): a 0-d tensor has no length")
        return int(self.shape[0])

    def __iter__(self) -> Iterator[Tensor]:
        if not self.ndim:
            raise ArgumentError("a 0-d tensor cannot be iterated over")
        return (self[i] for i in range(len(self)))  # type: ignore[index]

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        if state.trace is not None or self._value.node.op is INPUT and self._value.data is None:
            return f"tensor(<{self._value.type}>)"
        array = self.numpy()
        if array.dtype == ml_dtypes.bfloat16:
            array = array.astype(np.float32)
        body = np.array2string(array, separator=", ", prefix="tensor(", max_line_width=100)
        if not array.size:
            body += f", shape={self.shape}"
        implied = self.dtype.name in ("float32", "int64", "bool") and array.size
        extra = "" if implied else f", dtype={self.dtype}"
        if self._value.type.device is not None:
            extra += f", device='{self.device}'"
        if self.requires_grad:
            extra += ", requires_grad=True"
        return f"tensor({body}{extra})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def __deepcopy__(self, memo: Any) -> Tensor:
        copy = Tensor(leaf_like(self._computed(), self.requires_grad))
        memo[id(self)] = copy
        return copy

    def __reduce__(self) -> Any:
        return _restore, (self.numpy().copy(), self.dtype.name, self.requires_grad)


def _restore(array: np.ndarray[Any, Any], dtype: str, requires_grad: bool) -> Tensor:
    return from_numpy(array, dtype_of(dtype), requires_grad=requires_grad)


class GradientDropped:
    """Stands in for a gradient that a compiled step consumed."""


INSTEAD = (
    "to choose between tensors write ds.where(condition, a, b); to choose between computations "
    "ds.cond(condition, f, g, *args); to repeat, ds.scan or ds.while_loop"
)
OUTSIDE = "compute with the tensor itself; ds has NumPy's functions under their names"


def value_needed(tensor: Tensor, remedy: str) -> TraceError:
    """The error for looking at a value while tracing."""
    return TraceError(
        f"the value of this {tensor._value.type} is not known while @ds.jit traces the function\n"
        f"  at {format_line(user_line(2))}\n"
        f"  help: {remedy}; or return the value and look at it outside"
    )


def record(op: Op, *tensors: Tensor, **attrs: Any) -> Any:
    """Record a node; returns its output, or a tuple of them if the op has several."""
    made = record_values(op, tuple([t._value for t in tensors]), attrs)
    return Tensor(made[0]) if len(made) == 1 else tuple([Tensor(v) for v in made])


def record_values(op: Op, inputs: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
    """Record a node on values, in the mode (trace, gradients, eager) this thread is in."""
    trace = state.trace
    if trace is not None:
        inputs = trace.admit(inputs)
    elif hooks.traces:
        inputs = tuple([settled(v) for v in inputs])
    made = graph.node(op, inputs, attrs, user_line(2))
    outputs = made.outputs
    if outputs and outputs[0].type.device is not None:
        hooks.check_devices(made)
    if state.grad and op.differentiable:
        for v in inputs:
            if v.requires_grad:
                for out in outputs:
                    out.requires_grad = out.type.dtype.is_float
                break
    if trace is None:
        state.pending += 1
        if options.eager or state.pending >= options.flush_nodes:
            hooks.evaluate(outputs)
    return outputs


def settled(value: Value) -> Value:
    """The value. Where a tensor shows it only while another thread traces: what that tensor shows
    afterwards.
    """
    while value.data is None and value.handle is not None:
        tensor = value.handle()
        if tensor is None or not any(tensor in trace.rebound for trace in hooks.traces):
            break
        _runtime.wait_for_trace()
        if tensor._value is value:  # the trace is this thread's
            break
        value = tensor._value
    return value


def view_of(value: Value) -> np.ndarray[Any, Any]:
    """A computed value's memory as a read-only array."""
    type_ = value.type
    data = value.data if type_.device is None else value.data.to(-1)
    flat = np.frombuffer(data, np.uint8, count=type_.nbytes)  # type: ignore[arg-type]
    return flat.view(type_.dtype.numpy).reshape(type_.shape)  # type: ignore[arg-type]


def leaf(
    data: Buffer, dtype: DType, shape: Shape, requires_grad: bool = False,
    device: Device | None = None,
) -> Value:  # fmt: skip
    """A value that holds its data and comes from no op."""
    if state.trace is None:  # a node of its own would form a cycle, and keep the buffer a while
        value = make_value(INPUT_NODE, tensor_type(dtype, shape, device))
    else:  # a trace tells by its place in the order what was made during it
        value = graph.input_value(dtype, shape, device=device)
    value.data = data
    value.requires_grad = requires_grad
    return value


def leaf_like(value: Value, requires_grad: bool) -> Value:
    """A leaf with the same contents; shares the (never written while shared) buffer."""
    made = make_value(INPUT_NODE, value.type)
    made.data = value.data
    made.requires_grad = requires_grad
    return made


def from_numpy(array: Any, dtype: DType, requires_grad: bool = False, label: str = "") -> Tensor:
    """A tensor with a copy of the elements."""
    array = np.asarray(array, dtype.numpy)
    data = Buffer.allocate(array.nbytes, label)
    if array.nbytes:
        data.copy_from(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return Tensor(leaf(data, dtype, array.shape, requires_grad))


@contextmanager
def tracing(trace: Any) -> Iterator[Any]:
    """Record into `trace` in this thread."""
    before = state.trace
    state.trace = trace
    try:
        yield trace
    finally:
        state.trace = before


_runtime.configure_graph(tensor=Tensor, input_node=INPUT_NODE, form=graph.form_of)
