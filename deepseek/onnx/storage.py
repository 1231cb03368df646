"""Models as files: whole in one, or with their weights in a second one beside it.

A file of ONNX holds 2 GB. What is larger keeps its weights as external data, in a file that is
named by its content, so that whoever opens the model finds the weights that belong to it whatever
happens while a new one is written. Nothing appears under its name before it is complete.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from deepseek.serialize import write_atomically

LARGEST = 2**31 - 1  # what a protobuf message can hold
SMALL = 1024  # bytes of a constant that stays in the model: shapes, axes and the like
ALIGNMENT = 4096  # so that files can be mapped into memory

Held = Mapping[str, np.ndarray[Any, Any]]


class Draft:
    """A model that is not yet under its name. `source` is what runtimes open."""

    def __init__(self, model: Any, folder: str | None, data: str | None) -> None:
        self.model = model
        self.folder = folder
        self.data = data  # the name of the weights' file in the folder

    @property
    def source(self) -> Any:
        if self.folder is None:
            return self.model
        path = os.path.join(self.folder, "model.onnx")
        with open(path, "wb") as file:
            file.write(self.model.SerializeToString())
        return path

    def publish(self, path: str | os.PathLike[str]) -> int:
        """Put the model under its name; gives its size with its weights."""
        before = data_of(path)
        target = os.path.dirname(os.path.realpath(path))
        content = self.model.SerializeToString()
        size = len(content)
        if self.folder is not None and self.data is not None:
            moved = os.path.join(target, self.data)
            os.replace(os.path.join(self.folder, self.data), moved)
            size += os.path.getsize(moved)
        write_atomically(path, [content])
        for name in before - {self.data}:
            os.unlink(os.path.join(target, name))
        return size


@contextmanager
def drafted(
    model: Any, held: Held, path: str | os.PathLike[str], external: bool | None
) -> Iterator[Draft]:
    """A model ready to be opened, its weights apart if they are large or `external` says so.

    `held` are the elements of the initializers, which the model does not have yet.
    """
    total = model.ByteSize() + sum(a.nbytes + 64 for a in held.values())
    if not (total > LARGEST if external is None else external):
        for tensor in model.graph.initializer:
            tensor.raw_data = held[tensor.name].tobytes()
        yield Draft(model, None, None)
        return
    target = os.path.realpath(path)
    folder = tempfile.mkdtemp(prefix=f".{os.path.basename(target)}.", dir=os.path.dirname(target))
    try:
        stem = os.path.splitext(os.path.basename(target))[0]
        yield Draft(model, folder, write_data(model, held, folder, stem))
    finally:
        shutil.rmtree(folder)


def write_data(model: Any, held: Held, folder: str, stem: str) -> str:
    """Write the large initializers into one file of the folder; the model then refers to it."""
    import onnx

    digest = hashlib.sha256()
    places: dict[str, tuple[int, int]] = {}
    temporary = os.path.join(folder, "data")
    with open(temporary, "wb") as file:
        at = 0
        for tensor in model.graph.initializer:
            array = held[tensor.name]
            if array.nbytes <= SMALL:
                tensor.raw_data = array.tobytes()
                continue
            gap = bytes(-at % ALIGNMENT)
            content = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
            for part in (gap, content):
                file.write(part)
                digest.update(part)
            places[tensor.name] = at + len(gap), array.nbytes
            at += len(gap) + array.nbytes
        file.flush()
        os.fsync(file.fileno())
    name = f"{stem}.{digest.hexdigest()[:12]}.data"
    os.rename(temporary, os.path.join(folder, name))
    for tensor in model.graph.initializer:
        if tensor.name in places:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            offset, length = places[tensor.name]
            for key, value in (("location", name), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
    return name


def data_of(path: str | os.PathLike[str]) -> set[str]:
    """The files with weights that an earlier export left beside a model of this name."""
    import onnx

    target = os.path.realpath(path)
    stem = re.escape(os.path.splitext(os.path.basename(target))[0])
    ours = re.compile(rf"{stem}\.[0-9a-f]{{12}}\.data")
    folder = os.path.dirname(target)
    beside = {name for name in os.listdir(folder) if ours.fullmatch(name)}
    if not beside or not os.path.exists(target):
        return set()
    try:
        model = onnx.load(target, load_external_data=False)
    except Exception:  # not a model: nothing in it to go by
        return set()
    entries = [e for t in model.graph.initializer for e in t.external_data]
    return beside & {e.value for e in entries if e.key == "location"}
