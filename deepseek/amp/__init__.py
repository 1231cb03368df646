"""Mixed precision: `autocast` chooses the dtypes of ops, `GradScaler` keeps gradients in range."""

from deepseek.amp.autocasting import autocast, get_autocast_dtype, is_autocast_enabled
from deepseek.optim.scaler import GradScaler

__all__ = ["GradScaler", "autocast", "get_autocast_dtype", "is_autocast_enabled"]
