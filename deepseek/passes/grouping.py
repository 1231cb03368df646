"""Groups of nodes: who is in which, what depends on what, who reads what where.

The bookkeeping under `fuse`, which makes the decisions. A group's `before` is the set of groups it
depends on, directly or not, as bits. Where a group that others depend on comes to depend on few
more, they are not all told: it is noted who `gained` them, and whoever asks looks there too. Bits
of groups that were united with others stay where they are, since nobody asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from deepseek.errors import CompileError
from deepseek.ir.access import (
    Access,
    Behind,
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
    parents: set[Group] = field(default_factory=set)  # those it depends on directly
    children: set[Group] = field(default_factory=set)
    united_with: Group | None = None  # where its members went

    @cached_property
    def domain(self) -> Index:
        return axes_of(self.shape)

    @property
    def bit(self) -> int:
        return 1 << self.number

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


FEW = 8  # groups that are not worth telling all dependents of


class Parts(NamedTuple):
    """What a group reads from memory, in order of first use; what of it is kept in memory; the
    nodes it computes; and the groups that it only waits for.
    """

    inputs: list[Value]
    outputs: list[Value]
    nodes: set[Node]
    first: list[Group]


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
        self._behind: dict[Node, set[Group]] = {}
        self.gained: dict[int, list[Group]] = {}  # by a group's number: who depends on it since
        self._behind_values: Behind = {}
        self.shared: dict[Value, Group] = {}  # values of one element: who computes them for others
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

    def sources(self, node: Node) -> set[Group]:
        """The groups that a node's inputs come from, perhaps through what is recomputed."""
        found: set[Group] = set()
        for value in node.inputs:
            if value in self.inputs:
                continue
            group = self.group_of.get(value.node)
            if group is None:
                found.update(map(live, self._behind[value.node]))
            else:
                found.add(group)
        return found

    def pass_by(self, node: Node) -> None:
        """Let a node be in no group: whoever reads it recomputes it."""
        self._behind[node] = self.sources(node)

    def reads(self, node: Node, index: Index) -> list[Access]:
        """What a node computed at `index` reads of other nodes, from memory or from its group."""
        key = node, index
        if key not in self._reads:
            found = self.memory_reads(node, index)
            self._reads[key] = [a for a in found if a.value not in self.inputs]
        return self._reads[key]

    def memory_reads(self, node: Node, index: Index) -> list[Access]:
        if node.op.kind.pointwise:
            return accesses(node, index, behind=self._behind_values)
        return [a for value in node.inputs for a in self.read_at(value, axes_of(value.type.shape))]

    def read_at(self, value: Value, index: Index) -> list[Access]:
        return read_at(value, index, self._behind_values)

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

    def later(self, sources: Iterable[Group], group: Group) -> bool:
        """Whether one of these groups comes after the group."""
        return any(g is not group and self.needs(g, group) for g in sources)

    def needs(self, group: Group, other: Group) -> bool:
        """Whether a group depends on the other, directly or not."""
        waiting, seen = [other], {other}
        while waiting:
            reached = waiting.pop()
            if group.before >> reached.number & 1:
                return True
            for gainer in map(live, self.gained.get(reached.number, ())):
                if gainer not in seen:
                    seen.add(gainer)
                    waiting.append(gainer)
        return False

    def add(self, node: Node, group: Group, index: Index, sources: Iterable[Group]) -> None:
        """Make a node a member of a group, which then depends on these too."""
        group.nodes.append(node)
        self.group_of[node] = group
        for value in node.outputs:
            group.at[value] = index
        for source in sources:
            if source is not group:
                group.parents.add(source)
                source.children.add(group)
                self.depend(group, source.before | source.bit)

    def depend(self, group: Group, bits: int) -> None:
        """Let the group, and all that depend on it, depend on more."""
        extra = bits & ~group.before
        group.before |= extra
        if extra and group.children and extra.bit_count() <= FEW:
            for number in positions(extra):
                self.gained.setdefault(number, []).append(group)
            return
        waiting = list(group.children) if extra else []
        while waiting:
            reached = waiting.pop()
            if extra & ~reached.before:
                reached.before |= extra
                waiting += reached.children

    def unite(self, source: Group, target: Group) -> None:
        """Move source's members to target: everything that depended on source depends on it."""
        for member in source.nodes:
            self.group_of[member] = target
        target.nodes = sorted(source.nodes + target.nodes, key=lambda n: n.sequence)
        target.at.update(source.at)
        source.united_with = target
        self.gained.setdefault(target.number, []).extend(self.gained.pop(source.number, ()))
        for parent in source.parents:
            parent.children.discard(source)
            if parent is not target:
                parent.children.add(target)
                target.parents.add(parent)
        for child in source.children:
            child.parents.discard(source)
            if child is not target:
                child.parents.add(target)
                target.children.add(child)
        self.depend(target, source.before)
        for child in target.children:
            self.depend(child, target.before | target.bit)
        source.nodes = []
        source.parents, source.children = set(), set()

    # ------------------------------------------------------------------------ values of one element

    def share(self, value: Value) -> None:
        """Let a value of one element be computed once for all groups whose loops read it, if there
        are several.
        """
        sources = self.sources(value.node)
        readers = self.looping_readers(value) - sources  # which have at hand what it is made of
        if len(readers) < 2 or value.node in self.group_of:
            return
        group = self.scalar_group(value, sources)
        self.add(value.node, group, axes_of(value.type.shape), sources)
        self.shared[value] = group
        for reader in readers:
            reader.parents.add(group)

    def scalar_group(self, value: Value, sources: set[Group]) -> Group:
        """A group that computes a value of one element: with what it reads, with others that read
        the same, or a new one.
        """
        shape = value.type.shape
        for group in sorted(sources, key=lambda g: g.number):
            alike = group.form == "pointwise" and group.shape == shape
            if alike and not self.later(sources, group):
                return group
        for group in self.shared.values():
            if group.parents == sources and group.shape == shape:
                return group
        group = Group(len(self.groups), "pointwise", shape)
        self.groups.append(group)
        return group

    def looping_readers(self, value: Value) -> set[Group]:
        """The groups that read a value, perhaps through views, to compute more than one element."""
        found: set[Group] = set()
        stack = list(self.uses.get(value, ()))
        while stack:
            node = stack.pop()
            group = self.group_of.get(node)
            if group is not None:
                found.add(group)
            elif node.op.kind is Kind.VIEW:
                stack.extend(self.uses.get(node.outputs[0], ()))
        return found

    def recomputed(self, value: Value, group: Group) -> bool:
        """Whether a group computes again what is nobody else's to keep in memory."""
        shared = self.shared.get(value)
        held = shared is not None and group.before >> shared.number & 1
        return inlined(value) and not held

    # ------------------------------------------------------------------------------- the result

    def with_regions(self) -> Graph:
        """The graph with one REGION node per group."""
        self.close()
        stored = self.stored()
        parts = {g: self.parts(g, stored) for g in self.groups if g.nodes}
        done: dict[Value, Value] = {}
        for group in self.frugal(self.in_order(), parts):
            if group.form != "alone":
                self.emit(group, parts, done)
                continue
            node = group.nodes[0]
            inputs = tuple([done.get(v, v) for v in node.inputs])
            if node.outputs[0] in self.late:  # its place in the order is all there is to it
                done[node.outputs[0]] = inputs[0]
                continue
            copy = make_node(node.op, inputs, node.attrs, [v.type for v in node.outputs], node.line)
            done.update(zip(node.outputs, copy.outputs, strict=True))
        return Graph(self.graph.inputs, [done.get(v, v) for v in self.graph.outputs])

    def close(self) -> None:
        """Let `before` say all, by asking those that a group directly depends on."""
        closed: set[Group] = set()
        for group in self.groups:
            waiting = [group]
            while waiting:
                last = waiting[-1]
                missing = last.parents - closed
                waiting += missing
                if last in closed:
                    waiting.pop()
                elif not missing:
                    closed.add(last)
                    waiting.pop()
                    last.before = 0
                    for parent in last.parents:
                        last.before |= parent.before | parent.bit

    def in_order(self) -> list[Group]:
        """The groups in recorded order as far as dependencies allow."""
        order: list[Group] = []
        missing = sum(g.bit for g in self.groups if g.nodes)
        for group in sorted((g for g in self.groups if g.nodes), key=_last_recorded):
            if not missing & group.bit:
                continue
            needed = [self.groups[i] for i in positions(group.before & missing)]
            needed.sort(key=lambda g: g.before.bit_count())
            order += (*needed, group)
            missing &= ~(group.before | group.bit)
        return order

    def stored(self) -> set[Value]:
        """The members' values that somebody outside their group reads."""
        stored = {v for v in self.must_store if v.node in self.group_of} | self.shared.keys()
        for group in self.groups:
            for node in group.nodes:
                for access in self.member_reads(node, group):
                    if self.group_of.get(access.value.node) is not group:
                        stored.add(access.value)
        return stored

    def parts(self, group: Group, stored: set[Value]) -> Parts:
        """What a group reads from memory, writes, computes and waits for."""
        values = [v for n in group.nodes for v in n.outputs]
        if group.form == "alone":
            return Parts(list(group.nodes[0].inputs), values, {group.nodes[0]}, [])
        outputs = [v for v in values if v in stored]
        inputs, nodes, first = self.region_parts(group, outputs)
        return Parts(inputs, outputs, nodes, first)

    def frugal(self, order: list[Group], parts: Mapping[Group, Parts]) -> list[Group]:
        """The order, but what lets go of much memory comes as soon as it can."""
        owners: dict[Value, Value] = {}
        for node in self.graph.nodes:
            if is_alias(node):
                source = node.inputs[0]
                owners[node.outputs[0]] = owners.get(source, source)
        kept = self.inputs | {owners.get(v, v) for v in self.graph.outputs}
        reads = {g: {owners.get(v, v) for v in parts[g].inputs} - kept for g in order}
        writes = {g: {v for v in parts[g].outputs if v not in owners} - kept for g in order}
        return without_waiting(order, reads, writes)

    def emit(
        self, group: Group, parts: Mapping[Group, Parts], done: dict[Value, Value]
    ) -> None:
        inputs, outputs, nodes, first = parts[group]
        for value in outputs:
            if not group.stores(value):
                raise CompileError(f"{value} is computed at {group.at[value]}: a wrong fusion")
        # What it waits for is an input that nothing in it reads.
        inputs += [v for g in first for v in parts[g].outputs[:1] if v not in inputs]
        if self.late:
            body = Graph(inputs, self.without_late(nodes, outputs))
        else:
            body = Graph(inputs, outputs, tuple(sorted(nodes, key=lambda n: n.sequence)))
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
                    self.group_of.get(value.node) is group or self.recomputed(value, group)
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


def live(group: Group) -> Group:
    """The group that a group's members are in by now."""
    while group.united_with is not None:
        group = group.united_with
    return group


def positions(bits: int) -> Iterator[int]:
    """The places of the bits that are set, lowest first."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def _last_recorded(group: Group) -> int:
    return group.nodes[-1].sequence
