"""CUDA C++ text to a cubin, by NVIDIA's run-time compiler.

In flow a module's text and an architecture; out flows the cubin, or a CompileError with the lines
that the compiler complains about. The library is opened when it is first needed: pip's, the
toolkit's, or whichever the loader finds.
"""

from __future__ import annotations

import ctypes
import functools
import glob
import os
import re
import sysconfig
from collections.abc import Iterator

from deepseek.config import options
from deepseek.errors import BackendError, CompileError

LIBRARY = "libnvrtc.so.13"
BUILTINS = "libnvrtc-builtins.so.13.*"  # found by full path: pip's library does not look beside it
OPTIONS = ("--std=c++20", "--fmad=false", "--no-source-include", "--disable-warnings")
MESSAGE = re.compile(r"^[^\s(]*\((\d+)\): (?:catastrophic )?error", re.MULTILINE)
AROUND = 2  # lines shown around a wrong one


def folders() -> Iterator[str]:
    """Where the library may be, best first."""
    for key in ("purelib", "platlib"):
        yield os.path.join(sysconfig.get_path(key), "nvidia", "cu13", "lib")
    if options.cuda_home is not None:
        yield os.path.join(options.cuda_home, "lib64")


def find() -> str | None:
    """The path of the library, None where it is not installed."""
    for folder in folders():
        path = os.path.join(folder, LIBRARY)
        if os.path.exists(path):
            return path
    return None


@functools.cache
def library() -> ctypes.CDLL:
    """The compiler. Raises BackendError where there is none."""
    path = find()
    try:
        if path is not None:
            for builtins in glob.glob(os.path.join(os.path.dirname(path), BUILTINS)):
                ctypes.CDLL(builtins, ctypes.RTLD_GLOBAL)
        return ctypes.CDLL(path or LIBRARY)
    except OSError as error:
        raise BackendError(
            f"the cuda backend compiles kernels with NVRTC, which cannot be opened: {error}\n"
            "  help: pip install 'deepseek[cuda-compile]', or set DS_CUDA_HOME to a CUDA 13 toolkit"
        ) from error


def version() -> str:
    """Which NVRTC is installed, without opening it; without any, cached code still runs."""
    path = find()
    return "none" if path is None else f"{LIBRARY} of {os.path.getsize(path)} bytes"


def compile_text(text: str, arch: str) -> bytes:
    """The cubin of a module for an architecture, as `sm_80`."""
    nvrtc = library()
    program = ctypes.c_void_p()
    _check(nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None
    ))  # fmt: skip
    try:
        flags = [o.encode() for o in (f"--gpu-architecture={arch}", *OPTIONS)]
        failed = nvrtc.nvrtcCompileProgram(
            program, len(flags), (ctypes.c_char_p * len(flags))(*flags)
        )
        if failed:
            log = _fetched(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
            raise CompileError(explained(text, log.rstrip(b"\0").decode(), arch))
        return _fetched(program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _check(result: int) -> None:
    if result:
        raise CompileError(f"NVRTC cannot start: error {result}")


def _fetched(program: ctypes.c_void_p, size_of: object, fetch: object) -> bytes:
    size = ctypes.c_size_t()
    _check(size_of(program, ctypes.byref(size)))  # type: ignore[operator]
    data = ctypes.create_string_buffer(size.value)
    _check(fetch(program, data))  # type: ignore[operator]
    return data.raw


def explained(text: str, log: str, arch: str) -> str:
    """A compiler's complaint with the lines it is about, and the kernel they are in."""
    found = MESSAGE.search(log)
    head = f"the generated CUDA code does not compile for {arch}"
    if found is None:
        return f"{head}\n{log}"
    lines = text.splitlines()
    wrong = int(found.group(1))
    heads = [line for line in lines[:wrong] if line.startswith('extern "C"')]
    name = f" in {heads[-1].split('(')[1].split()[-1]}" if heads else ""
    shown = range(max(1, wrong - AROUND), min(len(lines), wrong + AROUND) + 1)
    excerpt = [f"  {'>' if n == wrong else ' '} {n:5} | {lines[n - 1]}" for n in shown]
    return "\n".join([f"{head}{name}, line {wrong}", *excerpt, log])
