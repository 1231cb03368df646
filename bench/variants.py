"""What can be measured: the variants that the files in frameworks/ declare, and their processes.

A file says in VARIANTS, a literal, what it makes and in which environment; it is read without
being imported, since each library is to be in a process of its own.
"""

from __future__ import annotations

import ast
import fnmatch
import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from neutral import Workload

HERE = Path(__file__).resolve().parent
# glibc gives a large block back to the system as soon as it is freed, and the next result of that
# size is page-faulted anew. So tuned, it keeps what it has.
KEEPING = (
    "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736:"
    "glibc.malloc.top_pad=67108864:glibc.malloc.arena_max=1"
)


TUNED = "+malloc"
# Below so many bytes of results an allocator makes no difference.
LARGE_RESULTS = 1 << 20


@dataclass(frozen=True)
class Variant:
    """One column: a framework used in one way."""

    name: str
    label: str
    module: str
    environment: dict[str, str] = field(default_factory=dict)
    peer: bool = True
    allocator: bool = False  # whether it is worth measuring with a tuned allocator too
    keeping: bool = False  # whether this is that
    once: bool = False  # whether it is measured with one thread only

    @property
    def base(self) -> str:
        """The name without what the allocator adds: they share what they compiled."""
        return self.name.removesuffix(TUNED)

    @property
    def caches(self) -> bool:
        """Whether it keeps compiled code on disk."""
        return any("{cache}" in value for value in self.environment.values())

    def suits(self, workload: Workload, threads: int, written: int) -> bool:
        """Whether to measure it on a row whose results have so many bytes."""
        if self.base in workload.without or (self.once and threads > 1):
            return False
        return not self.keeping or (written >= LARGE_RESULTS and workload.cold)

    def tuned(self) -> Variant:
        environment = {**self.environment, "GLIBC_TUNABLES": KEEPING}
        return replace(
            self, name=f"{self.name}{TUNED}", label=f"{self.label}, malloc tuned",
            environment=environment, allocator=False, keeping=True,
        )  # fmt: skip


def declared(path: Path) -> dict[str, dict[str, Any]]:
    """The literal VARIANTS of a file."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "VARIANTS":
            return dict(ast.literal_eval(node.value))
    raise ValueError(f"{path} declares no VARIANTS")


def all_variants() -> list[Variant]:
    """Ours first, then the peers by name, each followed by itself with a tuned allocator."""
    found = []
    for path in sorted((HERE / "frameworks").glob("*.py")):
        for name, said in declared(path).items():
            variant = Variant(name, module=f"frameworks.{path.stem}", **said)
            found.append(variant)
            if variant.allocator:
                found.append(variant.tuned())
    return sorted(found, key=lambda v: v.peer)


def limits() -> Variant:
    return Variant("limits", "limit", "limits", peer=False)


def chosen(patterns: str) -> list[Variant]:
    """Those whose names match one of the patterns, separated by commas; all for none."""
    wanted = [p.strip() for p in patterns.split(",") if p.strip()] or ["*"]
    return [v for v in all_variants() if any(fnmatch.fnmatchcase(v.name, p) for p in wanted)]


class Trouble(Exception):
    """A worker said that it cannot, failed, died or took too long."""


class Unsupported(Trouble):
    """A worker said that its framework cannot do that."""


class Worker:
    """A process with one variant, and a question at a time."""

    def __init__(self, variant: Variant, threads: int, cache: Path, log: Path) -> None:
        self.variant = variant
        cache.mkdir(parents=True, exist_ok=True)
        filled = {
            key: value.format(threads=threads, cache=cache)
            for key, value in variant.environment.items()
        }
        command = [sys.executable, HERE / "worker.py", variant.module, variant.base, str(threads)]
        # Where a script lies is not searched for modules where the environment says so.
        paths = filter(None, (str(HERE), os.environ.get("PYTHONPATH")))  # an empty one is the cwd
        filled["PYTHONPATH"] = os.pathsep.join(paths)
        self.log = log.open("w")
        self.process = subprocess.Popen(
            command, env={**os.environ, **filled}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.log, text=True, bufsize=1,
        )  # fmt: skip

    def ask(self, do: str, limit: float, **arguments: Any) -> dict[str, Any]:
        """Raises Trouble."""
        self.tell(do, **arguments)
        return self.answer(limit)

    def tell(self, do: str, **arguments: Any) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        except BrokenPipeError as error:
            raise Trouble(f"died: {self.last_words()}") from error

    def answer(self, limit: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        end = time.monotonic() + limit
        ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            self.close()
            raise Trouble(f"took more than {limit:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise Trouble(f"died: {self.last_words()}")
        said: dict[str, Any] = json.loads(line)
        if "unsupported" in said:
            raise Unsupported(said["unsupported"])
        if "failed" in said:
            raise Trouble(said["failed"].strip().splitlines()[-1])
        return said

    def last_words(self) -> str:
        self.process.wait()
        said = Path(self.log.name).read_text().strip().splitlines()
        return said[-1] if said else f"exit status {self.process.returncode}"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            if stream is not None:
                stream.close()
