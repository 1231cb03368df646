"""Optimizer: parameter groups, their state, and one update that is the same graph at every step.

State is made at construction, so that the first step has the structure of all later ones. A class
of its own states a rule for one parameter in ordinary ops; this one applies it to all parameters,
whose handles get new values. Inside `@ds.jit` that is part of the one compiled step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from deepseek.config import options
from deepseek.errors import ArgumentError, DTypeError, is_internal, unknown
from deepseek.frontend.tensor import Tensor, enable_grad, leaf_like, no_grad, state, tracing
from deepseek.ir.dtype import DType, float32, float64
from deepseek.ir.recent import Recent
from deepseek.late import late
from deepseek.nn.parameter import assign, clear_grad, computed_full, loaded, settle
from deepseek.ops import where
from deepseek.optim.rule import (
    Group,
    Hyper,
    Slots,
    State,
    another_handle,
    in_range,
    note_consumed,
    wide,
)
from deepseek.repetition import Recording, Start

functions = late("deepseek.compiler.function")
tiers = late("deepseek.compiler.tiers")

Named = list[tuple[Tensor, str, Any]]
Known = tuple[tuple[str, ...], Recording]  # names of state, "" for the parameter: what they become


class Optimizer:
    """Base of the optimizers: `params` are tensors, (name, tensor) pairs or groups of them.

    Subclasses say which state each parameter has (`state_names`), what one step has in common for
    all (`factors`), and the new value of one parameter (`rule`).

    Raises ArgumentError for no parameters, a parameter given twice, one computed by an op, and
    hyper-parameters out of range; DTypeError for parameters that are not floats.

    >>> p = ds.nn.Parameter(ds.asarray([1.0]))
    >>> optimizer = ds.optim.SGD([{"params": [p], "lr": 0.5}], lr=0.1)
    >>> (p * p).backward()
    >>> optimizer.step()
    >>> p, optimizer.param_groups[0]["lr"]
    (Parameter containing:
    tensor([0.], requires_grad=True), 0.5)
    """

    # What a compiled function's guards look at.
    _ds_children_: ClassVar[tuple[str, ...]] = ("param_groups", "state")

    # [low, high) of hyper-parameters; None: no bound. Elements of tuples are looked at one by one.
    bounds: ClassVar[dict[str, tuple[float, float | None]]] = {"lr": (0, None)}
    # 0-d state, and what it starts with. Parameters of a group that are updated together share it.
    scalars: ClassVar[dict[str, float]] = {"step": 0.0}

    def __init__(self, params: Iterable[Any], defaults: Mapping[str, Any]) -> None:
        self.defaults = dict(defaults)
        self.state: dict[Tensor, State] = {}
        self.param_groups: list[Group] = []
        # A 0-d bool for the time of a step: where it is true, the step changes nothing.
        self.found_inf: Tensor | None = None
        if isinstance(params, (set, frozenset)):
            raise ArgumentError(
                f"{type(self).__name__}: got a set of parameters; wanted them in a fixed order\n"
                "  help: pass a list, or model.parameters()"
            )
        given = [params] if isinstance(params, (Tensor, Mapping)) else list(params)
        if not given:
            raise ArgumentError(f"{type(self).__name__}: got no parameters; wanted at least one")
        groups: Any = given if isinstance(given[0], Mapping) else [{"params": given}]
        for group in groups:
            self.add_param_group(group)

    # ----------------------------------------------------------------- what a subclass has to say

    def state_names(self, group: Group, p: Tensor) -> Sequence[str]:
        """The names of the state of a parameter, those in `scalars` among them."""
        raise NotImplementedError

    def initial(self, name: str, group: Group, p: Tensor) -> Tensor:
        """What a state starts with: zeros like the parameter."""
        return computed_full(p.shape, 0.0, p.dtype, p)

    def factors(self, h: Hyper, s: Slots) -> dict[str, Tensor]:
        """0-d values in float64 that the rule reads of `h`; `s` is the scalar state, counted up."""
        return {}

    def rule(self, p: Tensor, g: Tensor, s: Slots, h: Hyper) -> Tensor:
        """The new value of a parameter, from its value, its gradient and its state."""
        raise NotImplementedError

    def check(self, group: Group) -> None:
        """Raise ArgumentError if a hyper-parameter of a group is not valid."""
        for name, (low, high) in self.bounds.items():
            in_range(group, name, low, high)
        if "betas" in group and len(group["betas"]) != 2:
            raise ArgumentError(f"betas: got {group['betas']!r}; wanted two numbers")

    def completed(self, own: Mapping[str, Any], group: Group) -> Mapping[str, Any]:
        """A parameter's part of a state dict, with what PyTorch's layout leaves out."""
        return own

    # --------------------------------------------------------------------------------- parameters

    def parameters(self) -> Iterator[Tensor]:
        """The parameters of all groups."""
        return (p for group in self.param_groups for p in group["params"])

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add parameters with hyper-parameters of their own: `{"params": [...], "lr": ...}`."""
        name = type(self).__name__
        if not isinstance(param_group, Mapping) or "params" not in param_group:
            raise ArgumentError(f"{name}: got {param_group!r}; wanted a dict with 'params'")
        params = param_group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        made = self.defaults | dict(param_group)
        if params and all(isinstance(p, tuple) and len(p) == 2 for p in params):
            made["param_names"] = [n for n, _ in params]
            params = [p for _, p in params]
        made["params"] = params
        known = set(self.state)
        for p in params:
            self._check_parameter(p, known)
            known.add(p)
        self.check(made)
        self.param_groups.append(made)
        self._make_state(made)

    def _check_parameter(self, p: Any, known: set[Tensor]) -> None:
        name = type(self).__name__
        if not isinstance(p, Tensor):
            raise ArgumentError(f"{name}: got a {type(p).__name__}; wanted tensors")
        if not p.dtype.is_float:
            raise DTypeError(f"{name}: got a parameter of type {p.dtype}; wanted a float dtype")
        if not p.is_leaf:
            raise ArgumentError(
                f"{name}: got {p._value.type} computed by an op; wanted a leaf\n"
                "  help: pass model.parameters(), or tensors made with requires_grad=True"
            )
        if p in known:
            raise ArgumentError(f"{name}: a parameter of type {p._value.type} appears twice")

    def _make_state(self, group: Group) -> None:
        """Make the state that is not there yet; a group shares its scalars."""
        shared: State = {}
        for p in group["params"]:
            own = self.state.setdefault(p, {})
            for name in self.state_names(group, p):
                if name in own:
                    continue
                if name in self.scalars:
                    if name not in shared:
                        shared[name] = self._scalar(name)
                    own[name] = shared[name]
                else:
                    own[name] = self.initial(name, group, p)

    def _scalar(self, name: str) -> Tensor:
        return computed_full((), self.scalars[name], scalar_dtype(name))

    # -------------------------------------------------------------------------------------- steps

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or make them zeros."""
        for p in self.parameters():
            clear_grad(p, set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns what `closure` gives."""
        result = None
        if closure is not None:
            with enable_grad():
                result = closure()
        gradients: list[Tensor] = []
        with no_grad():
            for group in self.param_groups:
                with tracing(None):  # what a changed hyper-parameter asks for exists outside
                    self._make_state(group)
                pairs = [(p, g) for p in group["params"] if (g := p.grad) is not None]
                parameters = [p for p, _ in pairs]
                gradients += [g for _, g in pairs]
                if parameters and self._is_compiled(parameters):
                    settle(*gradients)
                    self._run_update(group, parameters)
                elif parameters:
                    self._update(group, parameters)
                note_consumed(parameters)
        settle(*gradients)
        return result

    def _is_compiled(self, parameters: Sequence[Tensor]) -> bool:
        """Whether one step is a compiled call by now. Our own rules do nothing but compute."""
        if state.trace is not None or options.eager or not options.promote:
            return False
        if not type(self).__module__.startswith(__package__):
            return False
        key = type(self), tuple([p._value.type for p in parameters])
        times = (_met.get(key) or 0) + 1
        _met.put(key, times)
        return times >= tiers.PROMOTED_AT

    def _run_update(self, group: Group, parameters: list[Tensor]) -> None:
        """One step of a group's parameters as a compiled call."""
        if len(parameters) < len(group["params"]):
            self._together(group, parameters)
        given = {name: plain(group[name]) for name in self.defaults}
        states = [self.state[p] for p in parameters]
        compiled_step()(type(self), given, self.found_inf, parameters, states)

    def _update(self, group: Group, parameters: list[Tensor]) -> None:
        """One step of a group's parameters, which `found_inf` may undo."""
        if self.found_inf is None:
            self.update(group, parameters)
            return
        states = [t for p in parameters for t in self.state[p].values()]
        before = [(t, another_handle(t)) for t in dict.fromkeys([*parameters, *states])]
        self.update(group, parameters)
        for tensor, old in before:
            assign(tensor, where(self.found_inf, old, tensor))

    def update(self, group: Group, parameters: Sequence[Tensor]) -> None:
        """Give the parameters of a group, and their state, the values after one step."""
        h = Hyper(group)
        for members in self._together(group, parameters):
            shared = Slots(self.state[members[0]])
            if "step" in shared:
                shared.step = shared.step + 1
            factors = self.factors(h, shared)
            by_dtype: dict[DType, Hyper] = {}
            known: dict[Any, Known] = {}
            for p in members:
                dtype = p.dtype.accumulator
                if dtype not in by_dtype:
                    by_dtype[dtype] = h.along(factors, dtype)
                self._update_one(p, group, by_dtype[dtype], known)

    def _update_one(self, p: Tensor, group: Group, h: Hyper, known: dict[Any, Known]) -> None:
        """Give a parameter and its state the values after one step.

        Our own rules do nothing but compute: they run once for parameters of one type, of which
        `known` has what was recorded.
        """
        assert p.grad is not None
        own = {name: x for name, x in self.state[p].items() if name not in self.scalars}
        given = [x._value for x in (p, p.grad, *own.values())]
        key = tuple([v.type for v in given]), tuple(own)
        if key in known:
            names, recorded = known[key]
            for name, value in zip(names, recorded.repeat(given), strict=True):
                assign(own[name] if name else p, Tensor(value))
            return
        start = Start()
        g = wide(p.grad)
        g = -g if group.get("maximize") else g
        slots = Slots(self.state[p])
        new = self.rule(wide(p), g, slots, h).astype(p.dtype)
        results = slots._written | {"": new}
        recorded = start.recording(given, [x._value for x in results.values()])
        ours = is_internal(type(self).rule.__code__.co_filename)
        if ours and recorded is not None and results.keys() <= {"", *own}:
            known[key] = tuple(results), recorded
        assign(p, new)

    def _together(self, group: Group, parameters: Sequence[Tensor]) -> list[list[Tensor]]:
        """The parameters that share their scalars; those that stay behind get their own."""
        sharing: dict[tuple[Tensor, ...], list[Tensor]] = {}
        for p in parameters:
            sharing.setdefault(self._scalars_of(p), []).append(p)
        going = set(parameters)
        left: dict[Tensor, Tensor] = {}
        for p in group["params"]:
            if p in going or self._scalars_of(p) not in sharing:
                continue
            own = self.state[p]
            for name in self.scalars:
                if name in own:
                    own[name] = left.setdefault(own[name], another_handle(own[name]))
        return list(sharing.values())

    def _scalars_of(self, p: Tensor) -> tuple[Tensor, ...]:
        own = self.state[p]
        return tuple([own[name] for name in self.scalars if name in own])

    # -------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """State and hyper-parameters in PyTorch's layout: parameters are numbered in order.

        `{"state": {0: {"step": ..., ...}, ...}, "param_groups": [{"lr": ..., "params": [0, ...]}]}`
        """
        number = {p: i for i, p in enumerate(self.parameters())}
        return {
            "state": {
                number[p]: {name: snapshot(x) for name, x in own.items()}
                for p, own in self.state.items()
                if own
            },
            "param_groups": [
                {k: v for k, v in group.items() if k != "params"}
                | {"params": [number[p] for p in group["params"]]}
                for group in self.param_groups
            ],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a `state_dict`, PyTorch's too; what it does not have starts anew.

        Raises ArgumentError, and changes nothing, where groups, parameters, names or shapes differ.
        """
        for key in ("state", "param_groups"):
            if key not in state_dict:
                raise self._misfit([f"got no {key!r}; it has {list(state_dict)}"])
        saved = state_dict["param_groups"]
        sizes = [len(group["params"]) for group in saved]
        wanted = [len(group["params"]) for group in self.param_groups]
        if sizes != wanted:
            raise self._misfit([f"got groups of {sizes} parameters; wanted groups of {wanted}"])
        groups = [
            group | {k: v for k, v in given.items() if k != "params"}
            for group, given in zip(self.param_groups, saved, strict=True)
        ]
        for group in groups:
            self.check(group)
        problems: list[str] = []
        found: Named = []
        for group, given in zip(groups, saved, strict=True):
            for number, p in zip(given["params"], group["params"], strict=True):
                own = self.completed(state_dict["state"].get(number) or {}, group)
                self._fit(number, p, group, own, found, problems)
        if problems:
            raise self._misfit(problems)
        for mine, group in zip(self.param_groups, groups, strict=True):
            mine.update(group)
        self._take_over(found)

    def _fit(
        self, number: int, p: Tensor, group: Group, own: Mapping[str, Any], found: Named,
        problems: list[str],
    ) -> None:  # fmt: skip
        """Hold a parameter's saved state against what it has to be."""
        names = self.state_names(group, p)
        given = {name: x for name, x in own.items() if x is not None}
        for name, x in given.items():
            if name not in names:
                problems.append(f"parameter {number}: {unknown('state', name, names)}")
                continue
            is_scalar = name in self.scalars
            like = self._scalar(name) if is_scalar else self.initial(name, group, p)
            if not isinstance(x, (Tensor, np.ndarray, np.generic, int, float)):
                problems.append(f"parameter {number}, {name}: got {x!r}; wanted a tensor")
            elif np.shape(x) != like.shape:
                text = f"got shape {np.shape(x)}; wanted shape {like.shape}"
                problems.append(f"parameter {number}, {name}: {text}")
            else:
                array = x if isinstance(x, Tensor) else np.asarray(x)
                found.append((p, name, loaded(array, like.dtype)))
        missing = [name for name in names if name not in given] if given else []
        if missing:
            problems.append(f"parameter {number}: {', '.join(missing)} is missing")

    def _take_over(self, found: Named) -> None:
        """Make what was loaded the state, and what was not as it is at the start."""
        given = {(p, name): x for p, name, x in found}
        for group in self.param_groups:
            before = {p: self.state[p] for p in group["params"]}
            self.state.update({p: {} for p in before})
            self._make_state(group)
            for p, old in before.items():
                own = self.state[p]
                for name in own:
                    own[name] = given.get((p, name), own[name])
                    if name in old and name not in self.scalars:  # the handle stays
                        own[name] = assign(old[name], own[name])
            self._share(group)

    def _share(self, group: Group) -> None:
        """Let the parameters of a group that agree in all scalars share them."""
        met: dict[tuple[float, ...], State] = {}
        for p in group["params"]:
            own = self.state[p]
            mine = {name: own[name] for name in self.scalars if name in own}
            own.update(met.setdefault(tuple(float(x) for x in mine.values()), mine))

    def _misfit(self, problems: list[str]) -> ArgumentError:
        listed = "\n  ".join(problems)
        return ArgumentError(
            f"the state does not fit {type(self).__name__}; nothing was loaded\n  {listed}"
        )

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {k}: {v}" for k, v in sorted(group.items()) if k != "params"]
        return "\n".join([*lines, ")"])


_met: Recent[Any, int] = Recent(1024)  # by rule and types of parameters: how many eager steps


def optimizer_step(
    rule: type[Optimizer], given: Group, found_inf: Tensor | None, parameters: list[Tensor],
    states: list[State],
) -> None:  # fmt: skip
    """One step of any of our rules; the arguments are all that it depends on."""
    optimizer = rule.__new__(rule)
    optimizer.state = dict(zip(parameters, states, strict=True))
    optimizer.found_inf = found_inf
    optimizer._update({**given, "params": parameters}, parameters)


def plain(x: Any) -> Any:
    """A hyper-parameter as compiled code takes it: numbers of a subclass as what they are."""
    if type(x) in (tuple, list):
        return type(x)(map(plain, x))
    kind = next((k for k in (bool, int, float) if isinstance(x, k)), None)
    return x if kind is None else kind(x)


@functools.cache
def compiled_step() -> Callable[..., None]:
    """The same as a compiled call, one for all optimizers there are."""
    compiled: Callable[..., None] = functions.jit(optimizer_step, dynamic=False)
    return compiled


def scalar_dtype(name: str) -> DType:
    """A count is kept as PyTorch keeps it; what is multiplied at each step, as exact as it gets."""
    return float32 if name == "step" else float64


def snapshot(x: Any) -> Any:
    """A state as it is now: a tensor that later steps do not change, or a list of them."""
    if isinstance(x, list):
        return [snapshot(part) for part in x]
    return Tensor(leaf_like(x._computed(), False)) if isinstance(x, Tensor) else x
