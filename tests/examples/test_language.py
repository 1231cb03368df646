"""The language model on a slice of text: it learns, and the cache changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

import deepseek as ds


def test_it_learns(example: Callable[[str], ModuleType]) -> None:
    language = example("language")
    text, held = language.read_library(60_000)
    assert len(text) > 50_000 and len(held) > 100 and text.dtype == np.uint8
    ds.manual_seed(0)
    model = language.Language(language.Shape(32, 2, 1, 32))
    before = ds.counters.programs
    bits = language.train(model, text, held, steps=40, batch=4)
    assert bits < 6.5  # of 8 for text without any order
    assert ds.counters.programs - before <= 6


def test_the_cache_changes_nothing(example: Callable[[str], ModuleType]) -> None:
    language = example("language")
    ds.manual_seed(0)
    model = language.Language(language.Shape(16, 2, 2, 12)).eval()
    text = ds.asarray(np.arange(40, 50).reshape(1, -1))
    extend = ds.jit(model.extend)
    cache = model.empty_cache()
    with ds.no_grad():
        whole = model(text).numpy()
        before = ds.counters.traces
        for at in range(10):
            logits = extend(text[:, at], cache, ds.asarray(at)).numpy()
            np.testing.assert_allclose(logits, whole[:, at], atol=1e-5)
        assert ds.counters.traces - before == 1


def test_writing_is_seeded_and_ends(example: Callable[[str], ModuleType]) -> None:
    language = example("language")
    model = language.Language(language.Shape(16, 2, 1, 12)).eval()
    first, speed = language.write(model, b"def ", 100, 1.0)
    again, _ = language.write(model, b"def ", 100, 1.0)
    other, _ = language.write(model, b"def ", 100, 1.0, seed=1)
    assert first == again != other
    assert first.startswith(b"def ") and len(first) == 12 and speed > 0


def test_options(example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    language = example("language")
    monkeypatch.setattr("sys.argv", ["language.py", "--steps", "many"])
    with pytest.raises(SystemExit):
        language.main()
