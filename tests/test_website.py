"""The pages that `make docs` writes: whole, well-formed, every link leading somewhere."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from deepseek import cli
from deepseek.highlight import highlighted
from deepseek.website import Site

ROOT = Path(__file__).parents[1]
VOID = {"meta", "link", "img", "br", "hr", "input", "col"}


class Page(HTMLParser):
    """The links and places of a page, and whether its tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [v for k in ("href", "src") if (v := given.get(k)) is not None]
        if given.get("id"):
            self.ids.append(given["id"] or "")
        if tag not in VOID and tag not in ("path", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def site() -> Site:
    return Site(ROOT)


@pytest.fixture(scope="module")
def pages(site: Site) -> dict[str, str]:
    return dict(site.pages())


@pytest.fixture(scope="module")
def parsed(pages: dict[str, str]) -> dict[str, Page]:
    return {path: Page(text) for path, text in pages.items()}


@pytest.mark.slow
def test_every_link_leads_somewhere(parsed: dict[str, Page]) -> None:
    broken = []
    for path, page in parsed.items():
        for target in page.links:
            if "://" in target:
                continue
            file, _, place = target.partition("#")
            at = (Path(path).parent / file).as_posix() if file else path
            parts: list[str] = []
            for part in at.split("/"):  # without asking the file system
                if part == ".." and parts and parts[-1] != "..":
                    parts.pop()
                elif part != ".":
                    parts.append(part)
            at = "/".join(parts)
            if at in parsed:
                found = not place or place in parsed[at].ids
            elif at == "style.css":
                found = True
            elif at.startswith("images/"):
                found = (ROOT / "docs" / at).exists()
            else:
                found = (ROOT / "docs" / "_site" / at).resolve().exists()
            if not found:
                broken.append(f"{path}: {target}")
    assert broken == []


def test_every_name_is_described_once(site: Site, parsed: dict[str, Page]) -> None:
    ids = [i for page in parsed.values() for i in page.ids]
    for entry in site.entries:
        assert ids.count(entry.name) >= 1, entry.name
    for path, page in parsed.items():
        assert len(page.ids) == len(set(page.ids)), path


def test_an_op_has_what_its_record_says(pages: dict[str, str]) -> None:
    page = pages["api/ds/activation.html"]
    section = page[page.index('<section id="softmax">') :].split("</section>")[0]
    text = unescape(re.sub(r"<[^>]+>", " ", section))
    for what in (
        "softmax(x: Tensor, dim: int) -> Tensor", ">>>  ds.softmax", "floats", "Softmax",
        "computes in float32", "ds.nn.functional.softmax", "deepseek/ops/activation.py",
    ):  # fmt: skip
        assert what in text, what


def test_documents_lead_to_names_and_pages(pages: dict[str, str]) -> None:
    page = pages["coming-from-pytorch.html"]
    assert 'href="api/ds.onnx.html#onnx.export"' in page
    assert 'href="ops.html"' in page and "class=here" in page
    assert '<i class="keyword">def</i> step' in page


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ('def f(x):\n    """Doc\n    of two."""\n    return x < 1  # one\n', "python"),
        ("f(x: int = 3) -> Tensor", "python"),
        ("x = (1,\n     2", "python"),
        ('"""open', "py"),
        (">>> a = [1, 2]\n>>> if a < b:\n...     a\n[1, 2]", "doctest"),
        ("make demo  # a < b", "sh"),
        ("", "python"),
    ],
)
def test_marked_text_is_the_same_text(text: str, language: str) -> None:
    shown = unescape(re.sub(r"</?i[^>]*>", "", highlighted(text, language)))
    assert shown.rstrip("\n") == text.rstrip("\n")


def test_kinds_are_told_apart() -> None:
    marked = highlighted("x = 'if' + str(1)  # not", "python")
    assert marked == (
        'x = <i class="string">&#x27;if&#x27;</i> + str(<i class="number">1</i>)'
        '  <i class="comment"># not</i>'
    )


def test_docs_writes_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "docs" / "images").mkdir(parents=True)
    (tmp_path / "docs" / "examples").mkdir()
    (tmp_path / "README.md").write_text("# Title\n\n`ds.softmax` and [ops](docs/ops.md)\n")
    (tmp_path / "docs" / "ops.md").write_text("# Ops\n")
    (tmp_path / "docs" / "examples" / "README.md").write_text("# Examples\n")
    assert cli.main(["docs", str(tmp_path)]) == 0
    assert "docs/_site/index.html" in capsys.readouterr().out
    index = (tmp_path / "docs" / "_site" / "index.html").read_text()
    assert '<a href="ops.html">ops</a>' in index and "api/ds/activation.html#softmax" in index
    assert (tmp_path / "docs" / "_site" / "style.css").exists()
    assert cli.main(["docs", str(tmp_path / "docs" / "images")]) == 1
    assert "wanted the project's, which has docs/" in capsys.readouterr().err
