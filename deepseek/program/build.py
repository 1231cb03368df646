"""Build: a graph of regions becomes a Program.

Values get slots, aliases share them, regions become launches. Launches of the same kernel that do
not depend on each other become one launch with many rows; outputs take over donated inputs where
nobody reads those later.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepseek.errors import CompileError, format_line
from deepseek.ir import scalar
from deepseek.ir.access import is_alias
from deepseek.ir.graph import CONSTANT, Graph, Node, Value
from deepseek.ir.interpret import call_reference
from deepseek.ir.op import Branch, Kind, Repeat, Walk
from deepseek.ir.scalar import Expr
from deepseek.ir.shape import TensorType
from deepseek.kernel.ir import Kernel
from deepseek.kernel.lower import lower
from deepseek.program import ir
from deepseek.program.ir import (
    Collective,
    Extern,
    For,
    Host,
    If,
    Launch,
    Program,
    Ref,
    Row,
    Slot,
    Step,
    While,
)

Env = dict[Value, Ref]


class Builder:
    """One program under construction."""

    def __init__(
        self, symbols: Sequence[Expr], lanes: int, optimize: Callable[[Graph], Graph]
    ) -> None:
        self.symbols = tuple(symbols)
        self.lanes = lanes
        self.optimize = (
            optimize  # what is done to the body graphs of control flow before they are built
        )
        self.slots: list[Slot] = []
        self.kernels: dict[Kernel, int] = {}
        self.loops = 0
        self.in_place: dict[int, set[int]] = {}  # output slot -> slots it may take over
        self.waits: dict[int, set[int]] = {}  # output slot -> slots that are written before

    def slot(self, kind: str, type_: TensorType, label: str = "", array: Any = None) -> int:
        self.slots.append(Slot(kind, type_, label, array=array))
        return len(self.slots) - 1

    # ------------------------------------------------------------------------------------ blocks

    def block(self, graph: Graph, env: Env, results: dict[Value, int]) -> list[Step]:
        """The steps of a graph. `env` says where values are; `results` which slots outputs must
        fill.
        """
        steps: list[Step] = []
        for node in graph.nodes:
            steps += self.node(node, env, results)
        return merge_launches(steps, self.kernel_list(), self.waits)

    def kernel_list(self) -> tuple[Kernel, ...]:
        return tuple(self.kernels)

    def node(self, node: Node, env: Env, results: dict[Value, int]) -> list[Step]:
        if node.op is CONSTANT:
            value = node.outputs[0]
            number = self.slot(ir.CONSTANT, value.type, "constant", node.attrs["array"].numpy)
            env[value] = Ref(number)
            return []
        if is_alias(node) and node.inputs[0] in env:
            env[node.outputs[0]] = env[node.inputs[0]]
            return []
        label = label_of(node)
        for value in node.outputs:
            if value in results:
                env[value] = Ref(results[value])
            else:
                env[value] = Ref(self.slot(ir.TEMP, value.type, label))
        makers: dict[Kind, Callable[[Node, Env, str], list[Step]]] = {
            Kind.REGION: self.launch,
            Kind.HOST: self.host,
            Kind.COLLECTIVE: self.collective,
            Kind.ORDER: self.extern,
            Kind.CONTROL: self.control,
        }
        if node.op.kind not in makers:
            raise CompileError(
                f"op '{node.op.name}' ({node.op.kind.value}) was not lowered{at(node)}"
            )
        return makers[node.op.kind](node, env, label)

    # ------------------------------------------------------------------------------------- steps

    def launch(self, node: Node, env: Env, label: str) -> list[Step]:
        try:
            lowered = lower(node, self.lanes)
        except CompileError as error:
            raise CompileError(f"{error}{at(node)}") from error
        number = self.kernels.setdefault(lowered.kernel, len(self.kernels))
        refs = tuple(env[node.inputs[i]] for i in lowered.inputs) + tuple(
            env[v] for v in node.outputs
        )
        unread = {env[v].slot for i, v in enumerate(node.inputs) if i not in lowered.inputs}
        self.waits.update((env[v].slot, unread) for v in node.outputs if unread)
        for value, inputs in zip(node.outputs, lowered.in_place, strict=True):
            self.in_place.setdefault(env[value].slot, set()).update(
                env[node.inputs[i]].slot for i in inputs
            )
        return [Launch(number, (Row(refs, lowered.sizes, lowered.grid),), lowered.grain, label)]

    def extern(self, node: Node, env: Env, label: str) -> list[Step]:
        op = node.op
        assert op.routine is not None and op.meaning is not None
        types = [v.type for v in node.inputs]
        sizes = op.meaning(types, [v.type for v in node.outputs], **node.attrs)
        refs = tuple(env[v] for v in (*node.inputs, *node.outputs))
        return [Extern(op.routine, refs, tuple(scalar.as_expr(s) for s in sizes), label)]

    def host(self, node: Node, env: Env, label: str) -> list[Step]:
        refs = tuple(env[v] for v in (*node.inputs, *node.outputs))
        types = [v.type for v in (*node.inputs, *node.outputs)]
        sizes = tuple(scalar.as_expr(s) for t in types for s in t.shape)
        function = node.attrs.get("run") or reference_function(node)
        return [Host(function, refs, len(node.outputs), sizes, label)]

    def collective(self, node: Node, env: Env, label: str) -> list[Step]:
        assert node.op.meaning is not None
        message = node.op.meaning(*[v.type for v in node.inputs], **node.attrs)
        message = message._replace(count=scalar.as_expr(message.count))
        reads, writes = (tuple(env[v] for v in values) for values in (node.inputs, node.outputs))
        return [Collective(message, reads, writes, label)]

    def control(self, node: Node, env: Env, label: str) -> list[Step]:
        assert node.op.meaning is not None
        inputs = [env[v] for v in node.inputs]
        outputs = [env[v] for v in node.outputs]
        match node.op.meaning(**node.attrs):
            case Branch(then, otherwise):
                pair = [self.nested(g, inputs[1:], outputs) for g in (then, otherwise)]
                return [If(inputs[0], pair[0], pair[1], label)]
            case Repeat(condition, body, consts):
                return self.repeat(
                    condition, body, inputs[:consts], inputs[consts:], node, outputs, label
                )
            case Walk() as walk:
                return self.walk(walk, inputs, node, outputs, label)
        raise CompileError(f"op '{node.op.name}': no such control flow{at(node)}")

    def repeat(
        self, condition: Graph, body: Graph, consts: list[Ref], start: list[Ref], node: Node,
        state: list[Ref], label: str,
    ) -> list[Step]:  # fmt: skip
        first = [
            copy(to, source, v) for to, source, v in zip(state, start, node.outputs, strict=True)
        ]
        predicate = self.temp(condition.outputs[0].type, label)
        test = self.nested(condition, [*consts, *state], [predicate])
        return [*first, While(test, predicate, self.nested(body, [*consts, *state], state), label)]

    def walk(
        self, walk: Walk, inputs: list[Ref], node: Node, outputs: list[Ref], label: str
    ) -> list[Step]:
        consts, carries = walk.consts, walk.carries
        state = outputs[:carries]
        first = [
            copy(to, source, v)
            for to, source, v in zip(
                state, inputs[consts : consts + carries], node.outputs, strict=False
            )
        ]
        self.loops += 1
        length = scalar.as_expr(walk.length)

        def row(ref: Ref, value: Value) -> Ref:
            stride = scalar.mul(
                scalar.product(value.type.shape[1:]), scalar.const(value.type.dtype.itemsize)
            )
            if not walk.reverse:
                return Ref(ref.slot, ref.offset, self.loops, stride)
            last = scalar.mul(scalar.sub(length, scalar.ONE), stride)
            return Ref(ref.slot, scalar.add(ref.offset, last), self.loops, scalar.neg(stride))

        number = self.loops
        rows_in = [row(r, v) for r, v in zip(inputs, node.inputs, strict=True)][consts + carries :]
        rows_out = [row(r, v) for r, v in zip(outputs, node.outputs, strict=True)][carries:]
        body = self.nested(walk.body, [*inputs[:consts], *state, *rows_in], [*state, *rows_out])
        return [*first, For(number, length, body, label)]

    # ------------------------------------------------------------------- pieces for control flow

    def nested(
        self, graph: Graph, operands: Sequence[Ref], targets: Sequence[Ref]
    ) -> tuple[Step, ...]:
        """A body graph as a block that reads `operands` and leaves its outputs in `targets`."""
        graph = self.optimize(graph)
        env: Env = dict(zip(graph.inputs, operands, strict=True))
        steps = self.block(graph, env, {})
        early: list[Step] = []
        late: list[Step] = []
        for value, target in zip(graph.outputs, targets, strict=True):
            source = env[value]
            if source in targets and source != target:  # another state: it may be overwritten first
                held = self.temp(value.type, "state")
                early.append(copy(held, source, value))
                source = held
            if source != target:
                late.append(copy(target, source, value))
        return (*steps, *early, *late)

    def temp(self, type_: TensorType, label: str) -> Ref:
        return Ref(self.slot(ir.TEMP, type_, label))


def copy(target: Ref, source: Ref, value: Value) -> Step:
    return ir.Copy(target, source, scalar.as_expr(value.type.nbytes), "state")


def build(
    graph: Graph,
    symbols: Sequence[Expr] = (),
    lanes: int = 16,
    takes: dict[int, int] | None = None,
    labels: Sequence[str] = (),
    optimize: Callable[[Graph], Graph] = lambda graph: graph,
    name: str = "program",
) -> Program:
    """The Program of a graph of regions.

    `takes[o] = i`: output o may take over input i's buffer if that is donated, where its kernel
    allows it.
    """
    builder = Builder(symbols, lanes, optimize)
    env: Env = {}
    for i, value in enumerate(graph.inputs):
        label = labels[i] if i < len(labels) else f"input {i}"
        env[value] = Ref(builder.slot(ir.INPUT, value.type, label))
    results = output_slots(graph, builder)
    steps = builder.block(graph, env, results)
    steps += copied_outputs(graph, builder, env)
    outputs = tuple(env[v].slot for v in graph.outputs)
    kernels = builder.kernel_list()
    pairs = [(outputs[o], env[graph.inputs[i]].slot) for o, i in (takes or {}).items()]
    slots = with_takeovers(builder, uses_of(steps, kernels), pairs)
    return Program(builder.symbols, tuple(slots), tuple(steps), outputs, kernels, name)


def output_slots(graph: Graph, builder: Builder) -> dict[Value, int]:
    """An output slot for each distinct result that some step computes, seen through aliases."""
    results: dict[Value, int] = {}
    inputs = set(graph.inputs)
    for value in graph.outputs:
        base = value
        while base not in inputs and is_alias(base.node):
            base = base.node.inputs[0]
        if base in inputs or base.node.op is CONSTANT or base in results:
            continue
        results[base] = builder.slot(ir.OUTPUT, base.type, label_of(base.node))
    return results


def copied_outputs(graph: Graph, builder: Builder, env: Env) -> list[Step]:
    """Outputs that are constants are copied, since constants are shared between calls."""
    steps: list[Step] = []
    for value in graph.outputs:
        number = env[value].slot
        if builder.slots[number].kind == ir.CONSTANT:
            slot = builder.slot(ir.OUTPUT, value.type, "constant")
            steps.append(
                ir.Copy(Ref(slot), Ref(number), scalar.as_expr(value.type.nbytes), "constant")
            )
            env[value] = Ref(slot)
    return steps


@dataclass
class Uses:
    """Where slots are used: the positions of the steps, blocks inside them included."""

    steps: Sequence[Step]
    reads: dict[int, list[int]]
    writes: dict[int, list[int]]


def uses_of(steps: Sequence[Step], kernels: tuple[Kernel, ...]) -> Uses:
    uses = Uses(steps, {}, {})
    for position, step in enumerate(steps):
        for inner in ir.steps((step,)):
            reads, writes = ir.reads_writes(inner, kernels)
            for ref in reads:
                uses.reads.setdefault(ref.slot, []).append(position)
            for ref in writes:
                uses.writes.setdefault(ref.slot, []).append(position)
    return uses


def with_takeovers(builder: Builder, uses: Uses, pairs: Iterable[tuple[int, int]]) -> list[Slot]:
    """The slots, where of each pair (output, input) the output takes over the input's buffer if it
    may. No input is taken over twice.
    """
    slots = list(builder.slots)
    taken: set[int] = set()
    for output, source in pairs:
        free = slots[output].kind == ir.OUTPUT and slots[output].takes is None
        if free and source not in taken and may_take_over(builder, uses, output, source):
            slots[output] = replace(slots[output], takes=source)
            taken.add(source)
    return slots


def may_take_over(builder: Builder, uses: Uses, output: int, source: int) -> bool:
    """Whether the output's kernel can work in place on the input's buffer and is its last reader.
    """
    if source not in builder.in_place.get(output, ()):
        return False
    written = uses.writes.get(output, [])
    if written and max(uses.reads.get(source, [0])) > written[0]:
        return False
    launches = [step for at in written if isinstance(step := uses.steps[at], Launch)]
    return all(row_alone(step, output, source) for step in launches)


def row_alone(step: Launch, output: int, source: int) -> bool:
    """Whether only the row that writes the output reads the source."""
    for row in step.rows:
        used = {r.slot for r in row.refs}
        if source in used and output not in used:
            return False
    return True


def merge_launches(
    steps: Sequence[Step], kernels: tuple[Kernel, ...], waits: Mapping[int, set[int]]
) -> list[Step]:
    """Join launches of one kernel whose inputs are all there when the first of them runs.

    `waits` tells what else has to be there before an output is written.
    """
    out: list[Step] = []
    rows: dict[int, list[Row]] = {}  # by the index in `out` of a launch
    written: dict[int, int] = {}  # slot -> index in `out` of the step that writes it
    last: dict[int, int] = {}  # kernel -> index in `out` of its last launch
    for step in steps:
        used = [ir.reads_writes(s, kernels) for s in ir.steps((step,))]
        reads = [r for some, _ in used for r in some]
        writes = [r for _, some in used for r in some]
        place = last.get(step.kernel) if isinstance(step, Launch) else None
        needed = [r.slot for r in (*reads, *writes)]
        needed += [slot for r in writes for slot in waits.get(r.slot, ())]
        earliest = max((written.get(slot, -1) for slot in needed), default=-1)
        if place is not None and earliest < place and isinstance(step, Launch):
            rows[place] += step.rows
        else:
            place = len(out)
            out.append(step)
            if isinstance(step, Launch):
                last[step.kernel] = place
                rows[place] = [*step.rows]
        for ref in writes:
            written[ref.slot] = place
    for place, step in enumerate(out):
        if isinstance(step, Launch):
            out[place] = replace(step, rows=tuple(rows[place]))
    return out


def reference_function(node: Node) -> ir.HostFunction:
    """A HOST node as a function on bytes: its reference, under the GIL."""
    inputs = [v.type for v in node.inputs]
    outputs = [v.type for v in node.outputs]

    def run(views: list[memoryview], sizes: tuple[int, ...]) -> None:
        arrays: list[np.ndarray[Any, Any]] = []
        rest = iter(sizes)
        for view, type_ in zip(views, inputs + outputs, strict=True):
            shape = [next(rest) for _ in type_.shape]
            arrays.append(np.frombuffer(view, np.uint8).view(type_.dtype.numpy).reshape(shape))
        try:
            result = call_reference(node, arrays[: len(inputs)], wide=False)
        except Exception as error:
            error.add_note(f"in op '{node.op.name}'")  # a program serves many lines
            raise
        results = result if isinstance(result, tuple) else (result,)
        for target, array in zip(arrays[len(inputs) :], results, strict=True):
            target[...] = array

    return run


def label_of(node: Node) -> str:
    """What reports call the memory a node writes."""
    if node.op.kind is Kind.REGION:
        computing = (n for n in reversed(node.attrs["body"].nodes) if n.op.kind is not Kind.VIEW)
        names = [n.op.name for n in itertools.islice(computing, 4)]
        return "+".join(dict.fromkeys(reversed(names)))
    return node.op.name


def at(node: Node) -> str:
    return f"\n  at {format_line(node.line)}" if node.line is not None else ""
