"""What the machine can do at most, measured by small kernels of our own.

Streams read k arrays and write one or none, with plain and with streaming stores, at the size that
a row moves; peaks are chains of multiply-adds in registers. The kernels are LLVM IR in text form.
A worker runs them in the same rounds as the frameworks, with as many threads.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numpy as np
import workloads

VARIANTS = {"limits": {"label": "limit", "environment": {}, "peer": False}}

# The probes keep to the instructions that deepseek is told to keep to.
LEVEL = os.environ.get("DS_CPU_LEVEL", "auto")
CPU = {"v3": "x86-64-v3", "v2": "x86-64-v2"}.get(LEVEL) or llvm.get_host_cpu_name()
WIDE = LEVEL in ("auto", "v4") and bool(llvm.get_host_cpu_features().get("avx512f"))
LANES = 16 if WIDE else 8  # floats in a vector
UNROLL = 4  # vectors of each stream in one turn
# Multiply-adds under way at once: enough for any latency, few enough for the registers.
CHAINS = 24 if WIDE else 12
MOST_STREAMS, READ_STREAMS = 8, 4
PASS_SECONDS = 5e-3  # a probe that takes less is repeated inside the kernel
VECTOR = f"<{LANES} x float>"


def stream_ir(inputs: int, stores: str) -> str:
    """Adds `inputs` arrays of floats into out; without stores, into one vector at out.

    Arguments: out, the inputs, how many turns of UNROLL vectors, how often over the whole.
    """
    pointers = "".join(f", ptr noalias %in{k}" for k in range(inputs))
    kept = range(UNROLL) if stores == "none" else ()
    lines = [
        f"define void @probe(ptr noalias %out{pointers}, i64 %turns, i64 %times) {{",
        "entry:",
        "  br label %pass",
        "pass:",
        "  %p = phi i64 [ 0, %entry ], [ %p.next, %passed ]",
        "  br label %turn",
        "turn:",
        "  %i = phi i64 [ 0, %pass ], [ %i.next, %turn ]",
    ]
    lines += [
        f"  %kept{u} = phi {VECTOR} [ zeroinitializer, %pass ], [ %sum{u}.{inputs - 1}, %turn ]"
        for u in kept
    ]
    lines.append(f"  %base = mul i64 %i, {UNROLL * LANES * 4}")
    for u in range(UNROLL):
        lines.append(f"  %at{u} = add i64 %base, {u * LANES * 4}")
        for k in range(inputs):
            lines.append(f"  %p{u}.{k} = getelementptr i8, ptr %in{k}, i64 %at{u}")
            lines.append(f"  %x{u}.{k} = load {VECTOR}, ptr %p{u}.{k}, align 64")
            before = f"%sum{u}.{k - 1}" if k else (f"%kept{u}" if kept else "zeroinitializer")
            lines.append(f"  %sum{u}.{k} = fadd fast {VECTOR} {before}, %x{u}.{k}")
        if not kept:
            hint = ", !nontemporal !0" if stores == "streaming" else ""
            lines.append(f"  %q{u} = getelementptr i8, ptr %out, i64 %at{u}")
            value = f"%sum{u}.{inputs - 1}"
            lines.append(f"  store {VECTOR} {value}, ptr %q{u}, align 64{hint}")
    lines += [
        "  %i.next = add i64 %i, 1",
        "  %more = icmp ult i64 %i.next, %turns",
        "  br i1 %more, label %turn, label %passed",
        "passed:",
    ]
    for u in kept:
        lines.append(f"  %end{u} = getelementptr i8, ptr %out, i64 {u * LANES * 4}")
        lines.append(f"  store {VECTOR} %sum{u}.{inputs - 1}, ptr %end{u}, align 64")
    lines += [
        '  call void asm sideeffect "", "~{memory}"()',
        "  %p.next = add i64 %p, 1",
        "  %again = icmp ult i64 %p.next, %times",
        "  br i1 %again, label %pass, label %done",
        "done:",
        "  ret void",
        "}",
        "!0 = !{i32 1}",
    ]
    return "\n".join(lines)


# By type: of the accumulator, of the factors, the instruction, and operations in one of it.
MULTIPLY_ADDS = {
    "float32": (VECTOR, VECTOR, f"llvm.fma.v{LANES}f32", 2 * LANES),
    "bfloat16": (VECTOR, "<32 x bfloat>", "llvm.x86.avx512bf16.dpbf16ps.512", 64),
    "int8": ("<16 x i32>", "<64 x i8>", "llvm.x86.avx512.vpdpbusd.512", 128),
}
NEEDS = {"float32": "fma", "bfloat16": "avx512bf16", "int8": "avx512vnni"}


def peak_ir(dtype: str) -> str:
    """CHAINS independent chains of multiply-adds, %turns long, on factors from memory."""
    total, factor, intrinsic, _ = MULTIPLY_ADDS[dtype]
    order = (factor, factor, total) if dtype == "float32" else (total, factor, factor)
    lines = [
        f"declare {total} @{intrinsic}({', '.join(order)})",
        "define void @probe(ptr %out, ptr %in0, i64 %turns, i64 %times) {",
        "entry:",
        f"  %a = load {factor}, ptr %in0, align 64",
        f"  %b = load {factor}, ptr %in0, align 64",
        "  br label %turn",
        "turn:",
        "  %i = phi i64 [ 0, %entry ], [ %i.next, %turn ]",
    ]
    lines += [
        f"  %c{j} = phi {total} [ zeroinitializer, %entry ], [ %d{j}, %turn ]"
        for j in range(CHAINS)
    ]
    for j in range(CHAINS):
        factors = f"{factor} %a, {factor} %b"
        chain = f"{total} %c{j}"
        args = f"{factors}, {chain}" if dtype == "float32" else f"{chain}, {factors}"
        lines.append(f"  %d{j} = call {total} @{intrinsic}({args})")
    lines += [
        "  %i.next = add i64 %i, 1",
        "  %more = icmp ult i64 %i.next, %turns",
        "  br i1 %more, label %turn, label %done",
        "done:",
    ]
    for j in range(CHAINS):
        lines.append(f"  %q{j} = getelementptr i8, ptr %out, i64 {64 * j}")
        lines.append(f"  store {total} %d{j}, ptr %q{j}, align 64")
    return "\n".join([*lines, "  ret void", "}"])


class Compiled:
    """One kernel and the code that it became; calling it releases the GIL."""

    def __init__(self, text: str, pointers: int) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        features = llvm.get_host_cpu_features().flatten() if WIDE else ""
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=CPU, features=features, opt=2
        )
        module = llvm.parse_assembly(text)
        module.verify()
        self.engine = llvm.create_mcjit_compiler(module, machine)
        self.engine.finalize_object()
        arguments = [ctypes.c_void_p] * pointers + [ctypes.c_int64] * 2
        prototype = ctypes.CFUNCTYPE(None, *arguments)
        self.call = prototype(self.engine.get_function_address("probe"))


class Probe:
    """A kernel over arrays, split among threads; `run(times)` goes over all of them."""

    def __init__(self, text: str, arrays: list[Any], turns: int, threads: int, split: bool) -> None:
        self.code = Compiled(text, len(arrays))
        self.arrays = arrays
        self.pool = ThreadPoolExecutor(threads)
        step = UNROLL * LANES * 4
        share = -(-turns // threads) if split else turns
        self.parts = []
        for t in range(threads):
            mine = min(share, turns - t * share) if split else turns
            offset = t * share * step if split else 0
            pointers = [a.ctypes.data + (offset if a.nbytes > offset else 0) for a in arrays]
            if mine > 0:
                self.parts.append((pointers, mine))

    def run(self, times: int) -> None:
        if len(self.parts) == 1:
            pointers, turns = self.parts[0]
            self.code.call(*pointers, turns, times)
            return
        waiting = [self.pool.submit(self.code.call, *p, turns, times) for p, turns in self.parts]
        for part in waiting:
            part.result()

    def seconds(self, times: int) -> float:
        """How long it takes to go over all so often. One thread counts its own time only."""
        clock = time.process_time if len(self.parts) == 1 else time.perf_counter
        began = clock()
        self.run(times)
        return clock() - began

    def sample(self) -> Callable[[], float]:
        """A function that gives the seconds of one pass; short passes are repeated in it."""
        self.run(1)
        times = max(1, round(PASS_SECONDS / max(self.seconds(1), 1e-7)))
        return lambda: self.seconds(times) / times


class Streams:
    """Arrays of nbytes each, and probes that go over them."""

    def __init__(self, most: int, nbytes: int, threads: int) -> None:
        self.turns = max(threads, nbytes // (UNROLL * LANES * 4))
        self.arrays = [aligned(self.turns * UNROLL * LANES) for _ in range(most)]
        # Threads that only read leave their sums in places of their own.
        self.sums = aligned(UNROLL * LANES * threads)
        self.threads = threads

    def probe(self, inputs: int, stores: str) -> Callable[[], float]:
        """Reads so many of the arrays, and writes the last one or nothing."""
        out = self.sums if stores == "none" else self.arrays[-1]
        arrays = [out, *self.arrays[:inputs]]
        return Probe(stream_ir(inputs, stores), arrays, self.turns, self.threads, True).sample()


def aligned(floats: int) -> Any:
    """Ones, on a page of their own, so that no two streams start at the same set of a cache."""
    whole = np.ones(floats + 2048, np.float32)
    start = -(whole.ctypes.data // 4) % 1024
    return whole[start : start + floats]


def peak(dtype: str, threads: int) -> Callable[[], float]:
    """Seconds that one operation (half a multiply-add) takes on all threads together."""
    turns = 1_000_000
    operations = MULTIPLY_ADDS[dtype][3] * CHAINS * turns * threads
    arrays = [aligned(CHAINS * 16), aligned(LANES)]
    probe = Probe(peak_ir(dtype), arrays, turns, threads, False)

    return lambda: probe.seconds(1) / operations


def dtypes() -> list[str]:
    """The types that are multiplied and added in one instruction, at the level in force."""
    features = llvm.get_host_cpu_features()
    narrow = ["float32"] if LEVEL != "v2" else []
    return [d for d, feature in NEEDS.items() if features.get(feature) and (WIDE or d in narrow)]


class Limits:
    """The worker's session: `prepare` makes the probes of a row, `time` samples them."""

    versions = {"llvmlite": llvmlite.__version__}

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.probes: dict[str, Callable[[], float]] = {}

    def prepare(self, name: str, folder: str, read: int = 0, write: int = 0) -> dict[str, Any]:
        """The streams that move as many bytes as the row, and the peak if it multiplies."""
        self.probes = {}
        workload = workloads.find(name)
        if workload.flops and "float32" in dtypes():
            self.probes["float32"] = peak("float32", self.threads)
        inputs = round(read / write) if write else MOST_STREAMS + 1
        if inputs > MOST_STREAMS:
            # One stream, or several that memory serves side by side: whichever is faster counts.
            for count in (1, READ_STREAMS):
                streams = Streams(count, (read + write) // count, self.threads)
                self.probes[f"read {count}"] = streams.probe(count, "none")
        else:
            inputs = max(inputs, 1)
            streams = Streams(inputs + 1, (read + write) // (inputs + 1), self.threads)
            for stores in ("plain", "streaming"):
                self.probes[stores] = streams.probe(inputs, stores)
        return {}

    def machine(self, nbytes: int = 1 << 27) -> dict[str, Any]:
        """Prepare the probes of the table of limits, on arrays that no cache holds."""
        self.probes = {f"peak {dtype}": peak(dtype, self.threads) for dtype in dtypes()}
        streams = Streams(3, nbytes, self.threads)
        self.probes["read"] = streams.probe(1, "none")
        for kind, inputs in (("copy", 1), ("triad", 2)):
            for stores in ("plain", "streaming"):
                self.probes[f"{kind} {stores}"] = streams.probe(inputs, stores)
        moved = {"read": nbytes, "copy": 2 * nbytes, "triad": 3 * nbytes}
        return {"bytes": {p: moved[p.split()[0]] for p in self.probes if p.split()[0] in moved}}

    def time(self, seconds: float) -> dict[str, Any]:
        """Each probe for its share of the time, in turn: all samples by name."""
        samples: dict[str, list[float]] = {name: [] for name in self.probes}
        end = time.perf_counter() + seconds
        while not all(samples.values()) or time.perf_counter() < end:
            for name, once in self.probes.items():
                samples[name].append(once())
        return {"probes": samples}


def make(variant: str, threads: int) -> Limits:
    return Limits(threads)
