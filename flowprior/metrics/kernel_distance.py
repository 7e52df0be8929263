"""KID: a kernel distance that is unbiased, so that it serves small sets where a Fréchet distance does not."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flowprior.checks import check_count, check_shapes


@dataclass(frozen=True)
class KernelDistance:
    """Mean and standard deviation over random subsets; the mean may fall slightly below 0."""

    mean: float
    std: float
    samples: int
    real: int


def kernel_distance(
    samples: Tensor, real: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """The squared MMD with kernel (x.y / F + 1)^3 between features (N, F) and (M, F), over random subsets.

    Name it "kid" on Inception's features alone. The sum is torchmetrics'; the global random state is left
    alone. Source: Binkowski et al. 2018 (arXiv:1801.01401), section 4, eq. 4.

    Raises:
        InputError: if the features differ in number or a set is smaller than `subset_size`.
    """
    check_shapes("pass features of one network", samples=(samples, "N F"), real=(real, "M F"))
    fix = "the smaller set must hold as many samples"
    check_count("subset_size", subset_size, least=2, most=min(len(samples), len(real)), fix=fix)
    check_count("subsets", subsets)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*large memory footprint.*")  # the features fit already
        from torchmetrics.image.kid import KernelInceptionDistance

        metric = KernelInceptionDistance(nn.Identity(), subsets=subsets, subset_size=subset_size)
    metric.set_dtype(torch.float64)
    metric.update(samples.detach().cpu().double(), real=False)
    metric.update(real.detach().cpu().double(), real=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, std = metric.compute()
    return KernelDistance(mean.item(), std.item(), len(samples), len(real))
