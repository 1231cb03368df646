"""The documentation as web pages that open without a server: what `make docs` writes.

In flow the documents of a project's `docs` folder and the entries of `reference`; out flow pages by
their paths. Documents are Markdown, which the `markdown` package turns into HTML. Docstrings are
plain text with code between backticks and examples; public names in either become links.
"""

from __future__ import annotations

import inspect
import os
import posixpath
import re
import shutil
from collections.abc import Iterable, Iterator
from html import escape, unescape
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from deepseek import reference
from deepseek.errors import BackendError
from deepseek.highlight import highlighted
from deepseek.reference import Entry
from deepseek.webstyle import STYLE

# The guide, in the order of its pages, by file name; documents that are not named come last.
GUIDE = (
    "tour", "coming-from-pytorch", "coming-from-numpy", "examples/README", "optim", "data", "amp",
    "onnx", "debugging", "architecture", "add-an-op", "add-a-pass", "add-a-backend", "ops", "env",
    "conformance", "performance", "status",
)  # fmt: skip

# Namespaces whose entries get a page for each file that defines some.
DIVIDED = ("", "nn")
FUNCTIONS = "nn.functional"  # all of it is in "" too

CODE = re.compile(r"`([^`]+)`")
NAME = re.compile(r"^(?:ds\.|F\.)?([A-Za-z_][\w.]*)(\(.*\))?$", re.DOTALL)


class Site:
    """All pages, and where each public name is described."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.entries = sorted(reference.entries(), key=lambda e: (e.namespace, e.short.lower()))
        self.known = reference.by_name(self.entries)
        self.by_thing = {id(entry.function): entry for entry in self.entries}
        self.places = {
            name: f"{page_of(entry)}#{entry.name}"
            for entry in self.entries
            for name in (*entry.others, entry.name)
        }
        self.documents = dict(guide(root))
        self.titles = [(first_heading(d), path) for d, path in self.documents.items()]

    def write(self, folder: Path) -> int:
        """Write every page below a folder; returns how many there are."""
        if folder.exists():
            shutil.rmtree(folder)
        count = 0
        for path, text in self.pages():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            count += 1
        shutil.copytree(self.root / "docs" / "images", folder / "images")
        (folder / "style.css").write_text(STYLE)
        return count

    def pages(self) -> Iterator[tuple[str, str]]:
        for document, path in self.documents.items():
            body = self.document(document, path)
            yield path, self.framed(path, title_of(body), body)
        yield "api/index.html", self.framed("api/index.html", "API", self.api_index())
        groups: dict[str, list[Entry]] = {}
        for entry in self.entries:
            groups.setdefault(page_of(entry), []).append(entry)
        for path, entries in groups.items():
            yield path, self.framed(path, page_title(entries), self.api_page(path, entries))

    # ---------------------------------------------------------------------------------- the frame

    def framed(self, path: str, title: str, body: str) -> str:
        """A whole page around a body."""
        top = posixpath.relpath(".", posixpath.dirname(path) or ".")
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{escape(unescape(title))} · deepseek</title>"
            f'<link rel="stylesheet" href="{top}/style.css"></head>\n'
            f"<body><nav>{self.navigation(path)}</nav>\n<main>{body}</main></body></html>\n"
        )

    def navigation(self, here: str) -> str:
        parts = [f'<a class="brand" href="{link(here, "index.html")}">deepseek</a>']
        parts.append(menu("Guide", self.titles[1:], here))
        spaces = [(space_name(s), space_page(s)) for s, _ in reference.namespaces()]
        parts.append(menu("API", [("All names", "api/index.html"), *spaces], here))
        return "".join(parts)

    # ---------------------------------------------------------------------------------- documents

    def document(self, document: Path, path: str) -> str:
        """A document's body, with its links leading to pages, and names to their entries."""
        if find_spec("markdown") is None:
            raise BackendError(
                "the documentation's pages need the markdown package, which is not installed\n"
                "  help: pip install 'deepseek[docs]'"
            )
        import markdown

        made: str = markdown.markdown(
            document.read_text(encoding="utf-8"), extensions=["tables", "fenced_code", "toc"]
        )
        made = re.sub(
            r'<pre><code(?: class="language-(\w+)")?>(.*?)</code></pre>',
            lambda m: f"<pre>{highlighted(unescape(m[2]), m[1] or '')}</pre>",
            made, flags=re.DOTALL,
        )  # fmt: skip
        made = re.sub(
            r'(href|src)="([^"#:]+)(#[^"]*)?"',
            lambda m: f'{m[1]}="{self.leads(m[2], document, path)}{m[3] or ""}"',
            made,
        )
        made = re.sub(
            r"(?<!<pre>)<code>(ds\.[^<]+)</code>",
            lambda m: self.code(unescape(m[1]), path), made,
        )  # fmt: skip
        return re.sub(
            r"<table>.*?</table>", r'<div class="wide">\g<0></div>', made, flags=re.DOTALL
        )

    def leads(self, target: str, document: Path, path: str) -> str:
        """Where a document's link leads from its page: to a page, an image, or a file."""
        file = Path(os.path.normpath(document.parent / target))
        if file in self.documents:
            return link(path, self.documents[file])
        images = self.root / "docs" / "images"
        if images in file.parents:
            return link(path, "images/" + file.relative_to(images).as_posix())
        return self.to_file(file.relative_to(self.root).as_posix(), path)

    def to_file(self, file: str, path: str) -> str:
        """A link from a page to a file of the project, which the site lies in."""
        return link(f"docs/_site/{path}", file)

    # ---------------------------------------------------------------------------------------- API

    def api_index(self) -> str:
        parts = [
            "<h1>API</h1><p>Every public name. <code>ds</code> is <code>import deepseek as ds"
            f"</code>. {len(self.entries)} names, {reference.op_count()} ops.</p>"
        ]
        for space, module in reference.namespaces():
            parts.append(f'<h2 id="{escape(space_name(space))}">{space_name(space)}</h2>')
            parts += self.listed(space, module)
        return "\n".join(parts)

    def listed(self, space: str, module: ModuleType) -> Iterator[str]:
        """The names of a namespace; where it has a page for each file, by these."""
        names = reference.public_names(module)
        if space not in DIVIDED:
            yield f'<p class="names">{self.names(space, names)}</p>'
            return
        groups: dict[str, list[str]] = {}
        for name in names:
            thing = getattr(module, name)
            if callable(thing):
                home = reference.heading(self.entry_of(thing).home)
            else:
                home = "Modules" if isinstance(thing, ModuleType) else "Constants"
            groups.setdefault(home, []).append(name)
        for title, found in sorted(groups.items(), key=lambda item: item[0].strip("`").lower()):
            shown = f"<b>{self.prose(title, '')}</b><br>{self.names(space, found)}"
            yield f'<p class="names">{shown}</p>'

    def names(self, space: str, names: Iterable[str]) -> str:
        shown = []
        for name in names:
            place = self.places.get(f"{space}.{name}".lstrip("."))
            code = f"<code>{escape(name)}</code>"
            there = place and link("api/index.html", place)
            shown.append(f'<a href="{there}">{code}</a>' if there else code)
        return ", ".join(shown)

    def entry_of(self, thing: object) -> Entry:
        return self.by_thing[id(inspect.unwrap(thing))]  # type: ignore[arg-type]

    def linked(self, entry: Entry, path: str) -> str:
        place = link(path, self.places[entry.name])
        return f'<a href="{place}"><code>{escape(entry.short)}</code></a>'

    def api_page(self, path: str, entries: list[Entry]) -> str:
        space = space_name(entries[0].namespace)
        home = reference.heading(entries[0].home)
        divided = entries[0].namespace in DIVIDED
        title = f"{self.prose(home, path)} <small>{space}</small>" if divided else space
        lines = [(self.linked(e, path), self.prose(first_line(e.doc), path)) for e in entries]
        rows = "".join(f"<tr><td>{name}</td><td>{what}</td></tr>" for name, what in lines)
        parts = [f"<h1>{title}</h1><table class='index'>{rows}</table>"]
        return "\n".join([*parts, *(self.described(entry, path) for entry in entries)])

    def described(self, entry: Entry, path: str) -> str:
        """All that is said about one name."""
        kind = "class " if isinstance(entry.thing, type) else ""
        space = space_name(entry.namespace) + "."
        parts = [
            f'<section id="{escape(entry.name)}"><h2><span>{kind}{space}</span>{entry.short}</h2>',
            f'<pre class="signature">{highlighted(reference.signature(entry), "python")}</pre>',
            self.docstring(entry.doc, path),
        ]
        other = (
            None if reference.has_example(entry) else reference.documented_with(entry, self.known)
        )
        if other is not None:
            example = (
                f'<a href="{link(path, self.places[other.name])}"><code>{other.name}</code></a>'
            )
            parts.append(f'<p class="soft">With an example: {example}.</p>')
        parts.append(self.table_of_facts(entry, path))
        parts += [self.method(name, member, path) for name, member in methods(entry)]
        return "\n".join([*filter(None, parts), "</section>"])

    def table_of_facts(self, entry: Entry, path: str) -> str:
        rows = [(what, self.prose(which, path)) for what, which in reference.facts(entry)]
        also = entry.others
        if also:
            names = (n if n.startswith("Tensor.") else f"ds.{n}" for n in also)
            rows.append(("also", ", ".join(f"<code>{escape(n)}</code>" for n in names)))
        bases = entry.thing.__bases__ if isinstance(entry.thing, type) else ()
        known = [self.by_thing[id(base)] for base in bases if id(base) in self.by_thing]
        rows += [("is a", self.linked(base, path)) for base in known]
        found = reference.source(entry)
        if found is not None:
            file, line = found
            to = self.to_file(file, path)
            rows.append(("source", f'<a href="{to}">{file}</a>, line {line}'))
        cells = (f"<tr><th>{what}</th><td>{which}</td></tr>" for what, which in rows)
        return f'<table class="facts">{"".join(cells)}</table>'

    def method(self, name: str, member: object, path: str) -> str:
        doc = self.docstring(inspect.cleandoc(getattr(member, "__doc__", None) or ""), path)
        text = reference.signature(Entry(name, member))
        return f'<div class="method"><pre>{highlighted(text, "python")}</pre>{doc}</div>'

    # --------------------------------------------------------------------------------------- text

    def docstring(self, doc: str, path: str) -> str:
        """A docstring's paragraphs; indented ones and examples as they stand."""
        parts = []
        for block in doc.split("\n\n"):
            if block.startswith(">>> "):
                parts.append(f'<pre class="example">{highlighted(block, "doctest")}</pre>')
            elif block.startswith(("    ", "- ")):
                parts.append(f"<pre>{escape(inspect.cleandoc(block))}</pre>")
            elif block:
                parts.append(f"<p>{self.prose(' '.join(block.split()), path)}</p>")
        return "".join(parts)

    def prose(self, text: str, path: str) -> str:
        """A line of text: code between backticks, and names of errors, lead to their entries."""
        parts = CODE.split(text)
        for i, part in enumerate(parts):
            parts[i] = self.code(part, path) if i % 2 else self.with_errors(escape(part), path)
        return "".join(parts)

    def code(self, text: str, path: str) -> str:
        named = NAME.match(text)
        place = self.place_of(named[1]) if named and path else None
        shown = f"<code>{escape(text)}</code>"
        return shown if place is None else f'<a href="{link(path, place)}">{shown}</a>'

    def place_of(self, name: str) -> str | None:
        for prefix in ("", "nn.functional.", "nn.", "optim."):
            if prefix + name in self.places:
                return self.places[prefix + name]
        return None

    def with_errors(self, text: str, path: str) -> str:
        def linked(m: re.Match[str]) -> str:
            place = self.places.get(f"errors.{m[0]}") if path else None
            return m[0] if place is None else f'<a href="{link(path, place)}">{m[0]}</a>'

        return re.sub(r"\b[A-Z]\w+Error\b", linked, text)


# ----------------------------------------------------------------------------------------- helpers


def guide(root: Path) -> Iterator[tuple[Path, str]]:
    """The documents in order, and the paths of their pages."""
    yield root / "README.md", "index.html"
    docs = root / "docs"
    found = {p.relative_to(docs).with_suffix("").as_posix(): p for p in sorted(docs.glob("*.md"))}
    found |= {"examples/README": docs / "examples" / "README.md"}
    for name in dict.fromkeys([*GUIDE, *found]):
        if name in found:
            yield found[name], name.replace("/README", "") + ".html"


def page_of(entry: Entry) -> str:
    """The path of the page that describes an entry."""
    if entry.namespace in DIVIDED:
        home = entry.home.removeprefix(f"{reference.PACKAGE}.").removeprefix(f"{entry.namespace}.")
        return f"api/{space_name(entry.namespace)}/{home.removeprefix('ops.')}.html"
    return space_page(entry.namespace)


def space_page(space: str) -> str:
    """The page of a namespace; of one with many or with none of its own, its place in the index."""
    name = space_name(space)
    return f"api/index.html#{name}" if space in (*DIVIDED, FUNCTIONS) else f"api/{name}.html"


def space_name(space: str) -> str:
    return f"ds.{space}" if space else "ds"


def page_title(entries: list[Entry]) -> str:
    if entries[0].namespace in DIVIDED:
        return reference.heading(entries[0].home).replace("`", "")
    return space_name(entries[0].namespace)


def methods(entry: Entry) -> Iterator[tuple[str, object]]:
    """What a class has of its own that one calls; of Tensor without the methods that are ops."""
    if not isinstance(entry.thing, type):
        return
    for name, member in vars(entry.thing).items():
        own = getattr(member, "__module__", "") == entry.home
        if name[0] != "_" and inspect.isfunction(member) and own and member.__doc__:
            yield name, member


def menu(title: str, items: Iterable[tuple[str, str]], here: str) -> str:
    rows = "".join(
        f'<li><a href="{link(here, path)}"{" class=here" if path == here else ""}>{text}</a></li>'
        for text, path in items
    )
    return f"<h4>{title}</h4><ul>{rows}</ul>"


def link(here: str, there: str) -> str:
    """A relative link between two paths; `there` may name a place in a page."""
    path, mark, place = there.partition("#")
    if path == here and place:
        return mark + place
    return posixpath.relpath(path, posixpath.dirname(here) or ".") + mark + place


def first_line(doc: str) -> str:
    """A docstring's first sentence, as far as its first paragraph goes."""
    return " ".join(doc.split("\n\n")[0].split())


def first_heading(document: Path) -> str:
    found = re.search(r"^# (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return escape(found[1]) if found else document.stem


def title_of(body: str) -> str:
    found = re.search(r"<h1[^>]*>(.*?)</h1>", body, re.DOTALL)
    return re.sub(r"<[^>]+>", "", found[1]) if found else ""
