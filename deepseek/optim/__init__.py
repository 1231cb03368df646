"""Optimizers with PyTorch's names, defaults and state-dict layout."""

from deepseek.nn.utils import clip_grad_norm_, clip_grad_value_
from deepseek.optim import lr_scheduler, swa_utils
from deepseek.optim.adagrad import Adadelta, Adagrad, RMSprop
from deepseek.optim.adam import Adam, Adamax, AdamW, NAdam, RAdam
from deepseek.optim.large import LAMB, Adafactor, Lion
from deepseek.optim.lbfgs import LBFGS
from deepseek.optim.optimizer import Optimizer
from deepseek.optim.scaler import GradientScaler
from deepseek.optim.sgd import ASGD, SGD, Rprop
from deepseek.optim.swa_utils import EMA

__all__ = [
    "ASGD", "EMA", "LAMB", "LBFGS", "SGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW",
    "Adamax", "GradientScaler", "Lion", "NAdam", "Optimizer", "RAdam", "RMSprop", "Rprop",
    "clip_grad_norm_", "clip_grad_value_", "lr_scheduler", "swa_utils",
]  # fmt: skip
