"""What an export did: the model's inputs and outputs, its operators, how it was checked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Report:
    """The account of one exported model; print it."""

    path: str
    opset: int
    inputs: dict[str, str]  # name: type, with the names of dynamic sizes
    outputs: dict[str, str]
    operators: Counter[str]
    bytes: int
    whole: Counter[str]  # composites written as one operator
    opened: Counter[str]  # composites written as what they expand to
    conditions: list[str] = field(default_factory=list)
    """What the trace found out about dynamic sizes, and took for granted."""
    runtime: str | None = None  # what ran the model for comparison
    errors: dict[str, float] = field(default_factory=dict)
    """For each output the largest difference from deepseek's, in units of the largest element."""

    def __str__(self) -> str:
        lines = [f"{self.path}: opset {self.opset}, {sum(self.operators.values())} nodes, "
                 f"{self.bytes:,} bytes"]  # fmt: skip
        lines += [f"  input   {name}: {text}" for name, text in self.inputs.items()]
        lines += [f"  output  {name}: {text}" for name, text in self.outputs.items()]
        lines.append(f"  nodes   {counted(self.operators)}")
        if self.whole:
            lines.append(f"  whole   {counted(self.whole)}")
        if self.opened:
            lines.append(f"  opened  {counted(self.opened)}")
        lines += [f"  holds   where {condition}" for condition in self.conditions]
        if self.runtime is None:
            lines.append("  not run: neither asked for nor possible here")
        for name, error in self.errors.items():
            lines.append(f"  {self.runtime}: {name} differs by {error:.1e} of the largest element")
        return "\n".join(lines)


def counted(counter: Counter[str]) -> str:
    """Names and how often, the most frequent first."""
    return ", ".join(f"{name} {n}" if n > 1 else name for name, n in counter.most_common())
