"""Every Python snippet of the documents runs, in order, as one program in a fresh process.

A block with `file=name` in its first line is written to that file instead; of a pyproject.toml the
entry points are installed, as pip would. Blocks marked `py` are another library's code, to be read
only. What the text calls `ds.something` exists.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import deepseek as ds

ROOT = Path(__file__).parents[1]
SITE = ROOT / "docs" / "_site"
DOCUMENTS = sorted(
    [*(p for p in (ROOT / "docs").rglob("*.md") if SITE not in p.parents), ROOT / "README.md"]
)
FENCE = re.compile(r"^```(\w*)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def install_entry_points(text: str, folder: Path) -> None:
    """What pip writes of a project's entry points."""
    project = tomllib.loads(text)["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    header = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(header)
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def script_of(document: Path, folder: Path) -> str:
    """The document's Python as one script, each line where it stands in the document."""
    text = document.read_text()
    lines = [""] * (text.count("\n") + 1)
    for block in FENCE.finditer(text):
        language, file, body = block.groups()
        if file is not None:
            (folder / file).write_text(body)
            if file == "pyproject.toml":
                install_entry_points(body, folder)
        elif language == "python":
            start = text.count("\n", 0, block.start(3))
            lines[start : start + body.count("\n")] = body.splitlines()
    return "\n".join(lines).rstrip() + "\n"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_snippets_run(document: Path, tmp_path: Path) -> None:
    script = tmp_path / f"{document.stem}_document.py"  # no name that a snippet may import
    script.write_text(script_of(document, tmp_path))
    if not script.read_text().strip():
        return
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{document.name}, by its lines:\n{done.stderr}"


def test_links_lead_somewhere() -> None:
    broken = []
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
            if "://" not in target and not (document.parent / target).exists():
                broken.append(f"{document.relative_to(ROOT)}: {target}")
    assert broken == []


def missing_names(text: str) -> list[str]:
    """Names below `ds` that a text has in code and that there are not."""
    quoted = "\n".join(re.findall(r"`([^`\n]+)`", FENCE.sub("", text)))
    missing = []
    for name in sorted(set(re.findall(r"(?<![\w.])ds\.([a-zA-Z_][\w.]*\w)", quoted))):
        thing: object = ds
        for part in name.split("."):
            thing = getattr(thing, part, None)
        if thing is None and name != "newaxis":
            missing.append(name)
    return missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_names_exist(document: Path) -> None:
    assert missing_names(document.read_text()) == []


def test_missing_names_are_found() -> None:
    assert missing_names("`ds.nn.Linear(2)`, `ds.nn.Linar`, not `x.ds.foo`") == ["nn.Linar"]


def test_blocks_are_found() -> None:
    """The pattern sees what a reader sees: fences come in pairs, and some are Python."""
    for document in DOCUMENTS:
        text = document.read_text()
        assert len(re.findall(r"^```", text, re.MULTILINE)) == 2 * len(FENCE.findall(text))
    assert any("```python" in document.read_text() for document in DOCUMENTS)
