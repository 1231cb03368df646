"""Tables as text for a terminal and as Markdown for the documents."""

from __future__ import annotations

import re
from pathlib import Path

from summary import Table

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def as_text(table: Table) -> str:
    """Columns as wide as they need to be; the first to the left, the others to the right."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.header))]
    drawn = []
    for line in lines:
        cells = [
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        drawn.append("  ".join(cells).rstrip())
    drawn.insert(1, "-" * max(len(line) for line in drawn))
    return "\n".join([table.title, *drawn, *(f"* {note}" for note in table.notes)]) + "\n"


def as_markdown(table: Table) -> str:
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    drawn = [f"| {' | '.join(text.replace('|', '/') for text in line)} |" for line in lines]
    notes = [f"- {note}" for note in table.notes]
    return "\n".join([f"### {table.title}", "", *drawn, *(["", *notes] if notes else [])]) + "\n"


def put_between_markers(document: Path, text: str) -> None:
    """Replace what stands between the marker lines of a document. Raises ValueError without."""
    whole = document.read_text()
    if BEGIN not in whole or END not in whole:
        raise ValueError(f"{document} lacks the lines {BEGIN} and {END}")
    pattern = f"{re.escape(BEGIN)}.*?{re.escape(END)}"
    document.write_text(re.sub(pattern, lambda _: f"{BEGIN}\n{text}\n{END}", whole, flags=re.S))
