"""deepseek: a JIT graph compiler for tensors with its own frontend.

    import deepseek as ds

Tensors record what is done to them; values are computed when somebody looks. `@ds.jit` makes one
program of a function, a whole training step included.

Importing it loads what recording takes. The compiler is loaded by the first call that needs it, and
so are the parts that few programs use.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deepseek import ops
from deepseek.autograd import backward, grad, value_and_grad, vjp
from deepseek.errors import closest as _closest
from deepseek.frontend.tensor import Tensor, enable_grad, hooks, is_grad_enabled, no_grad
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
from deepseek.ir.graph import Value

if TYPE_CHECKING:
    from deepseek import amp, cache, data, debug, distributed, linalg, nn, onnx, optim  # noqa: F401
    from deepseek.checkpoints import (  # noqa: F401
        latest_checkpoint,
        load_checkpoint,
        save_checkpoint,
    )
    from deepseek.compiler.caches import counters  # noqa: F401
    from deepseek.compiler.function import jit  # noqa: F401
    from deepseek.data.bar import progress  # noqa: F401
    from deepseek.debug import explain  # noqa: F401
    from deepseek.memory import (  # noqa: F401
        empty_cache,
        get_num_threads,
        memory_stats,
        memory_summary,
        set_memory_limit,
        set_num_threads,
    )
    from deepseek.ops import *  # noqa: F403
    from deepseek.recompute import checkpoint  # noqa: F401
    from deepseek.serialize import load, save  # noqa: F401

__version__ = "0.1.0"
bool = bool_  # the array API's name  # noqa: A001

# Where a name is found that is not loaded yet; a module's own name stands for the module.
_ON_DEMAND = {
    "deepseek.amp": ("amp",),
    "deepseek.cache": ("cache",),
    "deepseek.checkpoints": ("latest_checkpoint", "load_checkpoint", "save_checkpoint"),
    "deepseek.compiler.caches": ("counters",),
    "deepseek.compiler.function": ("jit",),
    "deepseek.data": ("data",),
    "deepseek.data.bar": ("progress",),
    "deepseek.debug": ("debug", "explain"),
    "deepseek.distributed": ("distributed",),
    "deepseek.linalg": ("linalg",),
    "deepseek.memory": (
        "empty_cache", "get_num_threads", "memory_stats", "memory_summary", "set_memory_limit",
        "set_num_threads",
    ),
    "deepseek.nn": ("nn",),
    "deepseek.onnx": ("onnx",),
    "deepseek.optim": ("optim",),
    "deepseek.recompute": ("checkpoint",),
    "deepseek.serialize": ("load", "save"),
}  # fmt: skip
# What people look for under the name it has in PyTorch or NumPy.
_ELSEWHERE = {
    "from_numpy": "asarray", "as_tensor": "asarray", "F": "nn.functional",
    "compile": "jit", "autocast": "amp.autocast",
}  # fmt: skip
_HOME = {name: module for module, names in _ON_DEMAND.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load what has not been needed before."""
    home = _HOME.get(name)
    if home is not None:
        module = importlib.import_module(home)
        globals()[name] = module if home == f"deepseek.{name}" else getattr(module, name)
        return globals()[name]
    # Python asks a package for a module that it is about to import, too.
    is_module = name not in ops.__all__ and importlib.util.find_spec(f"deepseek.{name}")
    if not is_module and hasattr(ops, name):
        globals()[name] = getattr(ops, name)
        return globals()[name]
    meant = None if is_module else _ELSEWHERE.get(name) or _closest(name, __all__)
    hint = f"\n  help: did you mean ds.{meant}?" if meant else ""
    raise AttributeError(f"module 'deepseek' has no attribute {name!r}{hint}", name=name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *ops.__all__})


def _evaluate(values: Sequence[Value]) -> None:
    """Load the compiler when the first values are wanted; it takes the hook over."""
    importlib.import_module("deepseek.compiler.tiers")
    hooks.evaluate(values)


def _watch(*args: Any) -> Any:
    """Load the tools for watching a compilation; from then on they take the call themselves."""
    importlib.import_module("deepseek.debug")
    return hooks.watch(*args)


hooks.evaluate, hooks.watch = _evaluate, _watch

__all__ = [  # noqa: F405
    "DType", "Tensor", "backward", "bfloat16", "bool", "enable_grad", "float16", "float32",
    "float64", "grad", "int16", "int32", "int64", "int8", "is_grad_enabled", "no_grad", "ops",
    "uint16", "uint32", "uint64", "uint8", "value_and_grad", "vjp", *_HOME, *ops.__all__,
]  # fmt: skip
