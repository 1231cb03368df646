"""Python source and interpreter sessions as HTML: keywords, strings, numbers and comments marked.

In flows text; out flows HTML of the same characters. What is no Python is escaped as it stands.
"""

from __future__ import annotations

import io
import keyword
import token
import tokenize
from html import escape

PYTHON = ("python", "py")


def highlighted(text: str, language: str) -> str:
    """The text as HTML; `language` is python, py, doctest or anything else."""
    if language == "doctest":
        return "\n".join(map(session_line, text.rstrip("\n").split("\n")))
    return python(text) if language in PYTHON else escape(text)


def session_line(line: str) -> str:
    """One line of an interpreter session: what was typed, or what came of it."""
    if line.startswith((">>> ", "... ")):
        return f'<i class="prompt">{escape(line[:3])}</i> {python(line[4:])}'
    return f'<i class="result">{escape(line)}</i>'


def python(text: str) -> str:
    """Python source; escaped only, where it is a part that does not stand on its own."""
    lines = text.splitlines(keepends=True)
    out: list[str] = []
    at = (1, 0)
    try:
        for found in tokenize.generate_tokens(io.StringIO(text).readline):
            out.append(escape(between(lines, at, found.start)))
            shown = escape(between(lines, found.start, found.end))
            kind = kind_of(found)
            out.append(f'<i class="{kind}">{shown}</i>' if kind and shown else shown)
            at = found.end
    except (tokenize.TokenError, IndentationError):
        out.append(escape(between(lines, at, (len(lines), len(lines[-1]) if lines else 0))))
    return "".join(out).rstrip("\n")


def between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """The characters from one place (line from 1, column) to another."""
    (first, a), (last, b) = start, end
    if first > len(lines) or end <= start:
        return ""
    if first == last:
        return lines[first - 1][a:b]
    inner = lines[first : last - 1]
    tail = lines[last - 1][:b] if last <= len(lines) else ""
    return "".join([lines[first - 1][a:], *inner, tail])


def kind_of(found: tokenize.TokenInfo) -> str:
    """The class that a token is shown in; "" for plain ones."""
    if found.type == token.STRING:
        return "string"
    if found.type == token.NUMBER:
        return "number"
    if found.type == tokenize.COMMENT:
        return "comment"
    return "keyword" if found.type == token.NAME and keyword.iskeyword(found.string) else ""
