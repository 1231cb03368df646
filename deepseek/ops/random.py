"""Random numbers: one counter-based stream, the same bits on every backend.

`random_bits(seed, draw, shape)` is word 0 of Philox4x32-10 with key = seed and counter = (element,
draw): a pure function, so it fuses, repeats and differentiates like anything else. A Generator
hands out a new draw number for each call; inside `@ds.jit` the trace does, so that every run of the
step differs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from deepseek.errors import ArgumentError, TraceError, op_error, user_line
from deepseek.frontend.devices import checked_device
from deepseek.frontend.tensor import Tensor, from_numpy, record, state
from deepseek.ir import scalar
from deepseek.ir.dtype import DType, dtype_of, float32, float64, int64, uint32, uint64
from deepseek.ir.op import Kind, Sample
from deepseek.ir.scalar import Expr, call, cast, const
from deepseek.ir.shape import Shape, TensorType, broadcast, exprs, tensor_type
from deepseek.ir.shape import shape_of as given_shape
from deepseek.ops.create import finished, sizes
from deepseek.ops.define import FLOATS, converted, op_of, primitive, promoted, shape_of
from deepseek.ops.elementwise import maximum
from deepseek.ops.view import linear_index

__all__ = [
    "Generator", "bernoulli", "default_generator", "manual_seed", "normal", "rand", "rand_like",
    "randint", "randn", "randn_like", "random_bits", "randperm", "uniform",
]  # fmt: skip

Index = tuple[Expr, ...]

# Philox4x32-10 (Salmon, Moraes, Dror and Shaw, 2011).
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10


def _low(x: Expr) -> Expr:
    return cast(x, uint32)


def _high(x: Expr) -> Expr:
    return cast(call("shr", x, const(32, uint64)), uint32)


def philox(counter: tuple[Expr, Expr, Expr, Expr], key: tuple[Expr, Expr]) -> tuple[Expr, ...]:
    """The four words of one Philox4x32-10 block, as scalar expressions."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    m0, m1 = (const(m, uint32) for m in MULTIPLIERS)
    for _ in range(ROUNDS):
        high0, low0 = call("mulhi", m0, c0), call("mul", m0, c0)
        high1, low1 = call("mulhi", m1, c2), call("mul", m1, c2)
        c0, c1 = call("bitxor", call("bitxor", high1, c1), k0), low1
        c2, c3 = call("bitxor", call("bitxor", high0, c3), k1), low0
        k0, k1 = call("add", k0, const(WEYL[0], uint32)), call("add", k1, const(WEYL[1], uint32))
    return c0, c1, c2, c3


def _bits_meaning(
    index: Index, read: Any, inputs: tuple[TensorType, ...], out: TensorType, *, shape: Shape
) -> Expr:
    seed, draw = read(0, ()), cast(read(1, ()), uint64)
    at = linear_index(index, exprs(shape))
    high = cast(scalar.floordiv(at, const(2**32)), uint32)  # 0 wherever that can be proved
    words = philox((cast(at, uint32), high, _low(draw), _high(draw)), (_low(seed), _high(seed)))
    return words[0]


def philox_reference(counter: Any, key: Any) -> Any:
    """Philox4x32-10 on uint32 arrays: counter (..., 4), key (..., 2), result (..., 4)."""
    c = np.asarray(counter).astype(np.uint64)
    k = np.asarray(key).astype(np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    for i in range(ROUNDS):
        left, right = c[..., 0] * np.uint64(MULTIPLIERS[0]), c[..., 2] * np.uint64(MULTIPLIERS[1])
        bump = (k + np.array(WEYL, np.uint64) * np.uint64(i)) & mask
        c = np.stack(
            [
                (right >> np.uint64(32)) ^ c[..., 1] ^ bump[..., 0], right & mask,
                (left >> np.uint64(32)) ^ c[..., 3] ^ bump[..., 1], left & mask,
            ],
            axis=-1,
        )  # fmt: skip
    return c.astype(np.uint32)


def _bits_reference(seed: Any, draw: Any, *, shape: tuple[int, ...]) -> Any:
    at = np.arange(math.prod(shape), dtype=np.uint64)
    split = [np.uint64(0xFFFFFFFF), np.uint64(32)]
    key = np.uint64(seed)
    number = np.asarray(draw).astype(np.uint64)
    words = [at & split[0], at >> split[1], number & split[0], number >> split[1]]
    counter = np.stack(np.broadcast_arrays(*words), axis=-1)
    block = philox_reference(counter, np.array([key & split[0], key >> split[1]]))
    return block[..., 0].reshape(shape)


@primitive(
    Kind.RANDOM,
    infer=lambda seed, draw, *, shape: (tensor_type(uint32, shape),),
    meaning=_bits_meaning,
    reference=_bits_reference,
    samples=lambda: [
        Sample((np.uint64(0), np.int64(0)), {"shape": (37,)}),
        Sample((np.uint64(2**63 + 12345), np.int64(2**40 + 7)), {"shape": (3, 5, 2)}),
        Sample((np.uint64(1), np.int64(1)), {"shape": ()}),
        Sample((np.uint64(1), np.int64(1)), {"shape": (0, 3)}),
    ],
    takes=(uint32,),
)
def random_bits(seed: Tensor, draw: Tensor, /, shape: Any) -> Tensor:
    """Uniform uint32 bits: a pure function of seed (uint64), draw (int64) and the place.

    >>> seed, draw = ds.asarray(7, dtype=ds.uint64), ds.asarray(0)
    >>> ds.random_bits(seed, draw, (2, 3)).dtype
    deepseek.uint32
    """
    out: Tensor = record(op_of(random_bits), seed, draw, shape=given_shape(shape))
    return out


# -------------------------------------------------------------------------------------- generators


class Generator:
    """A stream of random numbers: a seed and how many draws were made from it.

    Each draw is a pure function of the two (Philox), the same on every backend and machine.

    >>> g = ds.Generator(7)
    >>> first = ds.rand(3, generator=g)
    >>> ds.allclose(first, ds.rand(3, generator=ds.Generator(7)))
    tensor(True)
    """

    def __init__(self, seed: int | None = None) -> None:
        self.draws = 0
        self.seed = int.from_bytes(os.urandom(8), "little") if seed is None else seed & (2**64 - 1)

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of a seed from its beginning."""
        self.seed = int(seed) & (2**64 - 1)
        self.draws = 0
        return self

    def initial_seed(self) -> int:
        """The seed the stream started from."""
        return self.seed

    def get_state(self) -> tuple[int, int]:
        """What `set_state` needs to go on from here."""
        return self.seed, self.draws

    def set_state(self, state: tuple[int, int]) -> None:
        """Go on from where `get_state` was called."""
        self.seed, self.draws = state

    def __repr__(self) -> str:
        return f"Generator(seed={self.seed}, draws={self.draws})"


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Start the default generator's stream from its beginning. Returns the generator.

    >>> _ = ds.manual_seed(0)
    >>> first = ds.rand(2)
    >>> _ = ds.manual_seed(0)
    >>> ds.allclose(first, ds.rand(2))
    tensor(True)
    """
    return default_generator.manual_seed(seed)


def next_draw(generator: Generator | None = None) -> tuple[Tensor, Tensor]:
    """(seed, draw) as 0-d tensors that no other call gets."""
    generator = default_generator if generator is None else generator
    if state.trace is not None:
        draw = getattr(state.trace, "draw", None)
        if draw is None:
            raise TraceError(
                "a random number is drawn here where the same one would be used for ever\n"
                "  help: draw it outside and pass it in"
            )
        seed, number = draw(generator)
        return seed, number
    generator.draws += 1
    return (
        from_numpy(np.uint64(generator.seed), uint64),
        from_numpy(np.int64(generator.draws), int64),
    )


# ----------------------------------------------------------------------------------- distributions


def fraction(bits: Tensor, dtype: DType) -> Tensor:
    """Bits as numbers in [0, 1), exact in the dtype. Float64 takes two words on the first axis."""
    if dtype is float64:
        words = bits.astype(float64)
        high, low = (words[0] / 32).floor(), (words[1] / 64).floor()
        return (high * 2.0**26 + low) * 2.0**-53
    digits = {16: 11, 32: 24}[dtype.bits] if dtype.name != "bfloat16" else 8
    out: Tensor = (bits >> (32 - digits)).astype(dtype) * 2.0**-digits
    return out


def uniform_like(x: Tensor, seed: Tensor, draw: Tensor) -> Tensor:
    """Numbers in [0, 1) of x's shape and dtype, of 24 bits each: a pure function."""
    return converted(fraction(random_bits(seed, draw, shape_of(x)), float32), x.dtype)


def uniform_reference(seed: Any, draw: Any, shape: tuple[int, ...]) -> Any:
    """`uniform_like` in NumPy."""
    return (_bits_reference(seed, draw, shape=shape) >> np.uint32(8)) * 2.0**-24


def _uniform(shape: Shape, dtype: DType, generator: Generator | None) -> Tensor:
    seed, draw = next_draw(generator)
    return fraction(random_bits(seed, draw, (2, *shape) if dtype is float64 else shape), dtype)


def gumbel(shape: Shape, *, dtype: DType, generator: Generator | None = None) -> Tensor:
    """Numbers drawn from the standard Gumbel distribution."""
    carried = dtype.accumulator
    # Half a step for 0, whose logarithm is not finite.
    u = maximum(_uniform(shape, carried, generator), 2.0 ** (-54 if carried is float64 else -25))
    return converted(-(-u.log()).log(), dtype)


def _normal(shape: Shape, dtype: DType, generator: Generator | None) -> Tensor:
    """Box-Muller: a radius and an angle for each element."""
    carried = dtype.accumulator
    seed, draw = next_draw(generator)
    bits = random_bits(seed, draw, (4 if carried is float64 else 2, *shape))
    if carried is float64:
        first, second = fraction(bits[:2], carried), fraction(bits[2:], carried)
    else:
        first, second = fraction(bits[0], carried), fraction(bits[1], carried)
    radius = (-2.0 * (1.0 - first).log()).sqrt()
    return converted(radius * (second * (2 * math.pi)).cos(), dtype)


def _float(op: str, dtype: Any) -> DType:
    made = float32 if dtype is None else dtype_of(dtype)
    if not made.is_float:
        raise op_error(ArgumentError, op, f"dtype {made}", "a float dtype", user_line())
    return made


def uniform(
    low: float = 0.0, high: float = 1.0, size: Any = (), *, dtype: Any = None,
    generator: Generator | None = None, device: Any = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Numbers drawn evenly from [low, high). Raises ArgumentError where low is above high.

    >>> x = ds.uniform(2.0, 3.0, (100,))
    >>> ds.all((x >= 2) & (x < 3))
    tensor(True)
    """
    checked_device(device)
    if low > high:
        got = f"low={low} and high={high}"
        raise op_error(ArgumentError, "uniform", got, "low <= high", user_line())
    x = _uniform(given_shape(size), _float("uniform", dtype), generator)
    return finished(x * (high - low) + low, requires_grad, device)


def rand(
    *size: Any, dtype: Any = None, generator: Generator | None = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Numbers drawn evenly from [0, 1), float32 by default.

    >>> ds.rand(2, 3).shape
    (2, 3)
    """
    checked_device(device)
    shape = given_shape(sizes(size))
    return finished(_uniform(shape, _float("rand", dtype), generator), requires_grad, device)


def randn(
    *size: Any, dtype: Any = None, generator: Generator | None = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Numbers drawn from the normal distribution with mean 0 and variance 1, float32 by default.

    >>> ds.randn(2, 3).shape
    (2, 3)
    """
    checked_device(device)
    shape = given_shape(sizes(size))
    return finished(_normal(shape, _float("randn", dtype), generator), requires_grad, device)


def normal(
    mean: Tensor | float = 0.0, std: Tensor | float = 1.0, size: Any = None, *, dtype: Any = None,
    generator: Generator | None = None, device: Any = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Numbers drawn from the normal distribution with the given mean and standard deviation.

    Without a size there is one, or one for each of the means and deviations, which broadcast.
    Raises ArgumentError for an std below 0.

    >>> ds.normal(10.0, 0.5, (2, 3)).shape
    (2, 3)
    """
    checked_device(device)
    if not isinstance(std, Tensor) and std < 0:
        raise op_error(ArgumentError, "normal", f"std={std}", "0 or more", user_line())
    given = [shape_of(v) for v in (mean, std) if isinstance(v, Tensor)]
    shape = broadcast(given) if size is None else given_shape(size)
    x = _normal(shape, _float("normal", dtype), generator)
    return finished(x * std + mean, requires_grad, device)


def randint(
    low: int, high: int | None = None, size: Any = (), *, dtype: Any = int64,
    generator: Generator | None = None, device: Any = None,
) -> Tensor:  # fmt: skip
    """Integers drawn evenly from low <= i < high; from 0 where only one bound is given.

    Raises ArgumentError unless low < high <= low + 2**32.

    >>> ds.randint(5, 6, (3,))
    tensor([5, 5, 5])
    """
    checked_device(device)
    if high is None:
        low, high = 0, low
    span = high - low
    if not 0 < span <= 2**32:
        raise op_error(
            ArgumentError, "randint", f"low={low}, high={high}", "low < high <= low + 2**32",
            user_line(),
        )  # fmt: skip
    seed, draw = next_draw(generator)
    wide = random_bits(seed, draw, given_shape(size)).astype(uint64)
    made = converted(((wide * span) >> 32).astype(int64) + low, dtype_of(dtype))
    return finished(made, False, device)


def bernoulli(p: Tensor, /, *, generator: Generator | None = None) -> Tensor:
    """1 with probability p and else 0, for each element of p, in its dtype.

    >>> ds.bernoulli(ds.asarray([0.0, 1.0]))
    tensor([0., 1.])
    """
    (p,) = promoted("bernoulli", (p,), FLOATS)
    carried = p.dtype.accumulator
    return converted(_uniform(shape_of(p), carried, generator) < converted(p, carried), p.dtype)


def randperm(
    n: int, /, *, dtype: Any = int64, generator: Generator | None = None, device: Any = None
) -> Tensor:
    """0 ... n - 1 in random order.

    >>> ds.sort(ds.randperm(4))
    tensor([0, 1, 2, 3])
    """
    checked_device(device)
    seed, draw = next_draw(generator)
    made = converted(random_bits(seed, draw, (n,)).argsort(), dtype_of(dtype))
    return finished(made, False, device)


def _like(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def like(
        x: Tensor, /, *, dtype: Any = None, generator: Generator | None = None,
        device: Any = None, requires_grad: bool = False,
    ) -> Tensor:  # fmt: skip
        made = x.dtype if dtype is None else dtype
        device = x._value.type.device if device is None else device
        return draw(
            shape_of(x), dtype=made, generator=generator, device=device, requires_grad=requires_grad
        )

    like.__name__ = like.__qualname__ = f"{draw.__name__}_like"
    like.__doc__ = f"""`{draw.__name__}` of x's shape and (by default) dtype.

    >>> ds.{like.__name__}(ds.zeros(2, 3)).shape
    (2, 3)
    """
    return like


rand_like = _like(rand)
randn_like = _like(randn)
