"""Contraction kernels against einsum in float64: interpreted, and run as machine code.

Operands are small whole numbers, so that results are exact whatever the order of the sums is.
"""

from __future__ import annotations

import importlib.util
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek.backends.cpu.target import TARGETS
from deepseek.ir import scalar
from deepseek.ir.dtype import DTYPES, bfloat16, float32, float64
from deepseek.ir.graph import Value, constant, input_value, node
from deepseek.kernel.interpret import interpret
from deepseek.kernel.problem import COLUMNS, PACKED, ROWS, SWEEP, Schedule
from deepseek.ops import contract, elementwise, view
from deepseek.ops.define import op_of

_spec = importlib.util.spec_from_file_location(
    "contractions", Path(__file__).with_name("contractions.py")
)
assert _spec is not None and _spec.loader is not None
tools = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tools)
Compiled, whole_numbers = tools.Compiled, tools.whole_numbers

MATMUL = op_of(contract.matmul)


def apply(function: Any, *values: Value, **attrs: Any) -> Value:
    return node(op_of(function), values, attrs).outputs[0]


def product(a: Value, b: Value) -> Value:
    return node(MATMUL, (a, b), {}).outputs[0]


def expected_product(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.einsum("...ik,...kj->...ij", a.astype(np.float64), b.astype(np.float64))


def check(compiled: Any, arrays: list[Any], expected: list[Any], current: Any = None) -> None:
    compiled.check_form()
    for result in (compiled.interpreted(arrays, current), compiled.native(arrays, current)):
        for got, wanted in zip(result, expected, strict=True):
            np.testing.assert_array_equal(got.astype(np.float64), wanted)


# ----------------------------------------------------------------------------------------- matmul

SHAPES = [
    (1, 1, 1), (1, 5, 1), (1, 40, 50), (40, 64, 1), (1, 1, 9), (7, 1, 9), (5, 7, 3), (2, 33, 2),
    (16, 16, 16), (17, 33, 65), (64, 64, 64), (13, 300, 48), (3, 70, 200), (70, 20, 3),
    (3, 0, 4), (0, 3, 4), (3, 4, 0), (6, 1500, 18), (2, 270, 1000),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matmul_of_any_shape(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a, b = input_value(float32, (m, k)), input_value(float32, (k, n))
    arrays = [whole_numbers((m, k), float32), whole_numbers((k, n), float32, 1)]
    check(Compiled([a, b], [product(a, b)]), arrays, [expected_product(*arrays)])


@pytest.mark.parametrize("dtype", [d for d in DTYPES.values() if d.kind != "b"], ids=str)
@pytest.mark.parametrize("shape", [(5, 7, 3), (20, 70, 70), (33, 5, 1)], ids=str)
def test_matmul_of_any_dtype(dtype: Any, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a, b = input_value(dtype, (m, k)), input_value(dtype, (k, n))
    arrays = [whole_numbers((m, k), dtype), whole_numbers((k, n), dtype, 1)]
    exact = expected_product(*arrays)
    if dtype.is_integer:
        exact = exact.astype(np.int64).astype(dtype.numpy).astype(np.float64)
    else:
        exact = exact.astype(dtype.numpy).astype(np.float64)
    check(Compiled([a, b], [product(a, b)]), arrays, [exact])


FORCED = [
    Schedule(PACKED, (4,), (16,), 16, 16, 2, 2, 0, 16),
    Schedule(PACKED, (3,), (20,), 32, 16, 5, 1, 0, 7),
    Schedule(PACKED, (6,), (32,), 32, 16, 1, 9, 0, 50),
    Schedule(PACKED, (2,), (8,), 16, 16, 9, 9, 0, 17),
    Schedule(PACKED, (5,), (20,), 32, 16, 2, 2, 0, 33, turned=True),
    Schedule(PACKED, (5,), (32,), 32, 16, 2, 2, 0, 50, turned=True),
    Schedule(PACKED, (3,), (6,), 16, 8, 2, 3, 0, 20, turned=True),
    Schedule(COLUMNS, (4,), (1,)),
    Schedule(COLUMNS, (1,), (1,)),
    Schedule(SWEEP, (13,), (1,), 512, block=8),
    Schedule(SWEEP, (4,), (1,), 512, block=3),
    Schedule(ROWS, (3,), (4,)),
    Schedule(ROWS, (1,), (1,)),
]


@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("plan", FORCED, ids=lambda p: f"{p.form}-{p.row_tile}-{p.column_tile}")
def test_every_form_fits_every_matmul(plan: Schedule, turned: tuple[bool, bool]) -> None:
    m, k, n = 13, 50, 70
    shapes = [(k, m) if turned[0] else (m, k), (n, k) if turned[1] else (k, n)]
    inputs = [input_value(float32, s) for s in shapes]
    operands = [
        apply(view.permute_dims, v, axes=(1, 0)) if t else v
        for v, t in zip(inputs, turned, strict=True)
    ]
    arrays = [whole_numbers(s, float32, i) for i, s in enumerate(shapes)]
    plain = [a.T if t else a for a, t in zip(arrays, turned, strict=True)]
    compiled = Compiled(inputs, [product(*operands)], plan)
    check(compiled, arrays, [expected_product(*plain)])


IN_PLACE = [  # with the left operand, the right one
    (True, True, Schedule(PACKED, (4,), (32,), 32, 16, 2, 2, 0, 50, rest=6)),
    (True, False, Schedule(PACKED, (4,), (32,), 32, 16, 2, 2, 0, 50, rest=6)),
    (False, True, Schedule(PACKED, (4,), (32,), 32, 16, 2, 2, 0, 50, rest=6)),
    (False, False, Schedule(PACKED, (4,), (32,), 32, 16, 2, 2, 0, 50, rest=6)),
    (True, True, Schedule(PACKED, (5,), (16,), 16, 16, 9, 9, 0, 17, rest=6)),
    (True, False, Schedule(PACKED, (13,), (48,), 48, 16, 1, 1, 0, 50, rest=22)),
    (False, True, Schedule(PACKED, (2,), (64,), 64, 16, 3, 1, 0, 9, rest=6)),
]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("place", IN_PLACE, ids=lambda p: f"{p[0]}-{p[1]}-{p[2].width}")
def test_operands_in_place_and_a_rest_of_columns(
    place: tuple[bool, bool, Schedule], turned: bool
) -> None:
    plan = replace(place[2], left_in_place=place[0], right_in_place=place[1])
    m, k, n = 13, 50, 70
    a, b = input_value(float32, (k, m) if turned else (m, k)), input_value(float32, (k, n))
    left = apply(view.permute_dims, a, axes=(1, 0)) if turned else a
    arrays = [whole_numbers(v.type.shape, float32, i) for i, v in enumerate((a, b))]
    plain = [arrays[0].T if turned else arrays[0], arrays[1]]
    check(Compiled([a, b], [product(left, b)], plan), arrays, [expected_product(*plain)])


@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("level", ["v2", "v3", "v4"])
def test_products_of_random_shapes(level: str, turned: tuple[bool, bool]) -> None:
    rng = random.Random(f"{level} {turned}")
    for _ in range(25):
        batch, m, k, n = (rng.choice((1, rng.randint(1, most))) for most in (4, 70, 90, 150))
        shapes = [(k, m) if turned[0] else (m, k), (n, k) if turned[1] else (k, n)]
        inputs = [input_value(float32, (batch, *s)) for s in shapes]
        operands = [
            apply(view.permute_dims, v, axes=(0, 2, 1)) if t else v
            for v, t in zip(inputs, turned, strict=True)
        ]
        arrays = [whole_numbers((batch, *s), float32, i) for i, s in enumerate(shapes)]
        plain = [a.swapaxes(1, 2) if t else a for a, t in zip(arrays, turned, strict=True)]
        compiled = Compiled(inputs, [product(*operands)], lanes=TARGETS[level].width)
        compiled.check_form()
        (got,) = compiled.native(arrays, level=level)
        np.testing.assert_array_equal(got, expected_product(*plain), str((batch, m, k, n)))


@pytest.mark.parametrize("dtype", ["int32", "uint8", "float64", "float16"])
@pytest.mark.parametrize("plan", [FORCED[1], FORCED[4]], ids=["packed", "turned"])
def test_packed_panels_of_other_dtypes(plan: Schedule, dtype: str) -> None:
    m, k, n = 7, 40, 37
    shapes = [(m, k), (n, k)]
    a, b = (input_value(DTYPES[dtype], s) for s in shapes)
    out = product(a, apply(view.permute_dims, b, axes=(1, 0)))
    arrays = [whole_numbers(s, DTYPES[dtype], i) for i, s in enumerate(shapes)]
    wanted = expected_product(arrays[0], arrays[1].T).astype(np.int64).astype(DTYPES[dtype].numpy)
    check(Compiled([a, b], [out], plan), arrays, [wanted.astype(np.float64)])


@pytest.mark.parametrize("shape", [(3, 20, 30, 40), (7, 5, 3, 2), (2, 1, 64, 50)], ids=str)
def test_batched_matmul(shape: tuple[int, int, int, int]) -> None:
    batch, m, k, n = shape
    a, b = input_value(float32, (batch, m, k)), input_value(float32, (batch, k, n))
    arrays = [whole_numbers((batch, m, k), float32), whole_numbers((batch, k, n), float32, 1)]
    check(Compiled([a, b], [product(a, b)]), arrays, [expected_product(*arrays)])


def test_heads_are_read_where_they_lie() -> None:
    """(b, s, h * d) seen as (b, h, s, d): scores of attention need no copy."""
    b, s, h, d = 2, 9, 3, 8
    q, k = (input_value(float32, (b, s, h * d)) for _ in range(2))

    def heads(x: Value, axes: tuple[int, ...]) -> Value:
        apart = apply(view.reshape, x, shape=(b, s, h, d))
        return apply(view.permute_dims, apart, axes=axes)

    out = product(heads(q, (0, 2, 1, 3)), heads(k, (0, 2, 3, 1)))
    arrays = [whole_numbers((b, s, h * d), float32, i) for i in range(2)]
    apart = [a.reshape(b, s, h, d).astype(np.float64) for a in arrays]
    wanted = np.einsum("bshd,bthd->bhst", *apart)
    check(Compiled([q, k], [out]), arrays, [wanted])


def test_a_broadcast_matrix_is_packed_once() -> None:
    a, w = input_value(float32, (4, 6, 40)), input_value(float32, (40, 50))
    wide = apply(view.broadcast_to, w, shape=(4, 40, 50))
    compiled = Compiled([a, w], [product(a, wide)])
    arrays = [whole_numbers((4, 6, 40), float32), whole_numbers((40, 50), float32, 1)]
    check(compiled, arrays, [expected_product(*arrays)])
    assert len(compiled.kernel.grid()) <= 2, "batch and rows are one axis"


# ---------------------------------------------------------------------------------- run-time sizes


@pytest.mark.parametrize("known", ["", "k", "n", "kn", "mn", "mk"])
@pytest.mark.parametrize("sizes", [(2, 3, 2), (33, 17, 70), (5, 1100, 20)], ids=str)
def test_sizes_of_the_run(known: str, sizes: tuple[int, int, int]) -> None:
    current = {scalar.size_var(f"n{i}"): size for i, size in enumerate(sizes)}
    m, k, n = (
        size if name in known else symbol
        for name, (symbol, size) in zip("mkn", current.items(), strict=True)
    )
    a, b = input_value(float32, (m, k)), input_value(float32, (k, n))
    arrays = [whole_numbers(sizes[:2], float32), whole_numbers(sizes[1:], float32, 1)]
    check(Compiled([a, b], [product(a, b)]), arrays, [expected_product(*arrays)], current)


def test_a_convolution_with_a_batch_of_the_run() -> None:
    batch = scalar.size_var("n0")
    x, w = input_value(float32, (batch, 3, 9, 10)), input_value(float32, (5, 3, 3, 3))
    attrs = {"stride": (1, 2), "padding": ((1, 1), (0, 2)), "dilation": (1, 1), "groups": 1}
    out = apply(contract.convolution, x, w, **attrs)
    arrays = [whole_numbers((6, 3, 9, 10), float32), whole_numbers((5, 3, 3, 3), float32, 1)]
    wanted = reference(contract.convolution, arrays, attrs)
    check(Compiled([x, w], [out]), arrays, [wanted], {batch: 6})


# ------------------------------------------------------------------------------------ convolutions


def reference(function: Any, arrays: list[Any], attrs: dict[str, Any]) -> Any:
    return op_of(function).reference(*(a.astype(np.float64) for a in arrays), **attrs)  # type: ignore[misc]


CONVOLUTIONS = [
    contract.convolution, contract.convolution_input_grad, contract.convolution_weight_grad
]  # fmt: skip


@pytest.mark.parametrize("function", CONVOLUTIONS, ids=lambda f: f.__name__)
def test_samples_of_convolutions(function: Any) -> None:
    samples = op_of(function).samples
    assert samples is not None
    for sample in samples():
        shapes = list(sample.args)
        attrs = dict(sample.kwargs)
        inputs = [input_value(float32, s) for s in shapes]
        out = node(op_of(function), tuple(inputs), attrs).outputs[0]
        arrays = [whole_numbers(s, float32, i) for i, s in enumerate(shapes)]
        check(Compiled(inputs, [out]), arrays, [reference(function, arrays, attrs)])


LAYERS = [  # images, channels, size, channels out, window, stride, padding, dilation, groups
    (3, 8, 8, 16, 3, 1, 1, 1, 1),
    (2, 5, 11, 7, 3, 2, 1, 1, 1),
    (2, 4, 12, 6, 3, 2, 1, 1, 2),
    (2, 4, 9, 8, 3, 1, 2, 2, 2),
    (2, 6, 7, 6, 3, 1, 1, 1, 6),
    (2, 3, 14, 20, 5, 2, 2, 1, 1),
    (2, 20, 6, 33, 1, 1, 0, 1, 1),
    (1, 2, 40, 3, 3, 1, 1, 1, 1),
    (2, 3, 8, 4, 2, 2, 0, 1, 1),
    (2, 3, 10, 4, 3, 3, 0, 1, 1),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("function", CONVOLUTIONS, ids=lambda f: f.__name__)
def test_convolutions_and_their_gradients(function: Any, layer: tuple[int, ...]) -> None:
    images, channels, size, out_channels, window, stride, padding, dilation, groups = layer
    attrs: dict[str, Any] = {
        "stride": (stride, stride), "padding": ((padding, padding),) * 2,
        "dilation": (dilation, dilation), "groups": groups,
    }  # fmt: skip
    x = input_value(float32, (images, channels, size, size))
    w = input_value(float32, (out_channels, channels // groups, window, window))
    y = apply(contract.convolution, x, w, **attrs)
    g = input_value(float32, y.type.shape)
    inputs = {
        contract.convolution: [x, w],
        contract.convolution_input_grad: [g, w],
        contract.convolution_weight_grad: [x, g],
    }[function]
    if function is contract.convolution_input_grad:
        attrs["size"] = (size, size)
    if function is contract.convolution_weight_grad:
        attrs["size"] = (window, window)
    out = node(op_of(function), tuple(inputs), attrs).outputs[0]
    arrays = [whole_numbers(v.type.shape, float32, i) for i, v in enumerate(inputs)]
    check(Compiled(inputs, [out]), arrays, [reference(function, arrays, attrs)])


def test_a_strided_gradient_of_a_constant_cotangent() -> None:
    """What `sum().backward()` starts from is no memory that a guard could leave alone."""
    w = input_value(float32, (4, 3, 3, 3))
    one = constant(np.float32(2.0), float32)
    g = apply(view.broadcast_to, one, shape=(2, 4, 4, 4))
    attrs: dict[str, Any] = {
        "size": (7, 8), "stride": (2, 2), "padding": ((1, 1),) * 2, "dilation": (1, 1), "groups": 1,
    }  # fmt: skip
    out = apply(contract.convolution_input_grad, g, w, **attrs)
    arrays = [whole_numbers((4, 3, 3, 3), float32)]
    wanted = reference(
        contract.convolution_input_grad, [np.full((2, 4, 4, 4), 2.0), *arrays], attrs
    )
    check(Compiled([w], [out]), arrays, [wanted])


# --------------------------------------------------------------------------------- what comes after


@pytest.mark.parametrize("shape", [(4, 40, 20), (33, 70, 70), (20, 1500, 33)], ids=str)
def test_what_follows_is_computed_where_a_sum_is_stored(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a, b = input_value(float32, (m, k)), input_value(float32, (k, n))
    bias, residual = input_value(float32, (n,)), input_value(float32, (m, n))
    sums = product(a, b)
    wide = apply(view.broadcast_to, bias, shape=(m, n))
    shifted = apply(elementwise.add, sums, wide)
    positive = apply(elementwise.maximum, shifted, apply(elementwise.subtract, shifted, shifted))
    out = apply(elementwise.add, positive, residual)
    arrays = [whole_numbers(s, float32, i) for i, s in enumerate([(m, k), (k, n), (n,), (m, n)])]
    exact = expected_product(*arrays[:2])
    wanted = np.maximum(exact + arrays[2], 0) + arrays[3]
    compiled = Compiled([a, b, bias, residual], [sums, out])
    check(compiled, arrays, [exact, wanted])


def test_rows_of_two_panels_are_added_once_to_what_lies_there() -> None:
    m, k, n = 33, 20, 48
    a, b, residual = (input_value(float32, s) for s in ((m, k), (k, n), (m, n)))
    plan = Schedule(PACKED, (8,), (48,), 48, 16, 5, 1, 0, 20)
    out = apply(elementwise.add, product(a, b), residual)
    compiled = Compiled([a, b, residual], [out], plan)
    arrays = [whole_numbers(v.type.shape, float32, i) for i, v in enumerate((a, b, residual))]
    exact = expected_product(*arrays[:2]) + arrays[2]
    given = [arrays[i].reshape(-1) for i in compiled.lowered.inputs]
    interpret(compiled.kernel, [*given, given[compiled.lowered.inputs.index(2)]], [])
    np.testing.assert_array_equal(arrays[2], exact)


def test_a_cast_after_the_sum() -> None:
    a, b = input_value(bfloat16, (20, 30)), input_value(bfloat16, (30, 40))
    out = apply(elementwise.astype, product(a, b), dtype=float64)
    arrays = [whole_numbers((20, 30), bfloat16), whole_numbers((30, 40), bfloat16, 1)]
    check(Compiled([a, b], [out]), arrays, [expected_product(*arrays)])


def test_a_convolution_with_bias_and_residual() -> None:
    x, w = input_value(float32, (2, 6, 7, 9)), input_value(float32, (8, 6, 3, 3))
    attrs = {"stride": (1, 1), "padding": ((1, 1),) * 2, "dilation": (1, 1), "groups": 1}
    sums = apply(contract.convolution, x, w, **attrs)
    bias, residual = input_value(float32, (8,)), input_value(float32, sums.type.shape)
    column = apply(view.reshape, bias, shape=(8, 1, 1))
    wide = apply(view.broadcast_to, column, shape=sums.type.shape)
    out = apply(elementwise.add, apply(elementwise.add, sums, wide), residual)
    arrays = [whole_numbers(v.type.shape, float32, i) for i, v in enumerate([x, w, bias, residual])]
    wanted = reference(contract.convolution, arrays[:2], attrs)
    wanted = wanted + arrays[2].reshape(8, 1, 1) + arrays[3]
    check(Compiled([x, w, bias, residual], [out]), arrays, [wanted])


# --------------------------------------------------------------------------------- levels, threads


@pytest.mark.parametrize("level", ["v2", "v3"])
@pytest.mark.parametrize("function", CONVOLUTIONS, ids=lambda f: f.__name__)
def test_convolutions_on_lower_levels(function: Any, level: str) -> None:
    attrs: dict[str, Any] = {
        "stride": (1, 1), "padding": ((1, 1),) * 2, "dilation": (1, 1), "groups": 1,
    }  # fmt: skip
    shapes = {"x": (2, 6, 9, 10), "w": (7, 6, 3, 3), "g": (2, 7, 9, 10)}
    names = {"convolution": "xw", "convolution_input_grad": "gw", "convolution_weight_grad": "xg"}
    given = [shapes[name] for name in names[function.__name__]]
    if function is contract.convolution_input_grad:
        attrs["size"] = (9, 10)
    if function is contract.convolution_weight_grad:
        attrs["size"] = (3, 3)
    inputs = [input_value(float32, s) for s in given]
    out = node(op_of(function), tuple(inputs), attrs).outputs[0]
    arrays = [whole_numbers(s, float32, i) for i, s in enumerate(given)]
    compiled = Compiled(inputs, [out], lanes={"v2": 4, "v3": 8}[level])
    (got,) = compiled.native(arrays, level=level)
    np.testing.assert_array_equal(got, reference(function, arrays, attrs))


@pytest.mark.parametrize("level", ["v2", "v3"])
@pytest.mark.parametrize("shape", [(40, 50, 60), (3, 200, 30)], ids=str)
def test_operands_along_the_sum_on_lower_levels(shape: tuple[int, int, int], level: str) -> None:
    m, k, n = shape
    a, b = input_value(float32, (m, k)), input_value(float32, (n, k))
    out = product(a, apply(view.permute_dims, b, axes=(1, 0)))
    arrays = [whole_numbers((m, k), float32), whole_numbers((n, k), float32, 1)]
    compiled = Compiled([a, b], [out], lanes={"v2": 4, "v3": 8}[level])
    (got,) = compiled.native(arrays, level=level)
    np.testing.assert_array_equal(got, expected_product(arrays[0], arrays[1].T))


@pytest.mark.parametrize("level", ["v2", "v3"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int32"])
def test_lower_levels(level: str, dtype: str) -> None:
    a, b = input_value(DTYPES[dtype], (30, 70)), input_value(DTYPES[dtype], (70, 50))
    arrays = [whole_numbers((30, 70), DTYPES[dtype]), whole_numbers((70, 50), DTYPES[dtype], 1)]
    compiled = Compiled([a, b], [product(a, b)], lanes={"v2": 4, "v3": 8}[level])
    (got,) = compiled.native(arrays, level=level)
    wanted = expected_product(*arrays).astype(DTYPES[dtype].numpy)
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    "shape", [(100, 300, 200), (64, 64, 64), (3, 500, 700), (300, 200, 1), (459, 95, 106)]
)
def test_the_same_bits_however_tasks_are_shared_out(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a, b = input_value(float32, (m, k)), input_value(float32, (k, n))
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s).astype(np.float32) for s in ((m, k), (k, n))]
    compiled = Compiled([a, b], [product(a, b)])
    one, many = (compiled.native(arrays, runs=runs)[0] for runs in (1, 5))
    assert np.array_equal(one, many)
    np.testing.assert_allclose(one, expected_product(*arrays), rtol=0, atol=k * 4e-6)


def test_register_tiles_give_the_same_bits_in_every_form() -> None:
    """Packed or not, a sum runs in order: the same result whichever schedule is chosen."""
    a, b = input_value(float32, (30, 200)), input_value(float32, (200, 50))
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s).astype(np.float32) for s in ((30, 200), (200, 50))]
    results = [
        Compiled([a, b], [product(a, b)], plan).native(arrays)[0]
        for plan in (FORCED[0], FORCED[1], FORCED[4], None)
    ]
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])
