"""Data sets as tensors on the device, batched by index."""

from flowprior.data.batches import Batches
from flowprior.data.dataset import Dataset, Split
from flowprior.data.images import Source
from flowprior.data.pictures import Pictures

__all__ = ["Batches", "Dataset", "Pictures", "Source", "Split"]
