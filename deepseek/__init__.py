"""deepseek: a JIT graph compiler for tensors with its own frontend.

    import deepseek as ds

Tensors record what is done to them; values are computed when somebody looks. `@ds.jit` makes one
program of a function, a whole training step included.
"""

from __future__ import annotations

import importlib
from typing import Any

from deepseek import cache, nn, ops, optim
from deepseek.autograd import backward, grad, value_and_grad, vjp
from deepseek.compiler import compile as _compiler
from deepseek.compiler.caches import counters
from deepseek.compiler.function import jit
from deepseek.frontend.tensor import Tensor, enable_grad, is_grad_enabled, no_grad
from deepseek.ir.dtype import (
    DType,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)
from deepseek.memory import (
    empty_cache,
    get_num_threads,
    memory_stats,
    memory_summary,
    set_memory_limit,
    set_num_threads,
)
from deepseek.ops import *  # noqa: F403
from deepseek.serialize import load, save

__version__ = "0.1.0"
bool = bool_  # the array API's name  # noqa: A001

_ON_DEMAND = {"debug": "deepseek.debug", "onnx": "deepseek.onnx", "explain": "deepseek.debug"}


def __getattr__(name: str) -> Any:
    """Load the parts that few programs need when they are first named."""
    if name not in _ON_DEMAND:
        raise AttributeError(f"module 'deepseek' has no attribute {name!r}")
    module = importlib.import_module(_ON_DEMAND[name])
    globals()[name] = getattr(module, name) if name == "explain" else module
    return globals()[name]


def _watch(*args: Any) -> Any:
    """Load the tools for watching a compilation; from then on they take the call themselves."""
    __getattr__("debug")
    return _compiler.hooks.watch(*args)


_compiler.hooks.watch = _watch

__all__ = [  # noqa: F405
    "DType", "Tensor", "backward", "bfloat16", "bool", "cache", "counters", "debug", "empty_cache",
    "enable_grad", "explain", "float16", "float32", "float64", "get_num_threads", "grad", "int16",
    "int32", "int64", "int8", "is_grad_enabled", "jit", "load", "memory_stats", "memory_summary",
    "nn", "no_grad", "onnx", "ops", "optim", "save", "set_memory_limit", "set_num_threads",
    "uint16", "uint32", "uint64", "uint8", "value_and_grad", "vjp", *ops.__all__,
]  # fmt: skip
