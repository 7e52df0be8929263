"""Data sets as tensors on the device, batched by index."""

from flowprior.data.batches import Batches
from flowprior.data.dataset import Dataset
from flowprior.data.images import NAMES, Source

__all__ = ["NAMES", "Batches", "Dataset", "Source"]
