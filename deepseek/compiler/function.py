"""`@ds.jit`: a function that is traced once per signature and then runs as one Program.

A call is held against the entries: the structure and types of its arguments, and whether what the
trace read from outside is as it was. Where none fits, the function is traced and compiled for the
call. Then arguments and hidden inputs are bound to the Program, it runs, and the results are shown:
returned tensors, handles that the function rebound, gradients that it left.
"""

from __future__ import annotations

import copy
import functools
import inspect
import os
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepseek import _runtime
from deepseek.compiler.caches import counters
from deepseek.compiler.compile import no_collection, out_of_memory
from deepseek.compiler.entry import (
    Call,
    Entry,
    Traced,
    as_leaf,
    assemble,
    context,
    flattened,
    misfit,
)
from deepseek.compiler.tree import result_structure, statics, unflatten
from deepseek.config import options
from deepseek.errors import INSTALLED_DIRS, PACKAGE_DIR, STDLIB_DIR, TraceError, is_internal
from deepseek.frontend import reads
from deepseek.frontend.explore import Explorer, Record, code_of, reachable_codes
from deepseek.frontend.gradient_hooks import registry
from deepseek.frontend.guards import ATTR, MISSING, same, same_array, structure
from deepseek.frontend.tensor import Tensor, hooks, settled, state, tracing
from deepseek.frontend.tracer import Trace, begin
from deepseek.ir.graph import INPUT, Value
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import NumberNeeded, Sizes, TensorType, active
from deepseek.logs import logger
from deepseek.ops.random import Generator

LIBRARIES = (PACKAGE_DIR, STDLIB_DIR, os.path.dirname(np.__file__) + os.sep, "<frozen ")
FAVOURS = 2  # how often a function may change what it reads, while it is traced, and settle


REMEMBERED = 256  # signatures whose sizes, and traces whose reasons, a function remembers


class TracingLock:
    """One trace at a time: the tensors it meets show placeholders, to other threads too.

    A fork waits for the trace that goes on, and for calls that are changing tensors: the child
    finds all tensors whole.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        os.register_at_fork(
            before=self.before_fork,
            after_in_parent=self.after_fork,
            after_in_child=self.after_fork,
        )

    def __enter__(self) -> None:
        # A trace waits for calls that are writing, so what these call must not wait for the trace.
        if not self.lock.acquire(blocking=not _runtime.writing_here()):
            raise TraceError(
                "a function cannot be compiled here, in the middle of a compiled call, while "
                "another thread compiles\n  help: call it once before"
            )

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    def before_fork(self) -> None:
        self.lock.acquire()
        _runtime.begin_trace()

    def after_fork(self) -> None:
        _runtime.end_trace()
        self.lock.release()


tracing_lock = TracingLock()


@contextmanager
def alone(trace: Trace) -> Iterator[None]:
    """No other thread's call changes tensors: the trace puts back what they showed before it."""
    try:
        _runtime.begin_trace()
        before = hooks.traces
        hooks.traces = *before, trace
        try:
            yield
        finally:
            hooks.traces = before
    finally:
        _runtime.end_trace()


@dataclass
class Seen:
    """The sizes of the first call of a signature, and the (argument, axis) that differed since."""

    first: tuple[tuple[int, ...], ...]
    differ: set[tuple[int, int]] = field(default_factory=set)

    def update(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        for i, (old, new) in enumerate(zip(self.first, shapes, strict=True)):
            self.differ.update((i, a) for a in range(len(old)) if old[a] != new[a])


def is_ours(function: Any) -> bool:
    """Whether a function is one of deepseek's own, and none made around something of the user's."""
    return is_internal(function.__code__.co_filename) and "<" not in function.__qualname__


class Function(_runtime.Dispatcher):
    """A jitted function. Calling it gives what the plain function would.

    The runtime's Dispatcher makes the calls; it asks `compile_for` where no entry fits.
    """

    _ds_children_ = ("function",)  # what another function's guards look at

    def __init__(
        self, function: Callable[..., Any], keep_grads: bool = False, dynamic: bool = True
    ) -> None:
        check_callable(function)
        super().__init__(function)
        functools.update_wrapper(self, function)
        self.name = getattr(function, "__qualname__", type(function).__qualname__)
        self.keep_grads = keep_grads
        self.dynamic = dynamic
        self.seen: OrderedDict[Any, Seen] = OrderedDict()  # by signature, the last used at the end
        self.reasons: deque[str] = deque(maxlen=REMEMBERED)

    def __reduce__(self) -> Any:
        # As a function is pickled and copied: by its name, where that leads back here.
        path = getattr(self, "__qualname__", "")
        found: Any = sys.modules.get(self.__module__)
        for name in path.split("."):
            found = getattr(found, name, None)
        if found is self:
            return path
        return type(self), (self.function, self.keep_grads, self.dynamic)

    def entry_for(self, *args: Any, **kwargs: Any) -> Entry:
        """The entry that a call with these arguments uses, compiled if need be."""
        found: Entry | None = self.match(args, kwargs)
        return found or self.compile_for(args, kwargs)

    def compile_for(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Entry:
        """An entry for a call that none fits."""
        with tracing_lock:
            found: Entry | None = self.match(args, kwargs)  # made by another thread meanwhile
            if found is not None:
                return found
            # Nor are callbacks and finalizers of a collection the traced function's code.
            with no_collection():
                return self.trace(*flattened(args, kwargs))

    def complain(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise the error for a call that does not even fit the entry made for it."""
        reason = self.reason(*flattened(args, kwargs))
        raise TraceError(
            f"{self.name}: {reason} while the function was compiled\n"
            "  help: do not change what a function reads while it is called for the first time"
        )

    def cache_info(self) -> dict[str, int]:
        """How many entries there are."""
        return {"entries": len(self.entries)}

    # ------------------------------------------------------------------------------------ tracing

    def trace(self, form: Any, leaves: list[Any]) -> Entry:
        """Trace and compile for arguments of this structure."""
        counters.traces += 1
        self.reasons.append(self.reason(form, leaves))
        logger().info("traced %s: %s", self.name, self.reasons[-1])
        hooks.evaluate([x._value for x in leaves if isinstance(x, Tensor)])
        shapes = tuple(x._value.type.shape if isinstance(x, Tensor) else () for x in leaves)
        varying = self.varying(self.key(form, leaves), shapes)
        for _ in range(FAVOURS):
            codes = reachable_codes([self.function, *statics(form)])
            before = self.explorer(codes, form, leaves, writes=True)
            entry = self.general(form, leaves, varying)
            changed = before.table.broken(leaves) or entry.table.broken(leaves)
            if not changed:
                self.add_entry(entry)
                return entry
        raise TraceError(
            f"{self.name}: {changed} while the function was traced\n"
            "  help: such a change is made once, when the function is traced, and not at each "
            "call; return the new value instead, or keep it in a tensor"
        )

    def reason(self, form: Any, leaves: Sequence[Any]) -> str:
        """Why no entry fits, in words."""
        for entry in self.entries:
            if entry.structure == form and entry.context == context():
                return misfit(entry, leaves) or "nothing differs"
        return "new types of arguments"

    def key(self, form: Any, leaves: Sequence[Any]) -> Any:
        """The signature without sizes."""
        kinds = tuple(
            (x._value.type.dtype, x._value.type.rank, x._value.requires_grad)
            if isinstance(x, Tensor)
            else type(x)
            for x in leaves
        )
        return form, kinds, context()

    def varying(self, key: Any, shapes: tuple[tuple[int, ...], ...]) -> dict[int, list[int]]:
        """The axes, by argument, that differed between the calls seen so far and are not 0."""
        seen = self.seen.setdefault(key, Seen(shapes))
        self.seen.move_to_end(key)
        if len(self.seen) > REMEMBERED:
            self.seen.popitem(last=False)
        seen.update(shapes)
        out: dict[int, list[int]] = {}
        for i, axis in sorted(seen.differ):
            if self.dynamic and shapes[i][axis] > 0:
                out.setdefault(i, []).append(axis)
        return out

    def general(self, form: Any, leaves: list[Any], varying: dict[int, list[int]]) -> Entry:
        """The function traced with symbols for the varying sizes, but for those that have to be 1.
        """
        while True:
            call = Call(form, leaves, begin(), Sizes(repeatable=True))
            try:
                return self.traced(call, varying)
            except NumberNeeded as needed:
                varying = call.without(varying, needed.symbols)
            counters.traces += 1
            logger().info("traced %s again: what it does depends on a size that is 1", self.name)

    def traced(self, call: Call, varying: dict[int, list[int]]) -> Entry:
        """One run of the function on placeholders, compiled."""
        form, leaves, trace = call.structure, call.leaves, call.trace
        with active(call.sizes):
            with alone(trace), tracing(trace):
                _runtime.start_recording_calls(LIBRARIES, INSTALLED_DIRS)
                try:
                    args, kwargs = unflatten(form, iter(call.place(varying)))
                    out = self.function(*args, **kwargs)
                    returned: list[Tensor] = []
                    dims: list[Expr] = []
                    given = [self.function, *statics(form)]
                    result = result_structure(out, returned, dims, given)
                    values = [trace.inside(t._value) for t in returned]
                finally:
                    records = _runtime.stop_recording_calls()
                    rebound, grads = trace.finish()
            done = Traced(result, values, dims, rebound, grads)
            for code, namespace, _ in records:
                reads.refuse(code, namespace)
            entered = {code for code, _, _ in records}
            explorer = self.explorer(
                entered, form, leaves, records,
                numbers={key: n.pinned for key, n in trace.numbers.items()},
                by_type=[id(d.generator) for d in trace.draws.values()],
                grads=trace.grads_read,
            )  # fmt: skip
            if trace.grads:
                self.guard_gradient_hooks(explorer)
            for holder, attribute in trace.held:
                row = explorer.hold(holder, type(holder).__name__.lower())
                explorer.visit(getattr(holder, attribute), row, ATTR, attribute, attribute)
            return assemble(self.name, call, done, explorer, self.keep_grads)

    def explorer(
        self, codes: Any, form: Any, leaves: Sequence[Any], records: Sequence[Record] = (),
        **what: Any,
    ) -> Explorer:  # fmt: skip
        """What the codes could have read, from the function and its arguments."""
        own = code_of(self.function)
        if own is not None and not is_ours(self.function):
            codes = {own, *codes}
        explorer = Explorer(codes, leaves, **what)
        for obj in statics(form):
            explorer.hold(obj, f"argument of type {type(obj).__name__}")
        explorer.hold(self.function, self.name)
        explorer.rest(records)
        return explorer

    def guard_gradient_hooks(self, explorer: Explorer) -> None:
        """Let what computed gradients depend on the hooks that leaves have."""
        row = explorer.hold(registry, "the hooks of tensors")
        explorer.visit(registry.version, row, ATTR, "version", "which hooks tensors have")


def check_callable(function: Any) -> None:
    """Raise TraceError unless the function can be traced."""
    name = getattr(function, "__qualname__", repr(function))
    if not callable(function):
        raise TraceError(f"ds.jit: got {name}; wanted a function or another callable")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        what = "a generator function, which runs in pieces"
    elif inspect.iscoroutinefunction(function):
        what = "an async function, which runs in pieces"
    else:
        return
    raise TraceError(
        f"ds.jit: {name} is {what}; wanted a function that returns its results\n"
        "  help: compile the function that does the computing, and call that one"
    )


def settle(tensors: list[Tensor]) -> None:
    """Compute what tensors show that a call needs."""
    pending: list[Value] = [v for t in tensors if (v := settled(t._value)).data is None]
    for value in pending:
        if value.node.op is INPUT:
            raise TraceError(
                f"a {value.type} was made inside @ds.jit and kept outside; its value is lost\n"
                "  help: return it from the function"
            )
    hooks.evaluate(pending)


def no_memory(entry: Entry, sizes: tuple[int, ...], message: str) -> None:
    """Raise the error for a call that found too little memory."""
    raise out_of_memory(message, entry.graph, executable=entry.executable, sizes=sizes)


_runtime.configure_dispatch(
    tensor_type=TensorType,
    generator=Generator,
    array=np.ndarray,
    floating=np.floating,
    missing=MISSING,
    structure=structure,
    recording=state,
    options=options,
    same=same,
    same_array=same_array,
    as_tensor=as_leaf,
    settle=settle,
    copy=copy.deepcopy,
    no_memory=no_memory,
)


def jit(
    function: Callable[..., Any] | None = None, *, keep_grads: bool = False, dynamic: bool = True
) -> Any:
    """Compile a function: decorator, with or without arguments.

    The function is traced once for each signature (structure, dtypes, ranks; sizes become symbolic
    when they first differ). `keep_grads` keeps the gradients that an optimiser inside consumed;
    `dynamic=False` traces each size apart. Raises TraceError where the function depends on a
    tensor's value or reads what cannot be followed.

    >>> @ds.jit
    ... def f(x):
    ...     return (x * x).sum()
    >>> f(ds.asarray([1.0, 2.0])), f(ds.asarray([1.0, 2.0, 3.0]))
    (tensor(5.), tensor(14.))
    """
    if function is None:
        return functools.partial(jit, keep_grads=keep_grads, dynamic=dynamic)
    return Function(function, keep_grads, dynamic)
