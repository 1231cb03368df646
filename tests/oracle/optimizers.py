"""One optimizer of PyTorch's database against ours: the parameters after each of some steps.

Every set of options is run twice: from the start, and with PyTorch's state dict loaded half way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from adapt import LeftOut, Ours, as_numpy, mapped, matches
from compare import difference
from ops import Result, failure, refused_by_signature, spread
from reference import SEED
from table import ERRORS, OPTIMIZER_ERRORS
from torch.testing._internal.common_optimizers import optim_db

import deepseek as ds
from deepseek.errors import DeepseekError

SHAPES = ((3, 4), (5,), (2, 3, 4))
STEPS = 5
# How PyTorch computes a step, rather than what.
HOW = ("foreach", "fused", "capturable", "differentiable")


def database() -> dict[str, Any]:
    return {info.optim_cls.__name__: info for info in optim_db}


def ours_of(name: str) -> Any:
    """The class of ours, or None."""
    return getattr(ds.optim, name, None)


def run(info: Any, most: int, start: int) -> Iterator[Result]:
    """The results of one optimizer, for each set of options of the database."""
    name = info.optim_cls.__name__
    cases = info.optim_inputs_func("cpu")
    number = 0
    for index, case in spread(cases, most):
        number += 1
        if number > start:
            sample = f"{mapped(case.kwargs, repr)}".replace("'", "")
            yield {"kind": "begin", "number": number, "sample": sample}
            for result in run_case(name, info, case.kwargs):
                yield {"index": index, "sample": sample, **result}
    errors = info.optim_error_inputs_func("cpu", torch.float32)
    for index, error in enumerate(errors):
        number += 1
        if number > start:
            given = error.optimizer_error_input
            sample = f"{type(given.params).__name__}, {given.kwargs}"[:200]
            yield {"kind": "begin", "number": number, "sample": sample}
            yield {"index": index, "sample": sample, **run_error(name, error, given)}


def made(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    rng = np.random.default_rng(SEED)
    values = [np.asarray(rng.standard_normal(s), np.float32) for s in SHAPES]
    return [torch.nn.Parameter(torch.from_numpy(v).to(dtype)) for v in values]


def loss_of(parameters: Any, step: int, sum_of: Callable[[Any], Any], as_: Any, bowl: bool) -> Any:
    """A loss whose gradients are other ones at each step; a bowl for those that search a line."""
    rng = np.random.default_rng(SEED + (0 if bowl else step + 1))
    total: Any = 0.0
    for p in parameters:
        weight = as_(np.asarray(rng.standard_normal(tuple(p.shape)), np.float32))
        term = (p - weight) * (p - weight) * (weight * weight + 0.5) if bowl else p * weight
        total = total + sum_of(term)
    return total


def stepped(optimizer: Any, parameters: Any, step: int, sum_of: Any, as_: Any, bowl: bool) -> None:
    def closure() -> Any:
        optimizer.zero_grad()
        loss = loss_of(parameters, step, sum_of, as_, bowl)
        loss.backward()
        return loss

    if bowl:
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()


def run_case(name: str, info: Any, kwargs: dict[str, Any]) -> Iterator[Result]:
    bowl = info.step_requires_closure
    their = []
    for dtype in (torch.float32, torch.float64):
        parameters = made(dtype)
        optimizer = info.optim_cls(parameters, **{k: v for k, v in kwargs.items()})
        their.append((parameters, optimizer, [], []))
        for step in range(STEPS):
            their[-1][3].append(plain(optimizer.state_dict()))
            stepped(optimizer, parameters, step, torch.sum,
                    lambda x, dtype=dtype: torch.from_numpy(x).to(dtype), bowl)  # fmt: skip
            their[-1][2].append([p.detach().clone() for p in parameters])
    for resumed in (False, True):
        how = "resumed from PyTorch's state" if resumed else "from the start"
        first = STEPS // 2 if resumed else 0
        try:
            options = {k: mapped(v, Ours()) for k, v in kwargs.items() if k not in HOW}
            start = made(torch.float32) if not resumed else their[0][2][first - 1]
            ours = [ds.asarray(as_numpy(p).copy(), requires_grad=True) for p in start]
            optimizer = ours_of(name)(ours, **options)
            if resumed:
                optimizer.load_state_dict(their[0][3][first])
            why = None
            for step in range(first, STEPS):
                stepped(optimizer, ours, step, ds.sum, ds.asarray, bowl)
                for i, p in enumerate(ours):
                    narrow, wide = their[0][2][step][i], their[1][2][step][i]
                    off = difference(p.detach(), narrow, wide, "all", 4)
                    if why is None and off is not None:
                        why = f"{how}, step {step + 1}: parameter {i}: {off}"
            if why is None:
                why = taken_back(info, kwargs, optimizer, ours, bowl)
        except LeftOut as left:
            yield {"kind": "left_out", "why": str(left)}
            return
        except Exception as error:
            why = f"{how}: {failure(error)}"
        yield {"kind": "forward", "why": why}


def plain(state: Any) -> Any:
    """A state dict of PyTorch's with our tensors, as ours reads it from a file."""
    if isinstance(state, dict):
        return {k: plain(v) for k, v in state.items()}
    if isinstance(state, list):
        return [plain(v) for v in state]
    return ds.asarray(as_numpy(state).copy()) if isinstance(state, torch.Tensor) else state


def taken_back(
    info: Any, kwargs: dict[str, Any], optimizer: Any, ours: Any, bowl: bool
) -> str | None:
    """How one more step differs from PyTorch's, which goes on from our state dict."""
    parameters = [torch.nn.Parameter(torch.from_numpy(p.numpy().copy())) for p in ours]
    theirs = info.optim_cls(parameters, **kwargs)
    theirs.load_state_dict(tensors(optimizer.state_dict()))
    stepped(theirs, parameters, STEPS, torch.sum, torch.from_numpy, bowl)
    stepped(optimizer, ours, STEPS, ds.sum, ds.asarray, bowl)
    for i, (p, wanted) in enumerate(zip(ours, parameters, strict=True)):
        why = difference(p.detach(), wanted.detach(), wanted.detach(), "all", 4)
        if why is not None:
            return f"PyTorch with our state: parameter {i}: {why}"
    return None


def tensors(state: Any) -> Any:
    """A state dict of ours with PyTorch's tensors."""
    if isinstance(state, dict):
        return {k: tensors(v) for k, v in state.items()}
    if isinstance(state, list):
        return [tensors(v) for v in state]
    return torch.from_numpy(state.numpy().copy()) if isinstance(state, ds.Tensor) else state


def run_error(name: str, error: Any, given: Any) -> Result:
    """Whether what PyTorch refuses is refused by us too."""
    said = str(error.error_regex)
    result = {"kind": "error", "theirs": said}
    reason = matches(said, {**ERRORS, **OPTIMIZER_ERRORS})
    if set(given.kwargs) & set(HOW):
        reason = "says how PyTorch computes a step, which is no option here"
    if reason is not None:
        return {**result, "kind": "lenient", "why": reason}
    try:
        convert = Ours()
        params = given.params if given.params is not None else made(torch.float32)
        options = {k: mapped(v, convert) for k, v in given.kwargs.items() if k not in HOW}
        ours_of(name)(mapped(params, convert), **options)
    except DeepseekError:
        return {**result, "why": None}
    except Exception as problem:
        if isinstance(problem, TypeError) and refused_by_signature(problem):
            return {**result, "why": None}
        return {**result, "why": failure(problem)}
    return {**result, "why": f"no error; PyTorch says: {said}"}
