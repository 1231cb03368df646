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
them, unless several groups read a value of one element that takes long to compute.
"""

from __future__ import annotations

from deepseek.ir import scalar
from deepseek.ir.access import Index, axes_of, inlined, is_alias, row_index
from deepseek.ir.graph import Graph, Node, Value
from deepseek.ir.op import Kind
from deepseek.ir.shape import exprs, numel
from deepseek.passes.cost import REPEATED_WORK, costly_scalars, weight
from deepseek.passes.grouping import FORMS, Group, Grouping, live


def fuse(graph: Graph) -> Graph:
    """Group the nodes of a graph of primitives into regions."""
    return Fuser(graph).run()


class Fuser(Grouping):
    """Decides who shares loops with whom."""

    def run(self) -> Graph:
        for node in self.graph.nodes:
            if self.vanishes(node):
                self.pass_by(node)
            else:
                self._assign(node)
        for node in reversed(self.graph.nodes):
            self._sink(node)
        self._join_siblings()
        for value in costly_scalars(self.graph):
            self.share(value)
        return self.with_regions()

    def _assign(self, node: Node) -> None:
        sources = self.sources(node)
        reads = self.reads(node, axes_of(node.outputs[0].type.shape))
        producers = {self.group_of[a.value.node] for a in reads if a.value.node in self.group_of}
        candidates = sorted(producers, key=lambda g: -g.number)
        target = self._group_to_join(node, candidates, sources)
        if target is None:
            target = self._new_group(node, sources)
        for other in candidates:
            if other is not target:
                self._merge(other, target)

    def _group_to_join(
        self, node: Node, candidates: list[Group], sources: set[Group]
    ) -> Group | None:
        if node.op.kind.pointwise and is_alias(node):
            return None  # another name for the same memory
        for group in candidates:
            if node.op.kind.pointwise and self._join(node, group, sources):
                return group
            if node.op.kind in (Kind.REDUCE, Kind.PREFIX) and self._fold_into(node, group, sources):
                return group
        return None

    def _new_group(self, node: Node, sources: set[Group]) -> Group:
        alone = not node.op.kind.pointwise or is_alias(node)
        form = FORMS.get(node.op.kind, "alone" if alone else "pointwise")
        shape = node.outputs[0].type.shape
        folded: tuple[int, ...] = ()
        if form in ("reduce", "prefix"):
            shape = node.inputs[0].type.shape
            folded = folded_axes(node)
        group = Group(len(self.groups), form, shape, folded)
        self.groups.append(group)
        self.add(node, group, self._own_place(node, group), sources)
        return group

    def _own_place(self, node: Node, group: Group) -> Index:
        if node.op.kind is Kind.REDUCE:
            return row_index(group.domain, group.folded)
        return group.domain

    def _join(self, node: Node, group: Group, sources: set[Group]) -> bool:
        """Add a pointwise node to a producer's group if all it reads there is computed at that
        index.
        """
        if group.form in ("scatter", "alone") or self.later(sources, group):
            return False
        for place in group.place(node.outputs[0].type):
            if self._legal(node, group, place):
                self.add(node, group, place, sources)
                return True
        return False

    def _legal(self, node: Node, group: Group, place: Index) -> bool:
        for access in self.reads(node, place):
            if (
                self.group_of.get(access.value.node) is group
                and access.index != group.at[access.value]
            ):
                return False
        return True

    def _fold_into(self, node: Node, group: Group, sources: set[Group]) -> bool:
        """Add a reduction over the group's own domain."""
        source = node.inputs[0]
        axes = folded_axes(node)
        form = FORMS[node.op.kind]
        if exprs(source.type.shape) != exprs(group.shape) or self.later(sources, group):
            return False
        if group.form == form:
            if group.folded != axes or form == "prefix":
                return False
        elif group.form != "pointwise" or not self._worth_folding(group, axes):
            return False
        for access in self.read_at(source, group.domain):
            if (
                self.group_of.get(access.value.node) is group
                and access.index != group.at[access.value]
            ):
                return False
        group.form, group.folded = form, axes
        self.add(node, group, self._own_place(node, group), sources)
        return True

    def _worth_folding(self, group: Group, axes: tuple[int, ...]) -> bool:
        """Whether a fold in the group's loops leaves enough rows to run in parallel."""
        total = scalar.bounds(scalar.product(group.shape))[1]
        rows = scalar.bounds(scalar.product(s for i, s in enumerate(group.shape) if i not in axes))[
            1
        ]
        return total is None or rows is None or total <= 1 << 16 or rows >= 8

    def _merge(self, source: Group, target: Group) -> None:
        """Move a pointwise producer group into its consumer's, where its loops fit."""
        if source.form != "pointwise" or target.form in ("scatter", "alone"):
            return
        if self.later(target.parents, source):
            return  # a third group lies on a path from source to target
        moved = self._moved_places(source, target)
        if moved is None:
            return
        if target.form == "contract" and (moved != source.at or self._seen_outside(source, target)):
            return
        source.at = moved
        self.unite(source, target)

    def _moved_places(self, source: Group, target: Group) -> dict[Value, Index] | None:
        """Where source's members would be computed in target's domain, or None if they do not fit.

        Either nothing moves (same domain), or everything that reads source is in target and reads
        it at one index, and no element is computed twice.
        """
        reads: set[Index] = set()
        in_place = exprs(source.shape) == exprs(target.shape)
        for node in target.nodes:
            for access in self.member_reads(node, target):
                if self.group_of.get(access.value.node) is source:
                    reads.add(access.index)
                    in_place &= access.index == source.at[access.value]
                    operand = node.op.kind is Kind.CONTRACT  # which stays in memory
                    if operand or source.at[access.value] != source.domain:
                        return None
        if in_place:
            return dict(source.at)
        if len(reads) != 1 or self._seen_outside(source, target):
            return None
        index = reads.pop()
        if len(index) != len(source.domain):
            return None
        if not self._cheap_to_repeat(source, target, index):
            return None
        if any(
            v.fn == "var" and v.name.startswith("?") for x in index for v in scalar.variables(x)
        ):
            return None
        moves = {v: x for v, x in zip(source.domain, index, strict=True) if v.fn == "var"}
        return {
            value: tuple(scalar.substitute(x, moves) for x in at) for value, at in source.at.items()
        }

    def _cheap_to_repeat(self, source: Group, target: Group, index: Index) -> bool:
        """Whether computing source's elements as often as target reads them costs little more."""
        if index == row_index(target.domain, target.folded):
            return True  # once per row
        count, produced = scalar.product(target.shape), scalar.product(source.shape)
        if scalar.is_nonnegative(scalar.sub(produced, count)):
            return True
        if count.fn != "const" or produced.fn != "const" or not produced.attr:
            return False
        repeats: float = count.attr / produced.attr - 1
        return repeats * sum(map(weight, source.nodes)) <= REPEATED_WORK

    def _seen_outside(self, source: Group, target: Group) -> bool:
        """Whether a value of source is needed by anything but source and target.

        Views are looked through even where they are members of target: others recompute them.
        """
        stack = [v for n in source.nodes for v in n.outputs]
        if any(v in self.must_store for v in stack):
            return True
        seen: set[Node] = set()
        while stack:
            for user in self.uses.get(stack.pop(), ()):
                group = self.group_of.get(user)
                inside = group is source or group is target
                if not inside and (group is not None or not self.vanishes(user)):
                    return True
                seen_through = user.op.kind.pointwise and inlined(user.outputs[0])
                if seen_through and user not in seen:
                    seen.add(user)
                    stack.extend(user.outputs)
        return False

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
        if value in self.must_store:
            return
        readers = self.places_read(value)
        if group in readers or len(readers) != 1:
            return
        ((target, places),) = readers.items()
        if target.form not in ("pointwise", "reduce", "prefix") or len(places) != 1:
            return
        if not any(p in places for p in target.place(value.type)):
            return
        kept = {
            a.value
            for a in self.reads(node, group.at[value])
            if self.group_of.get(a.value.node) is group
        }
        if len(kept) > 1 or any(v.type.dtype.itemsize > value.type.dtype.itemsize for v in kept):
            return
        if not all(group.stores(v) for v in kept):
            return
        group.nodes.remove(node)
        del group.at[value]
        target.nodes = sorted([*target.nodes, node], key=lambda n: n.sequence)
        target.at[value] = places.pop()
        self.group_of[node] = target

    def _join_siblings(self) -> None:
        """Let reductions over the same axes of one domain share its loops where they read the same
        memory, or one reads what the other would have to write.
        """
        reduced = [g for g in self.groups if g.nodes and g.form == "reduce"]
        reads = {g: self._whole_reads(g) for g in reduced}
        readers: dict[object, list[Group]] = {}
        for group in reduced:
            for value in reads[group]:
                readers.setdefault((value, exprs(group.shape), group.folded), []).append(group)
        for group in reduced:
            loops = exprs(group.shape), group.folded
            others = {o for v in reads[group] for o in map(live, readers[(v, *loops)])}
            for other in sorted(others, key=lambda g: g.number):
                apart = not self.needs(group, other) and not self.needs(other, group)
                if other.number > group.number and apart:
                    self.unite(group, other)
                    reads[other] |= reads[group]
                    break
        for target in filter(lambda g: g.nodes, reduced):
            loops = exprs(target.shape), target.folded
            waiting = sorted(target.parents, key=lambda g: g.number)
            while waiting:
                source = waiting.pop()
                alike = source.form == "reduce" and (exprs(source.shape), source.folded) == loops
                if alike and self._feeds(source, target):
                    self.unite(source, target)
                    waiting = sorted(target.parents, key=lambda g: g.number)

    def _feeds(self, source: Group, target: Group) -> bool:
        """Whether target reads elements of source, each where it is computed."""
        if self.later(target.parents, source):
            return False
        elements = 0
        for node in target.nodes:
            for access in self.member_reads(node, target):
                if self.group_of.get(access.value.node) is source:
                    if access.index != source.at[access.value]:
                        return False
                    elements += exprs(access.value.type.shape) == exprs(source.shape)
        return elements > 0

    def _whole_reads(self, group: Group) -> set[Value]:
        """The values with an element for each place of the domain that a group reads."""
        count = numel(group.shape)
        return {
            access.value
            for node in group.nodes
            for access in self.memory_reads(node, group.at[node.outputs[0]])
            if access.value.type.numel == count
        }


def folded_axes(node: Node) -> tuple[int, ...]:
    """The axes a REDUCE or PREFIX node folds."""
    axes = node.attrs["axes"] if node.op.kind is Kind.REDUCE else (node.attrs["axis"],)
    return tuple(axes)
