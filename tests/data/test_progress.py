"""progress: quiet, in lines, and as tqdm's bar."""

from __future__ import annotations

import io
import sys

import pytest

import deepseek as ds
from deepseek.data.bar import Bar, Lines, Progress, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_quiet_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    bar = progress(range(3), "train")
    assert type(bar) is Progress and len(bar) == 3
    for i in bar:
        assert bar.n == i
        bar.set_postfix(loss=i)
        bar.set_description("more")
        bar.write("hidden")
    assert bar.n == 3
    assert capsys.readouterr() == ("", "")


def test_lines_when_asked() -> None:
    out = io.StringIO()
    bar = progress(range(4), "train", show=True, file=out, every=0)
    assert type(bar) is Lines
    for i in bar:
        bar.set_postfix(loss=ds.asarray(0.25) * i, phase="a", step=i)
        if i == 2:
            bar.write("a note")
    lines = out.getvalue().splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("train: 1/4, ") and " it/s, " in lines[0] and " s left" in lines[0]
    assert lines[0].endswith("loss 0, phase a, step 0")
    assert lines[2] == "a note"
    assert lines[5].startswith("train: 4/4") and lines[5].endswith("loss 0.75, phase a, step 3")


def test_lines_come_now_and_then() -> None:
    out = io.StringIO()
    for _ in progress(iter(range(1000)), show=True, file=out, every=1e9, unit="step"):
        pass
    (line,) = out.getvalue().splitlines()
    assert line.startswith("1000, ") and line.endswith("step/s")
    with pytest.raises(TypeError, match="length"):
        len(progress(iter(range(3))))


def test_by_hand() -> None:
    out = io.StringIO()
    with progress(total=10, show=True, file=out, every=1e9) as bar:
        bar.update(4)
        bar.update()
        bar.set_description("done")
    bar.close()
    assert out.getvalue().startswith("done: 5/10") and out.getvalue().count("\n") == 1


def test_the_bar_of_tqdm() -> None:
    pytest.importorskip("tqdm")
    out = Terminal()
    bar = progress(range(5), "train", file=out)
    assert type(bar) is Bar
    for i in bar:
        bar.set_postfix(loss=ds.asarray(0.5) * i)
        bar.set_description(f"epoch {i}")
    last = out.getvalue().split("\r")[-1]
    assert "epoch 4" in last and "5/5" in last and "loss 2" in last and "100% |" in last
    unknown = Terminal()
    for _ in progress(iter(range(3)), file=unknown):
        pass
    assert "3it" in unknown.getvalue()
    assert type(progress([1], show=False, file=Terminal())) is Progress


def test_lines_on_a_terminal_without_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert type(progress([1], file=Terminal())) is Lines


def test_an_exception_leaves_the_last_line() -> None:
    out = io.StringIO()
    with pytest.raises(ZeroDivisionError), progress([1, 0], show=True, file=out, every=1e9) as bar:
        for i in bar:
            1 / i
    assert out.getvalue().startswith("1/2")
