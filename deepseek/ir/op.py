"""An op is one record: everything that is said about it, and exactly one meaning by kind.

The records are written in `deepseek/ops`; the rest of the compiler reads kinds, traits and types
and never names. `meaning` is a function whose form depends on the kind:

    ELEMENTWISE  (*scalars, **attrs) -> Expr
    CREATE       (index, out, **attrs) -> Expr                     index: one Expr per output axis
    VIEW, INDEX  (index, read, inputs, out, **attrs) -> Expr       input k: read(k, index, guard)
    RANDOM       (index, read, inputs, out, **attrs) -> Expr       the same
    REDUCE       (dtype, **attrs) -> Folding                       over attrs["axes"]
    PREFIX       (dtype, **attrs) -> Folding                       along attrs["axis"]
    CONTRACT     (inputs, out, **attrs) -> Contraction
    SCATTER      (index, read, inputs, out, **attrs) -> Scatter    index: one per axis of the update
    COMPOSITE    the op's own Python function (`expand`), on Tensors
    CONTROL      (**attrs) -> Branch | Repeat | Walk               how its body graphs are run
    ORDER        (inputs, outputs, **attrs) -> sizes               what the runtime's routine takes
    COLLECTIVE   (*inputs, **attrs) -> Message                     what the group's ranks do
    HOST         none: a Python function, run by the Program
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from deepseek.errors import unknown
from deepseek.ir.dtype import DType
from deepseek.ir.scalar import TRUE, Expr
from deepseek.ir.shape import TensorType

if TYPE_CHECKING:
    from _collections_abc import dict_items, dict_values


class Kind(Enum):
    """What an op is to the compiler."""

    LEAF = "leaf"  # inputs and constants
    ELEMENTWISE = "elementwise"
    CREATE = "create"
    REDUCE = "reduce"
    PREFIX = "prefix"
    VIEW = "view"
    INDEX = "index"
    SCATTER = "scatter"
    CONTRACT = "contract"
    COMPOSITE = "composite"
    RANDOM = "random"
    CONTROL = "control"
    ORDER = "order"
    HOST = "host"
    COLLECTIVE = "collective"
    REGION = "region"  # a group of nodes that the fuse pass made one kernel of

    pointwise: bool
    """Each output element is a scalar expression of its own index."""

    ordered: bool
    """Has an effect outside the graph, so its place among its like matters."""


_POINTWISE = (Kind.ELEMENTWISE, Kind.CREATE, Kind.VIEW, Kind.INDEX, Kind.RANDOM)
for _kind in Kind:  # set once, since passes ask for these more often than for anything else
    _kind.pointwise = _kind in _POINTWISE
    _kind.ordered = _kind in (Kind.HOST, Kind.COLLECTIVE)


class Folding(NamedTuple):
    """The carried values of a REDUCE or PREFIX op.

    `init` are the neutral values, `step(carries, element, position)` takes in one element (position
    is its int64 index along the folded axes), `merge(earlier, later)` joins two partial results,
    `finish(carries, count)` gives the outputs; count is the int64 number of elements.
    """

    init: tuple[Expr, ...]
    step: Callable[[tuple[Expr, ...], Expr, Expr], tuple[Expr, ...]]
    merge: Callable[[tuple[Expr, ...], tuple[Expr, ...]], tuple[Expr, ...]]
    finish: Callable[[tuple[Expr, ...], Expr], tuple[Expr, ...]]


@dataclass(frozen=True)
class Operand:
    """Where a contraction reads an operand: an index per axis; where the guard fails it is 0."""

    index: tuple[Expr, ...]
    guard: Expr = TRUE


class Contraction(NamedTuple):
    """out[o...] = sum over k... of left[...] * right[...].

    `axes` are the output's index variables in order, `folded` the summed ones with their extents.
    Both operands are indexed by expressions over all of them.
    """

    axes: tuple[Expr, ...]
    folded: tuple[Expr, ...]
    left: Operand
    right: Operand


class Scatter(NamedTuple):
    """An update element: where it goes in the output, whether it counts, and how it combines.

    `combine` is "set" or a function of two scalars, of the element there and the update.
    """

    target: tuple[Expr, ...]
    guard: Expr
    value: Expr
    combine: str = "add"


class Branch(NamedTuple):
    """Input 0 is a bool: it chooses the graph that runs on the other inputs."""

    then: Any
    otherwise: Any


class Repeat(NamedTuple):
    """`body` runs on constants (the first `consts` inputs) and state while `condition` holds."""

    condition: Any
    body: Any
    consts: int


class Walk(NamedTuple):
    """`body` runs for each row of the inputs after constants and state.

    Its outputs after the state are rows of the results.
    """

    body: Any
    consts: int
    carries: int
    length: Any
    reverse: bool


class Message(NamedTuple):
    """What a rank asks of its group: `verb` is a word of the runtime's.

    Of the op's inputs the first, and of its outputs too, is its turn, which keeps collectives in
    order and has no elements; the second, if any, is what goes over. `count`: the elements given.
    `peer` is the root, or whom an exchange gives to, `source` whom it takes from; -1 for nobody.
    """

    group: str
    ranks: int
    verb: str
    dtype: DType
    count: Any  # a size; in a Program an Expr
    reduction: str = "none"
    peer: int = -1
    source: int = -1


class Sample(NamedTuple):
    """One example call: shapes (tuples) or arrays for tensors, and keyword attributes."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = {}  # noqa: RUF012
    low: float = -2.0  # random float inputs are drawn from [low, high)
    high: float = 2.0
    name: str = ""


@dataclass(eq=False)
class Op:
    """One operation. See the module's docstring for `meaning`."""

    name: str
    kind: Kind
    infer: Callable[..., Sequence[TensorType]]
    meaning: Callable[..., Any] | None = None
    reference: Callable[..., Any] | None = None
    vjp: Callable[..., Any] | None = None
    expand: Callable[..., Any] | None = None
    precision: str = "promote"  # "low" (16-bit is fine), "high" (float32), "promote" (widest input)
    onnx: Any = None  # an operator's name, or a function of the exporter
    dtypes: tuple[DType, ...] = ()
    samples: Callable[[], Sequence[Sample]] | None = None
    tolerance: float = 4.0  # in units of the result dtype's epsilon, relative to the result's scale
    routine: str | None = None  # ORDER: the runtime routine
    function: Callable[..., Any] | None = None  # the public function
    differentiable: bool = True
    parameters: tuple[str, ...] = ()  # COMPOSITE: the names of the body's parameters
    doc: str = ""

    def __repr__(self) -> str:
        return f"<op {self.name}>"


class Registry(dict[str, Op]):
    """The ops that have a record, by name. A record is loaded when it is first asked for.

    `load(name)` brings in the file that is known to have the record of a name, every file for None;
    who has the files fills it in. Going through the registry loads every file.
    """

    load: Callable[[str | None], None]

    def add(self, op: Op) -> None:
        """Take in a record whose name is new."""
        self.load(op.name)
        assert not dict.__contains__(self, op.name), op.name
        self[op.name] = op

    def __missing__(self, name: str) -> Op:
        self.load(name)
        if not dict.__contains__(self, name):
            self.load(None)
        if not dict.__contains__(self, name):
            raise KeyError(name)
        return self[name]

    def __delitem__(self, name: str) -> None:
        assert self[name]  # so that it does not come back when its file is loaded
        super().__delitem__(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def get(self, name: str, default: Any = None) -> Any:
        """The record of a name, or the default."""
        try:
            return self[name]
        except KeyError:
            return default

    def __iter__(self) -> Iterator[str]:
        self.load(None)
        return super().__iter__()

    def values(self) -> dict_values[str, Op]:
        """Every record."""
        self.load(None)
        return super().values()

    def items(self) -> dict_items[str, Op]:
        """Every record with its name."""
        self.load(None)
        return super().items()


REGISTRY = Registry()
"""Every op that has a record in `deepseek/ops`, added by `ops.define.register`."""

INTERNAL: dict[str, Op] = {}
"""Ops that only the compiler makes: constants, regions and the like."""

DERIVED: dict[str, Callable[[Op], Op]] = {}
"""How an op is made from another on demand: `softmax.vjp` is DERIVED["vjp"] of softmax."""


def internal(op: Op) -> Op:
    """Make an op that only the compiler uses known by name; returns it."""
    INTERNAL[op.name] = op
    return op


def resolve(name: str) -> Op:
    """The op of a name, derived on demand. Raises ArgumentError for unknown ones."""
    base, _, how = name.rpartition(".")
    if how in DERIVED:
        return DERIVED[how](resolve(base))
    if name in INTERNAL:
        return INTERNAL[name]
    try:
        return REGISTRY[name]
    except KeyError:
        raise unknown("op", name, REGISTRY) from None
