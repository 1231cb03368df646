"""The table of names: what each op of PyTorch's database is in deepseek, or why it is not there.

A name that stands in no file of this folder is looked up in deepseek as it is.
"""

from __future__ import annotations

from typing import Any

from adapt import Entry

from table import (
    arithmetic,
    created,
    groups,
    indexing,
    layers,
    masked,
    products,
    reductions,
    views,
)

# Layers and optimizers have PyTorch's names; a text is the reason why one is not there.
MODULES: dict[str, Any] = {}
OPTIMIZERS: dict[str, str] = {"SparseAdam": "sparse gradients: deepseek's are dense"}

TABLE: dict[str, Entry] = {}
for _part in (groups, arithmetic, reductions, masked, views, indexing, products, layers, created):
    TABLE.update(_part.ENTRIES)

# PyTorch's errors that say nothing about ours: what the call asks for is not wrong here.
ERRORS = {
    "^$": "an op on numbers alone gives a tensor without dims",
    "exceeds the maximum|only tensors with up to 64 dims": "no limit of 64 dims",
    "unsupported operation": "shared memory: deepseek's tensors are values",
    "RNN input dtype|both floats or both Tensors": "types promote",
    "optional 0 dim batch size|non-batch dimensions to have positive": (
        "windows of an empty tensor are an empty one"
    ),
    "must have the same number of dimensions": "broadcasts",
    "number of categories cannot exceed": "no limit of 2**24 categories",
    "expects Long tensor out": "`out` is not taken",
    "expected scalar type": "types promote",
    "should be of type bool": "what is true counts as True",
    "(type|bias type|bias) .*should be the same|^should be the same": "types promote",
    "(same|different) device": "deepseek has one device",
    "complex": "complex numbers",
}

# Errors of ours on samples that PyTorch takes: where we differ on purpose.
DIFFERENT = {
    "since the tensor has none": "a dim of a tensor that has none, which PyTorch lets pass",
}

OPTIMIZER_ERRORS = {
    "should be an iterable of Tensors": "a parameter alone is a list of one",
    "with/without names": "some parameters may be named and others not",
}
