"""LLVM IR text to object code, many kernels to an object.

In flow the texts of `emit`, each with the symbol it is to have; out flows one relocatable object
(position independent, small code model) that needs no symbols but memset, memcpy and memmove. With
DS_VERIFY, LLVM checks the texts first.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from deepseek.backends.cpu.emit import SYMBOL
from deepseek.backends.cpu.emit_store import METADATA
from deepseek.backends.cpu.target import Target
from deepseek.config import options
from deepseek.errors import CompileError

TRIPLE = "x86_64-unknown-linux-gnu"
CODEGEN_LEVEL = 2
DEFINED = "define internal "  # what the functions that kernels share begin with

_lock = threading.Lock()
_machines: dict[Target, Any] = {}


def compile_kernels(kernels: Sequence[tuple[str, str]], target: Target) -> bytes:
    """One object for the kernels (symbol, text)."""
    text = module_text(kernels)
    with _lock:
        machine = _machine(target)
        module = _parse(text)
        return bytes(machine.emit_object(module))


def module_text(kernels: Sequence[tuple[str, str]]) -> str:
    """The kernels as one module."""
    parts = [f'target triple = "{TRIPLE}"\n']
    shared: dict[str, None] = {}
    for symbol, text in kernels:
        own, *called = text.split(DEFINED)
        parts.append(own.replace(f"{SYMBOL}(", f"@{symbol}(", 1))
        shared |= dict.fromkeys(function.strip() for function in called)
    return "\n".join([*parts, *(f"{DEFINED}{function}\n" for function in shared), METADATA, ""])


def assembly(kernels: Sequence[tuple[str, str]], target: Target) -> str:
    """What compile_kernels makes, as assembly text."""
    with _lock:
        return str(_machine(target).emit_assembly(_parse(module_text(kernels))))


def _parse(text: str) -> Any:
    import llvmlite.binding as llvm

    try:
        module = llvm.parse_assembly(text)
        if options.verify:
            module.verify()
        return module
    except RuntimeError as error:
        raise CompileError(f"the generated code is not valid LLVM IR: {error}") from error


def _machine(target: Target) -> Any:
    import llvmlite.binding as llvm

    found = _machines.get(target)
    if found is None:
        if not _machines:
            # The emitter says itself what a loop computes: LLVM's pass that looks for better
            # induction variables takes a quarter of the time, and the code is no faster for it.
            llvm.set_option("", "-disable-lsr")
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        found = _machines[target] = llvm.Target.from_triple(TRIPLE).create_target_machine(
            cpu=target.cpu, opt=CODEGEN_LEVEL, reloc="pic", codemodel="small",
        )  # fmt: skip
    return found
