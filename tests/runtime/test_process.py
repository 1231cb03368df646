"""Threads, forks, Ctrl-C and the recording of calls."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deepseek import _runtime
from deepseek._runtime import (
    Buffer,
    Code,
    ProgramBuilder,
    cpu_features,
    get_num_threads,
    set_num_threads,
    start_recording_calls,
    stop_recording_calls,
)


def test_cpu_features_describe_this_machine() -> None:
    cpu = cpu_features()
    assert cpu["level"] in ("v1", "v2", "v3", "v4")
    assert cpu["threads"] == len(os.sched_getaffinity(0)) or cpu["threads"] < os.cpu_count()
    assert 8 << 10 <= cpu["l1d"] <= cpu["l2"] <= cpu["l3"] or cpu["l3"] == 0
    if cpu["level"] == "v4":
        assert {"avx2", "fma", "avx512f"} <= set(cpu["flags"])


def test_number_of_threads_can_be_set_and_is_checked() -> None:
    before = get_num_threads()
    try:
        set_num_threads(3)
        assert get_num_threads() == 3
        with pytest.raises(ValueError, match="from 1 to 1024, got 0"):
            set_num_threads(0)
        assert get_num_threads() == 3
    finally:
        set_num_threads(before)


def run_python(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_environment_sets_the_number_of_threads() -> None:
    text = "from deepseek import _runtime; print(_runtime.get_num_threads())"
    assert run_python(text, DS_NUM_THREADS="5").stdout == "5\n"
    assert int(run_python(text, DS_NUM_THREADS="").stdout) == cpu_features()["threads"]
    error = run_python(text, DS_NUM_THREADS="many").stderr
    assert "DS_NUM_THREADS: got 'many'; wanted auto, or a whole number from 1 to 1024" in error


def big_add(code: Code, n: int) -> Callable[[], np.ndarray]:
    builder = ProgramBuilder(0)
    x, out = builder.input(8 * n), builder.output(8 * n)
    builder.main.launch(code, "add", [((x, x, out), (), n)], grain=64)
    program = builder.build()
    held = Buffer.copy_of(np.arange(n))
    return lambda: np.frombuffer(program.run([held])[0], np.int64)


def test_the_pool_works_in_a_forked_child(code: Code) -> None:
    before = get_num_threads()
    set_num_threads(3)
    try:
        call = big_add(code, 10_000)
        expected = call()
        child = os.fork()
        if child == 0:
            good = np.array_equal(call(), expected) and get_num_threads() == 3
            os._exit(0 if good else 1)
        assert os.waitpid(child, 0)[1] == 0
        np.testing.assert_array_equal(call(), expected)
    finally:
        set_num_threads(before)


def endless(code: Code, donated_write: bool) -> tuple[_runtime.Program, list[Buffer]]:
    """Counts to a limit, far away; with `donated_write` the counter lies in a donated buffer."""
    builder = ProgramBuilder(0)
    counter, limit, one = builder.input(8), builder.input(8), builder.input(8)
    state = builder.output(8, may_alias=counter if donated_write else None)
    go_on = builder.temp(1)
    condition, body = builder.block(), builder.block()
    builder.main.copy(state, counter, 8)
    condition.launch(code, "less", [((state, limit, go_on), (), 1)])
    body.launch(code, "add", [((state, one, state), (), 1)])
    builder.main.while_(condition, go_on, body)
    far = 3_000_000 if donated_write else 1 << 60
    return builder.build(), [Buffer.copy_of(np.array([v])) for v in (0, far, 1)]


@pytest.mark.parametrize("donated_write", [False, True])
def test_interrupts_come_before_the_first_donated_write_or_after_the_run(
    code: Code, donated_write: bool
) -> None:
    program, inputs = endless(code, donated_write)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    caught = False
    outputs: list[Buffer] = []
    try:
        outputs = program.run(inputs, donate=[donated_write, False, False])
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            time.sleep(0.01)
    except KeyboardInterrupt:
        caught = True
    timer.join()
    assert caught
    counted = int(np.frombuffer(inputs[0], np.int64)[0])
    assert counted == (3_000_000 if donated_write else 0)
    assert program.counters()["runs"] == int(donated_write)
    assert len(outputs) <= 1


def record(function: Callable[[], Any], *ignore: str) -> list[tuple[str, dict[str, Any]]]:
    start_recording_calls(ignore)
    try:
        function()
    finally:
        found = stop_recording_calls()
    return [(code.co_name, values) for code, _, values in found]


class Scaled:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def apply(self, x: int) -> int:
        return x * self.factor


def make_adder(amount: int) -> Callable[[int], int]:
    def add(x: int) -> int:
        return x + amount

    return add


def test_recording_sees_each_function_once_with_its_locals() -> None:
    def helper(x: int) -> int:
        return x + 1

    def main() -> None:
        for value in (1, 1, 1):
            helper(value)

    found = record(main)
    assert [name for name, _ in found] == ["main", "helper"]
    assert found[1][1] == {"x": 1}
    assert found[0][1] == {"helper": helper}


def test_recording_tells_methods_and_closures_apart() -> None:
    two, three = Scaled(2), Scaled(3)
    add_one, add_two = make_adder(1), make_adder(2)

    def main() -> None:
        two.apply(1)
        three.apply(1)
        two.apply(5)
        add_one(0)
        add_two(0)

    found = record(main)
    assert [(n, v["self"]) for n, v in found if n == "apply"] == [("apply", two), ("apply", three)]
    assert [v for n, v in found if n == "add"] == [{"x": 0, "amount": 1}, {"x": 0, "amount": 2}]


def test_recorded_globals_are_the_function_s_own() -> None:
    start_recording_calls()
    make_adder(3)
    found = stop_recording_calls()
    assert found[0][0] is make_adder.__code__
    assert found[0][1] is globals()
    assert found[0][2] == {"amount": 3}


def test_recording_ignores_files_by_prefix() -> None:
    assert record(lambda: make_adder(1), __file__) == []
    assert [name for name, _ in record(lambda: make_adder(1), "/nowhere")] == [
        "<lambda>",
        "make_adder",
    ]


def test_recordings_nest_and_restore_the_profile_function_before() -> None:
    events: list[str] = []

    def profiler(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            events.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(profiler)
    try:
        start_recording_calls()
        make_adder(1)
        start_recording_calls()
        Scaled(1)
        inner = stop_recording_calls()
        outer = stop_recording_calls()
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(before)
    assert [code.co_name for code, _, _ in inner] == ["__init__"]
    assert [code.co_name for code, _, _ in outer] == ["make_adder", "__init__"]
    assert "make_adder" in events
    assert "__init__" in events
    with pytest.raises(RuntimeError, match="no recording is open"):
        stop_recording_calls()
