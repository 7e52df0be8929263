"""Fréchet distances between sets of images, in the feature space of any network, in float64."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flowprior.checks import check_count, check_finite, check_shapes
from flowprior.errors import InputError
from flowprior.metrics.cache import cached, fingerprint
from flowprior.metrics.features import FeatureNetwork, extract


class FewSamplesWarning(UserWarning):
    """Fewer samples than features: the covariance is singular and the distance is biased upwards."""


@dataclass(frozen=True)
class FeatureStatistics:
    """Count, mean and scatter of features (N, F), float64; `a + b` are the statistics of the joined sets.

    The scatter matrix is sum_i (f_i - mean)(f_i - mean)^T; sums of statistics are exact (Chan, Golub and
    LeVeque 1983), so a set can be taken in chunks of any size.

    >>> features = torch.arange(12.0).reshape(6, 2) ** 2
    >>> whole = FeatureStatistics.of(features)
    >>> parts = FeatureStatistics.of(features[:1]) + FeatureStatistics.of(features[1:])
    >>> torch.allclose(whole.covariance, parts.covariance), parts.count
    (True, 6)
    """

    count: int
    mean: Tensor  # (F,)
    scatter: Tensor  # (F, F)

    @staticmethod
    def of(features: Tensor) -> "FeatureStatistics":
        """The statistics of one chunk of features (N, F), N >= 1; an `InputError` if one is not finite."""
        check_shapes("", features=(features, "N>0 F"))
        check_finite("features", features, "check the images and the network")
        values = (features.cpu() if features.device.type == "mps" else features).detach().double()
        mean = values.mean(0)
        centered = values - mean
        return FeatureStatistics(len(values), mean, centered.T @ centered)

    def __add__(self, other: "FeatureStatistics") -> "FeatureStatistics":
        count = self.count + other.count
        shift = other.mean - self.mean
        between = torch.outer(shift, shift) * (self.count * other.count / count)
        mean = self.mean + shift * (other.count / count)
        return FeatureStatistics(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance (F, F); an `InputError` with fewer than two samples."""
        check_count("count", self.count, least=2, fix="a covariance needs two samples")
        return self.scatter / (self.count - 1)


def statistics(
    images: Tensor | Iterable[Tensor], network: FeatureNetwork | None = None, *, batch_size: int = 128
) -> FeatureStatistics:
    """Feature statistics of images (N, C, H, W), or of features (N, F) when there is no `network`.

    `images` is one tensor or an iterable of chunks, which is read once and never held as a whole.

    Raises:
        InputError: if there are no images, or they are not what `extract` takes.
    """
    total: FeatureStatistics | None = None
    for chunk in (images,) if isinstance(images, Tensor) else images:
        for features in (chunk,) if network is None else extract(chunk, network, batch_size=batch_size):
            part = FeatureStatistics.of(features)
            total = part if total is None else total + part
    if total is None:
        raise InputError("`images` is empty but must hold two images or more.")
    return FeatureStatistics(total.count, total.mean.cpu(), total.scatter.cpu())


def cached_statistics(
    images: Tensor, network: FeatureNetwork, *, data_fingerprint: str | None = None, batch_size: int = 128
) -> FeatureStatistics:
    """`statistics` of a fixed set, kept in the cache folder by the data and the network's identity.

    `data_fingerprint` is the data set's own when it has one; by default it is computed from the images.
    """

    def compute() -> dict[str, Tensor]:
        total = statistics(images, network, batch_size=batch_size)
        return {"count": torch.tensor(total.count), "mean": total.mean, "scatter": total.scatter}

    data = data_fingerprint or fingerprint(images)
    kept = cached("statistics", f"{data} first {len(images)} | {network.identity}", compute)
    return FeatureStatistics(int(kept["count"]), kept["mean"], kept["scatter"])


def cached_features(images: Tensor, network: FeatureNetwork, *, data_fingerprint: str) -> Tensor:
    """Features (N, F) of a fixed set, on the CPU, kept in the cache folder as `cached_statistics` are."""

    def compute() -> dict[str, Tensor]:
        return {"features": torch.cat([part.cpu() for part in extract(images, network)])}

    key = f"{data_fingerprint} first {len(images)} | {network.identity}"
    return cached("features", key, compute)["features"]


def frechet_error(features: Tensor, real: FeatureStatistics, *, resamples: int = 20, seed: int = 0) -> float:
    """The bootstrap standard error of `frechet_distance` for features (N, F): its spread over resampled rows.

    It says how far another draw of as many samples would lie; the bias of the distance is not in it.
    Source: Efron 1979.

    Raises:
        InputError: if there are fewer than two features or resamples.
    """
    check_count("resamples", resamples, least=2)
    check_shapes("", features=(features, "N>1 F"))
    generator = torch.Generator().manual_seed(seed)
    picks = (torch.randint(len(features), (len(features),), generator=generator) for _ in range(resamples))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewSamplesWarning)  # said for the distance itself
        drawn = [frechet_distance(FeatureStatistics.of(features[pick]), real) for pick in picks]
    return torch.tensor(drawn, dtype=torch.float64).std().item()


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) in float64.

    The trace of the root is the sum of the roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2), which is
    symmetric: no complex parts, no failure on singular covariances; rounding below zero is cut off.
    Source: Heusel et al. 2017 (arXiv:1706.08500), section 4, eq. 6.

    Raises:
        InputError: if the feature counts differ or a set has fewer than two samples.

    Warns:
        FewSamplesWarning: if a set has no more samples than features.
    """
    if a.mean.shape != b.mean.shape:
        counts = f"{len(a.mean)} and {len(b.mean)} features"
        raise InputError(f"`a` and `b` have {counts} but must come from the same network.")
    fewest = min(a.count, b.count)
    if fewest <= len(a.mean):
        few = f"a Fréchet distance of {len(a.mean)} features from {fewest} samples is biased upwards"
        warnings.warn(f"{few}: compare it only with as many samples.", FewSamplesWarning, stacklevel=2)
    cov_a, cov_b = a.covariance, b.covariance
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = root @ cov_b @ root
    trace_of_root = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    shift = a.mean - b.mean
    distance = shift @ shift + cov_a.trace() + cov_b.trace() - 2 * trace_of_root
    return max(distance.item(), 0.0)


@dataclass(frozen=True)
class FrechetResult:
    """A Fréchet distance with what its value depends on."""

    metric: str  # "fid", "fd_squeezenet", "fd_classifier"
    value: float
    samples: int
    real: int
    resize: str
    checksum: str  # SHA-256 of the network's weights
    facts: dict[str, float | int | str] = field(default_factory=dict)  # e.g. the classifier's test accuracy


def frechet(
    samples: Tensor | Iterable[Tensor], real: Tensor | FeatureStatistics, network: FeatureNetwork,
    *, batch_size: int = 128,
) -> FrechetResult:  # fmt: skip
    """The Fréchet distance of `samples` from `real` images, named after the network that sees both.

    Take `cached_statistics(test_images, network)` as `real` to extract the real features once for all.

    Raises:
        InputError: as `statistics` and `frechet_distance`.
    """
    theirs = real if isinstance(real, FeatureStatistics) else statistics(real, network, batch_size=batch_size)
    ours = statistics(samples, network, batch_size=batch_size)
    value, depends = frechet_distance(ours, theirs), (network.resize, network.checksum, network.facts)
    return FrechetResult(network.metric, value, ours.count, theirs.count, *depends)
