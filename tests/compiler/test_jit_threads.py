"""Compiled calls beside other things: threads that trace, read or compute, forks, signal handlers
and finalizers in the middle of a call.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

import deepseek as ds
from deepseek import _runtime
from deepseek.errors import BackendError

SIZE = 400_000


@pytest.fixture
def restless():
    """Threads that give way to each other as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Meanwhile:
    """`with Meanwhile(f) as m:` calls f in a loop on another thread; `m.calls` counts, and what f
    raises is raised in the end.
    """

    def __init__(self, function):
        self.function = function
        self.calls = 0
        self.error = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.loop)

    def loop(self):
        try:
            while not self.stop.is_set():
                self.function()
                self.calls += 1
        except BaseException as error:  # noqa: BLE001  (handed on)
            self.error = error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        if self.error is not None:
            raise self.error


def counter():
    """A tensor, and a compiled function that adds to it and takes a while."""
    total = ds.zeros((SIZE,)).evaluate()
    one = ds.ones((SIZE,)).evaluate()

    @ds.jit
    def bump():
        nonlocal total
        total += one

    bump()
    return total, bump


READS = {
    "numpy": lambda t: t.numpy().copy(),
    "eager": lambda t: (t * 1.0).numpy(),
    "detach": lambda t: t.detach().numpy().copy(),
    "jit": ds.jit(lambda t: t * 1.0),
    "dlpack": lambda t: np.from_dlpack(t),
}


@pytest.mark.parametrize("how", READS)
def test_nobody_sees_half_of_an_update(how, restless):
    total, bump = counter()
    with Meanwhile(bump) as bumping:
        seen = [np.unique(np.asarray(READS[how](total))) for _ in range(30)]
    assert all(len(values) == 1 for values in seen)
    assert total.numpy()[0] == bumping.calls + 1


def test_updates_during_a_trace_are_not_lost(restless):
    total = ds.zeros((3,)).evaluate()
    one = ds.ones((3,)).evaluate()

    @ds.jit
    def bump():
        nonlocal total
        total += one

    @ds.jit
    def slow(a, text):
        nonlocal total
        total += a
        time.sleep(0.1)  # the trace goes on; others would like to write
        return total * 1

    bump()
    with Meanwhile(bump) as first, Meanwhile(bump) as second:
        for text in "abc":
            slow(one, text)
    assert total.numpy().tolist() == [1 + 3 + first.calls + second.calls] * 3


def test_eager_code_waits_for_the_trace_of_another_thread():
    w = ds.ones((3,)).evaluate()
    seen = []

    def read():
        seen.append((w * 2).sum().item() + w.numpy()[0] + w.detach().numpy()[0])

    @ds.jit
    def slow(a):
        y = a + w
        time.sleep(0.2)
        return y

    with Meanwhile(read):
        slow(ds.ones((3,)))
    assert set(seen) == {8.0}


def test_entries_come_and_go_while_threads_run_them(restless):
    """Garbage is collected wherever Python can."""
    total = ds.zeros((4,)).evaluate()

    @ds.jit
    def f(a, name, d):
        nonlocal total
        total += a
        return {"x": a * len(name), "parts": [total, (a, d["t"])]}

    def work(k):
        for i in range(25):
            a = ds.ones((4,)).evaluate()
            length = (i * 7 + k) % 6
            assert f(a, "n" * length, {"t": a})["x"].numpy()[0] == length

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    errors = []

    def guarded(k):
        try:
            work(k)
        except BaseException as error:  # noqa: BLE001  (told below)
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(k,)) for k in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*threshold)
    assert not errors
    assert total.numpy().tolist() == [100.0] * 4


# ------------------------------------------------------------------------------------------ forks


def child(function):
    """Run a function in a forked process; whether it came back with True within a while."""
    pid = os.fork()
    if not pid:
        ok = False
        try:
            ok = bool(function())
        finally:
            os._exit(0 if ok else 1)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def test_a_fork_while_another_thread_writes():
    """The child sees the tensor whole, and can go on with it."""
    total, bump = counter()

    def check():
        before = np.unique(total.numpy())
        bump()
        return len(before) == 1 and np.unique(total.numpy()) == before + 1

    with Meanwhile(bump):
        assert all([child(check) for _ in range(5)])


def test_a_fork_while_another_thread_traces():
    w = ds.ones((3,)).evaluate()
    f = ds.jit(lambda a: a * w)
    g = ds.jit(lambda a: a - w)

    @ds.jit
    def slow(a):
        y = a + w
        started.set()
        time.sleep(0.3)
        return y

    started = threading.Event()
    f(w)
    thread = threading.Thread(target=lambda: slow(ds.ones((3,))))
    thread.start()
    started.wait()
    assert child(lambda: f(w).numpy()[0] == 1 and g(w).numpy()[0] == 0 and w.numpy()[0] == 1)
    thread.join()


# ----------------------------------------------------------------------- signals and finalizers


SIGNALS = """
import signal
import deepseek as ds
from deepseek import _runtime
from deepseek.errors import BackendError

n = 700
total, a = ds.zeros((n, n)).evaluate(), ds.ones((n, n)).evaluate()

@ds.jit
def step(a):
    global total
    b = a
    for _ in range(20):
        b = b @ a * 1e-3
    total += b

@ds.jit
def read():
    return total.sum()

@ds.jit
def write():
    global total
    total += 1

step(a), read(), write(), read()
seen = set()

def handler(signum, frame):
    try:
        read().item()
        total.numpy()
        seen.add("read")
        write()
        seen.add("written")
    except BackendError as error:
        seen.add("refused: " + str(error).splitlines()[0])
    signal.setitimer(signal.ITIMER_REAL, 0.02)

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.02)
while not any(text.startswith("refused") for text in seen):
    step(a)
signal.signal(signal.SIGALRM, signal.SIG_IGN)
write()
print(*sorted(seen), sep="\\n")
"""


def test_signal_handlers_read_what_a_call_changes_and_do_not_write_it():
    """A handler runs between the steps of a Program, on the thread that waits for it."""
    ended = subprocess.run(
        [sys.executable, "-c", SIGNALS], capture_output=True, text=True, timeout=100
    )
    lines = ended.stdout.splitlines()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "read" in lines
    assert any("which has not returned yet, is changing" in line for line in lines)


def test_ctrl_c_while_waiting_for_another_thread():
    total, bump = counter()
    began = time.monotonic()
    with Meanwhile(bump), pytest.raises(KeyboardInterrupt):
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        while time.monotonic() < began + 20:
            bump()
    assert len(np.unique(total.numpy())) == 1


def test_finalizers_that_call_compiled_functions():
    """They run wherever memory is allocated: before, in the middle of and after a call."""
    total = ds.zeros((3,)).evaluate()
    one = ds.ones((3,)).evaluate()
    calls = 0

    @ds.jit
    def bump(a):
        nonlocal total
        total += a
        return total * 2, [a, {"k": total}]

    @ds.jit
    def read():
        return total.sum()

    class Cycle:
        def __init__(self):
            self.me = self

        def __del__(self):
            nonlocal calls
            read()
            total.numpy()
            bump(one)
            calls += 1

    bump(one)
    read()
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(100):
            Cycle()
            bump(one)
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert total.numpy().tolist() == [1 + 100 + calls] * 3
    assert calls == 100


def test_callbacks_of_dropped_gradients_may_call():
    """A gradient that is replaced goes when the call has finished."""
    w = ds.ones((3,)).requires_grad_().evaluate()
    seen = []

    @ds.jit
    def step(a):
        w.grad = None
        (w * w * a).sum().backward()

    @ds.jit
    def read():
        return w.sum()

    one = ds.ones((3,)).evaluate()
    step(one)
    read()
    for _ in range(3):
        reference = weakref.ref(w.grad, lambda _: seen.append((read().item(), w.grad.numpy()[0])))
        step(one)
        assert reference() is None
    assert seen == [(3.0, 2.0)] * 3


def test_still_writing_is_a_backend_error():
    assert issubclass(_runtime.StillWriting, BackendError)
