"""One layer of PyTorch's module database against ours of the same name, with its weights.

In flows the name; out flow results as for ops. The state dict of PyTorch's layer has to load, with
the same keys, and after a call in training mode the buffers are compared too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import reference
import torch
from adapt import LOG_SOFTMAX, LeftOut, Ours, Wide, as_numpy, leaves, mapped, matches
from compare import difference
from ops import Result, described, failure, refused_by_signature, spread
from reference import SEED
from table import DIFFERENT, ERRORS
from torch.nn.modules.lazy import LazyModuleMixin
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
from torch.testing._internal.opinfo.core import SampleInput

import deepseek as ds
from deepseek.config import override
from deepseek.errors import DeepseekError

BEFORE = {"CTCLoss": LOG_SOFTMAX}  # what the first argument passes through, in both
HOW = ("device", "dtype")  # how a layer of PyTorch's is made, rather than what it is


def database() -> dict[str, Any]:
    return {info.name.removeprefix("nn."): info for info in module_db}


def ours_of(name: str) -> Any:
    """The class of ours, or None."""
    return getattr(ds.nn, name, None)


def run(info: Any, most: int, start: int) -> Iterator[Result]:
    """The results of one layer, in training mode and not."""
    torch.manual_seed(SEED)
    cases, errors = [], []
    for training in (True, False):
        arguments = info, "cpu", torch.float32, True, training
        cases += [(training, case) for case in info.module_inputs_func(*arguments)]
        if info.module_error_inputs_func is not None and training:
            errors += info.module_error_inputs_func(*arguments)
    number = 0
    for index, (training, case) in spread(cases, most):
        number += 1
        if number > start:
            sample = words(case, training)
            yield {"kind": "begin", "number": number, "sample": sample}
            for result in run_case(info, case, training):
                yield {"index": index, "sample": sample, **result}
    for index, error in enumerate(errors):
        number += 1
        if number > start:
            case = error.module_error_input
            sample = words(case, True)
            yield {"kind": "begin", "number": number, "sample": sample}
            yield {"index": index, "sample": sample, **run_error(info, error, case)}


def words(case: Any, training: bool) -> str:
    made = case.constructor_input
    given = described(SampleInput(None, args=tuple(made.args), kwargs=made.kwargs))
    call = case.forward_input
    taken = "" if call is None else described(
        SampleInput(None, args=tuple(call.args), kwargs=call.kwargs)
    )  # fmt: skip
    mode = "train" if training else "eval"
    text = f"({given}) on ({taken}), {mode}".replace("(None, ", "(").replace("(None)", "()")
    return " ".join(text.split())


def constructed(info: Any, case: Any) -> Any:
    """Our layer, made with the same arguments."""
    made = case.constructor_input
    convert = Ours()
    kwargs = {k: mapped(v, convert) for k, v in made.kwargs.items() if k not in HOW}
    name = info.name.removeprefix("nn.")
    return ours_of(name)(*(mapped(v, convert) for v in made.args), **kwargs)


def called(layer: Any, call: Any, convert: Ours, before: Any = None) -> Any:
    """Our layer called with the same arguments; PyTorch's first one is named `input`."""
    kwargs = {k: mapped(v, convert) for k, v in call.kwargs.items()}
    args = [mapped(v, convert) for v in call.args]
    if "input" in kwargs:
        args.insert(0, kwargs.pop("input"))
    if before is not None:
        args[0] = before(args[0])
    return layer(*args, **kwargs)


def run_case(info: Any, case: Any, training: bool) -> Iterator[Result]:
    made, call = case.constructor_input, case.forward_input
    torch.manual_seed(SEED)
    narrow = info.module_cls(*made.args, **made.kwargs).train(training)
    if isinstance(narrow, LazyModuleMixin):  # which is copied once it has its sizes
        narrow(*(mapped(v, Wide(False)) for v in call.args), **call.kwargs)
    wide = copy.deepcopy(narrow).double()
    state = {k: as_numpy(v).copy() for k, v in narrow.state_dict().items()}

    before = BEFORE.get(info.name.removeprefix("nn."))

    def theirs(change: Wide, seed: int = SEED) -> Any:
        layer = wide if change.wide else narrow if seed == SEED else copy.deepcopy(narrow)
        torch.manual_seed(seed)
        kwargs = {k: mapped(v, change) for k, v in call.kwargs.items()}
        args = [mapped(v, change) for v in call.args]
        if before is not None:
            args[0] = before[0](args[0])
        return layer(*args, **kwargs)

    try:
        pair = reference.both(theirs)
    except Exception as error:
        yield {"kind": "left_out", "why": f"PyTorch itself fails: {error}"[:200]}
        return
    check = "type" if pair.random else "all"
    got: list[Any] = []
    try:
        layer = constructed(info, case)
        layer.load_state_dict(state)
        layer.train(training)
        convert = Ours()
        result = called(layer, call, convert, before and before[1])
        got = [v for v in leaves(result) if v is not None]
        why = reference.compared(got, pair, check, 4)
        if why is None:
            why = buffers(layer, narrow, wide)
    except LeftOut as left:
        yield {"kind": "left_out", "why": str(left)}
        return
    except Exception as error:
        why = failure(error)
        reason = matches(why, DIFFERENT) if isinstance(error, DeepseekError) else None
        if reason is not None:
            yield {"kind": "left_out", "why": reason}
            return
    yield {"kind": "forward", "why": why}
    inputs = pair.inputs()
    if check == "type" or not pair.differentiable():
        return
    if got and len(got) == len(pair.narrow):
        names = [name for name, p in narrow.named_parameters() if p.requires_grad]
        their = [dict(layer.named_parameters()) for layer in (narrow, wide)]
        parameters = dict(layer.named_parameters())
        try:
            why = reference.backward(
                got,
                [convert.made[k] for k in inputs] + [parameters[n] for n in names],
                pair,
                [pair.made[0].made[k] for k in inputs] + [their[0][n] for n in names],
                [pair.made[1].made[k] for k in inputs] + [their[1][n] for n in names],
                4,
                [f"input {list(convert.made[k].shape)}" for k in inputs] + names,
            )
        except Exception as error:
            why = failure(error)
    yield {"kind": "gradient", "why": why}


def buffers(layer: Any, narrow: Any, wide: Any) -> str | None:
    """How buffers differ after the call, and which keys of the state dict."""
    ours, theirs, wider = (m.state_dict() for m in (layer, narrow, wide))
    if list(ours) != list(theirs):
        return f"state dict {list(ours)} instead of {list(theirs)}"
    for key in theirs:
        why = difference(ours[key], theirs[key], wider[key], "all", 4)
        if why is not None:
            return f"{key}: {why}"
    return None


def run_error(info: Any, error: Any, case: Any) -> Result:
    """Whether what PyTorch refuses to make or to take is refused by us too."""
    said = str(error.error_regex)
    result = {"kind": "error", "theirs": said}
    reason = matches(said, ERRORS)
    if reason is not None:
        return {**result, "kind": "lenient", "why": reason}
    try:
        with override(verify=1):  # looks at the indices in tensors
            layer = constructed(info, case)
            if error.error_on is ModuleErrorEnum.FORWARD_ERROR:
                for value in leaves(called(layer, case.forward_input, Ours())):
                    if isinstance(value, ds.Tensor):
                        value.numpy()
    except DeepseekError:
        return {**result, "why": None}
    except Exception as problem:
        if isinstance(problem, TypeError) and refused_by_signature(problem):
            return {**result, "why": None}
        return {**result, "why": failure(problem)}
    return {**result, "why": f"no error; PyTorch says: {said}"}
