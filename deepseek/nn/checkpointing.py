"""CheckpointModule: a layer whose inner values are computed again for its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deepseek.errors import ArgumentError
from deepseek.nn.module import Module
from deepseek.recompute import checkpoint

__all__ = ["CheckpointModule"]


class CheckpointModule(Module):
    """What `module` computes, with none of its inner values kept for backward: `ds.checkpoint`.

    The wrapped module is the attribute `module`. Names of parameters and the keys of `state_dict`
    are those it has without the wrapper, so that states of either fit the other. Raises
    ArgumentError unless it gets a Module.

    >>> layer = ds.nn.CheckpointModule(ds.nn.Sequential(ds.nn.Linear(4, 8), ds.nn.GELU()))
    >>> layer(ds.ones((2, 4))).sum().backward()
    >>> print([name for name, _ in layer.named_parameters()])
    ['0.weight', '0.bias']
    """

    def __init__(self, module: Module) -> None:
        super().__init__()
        if not isinstance(module, Module):
            raise ArgumentError(
                f"CheckpointModule: got a {type(module).__name__}; wanted a Module\n"
                "  help: write ds.checkpoint(function)(x) for a plain function"
            )
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return checkpoint(self.module)(*args, **kwargs)

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module, and what it wraps under the same name."""
        memo = set() if memo is None else memo
        if self not in memo:
            if remove_duplicate:
                memo.add(self)
            yield prefix, self
            yield from self.module.named_modules(memo, prefix, remove_duplicate)
