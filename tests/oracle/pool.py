"""Workers side by side; a crash or a hang costs the sample that caused it and nothing else.

Results are kept in a file for each subject, so that an unfinished run can be resumed.
"""

from __future__ import annotations

import fnmatch
import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import subjects

HERE = Path(__file__).resolve().parent
Results = dict[str, list[dict[str, Any]]]


def chosen(patterns: str) -> list[str]:
    """The subjects that are mapped and match; all where no pattern is given."""
    names = subjects.mapped_subjects()
    wanted = [p.strip() for p in patterns.split(",") if p.strip()]
    if not wanted:
        return names
    return [n for n in names if any(matched(n, p) for p in wanted)]


def matched(subject: str, pattern: str) -> bool:
    name = subject.split(":", 1)[1]
    return any(
        fnmatch.fnmatchcase(text, pattern)
        for text in (subject, name, name.removeprefix("nn.functional."), name.split(".")[0])
    )


def run(subjects: list[str], given: Any) -> Results:
    """The results of all subjects, in their order."""
    given.out.mkdir(parents=True, exist_ok=True)
    results: Results = {}
    waiting: queue.Queue[str] = queue.Queue()
    for subject in subjects:
        kept = file_of(given.out, subject)
        if given.resume and kept.exists():
            results[subject] = json.loads(kept.read_text())
        else:
            waiting.put(subject)
    total, began = len(subjects), time.monotonic()

    def work() -> None:
        worker = Worker(given.limit)
        while True:
            try:
                subject = waiting.get_nowait()
            except queue.Empty:
                break
            results[subject] = worker.run(subject, given.samples)
            file_of(given.out, subject).write_text(json.dumps(results[subject]))
            if sys.stderr.isatty():
                print(f"\r{len(results)}/{total} {subject:60.60}", end="", file=sys.stderr)
        worker.stop()

    threads = [threading.Thread(target=work) for _ in range(max(1, given.jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{total} subjects in {time.monotonic() - began:.0f} s", file=sys.stderr)
    return {s: results[s] for s in subjects if s in results}


def file_of(out: Path, subject: str) -> Path:
    return out / (subject.replace(":", "-").replace("/", "-") + ".json")


class Worker:
    """One process that is started again when it dies."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.process: subprocess.Popen[bytes] | None = None
        self.buffer = b""

    def start(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            environment = {**os.environ, "DS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(
                [sys.executable, str(HERE), "--worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            self.buffer = b""
        return self.process

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def run(self, subject: str, samples: int) -> list[dict[str, Any]]:
        """The results of one subject; after a crash it goes on behind the sample."""
        found: list[dict[str, Any]] = []
        start = 0
        while True:
            process = self.start()
            assert process.stdin is not None
            request = {"subject": subject, "samples": samples, "start": start}
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            begun: dict[str, Any] = {"number": start + 1, "sample": "(before the first sample)"}
            while True:
                line = self.line(process)
                if line is None:
                    how = "hangs" if process.poll() is None else f"crash ({process.poll()})"
                    self.stop()
                    found.append({"kind": "crash", "sample": begun["sample"], "why": how})
                    start = begun["number"]
                    break
                if line["kind"] == "begin":
                    begun = line
                    continue
                found.append(line)
                if line["kind"] == "end":
                    return found
            if sum(r["kind"] == "crash" for r in found) > 5:
                return found

    def line(self, process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
        """The next line; None where the process died or took too long."""
        assert process.stdout is not None
        until = time.monotonic() + self.limit
        while b"\n" not in self.buffer:
            left = until - time.monotonic()
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, left))
            if not ready:
                return None
            more = os.read(process.stdout.fileno(), 1 << 16)
            if not more:
                process.wait()
                return None
            self.buffer += more
        text, self.buffer = self.buffer.split(b"\n", 1)
        found: dict[str, Any] = json.loads(text)
        return found
