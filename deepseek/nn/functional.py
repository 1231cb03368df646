"""The functions behind the layers, under PyTorch's names: the op files that are about networks."""

from deepseek.ops import (
    activation,
    attend,
    bags,
    conv,
    ctc,
    distances,
    dropouts,
    grid_sampling,
    loss,
    loss_distance,
    loss_margin,
    nn,
    normalization,
    patches,
    pooling,
    pooling_sized,
    rectifiers,
    resample,
)
from deepseek.ops.activation import *
from deepseek.ops.attend import *
from deepseek.ops.bags import *
from deepseek.ops.conv import *
from deepseek.ops.ctc import *
from deepseek.ops.distances import *
from deepseek.ops.dropouts import *
from deepseek.ops.grid_sampling import *
from deepseek.ops.loss import *
from deepseek.ops.loss_distance import *
from deepseek.ops.loss_margin import *
from deepseek.ops.nn import *
from deepseek.ops.normalization import *
from deepseek.ops.padding import pad
from deepseek.ops.patches import *
from deepseek.ops.pooling import *
from deepseek.ops.pooling_sized import *
from deepseek.ops.products import bilinear
from deepseek.ops.rectifiers import *
from deepseek.ops.resample import *
from deepseek.ops.spelling import in_both_spellings
from deepseek.ops.transcendental import sigmoid, tanh
from deepseek.ops.view import flatten

__all__ = ["bilinear", "flatten", "pad", "sigmoid", "tanh"]
__all__ += activation.__all__
__all__ += attend.__all__
__all__ += bags.__all__
__all__ += conv.__all__
__all__ += ctc.__all__
__all__ += distances.__all__
__all__ += dropouts.__all__
__all__ += grid_sampling.__all__
__all__ += loss.__all__
__all__ += loss_distance.__all__
__all__ += loss_margin.__all__
__all__ += nn.__all__
__all__ += normalization.__all__
__all__ += patches.__all__
__all__ += pooling.__all__
__all__ += pooling_sized.__all__
__all__ += rectifiers.__all__
__all__ += resample.__all__

for _name in __all__:
    globals()[_name] = in_both_spellings(globals()[_name])
