"""Checkpoints: `ds.save_checkpoint` and `ds.load_checkpoint`, a training run on disk.

A checkpoint is a folder: `manifest.json`, and for every part (model, optimizer, ...) that has
tensors one safetensors file. The manifest holds all that is not a tensor, and the size and sha256
of each file and of itself. Files of a new checkpoint have new names and lie beside the old ones;
renaming the manifest is the moment in which it takes the old one's place. Loading reads and checks
everything first, and changes all objects or none.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, FormatError
from deepseek.frontend.tensor import Tensor
from deepseek.ops.random import Generator
from deepseek.serialize import chunks_of, load_tensors, write_atomically
from deepseek.state import Decoder, Encoder

MANIFEST = "manifest.json"
FORMAT = "deepseek checkpoint"
VERSION = 1
STEP_FOLDER = re.compile(r"step-(\d{9,})")
# What we write, and so may remove: a part's file, or what a crash left of a file.
OWN_FILE = re.compile(r"\.?(?:[\w-]+-[0-9a-f]{12}\.safetensors|manifest\.json)(?:\.[0-9a-f]{12})?")

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Checkpoint:
    """What `load_checkpoint` found: where, at which step, and what else was saved."""

    path: Path
    step: int | None
    extra: Any
    parts: tuple[str, ...]


class Missing(FormatError):
    """A part's file is not there."""


# ------------------------------------------------------------------------------------------ saving


def save_checkpoint(
    folder: PathLike,
    *,
    model: Any = None,
    optimizer: Any = None,
    scheduler: Any = None,
    scaler: Any = None,
    generator: Generator | None = None,
    loader: Any = None,
    step: int | None = None,
    extra: Any = None,
    keep: int | None = None,
    **others: Any,
) -> Path:
    """Write a training run's state to a folder, in place of the checkpoint that is there, if any.

    Whatever has `state_dict()` can be a part, under any name; of a Generator its state is saved,
    such as `generator=ds.default_generator`. `extra` is data of yours: dicts, lists, tuples,
    numbers, strings, None, tensors and arrays. With `keep=n` the checkpoint goes into a folder of
    its own, `folder/step-000000123`, and only the last n of those are kept.

    The checkpoint appears whole or not at all: at any moment, a crash included, the folder holds
    the old one or the new one. Returns where it is. Raises ArgumentError for what cannot be saved,
    before anything is written.

    >>> import tempfile
    >>> model = ds.nn.Linear(2, 2)
    >>> folder = tempfile.mkdtemp()
    >>> path = ds.save_checkpoint(folder, model=model, step=10, extra={"best": 0.5})
    >>> ds.load_checkpoint(folder, model=model).extra
    {'best': 0.5}
    """
    parts = named_parts(
        "save_checkpoint", others, model=model, optimizer=optimizer, scheduler=scheduler,
        scaler=scaler, generator=generator, loader=loader,
    )  # fmt: skip
    if step is not None and (type(step) is not int or step < 0):
        raise ArgumentError(f"save_checkpoint: got step={step!r}; wanted a whole number or None")
    if keep is not None and (type(keep) is not int or keep < 1 or step is None):
        raise ArgumentError(
            f"save_checkpoint: got keep={keep!r}, step={step!r}; wanted keep above 0, and with it "
            "a step, which the folder is named after"
        )
    encoded = [encode(name, state_of(part)) for name, part in parts.items()]
    encoded.append(encode("extra", extra))
    root = Path(folder)
    if (root / MANIFEST).exists() if keep else step_folders(root):
        held = "a single checkpoint" if keep else "the last checkpoints of a run, kept with keep="
        raise ArgumentError(
            f"save_checkpoint: {root} holds {held}; which would be the latest is not clear\n"
            "  help: use another folder"
        )
    target = root if keep is None else root / f"step-{step:09d}"
    make_folders(target)
    write(target, step, encoded, 1 + max(serials(root), default=0) if keep else 0)
    if keep is not None:
        prune(root, keep)
    return target


@dataclass
class Encoded:
    """A part as it is written: its structure as JSON, and the tensors that it names."""

    name: str
    structure: Any
    tensors: dict[str, Tensor]


def encode(name: str, state: Any) -> Encoded:
    encoder = Encoder(name)
    return Encoded(name, encoder.encode(state), encoder.tensors)


def write(folder: Path, step: int | None, parts: Iterable[Encoded], serial: int) -> None:
    """Write a checkpoint beside the one in a folder, and let it take its place."""
    described = {}
    for part in parts:
        entry: dict[str, Any] = {"structure": part.structure, "file": None}
        if part.tensors:
            name = f"{part.name}-{secrets.token_hex(6)}.safetensors"
            counted = Counted(chunks_of(part.tensors, {"part": part.name}))
            write_atomically(folder / name, counted)
            entry["file"] = {"name": name, "size": counted.size, "sha256": counted.hexdigest()}
        described[part.name] = entry
    content = {"serial": serial, "step": step, "versions": versions(), "parts": described}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "sha256": checksum_of(content),
        "content": content,
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=True, allow_nan=False)
    write_atomically(folder / MANIFEST, [text.encode(), b"\n"])
    sweep(folder, keep={entry["file"]["name"] for entry in described.values() if entry["file"]})


class Counted:
    """Chunks that pass by, their number of bytes and their checksum."""

    def __init__(self, chunks: Iterable[Any]) -> None:
        self.chunks = chunks
        self.size = 0
        self.hash = hashlib.sha256()

    def __iter__(self) -> Iterator[Any]:
        for chunk in self.chunks:
            self.hash.update(chunk)
            self.size += len(chunk)
            yield chunk

    def hexdigest(self) -> str:
        return self.hash.hexdigest()


def checksum_of(content: Any) -> str:
    """The checksum of the manifest's content, whatever spaces are in its text."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def versions() -> dict[str, str]:
    """What wrote the checkpoint."""
    return {"deepseek": sys.modules["deepseek"].__version__, "numpy": np.__version__}


def make_folders(folder: Path) -> None:
    """Make a folder and those above it, each on disk under its name."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sweep(folder: Path, keep: set[str]) -> None:
    """Remove what earlier checkpoints, or crashes, left in a folder: files of ours only."""
    for path in folder.iterdir():
        if OWN_FILE.fullmatch(path.name) and path.name not in (*keep, MANIFEST):
            path.unlink(missing_ok=True)


def prune(root: Path, keep: int) -> None:
    """Remove all but the last checkpoints, and what a crash left of others."""
    found = step_folders(root)
    whole = sorted(item for item in found if item[0] >= 0)
    for _, path in (*whole[:-keep], *(item for item in found if item[0] < 0)):
        (path / MANIFEST).unlink(missing_ok=True)  # first: without it, it is no checkpoint
        sweep(path, keep=set())
        with suppress(OSError):  # files of others are in it
            path.rmdir()


def step_folders(root: Path) -> list[tuple[int, Path]]:
    """The folders of steps with their serial numbers, -1 for those that are not whole."""
    if not root.is_dir():
        return []
    folders = [p for p in root.iterdir() if STEP_FOLDER.fullmatch(p.name) and p.is_dir()]
    return [(read_manifest(p)["serial"] if (p / MANIFEST).exists() else -1, p) for p in folders]


def serials(root: Path) -> list[int]:
    return [serial for serial, _ in step_folders(root)]


# ----------------------------------------------------------------------------------------- loading


def latest_checkpoint(folder: PathLike) -> Path | None:
    """The checkpoint in a folder, or the last one saved of those kept in it; None if none is.

    >>> import tempfile
    >>> ds.latest_checkpoint(tempfile.mkdtemp()) is None
    True
    """
    root = Path(folder)
    if (root / MANIFEST).exists():
        return root
    whole = [item for item in step_folders(root) if item[0] >= 0]
    return max(whole)[1] if whole else None


def load_checkpoint(
    folder: PathLike,
    *,
    model: Any = None,
    optimizer: Any = None,
    scheduler: Any = None,
    scaler: Any = None,
    generator: Generator | None = None,
    loader: Any = None,
    **others: Any,
) -> Checkpoint:
    """Give objects the state that a checkpoint has of them; of several in a folder, of the last.

    Parts that are not asked for are not read. Returns the step and what was saved as `extra`.
    Raises FormatError where the manifest or a part is damaged or missing, ArgumentError where a
    part was not saved or does not fit the object: naming it, and nothing is changed then.

    >>> model = ds.nn.Linear(2, 1)
    >>> _ = ds.save_checkpoint("run", model=model, step=10)
    >>> ds.load_checkpoint("run", model=ds.nn.Linear(2, 1)).step
    10
    """
    parts = named_parts(
        "load_checkpoint", others, model=model, optimizer=optimizer, scheduler=scheduler,
        scaler=scaler, generator=generator, loader=loader,
    )  # fmt: skip
    path = latest_checkpoint(folder)
    if path is None:
        raise FormatError(f"{os.fspath(folder)} holds no checkpoint: it has no {MANIFEST}")
    content, states = read(path, [*parts, "extra"])
    extra = states.pop("extra")
    apply(path, parts, states)
    saved = tuple(name for name in content["parts"] if name != "extra")
    return Checkpoint(path, content["step"], extra, saved)


def read(path: Path, names: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest's content and the states of parts, all checked.

    While it is read, a new checkpoint may take its place: then that one is read.
    """
    while True:
        content = read_manifest(path)
        try:
            return content, {name: read_part(path, content, name) for name in names}
        except Missing:
            if read_manifest(path) == content:
                raise


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's manifest. Raises FormatError if it is not as it was written."""
    path = folder / MANIFEST

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            raise ValueError("a name appears twice")
        return out

    try:
        manifest = json.loads(path.read_bytes().decode(), object_pairs_hook=unique)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise ValueError(f"it is not that of a {FORMAT}")
        if manifest.get("version") != VERSION:
            raise ValueError(
                f"it has version {manifest.get('version')!r}; this program reads {VERSION}"
            )
        if set(manifest) != {"format", "version", "sha256", "content"}:
            raise ValueError("it has other fields than it should")
        content: dict[str, Any] = manifest["content"]
        if checksum_of(content) != manifest["sha256"]:
            raise ValueError("its checksum is another")
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the manifest {path} is damaged: {error}") from None
    return content


def read_part(folder: Path, content: dict[str, Any], name: str) -> Any:
    """The state of a part."""
    entry = content["parts"].get(name)
    if entry is None:
        there = ", ".join(part for part in content["parts"] if part != "extra") or "nothing"
        raise ArgumentError(
            f"load_checkpoint: {folder} has no part {name!r}; it has {there}\n"
            f"  help: leave out {name}=, or save the checkpoint with it"
        )
    tensors: dict[str, Tensor] = {}
    if entry["file"] is not None:
        tensors = read_tensors(folder, name, entry["file"])
    try:
        return Decoder(tensors).decode(entry["structure"])
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"the part {name!r} of {folder} cannot be read: {error}") from error


def read_tensors(folder: Path, name: str, file: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a part, from a file that is as it was written."""
    path = folder / os.path.basename(file["name"])
    what = f"the part {name!r} of {folder} is damaged: {path.name}"
    try:
        with open(path, "rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            if size != file["size"]:
                raise FormatError(f"{what} has {size} bytes; wanted {file['size']}")
            if hashlib.file_digest(opened, "sha256").hexdigest() != file["sha256"]:
                raise FormatError(f"{what} has another checksum than it was written with")
            opened.seek(0)
            return load_tensors(opened, os.fspath(path))
    except FileNotFoundError:
        raise Missing(f"{what} is missing") from None


def apply(path: Path, parts: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Load every state into its object, or, where one does not fit, none."""
    before: dict[str, Any] = {}
    for name, part in parts.items():
        before[name] = copy.deepcopy(state_of(part))
        try:
            put_state(part, states[name])
        except BaseException as error:
            stuck = put_back(parts, before)
            if not isinstance(error, Exception) or isinstance(error, MemoryError):
                raise
            then = f"{', '.join(stuck)} could not be put back" if stuck else "nothing was changed"
            raise ArgumentError(
                f"load_checkpoint: the part {name!r} of {path} does not fit the "
                f"{type(part).__name__}; {then}\n{type(error).__name__}: {error}"
            ) from error


def put_back(parts: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Give parts the state they had; returns the names of those that do not take it."""
    stuck = []
    for name, state in before.items():
        try:
            put_state(parts[name], state)
        except Exception:  # of an object that is not ours; the others get theirs all the same
            stuck.append(name)
    return stuck


# ------------------------------------------------------------------------------------------- parts


def named_parts(where: str, others: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """The parts that were given. Raises ArgumentError for what has no state."""
    parts = {name: part for name, part in (given | dict(others)).items() if part is not None}
    for name, part in parts.items():
        if name == "extra" or not re.fullmatch(r"[\w-]+", name):
            raise ArgumentError(f"{where}: got a part called {name!r}, which is a name it uses")
        if isinstance(part, Generator):
            continue
        if not hasattr(part, "state_dict") or not hasattr(part, "load_state_dict"):
            raise ArgumentError(
                f"{where}: got {name}={part!r} of type {type(part).__name__}; wanted something "
                "with state_dict() and load_state_dict()\n  help: pass data as extra="
            )
    return parts


def state_of(part: Any) -> Any:
    """The state of a part."""
    if isinstance(part, Generator):
        return list(part.get_state())
    return part.state_dict()


def put_state(part: Any, state: Any) -> None:
    """Load a state into a part."""
    if isinstance(part, Generator):
        seed, draws = state
        part.set_state((int(seed), int(draws)))
    else:
        part.load_state_dict(state)
