"""Random keys against NumPy: reading, assigning and adding, outside and inside a jit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import deepseek as ds

Key = tuple[Any, ...]


def random_slice(rng: np.random.Generator, size: int) -> slice:
    ends = [None if rng.random() < 0.3 else int(rng.integers(-size - 2, size + 3)) for _ in "ab"]
    return slice(*ends, int(rng.choice([-3, -2, -1, 1, 1, 2, 3])))


def random_key(rng: np.random.Generator, shape: tuple[int, ...], masks: int) -> Key:
    """A key for an array of a shape: ints, slices, None, '...', index arrays that broadcast, masks.

    At most so many masks; one goes with index arrays only if it happens to have few true elements.
    """
    common = tuple(int(n) for n in rng.integers(1, 4, rng.integers(0, 3)))
    items: list[Any] = []
    axis = 0
    while axis < len(shape) and rng.random() < 0.9:
        size, kind = shape[axis], rng.choice(["int", "slice", "slice", "array", "mask", "none"])
        if kind == "none":
            items.append(None)
            continue
        if kind == "mask" and masks:
            masks -= 1
            rank = int(rng.integers(1, len(shape) - axis + 1))
            items.append(rng.random(shape[axis : axis + rank]) < 0.5)
            axis += rank
            continue
        if kind == "int":
            items.append(int(rng.integers(-size, size)))
        elif kind == "array":
            wanted = tuple(1 if rng.random() < 0.3 else n for n in common)
            cut = int(rng.integers(0, len(wanted) + 1)) if rng.random() < 0.3 else 0
            wanted = wanted[cut:]
            items.append(rng.integers(-size, size, wanted))
        else:
            items.append(random_slice(rng, size))
        axis += 1
    if rng.random() < 0.3:
        items.insert(int(rng.integers(0, len(items) + 1)), Ellipsis)
    if rng.random() < 0.05:
        items.insert(int(rng.integers(0, len(items) + 1)), bool(rng.random() < 0.7))
    return tuple(items)


def of_tensors(key: Key) -> Key:
    return tuple(ds.asarray(k) if isinstance(k, np.ndarray) else k for k in key)


def read(x: np.ndarray[Any, Any], key: Key) -> Any:
    """x[key], or None where NumPy refuses it."""
    try:
        return x[key]
    except (IndexError, ValueError):
        return None


def cases(count: int, seed: int, masks: int = 1) -> list[tuple[np.ndarray[Any, Any], Key]]:
    rng = np.random.default_rng(seed)
    out = []
    while len(out) < count:
        shape = tuple(int(n) for n in rng.integers(1, 5, rng.integers(1, 5)))
        x = rng.integers(-50, 50, shape).astype(np.float32)
        key = random_key(rng, shape, masks)
        if read(x, key) is not None:
            out.append((x, key))
    return out


@pytest.mark.parametrize("seed", range(6))
def test_random_keys_read_what_numpy_reads(seed: int) -> None:
    for x, key in cases(25, seed, masks=2):
        got = ds.asarray(x)[of_tensors(key)].numpy()
        assert got.shape == x[key].shape, f"{x.shape} {key}"
        assert np.array_equal(got, x[key]), f"{x.shape} {key}"


def random_value(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """A value that broadcasts to a shape."""
    wanted = [1 if rng.random() < 0.3 else n for n in shape]
    cut = int(rng.integers(0, len(wanted) + 1)) if rng.random() < 0.3 else 0
    return rng.integers(100, 200, wanted[cut:]).astype(np.float32)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("seed", range(10, 14))
def test_random_assignments_write_what_numpy_writes(seed: int, compiled: bool) -> None:
    rng = np.random.default_rng(seed)
    for x, key in cases(15, seed):
        arrays = [k for k in key if isinstance(k, np.ndarray)]
        mixed = len(arrays) > 1 and any(k.dtype == bool for k in arrays)
        if compiled and (mixed or any(k is True or k is False for k in key)):
            continue
        value = random_value(rng, x[key].shape)
        wanted = x.copy()
        wanted[key] = value

        def assign(x: ds.Tensor, v: ds.Tensor, *arrays: ds.Tensor, key: Key = key) -> ds.Tensor:
            given = iter(arrays)
            y = x * 1
            y[tuple(next(given) if isinstance(k, np.ndarray) else k for k in key)] = v
            return y

        run = ds.jit(assign) if compiled else assign
        got = run(ds.asarray(x), ds.asarray(value), *map(ds.asarray, arrays))
        assert np.array_equal(got.numpy(), wanted), f"{x.shape} {key} {value.shape}"


@pytest.mark.parametrize("seed", range(20, 23))
def test_random_additions_add_what_numpy_adds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for x, key in cases(20, seed):
        if None in [k if k is None else 0 for k in key]:
            continue  # stands for a whole axis in index_put
        value = random_value(rng, x[key].shape)
        wanted = x.copy()
        np.add.at(wanted, key, value)
        got = ds.index_put(ds.asarray(x), of_tensors(key), ds.asarray(value), accumulate=True)
        assert np.array_equal(got.numpy(), wanted), f"{x.shape} {key} {value.shape}"
