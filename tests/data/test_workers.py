"""Worker processes: what they send, how they fail, and that they are gone afterwards."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek.data import DataLoader, Dataset, IterableDataset, WorkerError, get_worker_info


class Calling(Dataset[Any]):
    """Items that a function gives."""

    def __init__(self, function: Callable[[int], Any], size: int = 12) -> None:
        self.function = function
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> Any:
        return self.function(i)


def listed(items: list[Any]) -> list[Any]:
    return items


def gone(pid: int) -> bool:
    """Whether a process ended, or is about to be collected."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def pids(loader: DataLoader[Any]) -> list[int]:
    return sorted({pid for batch in loader for pid in batch})


def worker_pids(size: int = 12) -> Calling:
    return Calling(lambda i: os.getpid(), size)


# ------------------------------------------------------------------------------------ what is sent


@pytest.mark.parametrize("size", [10, 3000, 400_000])
def test_all_kinds_of_objects_arrive(size: int) -> None:
    def item(i: int) -> Any:
        array = np.arange(i, i + size, dtype=np.int32)
        return {
            "tensor": ds.asarray(array),
            "half": ds.asarray(array % 100).astype("bfloat16"),
            "array": array[::-1],
            "fortran": np.asfortranarray(np.ones((2, 3)) * i),
            "empty": (ds.zeros(0, 3), np.zeros((0, 2))),
            "text": "ü" * i,
            "none": None,
        }

    (batch,) = DataLoader(Calling(item, 2), 2, num_workers=1, collate_fn=listed)
    for i, found in enumerate(batch):
        expected = item(i)
        assert isinstance(found["tensor"], ds.Tensor) and type(found["array"]) is np.ndarray
        assert found["half"].dtype == ds.bfloat16 and found["empty"][0].shape == (0, 3)
        assert found["empty"][1].shape == (0, 2)
        for key in ("tensor", "half", "array", "fortran"):
            assert np.array_equal(np.asarray(found[key]), np.asarray(expected[key])), key
        assert found["text"] == "ü" * i and found["none"] is None
        found["array"][:] = 0  # memory of its own


def test_many_large_batches_keep_no_descriptors_and_no_memory() -> None:
    data = Calling(lambda i: np.full(100_000, i, np.float32), 40)
    loader = DataLoader(data, 4, num_workers=2)
    list(loader)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        sums = [batch.numpy()[:, -1].tolist() for batch in loader]
        assert sum(sums, []) == list(range(40))
    assert len(os.listdir("/proc/self/fd")) == before


def test_order_is_kept_where_batches_take_different_times() -> None:
    def item(i: int) -> int:
        time.sleep(0.05 if i % 3 == 0 else 0)
        return i

    loader = DataLoader(Calling(item), num_workers=3)
    assert [b.item() for b in loader] == list(range(12))


def test_batches_are_made_ahead(tmp_path: Path) -> None:
    def item(i: int) -> int:
        (tmp_path / str(i)).touch()
        return i

    iterator = iter(DataLoader(Calling(item), num_workers=2, prefetch_factor=3))
    next(iterator)
    # Six were asked for at first, and a seventh when the first was taken away... by the next call.
    assert wait_for(lambda: len(os.listdir(tmp_path)) == 6)
    time.sleep(0.1)
    assert len(os.listdir(tmp_path)) == 6
    iterator.close()


def test_far_ahead_and_large_in_both_directions_does_not_stall() -> None:
    """Neither side waits for the other to read while the other does the same."""
    data = Calling(lambda i: "x" * 2000, 100_000)
    indices = [list(range(k, k + 400)) for k in range(0, 60_000, 400)]
    loader = DataLoader(
        data, batch_sampler=indices, num_workers=1, prefetch_factor=200, collate_fn=len, timeout=60
    )
    assert list(loader) == [400] * 150
    small = DataLoader(
        data, batch_size=5, sampler=range(5000), num_workers=1, prefetch_factor=2000,
        collate_fn=listed, timeout=60,
    )  # fmt: skip
    assert sum(len(batch) for batch in small) == 5000


def test_workers_know_who_they_are() -> None:
    def item(i: int) -> Any:
        info = get_worker_info()
        assert info is not None and info.dataset.size == 12
        return info.id, info.num_workers, info.seed, ds.get_num_threads()

    items = sum(DataLoader(Calling(item), 3, num_workers=2, collate_fn=listed), [])
    assert [i[:2] for i in items] == [(0, 2)] * 3 + [(1, 2)] * 3 + [(0, 2)] * 3 + [(1, 2)] * 3
    assert len({i[2] for i in items}) == 2 and {i[3] for i in items} == {1}
    assert get_worker_info() is None


def test_worker_init_fn_is_called_in_each() -> None:
    started = []

    def init(number: int) -> None:
        started.append(number)

    data = Calling(lambda i: list(started), 4)
    loader = DataLoader(data, None, num_workers=2, worker_init_fn=init)
    assert list(loader) == [[0], [1], [0], [1]] and started == []


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_every_way_to_start(context: str) -> None:
    loader = DataLoader(range(10), 5, num_workers=2, multiprocessing_context=context)
    assert [b.tolist() for b in loader] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_eager_tensors_in_forked_workers() -> None:
    """The parent has run compiled programs in threads of its own; the workers compute as well."""
    weight = ds.randn(8, 8)
    expected = [(weight @ weight * i).sum().item() for i in range(6)]
    data = Calling(lambda i: (weight @ weight * i).sum(), 6)
    found = [b.item() for b in DataLoader(data, num_workers=2)]
    assert found == pytest.approx(expected, rel=1e-5)


# ----------------------------------------------------------------------------------------- failures


class Odd(Exception):
    """Cannot be made from its arguments, and so not be pickled."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"odd {a} {b}")


def failing_at_3(error: Callable[[], BaseException]) -> Calling:
    def item(i: int) -> int:
        if i == 3:
            raise error()
        return i

    return Calling(item)


def test_an_exception_that_cannot_be_sent_comes_in_words() -> None:
    with pytest.raises(WorkerError, match=r"worker 0 .* raised .*Odd: odd 1 2") as caught:
        list(DataLoader(failing_at_3(lambda: Odd(1, 2)), 2, num_workers=1))
    notes = "\n".join(caught.value.__notes__)
    assert "item 3 of Calling" in notes and "raise error()" in notes


def test_an_exit_in_an_item_is_an_error() -> None:
    with pytest.raises(WorkerError, match="raised SystemExit: 4"):
        list(DataLoader(failing_at_3(lambda: SystemExit(4)), 2, num_workers=1))


def test_what_cannot_be_sent_is_an_error() -> None:
    with pytest.raises(Exception, match="pickle") as caught:
        list(DataLoader(Calling(lambda i: lambda: i), 2, num_workers=1, collate_fn=listed))
    assert "while the batch was sent" in "\n".join(caught.value.__notes__)


def test_an_error_in_worker_init_fn() -> None:
    def init(number: int) -> None:
        raise OSError(f"no disk for {number}")

    with pytest.raises(OSError, match="no disk for 0") as caught:
        list(DataLoader(range(4), num_workers=2, worker_init_fn=init))
    assert "in worker_init_fn(0)" in "\n".join(caught.value.__notes__)


def test_an_error_in_a_stream() -> None:
    class Cut(IterableDataset[int]):
        def __iter__(self) -> Any:
            yield from (1, 2, 3)
            raise EOFError("cut off")

    with pytest.raises(EOFError, match="cut off") as caught:
        list(DataLoader(Cut(), 2, num_workers=1))
    assert "of a batch of Cut" in "\n".join(caught.value.__notes__)


@pytest.mark.parametrize(
    ("end", "how"),
    [
        (lambda: os._exit(3), "ended with exit code 3"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was killed by SIGKILL"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "was killed by SIGTERM"),
    ],
)
def test_a_dead_worker_is_named(end: Callable[[], None], how: str) -> None:
    def item(i: int) -> int:
        if i == 5:
            end()
        return i

    loader = DataLoader(Calling(item), 2, num_workers=2, persistent_workers=True)
    seen = []
    with pytest.raises(WorkerError, match=rf"DataLoader worker 0 \(pid \d+\) {how}"):
        for batch in loader:
            seen.append(batch.tolist())
    assert seen == [[0, 1], [2, 3]]
    assert multiprocessing.active_children() == []


def test_a_late_worker_is_named() -> None:
    def item(i: int) -> int:
        time.sleep(60 if i == 1 else 0)
        return i

    begun = time.monotonic()
    with pytest.raises(WorkerError, match=r"worker 1 \(pid \d+\) gave no batch within timeout=0.3"):
        list(DataLoader(Calling(item), num_workers=2, timeout=0.3))
    assert time.monotonic() - begun < 20
    assert multiprocessing.active_children() == []


# ----------------------------------------------------------------------------------------- the end


def test_workers_end_with_their_epoch() -> None:
    loader = DataLoader(worker_pids(), 2, num_workers=2, collate_fn=listed)
    first, second = pids(loader), pids(loader)
    assert len(first) == len(second) == 2 and not set(first) & set(second)
    assert os.getpid() not in first
    assert all(map(gone, first + second))


def test_workers_end_with_an_iteration_that_is_given_up() -> None:
    loader = DataLoader(worker_pids(), 2, num_workers=2, collate_fn=listed)
    seen = []
    for batch in loader:
        seen += batch
        break
    assert gone(seen[0])
    iterator = iter(loader)
    (pid, _) = next(iterator)
    assert not gone(pid)
    del iterator
    assert gone(pid)
    assert multiprocessing.active_children() == []


def test_persistent_workers_serve_all_epochs_and_end_with_the_loader() -> None:
    loader = DataLoader(worker_pids(), 2, num_workers=2, collate_fn=listed, persistent_workers=True)
    first = pids(loader)
    for _ in loader:
        break  # what was asked for in this epoch arrives in the next
    assert pids(loader) == first
    assert not any(map(gone, first))
    loader.close()
    assert all(map(gone, first))
    second = pids(loader)
    assert not set(first) & set(second)
    del loader
    assert all(map(gone, second))


def test_an_epoch_of_persistent_workers_that_another_one_cut_off() -> None:
    loader = DataLoader(range(8), num_workers=2, persistent_workers=True)
    first = iter(loader)
    next(first)
    assert [b.item() for b in loader] == list(range(8))
    with pytest.raises(WorkerError, match="another iteration over the same loader"):
        list(first)


def test_loaders_do_not_hold_each_others_workers() -> None:
    loaders = [
        DataLoader(worker_pids(4), 2, num_workers=2, collate_fn=listed, persistent_workers=True)
        for _ in range(3)
    ]
    found = [pids(loader) for loader in loaders]
    begun = time.monotonic()
    loaders[0].close()
    assert time.monotonic() - begun < 1.5  # no worker had to be ended by a signal
    assert all(map(gone, found[0])) and not any(map(gone, found[1] + found[2]))
    for loader in loaders:
        loader.close()


PROGRAM = """
    import os, sys, time
    import numpy as np
    from deepseek.data import DataLoader, Dataset

    class Slow(Dataset):
        def __len__(self):
            return 1000
        def __getitem__(self, i):
            os.write(1, b"%d\\n" % os.getpid())  # in one piece
            time.sleep({seconds})
            return i

    loader = DataLoader(Slow(), num_workers=2)
    for batch in loader:
        print("batch", flush=True)
        {body}
"""


def start(seconds: float, body: str = "pass") -> tuple[subprocess.Popen[str], set[int]]:
    """A program with a loader, and its workers' ids once both are at work."""
    text = textwrap.dedent(PROGRAM).format(seconds=seconds, body=body)
    process = subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    found: set[int] = set()
    assert process.stdout is not None
    while len(found) < 2:
        line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        if line.strip().isdigit():
            found.add(int(line))
    return process, found


@pytest.mark.parametrize("seconds", [0.05, 60])
def test_workers_end_with_a_killed_program(seconds: float) -> None:
    process, found = start(seconds)
    process.kill()
    process.communicate()
    assert wait_for(lambda: all(map(gone, found)))


@pytest.mark.parametrize("seconds", [0.05, 60])
def test_ctrl_c_ends_all_at_once_and_is_reported_once(seconds: float) -> None:
    process, found = start(seconds)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert errors.count("KeyboardInterrupt") == 1 and errors.count("Traceback") == 1
    assert all(map(gone, found))


def test_a_program_that_ends_in_an_epoch_leaves_nobody() -> None:
    process, found = start(0.01, body="sys.exit(5)")
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (5, "")
    assert all(map(gone, found))
