"""The report page of digits.py: one HTML file with its drawings inside."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #6a737d; --paper: #fff; --rule: #d8dee4;
  --loss: #c2410c; --train: #1d4ed8; --test: #15803d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9198a1; --paper: #0d1117;
  --rule: #30363d; --loss: #fb923c; --train: #79a8ff; --test: #56d364; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.5rem; }
table { border-collapse: collapse; }
th { text-align: left; font-weight: normal; color: var(--dim); }
.summary td, .summary th { padding: .15rem 1.5rem .15rem 0; border-bottom: 1px solid var(--rule); }
.confusion td, .confusion th { width: 2.2rem; height: 2.2rem; text-align: center; }
.drawing { overflow: auto; max-height: 40rem; border: 1px solid var(--rule); background: #fff;
  color: #1b1f24; }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
p { color: var(--dim); }
"""

WIDTH, HEIGHT, MARGIN = 860, 300, 45


def write_report(
    path: Path,
    *,
    summary: Mapping[str, str],
    losses: Sequence[float],
    accuracies: Sequence[float],
    test_accuracies: Sequence[float],
    confusion: np.ndarray,
    graph: str,
    memory: str,
) -> None:
    """Write the page; `graph` and `memory` are SVG drawings."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in summary.items()
    )
    sections = [
        ("Figures", f'<table class="summary">{rows}</table>'),
        ("Training", curves(losses, accuracies, test_accuracies)),
        ("Which digit was taken for which", confusion_table(confusion)),
        ("The training step as a graph", f'<div class="drawing">{graph}</div>'),
        ("Its memory over time", f'<div class="drawing">{memory}</div>'),
    ]
    body = "".join(f"<h2>{title}</h2>{content}" for title, content in sections)
    path.write_text(
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Handwritten digits</title><style>{STYLE}</style></head>"
        f"<body><h1>Handwritten digits</h1>{body}</body></html>\n"
    )


def smoothed(values: Sequence[float], window: int) -> np.ndarray:
    """The mean of the last `window` values, at each of them."""
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def curves(
    losses: Sequence[float], accuracies: Sequence[float], test_accuracies: Sequence[float]
) -> str:
    """Loss (left scale) and percent of errors (right scale), both logarithmic, over the steps."""
    steps = len(losses)
    per_epoch = max(steps // max(len(test_accuracies), 1), 1)
    train_errors = 100 * (1 - smoothed(accuracies, per_epoch))
    test_errors = 100 * (1 - np.array(test_accuracies))
    test_at = per_epoch * np.arange(1, len(test_errors) + 1)
    left, right = (1e-3, 10.0), (1e-2, 100.0)
    parts = [
        polyline(np.arange(1, steps + 1), losses, steps, left, "var(--loss)", 0.3),
        polyline(np.arange(1, steps + 1), smoothed(losses, 10), steps, left, "var(--loss)"),
        polyline(np.arange(1, steps + 1), train_errors, steps, right, "var(--train)"),
        polyline(test_at, test_errors, steps, right, "var(--test)"),
    ]
    for exponent in range(-3, 2):
        y = height_of(10.0**exponent, left)
        parts.append(
            f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y:.1f}" y2="{y:.1f}" '
            'stroke="var(--rule)"/>'
            f'<text x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**exponent:g}</text>'
            f'<text x="{WIDTH - MARGIN + 6}" y="{y + 4:.1f}">{10.0 ** (exponent + 1):g}%</text>'
        )
    for at in test_at:
        x = place_of(at, steps)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{at // per_epoch}</text>'
        )
    legend = (
        "<p>Over the epochs: <span style='color:var(--loss)'>loss</span> (left scale), "
        "<span style='color:var(--train)'>training errors</span> and "
        "<span style='color:var(--test)'>test errors</span> (right scale).</p>"
    )
    drawing = "".join(reversed(parts))
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="100%">{drawing}</svg>{legend}'


def place_of(step: float, steps: int) -> float:
    return MARGIN + (WIDTH - 2 * MARGIN) * step / max(steps, 1)


def height_of(value: float, limits: tuple[float, float]) -> float:
    """A value on a logarithmic scale, limited to the drawing."""
    low, high = np.log10(limits)
    share = (np.log10(np.clip(value, *limits)) - low) / (high - low)
    return float(HEIGHT - 30 - (HEIGHT - 45) * share)


def polyline(
    steps: np.ndarray,
    values: Sequence[float] | np.ndarray,
    count: int,
    limits: tuple[float, float],
    colour: str,
    opacity: float = 1.0,
) -> str:
    points = " ".join(
        f"{place_of(x, count):.1f},{height_of(y, limits):.1f}"
        for x, y in zip(steps, values, strict=True)
    )
    return (
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5" '
        f'opacity="{opacity}"/>'
    )


def confusion_table(counts: np.ndarray) -> str:
    """Rows are the digits as they are, columns as they were read."""
    head = "".join(f"<th>{digit}</th>" for digit in range(len(counts)))
    rows = []
    for digit, row in enumerate(counts):
        cells = "".join(cell(int(n), n / max(row.sum(), 1), digit == j) for j, n in enumerate(row))
        rows.append(f"<tr><th>{digit}</th>{cells}</tr>")
    table = f'<table class="confusion"><tr><th></th>{head}</tr>{"".join(rows)}</table>'
    return f"{table}<p>Rows: the digit. Columns: what it was read as.</p>"


def cell(count: int, share: float, right: bool) -> str:
    if not count:
        return "<td>·</td>"
    colour = "var(--test)" if right else "var(--loss)"
    strength = round(25 + 55 * share) if right else 60
    background = f"color-mix(in srgb, {colour} {strength}%, transparent)"
    return f'<td style="background:{background}">{count}</td>'
