"""`ds.save` and `ds.load`: the safetensors package reads what we write and the other way round."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import deepseek as ds
from deepseek.errors import ArgumentError, FormatError
from deepseek.serialize import load, load_metadata, save

NAMES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64"),
]


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [(3, 5), (), (0, 4), (7,)]
    dtypes = {name: np.dtype(getattr(ml_dtypes, name, None) or name) for name in NAMES}
    return {
        f"{name}.{i}": np.asarray(rng.random(shape) * 9).astype(dtype)
        for name, dtype in dtypes.items()
        for i, shape in enumerate(shapes)
    }


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_round_trip_of_every_dtype(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    given = arrays()
    save({k: ds.asarray(v) for k, v in given.items()}, path, metadata={"made": "für uns"})
    found = load(path)
    assert found.keys() == given.keys()
    for name, array in given.items():
        assert same(found[name].numpy(), array), name
    assert load_metadata(path) == {"made": "für uns"}
    assert os.listdir(tmp_path) == ["all.safetensors"]


def test_the_safetensors_package_reads_ours(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "ours.safetensors"
    given = {k: v for k, v in arrays().items() if not k.startswith("bfloat16")}
    save(given, path)
    found = safetensors.load_file(path)
    assert found.keys() == given.keys()
    for name, array in given.items():
        assert same(found[name], array), name


def test_the_safetensors_package_checks_our_bfloat16(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    path = tmp_path / "ours.safetensors"
    save({"x": np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)}, path, {"a": "b"})
    ((name, fields),) = safetensors.deserialize(path.read_bytes())
    assert (name, fields["dtype"], fields["shape"]) == ("x", "BF16", [2, 3])
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"a": "b"}


def test_we_read_theirs(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "theirs.safetensors"
    given = {k: np.array(v) for k, v in arrays().items() if not k.startswith("bfloat16")}
    safetensors.save_file(given, path, metadata={"format": "np"})
    found = load(path)
    assert found.keys() == given.keys()
    for name, array in given.items():
        assert same(found[name].numpy(), array), name


def test_a_loaded_tensor_does_not_depend_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save({"x": np.ones(5, np.float32)}, path)
    x = load(path)["x"]
    save({"x": np.zeros(5, np.float32)}, path)
    assert x.numpy().tolist() == [1.0] * 5


def write(path: Path, header: object, data: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def entry(begin: int, end: int, **changes: object) -> dict[str, object]:
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]} | changes


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "it has 0 bytes"),
    "length": (lambda p: write(p, {}, length=10**9), "header is said to have 1000000000 bytes"),
    "utf8": (lambda p: write(p, b'{"\xff": 1}'), "header is not JSON"),
    "json": (lambda p: write(p, b'{"a": '), "header is not JSON"),
    "list": (lambda p: write(p, []), "header is not a JSON object"),
    "twice": (lambda p: write(p, b'{"a": 1, "a": 2}'), "a name appears twice"),
    "deep": (lambda p: write(p, b"[" * 100_000), "header is not JSON"),
    "fields": (lambda p: write(p, {"a": {"dtype": "U8"}}), "'a' lacks dtype, shape or data_offs"),
    "dtype": (lambda p: write(p, {"a": entry(0, 1, dtype="F8")}, b"1"), "has dtype 'F8'; known"),
    "dtype2": (lambda p: write(p, {"a": entry(0, 1, dtype=[])}, b"1"), "has dtype []"),
    "shape": (lambda p: write(p, {"a": entry(0, 1, shape=[-1])}, b"1"), "'a' has shape [-1]"),
    "shape2": (lambda p: write(p, {"a": entry(0, 1, shape=[True])}, b"1"), "'a' has shape [True]"),
    "offsets": (lambda p: write(p, {"a": entry(0, 1, data_offsets=[1, 0])}, b"1"), "data_offsets"),
    "offsets2": (lambda p: write(p, {"a": entry(0, 1, data_offsets=[0])}, b"1"), "data_offsets"),
    "size": (lambda p: write(p, {"a": entry(0, 3, shape=[2])}, b"123"), "uint8[2] takes 2"),
    "overlap": (
        lambda p: write(p, {"a": entry(0, 2), "b": entry(1, 3)}, b"123"),
        "'b' at bytes 1:3 overlaps",
    ),
    "gap": (lambda p: write(p, {"a": entry(0, 1), "b": entry(2, 3)}, b"123"), "2:3 leaves a gap"),
    "truncated": (lambda p: write(p, {"a": entry(0, 9)}, b"12"), "it is truncated"),
    "longer": (lambda p: write(p, {"a": entry(0, 1)}, b"12"), "goes on after its last tensor"),
    "bool": (lambda p: write(p, {"a": entry(0, 1, dtype="BOOL")}, b"2"), "other than 0 and 1"),
    "metadata": (lambda p: write(p, {"__metadata__": {"a": 1}}), "not a map of strings"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named(name: str, tmp_path: Path) -> None:
    damage, message = DAMAGED[name]
    path = tmp_path / "weights.safetensors"
    damage(path)
    with pytest.raises(FormatError) as error:
        load(path)
    assert message in str(error.value)
    assert "weights.safetensors" in str(error.value)


def test_every_truncation_and_no_bit_flip_of_the_length_goes_through(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save({"a": np.arange(3, dtype=np.int16), "b": np.ones((2, 2), np.float32)}, path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError):
            load(path)
    for bit in range(64):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(FormatError):
            load(path)


def test_a_failure_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    save({"x": np.ones(3, np.float32)}, path)

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save({"x": np.zeros(3, np.float32)}, path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["x.safetensors"]
    assert load(path)["x"].numpy().tolist() == [1.0] * 3


def test_what_cannot_be_saved_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(ArgumentError, match="wanted a module or a mapping"):
        save([1, 2], path)
    with pytest.raises(ArgumentError, match="'lr': float"):
        save({"lr": 0.1}, path)
    with pytest.raises(ArgumentError, match="metadata is"):
        save({}, path, metadata={"epoch": 3})
    assert not path.exists()


def test_damaged_weights_change_nothing_in_a_model(tmp_path: Path) -> None:
    model = ds.nn.Linear(3, 2)
    before = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    path = tmp_path / "model.safetensors"
    save(model, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError):
        model.load_state_dict(load(path))
    for key, value in model.state_dict().items():
        assert np.array_equal(value.numpy(), before[key])


def test_a_model_is_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model, other = ds.nn.Linear(3, 2), ds.nn.Linear(3, 2)
    save(model, path)
    other.load_state_dict(load(path))
    x = ds.randn(4, 3)
    assert np.array_equal(model(x).numpy(), other(x).numpy())
