"""Matrix products and what is made of them; linear algebra."""

from __future__ import annotations

from typing import Any

import deepseek as ds
from adapt import Entry, same, via


def scaled(x: Any, product: Any, beta: float, alpha: float) -> Any:
    """beta * x + alpha * product; PyTorch does not read x where beta is 0."""
    product = product if alpha == 1 else ds.multiply(product, alpha)
    if beta == 0:
        return ds.broadcast_to(product, ds.broadcast_arrays(x, product)[0].shape)
    return ds.add(x if beta == 1 else ds.multiply(x, beta), product)


ENTRIES: dict[str, Entry] = {
    "mm": same("matmul"),
    "bmm": same("matmul"),
    "mv": same("matmul"),
    "dot": same("matmul"),
    "vdot": same("matmul"),
    "matmul": same("matmul"),
    "addmm": via("matmul add", lambda x, a, b, beta=1, alpha=1: scaled(
        x, ds.matmul(a, b), beta, alpha)),
    "addmv": via("matmul add", lambda x, a, b, beta=1, alpha=1: scaled(
        x, ds.matmul(a, b), beta, alpha)),
    "baddbmm": via("matmul add", lambda x, a, b, beta=1, alpha=1: scaled(
        x, ds.matmul(a, b), beta, alpha)),
    "addbmm": via("matmul sum add", lambda x, a, b, beta=1, alpha=1: scaled(
        x, ds.sum(ds.matmul(a, b), axis=0), beta, alpha)),
    "addr": via("outer add", lambda x, a, b, beta=1, alpha=1: scaled(
        x, ds.outer(a, b), beta, alpha)),
    "linalg.inv": same("inv"),
    "linalg.solve": same("solve"),
}
