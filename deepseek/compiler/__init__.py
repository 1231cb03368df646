"""From recorded graphs to running programs: compiling, caching, tiers, and `@ds.jit`.

Importing it gives pending tensors somebody who computes them.
"""

from deepseek.compiler import tiers

__all__ = ["tiers"]
