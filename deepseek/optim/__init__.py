"""Optimizers with PyTorch's names, defaults and state-dict layout."""

from deepseek.nn.utils import clip_grad_norm_, clip_grad_value_
from deepseek.optim.adam import Adam, AdamW
from deepseek.optim.optimizer import Optimizer
from deepseek.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_grad_norm_", "clip_grad_value_"]
