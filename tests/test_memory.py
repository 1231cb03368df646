"""What memory is said to be held by whom, the limits, and running out of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

import deepseek as ds
from deepseek.config import override
from deepseek.errors import ArgumentError, DeepseekError, OutOfMemoryError

MIB = 1 << 20


@pytest.fixture
def limited() -> Iterator[None]:
    """Little memory beyond what is in use."""
    ds.set_memory_limit(ds.memory_stats()["in_use"] + 8 * MIB)
    yield
    ds.set_memory_limit(None)


def large(mib: int) -> ds.Tensor:
    return ds.asarray(np.ones(mib * MIB // 4, np.float32))


# ------------------------------------------------------------------------------------- figures


def test_stats_follow_what_is_held() -> None:
    before = ds.memory_stats()
    x = large(3)
    held = ds.memory_stats()
    assert held["in_use"] == before["in_use"] + 3 * MIB
    assert held["live_blocks"] == before["live_blocks"] + 1
    assert held["peak"] >= held["in_use"]
    assert held["reserved"] >= held["in_use"]
    del x
    after = ds.memory_stats()
    assert after["in_use"] == before["in_use"]
    assert after["cached"] >= 3 * MIB
    assert ds.empty_cache() >= 3 * MIB
    assert ds.memory_stats()["cached"] == 0


def test_summary_names_holders_and_arenas() -> None:
    kept = [large(5), large(5)]

    @ds.jit
    def rows_and_back(x: ds.Tensor) -> ds.Tensor:
        return x.cumulative_sum(axis=0).flip(0).cumulative_sum(axis=0)

    out = rows_and_back(ds.asarray(np.ones((300, 300), np.float32)))
    out.numpy()
    text = ds.memory_summary()
    lines = {line.split("  ")[1]: line for line in text.splitlines() if line.startswith("  ")}
    assert {"in use", "peak", "reserved", "cached", "limit"} <= lines.keys()
    assert "none" in lines["limit"]
    assert "10.0 MiB" in text or "blocks" in lines["asarray"]
    assert "Held by" in text
    assert "Arenas of the programs compiled last" in text
    assert "1 runs; no arena is smaller than 351.6 KiB" in text
    assert len(kept) == 2


def test_summary_shows_the_limit(limited: None) -> None:
    assert "MiB" in [s for s in ds.memory_summary().splitlines() if s.startswith("  limit")][0]


# -------------------------------------------------------------------------------- out of memory


def test_a_large_tensor_says_what_was_asked_and_who_holds(limited: None) -> None:
    kept = large(5)
    with pytest.raises(OutOfMemoryError) as caught:
        large(64)
    text = str(caught.value)
    assert "asked for 64.0 MiB" in text
    assert "are in use; the limit is" in text
    assert "held by: " in text
    assert isinstance(caught.value, MemoryError)
    assert isinstance(caught.value, DeepseekError)
    assert kept.sum().item() == 5 * MIB / 4


def test_an_eager_op_fails_and_the_process_goes_on(limited: None) -> None:
    x = large(2)
    y = x.reshape((1, -1)).broadcast_to((20, 2 * MIB // 4)) + 1
    with pytest.raises(OutOfMemoryError, match="asked for 40.0 MiB"):
        y.numpy()
    assert (x + 1).sum().item() == MIB
    ds.set_memory_limit(None)
    assert y.sum().item() == 20 * MIB  # asked again, with room for it


def test_what_nobody_can_reach_makes_room(limited: None) -> None:
    w = large(1)
    w.requires_grad = True
    for _ in range(30):  # each round leaves a recorded graph behind, which is a cycle
        assert (w.exp() * 2).exp().sum().item() > 0


def test_a_compiled_step_that_fails_changes_nothing() -> None:
    w = ds.asarray(np.ones(1000, np.float32))
    w.requires_grad = True
    opt = ds.optim.SGD([w], lr=1.0)

    @ds.jit
    def step(x: ds.Tensor) -> ds.Tensor:
        opt.zero_grad()
        loss = ((x * w).cumulative_sum(axis=0) ** 2).sum()
        loss.backward()
        opt.step()
        return loss

    small = ds.asarray(np.full((20, 1000), 1e-3, np.float32))
    big = ds.asarray(np.full((4000, 1000), 1e-3, np.float32))
    step(small)
    before = w.numpy().copy()
    ds.set_memory_limit(ds.memory_stats()["in_use"] + 2 * MIB)
    try:
        with pytest.raises(OutOfMemoryError, match="asked for"):
            step(big)
        assert np.array_equal(w.numpy(), before)
        step(small)
        assert not np.array_equal(w.numpy(), before)
    finally:
        ds.set_memory_limit(None)
    step(big)


# -------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("given", "limit"), [(4096, 4096), ("2K", 2048), ("1.5G", 3 << 29), (None, None)]
)
def test_limit(given: int | str | None, limit: int | None) -> None:
    try:
        ds.set_memory_limit(given)
        assert ds.memory_stats()["limit"] == limit
    finally:
        ds.set_memory_limit(None)


@pytest.mark.parametrize("given", [-1, 0, "many", 1.5, True])
def test_limits_that_are_none(given: object) -> None:
    with pytest.raises(ArgumentError, match="memory limit: got "):
        ds.set_memory_limit(given)  # type: ignore[arg-type]
    assert ds.memory_stats()["limit"] is None


def test_threads() -> None:
    before = ds.get_num_threads()
    try:
        ds.set_num_threads(2)
        assert ds.get_num_threads() == 2
        assert ds.asarray(np.ones(10**6, np.float32)).sum().item() == 10**6
    finally:
        ds.set_num_threads(before)
    for given in (0, -1, 1.5, True, "2", 1025):
        with pytest.raises(ArgumentError, match="number of threads: got "):
            ds.set_num_threads(given)  # type: ignore[arg-type]


def test_overrides_hold_within_their_block() -> None:
    before = ds.get_num_threads()
    with override(num_threads=before + 1, memory_limit="1G"):
        assert ds.get_num_threads() == before + 1
        assert ds.memory_stats()["limit"] == 1 << 30
    assert ds.get_num_threads() == before
    assert ds.memory_stats()["limit"] is None


def test_options_are_handed_to_the_runtime() -> None:
    code = "import deepseek as ds; print(ds.memory_stats()['limit'], ds.get_num_threads())"
    env = {**os.environ, "DS_MEMORY_LIMIT": "64M", "DS_NUM_THREADS": "3"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.split() == [str(64 * MIB), "3"], done.stderr
