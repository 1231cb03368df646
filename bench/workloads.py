"""The rows of the table. A row is added here and nowhere else."""

from __future__ import annotations

import fnmatch
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from neutral import Ops, Spec, Sweep, Workload

# About what a vector of each takes in instructions; twice that stands beside multiply-adds.
EXP, ERF, DIVIDE = 20, 30, 8


def matrix(rows: int, columns: int, scale: float = 1.0) -> Spec:
    return Spec((rows, columns), scale)


def elementwise_chain(ops: Ops, x: Any, a: Any, b: Any, c: Any, r: Any) -> Any:
    return ops.gelu(x * a + b) * ops.sigmoid(c) + r


def softmax(ops: Ops, x: Any) -> Any:
    return ops.softmax(x)


def layer_norm(ops: Ops, weight: Any, bias: Any, x: Any) -> Any:
    return ops.layer_norm(x, weight, bias)


def cross_entropy(ops: Ops, logits: Any, labels: Any) -> Any:
    return ops.cross_entropy(logits, labels)


def matmul(ops: Ops, a: Any, b: Any) -> Any:
    return a @ b


def matmul_bias_gelu(ops: Ops, w: Any, b: Any, x: Any) -> Any:
    return ops.gelu(x @ w + b)


def add(ops: Ops, a: Any, b: Any) -> Any:
    return a + b


def add_all(ops: Ops, *terms: Any) -> Any:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def summed(axis: int) -> Callable[[Ops, Any], Any]:
    return lambda ops, x: ops.sum(x, axis)


def transposed(*axes: int) -> Callable[[Ops, Any], Any]:
    return lambda ops, x: ops.transpose(x, axes)


def joined(axis: int) -> Callable[..., Any]:
    return lambda ops, *tensors: ops.concat(tensors, axis)


def gather(ops: Ops, table: Any, rows: Any) -> Any:
    return ops.take(table, rows)


# A perceptron of 784-512-512-10, as weight and bias of each layer.

WIDTHS = (784, 512, 512, 10)
MLP = tuple(
    spec
    for a, b in zip(WIDTHS, WIDTHS[1:], strict=False)
    for spec in (matrix(a, b, a**-0.5), Spec((b,), 0.1))
)
MLP_FLOPS = sum(2 * a * b for a, b in zip(WIDTHS, WIDTHS[1:], strict=False))


def mlp(ops: Ops, w1: Any, b1: Any, w2: Any, b2: Any, w3: Any, b3: Any, x: Any) -> Any:
    return ops.relu(ops.relu(x @ w1 + b1) @ w2 + b2) @ w3 + b3


def mlp_loss(ops: Ops, *inputs: Any) -> Any:
    *model, labels = inputs
    return ops.cross_entropy(mlp(ops, *model), labels)


# A transformer over bytes, for how long it takes to compile: small, but of many ops.

VOCABULARY, WIDTH, HEADS, BATCH, TIME = 256, 64, 4, 4, 32
LAYER = (
    Spec((WIDTH,), 0.1), Spec((WIDTH,), 0.1), *(matrix(WIDTH, WIDTH, 0.1),) * 4,
    Spec((WIDTH,), 0.1), Spec((WIDTH,), 0.1),
    matrix(WIDTH, 4 * WIDTH, 0.1), Spec((4 * WIDTH,), 0.1),
    matrix(4 * WIDTH, WIDTH, 0.1), Spec((WIDTH,), 0.1),
)  # fmt: skip


def attend(ops: Ops, x: Any, wq: Any, wk: Any, wv: Any, wo: Any) -> Any:
    def heads(w: Any) -> Any:
        split = ops.reshape(x @ w, (BATCH, TIME, HEADS, WIDTH // HEADS))
        return ops.transpose(split, (0, 2, 1, 3))

    scores = heads(wq) @ ops.transpose(heads(wk), (0, 1, 3, 2)) * (WIDTH // HEADS) ** -0.5
    seen = ops.transpose(ops.softmax(scores) @ heads(wv), (0, 2, 1, 3))
    return ops.reshape(seen, (BATCH, TIME, WIDTH)) @ wo


def transformer_layer(ops: Ops, x: Any, *weights: Any) -> Any:
    n1, c1, wq, wk, wv, wo, n2, c2, w1, b1, w2, b2 = weights
    x = x + attend(ops, ops.layer_norm(x, n1, c1), wq, wk, wv, wo)
    return x + ops.gelu(ops.layer_norm(x, n2, c2) @ w1 + b1) @ w2 + b2


def transformer_loss(ops: Ops, embedding: Any, *inputs: Any) -> Any:
    *weights, tokens, following = inputs
    x = ops.take(embedding, tokens)
    for i in range(0, len(weights), len(LAYER)):
        x = transformer_layer(ops, x, *weights[i : i + len(LAYER)])
    logits = ops.reshape(x, (BATCH * TIME, WIDTH)) @ ops.transpose(embedding, (1, 0))
    return ops.cross_entropy(logits, following)


def transformer(layers: int, *without: str) -> Workload:
    parameters = (matrix(VOCABULARY, WIDTH, 0.3), *LAYER * layers)
    batch = (Spec((BATCH, TIME), below=VOCABULARY), Spec((BATCH * TIME,), below=VOCABULARY))
    return Workload(
        f"transformer {layers} layers step", (*parameters, *batch), transformer_loss,
        kind="training", parameters=len(parameters), tolerance=1e-2, limited=False, warm=True,
        without=frozenset({"numpy", "ours-reference", "torch-tuned", "ours-eager", *without}),
        about=f"width {WIDTH}, {BATCH} rows of {TIME}: for how long it takes to compile",
    )  # fmt: skip


def gathered(rows: int, count: int, width: int) -> Workload:
    """Random rows of a table that no cache holds; some are taken more than once."""
    distinct = round(rows * (1 - (1 - 1 / rows) ** count))
    inputs = (matrix(rows, width), Spec((count,), below=rows))
    name = f"gather {count} rows of {rows}x{width}"
    return Workload(name, inputs, gather, read=distinct * width * 4 + count * 8)


def product(m: int, k: int, n: int, batch: int = 0, **more: Any) -> Workload:
    lead = (batch,) if batch else ()
    name = f"{batch} of {m}x{k}x{n}" if batch else f"{m}x{k}x{n}"
    flops = 2.0 * m * k * n * max(batch, 1)
    inputs = (Spec((*lead, m, k)), Spec((*lead, k, n)))
    return Workload(f"matmul {name}", inputs, matmul, flops=flops, **more)


def odd_products() -> list[Workload]:
    """Forty shapes that no library was tuned for; the same forty each time."""
    rng = random.Random(0)
    odd = rng.randint
    shapes = [(1000, 1537, 333)]
    shapes += [(odd(65, 700), odd(65, 700), odd(65, 700)) for _ in range(11)]
    shapes += [(odd(1500, 6000), odd(17, 200), odd(17, 200)) for _ in range(7)]  # tall
    shapes += [(odd(17, 200), odd(17, 200), odd(1500, 6000)) for _ in range(7)]  # wide
    shapes += [(odd(2, 48), odd(1500, 6000), odd(2, 48)) for _ in range(3)]  # long sums
    shapes += [(1, odd(300, 3000), odd(300, 3000)) for _ in range(2)]
    shapes += [(odd(300, 3000), odd(300, 3000), 1) for _ in range(2)]
    batches = [(odd(3, 48), odd(3, 48), odd(3, 48), odd(30, 300)) for _ in range(7)]
    return [product(*shape, cold=False, without=SLOW_TO_TUNE) for shape in [*shapes, *batches]]


# torch.compile calls the product that eager torch calls, and would compile for each shape.
SLOW_TO_TUNE = frozenset({"ours-reference", "ours-eager", "torch-compile", "torch-tuned"})
INTERPRETED = frozenset({"ours-reference"})
N = 4096
PIXELS = N * N


def parameter_shapes(count: int, total: int) -> list[tuple[int, ...]]:
    """Shapes as those of a network: matrices that hold nearly everything, and vectors."""
    side = math.isqrt(total // (count // 2))
    return [(side, side) if i % 2 == 0 else (side,) for i in range(count)]


def update(name: str, shapes: Sequence[tuple[int, ...]], **more: Any) -> Workload:
    inputs = (*(Spec(shape) for shape in shapes), *(Spec(shape, 0.1) for shape in shapes))
    nbytes = 4 * sum(math.prod(shape) for shape in shapes)
    return Workload(
        name, inputs, kind="update", parameters=len(shapes), tolerance=1e-4,
        read=4 * nbytes, write=3 * nbytes, **more,
    )  # fmt: skip


def mlp_inference(batch: int, **more: Any) -> Workload:
    inputs = (*MLP, matrix(batch, WIDTHS[0]))
    return Workload(
        f"mlp batch {batch}", inputs, mlp, parameters=len(MLP), flops=batch * MLP_FLOPS, **more
    )


MLP_STEP = Workload(
    "mlp training step batch 128", (*MLP, matrix(128, WIDTHS[0]), Spec((128,), below=WIDTHS[-1])),
    mlp_loss, kind="training", parameters=len(MLP), tolerance=1e-2, quick=True, warm=True,
    # Backward multiplies twice, but not for the images' gradient.
    flops=128 * (3 * MLP_FLOPS - 2 * WIDTHS[0] * WIDTHS[1]),
    read=4 * sum(spec.nbytes for spec in MLP), write=3 * sum(spec.nbytes for spec in MLP),
)  # fmt: skip

WORKLOADS = [
    Workload(
        "elementwise chain 4096²", (matrix(N, N),) * 5, elementwise_chain,
        flops=2 * (EXP + ERF + DIVIDE + 5) * PIXELS,
        about="gelu(x*a+b) * sigmoid(c) + r",
    ),
    Workload("softmax 4096²", (matrix(N, N),), softmax, flops=2 * (EXP + 3) * PIXELS, quick=True),
    Workload(
        "layer_norm 4096x1024", (Spec((1024,)), Spec((1024,)), matrix(N, 1024)), layer_norm,
        parameters=2, flops=8 * N * 1024,
    ),
    Workload(
        "cross-entropy and gradient 4096x1024", (matrix(N, 1024), Spec((N,), below=1024)),
        cross_entropy, kind="gradient", parameters=1, flops=2 * (EXP + 4) * N * 1024,
    ),
    Workload("sum 4096² axis 0", (matrix(N, N),), summed(0)),
    Workload("sum 4096² axis 1", (matrix(N, N),), summed(1), quick=True),
    Workload("transpose 4096²", (matrix(N, N),), transposed(1, 0)),
    Workload("transpose 16x256x12x64 to heads", (Spec((16, 256, 12, 64)),), transposed(0, 2, 1, 3)),
    Workload("concat of 3 1024x2048 on axis 1", (matrix(1024, 2048),) * 3, joined(1)),
    gathered(500_000, 65536, 64),
    product(256, 256, 256, without=INTERPRETED),
    product(512, 512, 512, quick=True, without=INTERPRETED),
    product(1024, 1024, 1024, without=INTERPRETED),
    product(2048, 2048, 2048, without=INTERPRETED),
    Workload(
        "matmul 1024³ bias gelu", (matrix(1024, 1024, 1 / 32), Spec((1024,)), matrix(1024, 1024)),
        matmul_bias_gelu, parameters=2, flops=2.0 * 1024**3, without=INTERPRETED,
    ),
    mlp_inference(1, quick=True),
    mlp_inference(64),
    mlp_inference(1024),
    MLP_STEP,
    update("AdamW alone over 50 tensors of 10 M", parameter_shapes(50, 10_000_000)),
    Workload("call: add of 2 vectors of 4", (Spec((4,)),) * 2, add, limited=False, quick=True),
    Workload("call: sum of 20 vectors of 4", (Spec((4,)),) * 20, add_all, limited=False),
    update("call: AdamW over 50 vectors of 4", [(4,)] * 50, limited=False),
    transformer(2),
    transformer(12),
    transformer(24, "torch-compile"),  # which takes minutes
    *odd_products(),
]  # fmt: skip

BLOCK_WIDTH = 64
BLOCK = (
    Spec((BLOCK_WIDTH,)), Spec((BLOCK_WIDTH,)), matrix(BLOCK_WIDTH, 256, 0.1), Spec((256,), 0.1),
    matrix(256, BLOCK_WIDTH, 0.1), Spec((BLOCK_WIDTH,), 0.1),
)  # fmt: skip


def block(ops: Ops, n: Any, c: Any, w1: Any, b1: Any, w2: Any, b2: Any, x: Any) -> Any:
    return ops.softmax(x + ops.gelu(ops.layer_norm(x, n, c) @ w1 + b1) @ w2 + b2)


def some_shapes(count: int, *most: int) -> tuple[tuple[int, ...], ...]:
    """So many different shapes with sizes up to these, the same ones each time."""
    rng = random.Random(0)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < count:
        found[tuple(rng.randint(1, n) for n in most)] = None
    return tuple(found)


SWEEPS = [
    Sweep(
        "sizes: mlp at 50 batch sizes", MLP, tuple((n, 784) for (n,) in some_shapes(50, 256)), mlp,
        Spec((-1, 784)), without=frozenset({"ours-reference", "torch-tuned"}),
    ),
    Sweep(
        "sizes: block at 500 batch x sequence", BLOCK,
        tuple((*shape, BLOCK_WIDTH) for shape in some_shapes(500, 8, 96)), block,
        Spec((-1, -1, BLOCK_WIDTH)), without=frozenset({"ours-reference", "torch-tuned"}),
        about="softmax(x + gelu(layer_norm(x) @ w1 + b1) @ w2 + b2)",
    ),
]  # fmt: skip
BY_NAME = {row.name: row for row in (*WORKLOADS, *SWEEPS)}


def find(name: str) -> Any:
    return BY_NAME[name]


def chosen(patterns: str, quick: bool = False) -> list[Workload]:
    """Those whose name matches one of the patterns, separated by commas, or is a part of it."""
    named = [w for w in WORKLOADS if matches(w.name, patterns)]
    return [w for w in named if w.quick] if quick and not patterns else named


def chosen_sweeps(patterns: str, quick: bool = False) -> list[Sweep]:
    return [s for s in SWEEPS if matches(s.name, patterns) and (patterns or not quick)]


def matches(name: str, patterns: str) -> bool:
    """By its whole name, by a pattern, or else by a part of it; no pattern is for all."""
    wanted = [p.strip() for p in patterns.split(",") if p.strip()]
    return not wanted or any(
        name == p if p in BY_NAME else p in name or fnmatch.fnmatchcase(name, p) for p in wanted
    )
