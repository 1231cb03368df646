"""The command line: doctor, cache, generate."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import deepseek as ds
from deepseek import cli, config
from deepseek.backends import available
from deepseek.compiler import store
from deepseek.errors import ArgumentError

ROOT = Path(__file__).parents[1]


def test_doctor_names_versions_processor_cache_and_every_backend(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["doctor"]) == 0
    rows = dict(
        line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line[0] == " "
    )
    assert {"python", "numpy", "llvmlite", "level", "features", "threads", "folder"} <= set(rows)
    assert rows["numpy"] == cli.version(["numpy"])
    assert rows["folder"] == str(config.options.cache)
    for name, usable, reason in available():
        wanted = "usable" if usable else f"not usable: {reason.splitlines()[0]}"
        assert rows[name].removesuffix(", in use") == wanted
    assert rows[config.options.backend].endswith(", in use")


def test_doctor_fails_where_the_chosen_backend_is_not_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with config.override(backend="nowhere"):
        assert cli.main(["doctor"]) == 1
    findings = capsys.readouterr().out.partition("findings\n")[2]
    assert "DS_BACKEND" in findings
    assert "unknown backend 'nowhere'; valid: cpu, cuda, null" in findings


@pytest.mark.parametrize("command", [["-m", "deepseek"], [f"{sys.prefix}/bin/deepseek"]])
def test_doctor_finds_bad_variables(command: list[str]) -> None:
    """Where `import deepseek` stops at a bad value, the doctor says what is wrong with it."""
    found = subprocess.run(
        [sys.executable, *command, "doctor"],
        env={
            **os.environ, "DS_VERIFY": "7", "DS_NUM_THREADS": "many", "DS_BACKEND": "nowhere",
            "DS_CACHE_SIZ": "1G",
        },
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert found.returncode == 1 and not found.stderr
    findings = found.stdout.partition("findings\n")[2]
    for text in (
        "unknown value of DS_VERIFY '7'; valid: 0, 1, 2",
        "DS_NUM_THREADS got 'many'; wanted auto, or a whole number from 1 to 1024",
        "unknown backend 'nowhere'; valid: ",
        "did you mean DS_CACHE_SIZE?",
    ):
        assert text in findings


def test_an_unknown_backend_is_an_error_at_the_first_value() -> None:
    x = ds.ones((2,)) + 1
    with config.override(backend="nowhere"):
        for compute in (x.numpy, lambda: ds.jit(lambda x: x * 2)(x)):
            with pytest.raises(ArgumentError, match="unknown backend 'nowhere'; valid: .*null"):
                compute()


def test_cache_is_measured_and_emptied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with config.override(cache=tmp_path / "cache"):
        folder = Path(store.cache_folder())
        (folder / "kernels").mkdir()
        (folder / "kernels" / "one").write_bytes(b"x" * 2048)
        assert cli.main(["cache"]) == 0
        assert "2 KiB in 1 files of 1 GiB" in capsys.readouterr().out
        assert cli.main(["cache", "clear"]) == 0
        assert [path.name for path in folder.iterdir()] == [store.CACHE_TAG]


def test_cache_clear_leaves_other_folders_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with config.override(cache=tmp_path):
        assert cli.main(["cache", "clear"]) == 1
    assert "holds other files" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").exists()


def test_generate_writes_what_is_stale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    made = (("docs/env.md", config.markdown), ("docs/other.md", lambda: "other"))
    monkeypatch.setattr(cli, "GENERATED", made)
    assert cli.main(["generate", "--check", str(tmp_path)]) == 1
    assert "docs/env.md is stale" in capsys.readouterr().out
    assert cli.main(["generate", str(tmp_path)]) == 0
    written = (tmp_path / "docs" / "env.md").stat().st_mtime_ns
    assert cli.main(["generate", str(tmp_path)]) == 0
    assert (tmp_path / "docs" / "env.md").stat().st_mtime_ns == written
    assert cli.main(["generate", "--check", str(tmp_path)]) == 0


def test_generated_files_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "--check", str(ROOT)]) == 0, capsys.readouterr().out


def test_generate_wants_the_projects_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["generate", str(tmp_path)]) == 1
    assert "wanted the project's, which has docs/" in capsys.readouterr().err
