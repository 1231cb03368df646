"""`progress`: how far a loop is, with columns such as the loss.

On a terminal it is tqdm's bar if tqdm is installed; else, and where it is asked for without a
terminal, a line now and then. It is quiet otherwise. A column may be a tensor: it is looked at when
it is shown, not in every step.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, Generic, TextIO, TypeVar

from deepseek.frontend.tensor import Tensor

T = TypeVar("T")
SECONDS = 5.0  # between two lines
FORMAT = "{desc}{percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt} {elapsed}<{remaining} {rate_fmt}"


def progress(
    iterable: Iterable[T] | None = None,
    desc: str = "",
    total: int | None = None,
    *,
    unit: str = "it",
    show: bool | None = None,
    file: TextIO | None = None,
    every: float = SECONDS,
) -> Progress[T]:
    """Iterate and say how far it is; names and order of arguments are tqdm's.

    `show` says whether to, by default whether `file` (stderr) is a terminal. `every` is the number
    of seconds between lines where there is no bar.

    >>> import sys
    >>> bar = ds.progress([0.5, 0.25], "train", show=True, file=sys.stdout, every=1e9)
    >>> for loss in bar:
    ...     bar.set_postfix(loss=loss)  # doctest: +ELLIPSIS
    train: 2/2, ... it/s, loss 0.25
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    file = sys.stderr if file is None else file
    terminal = getattr(file, "isatty", bool)()
    if not (terminal if show is None else show):
        return Progress(iterable, desc, total)
    if terminal:
        bar = terminal_bar(desc, total, unit, file)
        if bar is not None:
            return Bar(iterable, desc, total, bar)
    return Lines(iterable, desc, total, unit, file, every)


class Progress(Generic[T]):
    """A loop's progress; this base shows nothing."""

    def __init__(self, iterable: Iterable[T] | None, desc: str, total: int | None) -> None:
        self.iterable = iterable
        self.desc = desc
        self.total = total
        self.n = 0
        self.columns: dict[str, Any] = {}

    def __iter__(self) -> Iterator[T]:
        with self:
            for item in self.iterable or ():
                yield item
                self.update()

    def __len__(self) -> int:
        if self.total is None:
            raise TypeError("progress: the length of what is iterated over is not known")
        return self.total

    def __enter__(self) -> Progress[T]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def update(self, n: int = 1) -> None:
        """So many more are done."""
        self.n += n

    def set_description(self, desc: str) -> None:
        """What is going on."""
        self.desc = desc

    def set_postfix(self, **columns: Any) -> None:
        """Numbers, tensors of one element and texts to show."""
        self.columns.update(columns)

    def write(self, text: str) -> None:
        """Print a line without disturbing the bar."""

    def close(self) -> None:
        """Show the last state."""

    def shown(self) -> str:
        """The columns as text."""
        return ", ".join(f"{name} {column(value)}" for name, value in self.columns.items())


class Lines(Progress[T]):
    """A line now and then, and one at the end."""

    def __init__(
        self, iterable: Iterable[T] | None, desc: str, total: int | None, unit: str, file: TextIO,
        every: float,
    ) -> None:  # fmt: skip
        super().__init__(iterable, desc, total)
        self.unit = unit
        self.file = file
        self.every = every
        self.begun = self.last = time.monotonic()
        self.open = True

    def update(self, n: int = 1) -> None:
        super().update(n)
        if time.monotonic() - self.last >= self.every:
            self._line()

    def write(self, text: str) -> None:
        print(text, file=self.file, flush=True)

    def close(self) -> None:
        if self.open:
            self.open = False
            self._line()

    def _line(self) -> None:
        self.last = time.monotonic()
        rate = self.n / max(self.last - self.begun, 1e-9)
        done = f"{self.n}" if self.total is None else f"{self.n}/{self.total}"
        parts = [f"{self.desc}: {done}" if self.desc else done, f"{rate:.4g} {self.unit}/s"]
        if self.total is not None and 0 < self.n < self.total:
            parts.append(f"{(self.total - self.n) / rate:.0f} s left")
        self.write(", ".join([*parts, *([self.shown()] if self.columns else [])]))


class Bar(Progress[T]):
    """tqdm's bar."""

    def __init__(
        self, iterable: Iterable[T] | None, desc: str, total: int | None, bar: Any
    ) -> None:
        super().__init__(iterable, desc, total)
        self.bar = bar
        bar.text = self.shown

    def update(self, n: int = 1) -> None:
        super().update(n)
        self.bar.update(n)

    def set_description(self, desc: str) -> None:
        super().set_description(desc)
        self.bar.set_description(desc, refresh=False)

    def write(self, text: str) -> None:
        self.bar.write(text, file=self.bar.fp)

    def close(self) -> None:
        self.bar.close()


def terminal_bar(desc: str, total: int | None, unit: str, file: TextIO) -> Any:
    """A bar of tqdm's with our columns, None where tqdm is not installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return None

    class Columns(tqdm):  # type: ignore[misc]
        # No thread that redraws: it would look at tensors while the program computes them.
        monitor_interval = 0
        text: Any = staticmethod(str)

        @property
        def format_dict(self) -> dict[str, Any]:
            return {**super().format_dict, "postfix": self.text()}

    bar_format = None if total is None else FORMAT + "{postfix}"
    return Columns(desc=desc, total=total, unit=unit, file=file, bar_format=bar_format)


def column(value: Any) -> str:
    """A value as it is shown."""
    if isinstance(value, Tensor):
        value = value.item()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
