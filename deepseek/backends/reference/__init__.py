"""The reference backend: graphs as recorded, op by op, in NumPy. Slow and right by definition."""

from __future__ import annotations

from deepseek.backends import Backend


class Reference(Backend):
    """Interprets graphs."""

    name = "reference"
    interprets = True


BACKEND = Reference()
