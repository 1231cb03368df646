"""read_idx and from_sklearn."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

import deepseek as ds
from deepseek.data import DataLoader, from_sklearn, read_idx
from deepseek.errors import ArgumentError, DTypeError, FormatError

CODES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def idx(array: np.ndarray, code: int) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + array.astype(CODES[code]).tobytes()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0, 3), (1, 1, 1, 2)])
def test_arrays(tmp_path: Path, code: int, shape: tuple[int, ...], compressed: bool) -> None:
    array = (np.arange(np.prod(shape)).reshape(shape) - 2).astype(CODES[code])
    data = idx(array, code)
    path = tmp_path / "data-ubyte"  # whether it is compressed is told from the content
    path.write_bytes(gzip.compress(data) if compressed else data)
    found = read_idx(path)
    assert found.dtype == array.dtype.newbyteorder("=") and found.dtype.isnative
    assert found.shape == shape and np.array_equal(found, array)


WHOLE = idx(np.arange(6).reshape(2, 3), 0x0B)
DAMAGED = {
    "empty": (b"", "begins with b''"),
    "zeros": (b"\1\0" + WHOLE[2:], "wanted two zeros"),
    "type": (b"\0\0\x0a" + WHOLE[3:], "its type is 0x0A; known: 0x08, 0x09"),
    "rank": (WHOLE[:3] + b"\0" + WHOLE[4:], "its rank is 0"),
    "sizes": (WHOLE[:7], "within the sizes of its 2 dimensions"),
    "short": (WHOLE[:-1], r"11 bytes of data; shape \(2, 3\) of int16 takes 12 bytes"),
    "long": (WHOLE + b"x", "more data"),
    "huge": (WHOLE[:4] + b"\xff" * 8 + WHOLE[12:], "it has 12 bytes of data"),
    "text": (b"<html>not found</html>", "begins with b'<htm'"),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named(tmp_path: Path, name: str, compressed: bool) -> None:
    data, message = DAMAGED[name]
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(data) if compressed else data)
    with pytest.raises(FormatError, match=message) as error:
        read_idx(path)
    assert "images is not a whole IDX file" in str(error.value)


def test_every_damage_of_the_gzip_file_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(WHOLE, mtime=0)
    path = tmp_path / "images.gz"
    for end in range(2, len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(FormatError):
            read_idx(path)
    flipped = bytearray(whole)
    flipped[-6] ^= 1  # in the checksum
    path.write_bytes(flipped)
    with pytest.raises(FormatError, match="not a whole gzip file"):
        read_idx(path)


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "none")


def test_digits() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    bunch = datasets.load_digits()
    data = from_sklearn(bunch)
    assert len(data) == 1797
    x, y = next(iter(DataLoader(data, batch_size=10)))
    assert x.dtype == ds.float32 and y.dtype == ds.int64
    assert np.array_equal(x.numpy(), bunch.data[:10]) and y.tolist() == list(range(10))


def test_float_targets_and_other_dtypes() -> None:
    x, y = from_sklearn({"data": np.ones((2, 3)), "target": np.ones((2, 2))}, "float64").tensors
    assert x.dtype == y.dtype == ds.float64 and y.shape == (2, 2)


def test_what_is_no_data_is_refused() -> None:
    with pytest.raises(ArgumentError, match="a dict without 'target'"):
        from_sklearn({"data": np.ones(3)})
    with pytest.raises(ArgumentError, match="a str without 'data'"):
        from_sklearn("digits")
    with pytest.raises(DTypeError, match="target is of type <U1; wanted numbers"):
        from_sklearn({"data": np.ones(2), "target": np.array(["a", "b"])})
