"""A prior and a pretrained autoencoder as one: images in, log-densities and new images out."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowprior.checks import check_count
from flowprior.errors import InputError
from flowprior.files import write_atomically
from flowprior.models.pretrained_autoencoders import Codec, as_codec, load_codec
from flowprior.priors.guidance import denoise
from flowprior.priors.prior import Prior

IMAGES, STATISTICS = "images.json", "images.safetensors"
CHUNK = 64  # images at a time


class ImagePrior(nn.Module):
    """Images x with codes encode(x) = mean + basis z: each channel standardized, perhaps fewer of them.

    z of `prior` is a map or a sequence of what is left of the C channels of a code, which for vectors are its
    features. Without compression the basis is the diagonal of standard deviations; with it, the principal
    directions of the standardized channels.

    Args:
        prior: over z.
        codec: the autoencoder.
        mean: (C,) of codes.
        basis: (C, K), with a left inverse `inverse` (K, C).
        std: σ of the noise that the prior was trained with, in units of z, which `sample` takes away.
    """

    mean: Tensor
    basis: Tensor
    inverse: Tensor

    def __init__(
        self, prior: Prior, codec: Codec, mean: Tensor, basis: Tensor, inverse: Tensor, std: float = 0.0
    ) -> None:
        super().__init__()
        self.prior, self.codec, self.std = prior, codec, std
        for name, value in (("mean", mean), ("basis", basis), ("inverse", inverse)):
            self.register_buffer(name, value)

    def to_z(self, codes: Tensor) -> Tensor:
        """Codes (N, C, ...) -> z (N, K, ...)."""
        return torch.einsum("kc,nc...->nk...", self.inverse, codes - self._shaped(self.mean, codes))

    def to_codes(self, z: Tensor) -> Tensor:
        """z (N, K, ...) -> codes (N, C, ...)."""
        codes = torch.einsum("ck,nk...->nc...", self.basis, z)
        return codes + self._shaped(self.mean, codes)

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), floats in [0, 1] or bytes -> z, a chunk at a time."""
        return torch.cat([self.to_z(self.codec.encode(_floats(part))) for part in images.split(CHUNK)])

    def decode(self, z: Tensor) -> Tensor:
        """z -> images in [0, 1], a chunk at a time."""
        return torch.cat([self.codec.decode(self.to_codes(part)) for part in z.split(CHUNK)])

    @torch.no_grad()
    def sample(self, n: int, context: Tensor | None = None, **controls: Any) -> Tensor:
        """n new images, (n, *image), or for each row of a context (n, rows, *image).

        `controls` are those of `Prior.sample`: temperature, guidance. Where the prior was trained with noise
        each draw is denoised by a step (`priors.denoise`).
        """
        check_count("n", n)
        z = self.prior.sample(n, context, **controls)
        if self.std:
            z = denoise(self.prior, z, self.std, context)
        images = self.decode(z.flatten(0, 1) if context is not None and context.dim() > 1 else z)
        return images.reshape(*z.shape[: z.dim() - len(self.prior.event_shape)], *images.shape[1:])

    @torch.no_grad()
    def log_prob(self, images: Tensor, context: Tensor | None = None) -> Tensor:
        """log p of the codes of images (N, C, H, W), in nats (N,): a density over codes, not over pixels.

        Of the codes as they come, with the volume of the standardization, where channels were not left out;
        of z otherwise.
        """
        z = self.encode(images)
        log_prob = self.prior.log_prob(z, context)
        if self.basis.shape[0] != self.basis.shape[1]:
            return log_prob
        positions = z[0, 0].numel()
        return log_prob - positions * torch.linalg.slogdet(self.basis).logabsdet

    def save_pretrained(self, folder: str | Path) -> None:
        """The prior's files, and beside them how images become z; of the autoencoder only its source."""
        from safetensors.torch import save as to_bytes

        folder = Path(folder)
        self.prior.save_pretrained(folder)
        held = {name: getattr(self, name).cpu().contiguous() for name in ("mean", "basis", "inverse")}
        write_atomically(folder / STATISTICS, to_bytes(held))
        described = {"autoencoder": self.codec.source, "std": self.std}
        write_atomically(folder / IMAGES, (json.dumps(described, indent=2) + "\n").encode())

    @classmethod
    def from_pretrained(cls, folder: str | Path, autoencoder: object = None) -> "ImagePrior":
        """What `save_pretrained` wrote; `autoencoder` is needed where its source was not a name or a path.

        Raises:
            InputError: if a file is missing or damaged, or the autoencoder is not known.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load as from_bytes

        folder = Path(folder)
        try:
            described = json.loads((folder / IMAGES).read_text())
            held = from_bytes((folder / STATISTICS).read_bytes())
            mean, basis, inverse = held["mean"], held["basis"], held["inverse"]
            source, std = described["autoencoder"], float(described["std"])
        except (OSError, ValueError, KeyError, SafetensorError):
            raise InputError(
                f"{folder} must hold {IMAGES} and {STATISTICS}, as fit-images writes them: fit it again."
            ) from None
        if autoencoder is None and source is None:
            raise InputError(
                f"{folder} was fitted to an autoencoder without a name: pass it as `autoencoder`."
            )
        codec = load_codec(source) if autoencoder is None else as_codec(autoencoder)
        return cls(Prior.from_pretrained(folder), codec, mean, basis, inverse, std)

    def _shaped(self, channels: Tensor, codes: Tensor) -> Tensor:
        return channels.reshape(1, -1, *(1 for _ in codes.shape[2:]))


def _floats(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images
