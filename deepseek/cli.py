"""The command line: `deepseek doctor`, `cache`, `generate`, `docs` and `seed`.

In flow the arguments; out flow text and an exit status: 0 when all is well, 1 when something is
not (an unusable default backend, a stale generated file), 2 for wrong arguments. Heavy packages
are asked for their version by their metadata, not imported.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from deepseek import _runtime, backends, cache, config, generate, seed
from deepseek.compiler import store
from deepseek.errors import ArgumentError, DeepseekError, unknown
from deepseek.website import Site

# Each file that is derived from the code, and the function that says what is in it.
GENERATED: tuple[tuple[str, Callable[[], str]], ...] = (
    ("docs/env.md", config.markdown),
    ("docs/ops.md", generate.ops_page),
    ("deepseek/frontend/tensor.pyi", generate.tensor_stub),
    ("deepseek/ops/contents.py", generate.ops_contents),
)

# A package, and the names of the distributions that may provide it.
PACKAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("deepseek", ("deepseek",)),
    ("numpy", ("numpy",)),
    ("llvmlite", ("llvmlite",)),
    ("ml_dtypes", ("ml_dtypes",)),
    ("onnx", ("onnx",)),
    ("onnxruntime", ("onnxruntime", "onnxruntime-gpu")),
    ("cupy", ("cupy-cuda13x", "cupy-cuda12x", "cupy")),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="deepseek", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="what this installation is made of, and what it can use")
    cached = commands.add_parser("cache", help="the folder of compiled programs and kernels")
    actions = cached.add_subparsers(dest="action")
    actions.add_parser("size", help="where it is and how large")
    actions.add_parser("clear", help="empty it")
    pack = actions.add_parser("pack", help="write all of it into one file")
    add = actions.add_parser("add", help="take in a file that somebody packed")
    for parser_of_file in (pack, add):
        parser_of_file.add_argument("file", type=Path)
    generate = commands.add_parser("generate", help="write the files that are derived from code")
    generate.add_argument("root", type=Path, nargs="?", default=Path("."), help="the project")
    generate.add_argument("--check", action="store_true", help="compare only, write nothing")
    docs = commands.add_parser("docs", help="write the documentation as web pages")
    docs.add_argument("root", type=Path, nargs="?", default=Path("."), help="the project")
    seed_file = commands.add_parser("seed", help="compile programs of single ops into a file")
    seed_file.add_argument("file", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        match chosen.command:
            case "doctor":
                return doctor()
            case "cache":
                return change_cache(chosen.action, getattr(chosen, "file", None))
            case "seed":
                print(f"{seed.build(chosen.file)} programs written to {chosen.file}")
                return 0
            case "docs":
                return write_docs(chosen.root)
            case _:
                return write_generated(chosen.root, chosen.check)
    except DeepseekError as error:
        print(f"deepseek: {error}", file=sys.stderr)
        return 1


def doctor() -> int:
    """Prints versions, processor, options, cache and backends."""
    section("versions")
    row("python", f"{platform.python_version()} ({platform.system()} {platform.machine()})")
    for package, distributions in PACKAGES:
        row(package, version(distributions))
    features = _runtime.cpu_features()
    level = config.options.cpu_level
    section("processor")
    row("name", features["name"])
    row("level", f"{features['level'] if level == 'auto' else level} in use (DS_CPU_LEVEL={level})")
    row("host level", features["level"])
    row("features", " ".join(features["flags"]) or "none")
    row("threads", f"{config.options.num_threads} of {features['threads']}")
    section("cache")
    row("folder", config.options.cache)
    row("size", f"{cache_summary()} of {as_size(config.options.cache_size)}")
    section("backends")
    findings = config.invalid()
    for name, usable, reason in backends.available():
        in_use = name == config.options.backend
        if in_use and not usable:
            findings["DS_BACKEND"] = f"the backend {name!r} is not usable here: {reason}"
        said = "usable" if usable else f"not usable: {reason.splitlines()[0]}"
        row(name, said + ", in use" * in_use)
    if config.options.backend not in backends.names():
        findings["DS_BACKEND"] = str(unknown("backend", config.options.backend, backends.names()))
    if findings:
        section("findings")
        for name, finding in findings.items():
            row(name, finding.removeprefix(f"{name}: ").replace("\n", "\n" + " " * 15))
    return 1 if findings else 0


def change_cache(action: str | None, file: Path | None) -> int:
    """Empties, packs, adds to or shows the cache folder."""
    if action == "clear":
        return clear_cache()
    if file is not None:
        pack = action == "pack"
        try:
            count = cache.pack(file) if pack else cache.add(file)
        except OSError as error:
            raise ArgumentError(f"{file}: {error.strerror}") from error
        print(f"{count} entries {'written to' if pack else 'added from'} {file}")
    row("folder", config.options.cache)
    row("size", f"{cache_summary()} of {as_size(config.options.cache_size)}")
    return 0


def clear_cache() -> int:
    """Empties the cache folder; a folder without the cache's mark is left alone."""
    folder = Path(config.options.cache)
    if folder.exists():
        store.cache_folder()
        print(f"removing {cache_summary()} from {folder}")
    for path in cached(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return 0


def cached(folder: Path) -> list[Path]:
    """What lies in the cache folder, its mark apart."""
    if not folder.exists():
        return []
    return [path for path in sorted(folder.iterdir()) if path.name != store.CACHE_TAG]


def cache_summary() -> str:
    folder = Path(config.options.cache)
    inside = (file for path in cached(folder) for file in [path, *path.rglob("*")])
    sizes = [file.lstat().st_size for file in inside if file.is_file()]
    return f"{as_size(sum(sizes))} in {len(sizes)} files"


def write_generated(root: Path, check: bool) -> int:
    """Writes (or with `check` compares) each generated file under the project's folder."""
    check_project(root)
    stale = 0
    for name, text in ((name, make()) for name, make in GENERATED):
        path = root / name
        if path.exists() and path.read_text() == text:
            continue
        stale += 1
        if check:
            print(f"{name} is stale: run `make generated`")
        else:
            # An unchanged file keeps its time, so that nothing is installed anew for it.
            path.write_text(text)
            print(f"wrote {name}")
    return 1 if check and stale else 0


def write_docs(root: Path) -> int:
    """Writes the documentation's pages to `docs/_site` under the project's folder."""
    check_project(root)
    folder = root / "docs" / "_site"
    count = Site(root.resolve()).write(folder.resolve())
    print(f"wrote {count} pages: open {folder / 'index.html'}")
    return 0


def check_project(root: Path) -> None:
    """Raises ArgumentError unless a folder is the project's."""
    if not (root / "docs").is_dir():
        raise ArgumentError(f"got the folder {str(root)!r}; wanted the project's, which has docs/")


def version(distributions: Sequence[str]) -> str:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def as_size(nbytes: int) -> str:
    size = float(nbytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"


def section(title: str) -> None:
    print(title)


def row(name: str, value: object) -> None:
    print(f"  {name:<12} {value}")
