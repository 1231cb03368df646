"""einsum, and products of tensors as PyTorch, NumPy and the array API name them.

In flow tensors with a label for each axis; pairs of them are contracted, the cheapest pair first,
by the primitive `contract_axes`, which writes its result's axes in any order. Products that sum
nothing are multiplications and fuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, ShapeError, op_error, user_line
from deepseek.frontend.tensor import Tensor, record
from deepseek.ir.graph import Node
from deepseek.ir.op import Contraction, Kind, Operand, Sample
from deepseek.ir.shape import Shape, Size, TensorType, current_sizes, same, tensor_type
from deepseek.ops import forms
from deepseek.ops.contract import index_variables
from deepseek.ops.define import (
    NUMERIC,
    as_tensor,
    describe,
    is_size,
    op_of,
    primitive,
    promoted,
    shape_of,
)
from deepseek.ops.diagonals import diagonal
from deepseek.ops.view import permute_dims

__all__ = ["contract_axes", "einsum"]

Types = tuple[TensorType, ...]
Labels = tuple[Any, ...]
Term = tuple[Tensor, Labels]


# ------------------------------------------------------------------------------------ two tensors


def _sizes(left: Labels, right: Labels, a: Shape, b: Shape) -> dict[Any, Size]:
    return dict(zip((*left, *right), (*a, *b), strict=True))


def _contraction_infer(
    a: TensorType, b: TensorType, *, left: Labels, right: Labels, out: Labels
) -> Types:
    known = dict(zip(left, a.shape, strict=True))
    for label, size in zip(right, b.shape, strict=True):
        if not same(size, known.setdefault(label, size)):
            raise op_error(
                ShapeError, "contract_axes", (a, b), f"equal sizes for axis {label!r}", user_line()
            )
    return (tensor_type(a.dtype, tuple(known[label] for label in out)),)


def _contraction_meaning(
    inputs: Types, out_type: TensorType, *, left: Labels, right: Labels, out: Labels
) -> Contraction:
    a, b = inputs
    sizes = _sizes(left, right, a.shape, b.shape)
    summed = tuple(label for label in left if label not in out)
    axes = index_variables("i", out_type.shape)
    folded = index_variables("k", tuple(sizes[label] for label in summed))
    at = dict(zip((*out, *summed), (*axes, *folded), strict=True))
    return Contraction(
        axes, folded, Operand(tuple(at[k] for k in left)), Operand(tuple(at[k] for k in right))
    )


def equation_of(left: Labels, right: Labels, out: Labels) -> str:
    """The labels as an equation of letters."""
    letters: dict[Any, str] = {}
    for label in (*left, *right):
        letters.setdefault(label, chr(ord("a") + len(letters)))
    return "{},{}->{}".format(*("".join(letters[k] for k in part) for part in (left, right, out)))


def _contraction_reference(a: Any, b: Any, *, left: Labels, right: Labels, out: Labels) -> Any:
    return np.einsum(equation_of(left, right, out), a, b)


def _contraction_vjp(
    g: Tensor, y: Tensor, a: Tensor, b: Tensor, *, left: Labels, right: Labels, out: Labels
) -> tuple[Tensor, Tensor]:
    return (
        contract_axes(g, b, left=out, right=right, out=left),
        contract_axes(a, g, left=left, right=out, out=right),
    )


@forms.form("Einsum")
def _contraction_form(b: Any, node: Node, x: str, y: str) -> Any:
    return b.node("Einsum", x, y, equation=equation_of(**node.attrs))


def _contraction_samples() -> list[Sample]:
    def sample(a: tuple[int, ...], b: tuple[int, ...], equation: str) -> Sample:
        terms, _, out = equation.partition("->")
        left, _, right = terms.partition(",")
        return Sample((a, b), {"left": tuple(left), "right": tuple(right), "out": tuple(out)})

    return [
        sample((5, 7), (7, 3), "ij,jk->ik"),
        sample((5, 7), (7, 3), "ij,jk->ki"),
        sample((2, 5, 3, 4), (2, 6, 3, 4), "bqhd,bkhd->bhqk"),
        sample((3, 4, 5), (5, 3, 2), "abc,cad->bd"),
        sample((4, 3), (4, 3), "ij,ij->i"),
        sample((4, 3), (4, 3), "ij,ij->"),
        sample((2, 0), (0, 3), "ij,jk->ki"),
        sample((1, 5), (1, 5, 2), "ij,ijk->k"),
    ]


@primitive(
    Kind.CONTRACT,
    infer=_contraction_infer,
    meaning=_contraction_meaning,
    reference=_contraction_reference,
    vjp=_contraction_vjp,
    takes=NUMERIC,
    samples=_contraction_samples,
    tolerance=32,
    precision="low",
    onnx=_contraction_form,
)
def contract_axes(a: Tensor, b: Tensor, /, *, left: Labels, right: Labels, out: Labels) -> Tensor:
    """The sum of products of two tensors over all labels that are not in `out`.

    A label stands at most once in each of the three, and in two of them at least; what else
    `einsum` allows is brought into this form there. Raises ShapeError for others.

    >>> a, b = ds.asarray([[1.0, 2.0]]), ds.asarray([[3.0, 4.0]])
    >>> ds.contract_axes(a, b, left=("i", "k"), right=("j", "k"), out=("i", "j"))
    tensor([[11.]])
    """
    parts = tuple(left), tuple(right), tuple(out)
    every = [label for part in parts for label in part]
    ranks = len(left) == a.ndim and len(right) == b.ndim
    if not ranks or any(
        every.count(k) < 2 or any(part.count(k) > 1 for part in parts) for k in every
    ):
        raise op_error(
            ShapeError, "contract_axes", f"{describe(a)} {left}, {describe(b)} {right} and {out}",
            "a label for each axis, once in each part and in two at least", user_line(),
        )  # fmt: skip
    a, b = promoted("contract_axes", (a, b), NUMERIC)
    made: Tensor = record(op_of(contract_axes), a, b, left=parts[0], right=parts[1], out=parts[2])
    return made


def _arranged(x: Tensor, labels: Labels, wanted: Labels) -> Tensor:
    """x with an axis for each wanted label, of size 1 where it has none."""
    order = [labels.index(k) for k in wanted if k in labels]
    x = permute_dims(x, order)
    sizes = iter(shape_of(x))
    return x.reshape(tuple(next(sizes) if k in labels else 1 for k in wanted))


def _summed(term: Term, keep: set[Any]) -> Term:
    """A term less the labels that nobody else needs."""
    x, labels = term
    axes = tuple(i for i, label in enumerate(labels) if label not in keep)
    if not axes:
        return term
    total = x.sum(axis=axes, dtype=x.dtype)
    return total, tuple(label for label in labels if label in keep)


def product(a: Term, b: Term, keep: Sequence[Any], final: bool = False) -> Term:
    """Two terms as one that has the labels to keep; in their order if it is the final one."""
    wanted = set(keep)
    a, b = _summed(a, wanted | {*b[1]}), _summed(b, wanted | {*a[1]})
    (x, left), (y, right) = a, b
    both = [k for k in left if k in right and k in wanted]
    rest = [k for k in left if k not in right] + [k for k in right if k not in left]
    out = tuple(k for k in keep if k in (*left, *right)) if final else (*both, *rest)
    if all(k in wanted for k in left if k in right):
        return _arranged(x, left, out) * _arranged(y, right, out), out
    return contract_axes(x, y, left=left, right=right, out=out), out


# ------------------------------------------------------------------------------------ many tensors


def einsum(equation: Any, /, *operands: Any) -> Tensor:
    """Sums of products of tensors: a letter for each axis; letters not in the result are summed.

    `equation` is "ij,jk->ik"; without "->" the result has the letters that stand once, in order.
    "..." stands for the axes without letters, which broadcast. A letter repeated in one term takes
    a diagonal, an axis of size 1 broadcasts. The tensors may each be followed by a list of numbers
    instead, without an equation. The cheapest pair is contracted first.

    Raises ArgumentError for an equation that does not fit, ShapeError for sizes that do not.

    >>> a, b = ds.arange(6).reshape(2, 3), ds.arange(3)
    >>> ds.einsum("ij,j->i", a, b).tolist()
    [5, 14]
    >>> ds.einsum("ii", ds.asarray([[1, 2], [3, 4]])).tolist()
    5
    """
    terms, out = _parsed(equation, operands)
    terms = [_plain(term) for term in terms]
    terms = _broadcast(terms)
    while len(terms) > 1:
        i, j, keep = _cheapest(terms, out)
        rest = [t for n, t in enumerate(terms) if n not in (i, j)]
        terms = [*rest, product(terms[i], terms[j], keep, final=not rest)]
    x, labels = _summed(terms[0], {*out})
    return _arranged(x, labels, out)


def _refusal(got: object, wanted: str) -> ArgumentError:
    return op_error(ArgumentError, "einsum", got, wanted, user_line())


def _parsed(equation: Any, operands: tuple[Any, ...]) -> tuple[list[Term], Labels]:
    """Each tensor with its labels, and those of the result. Axes of "..." count from the last."""
    if isinstance(equation, str):
        if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
            operands = tuple(operands[0])
        inputs, arrow, result = equation.replace(" ", "").partition("->")
        given: list[list[Any]] = [_letters(t) for t in inputs.split(",")]
        last = _letters(result) if arrow else None
    else:
        parts = (equation, *operands)
        operands, given = parts[0:-1:2] or parts, [list(p) for p in parts[1::2]]
        last = list(parts[-1]) if len(parts) % 2 else None
    if len(given) != len(operands):
        raise _refusal(
            f"{equation!r} and {len(operands)} tensors", f"a tensor for each of {len(given)} terms"
        )
    tensors = promoted("einsum", [as_tensor(x, "einsum") for x in operands], NUMERIC)
    terms = [(x, _written_out(x, labels)) for x, labels in zip(tensors, given, strict=True)]
    every = [k for _, labels in terms for k in labels]
    dots = sorted({k for k in every if isinstance(k, tuple)})
    if last is None:
        once = sorted(k for k in {*every} if every.count(k) == 1 and not isinstance(k, tuple))
        return terms, (*dots, *once)
    out = tuple(k for label in last for k in (dots if label is ... else [label]))
    if len({*out}) != len(out) or not {*out} <= {*every}:
        raise _refusal(f"a result {_shown(out)}", "labels of the terms, each once")
    return terms, out


def _letters(text: str) -> list[Any]:
    parts = text.split("...")
    if len(parts) > 2 or not all(part.isalpha() or not part for part in parts):
        raise _refusal(f"the term {text!r}", "letters, and '...' at most once")
    return [*parts[0], ..., *parts[1]] if len(parts) == 2 else [*text]


def _written_out(x: Tensor, labels: list[Any]) -> Labels:
    """A label for each axis of x."""
    named = sum(k is not ... for k in labels)
    if named > x.ndim or (named < x.ndim and ... not in labels) or labels.count(...) > 1:
        raise _refusal(f"{describe(x)} for the term {_shown(labels)}", "as many labels as axes")
    dots = [("...", -i) for i in range(x.ndim - named, 0, -1)]
    return tuple(k for label in labels for k in (dots if label is ... else [label]))


def _shown(labels: Sequence[Any]) -> str:
    return "".join("..." if k is ... else str(k) for k in labels) or "without labels"


def _plain(term: Term) -> Term:
    """A term with diagonals for labels that repeat in it."""
    x, labels = term
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            i = labels.index(label)
            j = labels.index(label, i + 1)
            sizes = shape_of(x)
            if not same(sizes[i], sizes[j]):
                raise op_error(
                    ShapeError, "einsum", f"{describe(x)} with {label!r} for axes {i} and {j}",
                    "equal sizes", user_line(),
                )  # fmt: skip
            x = diagonal(x, 0, i, j)
            labels = (*(k for n, k in enumerate(labels) if n not in (i, j)), label)
    return x, labels


def _broadcast(terms: list[Term]) -> list[Term]:
    """The terms without axes of size 1 whose label has another size elsewhere."""
    sizes: dict[Any, Size] = {}
    for x, labels in terms:
        for label, size in zip(labels, shape_of(x), strict=True):
            known = sizes.get(label, 1)
            if known == 1:
                sizes[label] = size
            elif size != 1 and not (
                same(known, size) or is_size(known, 1) or is_size(size, 1)
            ):
                raise op_error(
                    ShapeError, "einsum", f"sizes {known} and {size} for {_shown([label])!r}",
                    "one size for each label", user_line(),
                )  # fmt: skip
    out = []
    for x, labels in terms:
        given = list(zip(labels, shape_of(x), strict=True))
        stays = [(k, s) for k, s in given if s != 1 or sizes[k] == 1]
        out.append((x.reshape(tuple(s for _, s in stays)), tuple(k for k, _ in stays)))
    return out


def _cheapest(terms: list[Term], out: Labels) -> tuple[int, int, Labels]:
    """The pair with the least work, less the memory that it sets free, and the labels it keeps."""
    if len(terms) == 2:
        return 0, 1, out
    best: tuple[float, int, int, Labels] | None = None
    for i in range(len(terms)):
        for j in range(i + 1, len(terms)):
            needed = {*out}
            needed.update(k for n, t in enumerate(terms) if n not in (i, j) for k in t[1])
            keep = tuple(k for k in dict.fromkeys((*terms[i][1], *terms[j][1])) if k in needed)
            sizes = {k: s for t in (terms[i], terms[j])
                     for k, s in zip(t[1], shape_of(t[0]), strict=True)}  # fmt: skip
            work = elements(tuple(sizes.values())) + elements(tuple(sizes[k] for k in keep))
            cost = work - sum(elements(shape_of(t[0])) for t in (terms[i], terms[j]))
            if best is None or cost < best[0]:
                best = cost, i, j, keep
    assert best is not None
    return best[1:]


def elements(shape: Shape) -> float:
    """How many elements a shape has for the sizes of now; no guard is kept."""
    sizes = current_sizes()
    count = 1.0
    for size in shape:
        count *= size if isinstance(size, int) else sizes.value(size) if sizes else 64
    return count
