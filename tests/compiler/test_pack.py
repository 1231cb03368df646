"""Cache entries in one file: carried to other folders, read in place, refused when cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import deepseek as ds
from deepseek import cli
from deepseek.compiler import caches, store, tiers
from deepseek.compiler.pack import COUNT, MAGIC, Pack, write_pack
from deepseek.config import override
from deepseek.errors import FormatError


@pytest.fixture
def fresh() -> Iterator[None]:
    """A process that remembers nothing, before each use of `compiled`."""
    yield
    forget()


def forget() -> None:
    caches.forget()
    for memory in (tiers._met, tiers._plans, tiers._ops):
        memory.clear()


def compiled(folder: Path, seed: bool = False) -> tuple[list[float], int]:
    """What a program gives with a cache folder, and how many Programs were made for it."""
    forget()
    before = ds.counters.programs
    with override(cache=folder, seed=seed):
        x = ds.asarray([1.0, 2.0, 3.0])
        found = ((x * 3).exp() / x).numpy().tolist()
    return found, ds.counters.programs - before


@pytest.mark.usefixtures("fresh")
def test_a_pack_fills_another_folder(tmp_path: Path) -> None:
    wanted, made = compiled(tmp_path / "one")
    assert made > 0
    with override(cache=tmp_path / "one"):
        count = ds.cache.pack(tmp_path / "all")
    with override(cache=tmp_path / "other"):
        assert ds.cache.add(tmp_path / "all") == count > 0
        assert ds.cache.add(tmp_path / "all") == 0
    assert compiled(tmp_path / "other") == (wanted, 0)


@pytest.mark.usefixtures("fresh")
def test_levels_lie_side_by_side(tmp_path: Path) -> None:
    for level in ("v2", "v3"):
        with override(cpu_level=level):
            assert compiled(tmp_path / "one")[1] > 0
    with override(cache=tmp_path / "one"):
        ds.cache.pack(tmp_path / "all")
    with override(cache=tmp_path / "other"):
        ds.cache.add(tmp_path / "all")
    for level in ("v2", "v3"):
        with override(cpu_level=level):
            assert compiled(tmp_path / "other")[1] == 0


@pytest.mark.usefixtures("fresh")
def test_the_seed_serves_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, made = compiled(tmp_path / "one")
    with override(cache=tmp_path / "one"):
        ds.cache.pack(tmp_path / "seed.pack", ["programs"])
    monkeypatch.setattr(store, "SEED", tmp_path / "seed.pack")
    store.seed.cache_clear()
    try:
        assert compiled(tmp_path / "empty", seed=True) == (wanted, 0)
        assert compiled(tmp_path / "empty", seed=False) == (wanted, made)
    finally:
        store.seed.cache_clear()


def test_entries_are_found_by_kind_and_key(tmp_path: Path) -> None:
    kinds = ("programs", "kernels")
    entries = [(kind, f"{n:064x}", bytes([n])) for n in range(40) for kind in kinds]
    assert write_pack(tmp_path / "p", reversed(entries)) == 80
    pack = Pack(tmp_path / "p")
    assert sorted(pack) == sorted(entries)
    for kind, key, data in entries:
        assert pack.get(kind, key) == data
    assert pack.get("kernels", f"{99:064x}") is None
    assert write_pack(tmp_path / "p", []) == 0
    assert list(Pack(tmp_path / "p")) == []


def test_what_is_no_pack_is_refused(tmp_path: Path) -> None:
    write_pack(tmp_path / "p", [("kernels", f"{n:064x}", b"data") for n in range(3)])
    whole = (tmp_path / "p").read_bytes()
    for damaged in (b"", whole[:20], whole[:60], whole[:-1], whole + b"x", b"x" + whole[1:]):
        (tmp_path / "p").write_bytes(damaged)
        with pytest.raises(FormatError, match=r"p is (not a pack|cut)"):
            Pack(tmp_path / "p")


def test_a_damaged_entry_is_not_added(tmp_path: Path) -> None:
    write_pack(tmp_path / "p", [("kernels", "0" * 64, b"not an entry")])
    with override(cache=tmp_path / "cache"):
        assert ds.cache.add(tmp_path / "p") == 0


def test_an_entry_of_no_kind_is_an_error(tmp_path: Path) -> None:
    write_pack(tmp_path / "p", [("kernels", "0" * 64, b"an entry")])
    data = bytearray((tmp_path / "p").read_bytes())
    data[len(MAGIC) + COUNT.size] = 99
    (tmp_path / "p").write_bytes(data)
    with override(cache=tmp_path / "cache"), pytest.raises(FormatError, match="of no kind"):
        ds.cache.add(tmp_path / "p")


@pytest.mark.usefixtures("fresh")
def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compiled(tmp_path / "one")
    file = str(tmp_path / "all")
    with override(cache=tmp_path / "one"):
        assert cli.main(["cache", "pack", file]) == 0
    assert f"entries written to {file}" in capsys.readouterr().out
    with override(cache=tmp_path / "other"):
        assert cli.main(["cache", "add", file]) == 0
        assert f"entries added from {file}" in capsys.readouterr().out
        assert cli.main(["cache", "add", f"{file}-not"]) == 1
    assert "No such file" in capsys.readouterr().err


def test_a_damaged_seed_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "seed.pack").write_bytes(b"x" * 100)
    monkeypatch.setattr(store, "SEED", tmp_path / "seed.pack")
    store.seed.cache_clear()
    try:
        assert store.seed() is None
    finally:
        store.seed.cache_clear()
    assert "the seed is not used" in caplog.text
