"""Optimizer: parameter groups, their state, and one update that is the same graph at every step.

State is made at construction, so that the first step has the structure of all later ones. An update
is written with ordinary ops on each parameter and gives the handles new values; hyper-parameters
are read by `hyper`, so that inside `@ds.jit` they are inputs of the compiled step rather than
constants in it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from deepseek.errors import ArgumentError, DTypeError
from deepseek.frontend.tensor import Tensor, enable_grad, leaf_like, no_grad, state
from deepseek.ir.dtype import float32
from deepseek.nn.module import clear_grad, loaded
from deepseek.nn.parameter import assign, computed_full, settle

Group = dict[str, Any]
State = dict[str, Tensor]


class Optimizer:
    """Base of the optimizers.

    Subclasses define `state_names`, which tensors each parameter needs, and `update`, which
    computes one step of a group.
    """

    _ds_children_ = ("param_groups", "state")  # what a compiled function's guards look at

    def __init__(self, params: Iterable[Any], defaults: Mapping[str, Any]) -> None:
        self.defaults = dict(defaults)
        self.state: dict[Tensor, State] = {}
        self.param_groups: list[Group] = []
        given = [params] if isinstance(params, (Tensor, Mapping)) else list(params)
        if not given:
            raise ArgumentError(f"{type(self).__name__}: got no parameters; wanted at least one")
        groups = given if isinstance(given[0], Mapping) else [{"params": given}]
        for group in groups:
            self.add_param_group(group)

    def state_names(self, group: Group) -> Sequence[str]:
        """The names of the tensors that an update of a group needs.

        `step` counts the updates; all others are shaped like the parameter.
        """
        raise NotImplementedError

    def update(self, group: Group, parameters: Sequence[Tensor]) -> None:
        """Give the parameters of a group, and their state, the values after one step."""
        raise NotImplementedError

    def check(self, group: Group) -> None:
        """Raise ArgumentError if a hyper-parameter of a group is not valid."""

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with hyper-parameters of their own: `{"params": [...], "lr": ...}`."""
        name = type(self).__name__
        if not isinstance(group, Mapping) or "params" not in group:
            raise ArgumentError(f"{name}: got {group!r}; wanted a dict with 'params'")
        params = group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        known = set(self.state)
        for p in params:
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
            known.add(p)
        made = self.defaults | dict(group) | {"params": params}
        self.check(made)
        self.param_groups.append(made)
        self._make_state(made)

    def _make_state(self, group: Group) -> None:
        """Make the state that is not there yet; a group shares one tensor for the step count."""
        step: Tensor | None = None
        for p in group["params"]:
            own = self.state.setdefault(p, {})
            for name in self.state_names(group):
                if name in own:
                    continue
                if name != "step":
                    own[name] = computed_full(p.shape, 0.0, p.dtype)
                    continue
                if step is None:
                    step = computed_full((), 0.0, float32)
                own[name] = step

    # ---------------------------------------------------------------------------------- steps

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
        gradients = []
        with no_grad():
            for group in self.param_groups:
                if state.trace is None:
                    self._make_state(group)  # a hyper-parameter may ask for more than before
                parameters = [p for p in group["params"] if p.grad is not None]
                gradients += [p.grad for p in parameters]
                if parameters:
                    self.update(group, parameters)
                note_consumed(parameters)
        settle(*gradients)
        return result

    def parameters(self) -> Iterator[Tensor]:
        """The parameters of all groups."""
        return (p for group in self.param_groups for p in group["params"])

    def advanced(
        self, group: Group, parameters: Sequence[Tensor]
    ) -> list[tuple[Tensor, list[Tensor]]]:
        """Count a step for the parameters: (number of steps, those that are there) for each number.

        Parameters of a group share one count as long as they all have gradients.
        """
        sharing: dict[Tensor, list[Tensor]] = {}
        if not parameters:
            return []
        for p in parameters:
            sharing.setdefault(self.state[p]["step"], []).append(p)
        going = set(parameters)
        for p in group["params"]:
            step = self.state[p].get("step")
            if p not in going and step in sharing:
                self.state[p]["step"] = another_handle(step)
        counted = []
        for step, members in sharing.items():
            new = step + 1
            assign(step, new)
            counted.append((new, members))
        return counted

    # ---------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """State and hyper-parameters in PyTorch's layout: parameters are numbered in order."""
        number = {p: i for i, p in enumerate(self.parameters())}
        return {
            "state": {
                number[p]: {k: Tensor(leaf_like(t._computed(), False)) for k, t in own.items()}
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
        """Take over a `state_dict`.

        Raises ArgumentError, and changes nothing, where groups, parameters or shapes differ.
        """
        problems: list[str] = []
        saved = state_dict["param_groups"]
        sizes = [len(group["params"]) for group in saved]
        wanted = [len(group["params"]) for group in self.param_groups]
        if sizes != wanted:
            raise self._misfit([f"got groups of {sizes} parameters; wanted groups of {wanted}"])
        numbers = [i for group in saved for i in group["params"]]
        for i, group in enumerate(self.param_groups):
            self.check(group | {k: v for k, v in saved[i].items() if k != "params"})
        found: list[tuple[Tensor, str, Tensor]] = []
        for number, p in zip(numbers, self.parameters(), strict=True):
            for name, given in state_dict["state"].get(number, {}).items():
                if given is None:
                    continue
                shape = () if name == "step" else p.shape
                tensor = as_state(given)
                if tensor is None or tuple(tensor.shape) != shape:
                    got = f"shape {tensor.shape}" if tensor is not None else repr(given)
                    problems.append(f"parameter {number}, {name}: got {got}; wanted shape {shape}")
                else:
                    dtype = float32 if name == "step" else p.dtype
                    found.append((p, name, loaded(tensor, dtype)))
        if problems:
            raise self._misfit(problems)
        for i, group in enumerate(self.param_groups):
            group.update({k: v for k, v in saved[i].items() if k != "params"})
            self._make_state(group)
        for p, name, tensor in found:
            self._put(p, name, tensor)
        self._share_steps()

    def _put(self, p: Tensor, name: str, tensor: Tensor) -> None:
        """Take over one loaded tensor; a step count is let go from those that shared it."""
        own = self.state[p]
        if name in own and name != "step":
            assign(own[name], tensor)
        else:
            own[name] = tensor

    def _share_steps(self) -> None:
        """Let the parameters of a group that were updated equally often share one count."""
        for group in self.param_groups:
            counts: dict[float, Tensor] = {}
            for p in group["params"]:
                step = self.state[p].get("step")
                if step is not None:
                    self.state[p]["step"] = counts.setdefault(float(step), step)

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


def hyper(group: Group, name: str, index: int | None = None) -> Any:
    """A hyper-parameter of a group, or an element of one.

    Inside `@ds.jit` it is a symbolic number, which stands beside tensors like a Python number and
    whose value is read anew at each call.
    """
    container, key = (group[name], index) if index is not None else (group, name)
    number = getattr(state.trace, "number", None)
    if number is not None:
        return number(container, key)
    return container[key]


def note_consumed(parameters: Iterable[Tensor]) -> None:
    """Tell the trace that goes on, if any, that these gradients have served their purpose."""
    consumed = getattr(state.trace, "note_consumed", None)
    if consumed is not None:
        for p in parameters:
            consumed(p)


def wide(x: Tensor) -> Tensor:
    """x in the type that it is computed in: float32 for the 16-bit floats."""
    return x.astype(x.dtype.accumulator)


def gradient_of(p: Tensor, group: Group) -> Tensor:
    """The gradient to descend along, in the type that it is computed in."""
    assert p.grad is not None
    g = wide(p.grad)
    return -g if group["maximize"] else g


def decayed(g: Tensor, p: Tensor, weight_decay: Any) -> Tensor:
    """The gradient with that of weight_decay / 2 * p**2 added."""
    if type(weight_decay) in (int, float) and weight_decay == 0:  # not a symbolic number
        return g
    return g + weight_decay * wide(p)


def another_handle(x: Tensor) -> Tensor:
    """A second handle on the value that x shows; x stays the value's own."""
    other = Tensor(x._value)
    x._value.handle = weakref.ref(x)
    return other


def as_state(given: Any) -> Tensor | None:
    """A tensor from what a state dict holds, None if it holds something else."""
    if isinstance(given, Tensor):
        return given
    if isinstance(given, (int, float)):
        return computed_full((), given, float32)
    return None


def at_least(group: Group, name: str, low: float, below: float | None = None) -> None:
    """Raise ArgumentError unless a Python number in a group lies in [low, below)."""
    value = group[name]
    for number in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(number, Tensor):
            continue
        if not isinstance(number, (int, float)) or number < low or (below and number >= below):
            bound = f" and < {below}" if below else ""
            raise ArgumentError(f"{name}: got {value!r}; wanted a number >= {low}{bound}")
