"""What the compiler did and whether it was right: `ds.explain`, `ds.debug.bisect`, dumps, checks.

Importing it lets compilations be watched, as DS_DUMP and DS_VERIFY ask.
"""

from deepseek.debug.bisection import Finding, bisect
from deepseek.debug.explanation import Explanation, explain

__all__ = ["Explanation", "Finding", "bisect", "explain"]
