"""What an export did: the model's inputs and outputs, its operators, how it was proved.

The exporter fills it, hands it back, and writes it into the model's metadata as JSON.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Trial:
    """One run of the model beside deepseek: at which sizes, and how far off each output was."""

    sizes: dict[str, int]  # of the dynamic axes, by name
    errors: dict[str, float]  # in units of the largest element

    def __str__(self) -> str:
        where = ", ".join(f"{name}={size}" for name, size in self.sizes.items()) or "as given"
        return (
            f"{where}: off by {max(self.errors.values(), default=0.0):.1e} of the largest element"
        )


@dataclass
class Report:
    """The account of one exported model; print it.

    >>> report = ds.onnx.export(lambda x: x.tanh(), ds.randn(3), "tanh.onnx", opset=21)
    >>> report.opset, report.operators, report.outputs
    (21, Counter({'Tanh': 1}), {'output': 'float32[3]'})
    """

    path: str
    opset: int
    ir_version: int
    inputs: dict[str, str]  # name: type, with the names of dynamic sizes
    outputs: dict[str, str]
    operators: Counter[str]
    whole: Counter[str]  # composites written as one operator
    opened: Counter[str]  # composites written as what they expand to
    conditions: list[str] = field(default_factory=list)
    """What the trace found out about dynamic sizes, and took for granted."""
    checks: list[str] = field(default_factory=list)  # what the model passed before it ran
    runtime: str | None = None  # what ran the model for comparison
    trials: list[Trial] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # sizes that deepseek itself refuses, and why
    bytes: int = 0  # of the model and its data
    data: str | None = None  # the file beside it that holds the weights, if one does

    @property
    def errors(self) -> dict[str, float]:
        """For each output the largest difference from deepseek's, over all trials."""
        return {
            name: max(trial.errors[name] for trial in self.trials)
            for name in (self.trials[0].errors if self.trials else ())
        }

    def json(self) -> str:
        """What the model's metadata holds: all but where the files are."""
        held = {k: v for k, v in vars(self).items() if k not in ("path", "data", "bytes")}
        return json.dumps(held, default=vars)

    def __str__(self) -> str:
        lines = [f"{self.path}: opset {self.opset}, IR {self.ir_version}, "
                 f"{sum(self.operators.values())} nodes, {self.bytes:,} bytes"]  # fmt: skip
        if self.data is not None:
            lines.append(f"  data    {self.data}")
        lines += [f"  input   {name}: {text}" for name, text in self.inputs.items()]
        lines += [f"  output  {name}: {text}" for name, text in self.outputs.items()]
        lines.append(f"  nodes   {counted(self.operators)}")
        if self.whole:
            lines.append(f"  whole   {counted(self.whole)}")
        if self.opened:
            lines.append(f"  opened  {counted(self.opened)}")
        lines += [f"  holds   where {condition}" for condition in self.conditions]
        lines += [f"  passed  {check}" for check in self.checks]
        lines += [f"  passed  {self.runtime}, {trial}" for trial in self.trials]
        lines += [f"  not run {text}" for text in self.skipped]
        if self.runtime is None:
            lines.append("  not run: check=False")
        return "\n".join(lines)


def counted(counter: Counter[str]) -> str:
    """Names and how often, the most frequent first."""
    return ", ".join(f"{name} {n}" if n > 1 else name for name, n in counter.most_common())
