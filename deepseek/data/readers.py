"""Data from files and packages: IDX files (MNIST and its kin), scikit-learn's data sets."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from typing import Any, BinaryIO

import numpy as np

from deepseek.data.dataset import TensorDataset
from deepseek.errors import ArgumentError, DTypeError, FormatError

GZIP = b"\x1f\x8b"
IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
Array = np.ndarray[Any, Any]


def read_idx(path: str | os.PathLike[str]) -> Array:
    """The array in an IDX file, compressed with gzip or not.

    The format is the one described with the MNIST database of handwritten digits (LeCun, Cortes,
    Burges). Raises FormatError, naming what is wrong, if the file is not a whole IDX file.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "labels")
    >>> with open(path, "wb") as file:
    ...     _ = file.write(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
    >>> ds.data.read_idx(path)
    array([7, 8, 9], dtype=uint8)
    """
    name = os.fspath(path)
    with open(path, "rb") as file:
        compressed = file.read(2) == GZIP
        file.seek(0)
        if not compressed:
            return _read_idx(file, name)
        try:
            with gzip.GzipFile(fileobj=file) as inner:
                return _read_idx(inner, name)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise FormatError(f"{name} is not a whole gzip file: {error}") from error


def _read_idx(file: BinaryIO | gzip.GzipFile, name: str) -> Array:
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0":
        raise _damaged(name, f"it begins with {start!r}; wanted two zeros, a type and a rank")
    code, rank = start[2:]
    if code not in IDX_TYPES:
        known = ", ".join(f"0x{c:02X}" for c in IDX_TYPES)
        raise _damaged(name, f"its type is 0x{code:02X}; known: {known}")
    if not rank:
        raise _damaged(name, "its rank is 0; wanted at least one dimension")
    sizes = file.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise _damaged(name, f"it ends within the sizes of its {rank} dimensions")
    shape = struct.unpack(f">{rank}I", sizes)
    dtype = np.dtype(IDX_TYPES[code])
    wanted = math.prod(shape) * dtype.itemsize
    data = _read_up_to(file, wanted + 1)
    if len(data) != wanted:
        count = f"{len(data)} bytes of data" if len(data) < wanted else "more data"
        raise _damaged(name, f"it has {count}; shape {shape} of {dtype.name} takes {wanted} bytes")
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _read_up_to(file: BinaryIO | gzip.GzipFile, count: int) -> bytes:
    """At most so many bytes; a header that promises too much allocates nothing."""
    parts = []
    while count > 0 and (part := file.read(min(count, 1 << 24))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _damaged(name: str, what: str) -> FormatError:
    return FormatError(f"{name} is not a whole IDX file: {what}")


def from_sklearn(bunch: Any, dtype: Any = "float32") -> TensorDataset:
    """The rows of a scikit-learn data set with their targets: items are (data, target).

    `bunch` is what `sklearn.datasets.load_digits()` and its kin give; frames are taken too. Data
    and float targets get the dtype, targets that are whole numbers int64. Raises ArgumentError
    where there are no data or targets, DTypeError where they are not numbers.

    >>> data = ds.data.from_sklearn({"data": np.eye(3), "target": np.arange(3)})
    >>> data[2][1].item()
    2
    """
    columns = []
    for field in ("data", "target"):
        value = bunch.get(field) if hasattr(bunch, "get") else getattr(bunch, field, None)
        if value is None:
            raise ArgumentError(
                f"from_sklearn: got a {type(bunch).__name__} without {field!r}; wanted a Bunch "
                "with data and target"
            )
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise DTypeError(
                f"from_sklearn: {field} is of type {array.dtype}; wanted numbers\n"
                "  help: number classes with np.unique(target, return_inverse=True); make a "
                "sparse matrix dense with .toarray()"
            )
        whole = field == "target" and array.dtype.kind != "f"
        columns.append(array.astype(np.int64 if whole else np.dtype(str(dtype))))
    return TensorDataset(*columns)
