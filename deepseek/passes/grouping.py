"""Groups of nodes: who is in which, what depends on what, who reads what where.

The bookkeeping under `fuse`, which makes the decisions. A group's `before` is the set of groups it
depends on, directly or not, as bits; it is kept closed under every change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from deepseek.errors import CompileError
from deepseek.ir.access import (
    Access,
    Index,
    accesses,
    axes_of,
    inlined,
    is_alias,
    is_late,
    read_at,
    row_position,
)
from deepseek.ir.graph import Graph, Node, Value, make_node
from deepseek.ir.op import Kind, Op, internal
from deepseek.ir.rewrite import with_inputs
from deepseek.ir.shape import Shape, TensorType, exprs
from deepseek.passes.order import without_waiting

FORMS = {
    Kind.REDUCE: "reduce",
    Kind.PREFIX: "prefix",
    Kind.CONTRACT: "contract",
    Kind.SCATTER: "scatter",
}


def _region_types(*_: TensorType, body: Graph, **__: object) -> tuple[TensorType, ...]:
    return tuple(v.type for v in body.outputs)


REGION = internal(Op("region", Kind.REGION, _region_types, doc="Nodes that one kernel computes."))


@dataclass(eq=False)
class Group:
    """Nodes that share loops over `shape`."""

    number: int
    form: str
    shape: Shape
    folded: tuple[int, ...] = ()
    nodes: list[Node] = field(default_factory=list)
    at: dict[Value, Index] = field(default_factory=dict)  # where each member is computed
    before: int = 0  # bit set of the groups it depends on

    @property
    def domain(self) -> Index:
        return axes_of(self.shape)

    def place(self, type_: TensorType) -> list[Index]:
        """The indices at which a value of this type could be computed here."""
        places: list[Index] = []
        if exprs(type_.shape) == exprs(self.shape):
            places.append(self.domain)
        if self.form == "reduce":
            row = row_position(type_, self.shape, self.domain, self.folded)
            if row is not None:
                places.append(row)
        return places

    def stores(self, value: Value) -> bool:
        """Whether a member is computed where its elements lie, so that it can be kept in memory."""
        if value.node.op.kind is Kind.REDUCE:
            return True
        return self.at[value] in self.place(value.type)


class Grouping:
    """One graph's groups."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.groups: list[Group] = []
        self.group_of: dict[Node, Group] = {}
        self.inputs = set(graph.inputs)
        self.uses = graph.uses()
        self.late: dict[Value, Value] = {}  # what may not come before something else: what it is
        for node in graph.nodes:
            if is_late(node):
                self.late[node.outputs[0]] = self.late.get(node.inputs[0], node.inputs[0])
                for value in node.inputs[1:]:
                    self.uses[value].remove(node)
        self._reads: dict[tuple[Node, Index], list[Access]] = {}
        self.must_store = self.values_needed_in_memory()

    def values_needed_in_memory(self) -> set[Value]:
        needed = set(self.graph.outputs)
        for node in self.graph.nodes:
            if not node.op.kind.pointwise and node.op.kind not in FORMS:
                needed.update(node.inputs)
        for node in reversed(self.graph.nodes):
            if any(v in needed for v in node.outputs) and is_alias(node):
                needed.add(node.inputs[0])
        return needed - self.inputs

    def vanishes(self, node: Node) -> bool:
        """Whether only regions read it, and recompute it."""
        if not node.op.kind.pointwise:
            return False
        return inlined(node.outputs[0]) and node.outputs[0] not in self.must_store

    def depends(self, node: Node) -> int:
        """The groups that a node's inputs depend on, as a bit set."""
        bits = 0
        seen: set[Node] = set()
        stack = [v.node for v in node.inputs if v not in self.inputs]
        while stack:
            producer = stack.pop()
            group = self.group_of.get(producer)
            if group is not None:
                bits |= group.before | 1 << group.number
            elif producer not in seen:
                seen.add(producer)
                stack.extend(v.node for v in producer.inputs if v not in self.inputs)
        return bits

    def reads(self, node: Node, index: Index) -> list[Access]:
        """What a node computed at `index` reads of other nodes, from memory or from its group."""
        key = node, index
        if key not in self._reads:
            found = self.memory_reads(node, index)
            self._reads[key] = [a for a in found if a.value not in self.inputs]
        return self._reads[key]

    def memory_reads(self, node: Node, index: Index) -> list[Access]:
        if node.op.kind.pointwise:
            return accesses(node, index)
        return [a for value in node.inputs for a in read_at(value, axes_of(value.type.shape))]

    def member_reads(self, node: Node, group: Group) -> list[Access]:
        return self.reads(node, group.at[node.outputs[0]])

    def readers(self, value: Value) -> list[Node]:
        """The nodes in groups that read a value, perhaps through what is recomputed."""
        found: dict[Node, None] = {}
        stack = list(self.uses.get(value, ()))
        seen: set[Node] = set()
        while stack:
            node = stack.pop()
            if node in self.group_of:
                found[node] = None
            if node not in seen and node.op.kind.pointwise and inlined(node.outputs[0]):
                seen.add(node)
                stack.extend(u for v in node.outputs for u in self.uses.get(v, ()))
        return list(found)

    def places_read(self, value: Value) -> dict[Group, set[Index]]:
        """The indices at which the members of each group read a value."""
        found: dict[Group, set[Index]] = {}
        for node in self.readers(value):
            group = self.group_of[node]
            for access in self.member_reads(node, group):
                if access.value is value:
                    found.setdefault(group, set()).add(access.index)
        return found

    def later(self, bits: int, group: Group) -> bool:
        """Whether something these bits depend on comes after the group."""
        for other in self.groups:
            if other is not group and bits >> other.number & 1 and other.before >> group.number & 1:
                return True
        return False

    def between(self, source: Group, target: Group) -> bool:
        """Whether a third group lies on a path from source to target."""
        for other in self.groups:
            if other is source or other is target:
                continue
            if target.before >> other.number & 1 and other.before >> source.number & 1:
                return True
        return False

    def add(self, node: Node, group: Group, index: Index) -> None:
        group.nodes.append(node)
        self.group_of[node] = group
        for value in node.outputs:
            group.at[value] = index

    def depend(self, group: Group, bits: int) -> None:
        """Let the group, and all that depend on it, depend on more."""
        extra = bits & ~(1 << group.number)
        if extra & ~group.before:
            group.before |= extra
            for other in self.groups:
                if other.before >> group.number & 1:
                    other.before |= extra

    def unite(self, source: Group, target: Group) -> None:
        for member in source.nodes:
            self.group_of[member] = target
        target.nodes = sorted(source.nodes + target.nodes, key=lambda n: n.sequence)
        target.at.update(source.at)
        self.depend(target, source.before)
        self.forget(source, target)

    def forget(self, source: Group, target: Group) -> None:
        """Everything that depended on source depends on target."""
        old, new = 1 << source.number, 1 << target.number
        target.before &= ~old
        for other in self.groups:
            if other is not target and other.before & old:
                other.before = other.before & ~old | new | target.before
        source.nodes = []
        source.before = 0

    # ------------------------------------------------------------------------------- the result

    def with_regions(self) -> Graph:
        """The graph with one REGION node per group."""
        stored = self.stored()
        done: dict[Value, Value] = {}
        outputs = {
            g: [v for n in g.nodes for v in n.outputs if g.form == "alone" or v in stored]
            for g in self.groups
        }
        for group in self.frugal(self.in_order(), outputs):
            if group.form != "alone":
                self.emit(group, outputs, done)
                continue
            node = group.nodes[0]
            inputs = tuple([done.get(v, v) for v in node.inputs])
            if node.outputs[0] in self.late:  # its place in the order is all there is to it
                done[node.outputs[0]] = inputs[0]
                continue
            copy = make_node(node.op, inputs, node.attrs, [v.type for v in node.outputs], node.line)
            done.update(zip(node.outputs, copy.outputs, strict=True))
        return Graph(self.graph.inputs, [done.get(v, v) for v in self.graph.outputs])

    def in_order(self) -> list[Group]:
        """The groups in recorded order as far as dependencies allow."""
        order: dict[Group, None] = {}
        for group in sorted((g for g in self.groups if g.nodes), key=_last_recorded):
            needed = [g for g in self.groups if group.before >> g.number & 1 and g not in order]
            for other in sorted(needed, key=lambda g: g.before.bit_count()):
                order[other] = None
            order[group] = None
        return list(order)

    def stored(self) -> set[Value]:
        """The members' values that somebody outside their group reads."""
        stored = {v for v in self.must_store if v.node in self.group_of}
        for group in self.groups:
            for node in group.nodes:
                for access in self.member_reads(node, group):
                    if self.group_of.get(access.value.node) is not group:
                        stored.add(access.value)
        return stored

    def frugal(self, order: list[Group], outputs: dict[Group, list[Value]]) -> list[Group]:
        """The order, but what lets go of much memory comes as soon as it can."""
        kept = self.inputs | {self.owner(v) for v in self.graph.outputs}
        reads: dict[Group, set[Value]] = {}
        writes: dict[Group, set[Value]] = {}
        for group in order:
            alone = group.form == "alone"
            read = group.nodes[0].inputs if alone else self.region_parts(group, outputs[group])[0]
            reads[group] = {self.owner(v) for v in read} - kept
            writes[group] = {v for v in outputs[group] if self.owner(v) is v} - kept
        return without_waiting(order, reads, writes)

    def owner(self, value: Value) -> Value:
        """The value whose memory this one is a name for."""
        while value not in self.inputs and is_alias(value.node):
            value = value.node.inputs[0]
        return value

    def emit(
        self, group: Group, written: Mapping[Group, list[Value]], done: dict[Value, Value]
    ) -> None:
        outputs = written[group]
        for value in outputs:
            if not group.stores(value):
                raise CompileError(f"{value} is computed at {group.at[value]}: a wrong fusion")
        inputs, nodes, first = self.region_parts(group, outputs)
        # What it waits for is an input that nothing in it reads.
        inputs += [v for g in first for v in written[g][:1] if v not in inputs]
        body = Graph(inputs, self.without_late(nodes, outputs))
        attrs = {"body": body, "form": group.form, "shape": group.shape, "folded": group.folded}
        outer = tuple(done.get(v, v) for v in inputs)
        made = make_node(REGION, outer, attrs, [v.type for v in outputs], group.nodes[-1].line)
        done.update(zip(outputs, made.outputs, strict=True))

    def without_late(self, nodes: Iterable[Node], outputs: Sequence[Value]) -> list[Value]:
        """The outputs, where the nodes read what late values are."""
        done = dict(self.late)
        for node in sorted(nodes, key=lambda n: n.sequence):
            if node.outputs[0] not in self.late:
                made = with_inputs(node, tuple([done.get(v, v) for v in node.inputs]))
                done.update(zip(node.outputs, made.outputs, strict=True))
        return [done[v] for v in outputs]

    def region_parts(
        self, group: Group, outputs: Sequence[Value]
    ) -> tuple[list[Value], set[Node], list[Group]]:
        """What the group reads from memory, in order of first use; the nodes it computes; and the
        groups that it only waits for.
        """
        found: dict[Value, None] = {}
        seen: set[Node] = set()
        first: dict[Group, None] = {}
        stack = [v.node for v in reversed(outputs)]
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            late = node.outputs[0] in self.late
            if late:
                first.update(dict.fromkeys(self.groups_behind(node.inputs[1:], group)))
            for value in node.inputs[:1] if late else node.inputs:
                inside = value not in self.inputs and (
                    self.group_of.get(value.node) is group or inlined(value)
                )
                if inside:
                    stack.append(value.node)
                else:
                    found.setdefault(value)
        return list(found), seen, list(first)

    def groups_behind(self, values: Iterable[Value], group: Group) -> list[Group]:
        """The groups that values come from and a group depends on."""
        found: dict[Group, None] = {}
        seen: set[Value] = set(self.inputs)
        stack = list(values)
        while stack:
            value = stack.pop()
            if value in seen:
                continue
            seen.add(value)
            source = self.group_of.get(value.node)
            if source is not None and group.before >> source.number & 1:
                found[source] = None
            else:
                stack.extend(value.node.inputs)
        return list(found)


def _last_recorded(group: Group) -> int:
    return group.nodes[-1].sequence
