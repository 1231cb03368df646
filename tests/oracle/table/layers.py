"""nn.functional: activations, losses, convolutions, poolings, normalisations, attention."""

from __future__ import annotations

from typing import Any

import deepseek as ds
from adapt import Entry, same, via

F = ds.nn.functional

ENTRIES: dict[str, Entry] = {
    "softmax": same("softmax"),
    "softmax.with_dtype": same("softmax"),
    "log_softmax": same("log_softmax"),
    "log_softmax.with_dtype": same("log_softmax"),
}
