"""Kernels as LLVM IR text, compiled as the cpu backend does, for the tests of the runtime."""

import functools
from collections.abc import Callable

import llvmlite.binding as llvm
import pytest

from deepseek import _runtime

TRIPLE = "x86_64-unknown-linux-gnu"

# out[i] = a[i] op b[i] over int64, for begin <= i < end.
ELEMENTWISE = """
define void @{name}(ptr %buffers, ptr %sizes, i64 %begin, i64 %end, ptr %scratch) {{
entry:
  %a = load ptr, ptr %buffers
  %b_at = getelementptr ptr, ptr %buffers, i64 1
  %b = load ptr, ptr %b_at
  %out_at = getelementptr ptr, ptr %buffers, i64 2
  %out = load ptr, ptr %out_at
  %empty = icmp sge i64 %begin, %end
  br i1 %empty, label %done, label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %next, %loop ]
  %x_at = getelementptr i64, ptr %a, i64 %i
  %x = load i64, ptr %x_at
  %y_at = getelementptr i64, ptr %b, i64 %i
  %y = load i64, ptr %y_at
  %z = {op} i64 %x, %y
  %z_at = getelementptr i64, ptr %out, i64 %i
  store i64 %z, ptr %z_at
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""

# out[0] (a byte) = a[0] < b[0] over int64.
LESS = """
define void @less(ptr %buffers, ptr %sizes, i64 %begin, i64 %end, ptr %scratch) {
  %a = load ptr, ptr %buffers
  %b_at = getelementptr ptr, ptr %buffers, i64 1
  %b = load ptr, ptr %b_at
  %out_at = getelementptr ptr, ptr %buffers, i64 2
  %out = load ptr, ptr %out_at
  %x = load i64, ptr %a
  %y = load i64, ptr %b
  %c = icmp slt i64 %x, %y
  %byte = zext i1 %c to i8
  store i8 %byte, ptr %out
  ret void
}
"""

# Writes scratch's address to out[i] and to the scratch itself; out[sizes[0] + i] = sizes[1].
SCRATCH = """
define void @scratch(ptr %buffers, ptr %sizes, i64 %begin, i64 %end, ptr %scratch) {
entry:
  %out = load ptr, ptr %buffers
  %n = load i64, ptr %sizes
  %mark_at = getelementptr i64, ptr %sizes, i64 1
  %mark = load i64, ptr %mark_at
  %address = ptrtoint ptr %scratch to i64
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %next, %loop ]
  store i64 %i, ptr %scratch
  %a_at = getelementptr i64, ptr %out, i64 %i
  store i64 %address, ptr %a_at
  %j = add i64 %n, %i
  %b_at = getelementptr i64, ptr %out, i64 %j
  store i64 %mark, ptr %b_at
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""

KERNELS = "\n".join(
    [ELEMENTWISE.format(name=op, op=op) for op in ("add", "sub", "mul")] + [LESS, SCRATCH]
)


@functools.cache
def compile_ir(text: str) -> bytes:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(f'target triple = "{TRIPLE}"\n{text}')
    module.verify()
    target = llvm.Target.from_triple(TRIPLE)
    machine = target.create_target_machine(cpu="x86-64", opt=2, reloc="pic", codemodel="small")
    return machine.emit_object(module)


@pytest.fixture(scope="session")
def compiled() -> Callable[[str], bytes]:
    return compile_ir


@pytest.fixture(scope="session")
def code() -> _runtime.Code:
    return _runtime.Code(compile_ir(KERNELS))
