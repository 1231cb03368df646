"""One op of PyTorch's OpInfo database against ours: samples forward and backward, error inputs.

In flows the name of an op; out flow results, one for every sample and error input, each a dict with
`kind` (forward, gradient, error), the `sample` in words, and `why` (None where all is well).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import Any

import reference
import torch
from adapt import Entry, LeftOut, Ours, Wide, automatic, caller, leaves, mapped, matches
from reference import SEED
from table import DIFFERENT, ERRORS, TABLE
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import SampleInput

import deepseek as ds
from deepseek.config import override
from deepseek.errors import DeepseekError

Result = dict[str, Any]


def database() -> dict[str, Any]:
    """PyTorch's OpInfo of every op that takes float32 on a CPU."""
    return {op.full_name: op for op in op_db if torch.float32 in op.supported_dtypes("cpu")}


def entry_for(name: str) -> Entry:
    """What the table says; where it is silent, ours of the same name."""
    return TABLE[name] if name in TABLE else automatic(name)


def spread(items: list[Any], most: int) -> list[tuple[int, Any]]:
    """At most so many items with their numbers, evenly spread."""
    if most <= 0 or len(items) <= most:
        return list(enumerate(items))
    chosen = sorted({round(i * (len(items) - 1) / (most - 1)) for i in range(most)})
    return [(i, items[i]) for i in chosen]


def run(op: Any, most: int, start: int) -> Iterator[Result]:
    """The results of one op; a `begin` before each says what would be to blame for a crash."""
    entry = entry_for(op.full_name)
    torch.manual_seed(SEED)
    samples = list(op.sample_inputs("cpu", torch.float32, requires_grad=op.supports_autograd))
    number = 0
    for index, sample in spread(samples, most):
        number += 1
        if number > start:
            yield {"kind": "begin", "number": number, "sample": described(sample)}
            yield from run_sample(op, entry, index, sample)
    errors = list(op.error_inputs("cpu")) if op.error_inputs_func is not None else []
    for index, error in enumerate(errors):
        number += 1
        if number > start:
            yield {"kind": "begin", "number": number, "sample": described(error.sample_input)}
            yield run_error(entry, index, error)


def described(sample: SampleInput) -> str:
    """A sample's arguments in words."""

    def leaf(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            kind = str(value.dtype).removeprefix("torch.")
            return f"{kind}{list(value.shape)}"
        return str(value) if callable(value) else repr(value)

    given = [mapped(v, leaf) for v in (sample.input, *sample.args)]
    named = [f"{k}={mapped(v, leaf)}" for k, v in sample.kwargs.items()]
    return ", ".join([str(v) for v in given] + named).replace("'", "")[:300]


def inputs_of(sample: SampleInput, change: Callable[[Any], Any]) -> tuple[Any, Any, Any]:
    return (
        mapped(sample.input, change),
        mapped(tuple(sample.args), change),
        mapped(sample.kwargs, change),
    )


def run_sample(op: Any, entry: Entry, index: int, sample: SampleInput) -> Iterator[Result]:
    """One sample forward and backward."""
    what = {"index": index, "sample": described(sample)}
    try:
        given = (sample.input, *sample.args)
        reason = entry.left_out(*given, **sample.kwargs) if entry.left_out else None
        if reason:
            raise LeftOut(reason)
        convert = Ours()
        first, args, kwargs = inputs_of(sample, convert)
    except LeftOut as left:
        yield {"kind": "left_out", "why": str(left), **what}
        return

    def theirs(change: Wide, seed: int = SEED) -> Any:
        a, b, c = inputs_of(sample, change)
        a = entry.before[0](a) if entry.before else a
        with reference.seeded(seed):
            result = op.gradcheck_wrapper(op, a, *b, **c) if entry.wrapped else op(a, *b, **c)
        if entry.processed:
            return sample.output_process_fn_grad(result)
        return entry.outputs(result) if entry.outputs else result

    try:
        pair = reference.both(theirs)
    except Exception as error:
        why = f"PyTorch itself fails: {error}"[:200]
        yield {"kind": "left_out", "why": why, **what}
        return
    check = "type" if pair.random else entry.check
    got: list[Any] = []
    try:
        given = entry.before[1](first) if entry.before else first
        ours = caller(entry)(given, *args, **kwargs)
        if entry.processed:
            ours = sample.output_process_fn_grad(ours)
        got = [v for v in leaves(ours) if v is not None]
        why = reference.compared(got, pair, check, entry.tolerance, entry.scale)
    except LeftOut as left:
        yield {"kind": "left_out", "why": str(left), **what}
        return
    except Exception as error:
        why = failure(error)
        reason = matches(why, DIFFERENT) if isinstance(error, DeepseekError) else None
        if reason is not None:
            yield {"kind": "left_out", "why": reason, **what}
            return
    yield {"kind": "forward", "why": why, **what}
    if not (entry.gradients and op.supports_autograd and check != "type"):
        return
    inputs = pair.inputs()
    if not pair.differentiable() or not inputs:
        return
    if got and len(got) == len(pair.narrow):
        taken = [convert.made[key] for key in inputs]
        try:
            why = reference.gradients(got, taken, pair, inputs, entry.tolerance, entry.scale)
        except Exception as error:
            why = failure(error)
    yield {"kind": "gradient", "why": why, **what}


def failure(error: Exception) -> str:
    """What was raised, and where in our code if it was not meant as an error."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if isinstance(error, DeepseekError):
        return f"raised {text}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = last.filename.rsplit("deepseek/", 1)[-1].rsplit("oracle/", 1)[-1]
    return f"raised {text} ({place}:{last.lineno})"


def run_error(entry: Entry, index: int, error: Any) -> Result:
    """Whether a call that PyTorch refuses is refused by us too, with an error of ours."""
    sample = error.sample_input
    said = str(error.error_regex)
    result = {"kind": "error", "index": index, "sample": described(sample), "theirs": said}
    reason = matches(said, {**ERRORS, **(entry.lenient or {})})
    if reason is not None:
        return {**result, "kind": "lenient", "why": reason}
    try:
        first, args, kwargs = inputs_of(sample, Ours())
        with override(verify=1):  # looks at the indices in tensors
            for value in leaves(caller(entry)(first, *args, **kwargs)):
                if isinstance(value, ds.Tensor):
                    value.numpy()
    except LeftOut as left:
        return {**result, "kind": "lenient", "why": str(left)}
    except DeepseekError:
        return {**result, "why": None}
    except Exception as problem:
        if isinstance(problem, TypeError) and refused_by_signature(problem):
            return {**result, "why": None}
        return {**result, "why": failure(problem)}
    return {**result, "why": f"no error; PyTorch says: {said}"}


def refused_by_signature(error: TypeError) -> bool:
    """Whether Python itself refused the arguments of the function that was called."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [f for f in frames if "/deepseek/" in f.filename and "spelling" not in f.filename]
    return not inside and "argument" in str(error)
