"""Programs: rows, sizes by symbols, donation, control flow, host steps, bindings, errors."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from deepseek._runtime import (
    SORT_DTYPES,
    Buffer,
    Code,
    Program,
    ProgramBuilder,
    extern_routines,
    get_num_threads,
    set_num_threads,
    set_profile,
    take_profile,
)


def buffer(values: Sequence[int] | np.ndarray) -> Buffer:
    return Buffer.copy_of(np.asarray(values, dtype=np.int64))


def array(held: Buffer) -> np.ndarray:
    return np.frombuffer(held, dtype=np.int64)


def add_program(code: Code, may_alias: bool = False) -> Program:
    """(x + y) * y over s0 elements, with a temp between."""
    builder = ProgramBuilder(1, "add")
    nbytes = ["s0", 8, "*"]
    x = builder.input(nbytes, "x")
    y = builder.input(nbytes, "y")
    total = builder.temp(nbytes, "total")
    out = builder.output(nbytes, x if may_alias else None)
    builder.main.launch(code, "add", [((x, y, total), (), ["s0"])], grain=16)
    builder.main.launch(code, "mul", [((total, y, out), (), ["s0"])], grain=16)
    return builder.build()


@pytest.mark.parametrize("n", [0, 1, 5, 1000, 100_000])
def test_run_takes_sizes_from_symbols(code: Code, n: int) -> None:
    program = add_program(code)
    x, y = np.arange(n), np.arange(n) + 3
    (out,) = program.run([buffer(x), buffer(y)], (n,))
    np.testing.assert_array_equal(array(out), (x + y) * y)
    assert program.counters()["launches"] == 2


def test_bindings_are_cached_and_bounded(code: Code) -> None:
    program = add_program(code)
    for _ in range(3):
        program.run([buffer([1, 2]), buffer([3, 4])], (2,))
    assert program.counters()["bindings"] == 1
    for n in range(100):
        program.bind_info((n,))
    assert program.counters()["bindings"] == 100
    program.bind_info((99,))
    assert program.counters()["bindings"] == 100
    program.bind_info((0,))  # long since dropped
    assert program.counters()["bindings"] == 101


def test_rows_share_one_index_space(code: Code) -> None:
    builder = ProgramBuilder(0)
    sizes = [0, 1, 7, 0, 300, 2]
    rows = []
    for n in sizes:
        a, b = builder.input(8 * n), builder.input(8 * n)
        rows.append(((a, b, builder.output(8 * n)), (), n))
    builder.main.launch(code, "sub", rows)
    program = builder.build()
    arrays = [np.arange(n) * k for k, n in enumerate(sizes, 1) for _ in range(2)]
    arrays[1::2] = [a * 5 for a in arrays[1::2]]
    outs = program.run([buffer(a) for a in arrays])
    for out, a, b in zip(outs, arrays[::2], arrays[1::2], strict=True):
        np.testing.assert_array_equal(array(out), a - b)
    assert program.counters()["launches"] == 1


def test_scratch_is_aligned_and_one_per_thread(code: Code) -> None:
    n = 4000
    builder = ProgramBuilder(0)
    out = builder.output(16 * n)
    builder.main.launch(code, "scratch", [((out,), (n, 42), n)], scratch=100)
    program = builder.build()
    (result,) = program.run([])
    addresses = array(result)[:n]
    assert np.all(addresses % 4096 == 0)
    assert 1 <= len(np.unique(addresses)) <= get_num_threads()
    assert np.all(array(result)[n:] == 42)
    assert program.bind_info()["scratch_bytes"] == 100


def test_donation_reuses_the_buffer_itself(code: Code) -> None:
    program = add_program(code, may_alias=True)
    x, y = buffer([1, 2, 3]), buffer([10, 20, 30])
    (kept,) = program.run([x, y], (3,))
    assert kept is not x
    assert array(x).tolist() == [1, 2, 3]
    (taken,) = program.run([x, y], (3,), [True, False])
    assert taken is x
    assert array(taken).tolist() == [110, 440, 990]


def test_a_buffer_with_views_or_given_twice_is_not_overwritten(code: Code) -> None:
    program = add_program(code, may_alias=True)
    x, y = buffer([1, 2, 3]), buffer([10, 20, 30])
    view = array(x)
    assert x.exports == 1
    assert program.run([x, y], (3,), [True, False])[0] is not x
    assert view.tolist() == [1, 2, 3]
    del view
    assert x.exports == 0
    (doubled,) = program.run([x, x], (3,), [True, False])
    assert doubled is not x
    assert array(doubled).tolist() == [2, 8, 18]


def test_inputs_are_checked(code: Code) -> None:
    program = add_program(code)
    with pytest.raises(ValueError, match=r"add: input 1 \(y\) wants 24 bytes, got a buffer of 16"):
        program.run([buffer([1, 2, 3]), buffer([1, 2])], (3,))
    with pytest.raises(ValueError, match="wants 2 inputs, got 1"):
        program.run([buffer([1])], (1,))
    with pytest.raises(ValueError, match="wants 1 symbols, got 2"):
        program.run([], (1, 2))
    with pytest.raises(TypeError, match="wants a Buffer, got numpy.ndarray"):
        program.run([np.zeros(1), np.zeros(1)], (1,))  # type: ignore[list-item]
    with pytest.raises(ValueError, match="slot 0 .* has -8 bytes"):
        program.bind_info((-1,))


def test_if_runs_one_branch(code: Code) -> None:
    builder = ProgramBuilder(0)
    x, y = builder.input(8), builder.input(8)
    smaller = builder.temp(1)
    out = builder.output(8)
    builder.main.launch(code, "less", [((x, y, smaller), (), 1)])
    then, otherwise = builder.block(), builder.block()
    then.launch(code, "add", [((x, y, out), (), 1)])
    otherwise.launch(code, "sub", [((x, y, out), (), 1)])
    builder.main.if_(smaller, then, otherwise)
    program = builder.build()
    assert array(program.run([buffer([1]), buffer([5])])[0])[0] == 6
    assert array(program.run([buffer([5]), buffer([1])])[0])[0] == 4
    assert [kind for kind, _ in program.steps] == ["launch", "if", "launch", "launch"]


def test_while_doubles_until_large_enough(code: Code) -> None:
    builder = ProgramBuilder(0)
    start, limit = builder.input(8), builder.input(8)
    state, grown, go_on = builder.temp(8), builder.temp(8), builder.temp(1)
    out = builder.output(8)
    main, condition, body = builder.main, builder.block(), builder.block()
    main.copy(state, start, 8)
    condition.launch(code, "less", [((state, limit, go_on), (), 1)])
    body.launch(code, "add", [((state, state, grown), (), 1)])
    body.copy(state, grown, 8)
    main.while_(condition, go_on, body)
    main.copy(out, state, 8)
    program = builder.build()
    assert array(program.run([buffer([3]), buffer([100])])[0])[0] == 192
    assert array(program.run([buffer([200]), buffer([100])])[0])[0] == 200
    temps = {temp["slot"]: temp for temp in program.bind_info()["temps"]}
    assert (temps[state]["first"], temps[state]["last"]) == (0, 5)
    assert (temps[grown]["first"], temps[grown]["last"]) == (3, 4)


@pytest.mark.parametrize("reverse", [False, True])
def test_for_scans_rows(code: Code, reverse: bool) -> None:
    """ys[i] = xs[i] + carry; carry = ys[i], over s0 rows of 4."""
    builder = ProgramBuilder(1)
    row = 32
    xs, ys = builder.input(["s0", row, "*"]), builder.output(["s0", row, "*"])
    first = builder.input(row)
    carry = builder.temp(row)
    index = builder.loop()
    last_row = ["s0", 1, "-", row, "*"]
    offset, stride = (last_row, -row) if reverse else (0, row)
    x_i, y_i = (xs, offset, index, stride), (ys, offset, index, stride)
    body = builder.block()
    body.launch(code, "add", [((x_i, carry, y_i), (), 4)])
    body.copy(carry, y_i, row)
    builder.main.copy(carry, first, row)
    builder.main.for_(index, ["s0"], body)
    program = builder.build()
    for n in (0, 1, 6):
        x = np.arange(4 * n).reshape(n, 4)
        (out,) = program.run([buffer(x), buffer([1, 1, 1, 1])], (n,))
        steps = x[::-1] if reverse else x
        expected = 1 + np.cumsum(steps, axis=0)
        got = array(out).reshape(n, 4)
        np.testing.assert_array_equal(got[::-1] if reverse else got, expected)


def test_for_with_a_count_from_a_slot(code: Code) -> None:
    builder = ProgramBuilder(0)
    count, one = builder.input(8), builder.input(8)
    state, out = builder.temp(8), builder.output(8)
    body = builder.block()
    body.launch(code, "add", [((state, one, state), (), 1)])
    builder.main.copy(state, one, 8)
    builder.main.for_(builder.loop(), 10, body, count_slot=count)
    builder.main.copy(out, state, 8)
    program = builder.build()
    for wanted, got in ((0, 1), (4, 5), (-3, 1), (50, 11)):
        assert array(program.run([buffer([wanted]), buffer([1])])[0])[0] == got


def test_views_outside_their_slot_are_refused_at_bind(code: Code) -> None:
    builder = ProgramBuilder(1)
    xs = builder.input(80)
    out = builder.output(8)
    index = builder.loop()
    body = builder.block()
    body.copy(out, (xs, 0, index, 8), 8)
    builder.main.for_(index, ["s0"], body)
    program = builder.build()
    program.bind_info((10,))
    with pytest.raises(ValueError, match="a view of slot 0 leaves its 80 bytes"):
        program.bind_info((11,))


def test_host_steps_read_and_write_views(code: Code) -> None:
    seen: list[tuple[int, ...]] = []

    def cumulate(views: list[memoryview], sizes: tuple[int, ...]) -> None:
        seen.append(sizes)
        source, target = (np.frombuffer(view, dtype=np.int64) for view in views)
        assert not source.flags.writeable
        target[:] = np.cumsum(source)

    builder = ProgramBuilder(1)
    x = builder.input(["s0", 8, "*"])
    total, out = builder.temp(["s0", 8, "*"]), builder.output(["s0", 8, "*"])
    builder.main.host(cumulate, (x, total), (["s0"], 7), label="cumulate")
    builder.main.launch(code, "add", [((total, x, out), (), ["s0"])])
    program = builder.build()
    (result,) = program.run([buffer([1, 2, 3])], (3,))
    assert array(result).tolist() == [2, 5, 9]
    assert seen == [(3, 7)]
    assert program.counters()["hosts"] == 1


def test_an_error_in_a_host_step_leaves_donated_buffers_alone(code: Code) -> None:
    def fail(views: list[memoryview], sizes: tuple[int, ...]) -> None:
        raise RuntimeError("no such matrix")

    builder = ProgramBuilder(0)
    x = builder.input(8)
    out = builder.output(8, may_alias=x)
    builder.main.launch(code, "add", [((x, x, out), (), 1)])
    builder.main.host(fail, (out,))
    program = builder.build()
    held = buffer([21])
    with pytest.raises(RuntimeError, match="no such matrix"):
        program.run([held], donate=[True])
    assert array(held)[0] == 21


def test_a_view_kept_by_a_host_function_stays_valid(code: Code) -> None:
    kept: list[memoryview] = []
    builder = ProgramBuilder(0)
    x, temp = builder.input(1 << 20), builder.temp(1 << 20)
    builder.main.copy(temp, x, 1 << 20)
    builder.main.host(lambda views, sizes: kept.extend(views), (temp,))
    program = builder.build()
    values = np.arange(1 << 17)
    program.run([buffer(values)])
    np.testing.assert_array_equal(np.frombuffer(kept[0], dtype=np.int64), values)


NUMPY_SORTABLE = [name for name in SORT_DTYPES if name != "bfloat16"]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("dtype", NUMPY_SORTABLE)
@pytest.mark.parametrize("n", [0, 1, 37, 1000])
def test_sort(dtype: str, descending: bool, n: int) -> None:
    assert "sort" in extern_routines()
    generator = np.random.default_rng(n)
    rows = 3
    values = generator.integers(0, 50, size=(rows, n))
    x = values.astype(dtype)
    if x.dtype.kind == "i":
        x = (values - 25).astype(dtype)
    if x.dtype.kind == "f" and n > 8:
        x = (values - 25).astype(dtype) / 4
        x[:, :5] = [np.nan, -0.0, 0.0, np.inf, -np.inf]
        x[0, 7] = -np.nan
    builder = ProgramBuilder(0)
    slots = (builder.input(x.nbytes), builder.output(x.nbytes), builder.output(8 * rows * n))
    sizes = (rows, n, SORT_DTYPES.index(dtype), int(descending))
    builder.main.extern("sort", slots, sizes)
    sorted_values, indices = builder.build().run([Buffer.copy_of(x)])
    if descending:  # stable: equal values keep their order
        expected = n - 1 - np.argsort(x[:, ::-1], axis=1, kind="stable")[:, ::-1]
    else:
        expected = np.argsort(x, axis=1, kind="stable")
    got = array(indices).reshape(rows, n) if n else np.zeros((rows, 0), np.int64)
    np.testing.assert_array_equal(got, expected)
    if n:
        np.testing.assert_array_equal(
            np.frombuffer(sorted_values, dtype=dtype).reshape(rows, n),
            np.take_along_axis(x, expected, axis=1),
        )


def test_extern_errors() -> None:
    builder = ProgramBuilder(0)
    x = builder.input(8)
    with pytest.raises(ValueError, match="no runtime routine 'sart'; there are: sort"):
        builder.main.extern("sart", (x,))
    builder.main.extern("sort", (x, x, x), (1, 100, 3, 0))
    with pytest.raises(ValueError, match="too small for 100 elements of int32"):
        builder.build().bind_info()


def test_builder_errors(code: Code) -> None:
    builder = ProgramBuilder(1)
    x = builder.input(8)
    main = builder.main
    with pytest.raises(ValueError, match="no slot 7"):
        main.copy(7, x, 8)
    with pytest.raises(ValueError, match="is an input or a constant"):
        main.copy(x, x, 8)
    with pytest.raises(ValueError, match="no kernel 'ad'; it has: add, less"):
        main.launch(code, "ad", [((x, x, x), (), 1)])
    with pytest.raises(ValueError, match="at least one row"):
        main.launch(code, "add", [])
    with pytest.raises(ValueError, match="not an input"):
        builder.output(8, may_alias=5)
    with pytest.raises(ValueError, match="only 1 symbols"):
        builder.temp(["s1"])
    with pytest.raises(ValueError, match="'s'.*neither a symbol"):
        builder.temp(["s"])
    with pytest.raises(ValueError, match="lacks an operand"):
        builder.temp(["s0", "+"])
    with pytest.raises(ValueError, match="exactly one value"):
        builder.temp(["s0", 1])
    block = builder.block()
    block.sync()
    with pytest.raises(ValueError, match="not part of the program"):
        builder.build()
    with pytest.raises(ValueError, match="used once"):
        main.if_(x, block, block)


def test_expressions_have_floor_semantics() -> None:
    def evaluate(expression: list[int | str], *symbols: int) -> int:
        builder = ProgramBuilder(len(symbols))
        builder.input(expression)
        return builder.build().bind_info(symbols)["inputs"][0]

    assert evaluate(["s0", 3, "//", 100, "+"], -7) == 100 + -7 // 3
    assert evaluate(["s0", 3, "%"], -7) == -7 % 3
    assert evaluate(["s0", -3, "%", 100, "+"], 7) == 100 + 7 % -3
    assert evaluate(["s0", "s1", "min", 9, "max"], 4, 12) == 9
    with pytest.raises(ValueError, match="division by zero"):
        evaluate([1, "s0", "//"], 0)
    with pytest.raises(ValueError, match="exceeds 64 bits"):
        evaluate(["s0", "s0", "*"], 1 << 40)


def test_threads_run_one_program_at_once(code: Code) -> None:
    program = add_program(code)
    n = 20_000
    before = get_num_threads()
    set_num_threads(4)
    wrong: list[int] = []

    def work(seed: int) -> None:
        x, y = np.arange(n) * seed, np.arange(n) + seed
        for _ in range(20):
            (out,) = program.run([buffer(x), buffer(y)], (n,))
            if not np.array_equal(array(out), (x + y) * y):
                wrong.append(seed)

    try:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        set_num_threads(before)
    assert wrong == []
    assert program.counters()["runs"] == 100


def test_profile_records_steps(code: Code) -> None:
    program = add_program(code)
    inputs = [buffer([1]), buffer([2])]
    set_profile(True)
    try:
        program.run(inputs, (1,))
    finally:
        set_profile(False)
    records = take_profile()
    assert [(name, step) for name, step, _, _ in records] == [("add", 0), ("add", 1)]
    assert all(start <= end for _, _, start, end in records)
    program.run(inputs, (1,))
    assert take_profile() == []
