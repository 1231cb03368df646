"""What PyTorch and NumPy call some functions of the array API: the same functions, once more.

Each other name is a function of deepseek and, where it is not a reduction's or a keyword, a method.
"""

from __future__ import annotations

from deepseek.ops import (
    bitwise,
    comparison,
    elementwise,
    reductions,
    transcendental,
    trigonometry,
)
from deepseek.ops.methods import method

__all__ = [
    "absolute", "amax", "amin", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2",
    "arctanh", "bitwise_not", "clamp", "eq", "fix", "ge", "gt", "le", "lt", "mul", "ne", "neg",
    "sub", "true_divide",
]  # fmt: skip

absolute = elementwise.abs
amax = reductions.max
amin = reductions.min
arccos = trigonometry.acos
arccosh = trigonometry.acosh
arcsin = trigonometry.asin
arcsinh = trigonometry.asinh
arctan = trigonometry.atan
arctan2 = trigonometry.atan2
arctanh = trigonometry.atanh
bitwise_not = bitwise.bitwise_invert
clamp = elementwise.clip
eq = comparison.equal
fix = transcendental.trunc
ge = comparison.greater_equal
gt = comparison.greater
le = comparison.less_equal
lt = comparison.less
mul = elementwise.multiply
ne = comparison.not_equal
neg = elementwise.negative
sub = elementwise.subtract
true_divide = elementwise.divide

for _name in __all__:
    method(_name, home=__name__)(globals()[_name])
