"""Caches: compiled kernels in this process, kernels and whole Programs on disk; and the counters.

Three numbers say what "compiles" means in tests and documents: `counters.traces` counts functions
traced, `programs` graphs put through the passes, `kernels` kernels compiled. What a cache had
counts in none of them.

A Program is looked up by its graph's text, a kernel by its own, both with the target and with
hashes of the sources that made them. What needs Python functions (Host steps, claims that run
Python, ops defined outside deepseek) is not kept on disk. With all of a graph in the cache,
nothing is lowered, emitted or compiled, and the code generator is not even imported.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek import _runtime
from deepseek._runtime import Buffer
from deepseek.backends import Backend, Launchable, sources_hash
from deepseek.compiler import store
from deepseek.config import options
from deepseek.errors import PACKAGE_DIR, DeepseekError, FormatError
from deepseek.ir.graph import Graph
from deepseek.ir.op import INTERNAL, REGISTRY, Kind, Op, resolve
from deepseek.ir.recent import Recent
from deepseek.ir.scalar import Expr
from deepseek.ir.text import expr_text, print_graph
from deepseek.late import late
from deepseek.program.tape import Tape, play

if TYPE_CHECKING:
    from deepseek.kernel.ir import Kernel
    from deepseek.passes.prepare import Split
    from deepseek.program.ir import Program

kernel_text = late("deepseek.kernel.text")
program_text = late("deepseek.program.text")

# What a kernel's machine code and a graph's Program depend on, beside the backend's own folder.
KERNEL_SOURCES = ("ir/", "kernel/", "errors.py")
PROGRAM_SOURCES = (*KERNEL_SOURCES, "frontend/", "ops/", "passes/", "program/", "compiler/")
REMEMBERED = 32  # misses that `explain` can tell about


@dataclass
class Counters:
    """How often each kind of work was done in this process."""

    traces: int = 0
    programs: int = 0
    kernels: int = 0


@dataclass(frozen=True)
class Key:
    """What an entry is looked up by: named fields, and their hash; or why there is no entry."""

    kind: str
    name: str  # for reports
    fields: Mapping[str, str]
    hash: str = ""
    refusal: str = ""


@dataclass(frozen=True)
class Miss:
    """A lookup that found nothing, and why if that is known without looking around."""

    key: Key
    reason: str
    time: float


@dataclass(frozen=True)
class Held:
    """A compiled kernel of this process."""

    launchable: Launchable
    symbol: str
    data: bytes


counters = Counters()
hits = {"programs": 0, "kernels": 0}
misses: deque[Miss] = deque(maxlen=REMEMBERED)
_kernels: Recent[tuple[str, Kernel], Held] = Recent(8192)
_modules: Recent[tuple[str, str], dict[str, Held]] = Recent(64)  # those read from the disk
_refused: Recent[str, str] = Recent(REMEMBERED)  # why a Program was not kept, by its key


def make_key(kind: str, name: str, fields: Mapping[str, str]) -> Key:
    text = "\0".join([f"{field}={value}" for field, value in fields.items()])
    return Key(kind, name, fields, hashlib.sha256(text.encode()).hexdigest())


@functools.cache
def version(parts: tuple[str, ...]) -> str:
    """What the compiler itself is: a hash of the sources concerned, and what they run on."""
    own = sources_hash(Path(PACKAGE_DIR), parts)
    return f"{own} {sys.implementation.cache_tag}"


def lookup(key: Key, revive: Callable[[Any], Any]) -> Any:
    """What `revive` makes of the entry, None if there is no entry that can be used."""
    reason = key.refusal
    if not reason:
        body, reason = store.read(key.kind, key.hash)
        if body is not None:
            found = revive(body)
            if found is not None:
                hits[key.kind] += 1
                return found
            store.discard(key.kind, key.hash)
            reason = "its code could not be loaded"
    misses.append(Miss(key, reason, time.time()))
    return None


# ---------------------------------------------------------------------------------------- kernels


def compiled_kernels(backend: Backend, kernels: Sequence[Kernel]) -> list[Launchable]:
    """The kernels, ready to launch: those of this process, those on disk, the rest compiled."""
    return [held.launchable for held in held_kernels(backend, kernels)]


def held_kernels(backend: Backend, kernels: Sequence[Kernel]) -> list[Held]:
    """The same with their object code."""
    target = backend.target()
    places = [(target, nameless(kernel)) for kernel in kernels]
    found: dict[tuple[str, Kernel], Held] = {}
    missing: dict[tuple[str, Kernel], tuple[Key, Kernel]] = {}
    for place, kernel in zip(places, kernels, strict=True):
        if place in found or place in missing:
            continue
        held = _kernels.get(place)
        if held is None:
            key = kernel_key(backend, kernel)
            held = lookup(key, lambda body: revived_kernel(body, backend))
            if held is None:
                missing[place] = key, kernel
                continue
            _kernels.put(place, held)
        found[place] = held
    made = made_kernels(backend, list(missing.values()))
    for place, held in zip(missing, made, strict=True):
        _kernels.put(place, held)
        found[place] = held
    return [found[place] for place in places]


def revived_kernel(body: Any, backend: Backend) -> Held | None:
    """A stored kernel, loaded with the others of its module; None where that cannot be."""
    symbol, module = body
    place = backend.target(), module
    found = _modules.get(place)
    if found is None:
        stored, _ = store.read("modules", module)
        launchables = None if stored is None else loaded(backend, *stored)
        if launchables is None:
            return None
        found = {x: Held(y, x, stored[0]) for x, y in zip(stored[1], launchables, strict=True)}
        _modules.put(place, found)
    return found.get(symbol)


def made_kernels(backend: Backend, wanted: Sequence[tuple[Key, Kernel]]) -> list[Held]:
    """Kernels compiled now, in one module, and kept."""
    if not wanted:
        return []
    symbols = [f"k_{key.hash[:16]}" for key, _ in wanted]
    data = backend.compile(list(zip(symbols, (kernel for _, kernel in wanted), strict=True)))
    launchables = backend.load(data, symbols)
    counters.kernels += len(wanted)
    module = hashlib.sha256(data).hexdigest()
    store.write("modules", module, {"name": f"{len(wanted)} kernels"}, (data, tuple(symbols)))
    for (key, _), symbol in zip(wanted, symbols, strict=True):
        store.write("kernels", key.hash, {"name": key.name, **key.fields}, (symbol, module))
    return [Held(x, symbol, data) for x, symbol in zip(launchables, symbols, strict=True)]


def loaded(backend: Backend, data: bytes, symbols: Sequence[str]) -> list[Launchable] | None:
    """Kept object code as kernels; None where the runtime refuses it."""
    try:
        return backend.load(data, symbols)
    except (_runtime.LoadError, KeyError, DeepseekError):
        return None


def nameless(kernel: Kernel) -> Kernel:
    """The kernel without what says where it comes from."""
    return replace(kernel, name="kernel", lines=())


def kernel_key(backend: Backend, kernel: Kernel) -> Key:
    """A kernel's text (its name and the user's lines apart), and what compiles it."""
    fields = {
        "target": backend.target(),
        "compiler": version(KERNEL_SOURCES),
        "backend": backend.version(),
        "kernel": kernel_text.print_kernel(nameless(kernel)),
    }
    return make_key("kernels", kernel.name, fields)


# --------------------------------------------------------------------------------------- programs


@dataclass(frozen=True)
class Kept:
    """A Program from the disk."""

    loaded: _runtime.Program
    outputs: list[int]
    split: tuple[str, tuple[int, ...]] | None  # the graph to be run beforehand, and its inputs
    program: Callable[[], Program]  # read only when somebody asks


def program_key(
    graph: Graph,
    backend: Backend,
    symbols: Sequence[Expr],
    takes: Mapping[int, int] | None,
    labels: Sequence[str],
    stable: Sequence[int],
    watched: bool,
    name: str,
) -> Key:
    """What a graph's Program is looked up by. `watched`: somebody wants to see the passes run."""
    refusal = why_not_kept(graph, watched)
    if not refusal:
        try:
            text = print_graph(graph)
        except FormatError as error:
            refusal = str(error)
    if refusal:
        return Key("programs", name, {}, refusal=refusal)
    fields = {
        "target": backend.target(),
        "compiler": version(PROGRAM_SOURCES),
        "backend": backend.version(),
        "fuel": str(options.fuel),
        "symbols": ", ".join(map(expr_text, symbols)),
        "takes": repr(sorted((takes or {}).items())),
        "labels": repr(tuple(labels)),
        "stable": repr(tuple(stable)),
        "graph": text,
    }
    return make_key("programs", name, fields)


def why_not_kept(graph: Graph, watched: bool) -> str:
    """Why a graph's Program is not looked up on disk, or nothing."""
    if watched or options.verify or options.dump is not None:
        return "its passes are watched, by DS_VERIFY, DS_DUMP or the caller"
    for op in dict.fromkeys(ops_of(graph)):
        if not is_ours(op):
            return f"op {op.name!r} is defined outside deepseek: what it means may change"
        if op.kind is Kind.HOST:
            return f"op {op.name!r} is a Python function"
    return ""


def ops_of(graph: Graph) -> Iterator[Op]:
    """The ops of a graph and of the graphs inside it."""
    for node in graph.nodes:
        yield node.op
        if node.op.kind is Kind.CONTROL:
            for value in node.attrs.values():
                if isinstance(value, Graph):
                    yield from ops_of(value)


@functools.cache
def is_ours(op: Op) -> bool:
    """Whether the op's name says all about it, to everybody with the same sources."""
    try:
        if resolve(op.name) is not op:
            return False
    except DeepseekError:
        return False
    if op.name in INTERNAL:
        return True
    base = REGISTRY[op.name.split(".")[0]]
    return base.function is not None and base.function.__module__.startswith("deepseek.")


def find_program(key: Key, backend: Backend) -> Kept | None:
    """A Program from the disk, loaded."""
    found: Kept | None = lookup(key, lambda body: revived_program(body, backend))
    return found


def revived_program(body: Any, backend: Backend) -> Kept | None:
    """A stored Program, loaded; None where the runtime refuses it."""
    data, kernels, constants, outputs, split, text = body
    codes = []
    for symbol, code in kernels:
        launchables = loaded(backend, code, [symbol])
        if launchables is None or launchables[0].code is None:
            return None
        codes.append(launchables[0].code)
    buffers = [Buffer.copy_of(constant, "constant") for constant in constants]
    return Kept(
        play(data, codes, (), buffers),
        outputs,
        split,
        lambda: program_text.parse_program(
            zlib.decompress(text).decode(),
            {program_text.content_hash(data): data for data in constants},
        ),
    )


def keep_program(
    key: Key,
    program: Program,
    tape: Tape,
    kernels: Sequence[Held],
    outputs: list[int],
    split: Split | None,
) -> None:
    """Store a Program and its object code, if all of it is data."""
    if key.refusal:
        return
    by_code = {id(held.launchable.code): held for held in kernels}
    used = [by_code.get(id(code)) for code in tape.codes]
    if tape.functions or None in used:
        _refused.put(key.hash, "it has steps that are Python functions, and is never kept")
        return
    try:
        beforehand = None if split is None else (print_graph(split.prepared), tuple(split.sources))
    except FormatError as error:
        _refused.put(key.hash, str(error))
        return
    body = (
        tape.data,
        [(held.symbol, held.data) for held in used if held is not None],
        [bytes(constant) for constant in tape.constants],
        outputs,
        beforehand,
        zlib.compress(program_text.print_program(program).encode(), 1),
    )
    store.write("programs", key.hash, {"name": key.name, **key.fields}, body)


# ------------------------------------------------------------------------------------- looking in


def explain(count: int = 5) -> str:
    """Why the last lookups on disk missed: what differs first from the entry that is nearest.

    >>> why = ds.cache.explain()  # print it
    """
    if not misses:
        return "No lookup has missed in this process."
    recent = list(misses)[-count:]
    lines = [f"The last {len(recent)} lookups that missed, the latest first:"]
    for miss in reversed(recent):
        reason = miss.reason or _refused.get(miss.key.hash) or difference(miss.key, miss.time)
        lines.append(f"{miss.key.kind.removesuffix('s')} {miss.key.name!r}: {reason}")
    return "\n".join(lines)


def difference(key: Key, before: float) -> str:
    """How a key differs from the nearest entry that was there before."""
    text_field = "graph" if key.kind == "programs" else "kernel"
    wanted = key.fields[text_field].splitlines()
    best: tuple[int, float] = (-1, 0.0)
    nearest: dict[str, str] = {}
    for about in store.described(key.kind, before):
        same = sum(about.get(name) == value for name, value in key.fields.items())
        if same < best[0]:
            continue
        lines = set(about.get(text_field, "").splitlines())
        likeness = sum(line in lines for line in wanted) / max(len(wanted), len(lines))
        if (same, likeness) > best:
            best, nearest = (same, likeness), about
    if not nearest:
        return f"the cache had no {key.kind} yet"
    for name, value in key.fields.items():
        other = nearest.get(name, "")
        if other == value:
            continue
        if name in VERSIONS:
            return f"what is nearest, {nearest['name']!r}, was made by {VERSIONS[name]}"
        told = first_difference(other, value)
        return f"what is nearest, {nearest['name']!r}, differs in its {name}: {told}"
    return "its entry was removed or damaged"


VERSIONS = {
    "compiler": "another version of deepseek, NumPy or Python",
    "backend": "another version of the backend",
}


def first_difference(old: str, new: str) -> str:
    """Where two texts differ first."""
    before, after = old.splitlines() or [""], new.splitlines() or [""]
    from difflib import SequenceMatcher

    for _, i, i2, j, j2 in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if before[i:i2] != after[j:j2]:
            left = before[i].strip() if i < len(before) else "(nothing)"
            right = after[j].strip() if j < len(after) else "(nothing)"
            where = f"line {j + 1}: " if len(after) > 1 else ""
            return f"{where}{shortened(left)} there, {shortened(right)} here"
    return "line ends"


def shortened(text: str, length: int = 120) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def info() -> dict[str, Any]:
    """The folder (or None, and why), its entries and bytes, the limit, this process's hits.

    >>> ds.cache.info()["programs"] >= 0
    True
    """
    root = store.folder()
    found = list(store.entries(root)) if root is not None else []
    return {
        "folder": root,
        "unusable": "" if root is not None else store.why_unusable(),
        "programs": sum(e.kind == "programs" for e in found),
        "kernels": sum(e.kind == "kernels" for e in found),
        "bytes": sum(e.nbytes for e in found),
        "limit": options.cache_size,
        "program_hits": hits["programs"],
        "kernel_hits": hits["kernels"],
        "kernels_in_memory": len(_kernels),
    }


def clear() -> None:
    """Forget every compiled kernel of this process, and remove every entry on disk.

    >>> ds.cache.clear()
    """
    forget()
    store.clear()


def forget() -> None:
    """Forget every compiled kernel of this process."""
    _kernels.clear()
    _modules.clear()
