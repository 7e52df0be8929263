"""`fit_images`: a prior on the codes that a pretrained autoencoder gives to images."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowprior.checks import check_count, check_images, check_number
from flowprior.errors import InputError
from flowprior.files import write_array
from flowprior.models.pretrained_autoencoders import Codec, as_codec
from flowprior.priors.flow import FlowPrior
from flowprior.priors.prior import Prior
from flowprior.tensors import as_input
from flowprior.training.fit import fit
from flowprior.training.fitting import FitResult
from flowprior.training.image_prior import CHUNK, ImagePrior

NOISES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)  # of codes with unit variance
PROBE = 256  # images that scans look at
_FLAT = 1e-4  # a principal variance below this share of the mean one is none


class Scan(NamedTuple):
    """What a change of codes costs their reconstruction."""

    value: float  # the noise, or the number of channels
    psnr: float  # decibels against the images


def fit_images(
    autoencoder: Any,
    images: Tensor,
    *,
    prior: Callable[[tuple[int, ...]], Prior] | None = None,
    context: Tensor | None = None,
    noise: float | None = None,
    most_loss: float = 1.0,
    channels: int | None = None,
    cache: str | Path | None = None,
    say: Callable[[str], None] = print,
    **training: Any,
) -> tuple[ImagePrior, FitResult]:
    """Fit a prior to the codes of `images` under a pretrained autoencoder: argmin mean -log p(z).

    Codes are computed once, standardized by channel, and get fixed Gaussian noise, which the decoder must
    bear and a density needs, as codes may lie on a surface. The flow then whitens them fully.

    Args:
        autoencoder: see `as_codec`.
        images: (N, C, H, W), floats in [0, 1] or bytes.
        prior: makes a prior for an event shape; by default a transformer flow on maps of two positions
            or more, and "glf" on anything else.
        context: (N, ...) for a conditional prior.
        noise: σ in units of a code's standard deviation; None for the largest of `NOISES` that costs the
            reconstruction of 256 images at most `most_loss` decibels.
        channels: keep so many principal channels of the codes, whose cost is told; None for those that vary.
        cache: a folder for the codes, in shards; codes that are there already are read, not computed.
        say: takes each line of what was found.
        training: the other arguments of `fit`.

    Raises:
        InputError: if images, autoencoder or an argument do not fit.
    """
    codec = as_codec(autoencoder)
    check_images("images", images)
    check_number("most_loss", most_loss, above=0)
    codes = encoded(codec, images, None if cache is None else Path(cache))
    if codes.dim() < 2:
        raise InputError(f"`autoencoder` gives codes of shape {tuple(codes.shape[1:])}, but needs channels.")
    mean, basis, inverse = principal_channels(codes, channels, say)
    shape = (basis.shape[1], *codes.shape[2:])
    pipeline = ImagePrior((prior or default_prior)(tuple(shape)), codec, mean, basis, inverse)
    z = pipeline.to_z(codes)
    probe, seen = images[:PROBE], z[:PROBE]
    if basis.shape[0] != basis.shape[1]:
        whole = psnr(torch.cat([codec.decode(part) for part in codes[:PROBE].split(CHUNK)]), probe)
        less = psnr(pipeline.decode(seen), probe)
        say(f"{basis.shape[1]} of {basis.shape[0]} channels: {less:.2f} dB, all of them {whole:.2f} dB")
    if noise is None:
        scan = scan_noise(pipeline, probe, seen)
        say("noise (dB): " + ", ".join(f"{each.value:g} ({each.psnr:.2f})" for each in scan))
        noise = max(each.value for each in scan if each.psnr >= scan[0].psnr - most_loss)
    pipeline.std = check_number("noise", noise, least=0)
    say(f"noise on codes: {noise:g}")
    generator = torch.Generator().manual_seed(training.get("seed", 0))
    z = z + noise * torch.randn(z.shape, generator=generator)
    result = fit(pipeline.prior, z, context, **training)
    return pipeline, result


def default_prior(shape: tuple[int, ...]) -> Prior:
    """A transformer flow where there are positions, else "glf"."""
    several = len(shape) == 3 and shape[1] * shape[2] > 1
    return FlowPrior(shape, recipe="transformer" if several else "glf")


def encoded(codec: Codec, images: Tensor, cache: Path | None, shard: int = 4096) -> Tensor:
    """The codes of images (N, C, H, W), in float32; in shards under `cache`, which are read if they fit.

    A shard is named by the bytes of its images and by the autoencoder's weights, and written whole or not at
    all: an interrupted encoding goes on where it was. The shards are memory-mapped.
    """
    parts = []
    weights = _digest(*codec.state_dict().values()) if cache is not None else ""
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
    for rows in images.split(shard):
        path = None if cache is None else cache / f"{_digest(rows)[:16]}-{weights[:16]}.npy"
        if path is not None and path.is_file():
            parts.append(torch.from_numpy(np.load(path, mmap_mode="c")))
            continue
        codes = torch.cat([codec.encode(as_input(part)).float() for part in rows.split(CHUNK)])
        if path is not None:
            write_array(path, codes, "codes")
        parts.append(codes)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def principal_channels(
    codes: Tensor, channels: int | None, say: Callable[[str], None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), basis (C, K) and its left inverse (K, C) of codes (N, C, ...): see `ImagePrior`.

    The rank is the number of principal variances, of the standardized channels, above 1e-4 of their mean.
    """
    count = codes.shape[1]
    rows = codes.transpose(0, 1).flatten(1).double()  # (C, N positions)
    mean, std = rows.mean(1), rows.std(1, correction=0)
    constant = std <= 1e-7 * mean.abs().clamp(min=1e-30)
    std = torch.where(constant, 1.0, std)
    standard = (rows - mean[:, None]) / std[:, None]
    variances, directions = torch.linalg.eigh(standard @ standard.T / rows.shape[1])
    rank = int((variances > _FLAT * variances.mean()).sum())
    say(f"channels: {count}, of which {rank} are independent")
    kept = rank if channels is None else check_count("channels", channels, most=count)
    if kept == count:
        return mean.float(), std.diag().float(), std.reciprocal().diag().float()
    largest = directions[:, -kept:].flip(1)  # (C, K)
    scale = variances[-kept:].flip(0).clamp(min=1e-12).sqrt()
    basis = std[:, None] * largest * scale
    return mean.float(), basis.float(), (largest / scale / std[:, None]).T.float()


def scan_noise(pipeline: ImagePrior, images: Tensor, z: Tensor) -> list[Scan]:
    """What each of `NOISES` on z costs the reconstruction of images."""
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    return [Scan(std, psnr(pipeline.decode(z + std * noise), images)) for std in NOISES]


def psnr(images: Tensor, target: Tensor) -> float:
    """The mean peak signal-to-noise ratio of images in [0, 1], in decibels."""
    error = (images - as_input(target)).square().flatten(1).mean(1).clamp(min=1e-10)
    return float(-10 * error.log10().mean())


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()
