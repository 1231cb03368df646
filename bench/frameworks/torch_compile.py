"""PyTorch with torch.compile, as it comes and tuned."""

from __future__ import annotations

import torch
from frameworks.torch_eager import Torch
from neutral import Framework

VARIANTS = {
    "torch-compile": {
        "label": "torch.compile",
        "environment": {"OMP_NUM_THREADS": "{threads}", "TORCHINDUCTOR_CACHE_DIR": "{cache}"},
        "allocator": True,
    },
    "torch-tuned": {
        "label": "torch.compile max-autotune",
        "environment": {"OMP_NUM_THREADS": "{threads}", "TORCHINDUCTOR_CACHE_DIR": "{cache}"},
        "once": True,  # what it tunes costs a minute for each number of threads
    },
}
MODES = {"torch-compile": "default", "torch-tuned": "max-autotune"}


def make(variant: str, threads: int) -> Framework:
    mode = MODES[variant]
    return Torch(threads, lambda function: torch.compile(function, mode=mode), fused=False)
