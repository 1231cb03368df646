"""Options, error messages, user lines, and the cache folder."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import typing
from collections.abc import Callable
from pathlib import Path

import pytest

from deepseek import config, errors
from deepseek.compiler import store
from deepseek.errors import ArgumentError, ShapeError, format_line, op_error, unknown, user_line
from deepseek.logs import logger

ROOT = Path(__file__).parents[1]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch):
    """`environment(DS_VERIFY="1")`: as if the process had been started so."""

    def change(**variables: str | None) -> None:
        for name, value in variables.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        config.reload()

    yield change
    monkeypatch.undo()
    config.reload()


def test_the_table_and_the_attributes_agree() -> None:
    hints = typing.get_type_hints(config.Options)
    assert list(hints) == [option.name for option in config.TABLE]
    for name, hint in hints.items():
        assert isinstance(getattr(config.options, name), hint), name
    for option in config.TABLE:
        assert option.env == f"DS_{option.name.upper()}"


def test_defaults(environment: Callable[..., None]) -> None:
    environment(**{option.env: None for option in config.TABLE}, XDG_CACHE_HOME="/var/xdg")
    assert config.options.backend == "cpu"
    assert config.options.num_threads == len(os.sched_getaffinity(0))
    assert config.options.cpu_level == "auto"
    assert config.options.dump is None
    assert config.options.verify == 0
    assert config.options.eager is False
    assert config.options.cache == "/var/xdg/deepseek"
    assert config.options.memory_limit == 0
    assert config.options.flush_nodes == 10_000
    assert config.options.fuel == -1
    assert config.options.promote is True


def test_a_relative_cache_home_is_ignored(environment: Callable[..., None]) -> None:
    environment(DS_CACHE=None, XDG_CACHE_HOME="relative", HOME="/home/somebody")
    assert config.options.cache == "/home/somebody/.cache/deepseek"


def test_the_environment_is_parsed(environment: Callable[..., None]) -> None:
    environment(
        DS_BACKEND="reference",
        DS_NUM_THREADS=" 3 ",
        DS_CPU_LEVEL="V3",
        DS_DUMP="stages",
        DS_EAGER="1",
        DS_CACHE_SIZE="1.5K",
        DS_MEMORY_LIMIT="2GiB",
        DS_FUEL="17",
    )
    assert config.options.backend == "reference"
    assert config.options.num_threads == 3
    assert config.options.cpu_level == "v3"
    assert config.options.dump == str(Path.cwd() / "stages")
    assert config.options.eager is True
    assert config.options.cache_size == 1536
    assert config.options.memory_limit == 2 << 30
    assert config.options.fuel == 17


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("DS_VERIFY", "3", "unknown value of DS_VERIFY '3'; valid: 0, 1, 2"),
        ("DS_CPU_LEVEL", "v5", "unknown value of DS_CPU_LEVEL 'v5'; valid: auto, v4, v3, v2"),
        ("DS_EAGER", "yes", "unknown value of DS_EAGER 'yes'; valid: 0, 1"),
        ("DS_LOG_LEVEL", "warn", "did you mean 'warning'?"),
        ("DS_NUM_THREADS", "0", "DS_NUM_THREADS: got '0'; wanted auto, or a whole number from 1"),
        ("DS_FLUSH_NODES", "many", "DS_FLUSH_NODES: got 'many'; wanted a whole number, 1 or more"),
        ("DS_FUEL", "-2", "DS_FUEL: got '-2'; wanted -1 (no limit), or a whole number"),
        ("DS_MEMORY_LIMIT", "2X", "DS_MEMORY_LIMIT: got '2X'; wanted a number of bytes, with an"),
        ("DS_BACKEND", "c p u", "DS_BACKEND: got 'c p u'; wanted the name of a backend"),
    ],
)
def test_bad_values_name_the_variable(
    variable: str, value: str, message: str, environment: Callable[..., None]
) -> None:
    with pytest.raises(ArgumentError) as caught:
        environment(**{variable: value})
    assert message in str(caught.value)


def test_override_holds_within_its_block() -> None:
    before = repr(config.options)
    with config.override(verify=1, eager=True, memory_limit="2G", dump=Path("/x")) as inside:
        assert (inside.verify, inside.eager, inside.memory_limit) == (1, True, 2 << 30)
        assert config.options.dump == "/x"
        with config.override(verify="2", dump=None):
            assert (config.options.verify, config.options.dump) == (2, None)
        assert config.options.verify == 1
    assert repr(config.options) == before


def test_override_ends_with_an_exception() -> None:
    with pytest.raises(KeyError), config.override(verify=2):
        raise KeyError
    assert config.options.verify == config.from_environment()["verify"]


def test_a_bad_override_changes_nothing() -> None:
    message = r"option verify \(DS_VERIFY\) '9'; valid: 0, 1, 2"
    with pytest.raises(ArgumentError, match=message), config.override(eager=True, verify=9):
        pytest.fail("the block is not to be entered")
    assert config.options.eager is False
    with pytest.raises(ArgumentError, match="did you mean 'verify'"), config.override(verfy=1):
        pytest.fail("the block is not to be entered")


def test_override_is_of_one_thread() -> None:
    seen = []
    with config.override(fuel=2):
        thread = threading.Thread(target=lambda: seen.append(config.options.fuel))
        thread.start()
        thread.join()
    assert seen == [config.from_environment()["fuel"]] != [2]


def test_options_are_not_assigned_to() -> None:
    with pytest.raises(ArgumentError, match=r"config.override\(verify=...\).*DS_VERIFY"):
        config.options.verify = 1
    with pytest.raises(AttributeError):
        _ = config.options.verfy  # type: ignore[attr-defined]


def test_a_bad_variable_stops_the_import() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import deepseek.config"],
        env={**os.environ, "DS_VERIFY": "x"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.endswith("unknown value of DS_VERIFY 'x'; valid: 0, 1, 2\n")


def test_the_log_level(caplog: pytest.LogCaptureFixture) -> None:
    log = logger()
    assert log is logging.getLogger("deepseek")
    with config.override(log_level="debug"):
        log.debug("seen")
    log.debug("not seen")
    assert [record.message for record in caplog.records] == ["seen"]


def test_the_log_goes_to_standard_error_and_names_misspelt_variables() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from deepseek.logs import logger; logger().info('hello')"],
        env={**os.environ, "DS_LOG_LEVEL": "info", "DS_VERIFFY": "1", "DS_BUILD_OPS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines() == [
        "deepseek WARNING: the environment variable DS_VERIFFY is not known; "
        "did you mean DS_VERIFY?",
        "deepseek INFO: hello",
    ]


def test_the_cache_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "cache"
    with config.override(cache=path):
        assert store.cache_folder() == str(path)
        assert path.stat().st_mode & 0o777 == 0o700
        (path / "kernel").write_text("x")
        assert store.cache_folder() == str(path)


def test_a_cache_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with (
        config.override(cache=tmp_path),
        pytest.raises(ArgumentError, match="mode 777; wanted .*mode 700\n  help: chmod 700"),
    ):
        store.cache_folder()


def test_a_folder_of_other_files_is_not_taken_for_a_cache(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with (
        config.override(cache=tmp_path),
        pytest.raises(ArgumentError, match="holds other files; wanted a new or empty folder"),
    ):
        store.cache_folder()


def test_a_cache_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        config.override(cache=tmp_path / "file" / "cache"),
        pytest.raises(ArgumentError, match="cannot be used: Not a directory\n  help: set DS_CACHE"),
    ):
        store.cache_folder()


def test_docs_env_is_up_to_date() -> None:
    assert (ROOT / "docs" / "env.md").read_text() == config.markdown(), "run `make generated`"


def test_every_variable_in_the_sources_is_in_the_table() -> None:
    known = {option.env for option in config.TABLE}
    for path in (ROOT / "deepseek").rglob("*.py"):
        text = path.read_text()
        assert "os.environ" not in text or path.name == "config.py", f"{path} reads it itself"
        assert set(re.findall(r"\bDS_[A-Z_]*[A-Z]", text)) <= known, path


def test_the_form_of_an_error() -> None:
    line = user_line()
    error = op_error(
        ShapeError, "matmul", ["float32[3, 4]", "float32[5, 6]"], "equal k", line, "transpose b"
    )
    assert isinstance(error, ShapeError) and isinstance(error, ValueError)
    where, got_line, remedy = str(error).splitlines()
    assert where == "op 'matmul': got float32[3, 4] and float32[5, 6]; wanted equal k"
    assert got_line.startswith("  at ") and got_line.endswith(": line = user_line()")
    assert remedy == "  help: transpose b"
    assert str(op_error(ShapeError, "add", 3, "a tensor")) == "op 'add': got 3; wanted a tensor"


def test_unknown_lists_the_valid_names() -> None:
    assert str(unknown("device", "cdua", ["cpu", "cuda"])) == (
        "unknown device 'cdua'; valid: cpu, cuda\n  help: did you mean 'cuda'?"
    )
    assert str(unknown("device", "tpu9000", [])) == "unknown device 'tpu9000'; valid: (none)"


def test_errors_are_also_pythons() -> None:
    for name, base in {
        "DTypeError": TypeError,
        "ArgumentError": ValueError,
        "TraceError": RuntimeError,
        "FormatError": ValueError,
        "OutOfMemoryError": MemoryError,
    }.items():
        assert issubclass(getattr(errors, name), (errors.DeepseekError, base))
        assert issubclass(getattr(errors, name), base)


def test_the_user_line_skips_deepseek_and_the_standard_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside: dict[str, Callable[[], errors.Line]] = {}
    code = "from deepseek.errors import user_line\ndef op():\n    return user_line()\n"
    exec(compile(code, errors.PACKAGE_DIR + "nn/layer.py", "exec"), inside)
    code = "def run(f):\n    return f()\n"
    exec(compile(code, errors.STDLIB_DIR + "contextlib.py", "exec"), inside)
    monkeypatch.chdir(Path(__file__).parent)
    line = (
        inside["run"](inside["op"])  # type: ignore[call-arg]
    )
    number = test_the_user_line_skips_deepseek_and_the_standard_library.__code__.co_firstlineno
    assert errors.line_number(line) > number
    assert format_line(line) == (
        f"test_config.py:{errors.line_number(line)}: "
        'inside["run"](inside["op"])  # type: ignore[call-arg]'
    )


def test_installed_packages_are_users_too() -> None:
    assert errors.is_internal(errors.STDLIB_DIR + "json/decoder.py")
    assert errors.is_internal("<frozen runpy>")
    assert not errors.is_internal(errors.STDLIB_DIR + "site-packages/model/net.py")
    assert not errors.is_internal("<stdin>")


def test_a_line_without_source_is_still_a_place() -> None:
    scope: dict[str, errors.Line] = {}
    exec(compile("\nline = user_line()", "<generated>", "exec"), {"user_line": user_line}, scope)
    assert format_line(scope["line"]) == "<generated>:2"
