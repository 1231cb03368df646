"""Fuse: group nodes so that each group becomes one kernel.

Nodes are visited in order and join the group of a producer when both can share its loops, which is
decided by index maps alone: a value inside a group may only be read at the very index where it is
computed. A group has a domain (the loops) and a form:

    pointwise   every node has one value per domain index
    reduce      folds some axes of the domain; what follows has the domain's or the kept axes' shape
    prefix      like reduce, with a value per domain index
    contract    one contraction, then pointwise nodes on its output
    scatter     one scatter

Values of one element, views and created values belong to no group: whoever reads them recomputes
them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from deepseek.ir import scalar
from deepseek.ir.access import (
    Access,
    Index,
    accesses,
    axes_of,
    inlined,
    is_alias,
    read_at,
    row_index,
    row_position,
)
from deepseek.ir.graph import Graph, Node, Value, make_node
from deepseek.ir.op import Kind, Op, internal
from deepseek.ir.shape import Shape, TensorType, exprs, numel

FORMS = {
    Kind.REDUCE: "reduce",
    Kind.PREFIX: "prefix",
    Kind.CONTRACT: "contract",
    Kind.SCATTER: "scatter",
}

REPEATED_WORK = 8  # instructions per element that may be spent again to save a trip to memory


def _region_types(*_: TensorType, body: Graph, **__: object) -> tuple[TensorType, ...]:
    return tuple(v.type for v in body.outputs)


REGION = internal(
    Op("region", Kind.REGION, _region_types, doc="Nodes that one kernel computes.")
)


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


class Fuser:
    """One graph's grouping."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.groups: list[Group] = []
        self.group_of: dict[Node, Group] = {}
        self.inputs = set(graph.inputs)
        self.uses = graph.uses()
        self.must_store = self._values_needed_in_memory()

    def _values_needed_in_memory(self) -> set[Value]:
        needed = set(self.graph.outputs)
        for node in self.graph.nodes:
            if not node.op.kind.pointwise and node.op.kind not in FORMS:
                needed.update(node.inputs)
        for node in reversed(self.graph.nodes):
            if any(v in needed for v in node.outputs) and is_alias(node):
                needed.update(node.inputs)
        return needed - self.inputs

    # ------------------------------------------------------------------------------- grouping

    def run(self) -> Graph:
        for node in self.graph.nodes:
            if not self._vanishes(node):
                self._assign(node)
        for node in reversed(self.graph.nodes):
            self._sink(node)
        self._join_siblings()
        return self._rebuild()

    def _vanishes(self, node: Node) -> bool:
        """Whether only regions read it, and recompute it."""
        if not node.op.kind.pointwise:
            return False
        return inlined(node.outputs[0]) and node.outputs[0] not in self.must_store

    def _depends(self, node: Node) -> int:
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

    def _reads(self, node: Node, index: Index) -> list[Access]:
        """The values of other nodes that a node reads from memory or a group when computed at
        `index`.
        """
        return [a for a in self._memory_reads(node, index) if a.value not in self.inputs]

    def _memory_reads(self, node: Node, index: Index) -> list[Access]:
        if node.op.kind.pointwise:
            return accesses(node, index)
        return [a for value in node.inputs for a in read_at(value, axes_of(value.type.shape))]

    def _assign(self, node: Node) -> None:
        bits = self._depends(node)
        reads = self._reads(node, axes_of(node.outputs[0].type.shape))
        producers = {self.group_of[a.value.node] for a in reads if a.value.node in self.group_of}
        candidates = sorted(producers, key=lambda g: -g.number)
        target = self._group_to_join(node, candidates, bits)
        if target is None:
            target = self._new_group(node, bits)
        for other in candidates:
            if other is not target:
                self._merge(other, target)

    def _group_to_join(self, node: Node, candidates: list[Group], bits: int) -> Group | None:
        if node.op.kind.pointwise and is_alias(node):
            return None  # another name for the same memory
        for group in candidates:
            if node.op.kind.pointwise and self._join(node, group, bits):
                return group
            if node.op.kind in (Kind.REDUCE, Kind.PREFIX) and self._fold_into(node, group, bits):
                return group
        return None

    def _new_group(self, node: Node, bits: int) -> Group:
        alone = not node.op.kind.pointwise or is_alias(node)
        form = FORMS.get(node.op.kind, "alone" if alone else "pointwise")
        shape = node.outputs[0].type.shape
        folded: tuple[int, ...] = ()
        if form in ("reduce", "prefix"):
            shape = node.inputs[0].type.shape
            folded = folded_axes(node)
        group = Group(len(self.groups), form, shape, folded, before=bits)
        self.groups.append(group)
        self._add(node, group, self._own_place(node, group))
        return group

    def _own_place(self, node: Node, group: Group) -> Index:
        if node.op.kind is Kind.REDUCE:
            return row_index(group.domain, group.folded)
        return group.domain

    def _add(self, node: Node, group: Group, index: Index) -> None:
        group.nodes.append(node)
        self.group_of[node] = group
        for value in node.outputs:
            group.at[value] = index

    def _join(self, node: Node, group: Group, bits: int) -> bool:
        """Add a pointwise node to a producer's group if all it reads there is computed at that
        index.
        """
        if group.form in ("scatter", "alone") or self._later(bits, group):
            return False
        for place in group.place(node.outputs[0].type):
            if self._legal(node, group, place):
                self._depend(group, bits)
                self._add(node, group, place)
                return True
        return False

    def _legal(self, node: Node, group: Group, place: Index) -> bool:
        for access in self._reads(node, place):
            if (
                self.group_of.get(access.value.node) is group
                and access.index != group.at[access.value]
            ):
                return False
        return True

    def _fold_into(self, node: Node, group: Group, bits: int) -> bool:
        """Add a reduction over the group's own domain."""
        source = node.inputs[0]
        axes = folded_axes(node)
        form = FORMS[node.op.kind]
        if exprs(source.type.shape) != exprs(group.shape) or self._later(bits, group):
            return False
        if group.form == form:
            if group.folded != axes or form == "prefix":
                return False
        elif group.form != "pointwise" or not self._worth_folding(group, axes):
            return False
        for access in read_at(source, group.domain):
            if (
                self.group_of.get(access.value.node) is group
                and access.index != group.at[access.value]
            ):
                return False
        group.form, group.folded = form, axes
        self._depend(group, bits)
        self._add(node, group, self._own_place(node, group))
        return True

    def _worth_folding(self, group: Group, axes: tuple[int, ...]) -> bool:
        """Whether a fold in the group's loops leaves enough rows to run in parallel."""
        total = scalar.bounds(scalar.product(group.shape))[1]
        rows = scalar.bounds(scalar.product(s for i, s in enumerate(group.shape) if i not in axes))[
            1
        ]
        return total is None or rows is None or total <= 1 << 16 or rows >= 8

    def _later(self, bits: int, group: Group) -> bool:
        """Whether something these bits depend on comes after the group."""
        for other in self.groups:
            if other is not group and bits >> other.number & 1 and other.before >> group.number & 1:
                return True
        return False

    def _depend(self, group: Group, bits: int) -> None:
        """Let the group, and all that depend on it, depend on more."""
        extra = bits & ~(1 << group.number)
        if extra & ~group.before:
            group.before |= extra
            for other in self.groups:
                if other.before >> group.number & 1:
                    other.before |= extra

    def _merge(self, source: Group, target: Group) -> None:
        """Move a pointwise producer group into its consumer's, where its loops fit."""
        if source.form != "pointwise" or target.form not in ("pointwise", "reduce", "prefix"):
            return
        if self._between(source, target):
            return
        moved = self._moved_places(source, target)
        if moved is None:
            return
        source.at = moved
        self._unite(source, target)

    def _between(self, source: Group, target: Group) -> bool:
        """Whether a third group lies on a path from source to target."""
        for other in self.groups:
            if other is source or other is target:
                continue
            if target.before >> other.number & 1 and other.before >> source.number & 1:
                return True
        return False

    def _moved_places(self, source: Group, target: Group) -> dict[Value, Index] | None:
        """Where source's members would be computed in target's domain, or None if they do not fit.

        Either nothing moves (same domain), or everything that reads source is in target and reads
        it at one index, and no element is computed twice.
        """
        reads: set[Index] = set()
        in_place = exprs(source.shape) == exprs(target.shape)
        for node in target.nodes:
            for access in self._member_reads(node, target):
                if self.group_of.get(access.value.node) is source:
                    reads.add(access.index)
                    in_place &= access.index == source.at[access.value]
                    if source.at[access.value] != source.domain:
                        return None
        if in_place:
            return dict(source.at)
        if len(reads) != 1 or self._seen_outside(source, target):
            return None
        index = reads.pop()
        if len(index) != len(source.domain):
            return None
        if not self._cheap_to_repeat(source, target):
            return None
        if any(
            v.fn == "var" and v.name.startswith("?") for x in index for v in scalar.variables(x)
        ):
            return None
        moves = {v: x for v, x in zip(source.domain, index, strict=True) if v.fn == "var"}
        return {
            value: tuple(scalar.substitute(x, moves) for x in at) for value, at in source.at.items()
        }

    def _cheap_to_repeat(self, source: Group, target: Group) -> bool:
        """Whether computing source's elements as often as target has elements costs little more."""
        count, produced = scalar.product(target.shape), scalar.product(source.shape)
        if scalar.is_nonnegative(scalar.sub(produced, count)):
            return True
        if count.fn != "const" or produced.fn != "const" or not produced.attr:
            return False
        repeats = count.attr / produced.attr - 1
        return repeats * sum(weight(n) for n in source.nodes) <= REPEATED_WORK

    def _member_reads(self, node: Node, group: Group) -> list[Access]:
        return self._reads(node, group.at[node.outputs[0]])

    def _seen_outside(self, source: Group, target: Group) -> bool:
        """Whether a value of source is needed by anything but source and target."""
        stack = [v for n in source.nodes for v in n.outputs]
        while stack:
            value = stack.pop()
            if value in self.must_store:
                return True
            for user in self.uses.get(value, ()):
                group = self.group_of.get(user)
                if group is source or group is target:
                    continue
                if group is not None or not self._vanishes(user):
                    return True
                stack.extend(user.outputs)
        return False

    def _forget(self, source: Group, target: Group) -> None:
        """Everything that depended on source depends on target."""
        old, new = 1 << source.number, 1 << target.number
        target.before &= ~old
        for other in self.groups:
            if other is not target and other.before & old:
                other.before = other.before & ~old | new | target.before
        source.nodes = []
        source.before = 0

    def _sink(self, node: Node) -> None:
        """Move a pointwise node that only one other group reads there, if its own group stores no
        more then.

        A node joins its producer's group before its consumers are known; where these are
        elsewhere, it is better computed by them from what it read.
        """
        group = self.group_of.get(node)
        if (
            group is None
            or not node.op.kind.pointwise
            or group.form == "alone"
            or len(group.nodes) < 2
        ):
            return
        value = node.outputs[0]
        if value in self.must_store or self._read_by(group, value):
            return
        readers = [g for g in self.groups if g is not group and self._read_by(g, value)]
        if len(readers) != 1 or readers[0].form not in ("pointwise", "reduce", "prefix"):
            return
        target = readers[0]
        places = self._read_by(target, value)
        if len(places) != 1 or not any(p in places for p in target.place(value.type)):
            return
        kept = {
            a.value
            for a in self._reads(node, group.at[value])
            if self.group_of.get(a.value.node) is group
        }
        if len(kept) > 1 or any(v.type.dtype.itemsize > value.type.dtype.itemsize for v in kept):
            return
        group.nodes.remove(node)
        del group.at[value]
        target.nodes = sorted([*target.nodes, node], key=lambda n: n.sequence)
        target.at[value] = places.pop()
        self.group_of[node] = target

    def _join_siblings(self) -> None:
        """Let reductions over the same axes of one domain share its loops where they read the same
        memory.
        """
        by_domain: dict[object, list[Group]] = {}
        for group in self.groups:
            if group.nodes and group.form == "reduce":
                by_domain.setdefault((exprs(group.shape), group.folded), []).append(group)
        for groups in by_domain.values():
            for i, first in enumerate(groups):
                for second in groups[i + 1 :]:
                    if first.nodes and second.nodes and self._are_siblings(first, second):
                        self._unite(first, second)

    def _are_siblings(self, a: Group, b: Group) -> bool:
        if a.before >> b.number & 1 or b.before >> a.number & 1:
            return False
        count = numel(a.shape)
        seen = [
            {
                x.value
                for n in g.nodes
                for x in self._memory_reads(n, g.at[n.outputs[0]])
                if x.value.type.numel == count
            }
            for g in (a, b)
        ]
        return bool(seen[0] & seen[1])

    def _unite(self, source: Group, target: Group) -> None:
        for member in source.nodes:
            self.group_of[member] = target
        target.nodes = sorted(source.nodes + target.nodes, key=lambda n: n.sequence)
        target.at.update(source.at)
        self._depend(target, source.before)
        self._forget(source, target)

    def _read_by(self, group: Group, value: Value) -> set[Index]:
        """The indices at which members of a group read a value."""
        return {
            access.index
            for node in group.nodes
            for access in self._member_reads(node, group)
            if access.value is value
        }

    # ------------------------------------------------------------------------------ rebuilding

    def _rebuild(self) -> Graph:
        """The graph with one REGION node per group."""
        stored = self._stored()
        done: dict[Value, Value] = {}
        for group in self._in_order():
            if group.form != "alone":
                self._emit(group, stored, done)
                continue
            node = group.nodes[0]
            inputs = tuple([done.get(v, v) for v in node.inputs])
            copy = make_node(node.op, inputs, node.attrs, [v.type for v in node.outputs], node.line)
            done.update(zip(node.outputs, copy.outputs, strict=True))
        return Graph(self.graph.inputs, [done.get(v, v) for v in self.graph.outputs])

    def _in_order(self) -> list[Group]:
        """The groups in recorded order as far as dependencies allow."""
        order: dict[Group, None] = {}
        for group in sorted((g for g in self.groups if g.nodes), key=_last_recorded):
            needed = [g for g in self.groups if group.before >> g.number & 1 and g not in order]
            for other in sorted(needed, key=lambda g: g.before.bit_count()):
                order[other] = None
            order[group] = None
        return list(order)

    def _stored(self) -> set[Value]:
        """The members' values that somebody outside their group reads."""
        stored = {v for v in self.must_store if v.node in self.group_of}
        for group in self.groups:
            for node in group.nodes:
                for access in self._member_reads(node, group):
                    if self.group_of.get(access.value.node) is not group:
                        stored.add(access.value)
        return stored

    def _emit(self, group: Group, stored: set[Value], done: dict[Value, Value]) -> None:
        outputs = [v for n in group.nodes for v in n.outputs if v in stored]
        inputs = self._region_inputs(group, outputs)
        body = Graph(inputs, outputs)
        attrs = {"body": body, "form": group.form, "shape": group.shape, "folded": group.folded}
        outer = tuple(done.get(v, v) for v in inputs)
        made = make_node(REGION, outer, attrs, [v.type for v in outputs], group.nodes[-1].line)
        done.update(zip(outputs, made.outputs, strict=True))

    def _region_inputs(self, group: Group, outputs: list[Value]) -> list[Value]:
        """What the group reads from memory, in order of first use."""
        found: dict[Value, None] = {}
        seen: set[Node] = set()
        stack = [v.node for v in reversed(outputs)]
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            for value in node.inputs:
                inside = value not in self.inputs and (
                    self.group_of.get(value.node) is group or inlined(value)
                )
                if inside:
                    stack.append(value.node)
                else:
                    found.setdefault(value)
        return sorted(found, key=lambda v: (v.node.sequence, v.index))


def _last_recorded(group: Group) -> int:
    return group.nodes[-1].sequence


HEAVY = {"div": 4, "sqrt": 4, "floordiv": 4, "mod": 4, "pow": 20} | dict.fromkeys(
    ("exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "atan", "erf"), 10
)


def weight(node: Node) -> int:
    """About how many instructions one element of a pointwise node takes."""
    if node.op.kind is not Kind.ELEMENTWISE:
        return REPEATED_WORK
    assert node.op.meaning is not None
    operands = [scalar.var(f"x{i}", v.type.dtype) for i, v in enumerate(node.inputs)]
    parts = scalar.walk([node.op.meaning(*operands, **node.attrs)])
    return sum(HEAVY.get(e.fn, 1) for e in parts if e.args)


def folded_axes(node: Node) -> tuple[int, ...]:
    """The axes a REDUCE or PREFIX node folds."""
    axes = node.attrs["axes"] if node.op.kind is Kind.REDUCE else (node.attrs["axis"],)
    return tuple(axes)


def fuse(graph: Graph) -> Graph:
    """Group the nodes of a graph of primitives into regions."""
    return Fuser(graph).run()
