"""Checkpoints: whole or not at all, checked, and a resumed run goes on bit for bit."""

from __future__ import annotations

import builtins
import json
import math
import os
import shutil
import subprocess
import sys
import textwrap
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepseek as ds
from deepseek.checkpoints import (
    MANIFEST,
    checksum_of,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from deepseek.config import override
from deepseek.errors import ArgumentError, FormatError
from deepseek.ops.random import default_generator
from deepseek.serialize import load


class Held:
    """Anything that has state."""

    def __init__(self, state: Any = None) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


class Fussy(Held):
    """Takes a part of a state before it refuses it."""

    def load_state_dict(self, state: Any) -> None:
        self.state = state
        if state != "before":
            raise RuntimeError("not mine")


def model_of(value: float) -> ds.nn.Module:
    model = ds.nn.Sequential(ds.nn.Linear(3, 4), ds.nn.BatchNorm1d(4), ds.nn.Linear(4, 2))
    model.load_state_dict({k: np.full(v.shape, value) for k, v in model.state_dict().items()})
    return model


def value_of(model: ds.nn.Module) -> float:
    """The value of all elements, which have to be equal."""
    values = {v for t in model.state_dict().values() for v in t.numpy().reshape(-1).tolist()}
    assert len(values) == 1
    return values.pop()


def names(folder: Path) -> list[str]:
    """What lies in a folder, without the unique parts of names."""
    return sorted(name.split("-")[0].split(".")[0] for name in os.listdir(folder))


# ------------------------------------------------------------------------------------- round trips

NESTED = {
    "numbers": [0, -1, 2**70, 0.1, -0.0, 1e-300, math.inf, -math.inf, True, None],
    "text": "ünï\n\0\ud800", "bytes": b"\x00\xff", "tuple": ((), (1, [2, ()])),
    "empty": [{}, [], ""], 1: {2: {(3, "a"): None}}, None: 1, 2.5: 2, False: 3,
    "$tuple": "not a mark", "dtype": ds.bfloat16,
    "ordered": OrderedDict([("b", 1), ("a", {"$float": 2})]),
}  # fmt: skip


def test_nested_state_comes_back_as_it_was(tmp_path: Path) -> None:
    held = Held()
    save_checkpoint(tmp_path, thing=Held(NESTED), extra=NESTED)
    found = load_checkpoint(tmp_path, thing=held)
    for state in (held.state, found.extra):
        assert repr(state) == repr(NESTED)  # types, order and signs of zeros included
    assert names(tmp_path) == ["manifest"]
    json.loads(
        (tmp_path / MANIFEST).read_text(), parse_constant=pytest.fail
    )  # JSON as standardised


def test_tensors_and_arrays_in_state(tmp_path: Path) -> None:
    state = {
        "tensor": ds.asarray([[1.5]]), "array": np.arange(3, dtype=np.int16)[::-1],
        "scalar": np.float32(0.1), "nan": float("nan"), "a.b": ds.ones(1), "a": {"b": ds.zeros(1)},
        "__metadata__": ds.full((2,), 7), "empty": np.zeros((0, 2)),
        "list": [ds.asarray(True), (ds.asarray(3).astype("bfloat16"),)],
    }  # fmt: skip
    save_checkpoint(tmp_path, extra=state)
    found = load_checkpoint(tmp_path).extra
    assert list(found) == list(state)
    assert isinstance(found["tensor"], ds.Tensor) and found["tensor"].tolist() == [[1.5]]
    assert type(found["array"]) is np.ndarray and found["array"].tolist() == [2, 1, 0]
    assert found["array"].dtype == np.int16 and found["array"].flags.writeable
    assert type(found["scalar"]) is np.float32 and found["scalar"] == np.float32(0.1)
    assert math.isnan(found["nan"]) and found["empty"].shape == (0, 2)
    assert (found["a.b"].item(), found["a"]["b"].item()) == (1, 0)
    assert found["__metadata__"].tolist() == [7, 7]
    assert found["list"][0].dtype == ds.bool and found["list"][1][0].dtype == ds.bfloat16


def test_a_model_and_its_optimizer(tmp_path: Path) -> None:
    model, other = model_of(1), model_of(2)
    optimizer = ds.optim.AdamW(model.parameters(), lr=0.5)
    (model(ds.ones((2, 3))).sum() * 3).backward()
    optimizer.step()
    generator = ds.Generator(5)
    ds.rand(3, generator=generator)
    path = save_checkpoint(
        tmp_path / "new" / "folder", model=model, optimizer=optimizer, generator=generator, step=7
    )
    assert path == tmp_path / "new" / "folder"
    again = ds.optim.AdamW(other.parameters(), lr=0.1)
    drawn = ds.Generator(0)
    found = load_checkpoint(path, model=other, optimizer=again, generator=drawn)
    assert (found.step, found.extra, found.path) == (7, None, path)
    assert found.parts == ("model", "optimizer", "generator")
    for key, value in model.state_dict().items():
        assert other.state_dict()[key].numpy().tobytes() == value.numpy().tobytes()
    assert again.param_groups[0]["lr"] == 0.5 and drawn.get_state() == (5, 1)
    for a, b in zip(optimizer.state.values(), again.state.values(), strict=True):
        assert {k: v.tolist() for k, v in a.items()} == {k: v.tolist() for k, v in b.items()}


def test_schedulers_and_scalers(tmp_path: Path) -> None:
    def parts() -> dict[str, Any]:
        optimizer = ds.optim.SGD(ds.nn.Linear(2, 2).parameters(), lr=1.0)
        schedules = ds.optim.lr_scheduler
        return {
            "optimizer": optimizer,
            "scheduler": schedules.CosineAnnealingLR(optimizer, T_max=9),
            "plateau": schedules.ReduceLROnPlateau(optimizer),
            "scaler": ds.amp.GradScaler(init_scale=8.0),
        }

    first, second = parts(), parts()
    for _ in range(3):
        first["scheduler"].step()
    first["plateau"].step(0.5)
    first["scaler"].scale(ds.ones(()))
    first["scaler"].update(2.0)
    save_checkpoint(tmp_path, **first)
    load_checkpoint(tmp_path, **second)
    for name in ("scheduler", "plateau", "scaler"):
        assert second[name].state_dict() == first[name].state_dict(), name
        assert second[name].state_dict() != parts()[name].state_dict(), name
    assert second["optimizer"].param_groups[0]["lr"] == first["optimizer"].param_groups[0]["lr"] < 1


def test_a_part_is_a_safetensors_file(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, model=model_of(3))
    (file,) = tmp_path.glob("model-*.safetensors")
    assert set(load(file)) == set(model_of(0).state_dict())


def test_saving_again_leaves_no_old_files_and_those_of_others(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "best.safetensors").write_text("mine")
    for value in (1, 2, 3):
        save_checkpoint(tmp_path, model=model_of(value), step=value)
    assert names(tmp_path) == ["best", "manifest", "model", "notes"]
    assert load_checkpoint(tmp_path, model=(model := model_of(0))).step == 3
    assert value_of(model) == 3


def test_parts_that_are_not_asked_for_are_not_read(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, model=model_of(1), other=Held({"x": ds.ones(2)}))
    for file in tmp_path.glob("other-*"):
        file.unlink()
    load_checkpoint(tmp_path, model=(model := model_of(0)))
    assert value_of(model) == 1


# ----------------------------------------------------------------------------------- last n


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    for step in (5, 10, 15, 20):
        path = save_checkpoint(tmp_path, model=model_of(step), step=step, keep=2)
        assert path == tmp_path / f"step-{step:09d}" == latest_checkpoint(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["step-000000015", "step-000000020"]
    assert load_checkpoint(tmp_path).step == 20
    assert load_checkpoint(tmp_path / "step-000000015").step == 15


def test_the_latest_is_the_one_saved_last(tmp_path: Path) -> None:
    """A run that goes on from an earlier step does not lose what it saves."""
    for step in (10, 20, 30):
        save_checkpoint(tmp_path, step=step, keep=3)
    for step in (15, 20):
        save_checkpoint(tmp_path, step=step, keep=2)
        assert load_checkpoint(tmp_path).step == step
    assert sorted(os.listdir(tmp_path)) == ["step-000000015", "step-000000020"]


def test_what_a_crash_left_is_removed_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    for left in ("step-000000001", "step-000000002"):
        (tmp_path / left).mkdir()
        (tmp_path / left / f"model-{'0' * 12}.safetensors").touch()
    (tmp_path / "step-000000002" / "notes.txt").touch()
    (tmp_path / "step-by-step").mkdir()
    assert latest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, step=3, keep=1)
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert found == [
        "step-000000002", "step-000000002/notes.txt", "step-000000003",
        "step-000000003/manifest.json", "step-by-step",
    ]  # fmt: skip


def test_one_folder_has_one_kind_of_checkpoints(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a", step=1)
    with pytest.raises(ArgumentError, match="holds a single checkpoint"):
        save_checkpoint(tmp_path / "a", step=2, keep=1)
    save_checkpoint(tmp_path / "b", step=1, keep=1)
    with pytest.raises(ArgumentError, match="kept with keep="):
        save_checkpoint(tmp_path / "b", step=2)


# ------------------------------------------------------------------------- crashes while writing


def die_at(step: int) -> None:
    """Let this process end at so-manieth touch of the disk; half of what is written gets there."""
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1
        if count == step:
            os._exit(17)

    def patched(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            tick()
            result = original(*args, **kwargs)
            tick()
            return result

        return call

    class File:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> File:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, chunk: Any) -> None:
            half = len(chunk) // 2
            self.file.write(chunk[:half])
            self.file.flush()
            tick()
            self.file.write(chunk[half:])
            self.file.flush()
            tick()

    opened = builtins.open

    def open_(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        tick()
        file = opened(path, mode, *args, **kwargs)
        return File(file) if set(mode) & set("wxa") else file

    builtins.open = open_  # type: ignore[assignment]
    for name in ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir"):
        setattr(os, name, patched(getattr(os, name)))


def save_and_die(step: int, save: Callable[[], Any]) -> bool:
    """Save in a process that ends at a step; returns whether it came to the end."""
    child = os.fork()
    if not child:
        try:
            die_at(step)
            save()
        except BaseException:
            os._exit(3)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 17)
    return code == 0


@pytest.mark.slow
@pytest.mark.parametrize("keep", [None, 1, 2])
def test_a_crash_at_any_moment_leaves_a_whole_checkpoint(
    tmp_path: Path, keep: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the process dies, not the machine
    old, new = model_of(1), model_of(2)
    was_new = False
    steps = 0
    while True:
        steps += 1
        folder = tmp_path / str(steps)
        save_checkpoint(folder, model=old, held=Held({"x": ds.ones(2), "n": 1}), step=1, keep=keep)
        done = save_and_die(
            steps,
            lambda folder=folder: save_checkpoint(
                folder, model=new, held=Held({"x": ds.zeros(2), "n": 2}), step=2, keep=keep
            ),
        )
        model, held = model_of(0), Held()
        found = load_checkpoint(folder, model=model, held=held)
        assert found.step == value_of(model) == held.state["n"]
        assert held.state["x"].tolist() == [2 - found.step] * 2
        assert found.step == 2 or not was_new, "the new one was there at an earlier step"
        was_new = was_new or found.step == 2
        # Whatever was left, the next one is saved, and nothing of it stays.
        save_checkpoint(folder, model=new, step=3, keep=keep)
        assert load_checkpoint(folder).step == 3
        left = latest_checkpoint(folder)
        assert left is not None and names(left) == ["manifest", "model"]
        assert len(os.listdir(folder)) == (2 if keep is None else min(keep, 2 if was_new else keep))
        shutil.rmtree(folder)
        if done:
            break
    assert was_new and steps > 30


def test_a_first_save_that_crashes_leaves_no_checkpoint(tmp_path: Path) -> None:
    for step in range(1, 200):
        folder = tmp_path / str(step)
        done = save_and_die(step, lambda folder=folder: save_checkpoint(folder, model=model_of(1)))
        if latest_checkpoint(folder) is None:
            assert not done
            with pytest.raises(FormatError, match="holds no checkpoint"):
                load_checkpoint(folder)
        else:
            load_checkpoint(folder, model=(model := model_of(0)))
            assert value_of(model) == 1
        if done:
            return
    pytest.fail("the save never came to its end")


def test_all_is_on_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that loses power keeps what was synced: files first, then the manifest's name."""
    events: list[tuple[str, str]] = []
    fsync, replace, unlink = os.fsync, os.replace, os.unlink

    def named(descriptor: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).name

    def note(kind: str, path: Any) -> None:
        name = Path(path).name.lstrip(".")
        events.append((kind, name.split("-")[0].split(".")[0]))

    monkeypatch.setattr(os, "fsync", lambda fd: (note("sync", named(fd)), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (note("name", b), replace(a, b)))
    monkeypatch.setattr(os, "unlink", lambda p, **k: (note("remove", p), unlink(p, **k)))
    folder = tmp_path / "run"
    with override(cache_size=0):  # so that nothing else is written
        for _ in range(2):
            save_checkpoint(folder, model=model_of(1))
    top = tmp_path.name.split("-")[0]
    written = [("sync", "model"), ("name", "model"), ("sync", "run")]
    counts = [("sync", "manifest"), ("name", "manifest"), ("sync", "run")]
    assert events == [("sync", top), *written, *counts, *written, *counts, ("remove", "model")]


def test_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, model=model_of(1), step=1)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, model=model_of(2), step=2)
    monkeypatch.undo()
    assert names(tmp_path) == ["manifest", "model"]
    assert load_checkpoint(tmp_path, model=(model := model_of(0))).step == value_of(model) == 1


# ------------------------------------------------------------------------------- damage


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = model_of(1)
    optimizer = ds.optim.AdamW(model.parameters())
    model(ds.ones((2, 3))).sum().backward()
    optimizer.step()
    return save_checkpoint(
        tmp_path / "run", model=model, optimizer=optimizer, step=4, extra={"a": 1}
    )


class Untouched:
    """A model, an optimizer and a generator that nothing may change."""

    def __init__(self) -> None:
        self.model = model_of(2)
        self.optimizer = ds.optim.AdamW(self.model.parameters(), lr=0.3)
        self.held = Held("as it was")

    def load(self, folder: Path, **more: Any) -> None:
        try:
            load_checkpoint(folder, model=self.model, optimizer=self.optimizer, **more)
        finally:
            assert value_of(self.model) == 2 and self.optimizer.param_groups[0]["lr"] == 0.3
            for own in self.optimizer.state.values():
                assert all(not t.numpy().any() for t in own.values())


def test_every_damaged_byte_of_a_part_is_found(saved: Path) -> None:
    objects = Untouched()
    for part in ("model", "optimizer"):
        (file,) = saved.glob(f"{part}-*.safetensors")
        whole = file.read_bytes()
        for place in range(0, len(whole), 7):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << place % 8
            file.write_bytes(flipped)
            with pytest.raises(FormatError, match=f"part '{part}' of .* has another checksum"):
                objects.load(saved)
        for size in (0, len(whole) - 1, len(whole) + 1):
            file.write_bytes((whole + b"x")[:size])
            with pytest.raises(FormatError, match=rf"'{part}' .* has {size} bytes; wanted"):
                objects.load(saved)
        file.unlink()
        with pytest.raises(FormatError, match=f"part '{part}' of .* is missing"):
            objects.load(saved)
        file.write_bytes(whole)


@pytest.mark.slow
def test_every_damaged_byte_of_the_manifest_is_found(saved: Path) -> None:
    path = saved / MANIFEST
    whole = path.read_bytes()
    meaning = json.loads(whole)
    objects = Untouched()
    for place in range(0, len(whole), 5):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 7
        path.write_bytes(flipped)
        try:
            same = json.loads(flipped) == meaning  # another space between two words, say
        except ValueError:
            same = False
        if not same:
            with pytest.raises(FormatError, match="the manifest .* is damaged"):
                objects.load(saved)
    for size in range(0, len(whole) - 2, 11):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError, match="the manifest .* is damaged"):
            objects.load(saved)
    path.unlink()
    with pytest.raises(FormatError, match=f"run holds no checkpoint: it has no {MANIFEST}"):
        objects.load(saved)


def test_manifests_of_others(saved: Path) -> None:
    path = saved / MANIFEST
    manifest = json.loads(path.read_text())

    def put(**changes: Any) -> None:
        path.write_text(json.dumps(manifest | changes))

    for changes, message in [
        ({"version": 2}, "it has version 2; this program reads 1"),
        ({"format": "other"}, "it is not that of a deepseek checkpoint"),
        ({"more": 1}, "other fields"),
        ({"sha256": "0"}, "its checksum is another"),
    ]:
        put(**changes)
        with pytest.raises(FormatError, match=message):
            load_checkpoint(saved)
    for text in ("[1]", "1", "[" * 100_000, '{"format": 1, "format": 2}'):
        path.write_text(text)
        with pytest.raises(FormatError, match="the manifest .* is damaged"):
            load_checkpoint(saved)
    # One that is whole and was never written by us: marks it does not know, files elsewhere.
    content = manifest["content"]
    for structure in (
        {"$call": []},
        {"$tensor": "none"},
        {"$tuple": 1},
        {"$float": "1"},
        {"$a": 1, "b": 2},
    ):
        content["parts"]["extra"]["structure"] = structure
        put(content=content, sha256=checksum_of(content))
        with pytest.raises(FormatError, match="the part 'extra' of .* cannot be read"):
            load_checkpoint(saved)
    content["parts"]["extra"] = {
        "structure": None,
        "file": {"name": "../../etc/passwd", "size": 1, "sha256": ""},
    }
    put(content=content, sha256=checksum_of(content))
    with pytest.raises(FormatError, match="part 'extra' .*: passwd is missing"):
        load_checkpoint(saved)


def test_a_part_that_does_not_fit_changes_nothing(saved: Path) -> None:
    objects = Untouched()
    held = Fussy("before")
    save_checkpoint(
        saved, model=model_of(1), optimizer=ds.optim.AdamW(model_of(1).parameters(), lr=0.9),
        held=Held({"other": 1}),
    )  # fmt: skip
    with pytest.raises(
        ArgumentError, match="part 'held' of .* does not fit the Fussy; nothing was"
    ):
        objects.load(saved, held=held)
    assert held.state == "before"
    stubborn = Fussy("never taken back")
    with pytest.raises(
        ArgumentError, match="'held' .* does not fit the Fussy; held could not be put"
    ):
        objects.load(saved, held=stubborn)
    small = ds.nn.Linear(3, 2)
    before = {k: v.tolist() for k, v in small.state_dict().items()}
    with pytest.raises(ArgumentError, match="part 'model' of .* does not fit the Linear"):
        load_checkpoint(saved, model=small)
    assert {k: v.tolist() for k, v in small.state_dict().items()} == before
    with pytest.raises(
        ArgumentError, match="has no part 'scheduler'; it has model, optimizer, held"
    ):
        objects.load(saved, scheduler=Held())


def test_another_checkpoint_may_take_its_place_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import deepseek.checkpoints as module

    save_checkpoint(tmp_path, model=model_of(1), step=1)
    read = module.read_manifest
    times = 0

    def slow(folder: Path) -> Any:
        nonlocal times
        content = read(folder)
        times += 1
        if times == 1:
            save_checkpoint(folder, model=model_of(2), step=2)
        return content

    monkeypatch.setattr(module, "read_manifest", slow)
    found = load_checkpoint(tmp_path, model=(model := model_of(0)))
    assert found.step == value_of(model) == 2


# ----------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"model": 3}, r"got model=3 of type int; wanted something with state_dict\(\)"),
        ({"a b": Held()}, "got a part called 'a b'"),
        ({"held": Held({"x": {1, 2}})}, "got x of type set in 'held'"),
        ({"held": Held({"x": [0, len]})}, r"got x.1 of type builtin_function_or_method"),
        ({"held": Held({(1, ds.ones(1)): 2})}, "a key of type tuple in 'held'"),
        ({"held": Held({"x": np.array([1j])})}, "got x of complex128 in 'held'"),
        ({"extra": object()}, "got a value of type object in 'extra'"),
        ({"step": -1}, "got step=-1"),
        ({"step": True}, "got step=True"),
        ({"keep": 0, "step": 1}, "got keep=0"),
        ({"keep": 1}, "got keep=1, step=None"),
    ],
)
def test_what_cannot_be_saved_is_named_before_anything_is_written(
    tmp_path: Path, parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        save_checkpoint(tmp_path / "run", **parts)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_loaded_into(saved: Path) -> None:
    with pytest.raises(ArgumentError, match="load_checkpoint: got model='text'"):
        load_checkpoint(saved, model="text")


# ------------------------------------------------------------------------------------- going on

TRAINING = """
    import sys
    import numpy as np
    import deepseek as ds
    from deepseek.checkpoints import load_checkpoint, save_checkpoint
    from deepseek.data import DataLoader, TensorDataset
    from deepseek.ops.random import default_generator

    mode, folder, out = sys.argv[1:]
    workers = int("workers" in mode)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(26, 5)).astype(np.float32)
    y = rng.integers(0, 3, 26)
    ds.manual_seed(12 if "second" in mode else 1)

    nn = ds.nn
    model = nn.Sequential(
        nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
    )
    optimizer = ds.optim.AdamW(model.parameters(), lr=0.02, amsgrad=True)
    loader = DataLoader(TensorDataset(x, y), 4, shuffle=True, num_workers=workers)

    @ds.jit
    def train_step(x, y):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    parts = dict(model=model, optimizer=optimizer, generator=default_generator, loader=loader)
    step, losses, last = 0, [], 10
    if "first" in mode:
        last = 5
    if "second" in mode:
        found = load_checkpoint(folder, **parts)
        step, losses = found.step, found.extra["losses"]
    while step < last:
        for a, b in loader:
            optimizer.param_groups[0]["lr"] *= 0.9
            losses.append(train_step(a, b).item())
            step += 1
            if step == last:
                break
        if step == last:
            break
    if "first" in mode:
        save_checkpoint(folder, step=step, keep=2, extra={"losses": losses}, **parts)
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    for i, own in enumerate(optimizer.state.values()):
        state |= {f"{i}.{k}": t.numpy() for k, t in own.items()}
    np.savez(out, losses=losses, draws=default_generator.get_state(), epoch=loader.epoch, **state)
"""


@pytest.mark.parametrize("workers", ["", "workers"])
def test_a_resumed_run_is_bit_equal(tmp_path: Path, workers: str) -> None:
    """Ten steps, and five, a new process, and five more; seven steps make an epoch."""
    program = tmp_path / "train.py"
    program.write_text(textwrap.dedent(TRAINING))
    for mode in ("straight", "first", "second"):
        out = tmp_path / f"{mode}.npz"
        subprocess.run(
            [sys.executable, program, mode + workers, tmp_path / "run", out],
            check=True,
            timeout=300,
        )
    straight, first, second = (
        dict(np.load(tmp_path / f"{mode}.npz")) for mode in ("straight", "first", "second")
    )
    assert len(straight["losses"]) == 10 and len(first["losses"]) == 5
    assert straight.keys() == second.keys()
    for key, value in straight.items():
        assert value.tobytes() == second[key].tobytes(), key
    assert straight["epoch"] == 1 and len(set(straight["losses"].tolist())) == 10
    assert any(value.tobytes() != first[key].tobytes() for key, value in straight.items())


def test_the_default_generator_can_take_part(tmp_path: Path) -> None:
    ds.manual_seed(3)
    ds.rand(2).numpy()
    save_checkpoint(tmp_path, generator=default_generator)
    expected = ds.rand(4).tolist()
    ds.manual_seed(8)
    load_checkpoint(tmp_path, generator=default_generator)
    assert ds.rand(4).tolist() == expected
