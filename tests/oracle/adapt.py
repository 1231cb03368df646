"""How a call of PyTorch's becomes a call of ours: entries of the table, and values of both sides.

An entry says which functions of deepseek a name of PyTorch's database stands for and how its
arguments are adapted, or why it has no counterpart. In flow samples of torch tensors; out flow the
same samples with our tensors, and the callable that takes them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import torch

import deepseek as ds
from deepseek.nn import functional

Both = tuple[Callable[..., Any], Callable[..., Any]]
# PyTorch's gradient of ctc_loss is right only once it has passed through a log_softmax, of which
# its argument is a result anyway.
LOG_SOFTMAX: Both = (lambda x: torch.log_softmax(x, -1), lambda x: ds.log_softmax(x, -1))


class LeftOut(Exception):
    """A sample that asks for what the entry says is not ours; the text is the reason."""


@dataclass(frozen=True)
class Entry:
    """What one name of PyTorch's stands for.

    `targets` are the functions of ours that it needs, `call` takes our tensors with PyTorch's
    signature (None: the one target with its keywords renamed). `outputs` chooses among PyTorch's
    results, `left_out` gives a reason for samples that are not run, `lenient` maps patterns of
    PyTorch's error messages to the reason why we accept such a call. With `check` "type" only
    shapes and dtypes are compared, with "values" no dtypes; `scale` is the least that errors are
    relative to. With `processed` the sample's own function makes results comparable that are not
    unique, such as eigenvectors; `before` is what the first argument passes through, in PyTorch
    and here; with `wrapped` PyTorch takes what its gradient checks make of the first argument, such
    as a symmetric matrix.
    """

    targets: tuple[str, ...] = ()
    call: Callable[..., Any] | None = None
    reason: str = ""
    outputs: Callable[[Any], Any] | None = None
    left_out: Callable[..., str | None] | None = None
    lenient: Mapping[str, str] | None = None
    check: str = "all"
    gradients: bool = True
    tolerance: float = 1.0
    scale: float = 0.0
    processed: bool = False
    wrapped: bool = False
    before: Both | None = None

    @property
    def missing(self) -> list[str]:
        """The targets that deepseek does not have."""
        return [name for name in self.targets if find(name) is None]


def same(name: str, **options: Any) -> Entry:
    """One function of ours that takes the arguments as they are, keywords renamed."""
    return Entry((name,), None, **options)


def via(names: str, call: Callable[..., Any], **options: Any) -> Entry:
    """A short expression in the functions of ours that are named."""
    return Entry(tuple(names.split()), call, **options)


def no(reason: str) -> Entry:
    """Not mapped, and why."""
    return Entry(reason=reason)


def find(name: str) -> Any:
    """The function, layer or method of ours with that name, or None."""
    for place in (ds, functional):
        found: Any = place
        for part in name.split("."):
            found = getattr(found, part, None)
            if found is None:
                break
        if callable(found) or isinstance(found, property):
            return found
    return None


def automatic(name: str) -> Entry:
    """The entry for a name that the table does not have: ours of the same name."""
    short = name.removeprefix("nn.functional.").removeprefix("special.")
    plain = short.rpartition(".")[0] or short  # without a variant such as `.with_dtype`
    for candidate in (name, short, short.removeprefix("linalg."), f"linalg.{short}", plain):
        if find(candidate) is not None:
            return same(candidate)
    return same(short)


# ------------------------------------------------------------------------------------- keywords

RENAMED = {"dim": "axis", "keepdim": "keepdims", "dims": "axis", "unbiased": "correction"}
DROPPED = {"device", "layout", "pin_memory", "memory_format", "requires_grad"}
FIRST = ("input", "self", "x", "a")


def renamed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of ours that takes PyTorch's keywords.

    `dtype` means a cast of the first argument where ours has no such parameter, as PyTorch
    documents it for its reductions.
    """
    parameters = inspect.signature(function).parameters

    def call(*args: Any, **kwargs: Any) -> Any:
        given: dict[str, Any] = {}
        for key, value in kwargs.items():
            if key in parameters and parameters[key].kind is not inspect.Parameter.POSITIONAL_ONLY:
                given[key] = value
            elif RENAMED.get(key) in parameters:
                given[RENAMED[key]] = value
            elif key == "dtype" and args:
                args = (args[0] if value is None else args[0].astype(value), *args[1:])
            elif key == "other":
                args = (*args, value)
            elif key not in DROPPED:
                given[key] = value
        return function(*args, **given)

    return call


def caller(entry: Entry) -> Callable[..., Any]:
    """What takes our tensors with PyTorch's signature."""
    if entry.call is not None:
        return entry.call
    found = find(entry.targets[0])
    if isinstance(found, property):
        return lambda x: found.fget(x)
    return renamed(found)


# --------------------------------------------------------------------------------------- values

DTYPES = {
    getattr(torch, name): getattr(ds, name)
    for name in ("float64", "float32", "float16", "bfloat16", "uint8", "uint16", "uint32",
                 "uint64", "int8", "int16", "int32", "int64", "bool")
}  # fmt: skip


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A nest of lists, tuples, dicts and slices with each leaf changed."""
    if isinstance(value, (list, tuple)):
        items = [mapped(v, change) for v in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        return {k: mapped(v, change) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(*(mapped(v, change) for v in (value.start, value.stop, value.step)))
    return change(value)


def leaves(value: Any) -> Iterable[Any]:
    """The leaves of a nest, in order."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    else:
        yield value


def as_numpy(x: torch.Tensor) -> np.ndarray[Any, Any]:
    x = x.detach().resolve_conj().resolve_neg()
    x = torch.zeros_like(x) if x._is_zerotensor() else x.contiguous()
    if x.dtype is torch.bfloat16:
        return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return x.numpy()


class Ours:
    """Turns torch values into ours; a tensor that stands twice in a sample becomes one tensor."""

    def __init__(self) -> None:
        self.made: dict[int, ds.Tensor] = {}

    def __call__(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if id(value) not in self.made:
                self.made[id(value)] = self.tensor(value)
            return self.made[id(value)]
        if isinstance(value, torch.dtype):
            if value not in DTYPES:
                raise LeftOut(f"dtype {value}")
            return DTYPES[value]
        if isinstance(value, complex):
            raise LeftOut("complex numbers")
        if isinstance(value, torch.Size):
            return tuple(value)
        if isinstance(value, torch.Generator):
            return None
        if isinstance(value, torch.nn.Module):
            return layer(value)
        if callable(value) and not isinstance(value, type):
            ours = find(getattr(value, "__name__", ""))
            if ours is None:
                raise LeftOut("a function of PyTorch's as an argument")
            return ours
        return value

    @staticmethod
    def tensor(x: torch.Tensor) -> ds.Tensor:
        if x.layout is not torch.strided:
            raise LeftOut("sparse tensors")
        if x.dtype not in DTYPES:
            raise LeftOut(f"dtype {x.dtype}")
        made = ds.asarray(as_numpy(x).copy())
        if x.requires_grad and x.is_floating_point():
            made.requires_grad_()
        return made


def layer(made: torch.nn.Module) -> Any:
    """A layer of PyTorch's that is an argument of another one."""
    if isinstance(made, torch.nn.TransformerEncoderLayer):
        return ds.nn.TransformerEncoderLayer(
            made.linear1.in_features,
            made.self_attn.num_heads,
            made.linear1.out_features,
            made.dropout.p,
            find(made.activation.__name__),
            made.norm1.eps,
            made.self_attn.batch_first,
            made.norm_first,
            made.linear1.bias is not None,
        )
    if list(made.parameters()) or not hasattr(ds.nn, type(made).__name__):
        raise LeftOut("a layer of PyTorch's as an argument")
    return getattr(ds.nn, type(made).__name__)()


class Wide:
    """Turns torch values into leaves of their own, in float64 or as they are."""

    def __init__(self, wide: bool) -> None:
        self.wide = wide
        self.made: dict[int, torch.Tensor] = {}

    def __call__(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if id(value) not in self.made:
                self.made[id(value)] = self.tensor(value)
            return self.made[id(value)]
        if self.wide and value is torch.float32:
            return torch.float64
        if self.wide and value is torch.complex64:
            return torch.complex128
        return value

    def tensor(self, x: torch.Tensor) -> torch.Tensor:
        made = x.detach()
        if self.wide and x.dtype is torch.float32:
            made = made.double()
        else:
            # Keeps overlapping and expanded tensors as they are: ops may treat them differently.
            made = made.clone(memory_format=torch.preserve_format)
        return made.requires_grad_(x.requires_grad)


def matches(text: str, patterns: Mapping[str, str] | None) -> str | None:
    """The reason that goes with the first pattern found in a text."""
    for pattern, reason in (patterns or {}).items():
        if re.search(pattern, text):
            return reason
    return None
