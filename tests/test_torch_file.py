"""Files of PyTorch's `torch.save`: archives and pickles put together here, opcode by opcode."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import deepseek as ds
from deepseek import torch_file
from deepseek.errors import FormatError
from deepseek.serialize import load, save

# ------------------------------------------------------------------- an assembler for pickles


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def number(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


def name(path: str) -> bytes:
    module, _, attribute = path.rpartition(".")
    return b"c" + f"{module}\n{attribute}\n".encode()


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def ints(*values: int) -> bytes:
    return tuple_of(*map(integer, values))


def list_of(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def dict_of(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(k) + v for k, v in items.items()) + b"u"


def call(path: str, *arguments: bytes) -> bytes:
    return name(path) + tuple_of(*arguments) + b"R"


def storage(kind: str, key: str, size: int) -> bytes:
    what = name(kind if "." in kind else f"torch.{kind}")
    return tuple_of(text("storage"), what, text(key), text("cpu"), integer(size)) + b"Q"


EMPTY_HOOKS = call("collections.OrderedDict")
FALSE, TRUE, NONE = b"\x89", b"\x88", b"N"


def tensor(
    where: bytes, offset: int, size: tuple[int, ...], stride: tuple[int, ...], grad: bytes = FALSE
) -> bytes:
    return call(
        "torch._utils._rebuild_tensor_v2",
        *(where, integer(offset), ints(*size), ints(*stride), grad, EMPTY_HOOKS),
    )


def archive(
    path: Path,
    program: bytes,
    storages: dict[str, bytes] | None = None,
    byteorder: bytes | None = b"little",
    method: int = zipfile.ZIP_STORED,
    **members: bytes,
) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("weights/data.pkl", b"\x80\x02" + program + b".")
        if byteorder is not None:
            file.writestr("weights/byteorder", byteorder)
        for key, data in (storages or {}).items():
            file.writestr(f"weights/data/{key}", data)
        for member, data in members.items():
            file.writestr(f"weights/{member.replace('_', '.')}", data)
        file.writestr("weights/version", b"3\n")
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"  # the name says nothing


def read(path: Path, program: bytes, storages: dict[str, bytes] | None = None, **more: Any) -> Any:
    return load(archive(path, program, storages, **more))


# -------------------------------------------------------------------------------------- tensors

KINDS = {
    "BoolStorage": "bool", "ByteStorage": "uint8", "CharStorage": "int8", "ShortStorage": "int16",
    "IntStorage": "int32", "LongStorage": "int64", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "FloatStorage": "float32", "DoubleStorage": "float64",
}  # fmt: skip


def array_of(dtype: str, count: int = 12) -> np.ndarray:
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    values = np.arange(count) % 2 if dtype == "bool" else np.arange(count)
    return (values / 2 if "float" in dtype else values).astype(kind)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("byteorder", [None, b"little", b"big"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_dtype_and_byte_order(
    path: Path, kind: str, byteorder: bytes | None, method: int
) -> None:
    array = array_of(KINDS[kind])
    stored = array.view(f"u{array.itemsize}")
    data = stored.byteswap().tobytes() if byteorder == b"big" else stored.tobytes()
    program = tensor(storage(kind, "0", 12), 0, (3, 4), (4, 1))
    found = read(path, program, {"0": data}, byteorder=byteorder, method=method)
    assert found.dtype.name == KINDS[kind] and found.shape == (3, 4)
    assert found.numpy().tobytes() == array.tobytes()
    assert not found.requires_grad


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "float32", "bfloat16", "bool"])
@pytest.mark.parametrize("big", [False, True])
def test_storages_without_dtype(path: Path, dtype: str, big: bool) -> None:
    array = array_of(dtype)
    program = call(
        "torch._utils._rebuild_tensor_v3",
        storage("torch.storage.UntypedStorage", "7", array.nbytes),
        *(integer(4), ints(2, 3), ints(1, 2), FALSE, EMPTY_HOOKS, name(f"torch.{dtype}")),
    )
    stored = array.view(f"u{array.itemsize}")
    data = stored.byteswap().tobytes() if big else stored.tobytes()
    found = read(path, program, {"7": data}, byteorder=b"big" if big else b"little")
    expected = array[4:10].reshape(3, 2).T
    assert found.dtype.name == dtype and found.numpy().tobytes() == expected.tobytes()


LAYOUTS = {
    "whole": (0, (3, 4), (4, 1)),
    "offset": (5, (3,), (1,)),
    "transposed": (0, (4, 3), (1, 4)),
    "step": (1, (2, 2), (4, 2)),
    "column": (3, (3,), (4,)),
    "expanded": (2, (3, 5), (0, 0)),
    "overlapping": (0, (9, 4), (1, 1)),
    "scalar": (11, (), ()),
    "empty": (0, (0, 3), (3, 1)),
    "empty at the end": (12, (2, 0), (1, 1)),
    "ones": (11, (1, 1), (100, 100)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["FloatStorage", "BFloat16Storage", "CharStorage"])
def test_offsets_and_strides(path: Path, kind: str, layout: str) -> None:
    array = array_of(KINDS[kind])
    offset, size, stride = LAYOUTS[layout]
    program = tensor(storage(kind, "a", 12), offset, size, stride)
    found = read(path, program, {"a": array.tobytes()}).numpy()
    assert found.shape == size and found.dtype == array.dtype
    for place in np.ndindex(size):
        at = offset + sum(i * s for i, s in zip(place, stride, strict=True))
        assert found[place] == array[at]


def test_tensors_that_share_a_storage(path: Path) -> None:
    shared = storage("FloatStorage", "0", 12)
    program = dict_of(
        a=tensor(shared, 0, (12,), (1,)), b=tensor(shared, 0, (12,), (1,)),
        c=tensor(shared, 6, (2, 3), (3, 1)),
    )  # fmt: skip
    found = read(path, program, {"0": np.arange(12, dtype=np.float32).tobytes()})
    assert found["a"].tolist() == found["b"].tolist() == list(range(12))
    assert found["c"].tolist() == [[6, 7, 8], [9, 10, 11]]
    found["a"][0] = 99  # tensors are values: another one does not see it
    assert found["b"].tolist() == list(range(12))


def test_gradients_and_parameters(path: Path) -> None:
    one = tensor(storage("FloatStorage", "0", 1), 0, (1,), (1,), TRUE)
    plain = tensor(storage("FloatStorage", "0", 1), 0, (1,), (1,))
    whole = tensor(storage("LongStorage", "1", 1), 0, (1,), (1,), TRUE)
    program = list_of(
        one,
        call("torch._utils._rebuild_parameter", plain, TRUE, EMPTY_HOOKS),
        call("torch._utils._rebuild_parameter", plain, FALSE, EMPTY_HOOKS),
        call("torch._utils._rebuild_parameter_with_state", plain, TRUE, EMPTY_HOOKS, dict_of()),
        whole,
        call(
            "torch._tensor._rebuild_from_type_v2",
            name("torch._utils._rebuild_tensor_v2"), name("torch.Tensor"),
            tuple_of(storage("FloatStorage", "0", 1), integer(0), ints(1), ints(1), FALSE,
                     EMPTY_HOOKS),
            dict_of(note=text("hi")),
        ),
    )  # fmt: skip
    found = read(path, program, {"0": b"\0\0\0\0", "1": bytes(8)})
    assert [t.requires_grad for t in found] == [True, True, False, True, False, False]


def test_a_state_dict_loads_into_a_model(path: Path) -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    pairs = list_of(
        tuple_of(text("weight"), tensor(storage("FloatStorage", "0", 6), 0, (2, 3), (3, 1))),
        tuple_of(text("bias"), tensor(storage("FloatStorage", "1", 2), 0, (2,), (1,))),
    )
    attributes = dict_of(_metadata=call("collections.OrderedDict"))
    program = call("collections.OrderedDict", pairs) + attributes + b"b"
    found = read(path, program, {"0": weight.tobytes(), "1": bytes(8)})
    assert type(found) is OrderedDict and found._metadata == {}
    model = ds.nn.Linear(3, 2)
    model.load_state_dict(found)
    assert np.array_equal(model.weight.numpy(), weight)


# ------------------------------------------------------------------------------------ other data


def test_nested_data(path: Path) -> None:
    program = dict_of(
        epoch=integer(3), negative=integer(-70000), big=integer(2**80), lr=number(1e-3),
        flags=list_of(TRUE, FALSE, NONE), name=text("ünï"), empty=b"(t",
        nested=dict_of(t=tuple_of(integer(1), dict_of())), size=call("torch.Size", ints(2, 3)),
        dtype=name("torch.bfloat16"), device=call("torch.device", text("cuda"), integer(0)),
        bytes=call("_codecs.encode", text("\x00\xff"), text("latin1")),
        none=call("__builtin__.bytes"), set=call("__builtin__.set", list_of(integer(1))),
        count=call("collections.Counter", dict_of(a=integer(2))),
        array=call("__builtin__.bytearray", text("\x01"), text("latin-1")),
    )  # fmt: skip
    assert read(path, program) == {
        "epoch": 3, "negative": -70000, "big": 2**80, "lr": 1e-3, "flags": [True, False, None],
        "name": "ünï", "empty": (), "nested": {"t": (1, {})}, "size": (2, 3),
        "dtype": ds.bfloat16, "device": "cuda", "bytes": b"\x00\xff", "none": b"", "set": {1},
        "count": Counter("aa"), "array": bytearray(b"\x01"),
    }  # fmt: skip


DATA = {
    "a": [1, -1, 255, 256, 65535, 65536, -(2**31), 2**31, 2**63, -(2**63) - 1, 10**700],
    ("t", 1): (1,), 2: (1, 2), 3.5: (1, 2, 3), None: (1, 2, 3, 4), True: ["x" * 300, "x" * 70000],
    "bytes": (b"", b"\x00" * 300), "sets": ({1, 2}, frozenset([3]), set()), "deep": [[[[{}]]]],
    "floats": [0.1, -0.0, float("inf")], "ordered": OrderedDict(b=1, a=2),
    "buffer": bytearray(b"x"),
}  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_whatever_python_writes_of_plain_data_is_read(path: Path, protocol: int) -> None:
    shared = [1]
    data = DATA | {"same": [shared, shared]}
    program = pickle.dumps(data, protocol)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", program)
    found = load(path)
    assert found == data and repr(found) == repr(data)
    assert found["same"][0] is found["same"][1]


def test_a_list_that_holds_itself(path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(loop))
    found = load(path)
    assert found[0] is found


# --------------------------------------------------------------------------------------- refusals

RAN: list[str] = []


def run_me(*arguments: Any) -> None:
    RAN.append("ran")


class Evil:
    def __init__(self, reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


EVIL = {
    "posix.system": Evil((os.system, ("true",))),
    "builtins.eval": Evil((eval, ("1",))),
    "builtins.getattr": Evil((getattr, ("a", "b"))),
    "run_me": Evil((run_me, (1,))),
    "builtins.dict": Evil((dict, ())),
    "collections.defaultdict": __import__("collections").defaultdict(list),
    "numpy": np.ones(2),
    "builtins.complex": 1j,
    "builtins.x?range": range(3),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("what", EVIL)
def test_every_other_global_is_refused_and_named(path: Path, what: str, protocol: int) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"a": [EVIL[what]]}, protocol))
    with pytest.raises(FormatError, match="names the global '.*" + what) as error:
        load(path)
    assert "weights.safetensors" in str(error.value) and "state_dict" in str(error.value)
    assert not RAN


ODD: dict[str, tuple[bytes, str]] = {
    "opcode": (b"i__builtin__\nexit\n", "opcode b'i' at byte 2"),
    "instance": (b"(o", "opcode b'o'"),
    "text id": (b"Pstorage\n", "opcode b'P'"),
    "extension": (b"\x82\x01", r"opcode b'\\x82'"),
    "next buffer": (b"\x97", r"opcode b'\\x97'"),
    "attributes": (dict_of() + dict_of(a=NONE) + b"b", "gives a dict attributes"),
    "other attributes": (EMPTY_HOOKS + dict_of(a=NONE) + b"b", "gives a OrderedDict attributes"),
    "call of data": (text("a") + b")R", "something is called that is no global"),
    "arguments": (name("torch.Size") + b"]R", "something is called that is no global"),
    "global as data": (list_of(name("torch.Size")), "torch.Size stands where data is wanted"),
    "global as result": (name("collections.OrderedDict"), "OrderedDict stands where data"),
    "storage as data": (list_of(storage("FloatStorage", "0", 1)), "Storage stands where data"),
    "kind as key": (b"}" + name("torch.FloatStorage") + b"Ns", "StorageType stands where data"),
    "global in a tuple": (name("torch.Size") + b"\x85", "torch.Size stands where data is wanted"),
    "storage in a tuple": (list_of(storage("FloatStorage", "0", 1) + b"\x85"), "Storage stands"),
    "deep tuple as key": (b"})" + b"\x85" * 300000 + b"Ns", "a key has more than 1000 parts"),
    "deep tuple in a set": (b"\x8f()" + b"\x85" * 300000 + b"\x90", "more than 1000 parts"),
    "tuple of many twins as key": (b"})" + b"2\x86" * 99 + b"Ns", "more than 1000 parts"),
    "deep tuple, ordered": (
        call("collections.OrderedDict", list_of(b")" + b"\x85" * 300000 + b"N\x86")),
        "more than 1000 parts",
    ),
    "complex": (storage("ComplexFloatStorage", "0", 1), "'torch.ComplexFloatStorage'"),
    "not a storage": (tuple_of(text("module"), NONE) + b"Q", "that is no storage"),
    "storage's kind": (tuple_of(*[text("storage")] * 4, integer(1)) + b"Q", "not described as"),
    "tensor of nothing": (call("torch._utils._rebuild_tensor_v2"), "TypeError"),
    "tensor of text": (tensor(text("a"), 0, (1,), (1,)), "AttributeError"),
    "bytes of a number": (call("builtins.bytes", integer(9)), "made of what has none"),
    "encoding": (call("_codecs.encode", text("a"), text("zip")), "encoding 'zip'"),
    "append to a tuple": (b"(tNa", "appended to what is no list"),
    "append to what a global gives": (call("builtins.set") + b"Na", "appended to what is no list"),
    "items of a list": (b"]NNs", "items are set of what is no dict"),
    "odd items": (b"}(Nu", "items are set of what is no dict"),
    "unhashable": (b"}]Ns", "unhashable"),
    "no mark": (b"Nt", "a mark is missing"),
    "a mark in a tuple": (b"(\x85", "a mark stands in a tuple"),
    "a mark as data": (b"](a", "stands where data is wanted"),
    "empty stack": (b"", "IndexError"),
    "short stack": (b"N\x86", "the stack is too short"),
    "memo": (b"h\x05", "KeyError"),
    "text": (b"X\x01\0\0\0\xff", "UnicodeDecodeError"),
    "short text": (b"X\xff\xff\xff\x7fa", "it ends early"),
    "negative size": (b"\x8b\xff\xff\xff\xff", "it ends early"),
    "protocol": (b"\x80\x06", "newer than 5"),
    "global's name": (b"NN\x93", "is no text"),
    "line": (b"cos", "ValueError"),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_pickles(path: Path, odd: str) -> None:
    program, message = ODD[odd]
    with pytest.raises(FormatError, match=message):
        read(path, program, {"0": bytes(4)})


WRONG = {
    "beyond": ((1, (3, 4), (4, 1)), "goes beyond its storage '0' of 12 elements"),
    "far": ((0, (2,), (2**62,)), "goes beyond"),
    "negative offset": ((-1, (1,), (1,)), "has strides"),
    "negative stride": ((11, (2,), (-1,)), "has strides"),
    "negative size": ((0, (-1,), (1,)), "has strides"),
    "other rank": ((0, (1, 1), (1,)), "has strides"),
    "too large": ((0, (2**40, 2**40), (0, 0)), "has strides"),
    "many axes": ((0, (1,) * 65, (0,) * 65), "a tensor has 65 axes; at most 64 are read"),
    "too large and empty": ((0, (2**40, 2**40, 0), (0, 0, 0)), "has strides"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_layouts_that_do_not_fit(path: Path, wrong: str) -> None:
    layout, message = WRONG[wrong]
    program = tensor(storage("FloatStorage", "0", 12), *layout)
    with pytest.raises(FormatError, match=message):
        read(path, program, {"0": bytes(48)})


def test_more_than_the_machine_has_is_out_of_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_file, "FREE", 2**50)
    program = tensor(storage("FloatStorage", "0", 1), 0, (2**45,), (0,))
    with pytest.raises(ds.errors.OutOfMemoryError):
        read(path, program, {"0": bytes(4)})


MIB = 1 << 20
TWICE = b"q\x01" + name("builtins.bytearray") + b"q\x020"  # a text, and what copies it
GREEDY = {
    "an expanded tensor": tensor(storage("FloatStorage", "0", 1), 0, (10**9,), (0,)),
    "many views of one storage": list_of(
        *(tensor(storage("ByteStorage", "1", MIB), 1, (MIB - 1,), (1,)) for _ in range(100))
    ),
    "copies of a text": text("x" * MIB) + TWICE + list_of(*[b"h\x02h\x01\x85R"] * 100),
    "copies of a tuple": (
        list_of(*[FALSE] * (MIB // 8)) + b"q\x01" + name("builtins.frozenset") + b"q\x02"
        + list_of(*[b"h\x02h\x01\x85R"] * 600)
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", GREEDY)
def test_files_that_ask_for_far_more_memory_than_they_take(path: Path, what: str) -> None:
    with pytest.raises(FormatError, match="asks for far more memory than it takes on disk"):
        read(path, GREEDY[what], {"0": bytes(4), "1": bytes(MIB)})


def test_a_pickle_that_grows_out_of_a_small_member_is_refused(path: Path) -> None:
    program = b"N0" * (9 << 20) + NONE
    with pytest.raises(FormatError, match=r"data.pkl would grow from \d+ bytes to 18874372"):
        read(path, program, method=zipfile.ZIP_DEFLATED)
    assert read(path, b"N0" * 1000 + NONE, method=zipfile.ZIP_DEFLATED) is None


def test_views_that_take_as_much_as_their_storage_are_read(path: Path) -> None:
    rows = [tensor(storage("ByteStorage", "1", 64), 8 * i, (8,), (1,)) for i in range(8)]
    assert [row.tolist() for row in read(path, list_of(*rows), {"1": bytes(range(64))})] == [
        [*range(8 * i, 8 * i + 8)] for i in range(8)
    ]


def test_damaged_archives(path: Path) -> None:
    good = tensor(storage("FloatStorage", "0", 2), 0, (2,), (1,))
    for storages, message in [
        ({}, "storage '0' is missing"),
        ({"0": bytes(7)}, "storage '0' has 7 bytes; wanted 8"),
        ({"0": bytes(9)}, "storage '0' has 9 bytes; wanted 8"),
    ]:
        with pytest.raises(FormatError, match=message):
            read(path, good, storages)
    flags = tensor(storage("BoolStorage", "0", 2), 0, (2,), (1,))
    with pytest.raises(FormatError, match="of type bool has other than 0 and 1"):
        read(path, flags, {"0": b"\1\2"})
    with pytest.raises(FormatError, match="its byte order is b'middle'"):
        read(path, good, {"0": bytes(8)}, byteorder=b"middle")
    with pytest.raises(FormatError, match="is a TorchScript archive"):
        read(path, good, {"0": bytes(8)}, constants_pkl=b"")
    with pytest.raises(FormatError, match="compressed in an unknown way"):
        read(path, good, {"0": bytes(8)}, method=zipfile.ZIP_BZIP2)
    np.savez(path.with_suffix(".npz"), a=np.ones(2))
    with pytest.raises(FormatError, match="0 members called data.pkl"):
        load(path.with_suffix(".npz"))


def test_every_truncation_and_every_flipped_bit_is_whole_or_an_error(path: Path) -> None:
    values = np.arange(4, dtype=np.float32)
    program = dict_of(a=tensor(storage("FloatStorage", "0", 4), 0, (2, 2), (2, 1)), b=integer(7))
    whole = archive(path, program, {"0": values.tobytes()}).read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError):
            load(path)
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            found = load(path)
        except FormatError:
            continue
        # Bits of no meaning to us: dates, versions, attributes, names of members not read.
        assert found["a"].numpy().tobytes() == values.tobytes() and found["b"] == 7


def test_random_programs_never_do_more_than_fail(path: Path) -> None:
    rng = np.random.default_rng(0)
    pieces = [p for p, _ in ODD.values()] + [bytes([b]) for b in b"(tRubsaeNQ]})0122q\x00h\x00\x81"]
    pieces += [name("collections.OrderedDict"), name("torch.Size"), integer(3), ints(1, 2)]
    results = 0
    for _ in range(1500):
        program = b"".join(pieces[i] for i in rng.integers(0, len(pieces), rng.integers(1, 12)))
        try:
            read(path, program, {"0": bytes(4)})
            results += 1
        except FormatError:
            pass
    assert results  # some of them are whole


def test_other_pickles_are_refused_by_name(tmp_path: Path) -> None:
    legacy = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    for name_, data, message in [
        ("old.pt", legacy, "is in PyTorch's legacy format"),
        ("bare.pkl", pickle.dumps({"a": 1}), "is a bare pickle"),
        ("bare.pt", pickle.dumps(Evil((run_me, ())), 2), "is a bare pickle"),
    ]:
        (tmp_path / name_).write_bytes(data)
        with pytest.raises(FormatError, match=message) as error:
            load(tmp_path / name_)
        assert name_ in str(error.value) and "torch.save writes a zip file" in str(error.value)
    assert not RAN


def test_a_safetensors_file_may_begin_as_a_pickle_does(tmp_path: Path) -> None:
    """The length of its header can have the bytes of a pickle's protocol."""
    path = tmp_path / "model.pt"
    for extra in range(500, 700):
        save({"x": np.ones(2, np.float32)}, path, metadata={"a": "b" * extra})
        assert load(path)["x"].tolist() == [1, 1]
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    else:
        pytest.fail("no header of 0x280 bytes was written")


def test_a_large_file_is_read_in_pieces(path: Path) -> None:
    values = np.arange(3_000_000, dtype=np.float32)
    program = tensor(storage("FloatStorage", "0", values.size), 0, values.shape, (1,))
    found = read(path, program, {"0": values.tobytes()}, method=zipfile.ZIP_DEFLATED)
    assert found.numpy().tobytes() == values.tobytes()
