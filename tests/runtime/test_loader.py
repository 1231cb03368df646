"""The ELF loader: relocations, provided symbols, refusals, damaged files."""

import platform
import random
from collections.abc import Callable

import numpy as np
import pytest

from deepseek._runtime import Buffer, Code, LoadError, call_kernel

Compile = Callable[[str], bytes]

# Uses a table, a pointer table, a switch, a global variable, memset and memcpy.
RICH = """
@table = internal constant [4 x i64] [i64 100, i64 200, i64 300, i64 400]
@functions = internal constant [2 x ptr] [ptr @triple, ptr @square]
@counter = global i64 5
declare ptr @memcpy(ptr, ptr, i64)
declare ptr @memmove(ptr, ptr, i64)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
define internal i64 @triple(i64 %x) noinline { %y = mul i64 %x, 3
  ret i64 %y }
define internal i64 @square(i64 %x) noinline { %y = mul i64 %x, %x
  ret i64 %y }
define void @rich(ptr %buffers, ptr %sizes, i64 %begin, i64 %end, ptr %scratch) {
  %out = load ptr, ptr %buffers
  %n = load i64, ptr %sizes
  call void @llvm.memset.p0.i64(ptr %out, i8 0, i64 %n, i1 false)
  %count = load i64, ptr @counter
  %more = add i64 %count, 1
  store i64 %more, ptr @counter
  store i64 %count, ptr %out
  %f_at = getelementptr [2 x ptr], ptr @functions, i64 0, i64 %begin
  %f = load ptr, ptr %f_at
  %r = call i64 %f(i64 %end)
  %r_at = getelementptr i64, ptr %out, i64 1
  store i64 %r, ptr %r_at
  %t_at = getelementptr [4 x i64], ptr @table, i64 0, i64 %end
  %t = load i64, ptr %t_at
  %to = getelementptr i64, ptr %out, i64 2
  store i64 %t, ptr %to
  %m_at = getelementptr i64, ptr %out, i64 3
  %m = call ptr @memcpy(ptr %m_at, ptr %out, i64 %begin)
  %v = call ptr @memmove(ptr %m_at, ptr %out, i64 16)
  ret void
}
"""


def test_a_rich_object_runs(compiled: Compile) -> None:
    code = Code(compiled(RICH))
    assert code.symbols == ["counter", "rich"]
    assert code.nbytes % 4096 == 0
    out = Buffer.allocate(64)
    out.copy_from(b"\xff" * 64)
    for begin, end, result in ((0, 2, 6), (1, 3, 9)):
        call_kernel(code, "rich", [out], [48], begin, end)
        values = np.frombuffer(out, np.int64)
        assert values.tolist() == [5 + begin, result, 100 * (end + 1), 5 + begin, result, 0, -1, -1]
        del values


def test_symbols_are_addresses_and_unknown_ones_are_named(compiled: Compile) -> None:
    code = Code(compiled(RICH))
    assert code.symbol("rich") > 0
    with pytest.raises(KeyError, match="no symbol 'poor'; there are: counter, rich"):
        code.symbol("poor")


def permissions(address: int) -> str:
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, access = line.split()[:2]
            low, high = (int(part, 16) for part in span.split("-"))
            if low <= address < high:
                return access
    raise AssertionError("not mapped")


def test_memory_is_never_writable_and_executable(compiled: Compile) -> None:
    code = Code(compiled(RICH))
    assert permissions(code.symbol("rich")) == "r-xp"
    assert permissions(code.symbol("counter")) == "rw-p"


def test_undefined_symbols_are_refused_by_name(compiled: Compile) -> None:
    text = """
    declare double @exp(double)
    define double @f(double %x) {
      %y = call double @exp(double %x)
      ret double %y
    }
    """
    refusal = r"undefined symbol 'exp' \(only memcpy, memmove and memset are provided\)"
    with pytest.raises(LoadError, match=refusal):
        Code(compiled(text))


def test_other_relocations_are_refused(compiled: Compile) -> None:
    text = "@t = thread_local global i64 0\ndefine ptr @f() { ret ptr @t }"
    with pytest.raises(LoadError, match="thread-local"):
        Code(compiled(text))
    data = bytearray(compiled(RICH))
    relocations = [i for i in range(0, len(data) - 24, 8) if data[i + 8 : i + 12] == b"\x02\0\0\0"]
    refused = 0
    for at in relocations:
        changed = bytearray(data)
        changed[at + 8] = 10  # R_X86_64_32
        try:
            Code(bytes(changed))
        except LoadError as error:
            refused += "R_X86_64_32" in str(error)
    assert refused > 0


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"not an object file at all" * 10])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(LoadError):
        Code(data)


def test_cut_files_are_refused(compiled: Compile) -> None:
    data = compiled(RICH)
    for length in range(0, len(data), 7):
        with pytest.raises(LoadError):
            Code(data[:length])


def test_damage_is_an_error_or_harmless_but_never_a_crash(compiled: Compile) -> None:
    data = compiled(RICH)
    generator = random.Random(1)
    refused = 0
    for _ in range(3000):
        damaged = bytearray(data)
        for _ in range(generator.choice([1, 1, 1, 4, 32])):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        try:
            Code(bytes(damaged))
        except LoadError:
            refused += 1
    assert 0 < refused < 3000


def test_only_this_machine_is_supported() -> None:
    assert platform.machine() == "x86_64"
