"""Every public function of the op files, in one flat namespace: each file says in `__all__` which.

Importing it fills the registry and gives Tensor its methods.
"""

from deepseek.ops import (
    activation,
    arithmetic,
    attend,
    axes,
    bags,
    bitwise,
    comparison,
    contract,
    contracting,
    control,
    conv,
    conversions,
    create,
    ctc,
    data_types,
    decompositions,
    diagonals,
    differences,
    distances,
    distributions,
    dropouts,
    elementwise,
    exponentials,
    float_parts,
    grid_sampling,
    grids,
    host,
    in_place,
    index,
    indexing,
    joining,
    linalg,
    logic,
    loss,
    loss_distance,
    loss_margin,
    nn,
    normalization,
    ordering,
    other_names,
    padding,
    patches,
    pooling,
    pooling_sized,
    prefix,
    products,
    quantiles,
    random,
    rectifiers,
    recurrent,
    reduce,
    regions,
    resample,
    scattering,
    searching,
    selection,
    slicing,
    special,
    special_gamma,
    splitting,
    statistics,
    transcendental,
    trigonometry,
    vector_norms,
    view,
    window,
    windowed,
)
from deepseek.ops.activation import *
from deepseek.ops.arithmetic import *
from deepseek.ops.attend import *
from deepseek.ops.axes import *
from deepseek.ops.bags import *
from deepseek.ops.bitwise import *
from deepseek.ops.comparison import *
from deepseek.ops.contract import *
from deepseek.ops.contracting import *
from deepseek.ops.control import *
from deepseek.ops.conv import *
from deepseek.ops.conversions import *
from deepseek.ops.create import *
from deepseek.ops.ctc import *
from deepseek.ops.data_types import *
from deepseek.ops.decompositions import *
from deepseek.ops.diagonals import *
from deepseek.ops.differences import *
from deepseek.ops.distances import *
from deepseek.ops.distributions import *
from deepseek.ops.dropouts import *
from deepseek.ops.elementwise import *
from deepseek.ops.exponentials import *
from deepseek.ops.float_parts import *
from deepseek.ops.grid_sampling import *
from deepseek.ops.grids import *
from deepseek.ops.host import *
from deepseek.ops.in_place import *
from deepseek.ops.index import *
from deepseek.ops.indexing import *
from deepseek.ops.joining import *
from deepseek.ops.logic import *
from deepseek.ops.loss import *
from deepseek.ops.loss_distance import *
from deepseek.ops.loss_margin import *
from deepseek.ops.nn import *
from deepseek.ops.normalization import *
from deepseek.ops.ordering import *
from deepseek.ops.other_names import *
from deepseek.ops.padding import *
from deepseek.ops.patches import *
from deepseek.ops.pooling import *
from deepseek.ops.pooling_sized import *
from deepseek.ops.prefix import *
from deepseek.ops.products import *
from deepseek.ops.quantiles import *
from deepseek.ops.random import *
from deepseek.ops.rectifiers import *
from deepseek.ops.recurrent import *
from deepseek.ops.reduce import *
from deepseek.ops.regions import *
from deepseek.ops.resample import *
from deepseek.ops.scattering import *
from deepseek.ops.searching import *
from deepseek.ops.selection import *
from deepseek.ops.slicing import *
from deepseek.ops.special import *
from deepseek.ops.special_gamma import *
from deepseek.ops.spelling import in_both_spellings
from deepseek.ops.splitting import *
from deepseek.ops.statistics import *
from deepseek.ops.transcendental import *
from deepseek.ops.trigonometry import *
from deepseek.ops.vector_norms import *
from deepseek.ops.view import *
from deepseek.ops.window import *
from deepseek.ops.windowed import *

__all__: list[str] = ["linalg"]
__all__ += activation.__all__
__all__ += arithmetic.__all__
__all__ += attend.__all__
__all__ += axes.__all__
__all__ += bags.__all__
__all__ += bitwise.__all__
__all__ += comparison.__all__
__all__ += contract.__all__
__all__ += contracting.__all__
__all__ += control.__all__
__all__ += conv.__all__
__all__ += conversions.__all__
__all__ += create.__all__
__all__ += ctc.__all__
__all__ += data_types.__all__
__all__ += distances.__all__
__all__ += distributions.__all__
__all__ += decompositions.__all__
__all__ += diagonals.__all__
__all__ += differences.__all__
__all__ += dropouts.__all__
__all__ += elementwise.__all__
__all__ += exponentials.__all__
__all__ += float_parts.__all__
__all__ += grid_sampling.__all__
__all__ += grids.__all__
__all__ += host.__all__
__all__ += in_place.__all__
__all__ += index.__all__
__all__ += indexing.__all__
__all__ += joining.__all__
__all__ += logic.__all__
__all__ += loss.__all__
__all__ += loss_distance.__all__
__all__ += loss_margin.__all__
__all__ += nn.__all__
__all__ += normalization.__all__
__all__ += ordering.__all__
__all__ += other_names.__all__
__all__ += padding.__all__
__all__ += patches.__all__
__all__ += pooling.__all__
__all__ += pooling_sized.__all__
__all__ += prefix.__all__
__all__ += products.__all__
__all__ += quantiles.__all__
__all__ += random.__all__
__all__ += rectifiers.__all__
__all__ += recurrent.__all__
__all__ += reduce.__all__
__all__ += regions.__all__
__all__ += resample.__all__
__all__ += scattering.__all__
__all__ += searching.__all__
__all__ += selection.__all__
__all__ += slicing.__all__
__all__ += special.__all__
__all__ += special_gamma.__all__
__all__ += splitting.__all__
__all__ += statistics.__all__
__all__ += transcendental.__all__
__all__ += trigonometry.__all__
__all__ += vector_norms.__all__
__all__ += view.__all__
__all__ += window.__all__
__all__ += windowed.__all__

for _name in __all__:
    globals()[_name] = in_both_spellings(globals()[_name])
