"""Files that PyTorch's `torch.save` writes, read without PyTorch and without running what they say.

Such a file is a zip archive: a pickle that describes the object, and the bytes of each storage
beside it. `unpickle` builds what the pickle describes; of the globals it may call there is a short
list here, each a function of ours. Out flow dicts, lists, tuples, numbers, strings and tensors;
attributes that somebody gave a tensor are left out.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from deepseek._runtime import Buffer
from deepseek.errors import FormatError, OutOfMemoryError
from deepseek.frontend.tensor import Device, Tensor, leaf
from deepseek.ir.dtype import DTYPES, DType
from deepseek.unpickle import Global, Machine, Part, Refused, called, checked, checked_key

ZIP = b"PK\x03\x04"
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # what files before PyTorch 1.6 begin with
LARGEST = 2**63 - 1
MOST_AXES = 64  # as many as NumPy has
# A file may ask for so many bytes beside its storages, for tensors that lie in them with strides
# and for what its pickle copies. PyTorch writes views of one storage; each is a tensor here.
FREE, TIMES_FILE = 64 << 20, 4
# A pickle that is longer than this may be that many times what it takes in the archive.
LONG_PICKLE, DENSEST_PICKLE = 16 << 20, 64

# What comes of reading an archive or running a pickle that is not as it should be.
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, NotImplementedError),
    *(AttributeError, IndexError, KeyError, OverflowError, RecursionError, RuntimeError),
    *(TypeError, ValueError),
)

DTYPE_OF_STORAGE = {
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
}


@dataclass(frozen=True)
class StorageType(Part):
    """The type of a storage; one without dtype counts bytes."""

    dtype: DType | None


@dataclass(frozen=True)
class Storage(Part):
    """Memory that tensors lie in, on the file."""

    type: StorageType
    key: str
    size: int  # in elements of the type


# ------------------------------------------------------------------------------------- the archive


def load_archive(file: BinaryIO, path: str) -> Any:
    """What `torch.save` wrote, its tensors ours.

    Raises FormatError where the file is damaged or has anything in it that is not data.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return Archive(archive, path).load()
    except (FormatError, OutOfMemoryError):
        raise
    except DAMAGE as error:
        what = f"{type(error).__name__}: {error}"
        raise damaged(path, f"its zip archive cannot be read ({what})") from error


class Archive:
    """An open archive and the storages that were read from it."""

    def __init__(self, file: zipfile.ZipFile, path: str) -> None:
        self.file = file
        self.path = path
        self.members = {info.filename: info for info in file.infolist()}
        pickles = [name for name in self.members if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise damaged(path, f"it has {len(pickles)} members called data.pkl; one is wanted")
        self.root = pickles[0].removesuffix("data.pkl")
        if self.root + "constants.pkl" in self.members:
            raise Refused(
                f"{path} is a TorchScript archive, which holds a program\n"
                "  help: in PyTorch, torch.save(model.state_dict(), path)"
            )
        self.storages: dict[tuple[str, int], Buffer] = {}
        self.budget = FREE + TIMES_FILE * sum(i.compress_size for i in self.members.values())
        self.swapped = self._byteorder() == b"big"

    def _byteorder(self) -> bytes:
        if self.root + "byteorder" not in self.members:
            return b"little"  # as all files were before there was a choice
        order = self.read("byteorder")
        if order not in (b"little", b"big"):
            raise damaged(self.path, f"its byte order is {order[:20]!r}; known: little, big")
        return order

    def spend(self, nbytes: int) -> None:
        """Take bytes from what the file may ask for. Raises FormatError where nothing is left."""
        self.budget -= nbytes
        if self.budget < 0:
            raise Refused(
                f"{self.path} asks for far more memory than it takes on disk: its tensors overlap "
                "or repeat their elements\n"
                "  help: in PyTorch, save them with x.contiguous()"
            )

    def read(self, name: str) -> bytes:
        """A whole member."""
        return self.file.read(self.root + name)

    def load(self) -> Any:
        """The object that the pickle describes."""
        info = self.members[self.root + "data.pkl"]
        if info.file_size > max(LONG_PICKLE, DENSEST_PICKLE * info.compress_size):
            raise damaged(
                self.path, f"its data.pkl would grow from {info.compress_size} bytes to "
                f"{info.file_size}",
            )  # fmt: skip
        program = self.read("data.pkl")
        try:
            return Machine(program, self.path, known_globals(self), storage_of).run()
        except (FormatError, OutOfMemoryError):
            raise
        except DAMAGE as error:
            what = f"{type(error).__name__}: {error}"
            raise damaged(self.path, f"its data.pkl is damaged ({what})") from error

    def storage(self, storage: Storage, dtype: DType) -> Buffer:
        """The bytes of a storage, in this machine's order."""
        name = f"data/{storage.key}"
        info = self.members.get(self.root + name)
        if info is None:
            raise damaged(self.path, f"storage {storage.key!r} is missing")
        of_type = storage.type.dtype
        nbytes = storage.size * (1 if of_type is None else of_type.itemsize)
        if info.file_size != nbytes:
            raise damaged(
                self.path, f"storage {storage.key!r} has {info.file_size} bytes; wanted {nbytes}"
            )
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise damaged(self.path, f"storage {storage.key!r} is compressed in an unknown way")
        key = storage.key, dtype.itemsize
        if key not in self.storages:
            memory = Buffer.allocate(nbytes, storage.key)
            if nbytes:
                with memory.writable_view() as view, self.file.open(info) as member:
                    fill(view, member, self.path, storage.key)
                    if self.swapped and dtype.itemsize > 1:
                        np.frombuffer(view, f"u{dtype.itemsize}").byteswap(inplace=True)
            self.storages[key] = memory
        return self.storages[key]

    def tensor(
        self,
        storage: Storage,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool,
        dtype: DType,
    ) -> Tensor:
        """A tensor with the elements that a storage has at an offset, with strides."""
        check_layout(self.path, storage, offset, size, stride, dtype)
        memory = self.storage(storage, dtype)
        requires_grad = requires_grad is True and dtype.is_float
        nbytes = math.prod(size) * dtype.itemsize
        whole = not offset and nbytes == memory.nbytes and stride == dense_strides(size)
        if not whole:
            self.spend(nbytes)
            memory = strided(memory, offset, size, stride, dtype)
        if dtype.is_bool and nbytes and np.frombuffer(memory, np.uint8).max() > 1:  # type: ignore[call-overload]
            raise damaged(self.path, f"storage {storage.key!r} of type bool has other than 0 and 1")
        return Tensor(leaf(memory, dtype, size, requires_grad))


def storage_of(given: Any) -> Storage:
    """A storage, from what the pickle says of it: type, key, place and size."""
    if type(given) is not tuple or len(given) != 5 or given[0] != "storage":
        raise ValueError("something lies beside the pickle that is no storage")
    _, kind, key, _, size = given
    if not isinstance(kind, StorageType) or type(key) is not str or type(size) is not int:
        raise ValueError("a storage is not described as one")
    return Storage(kind, key, size)


def strided(
    memory: Buffer, offset: int, size: tuple[int, ...], stride: tuple[int, ...], dtype: DType
) -> Buffer:
    """The elements of a checked layout, rows after rows."""
    taken = Buffer.allocate(math.prod(size) * dtype.itemsize, "loaded")
    if taken.nbytes:
        bits = np.frombuffer(memory, f"u{dtype.itemsize}", offset=offset * dtype.itemsize)  # type: ignore[call-overload]
        scaled = [s * dtype.itemsize for s in stride]
        source = np.lib.stride_tricks.as_strided(bits, size, scaled, writeable=False)
        with taken.writable_view() as view:
            np.copyto(np.frombuffer(view, bits.dtype).reshape(size), source)
    return taken


def fill(view: memoryview, member: Any, path: str, key: str) -> None:
    """Read a member, which has the right size, into memory."""
    at = 0
    while at < view.nbytes:
        count = member.readinto(view[at:])
        if not count:
            raise damaged(path, f"storage {key!r} ends early")
        at += count
    if member.read(1):  # also lets the checksum be compared
        raise damaged(path, f"storage {key!r} goes on after its end")


def dense_strides(size: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of rows after rows."""
    strides = [math.prod(size[i + 1 :]) for i in range(len(size))]
    return tuple(strides)


def check_layout(
    path: str, storage: Storage, offset: int, size: Any, stride: Any, dtype: DType
) -> None:
    """Raise FormatError unless every element of a tensor lies in its storage."""
    if len(size) > MOST_AXES:
        raise damaged(path, f"a tensor has {len(size)} axes; at most {MOST_AXES} are read")
    numbers = (*size, *stride, offset, storage.size)
    natural = all(type(n) is int and 0 <= n <= LARGEST for n in numbers)
    of_type = storage.type.dtype
    room = storage.size // dtype.itemsize if of_type is None else storage.size
    if (
        not natural
        or len(size) != len(stride)
        or (of_type is not None and of_type is not dtype)
        or math.prod(n or 1 for n in size) * dtype.itemsize > LARGEST
    ):
        raise damaged(path, f"a tensor of {dtype}{list(size)} has strides {list(stride)}")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if 0 not in size and last >= room:
        raise damaged(
            path,
            f"a tensor of {dtype}{list(size)} at {offset} with strides {list(stride)} goes beyond "
            f"its storage {storage.key!r} of {room} elements",
        )


def damaged(path: str, what: str) -> FormatError:
    """The error for a file that is not what it should be."""
    return FormatError(f"{path} is not a whole PyTorch file: {what}")


def legacy(path: str) -> Refused:
    """The error for files in the format from before PyTorch 1.6."""
    return Refused(f"{path} is in PyTorch's legacy format, which is not read{RESAVE}")


def bare_pickle(path: str) -> Refused:
    """The error for pickles that lie in no archive."""
    return Refused(f"{path} is a bare pickle, which may run anything and is not read{RESAVE}")


RESAVE = "\n  help: save it from PyTorch again: torch.save writes a zip file, which is read"

# ------------------------------------------------------------------------------------- the globals


def known_globals(archive: Archive) -> dict[str, Any]:
    """What the names stand for that a pickle may use."""

    def tensor_v2(
        storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any,
        metadata: Any = None,
    ) -> Tensor:  # fmt: skip
        if storage.type.dtype is None:
            raise ValueError("a tensor without a dtype")
        return archive.tensor(
            storage, offset, tuple(size), tuple(stride), requires_grad, storage.type.dtype
        )

    def tensor_v3(
        storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any,
        dtype: DType, metadata: Any = None,
    ) -> Tensor:  # fmt: skip
        if not isinstance(dtype, DType):
            raise ValueError("a tensor's dtype is none")
        return archive.tensor(storage, offset, tuple(size), tuple(stride), requires_grad, dtype)

    def parameter(value: Any, requires_grad: Any, hooks: Any, state: Any = None) -> Tensor:
        if not isinstance(value, Tensor):
            raise ValueError("a parameter that is no tensor")
        return value.requires_grad_(bool(requires_grad) and value.dtype.is_float)

    def typed(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
        return called(function, arguments)

    def encoded(text: str, encoding: str) -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise ValueError(f"bytes in encoding {encoding!r}")
        return bytes_of(text)

    def bytes_of(given: Any) -> bytes:
        """Bytes, or a text that has them as its characters; never a number, which is a size."""
        if not isinstance(given, (str, bytes, bytearray)):
            raise ValueError("bytes are made of what has none")
        archive.spend(len(given))
        return given.encode("latin1") if isinstance(given, str) else bytes(given)

    def items_of(given: Any) -> Any:
        """The items of a container that is copied."""
        archive.spend(len(given) * struct.calcsize("P"))
        return given

    def ordered(items: Any = ()) -> OrderedDict[Any, Any]:
        return OrderedDict((checked_key(k), checked(v)) for k, v in items_of(items))

    functions: dict[str, Callable[..., Any]] = {
        "torch._utils._rebuild_tensor_v2": tensor_v2,
        "torch._utils._rebuild_tensor_v3": tensor_v3,
        "torch._utils._rebuild_parameter": parameter,
        "torch._utils._rebuild_parameter_with_state": parameter,
        "torch._tensor._rebuild_from_type_v2": typed,
        "torch.Tensor": lambda: None,
        "torch.nn.parameter.Parameter": lambda: None,
        "torch.Size": lambda sizes=(): tuple(int(n) for n in items_of(sizes)),
        "torch.device": lambda kind, index=None: Device(kind),
        "collections.OrderedDict": ordered,
        "collections.Counter": lambda counts=(): Counter(ordered(dict_items(counts))),
        "builtins.set": lambda items=(): {checked_key(item) for item in items_of(items)},
        "builtins.frozenset": lambda items=(): frozenset(map(checked_key, items_of(items))),
        "builtins.bytes": lambda given=b"": bytes_of(given),
        "builtins.bytearray": lambda given=b"", encoding="latin1": bytearray(bytes_of(given)),
        "_codecs.encode": encoded,
    }
    known: dict[str, Any] = {name: Global(name, call) for name, call in functions.items()}
    known |= {f"torch.{s}": StorageType(DTYPES[d]) for s, d in DTYPE_OF_STORAGE.items()}
    known |= {f"torch.storage.{s}": known[f"torch.{s}"] for s in DTYPE_OF_STORAGE}
    known["torch.storage.UntypedStorage"] = StorageType(None)
    known |= {f"torch.{name}": dtype for name, dtype in DTYPES.items()}
    return known


def dict_items(given: Any) -> Any:
    """The pairs of a dict, or what lists them."""
    return given.items() if isinstance(given, dict) else given
