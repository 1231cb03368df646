"""What the texts and drawings share: colours for light and dark, how to write sizes and names."""

from __future__ import annotations

import re

from deepseek.ir.op import REGISTRY, Kind

_HELD = re.compile(r"\._(?:modules|parameters|buffers)\['(\w+)'\]")

# Hues by what a step does; the same words are classes of the drawings.
HUES = {
    "contract": 214, "fold": 150, "pointwise": 262, "scatter": 24, "extern": 38, "host": 352,
    "copy": 205, "for": 310, "while": 310, "if": 310,
}  # fmt: skip

_MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"


def _by_hue(saturation: int, lightness: int) -> str:
    return "".join(
        f".ds-drawing .{name}{{--hue:hsl({hue} {saturation}% {lightness}%)}}"
        for name, hue in HUES.items()
    )


STYLE = f"""<style>
.ds-drawing{{--ink:#1c2024;--soft:#60646c;--line:#8b8d98;--paper:#fff;--fill:#f7f8fa;--rim:#d0d3da;
--hue:#8b8d98;font-family:{_MONO};max-width:none}}
{_by_hue(62, 42)}
@media (prefers-color-scheme:dark){{
.ds-drawing{{--ink:#edeef0;--soft:#a3a8b0;--line:#7c828c;--paper:#16181b;--fill:#1f2226;--rim:#3c4047}}
{_by_hue(58, 66)}}}
.ds-drawing .box{{fill:var(--fill);stroke:var(--rim)}}
.ds-drawing .step .box{{stroke:var(--hue);stroke-opacity:.55}}
.ds-drawing .bar{{stroke:var(--hue);stroke-width:3;stroke-linecap:round}}
.ds-drawing .input .box{{fill:var(--paper);stroke-dasharray:3 2}}
.ds-drawing .result .box{{stroke:var(--ink)}}
.ds-drawing text{{text-anchor:middle;fill:var(--ink)}}
.ds-drawing .title{{font-size:12.5px;font-weight:600}}
.ds-drawing .input .title,.ds-drawing .result .title{{font-weight:400;font-size:12px}}
.ds-drawing .note,.ds-drawing .value{{font-size:11px;fill:var(--soft)}}
.ds-drawing .tab{{fill:var(--paper);stroke:var(--rim)}}
.ds-drawing .edge{{fill:none;stroke:var(--line);stroke-width:1.3}}
.ds-drawing .given{{stroke-opacity:.6;stroke-dasharray:3 2}}
.ds-drawing .head{{fill:var(--line)}}
.ds-drawing .axis{{stroke:var(--rim)}}
.ds-drawing .start{{text-anchor:start}}
.ds-drawing .end{{text-anchor:end}}
.ds-drawing .bound{{stroke:hsl(352 62% 52%);stroke-dasharray:6 4;stroke-width:1.4;fill:none}}
.ds-drawing .live{{stroke:var(--ink);stroke-width:1.4;fill:none;stroke-opacity:.6}}
.ds-drawing .block{{stroke:var(--paper);stroke-width:1}}
.ds-drawing .block:hover{{stroke:var(--ink)}}
.ds-drawing .inside{{font-size:10.5px;fill:#16181b;text-anchor:start;pointer-events:none}}
</style>"""


def as_bytes(count: float) -> str:
    """`1.5 MiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.4g} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1024
    raise AssertionError


def as_count(count: float, unit: str = "") -> str:
    """`1.5 Mflop`, or `1.5 M` without a unit."""
    size = float(count)
    for prefix in ("", "k", "M", "G", "T"):
        if size < 1000 or prefix == "T":
            return f"{size:.3g} {prefix}{unit}".rstrip()
        size /= 1000
    raise AssertionError


def clipped(text: str, length: int) -> str:
    """The text, without its end if it is long."""
    return text if len(text) <= length else text[: length - 1] + "…"


def clipped_name(text: str, length: int) -> str:
    """A path to a tensor, without its beginning if it is long."""
    return text if len(text) <= length else "…" + text[1 - length :]


def plain_path(text: str) -> str:
    """A path through modules as one would write it: `net.conv.weight`."""
    return _HELD.sub(r".\1", text)


def telling(label: str) -> list[str]:
    """The ops in a step's label; those that only fill or count go where others remain."""
    names = list(dict.fromkeys(label.split("+")))
    kept = [n for n in names if n not in REGISTRY or REGISTRY[n].kind is not Kind.CREATE]
    return kept or names
