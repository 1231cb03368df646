"""Layers, containers, losses: PyTorch's names, defaults, initial values and state-dict keys.

Each file says in `__all__` what is public.
"""

from deepseek.nn import (
    activation,
    attention,
    basic,
    checkpointing,
    container,
    conv,
    distance,
    dropouts,
    embeddings,
    functional,
    fusion,
    init,
    lazy,
    loss,
    many_classes,
    module,
    normalization,
    padding,
    parameter,
    pooling,
    recurrent,
    resizing,
    transformer,
    utils,
)
from deepseek.nn.activation import *
from deepseek.nn.attention import *
from deepseek.nn.basic import *
from deepseek.nn.checkpointing import *
from deepseek.nn.container import *
from deepseek.nn.conv import *
from deepseek.nn.distance import *
from deepseek.nn.dropouts import *
from deepseek.nn.embeddings import *
from deepseek.nn.fusion import *
from deepseek.nn.lazy import *
from deepseek.nn.loss import *
from deepseek.nn.many_classes import *
from deepseek.nn.module import *
from deepseek.nn.normalization import *
from deepseek.nn.padding import *
from deepseek.nn.parameter import *
from deepseek.nn.pooling import *
from deepseek.nn.recurrent import *
from deepseek.nn.resizing import *
from deepseek.nn.transformer import *

__all__ = ["functional", "init", "utils"]
__all__ += activation.__all__
__all__ += attention.__all__
__all__ += basic.__all__
__all__ += checkpointing.__all__
__all__ += container.__all__
__all__ += conv.__all__
__all__ += distance.__all__
__all__ += dropouts.__all__
__all__ += embeddings.__all__
__all__ += fusion.__all__
__all__ += lazy.__all__
__all__ += loss.__all__
__all__ += many_classes.__all__
__all__ += module.__all__
__all__ += normalization.__all__
__all__ += padding.__all__
__all__ += parameter.__all__
__all__ += pooling.__all__
__all__ += recurrent.__all__
__all__ += resizing.__all__
__all__ += transformer.__all__
