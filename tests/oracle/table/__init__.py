"""The table of names: what each op of PyTorch's database is in deepseek, or why it is not there.

A name that stands in no file of this folder is looked up in deepseek as it is.
"""

from __future__ import annotations

from adapt import Entry
from table import arithmetic, created, groups, indexing, layers, products, reductions, views

TABLE: dict[str, Entry] = {}
for _part in (groups, arithmetic, reductions, views, indexing, products, layers, created):
    TABLE.update(_part.ENTRIES)

# PyTorch's errors that say nothing about ours: what the call asks for is not wrong here.
ERRORS = {
    "(same|different) device": "deepseek has one device",
    "complex": "complex numbers",
}

# Errors of ours on samples that PyTorch takes: where we differ on purpose.
DIFFERENT = {
    "since the tensor has none": "a dim of a tensor that has none, which PyTorch lets pass",
}
