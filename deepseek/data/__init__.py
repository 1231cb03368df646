"""Datasets, samplers and the DataLoader, with PyTorch's names and defaults; readers of data."""

from deepseek.data.collate import default_collate, default_convert
from deepseek.data.dataset import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    random_split,
)
from deepseek.data.loader import DataLoader
from deepseek.data.readers import from_sklearn, read_idx
from deepseek.data.sampler import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from deepseek.data.worker import WorkerError, WorkerInfo, get_worker_info

__all__ = [
    "BatchSampler", "ChainDataset", "ConcatDataset", "DataLoader", "Dataset", "IterableDataset",
    "RandomSampler", "Sampler", "SequentialSampler", "Subset", "SubsetRandomSampler",
    "TensorDataset", "WeightedRandomSampler", "WorkerError", "WorkerInfo", "default_collate",
    "default_convert", "from_sklearn", "get_worker_info", "random_split", "read_idx",
]  # fmt: skip
