"""The C++ runtime: buffers, arena packing, thread pool, loader, Programs, profile hooks.

It knows no op. Sizes arrive as integer expressions over a Program's symbols and are evaluated once
per binding (a tuple of symbol values); what flows in and out of a run are `Buffer`s.

Integer expressions (`Expr`) are an int, or a postfix sequence of ints (constants), symbols
`"s0"`, `"s1"`, ... and the operators `"+" "-" "*" "//" "%" "min" "max"` (floor division and modulo,
as in Python). `(s0 + 7) // 8` is `["s0", 7, "+", 8, "//"]`.

Kernels have the C signature
`void kernel(void* const* buffers, const int64_t* sizes, int64_t begin, int64_t end, void* scratch)`
and work on the range [begin, end) of their row's flattened grid; `scratch` is one block per thread,
aligned to 4096 bytes.

The aliases (`Expr`, `Ref`, `Row`) and typed dicts exist for type checkers only: import them under
`TYPE_CHECKING`.
"""

from collections.abc import Callable, Iterator, Sequence
from types import CodeType
from typing import Any, TypedDict, final

from typing_extensions import Buffer as SupportsBuffer

from deepseek.errors import BackendError, DistributedError, OutOfMemoryError

Expr = int | Sequence[int | str]
# A slot, a slot from a byte offset on, or that plus loop index * stride bytes:
# slot | (slot, offset) | (slot, offset, loop, stride).
Ref = int | tuple[int, Expr] | tuple[int, Expr, int, Expr]
# One row of a launch: buffers, sizes, grid.
Row = tuple[Sequence[Ref], Sequence[Expr], Expr]

# ---- memory ------------------------------------------------------------------------------------

class StillWriting(BackendError):
    """A tensor is wanted that a compiled call, which has not returned yet, is changing."""

class OutOfMemory(OutOfMemoryError):
    """The pool's limit or the machine's memory is exceeded; says what was asked, who holds it."""

@final
class Buffer:
    """Untyped memory from the pool, 64-byte aligned (large blocks 4096). No two buffers overlap.

    Supports the buffer protocol as read-only bytes: `np.frombuffer(buffer, dtype)` copies nothing.
    """

    @staticmethod
    def allocate(nbytes: int, label: str = "") -> Buffer: ...
    @staticmethod
    def copy_of(data: SupportsBuffer, label: str = "") -> Buffer:
        """A new buffer with the bytes of a C-contiguous object."""

    @property
    def nbytes(self) -> int: ...
    @property
    def ptr(self) -> int: ...
    @property
    def exports(self) -> int:
        """Live views of this memory; while there are any it is never taken over when donated."""
    @property
    def version(self) -> int:
        """A number of this buffer's own, and another one after a Program took its memory over."""
    label: str
    def writable_view(self) -> memoryview: ...
    def copy_from(self, data: SupportsBuffer) -> None:
        """Fill from a C-contiguous object of exactly `nbytes` bytes."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class PoolStats(TypedDict):
    in_use: int  # bytes asked for by live blocks
    reserved: int  # bytes held from the system: live and cached, rounded up to size classes
    cached: int  # bytes of free blocks kept for reuse
    peak: int  # largest in_use since the start or reset_peak()
    allocations: int
    cache_hits: int
    live_blocks: int
    limit: int | None
    physical: int  # memory of the machine or of its control group

def pool_stats() -> PoolStats: ...
def live_blocks() -> list[tuple[str, int]]:
    """(label, nbytes) of every live block, largest first."""

def set_memory_limit(nbytes: int | None) -> None: ...
def empty_cache() -> int:
    """Give cached blocks back to the system; returns the bytes given back."""

def reset_peak() -> None: ...
def pack_arena(
    sizes: Sequence[int], first: Sequence[int], last: Sequence[int], alignment: int = 64
) -> tuple[list[int], int]:
    """Offsets and total bytes for blocks that live during the steps first..last (inclusive)."""

def live_lower_bound(
    sizes: Sequence[int], first: Sequence[int], last: Sequence[int], alignment: int = 64
) -> int:
    """The largest sum of live (aligned) bytes over all steps: no packing can be smaller."""

# ---- threads and machine -----------------------------------------------------------------------

def set_num_threads(count: int) -> None: ...
def get_num_threads() -> int:
    """Threads a launch may use; starts as DS_NUM_THREADS or all hardware threads."""

class CpuFeatures(TypedDict):
    level: str  # "v2", "v3", "v4": the x86-64 level of this machine ("v1" if below)
    name: str
    flags: list[str]  # such as f16c fma avx2 avx512f avx512bw avx512bf16 avx512fp16 avx512vnni
    bf16: bool  # avx512bf16
    vnni: bool  # avx512vnni or avxvnni
    threads: int  # hardware threads this process may run on
    l1d: int
    l2: int
    l3: int

def cpu_features() -> CpuFeatures: ...

# ---- code --------------------------------------------------------------------------------------

class LoadError(ValueError):
    """An object file is damaged, or asks for something that the loader does not provide."""

@final
class Code:
    """A loaded ELF64 x86-64 relocatable object (PIC, small code model); mapped while it lives.

    Of outside symbols it may use memset, memcpy and memmove only.
    """

    def __init__(self, data: SupportsBuffer) -> None: ...
    def symbol(self, name: str) -> int:
        """Address of a global function or variable; KeyError lists what there is."""

    @property
    def symbols(self) -> list[str]: ...
    @property
    def nbytes(self) -> int:
        """Bytes mapped."""

def call_kernel(
    code: Code,
    symbol: str,
    buffers: Sequence[Buffer],
    sizes: Sequence[int],
    begin: int,
    end: int,
    scratch: int = 0,
) -> None:
    """Call one kernel directly on this thread (tests and tuning), without the GIL."""

# ---- programs ----------------------------------------------------------------------------------

@final
class Block:
    """An ordered list of steps; made by ProgramBuilder.block(), each block is used exactly once."""

    def launch(
        self,
        code: Code,
        symbol: str,
        rows: Sequence[Row],
        scratch: Expr = 0,
        grain: Expr = 1,
        label: str = "",
    ) -> None:
        """One kernel over a table of rows; the tasks of all rows form one index space.

        `scratch` is bytes per thread, `grain` the fewest tasks worth giving to another thread.
        """

    def extern(
        self, routine: str, buffers: Sequence[Ref], sizes: Sequence[Expr] = (), label: str = ""
    ) -> None:
        """A runtime routine by name; see extern_routines()."""

    def host(
        self,
        function: Callable[[list[memoryview], tuple[int, ...]], None],
        buffers: Sequence[Ref],
        sizes: Sequence[Expr] = (),
        label: str = "",
    ) -> None:
        """A Python callable under the GIL: `function(views, sizes)`.

        Views are flat bytes; those of temps and outputs are writable. An exception ends the run.
        Outputs first written before or beside a host step are never put in a donated buffer.
        """

    def copy(self, dst: Ref, src: Ref, nbytes: Expr, label: str = "") -> None: ...
    def collective(
        self,
        group: str,
        ranks: int,
        verb: str,
        dtype: str,
        reduction: str,
        peer: int,
        source: int,
        count: Expr,
        given: Ref | None,
        taken: Ref | None,
        label: str = "",
    ) -> None:
        """What the ranks of a group do together; see Communicator.run."""

    def sync(self, label: str = "") -> None: ...
    def if_(self, predicate: Ref, then: Block, otherwise: Block, label: str = "") -> None:
        """Reads one byte (a bool) and runs one of two blocks."""

    def while_(self, condition: Block, predicate: Ref, body: Block, label: str = "") -> None:
        """Runs `condition`, reads one byte at `predicate`, and while it is true runs `body`."""

    def for_(
        self,
        loop: int,
        count: Expr,
        body: Block,
        count_slot: Ref | None = None,
        label: str = "",
    ) -> None:
        """Runs `body` count times; refs with this `loop` see index 0, 1, ... count - 1.

        With `count_slot` the count is min(count, the int64 read there), so bounds stay known.
        """

@final
class ProgramBuilder:
    """Declares slots, fills blocks, builds a Program.

    Slots are numbered in the order of declaration, whatever their kind. `nbytes` of inputs are
    checked at each run; outputs lie in fresh pool buffers, temps in the call's arena. The lifetime
    of a temp is the range of steps that touch it, widened to whole loops that it crosses.
    """

    def __init__(self, symbols: int, name: str = "program") -> None: ...
    def input(self, nbytes: Expr, label: str = "") -> int: ...
    def output(self, nbytes: Expr, may_alias: int | None = None, label: str = "") -> int:
        """`may_alias` is the slot of an input whose buffer is taken over when it is donated.

        The caller vouches that no step reads that input after (or, except elementwise, while) this
        output is first written.
        """

    def temp(self, nbytes: Expr, label: str = "") -> int: ...
    def constant(self, buffer: Buffer, label: str = "") -> int: ...
    def loop(self) -> int:
        """A new loop id, for one for_ and the refs inside its body."""

    def block(self) -> Block: ...
    @property
    def main(self) -> Block: ...
    def build(self) -> Program: ...

class TempInfo(TypedDict):
    slot: int
    label: str
    nbytes: int
    first: int
    last: int
    offset: int

class BindInfo(TypedDict):
    arena_bytes: int
    lower_bound: int
    scratch_bytes: int  # per thread, largest over the launches
    constant_bytes: int
    inputs: list[int]  # nbytes
    outputs: list[int]  # nbytes
    temps: list[TempInfo]

class Counters(TypedDict):
    runs: int
    launches: int
    externs: int
    hosts: int
    copies: int
    collectives: int
    bindings: int  # bindings made, misses of the binding cache

@final
class Program:
    """Immutable steps over one arena; may run in several threads at once."""

    @property
    def name(self) -> str: ...
    @property
    def steps(self) -> list[tuple[str, str]]:
        """(kind, label) of every step in numbering order (depth first, as profiles number them)."""

    def run(
        self,
        inputs: Sequence[Buffer],
        symbols: tuple[int, ...] = (),
        donate: Sequence[bool] | None = None,
    ) -> list[Buffer]:
        """Outputs in order of declaration. A donated output is the input's own Buffer object.

        Everything that can fail precedes the first write to a donated buffer: checks, allocation,
        interrupts. Ctrl-C is looked at between steps until then.
        """

    def bind_info(self, symbols: tuple[int, ...] = ()) -> BindInfo: ...
    def counters(self) -> Counters:
        """Totals over all runs so far."""

# ---- groups of processes -----------------------------------------------------------------------

class CollectiveError(DistributedError):
    """Ranks disagree, one is gone or too late, or a transport fails."""

@final
class Communicator:
    """This process's place in a group of processes."""

    @property
    def name(self) -> str: ...
    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def transport(self) -> str: ...
    def run(
        self,
        verb: str,
        dtype: str = "uint8",
        reduction: str = "none",
        peer: int = -1,
        source: int = -1,
        count: int = 0,
        given: SupportsBuffer | None = None,
        taken: SupportsBuffer | None = None,
    ) -> None:
        """One collective over C-contiguous memory; blocks without the GIL.

        `verb`: all_reduce reduce broadcast all_gather reduce_scatter all_to_all exchange barrier.
        `count`: elements given; `peer`: the root, or to whom an exchange gives, `source`: from whom
        it takes.
        """

def connect(
    name: str, place: str, rank: int, size: int, timeout: float, keep: bool = True
) -> Communicator:
    """Meet the other ranks at the path `place`, which rank 0 makes; seconds for each wait.

    With `keep` the Communicator is found by its name, also by Programs, until disconnect().
    """

def connect_nccl(meet: Communicator, library: str) -> Communicator:
    """The same ranks over the NCCL library at a path; `meet` hands its unique id around."""

def communicator(name: str) -> Communicator: ...
def disconnect(name: str) -> None: ...
def extern_routines() -> list[str]: ...

# sort: buffers (x, values, indices as int64), sizes (rows, n, dtype code, descending 0/1). Stable;
# NaN is the largest value. Dtype codes, in this order:
SORT_DTYPES: tuple[str, ...]  # bool int8 .. int64 uint8 .. uint64 float16 bfloat16 float32 float64

# ---- profile hooks -----------------------------------------------------------------------------

def set_profile(on: bool) -> None:
    """Collect the start and end of every step of every Program (off costs nothing)."""

def take_profile() -> list[tuple[str, int, int, int]]:
    """(program name, step number, start ns, end ns) so far, on time.perf_counter_ns's clock."""

def start_recording_calls(ignore: tuple[str, ...] = (), keep: tuple[str, ...] = ()) -> None:
    """Record Python functions entered on this thread whose file starts with no prefix in `ignore`,
    or with one in `keep`.

    Recordings nest; a profile function set before keeps seeing its events and is restored.
    """

def stop_recording_calls() -> list[tuple[CodeType, dict[str, Any], dict[str, Any]]]:
    """(code, globals, locals at entry), once per code, first argument and cells' contents."""

def pause_recording_calls() -> None:
    """The innermost recording of this thread, if any, sees nothing until it is resumed."""

def resume_recording_calls() -> None: ...

def begin_trace() -> None:
    """Keep other threads from changing tensors by compiled calls, until `end_trace`.

    Waits for those that do so now, and for another thread's trace. Nests.
    """

def end_trace() -> None: ...
def wait_for_trace() -> None:
    """Wait until no other thread traces."""

def writing_here() -> bool:
    """Whether a compiled call further up this thread is changing tensors."""

# ---- recorded nodes ----------------------------------------------------------------------------

def configure_nodes(*, node: type, value: type, sequence: Iterator[int]) -> None:
    """Tell the runtime the classes of the graph, and what numbers nodes in recorded order."""

def make_node(*args: Any) -> Any:
    """A node whose output types are known: op, inputs, attrs, types, line=None, form=None."""

def make_value(*args: Any) -> Any:
    """The first output of a node that is made otherwise: node, type."""

# ---- walks over recorded nodes -----------------------------------------------------------------

class Walk:
    """Recorded nodes in order, and the values they read and make."""

    key: bytes
    """Equal for walks over the same structure; empty where an attribute cannot be compared."""
    nodes: list[Any]
    values: list[Any]

    def __len__(self) -> int:
        """How many nodes there are."""
    def numbers_of(self, values: Sequence[Any]) -> list[int]:
        """The places of some of `values`."""

@final
class Pending(Walk):
    """What has to be computed for values; those that are computed count for nothing."""

    inputs: list[Any]
    """The computed values it starts from."""
    shown: list[Any]
    """Those of its values that are wanted, or that a Tensor still shows."""

    def __init__(self, wanted: Sequence[Any]) -> None: ...
    def show(self, numbers: Sequence[int], data: list[Buffer]) -> None:
        """Give values their data; their history ends unless gradients may go back through it."""

@final
class History(Walk):
    """What a gradient of a value flows back through. The key is empty unless it is asked for."""

    leaves: list[Any]
    """The values where gradients arrive."""

    def __init__(self, value: Any, keyed: bool) -> None: ...
    def forget(self) -> None:
        """Let it go: nothing of it can be differentiated again."""

@final
class Plan:
    """A Program that computes everything that is pending, wherever that has the same key.

    `outputs` are the places of the values it gives data; `sources` says for each of them which of
    the Program's outputs that is, or ~i for input i itself.
    """

    def __init__(
        self, program: Program, sources: Sequence[int], outputs: Sequence[int]
    ) -> None: ...
    def run(self, pending: Pending) -> None: ...

def configure_graph(*, tensor: type, input_node: Any, form: Callable[[Any], int]) -> None:
    """Tell the runtime what shows values, what made those without a history, and who numbers what a
    node does.
    """

# ---- dispatch ----------------------------------------------------------------------------------

class Dispatcher:
    """A callable that holds each call against its entries, binds it, runs it, shows the results.

    Where no entry fits, it calls `compile_for(args, kwargs)`, which a subclass defines and which
    adds one; where that does not fit either, `complain(args, kwargs)`, which has to raise.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        """`function` is called as it is while a trace goes on."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    def __get__(self, instance: Any, owner: Any = None, /) -> Any: ...
    @property
    def entries(self) -> list[Any]:
        """The entries, the one used last first."""
    function: Callable[..., Any]
    def add_entry(self, entry: Any, /) -> None:
        """Add an entry (deepseek.compiler.entry.Entry), to be tried first; old ones go."""
    def match(self, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Any:
        """The entry that a call fits, or None. Nothing is run."""


def configure_dispatch(
    *,
    tensor_type: type,
    generator: type,
    array: type,
    floating: type,
    missing: Any,
    structure: Any,
    recording: Any,
    options: Any,
    same: Callable[[Any, Any], bool],
    same_array: Callable[[Any, Any], bool],
    as_tensor: Callable[[Any], Any],
    settle: Callable[[list[Any]], None],
    copy: Callable[[Any], Any],
    no_memory: Callable[[Any, tuple[int, ...], str], None],
) -> None:
    """Tell the dispatcher the package's classes, its per-thread state, and what it asks Python."""
