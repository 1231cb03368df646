"""The page of an explanation: one HTML file that needs no other, in light and dark.

In flow the Facts about an entry; out flows HTML with the figures, the drawings of the graph and of
the memory plan, and, folded away, the graph after each pass and the text of each kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from deepseek.debug import draw_graph, draw_memory
from deepseek.debug.palette import as_bytes, as_count
from deepseek.debug.reports import Facts
from deepseek.debug.summary import memory_figures, pass_rows

CSS = """
:root{color-scheme:light dark;
--ink:#1c2024;--soft:#60646c;--paper:#fff;--back:#f4f5f7;--rim:#e0e2e7}
@media (prefers-color-scheme:dark){
:root{--ink:#edeef0;--soft:#a3a8b0;--paper:#16181b;--back:#0f1113;--rim:#2b2f34}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1440px;margin:0 auto;padding:32px 20px 80px}
h1{font-size:24px;margin:0 0 4px}h1 code{font-size:inherit}h2{font-size:17px;margin:36px 0 10px}
p{margin:4px 0;color:var(--soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin-top:20px}
.card{background:var(--paper);border:1px solid var(--rim);border-radius:10px;padding:12px 14px}
.card b{display:block;font-size:20px;font-weight:600}.card span{color:var(--soft);font-size:13px}
.panel{background:var(--paper);border:1px solid var(--rim);border-radius:10px;overflow:auto}
.panel svg{display:block;margin:0 auto}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th,td{text-align:left;padding:6px 12px;border-top:1px solid var(--rim);vertical-align:top}
tr:first-child th{border-top:0}th{color:var(--soft);font-weight:500}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code,pre{font:12.5px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}
pre{margin:0;padding:12px 14px;overflow:auto;max-height:60vh}
details{background:var(--paper);border:1px solid var(--rim);border-radius:10px;margin-top:8px}
summary{cursor:pointer;padding:9px 14px}summary span{color:var(--soft);font-size:13px}
details[open] summary{border-bottom:1px solid var(--rim)}
ul{margin:0;padding:10px 14px 10px 32px;font-size:13.5px}
"""


def html(facts: Facts) -> str:
    """The whole page."""
    title = f"{facts.name} on {facts.target}"
    here = "".join(f", {name} = {size}" for name, size in facts.sizes.items())
    body = [
        f"<h1><code>{escape(facts.name)}</code></h1>",
        f"<p>compiled for {escape(facts.target + here)}</p>",
    ]
    if facts.program is not None:
        body += [cards(facts), *drawings(facts), *steps(facts), *kernels(facts)]
    body += [*stages(facts), *guards(facts)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def cards(facts: Facts) -> str:
    """The headline figures."""
    counts, work = facts.counts, facts.work
    calls = sum(counts[k] for k in ("launches", "externs", "hosts", "collectives"))
    figures = memory_figures(facts)
    compile_time = sum(facts.seconds.values())
    shown = [
        (str(calls), " + ".join(f"{n} {what}" for what, n in counts.items() if n) or "no steps"),
        (str(len(facts.kernels)), "kernels"),
        (as_bytes(work.bytes), f"moved: {as_bytes(work.read)} in, {as_bytes(work.written)} out"),
        (as_count(work.flops, "flop"), f"{as_count(work.transcendental)} transcendental functions"),
        (as_bytes(figures["arena"]),
         f"arena; bound {as_bytes(figures['lower bound'])}, "
         f"all kept {as_bytes(figures['keeping everything'])}"),
        (f"{compile_time * 1e3:.1f} ms", f"passes over {len(facts.recorded.nodes)} nodes"),
    ]  # fmt: skip
    inside = "".join(
        f'<div class="card"><b>{escape(figure)}</b><span>{escape(what)}</span></div>'
        for figure, what in shown
    )
    return f'<div class="cards">{inside}</div>'


def drawings(facts: Facts) -> list[str]:
    return [
        "<h2>Program</h2>",
        f'<div class="panel">{fitted(draw_graph.svg(facts))}</div>',
        "<h2>Memory over time</h2>",
        f'<div class="panel">{fitted(draw_memory.svg(facts))}</div>',
    ]


def fitted(svg: str) -> str:
    """A drawing that shrinks with its panel, as far as it stays readable."""
    size = re.search(r'width="(\d+)"', svg)
    assert size is not None
    style = f'style="width:100%;max-width:{size[1]}px;min-width:{0.7 * int(size[1]):.0f}px"'
    return re.sub(r'width="\d+" height="\d+"', style, svg, count=1)


def steps(facts: Facts) -> list[str]:
    """The table of steps, with the user's lines."""
    rows = []
    for step in facts.steps:
        lines = facts.kernels[step.kernel].lines if step.kernel is not None else ()
        name = "&nbsp;" * 4 * step.depth + escape(step.label.replace("+", " + "))
        code = "<br>".join(f"<code>{escape(line)}</code>" for line in lines)
        cells = [
            (str(step.number), "n"), (escape(step.kind), ""), (f"{name}<br>{code}", ""),
            (str(step.rows), "n"), (as_bytes(step.work.read), "n"),
            (as_bytes(step.work.written), "n"), (as_count(step.work.flops), "n"),
        ]  # fmt: skip
        rows.append(cells)
    head = [("#", "n"), ("step", ""), ("what, and where it was written", ""), ("rows", "n"),
            ("in", "n"), ("out", "n"), ("flop", "n")]  # fmt: skip
    return ["<h2>Steps</h2>", f'<div class="panel">{table(head, rows)}</div>']


def table(head: Sequence[tuple[str, str]], rows: Iterable[Sequence[tuple[str, str]]]) -> str:
    """A table of cells, each HTML and a class."""

    def cells(tag: str, row: Sequence[tuple[str, str]]) -> str:
        return "".join(f'<{tag} class="{style}">{text}</{tag}>' for text, style in row)

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', head)}</tr>{body}</table>"


def kernels(facts: Facts) -> list[str]:
    parts = ["<h2>Kernels</h2>"]
    for number, kernel in enumerate(facts.kernels):
        note = (
            f"{kernel.launches} launches, {kernel.rows} rows, {as_bytes(kernel.work.bytes)}, "
            f"{as_count(kernel.work.flops, 'flop')}"
        )
        parts.append(folded(f"{number} {kernel.name}", note, kernel.text()))
    return parts


def stages(facts: Facts) -> list[str]:
    """The graph as recorded and after each pass that changed it."""
    notes = {name: f"{nodes}, {time}" for name, nodes, time in pass_rows(facts)}
    parts = ["<h2>Graph after each pass</h2>"]
    recorded = f"{len(facts.recorded.nodes)} nodes"
    parts.append(folded("recorded", recorded, facts.graph))
    texts = {stage.name: stage.text() for stage in facts.stages}
    unchanged = []
    for name, note in notes.items():
        if name in texts:
            parts.append(folded(name, note, texts[name]))
        else:
            unchanged.append(name)
    if unchanged:
        parts.append(f"<p>without effect: {escape(', '.join(unchanged))}</p>")
    return parts


def guards(facts: Facts) -> list[str]:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in facts.guards)
    return ["<h2>Used again while</h2>", f'<div class="panel"><ul>{items}</ul></div>']


def folded(title: str, note: str, text: str) -> str:
    return (
        f"<details><summary><code>{escape(title)}</code> <span>{escape(note)}</span></summary>"
        f"<pre>{escape(text)}</pre></details>"
    )
