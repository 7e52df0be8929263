"""Principal components of codes: a plane to look at paths in, directions to move along."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowprior.checks import check_count, check_shapes
from flowprior.errors import InputError

_ROUNDING = 1e-12  # of the whole variance; what is less is not there


@dataclass(frozen=True)
class Components:
    """The K principal components of codes with event shape *event, the largest first."""

    mean: Tensor  # (*event)
    directions: Tensor  # (K, *event), orthonormal
    scales: Tensor  # (K,), the codes' standard deviations along them
    shares: Tensor  # (K,), of the variance

    def coordinates(self, z: Tensor) -> Tensor:
        """(z - mean) along the directions, in standard deviations: (*batch, *event) -> (*batch, K)."""
        centered = (z - self.mean.to(z)).flatten(z.dim() - self.mean.dim())  # (*batch, D)
        return centered @ (self.directions.flatten(1) / self.scales[:, None]).T.to(z)

    def traverse(self, z: Tensor, values: Tensor) -> Tensor:
        """z (N, *event) where each coordinate in turn takes each of `values`: -> (K, V, N, *event).

        Values (V,) are in standard deviations; Fig. 7 of Morrow & Chiu takes -1.5 to 1.5.

        Raises:
            InputError: if a shape does not fit.
        """
        event = " ".join(map(str, self.mean.shape))
        check_shapes("", z=(z, f"N {event}"), values=(values, "V"))
        steps = values.to(z)[:, None, None] - self.coordinates(z)  # (V, N, K)
        moves = torch.einsum("vnk,kd->kvnd", steps, (self.directions.flatten(1) * self.scales[:, None]).to(z))
        return z + moves.unflatten(-1, z.shape[1:])


def principal_components(codes: Tensor, count: int = 2) -> Components:
    """The `count` directions along which codes (N, *event) vary most.

    Raises:
        InputError: if `count` is more than N - 1, the event's size, or the directions in which codes vary.

    >>> codes = torch.tensor([[3.0, 1.0], [-3.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
    >>> components = principal_components(codes)
    >>> components.directions.abs(), components.shares
    (tensor([[1., 0.],
            [0., 1.]]), tensor([0.9000, 0.1000]))
    """
    from sklearn.decomposition import PCA

    flat = codes.detach().cpu().double().flatten(1) if codes.dim() > 1 else codes.new_zeros(0, 0)
    most = min(len(flat) - 1, flat.shape[1])
    check_count("count", count, most=most, fix=f"codes of shape {tuple(codes.shape)} have no more")
    total = flat.var(0).sum()
    if not total.isfinite() or total == 0:
        raise InputError("`codes` hold NaN or infinity, or are all the same: they have no components.")
    fitted = PCA(count, svd_solver="covariance_eigh").fit(flat.numpy())
    variances = torch.from_numpy(fitted.explained_variance_)
    real = int((variances > _ROUNDING * total).sum())
    if real < count:
        raise InputError(f"`codes` vary along {real} directions, fewer than `count` (={count}).")
    return Components(
        torch.from_numpy(fitted.mean_).to(codes).view(codes.shape[1:]),
        torch.from_numpy(fitted.components_).to(codes).view(count, *codes.shape[1:]),
        variances.sqrt().to(codes),
        torch.from_numpy(fitted.explained_variance_ratio_).to(codes),
    )
