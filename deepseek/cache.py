"""`ds.cache`: what is kept of compiled programs and kernels, why lookups missed, how to forget.

    ds.cache.info()      the folder, how many entries, how large, how often they were used
    ds.cache.explain()   why the last lookups on disk found nothing
    ds.cache.clear()     forget all of it
    ds.cache.pack(path)  all of it in one file
    ds.cache.add(path)   what somebody packed, to be used here

`ds.counters` tells what was done in this process: `traces` functions traced, `programs` graphs put
through the passes, `kernels` kernels compiled. What the caches had counts in none of them. The
folder and its size are the options DS_CACHE and DS_CACHE_SIZE.
"""

from __future__ import annotations

from deepseek.compiler.caches import clear, counters, explain, info
from deepseek.compiler.store import add, pack

__all__ = ["add", "clear", "counters", "explain", "info", "pack"]
