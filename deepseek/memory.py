"""Memory and threads: what tensors hold, what is kept for reuse, and the limits.

In flow the runtime's pool and the programs compiled last; out flow figures in bytes, and a table of
them in words. Importing it hands the options `memory_limit` and `num_threads` to the runtime, from
then on each change of them too.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepseek import _runtime
from deepseek.compiler.compile import recent_programs
from deepseek.config import MAX_THREADS, enter, handed_on, options, size
from deepseek.errors import ArgumentError

TOP = 10


def memory_stats() -> dict[str, int | None]:
    """The pool's figures.

    Bytes: `in_use` by tensors and running programs, its `peak`, `reserved` from the system,
    `cached` of that for reuse, the `limit` (or None), the `physical` memory of the machine or its
    control group. Counts: `allocations` so far, `cache_hits` among them, `live_blocks`.

    >>> x = ds.zeros(1024).evaluate()
    >>> ds.memory_stats()["in_use"] >= x.nbytes
    True
    """
    return dict(_runtime.pool_stats())  # type: ignore[arg-type]


def memory_summary() -> str:
    """Who holds how much memory, as a table.

    >>> print(ds.memory_summary().splitlines()[0])
    Memory
    """
    stats = _runtime.pool_stats()
    limit = stats["limit"]
    bound = f"the machine has {amount(stats['physical'])}"
    rows = [
        ("in use", amount(stats["in_use"]), f"in {stats['live_blocks']} blocks"),
        ("peak", amount(stats["peak"]), "in use at most so far"),
        ("reserved", amount(stats["reserved"]), "from the system: in use, and kept for reuse"),
        ("cached", amount(stats["cached"]), "kept for reuse; ds.empty_cache() gives it back"),
        ("limit", "none" if limit is None else amount(limit), bound),
    ]
    text = "Memory\n" + table(rows) + held_by(_runtime.live_blocks())
    arenas = list(program_rows())
    return text + ("Arenas of the programs compiled last\n" + table(arenas) if arenas else "")


def held_by(blocks: Sequence[tuple[str, int]]) -> str:
    """Who holds most of a pool's live blocks, as a table; nothing where there are none."""
    held = holders(blocks)
    if not held:
        return ""
    lines = [
        (label or "(unlabelled)", amount(nbytes), f"in {count} blocks")
        for label, nbytes, count in held[:TOP]
    ]
    if len(held) > TOP:
        rest = held[TOP:]
        total = sum(nbytes for _, nbytes, _ in rest)
        count = sum(count for *_, count in rest)
        lines.append((f"{len(rest)} more", amount(total), f"in {count} blocks"))
    return "Held by\n" + table(lines)


def holders(blocks: Sequence[tuple[str, int]]) -> list[tuple[str, int, int]]:
    """(label, bytes, blocks) of what is held, the largest first."""
    found: dict[str, list[int]] = {}
    for label, nbytes in blocks:
        entry = found.setdefault(label, [0, 0])
        entry[0] += nbytes
        entry[1] += 1
    return sorted(((k, n, c) for k, (n, c) in found.items()), key=lambda row: -row[1])


def program_rows() -> list[tuple[str, str, str]]:
    """The arenas of the programs compiled last and still alive, the latest first."""
    rows = []
    for executable in recent_programs():
        runs = f"{executable.loaded.counters()['runs']} runs"
        if executable.symbols:
            sizes = ", ".join(map(str, executable.symbols))
            rows.append((executable.loaded.name, f"depends on {sizes}", runs))
            continue
        plan = executable.loaded.bind_info()
        bound = f"{runs}; no arena is smaller than {amount(plan['lower_bound'])}"
        rows.append((executable.loaded.name, amount(plan["arena_bytes"]), bound))
    return rows


def table(rows: list[tuple[str, str, str]]) -> str:
    """Rows of a name, an amount and a remark, in columns."""
    name = max(len(row[0]) for row in rows)
    width = max(len(row[1]) for row in rows)
    return "".join(f"  {a:<{name}}  {b:>{width}}  {c}\n" for a, b, c in rows)


def amount(nbytes: int) -> str:
    """Bytes in the unit that suits them."""
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def set_memory_limit(limit: int | str | None) -> None:
    """The most memory that tensors and programs may hold: bytes, "2G", or None for no limit.

    An allocation beyond it raises OutOfMemoryError and leaves everything as it was. Raises
    ArgumentError for what is none of these.

    >>> ds.set_memory_limit("2G")
    >>> ds.memory_stats()["limit"]
    2147483648
    >>> ds.set_memory_limit(None)
    """
    if limit is None:
        enter({"memory_limit": 0})
        return
    try:
        given = isinstance(limit, (int, str)) and not isinstance(limit, bool)
        nbytes = size(str(limit)) if given else 0
    except ValueError:
        nbytes = 0
    if nbytes == 0:
        raise ArgumentError(
            f'memory limit: got {limit!r}; wanted a number of bytes, text such as "2G", or None'
        )
    enter({"memory_limit": nbytes})


def empty_cache() -> int:
    """Give the memory that is kept for reuse back to the system; returns how many bytes.

    >>> ds.empty_cache() >= 0
    True
    """
    return _runtime.empty_cache()


def set_num_threads(count: int) -> None:
    """How many threads a kernel may use, from now on, in all of the process. Results stay the same.

    Raises ArgumentError unless it is 1 to 1024.

    >>> before = ds.get_num_threads()
    >>> ds.set_num_threads(1)
    >>> ds.get_num_threads()
    1
    >>> ds.set_num_threads(before)
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_THREADS:
        raise ArgumentError(f"number of threads: got {count!r}; wanted 1 to {MAX_THREADS}")
    enter({"num_threads": count})


def get_num_threads() -> int:
    """How many threads a kernel may use.

    >>> ds.get_num_threads() >= 1
    True
    """
    return _runtime.get_num_threads()


handed_on["num_threads"] = _runtime.set_num_threads
handed_on["memory_limit"] = lambda nbytes: _runtime.set_memory_limit(nbytes or None)
enter({name: getattr(options, name) for name in ("num_threads", "memory_limit")})
