"""What came out: the table on the terminal, docs/conformance.md, and the list of failures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import compare
import examples
import subjects
import torch

Results = Mapping[str, list[dict[str, Any]]]
WANTED = 0.99  # the share of samples that has to be equal
KINDS = {
    "op": "Ops", "module": "Layers", "optimizer": "Optimizers", "suite": "Suites",
    "example": "Examples",
}  # fmt: skip
COUNTED = ("forward", "gradient", "error")
BAD = (*COUNTED, "crash", "broken")


def is_bad(result: dict[str, Any]) -> bool:
    return result["kind"] in BAD and result["why"] is not None


def counts(found: Iterable[dict[str, Any]]) -> Counter[str]:
    """How many results there are of each kind, and how many are as they should be."""
    c: Counter[str] = Counter()
    for result in found:
        kind = result["kind"]
        c[kind] += 1
        if kind in COUNTED and result["why"] is None:
            c[kind + " right"] += 1
        c["bad"] += is_bad(result)
    return c


def of(c: Counter[str], kind: str) -> str:
    """`11 / 12`, or nothing where there are none."""
    return f"{c[kind + ' right']} / {c[kind]}" if c[kind] else ""


def write(results: Results, root: Path, given: Any) -> int:
    """Print the table; write the page if everything was run; 0 if it is good enough."""
    named = {s: counts(found) for s, found in results.items()}
    print(f"{'':52}{'samples equal':>16}{'gradients equal':>18}{'errors right':>15}")
    for subject, c in named.items():
        if c["bad"] or len(named) < 40:
            crashed = f"   {c['crash']} crashed" if c["crash"] else ""
            print(f"{subject:52.52}{of(c, 'forward'):>16}{of(c, 'gradient'):>18}"
                  f"{of(c, 'error'):>15}{crashed}")  # fmt: skip
        for result in results[subject]:
            if "note" in result:
                print(f"{subject}, {result['sample']}: {result['note']}")
    if given.failures:
        given.failures.write_text("".join(failure_lines(results)))
    whole = not given.ops
    everything = subjects.every()
    total: Counter[str] = Counter()
    print()
    for kind, title in KINDS.items():
        chosen = [c for s, c in named.items() if s.startswith(kind + ":")]
        here = sum(chosen, Counter())
        total += here
        all_of = sum(s.startswith(kind + ":") for s in everything)
        print(f"{title:12}{len(chosen)} of {all_of} mapped; " + summary(here))
    good = share(total, "forward") >= WANTED and share(total, "gradient") >= WANTED
    good = good and not total["crash"] and not total["broken"]
    if whole:
        page = root / "docs" / "conformance.md"
        page.write_text(page_text(results, named, everything, given.samples))
        print(f"wrote {page.relative_to(root)}")
    return 0 if good else 1


def share(c: Counter[str], kind: str) -> float:
    return c[kind + " right"] / c[kind] if c[kind] else 1.0


def summary(c: Counter[str]) -> str:
    parts = [
        f"{of(c, kind)} {words} ({share(c, kind):.2%})"
        for kind, words in (
            ("forward", "samples equal"),
            ("gradient", "gradients equal"),
            ("error", "error inputs right"),
        )
        if c[kind]
    ]
    if c["crash"] or c["broken"]:
        parts.append(f"{c['crash']} crashed, {c['broken']} not run")
    return ", ".join(parts)


def failure_lines(results: Results) -> Iterable[str]:
    for subject, found in results.items():
        for r in found:
            if is_bad(r):
                yield f"{subject} [{r['kind']}] ({r.get('sample', '')}): {r['why']}\n"


# ------------------------------------------------------------------------------------- the page

HEAD = """# Conformance with PyTorch

Made by `make oracle`, which holds deepseek against the databases that PyTorch {version} tests
itself with: samples of arguments for every op that takes float32, for layers, and for optimizers.
Nothing of PyTorch is needed to use deepseek.

- **The reference** is PyTorch in float64 on the same float32 inputs. A result of ours is equal if
  it has PyTorch's shape and dtype and each element is within 32 epsilons of the result's largest,
  or if it is no further off (root mean square) than {margin:g} times PyTorch's own float32 result:
  on an ill-conditioned input there is no more to be had. Gradients of all float inputs are taken
  for one random cotangent of every output and may be off by twice as much. Of random results,
  shapes and dtypes are compared.
- **Error inputs** are calls that PyTorch refuses. deepseek has to refuse them with an error of its
  own; a crash, an error from deep inside, or a result counts as wrong. They run with
  `DS_VERIFY=1`, where indices that are still to be computed are looked at as well.
- Of every op {samples} samples are run. Layers load PyTorch's state dict,
  and their buffers are compared too; optimizers take five steps from the start, and again from
  PyTorch's state dict loaded half way.
- **Suites** are tests of other projects that run with deepseek as their array library. **Examples**
  are models of docs/examples with their real weights, within {within:g} of the same model in
  PyTorch.
"""


def page_text(
    results: Results, named: dict[str, Counter[str]], everything: list[str], samples: int
) -> str:
    """docs/conformance.md: nothing in it depends on the machine or the day."""
    some = f"at most {samples}, evenly spread," if samples else "all"
    version = torch.__version__.split("+")[0]
    lines = [HEAD.format(version=version, samples=some, margin=compare.MARGIN,
                         within=examples.WITHIN)]  # fmt: skip
    lines += ["| | mapped | samples equal | gradients equal | error inputs right |"]
    lines += ["|---|---|---|---|---|"]
    for kind, title in KINDS.items():
        chosen = [s for s in everything if s.startswith(kind + ":")]
        c = sum((named[s] for s in chosen if s in named), Counter())
        mapped = sum(s in named for s in chosen)
        cells = [f"{of(c, k)} ({share(c, k):.2%})" if c[k] else "" for k in COUNTED]
        lines.append(f"| {title} | {mapped} of {len(chosen)} | " + " | ".join(cells) + " |")
    for kind, title in KINDS.items():
        chosen = [s for s in everything if s.startswith(kind + ":")]
        lines += ["", f"## {title}", "", *table(kind, chosen, named)]
    lines += ["", "## What is not the same", "", *differences(results)]
    lines += ["", "## Samples that are left out", "", *reasons(results, "left_out")]
    lines += ["", "## Error inputs that are no errors here", "", *reasons(results, "lenient")]
    lines += ["", "## Not mapped", "", *unmapped(everything, named)]
    return "\n".join(lines) + "\n"


def table(kind: str, chosen: list[str], named: dict[str, Counter[str]]) -> Iterable[str]:
    ops = kind == "op"
    yield (
        "| PyTorch | deepseek | samples | gradients | errors |"
        if ops
        else ("| name | samples | gradients | errors |")
    )
    yield "|---|---|---|---|---|" if ops else "|---|---|---|---|"
    for subject in chosen:
        if subject not in named:
            continue
        c, name = named[subject], subject.split(":", 1)[1]
        cells = [f"`{name}`"]
        if ops:
            targets = subjects.entry(subject).targets
            cells.append(", ".join(f"`{t}`" for t in targets))
        cells += [of(c, k) for k in COUNTED]
        yield "| " + " | ".join(cells) + " |"


def differences(results: Results) -> Iterable[str]:
    """The first of what is wrong with each subject."""
    wrong = {s: [r for r in found if is_bad(r)] for s, found in results.items()}
    if not any(wrong.values()):
        yield "Nothing."
    for subject, found in wrong.items():
        if found:
            first = found[0]
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            said = " ".join(str(first["why"]).split(" at ")[0].split())
            yield f"- `{subject.split(':', 1)[1]}`{more}: `{short(first['sample'])}`: {said}"


def short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:117] + "..."


def reasons(results: Results, kind: str) -> Iterable[str]:
    """Reasons, how often each, and for which subjects."""
    by_reason: dict[str, Counter[str]] = defaultdict(Counter)
    for subject, found in results.items():
        for r in found:
            if r["kind"] == kind:
                by_reason[str(r["why"]).split("\n")[0]][subject.split(":", 1)[1]] += 1
    if not by_reason:
        yield "None."
    for reason, names in sorted(by_reason.items(), key=lambda item: -sum(item[1].values())):
        some = ", ".join(f"`{n}`" for n in list(names)[:8])
        more = ", ..." if len(names) > 8 else ""
        yield f"- {reason}: {sum(names.values())} ({some}{more})"


def unmapped(everything: list[str], named: dict[str, Counter[str]]) -> Iterable[str]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for subject in everything:
        if subject in named:
            continue
        entry = subjects.entry(subject)
        by_reason[entry.reason or "not in deepseek (yet)"].append(subject.split(":", 1)[1])
    for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        yield f"- **{reason}** ({len(names)}): " + ", ".join(f"`{n}`" for n in names)
