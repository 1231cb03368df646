"""Buffers, pool, limit, arena packing."""

import gc
import random

import numpy as np
import pytest

from deepseek import _runtime
from deepseek._runtime import Buffer, OutOfMemory, live_lower_bound, pack_arena, pool_stats

MIB = 1 << 20


@pytest.mark.parametrize("nbytes", [0, 1, 64, 1000, 5 * MIB + 3])
def test_buffers_are_aligned_and_hold_bytes(nbytes: int) -> None:
    held = Buffer.allocate(nbytes, "weights")
    assert (held.nbytes, len(held), held.label) == (nbytes, nbytes, "weights")
    assert held.ptr % (4096 if nbytes > MIB else 64) == 0
    data = np.random.default_rng(0).integers(0, 256, nbytes).astype(np.uint8)
    held.copy_from(data)
    assert bytes(held) == data.tobytes()
    held.writable_view()[:] = data[::-1].tobytes()
    assert bytes(held) == data[::-1].tobytes()


def test_views_are_read_only_and_keep_the_buffer_alive() -> None:
    gc.collect()
    held = Buffer.copy_of(np.arange(10.0))
    view = np.frombuffer(held)
    assert not view.flags.writeable
    assert held.exports == 1
    before = pool_stats()["live_blocks"]
    del held
    gc.collect()
    assert pool_stats()["live_blocks"] == before
    assert view.tolist() == list(range(10))
    del view
    assert pool_stats()["live_blocks"] == before - 1


def test_writable_views_count_as_exports() -> None:
    held = Buffer.allocate(8)
    view = held.writable_view()
    assert held.exports == 1
    assert not view.readonly
    view.release()
    assert held.exports == 0


def test_copy_from_checks_its_argument() -> None:
    held = Buffer.allocate(8)
    with pytest.raises(ValueError, match="has 8 bytes, the data 16"):
        held.copy_from(np.zeros(2))
    with pytest.raises(TypeError, match="C-contiguous object with the buffer protocol, got int"):
        held.copy_from(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="C-contiguous"):
        held.copy_from(np.zeros((4, 4), np.int8)[:, :2])
    with pytest.raises(ValueError, match="must not be negative"):
        Buffer.allocate(-1)


def test_freed_blocks_are_reused_and_given_back() -> None:
    _runtime.empty_cache()
    first = Buffer.allocate(8 * MIB)
    address, hits = first.ptr, pool_stats()["cache_hits"]
    del first
    assert pool_stats()["cached"] >= 8 * MIB
    again = Buffer.allocate(8 * MIB - 1000)
    assert again.ptr == address
    assert pool_stats()["cache_hits"] == hits + 1
    del again
    assert _runtime.empty_cache() >= 8 * MIB
    stats = pool_stats()
    assert stats["cached"] == 0
    assert stats["reserved"] >= stats["in_use"]


def test_statistics_follow_live_blocks() -> None:
    _runtime.reset_peak()
    before = pool_stats()
    held = Buffer.allocate(3 * MIB, "activations")
    held.label = "saved activations"
    during = pool_stats()
    assert during["in_use"] == before["in_use"] + 3 * MIB
    assert during["peak"] >= during["in_use"]
    assert ("saved activations", 3 * MIB) in _runtime.live_blocks()
    del held
    after = pool_stats()
    assert after["in_use"] == before["in_use"]
    assert after["peak"] == during["peak"]


def test_out_of_memory_says_who_holds_what() -> None:
    weights = Buffer.allocate(6 * MIB, "fc1.weight")
    limit = pool_stats()["in_use"] + 2 * MIB
    _runtime.set_memory_limit(limit)
    try:
        with pytest.raises(OutOfMemory) as caught:
            Buffer.allocate(4 * MIB)
        message = str(caught.value)
        assert "asked for 4.0 MiB" in message
        assert "fc1.weight 6.0 MiB" in message
        assert f"limit is {limit / MIB:.1f} MiB" in message
        assert isinstance(caught.value, MemoryError)
        del weights
        Buffer.allocate(4 * MIB)  # the process goes on
    finally:
        _runtime.set_memory_limit(None)
    with pytest.raises(OutOfMemory, match="machine has"):
        Buffer.allocate(1 << 60)


def check_packing(
    sizes: list[int], first: list[int], last: list[int], offsets: list[int], total: int
) -> None:
    blocks = [
        (offset, offset + size, begin, end)
        for offset, size, begin, end in zip(offsets, sizes, first, last, strict=True)
        if size > 0
    ]
    for i, (low, high, begin, end) in enumerate(blocks):
        assert low % 64 == 0
        assert high <= total
        for other_low, other_high, other_begin, other_end in blocks[:i]:
            if begin <= other_end and other_begin <= end:
                assert high <= other_low or other_high <= low


@pytest.mark.parametrize("seed", range(20))
def test_packing_never_overlaps(seed: int) -> None:
    generator = random.Random(seed)
    count = generator.randrange(1, 60)
    sizes = [generator.choice([0, 1, 100, 4096, 5000, 100_000]) for _ in range(count)]
    first = [generator.randrange(30) for _ in range(count)]
    last = [begin + generator.randrange(12) for begin in first]
    offsets, total = pack_arena(sizes, first, last)
    check_packing(sizes, first, last, offsets, total)
    assert live_lower_bound(sizes, first, last) <= total


def training_step(layers: int, seed: int) -> tuple[list[int], list[int], list[int]]:
    """Activations kept until their layer's backward, short-lived gradients and workspaces."""
    generator = random.Random(seed)
    sizes, first, last = [], [], []
    for layer in range(layers):
        backward = 4 * layers - 2 * layer
        activation = generator.choice([1 << 14, 1 << 16, 3 << 15, 50_000])
        for size, begin, end in (
            (activation, 2 * layer, backward + 1),
            (activation, 2 * layer, 2 * layer + 1),
            (activation // 2, 2 * layer + 1, 2 * layer + 2),
            (activation, backward, backward + 1),
            (activation, backward - 1, backward),
            (generator.choice([9216, 36864]), backward, 4 * layers + 3),
        ):
            sizes.append(size)
            first.append(begin)
            last.append(end)
    return sizes, first, last


def residual_forward(blocks: int, seed: int) -> tuple[list[int], list[int], list[int]]:
    """Inference of a residual network whose sizes halve now and then; skips span a block."""
    generator = random.Random(seed)
    sizes, first, last = [], [], []
    size = 1 << 20
    for block in range(blocks):
        step = 4 * block
        if block % 4 == 3:
            size //= 2
        for part, begin, end in (
            (size, step, step + 4),
            (generator.choice([size, 2 * size]), step + 1, step + 2),
            (size, step + 2, step + 3),
            (size // 4 + 64, step + 3, step + 4),
        ):
            sizes.append(part)
            first.append(begin)
            last.append(end)
    return sizes, first, last


@pytest.mark.parametrize("graph", [training_step, residual_forward])
@pytest.mark.parametrize("depth", [2, 7, 20, 50])
@pytest.mark.parametrize("seed", range(5))
def test_packing_is_close_to_the_lower_bound(graph, depth: int, seed: int) -> None:  # type: ignore[no-untyped-def]
    sizes, first, last = graph(depth, seed)
    offsets, total = pack_arena(sizes, first, last)
    check_packing(sizes, first, last, offsets, total)
    assert total <= 1.05 * live_lower_bound(sizes, first, last)


def test_packing_checks_its_arguments() -> None:
    with pytest.raises(ValueError, match="same length"):
        pack_arena([1], [0, 1], [2])
    with pytest.raises(ValueError, match="ends before it begins"):
        pack_arena([1], [2], [1])
    with pytest.raises(ValueError, match="power of two"):
        pack_arena([1], [0], [1], alignment=48)
    assert pack_arena([], [], []) == ([], 0)
