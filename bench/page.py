"""The run as an HTML page: every table, and for each row bars of all variants under its limit."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import summary
from measure import Row
from summary import Summary, Table
from variants import Variant

STYLE = """
:root { color-scheme: light dark; --ours: #2a6fdb; --peer: #9aa4b2; --limit: #c0392b }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem }
table { border-collapse: collapse; font-size: 13px; margin: 1rem 0 }
td, th { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #8884 }
td, th { white-space: nowrap }
td:first-child, th:first-child { text-align: left; position: sticky; left: 0; background: Canvas }
.foot tr:last-child { font-weight: 600 }
.wide { overflow-x: auto }
.rows { display: grid; grid-template-columns: repeat(auto-fill, minmax(30rem, 1fr)); gap: 1.5rem }
figure { margin: 0 } figcaption { font-weight: 600; margin-bottom: .3rem }
svg { width: 100%; height: auto; font: 11px system-ui, sans-serif } text { fill: CanvasText }
.ours { fill: var(--ours) } .peer { fill: var(--peer) }
.limit { stroke: var(--limit); stroke-width: 1.5; stroke-dasharray: 4 3 }
.bad { color: var(--limit) }
"""
WIDTH, LABEL, BAR, STEP = 520, 190, 240, 18


def page(
    about: dict[str, Any], tables: Sequence[Table], rows: Sequence[Row], columns: Sequence[Variant]
) -> str:
    """The whole page; it needs nothing beside it."""
    said = ", ".join(f"{k} {v}" for k, v in about.items() if k != "versions")
    versions = ", ".join(f"{k} {v}" for k, v in about.get("versions", {}).items())
    figures = Summary(columns, about.get("statistic", "median"))
    bars = "".join(chart(figures, row) for row in rows)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>deepseek beside its peers</title><style>{STYLE}</style></head><body>"
        f"<h1>deepseek beside its peers</h1><p>{escape(said)}</p><p>{escape(versions)}</p>"
        f"<h2>Times of one thread</h2><p>Shorter is better; the dashed line is the limit.</p>"
        f"<div class='rows'>{bars}</div>{''.join(map(html_table, tables))}</body></html>\n"
    )


def html_table(table: Table) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(text)}</{tag}>' for text in cells)}</tr>"

    foot = " class='foot'" if table.foot else ""
    body = "".join(line(row, "td") for row in table.rows)
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    head = line(table.header, "th")
    return (
        f"<h2>{escape(table.title)}</h2><div class='wide'><table{foot}>"
        f"<thead>{head}</thead><tbody>{body}</tbody></table></div><ul>{notes}</ul>"
    )


def chart(figures: Summary, row: Row, threads: str = "1") -> str:
    """Bars of a row's times; those far beyond the others are cut short and say their time."""
    timed = [(v, figures.seconds(row, v.name, threads)) for v in figures.columns]
    known = [(v, t) for v, t in timed if t is not None]
    if not known:
        return ""
    times = sorted(t for _, t in known)
    longest = min(times[-1], 4 * times[len(times) // 2])
    drawn = []
    for i, (variant, seconds) in enumerate(known):
        y, length = i * STEP, BAR * min(seconds / longest, 1.0)
        kind = "peer" if variant.peer else "ours"
        cut = " …" if seconds > longest else ""
        drawn.append(
            f"<text x='{LABEL - 6}' y='{y + 12}' text-anchor='end'>{escape(variant.label)}</text>"
            f"<rect class='{kind}' x='{LABEL}' y='{y + 2}' width='{length:.1f}' height='13'/>"
            f"<text x='{LABEL + length + 5:.1f}' y='{y + 12}'>"
            f"{summary.time_text(seconds)}{cut}</text>"
        )
    limit, _ = summary.limit_of(row, threads)
    if limit is not None:
        x = LABEL + BAR * limit / longest
        drawn.append(
            f"<line class='limit' x1='{x:.1f}' x2='{x:.1f}' y1='0' y2='{len(known) * STEP}'/>"
        )
    height = len(known) * STEP + 4
    return (
        f"<figure><figcaption>{escape(row.name)}</figcaption>"
        f"<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{escape(row.name)}'>"
        f"{''.join(drawn)}</svg></figure>"
    )
