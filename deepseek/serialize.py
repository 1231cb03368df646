"""Weights on disk, in the safetensors format: `ds.save` and `ds.load`, which reads PyTorch's too.

A safetensors file is the length of the header (8 bytes, little endian), the header (JSON: for every
name its dtype, shape and byte range, and a map of strings under `__metadata__`), then the bytes of
all tensors without gaps. Files are written whole or not at all; a file that is read is checked
before a tensor is made.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from deepseek._runtime import Buffer
from deepseek.errors import ArgumentError, FormatError
from deepseek.frontend.tensor import Tensor, from_numpy, leaf, view_of
from deepseek.ir.dtype import DTYPES, DType, dtype_of
from deepseek.torch_file import LEGACY, ZIP, bare_pickle, legacy, load_archive

DTYPE_OF_CODE = {
    "BOOL": DTYPES["bool"],
    "F16": DTYPES["float16"],
    "BF16": DTYPES["bfloat16"],
    "F32": DTYPES["float32"],
    "F64": DTYPES["float64"],
} | {f"{d.kind.upper()}{d.bits}": d for d in DTYPES.values() if d.is_integer}
CODE_OF_DTYPE = {dtype: code for code, dtype in DTYPE_OF_CODE.items()}

LARGEST_HEADER = 100_000_000
METADATA = "__metadata__"


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: its byte range counts from the end of the header."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    begin: int
    end: int


# --------------------------------------------------------------------------------------- writing


def save(
    what: Any, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a module's state, or a mapping from names to tensors, to a safetensors file.

    The file appears whole or not at all, also if the machine fails meanwhile. `metadata` maps
    strings to strings. Raises ArgumentError for anything else.

    >>> ds.save({"weight": ds.ones(2, 3)}, "weights.safetensors")
    >>> ds.load("weights.safetensors")["weight"].shape
    (2, 3)
    """
    write_atomically(path, chunks_of(_tensors(what), metadata))


def chunks_of(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> list[Any]:
    """The bytes of a safetensors file, in pieces."""
    header: dict[str, Any] = {}
    if metadata:
        if not all(isinstance(s, str) for item in metadata.items() for s in item):
            raise ArgumentError(f"save: metadata is {metadata!r}; wanted a map of str to str")
        header[METADATA] = dict(metadata)
    # Wide elements first, so that every tensor lies at a multiple of its element size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": CODE_OF_DTYPE[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    chunks: list[Any] = [len(text).to_bytes(8, "little"), text]
    chunks += [view_of(t._computed()).reshape(-1).view(np.uint8).data for _, t in ordered]
    return chunks


def _tensors(what: Any) -> dict[str, Tensor]:
    """The tensors to save, under their names."""
    found = what.state_dict() if hasattr(what, "state_dict") else what
    if not isinstance(found, Mapping):
        raise ArgumentError(
            f"save: got a {type(what).__name__}; wanted a module or a mapping from names to tensors"
        )
    tensors = {}
    for name, tensor in found.items():
        if isinstance(tensor, np.ndarray):
            tensor = from_numpy(tensor, dtype_of(tensor.dtype))
        if not isinstance(name, str) or name == METADATA or not isinstance(tensor, Tensor):
            raise ArgumentError(
                f"save: got {name!r}: {type(tensor).__name__}; wanted names of type str "
                f"(other than {METADATA!r}) and tensors"
            )
        tensors[name] = tensor
    return tensors


def write_atomically(path: str | os.PathLike[str], chunks: Iterable[Any]) -> None:
    """Write a file such that its old content stays until the new one is complete and on disk."""
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(6)}")
    try:
        with open(temporary, "xb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the new name
    finally:
        os.close(descriptor)


# --------------------------------------------------------------------------------------- reading


def load(path: str | os.PathLike[str]) -> Any:
    """What is in a file of weights, whatever its name is.

    A safetensors file gives its tensors under their names; a zip file that PyTorch's `torch.save`
    wrote gives the dicts, lists, numbers, strings and tensors in it. Nothing in a file is run: one
    that asks for more than data is refused. Raises FormatError, naming what is wrong, if the file
    is damaged, refused, or of another kind.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "weights.safetensors")
    >>> ds.save({"x": ds.arange(3)}, path)
    >>> ds.load(path)["x"].tolist()
    [0, 1, 2]
    """
    with open(path, "rb") as file:
        name = os.fspath(path)
        begin = file.read(len(LEGACY))
        if begin.startswith(ZIP):
            return load_archive(file, name)
        if begin.startswith(LEGACY):
            raise legacy(name)
        if begin[:1] == b"\x80" and begin[1:2] in b"\2\3\4\5" and begin[8:9] != b"{":
            raise bare_pickle(name)
        file.seek(0)
        return load_tensors(file, name)


def load_tensors(file: BinaryIO, path: str) -> dict[str, Tensor]:
    """The tensors of an open safetensors file under their names."""
    entries, _, start = _read_header(file, path)
    file.seek(start)
    return {e.name: _read_tensor(file, e, path) for e in entries}


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The map of strings that was saved along with the tensors."""
    with open(path, "rb") as file:
        return _read_header(file, os.fspath(path))[1]


def _read_tensor(file: BinaryIO, entry: Entry, path: str) -> Tensor:
    nbytes = entry.end - entry.begin
    data = Buffer.allocate(nbytes, entry.name)
    if nbytes:
        with data.writable_view() as view:
            if file.readinto(view) != nbytes:  # type: ignore[attr-defined]
                raise damaged(path, f"it ends inside tensor {entry.name!r}")
    tensor = Tensor(leaf(data, entry.dtype, entry.shape))
    if entry.dtype.is_bool and nbytes and np.frombuffer(data, np.uint8).max() > 1:  # type: ignore[call-overload]
        raise damaged(path, f"tensor {entry.name!r} of type bool has bytes other than 0 and 1")
    return tensor


def _read_header(file: BinaryIO, path: str) -> tuple[list[Entry], dict[str, str], int]:
    """The entries in the order of their bytes, the metadata, and where the bytes start."""
    size = os.fstat(file.fileno()).st_size
    if size < 8:
        raise damaged(path, f"it has {size} bytes, and the length of the header alone takes 8")
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, LARGEST_HEADER):
        raise damaged(
            path, f"its header is said to have {length} bytes, and {size - 8} bytes follow"
        )
    header = _parse(file.read(length), path)
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise damaged(path, f"{METADATA} is not a map of strings to strings")
    entries = [_entry(name, fields, path) for name, fields in header.items()]
    entries.sort(key=lambda e: (e.begin, e.end))
    start = 8 + length
    end = 0
    for entry in entries:
        if entry.begin != end:
            what = "overlaps the one before" if entry.begin < end else "leaves a gap before it"
            raise damaged(path, f"tensor {entry.name!r} at bytes {entry.begin}:{entry.end} {what}")
        end = entry.end
    if start + end != size:
        what = "is truncated" if start + end > size else "goes on after its last tensor"
        raise damaged(path, f"it {what}: it has {size} bytes and should have {start + end}")
    return entries, metadata, start


def _parse(text: bytes, path: str) -> dict[str, Any]:
    """The header's JSON object."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            raise ValueError("a name appears twice")
        return out

    try:
        header = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"its header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise damaged(path, "its header is not a JSON object")
    return header


def _entry(name: str, fields: Any, path: str) -> Entry:
    """One entry of the header, checked on its own."""
    if not isinstance(fields, dict) or not {"dtype", "shape", "data_offsets"} <= fields.keys():
        raise damaged(path, f"tensor {name!r} lacks dtype, shape or data_offsets")
    code, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    dtype = DTYPE_OF_CODE.get(code) if isinstance(code, str) else None
    if dtype is None:
        known = ", ".join(DTYPE_OF_CODE)
        raise damaged(path, f"tensor {name!r} has dtype {code!r}; known: {known}")
    if not is_naturals(shape):
        raise damaged(path, f"tensor {name!r} has shape {shape!r}")
    if not is_naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise damaged(path, f"tensor {name!r} has data_offsets {offsets!r}")
    begin, end = offsets
    nbytes = math.prod(shape) * dtype.itemsize
    if end - begin != nbytes:
        raise damaged(
            path, f"tensor {name!r} has {end - begin} bytes; {dtype}{shape} takes {nbytes}"
        )
    return Entry(name, dtype, tuple(shape), begin, end)


def is_naturals(numbers: Any) -> bool:
    """Whether something read from JSON is a list of whole numbers, none negative."""
    return isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers)


def damaged(path: str, what: str) -> FormatError:
    """The error for a file that is not what it should be."""
    return FormatError(f"{path} is not a whole safetensors file: {what}")
