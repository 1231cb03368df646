"""The cache folder: entries in files that may be lost, cut or damaged at any time without harm.

    <folder>/<kind>/<key>     magic, checksum, then a marshalled pair (about, body)

In flows a key (a hash) and what it stands for; out flows the same, or None. What the folder lacks
is looked for in the seed, the pack of entries that the build left in the package. Files are written
whole or not at all, checked when read, and removed when damaged; when the folder outgrows
`options.cache_size`, the entries that were not used for longest go. `about` tells in words what an
entry is, compressed, since only `explain` reads it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import marshal
import os
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek.compiler.pack import KINDS, Pack, write_pack
from deepseek.config import options, override
from deepseek.errors import PACKAGE_DIR, ArgumentError, DeepseekError, FormatError
from deepseek.logs import logger

SEED = Path(PACKAGE_DIR) / "seed.pack"
MAGIC = b"deepseek cache entry 1\n"
DIGEST = 16
# The file that marks a folder as a cache, for us and for backup programs (bford.info/cachedir).
CACHE_TAG = "CACHEDIR.TAG"
CACHE_TAG_TEXT = """Signature: 8a477f597d28d172789f06886806bc55
# Compiled programs and kernels of deepseek. `deepseek cache clear` empties this folder.
"""
ROOM = 0.8  # of the allowed size is left after the oldest entries went
COUNT_AGAIN = 100  # writes after which the folder is measured again: others write there too

_lock = threading.Lock()
_serial = itertools.count()
_written: dict[Path, list[int]] = {}  # folder -> [bytes in it, writes since it was measured]


def cache_folder() -> str:
    """The cache folder, made if need be.

    An error where others could write to it, or where it holds files that are not a cache's.
    """
    path = options.cache
    remedy = "set DS_CACHE to a folder of your own, or DS_CACHE_SIZE=0 to keep nothing on disk"
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        status = os.stat(path)
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise ArgumentError(
                f"the cache folder {path} can be written by others: owner {status.st_uid}, mode "
                f"{status.st_mode & 0o777:03o}; wanted owner {os.getuid()} and mode 700\n"
                f"  help: chmod 700 it, or {remedy}"
            )
        inside = os.listdir(path)
        if CACHE_TAG not in inside:
            if inside:
                raise ArgumentError(
                    f"the cache folder {path} holds other files; wanted a new or empty folder\n"
                    f"  help: {remedy}"
                )
            with open(os.path.join(path, CACHE_TAG), "w") as tag:
                tag.write(CACHE_TAG_TEXT)
    except OSError as error:
        raise ArgumentError(
            f"the cache folder {path} cannot be used: {error.strerror}\n  help: {remedy}"
        ) from error
    return path


@dataclass(frozen=True)
class Stored:
    """An entry as `entries` shows it."""

    kind: str
    key: str
    path: Path
    nbytes: int
    used: float


def folder() -> Path | None:
    """The cache folder, or None where there is none; a warning says why, once."""
    if options.cache_size == 0:
        return None
    return usable(options.cache)[0]


def why_unusable() -> str:
    """Why there is no folder, or nothing."""
    return "DS_CACHE_SIZE is 0" if options.cache_size == 0 else usable(options.cache)[1]


@functools.cache
def usable(path: str) -> tuple[Path | None, str]:
    """(the folder, "") if it can be used, else (None, why not)."""
    try:
        with override(cache=path):
            made = Path(cache_folder())
        for kind in KINDS:
            (made / kind).mkdir(mode=0o700, exist_ok=True)
    except (DeepseekError, OSError) as error:
        logger().warning("nothing is kept between processes: %s", error)
        return None, str(error)
    return made, ""


# ---------------------------------------------------------------------------------------- reading


def read(kind: str, key: str) -> tuple[Any | None, str]:
    """(what was stored, "") or (None, why not). A damaged file is removed."""
    root = folder()
    reason = why_unusable() if root is None else ""
    if root is not None:
        path = root / kind / key
        with suppress(OSError):
            unpacked = unpack(path.read_bytes())
            if unpacked is not None:
                with suppress(OSError):  # a folder that can only be read is of use, too
                    os.utime(path)
                return unpacked[1], ""
            drop(path)
            reason = "its file was damaged"
    built_in = seed() if options.seed else None
    data = None if built_in is None else built_in.get(kind, key)
    unpacked = None if data is None else unpack(data)
    return (None, reason) if unpacked is None else (unpacked[1], "")


@functools.cache
def seed() -> Pack | None:
    """What the build compiled for everybody, if it did; a warning says so where it is damaged."""
    try:
        return Pack(SEED)
    except FileNotFoundError:
        return None
    except (OSError, FormatError) as error:
        logger().warning("the seed is not used: %s", error)
        return None


def unpack(data: bytes) -> tuple[bytes, Any] | None:
    """(about, body) of a file's bytes, None if they are not what was written."""
    start = len(MAGIC) + DIGEST
    if not data.startswith(MAGIC) or len(data) < start:
        return None
    payload = memoryview(data)[start:]
    if checksum(payload) != data[len(MAGIC) : start]:
        return None
    try:
        about, body = marshal.loads(payload)
    except (ValueError, EOFError, TypeError):  # whole, but of another version
        return None
    return about, body


def checksum(payload: Any) -> bytes:
    return hashlib.sha256(payload).digest()[:DIGEST]


def discard(kind: str, key: str) -> None:
    """Forget an entry that could not be used."""
    root = folder()
    if root is not None:
        drop(root / kind / key)


def drop(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


# ---------------------------------------------------------------------------------------- writing


def write(kind: str, key: str, about: dict[str, str], body: Any) -> None:
    """Store something marshallable. A folder that cannot take it is left as it is."""
    root = folder()
    if root is None:
        return
    told = zlib.compress(marshal.dumps((time.time(), about)), 1)
    payload = marshal.dumps((told, body))
    data = MAGIC + checksum(payload) + payload
    if len(data) > options.cache_size * ROOM:
        return
    if not root.is_dir():  # somebody removed it
        usable.cache_clear()
        root = folder()
    if root is not None and put(root / kind / key, data):
        make_room(root, len(data))


def put(path: Path, data: bytes) -> bool:
    """Write a file whole, or not at all."""
    temporary = path.with_name(f".{path.name[:16]}.{os.getpid()}.{next(_serial)}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError as error:
        logger().info("the cache folder %s takes no more: %s", path.parent, error)
        drop(temporary)
        return False
    return True


def make_room(root: Path, nbytes: int) -> None:
    """Remove the entries that were not used for longest, if the folder grew too large."""
    with _lock:
        count = _written.setdefault(root, [0, COUNT_AGAIN])
        count[0] += nbytes
        count[1] += 1
        if count[0] <= options.cache_size and count[1] < COUNT_AGAIN:
            return
        found = sorted(entries(root), key=lambda e: e.used)
        total = sum(e.nbytes for e in found)
        if total > options.cache_size:
            for entry in found:
                if total <= options.cache_size * ROOM:
                    break
                drop(entry.path)
                total -= entry.nbytes
        count[:] = total, 0


# ---------------------------------------------------------------------------------------- packing


def pack(path: str | os.PathLike[str], kinds: Sequence[str] = KINDS) -> int:
    """Write every entry of the folder into one file; returns how many there are.

    `add` takes them into another folder: of another user, another machine, another time. Programs
    for several CPU levels lie side by side; those for other versions of deepseek are never found.

    >>> packed = ds.cache.pack("programs.pack")
    >>> ds.cache.add("programs.pack")  # they are all here
    0
    """
    root = folder()
    return write_pack(Path(path), () if root is None else whole_entries(root, kinds))


def whole_entries(root: Path, kinds: Sequence[str]) -> Iterator[tuple[str, str, bytes]]:
    """Kind, key and bytes of the entries that are what was written."""
    for entry in entries(root):
        with suppress(OSError):
            data = entry.path.read_bytes()
            if entry.kind in kinds and not entry.key.startswith(".") and unpack(data) is not None:
                yield entry.kind, entry.key, data


def add(path: str | os.PathLike[str]) -> int:
    """Take the entries of a file that `pack` wrote into the folder; returns how many were new.

    Machine code is run as it is: add files of people whom you would let run programs. Raises
    FormatError for a file that is no pack or is cut. See `pack`.
    """
    given, root = Pack(Path(path)), folder()
    if root is None:
        raise FormatError(f"there is no cache folder to add {path} to: {why_unusable()}")
    new = 0
    for kind, key, data in given:
        if not (root / kind / key).exists() and unpack(data) is not None:
            new += put(root / kind / key, data)
            make_room(root, len(data))
    return new


# ------------------------------------------------------------------------------------ looking over


def entries(root: Path) -> Iterator[Stored]:
    """Every file of the cache, those left by interrupted writes included."""
    for kind in KINDS:
        with suppress(OSError), os.scandir(root / kind) as found:
            for file in found:
                with suppress(OSError):
                    status = file.stat(follow_symlinks=False)
                    path = Path(file.path)
                    yield Stored(kind, file.name, path, status.st_size, status.st_mtime)


def described(kind: str, before: float, count: int = 1000) -> Iterator[dict[str, str]]:
    """What entries made before a time are about, those used last first."""
    root = folder()
    if root is None:
        return
    found = [e for e in entries(root) if e.kind == kind and not e.key.startswith(".")]
    for entry in sorted(found, key=lambda e: -e.used)[:count]:
        with suppress(OSError):
            unpacked = unpack(entry.path.read_bytes())
            if unpacked is not None:
                made, about = marshal.loads(zlib.decompress(unpacked[0]))
                if made < before:
                    yield about


def clear() -> int:
    """Remove every entry; returns how many there were."""
    root = folder()
    count = 0
    if root is not None:
        for entry in list(entries(root)):
            drop(entry.path)
            count += 1
        with _lock:
            _written.pop(root, None)
    return count
