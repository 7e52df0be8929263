"""Pretrained autoencoders, whoever made them, as one pair of functions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowprior.errors import InputError, reason
from flowprior.files import find_weights
from flowprior.models.autoencoder import Autoencoder
from flowprior.networks.taef2 import taef2_decoder, taef2_encoder

TAEF2 = ("taef2_encoder.pth", "taef2_decoder.pth")
SIGNED = ("AutoencoderKL", "AutoencoderTiny")  # of diffusers: images in [-1, 1]
UNIT = ("AutoencoderRAE",)  # images in [0, 1]


class Codec(nn.Module):
    """Images (N, C, H, W) in [0, 1] -> codes (N, *event) by `encode`, and back by `decode`, without gradient.

    Args:
        encoder, decoder: the two functions; modules among them move with this one.
        source: what `load_codec` builds it from again; None if it cannot.
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Tensor],
        decoder: Callable[[Tensor], Tensor],
        source: str | None = None,
        held: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.functions = encoder, decoder
        self.source = source
        parts = [part for part in (encoder, decoder, held) if isinstance(part, nn.Module)]
        self.parts = nn.ModuleList(parts).eval().requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Codec":
        return super().train(False)  # what is pretrained stays as it was evaluated

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] -> codes."""
        return self._checked(self.functions[0](images), "encoder", len(images))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes -> images in [0, 1]; what is beyond is clipped."""
        return self._checked(self.functions[1](codes), "decoder", len(codes)).clamp(0, 1)

    def _checked(self, result: object, half: str, count: int) -> Tensor:
        if isinstance(result, Tensor) and result.dim() > 1 and len(result) == count:
            return result
        got = tuple(result.shape) if isinstance(result, Tensor) else f"a {type(result).__name__}"
        raise InputError(f"The {half} returned {got} for {count} rows but must return a tensor of as many.")


def as_codec(autoencoder: Any) -> Codec:
    """An autoencoder as a `Codec`.

    * a `Codec`, as it is; a pair of callables (encoder, decoder) that take and give images in [0, 1];
    * an AutoencoderKL, AutoencoderTiny or AutoencoderRAE of diffusers (codes are the posterior's means);
    * one of our own models, an `Autoencoder` (likewise);
    * "taef2", a folder that holds its two files, or their two paths with a comma between;
    * a folder that diffusers' `save_pretrained` wrote.

    Raises:
        InputError: if it is none of these, or files are missing or damaged.
    """
    if isinstance(autoencoder, Codec):
        return autoencoder
    if isinstance(autoencoder, str | Path):
        return load_codec(str(autoencoder))
    if isinstance(autoencoder, Autoencoder):
        if autoencoder.conditional:
            raise InputError("`autoencoder` is conditional: give one whose decoder needs no context.")
        own = autoencoder
        return Codec(lambda x: own.encode(x).mean, own.decode, held=own)
    if isinstance(autoencoder, tuple | list) and len(autoencoder) == 2 and all(map(callable, autoencoder)):
        return Codec(*autoencoder)
    kind = type(autoencoder).__name__
    if kind in SIGNED or kind in UNIT:
        return _diffusers(autoencoder, None)
    raise InputError(
        f"`autoencoder` (a {kind}) must be a pair of callables, an Autoencoder, one of diffusers' "
        f"{', '.join((*SIGNED, *UNIT))}, 'taef2' or a folder of weights."
    )


def load_codec(source: str) -> Codec:
    """The codec that a name or a path means; see `as_codec`."""
    path = Path(source)
    if (path / "config.json").is_file():
        return _from_diffusers(path)
    if "," in source:
        files = [
            find_weights(part.strip(), name) for part, name in zip(source.split(","), TAEF2, strict=False)
        ]
        if len(files) != 2 or source.count(",") != 1:
            raise InputError(f"`autoencoder` (={source!r}) must name an encoder and a decoder file.")
    elif source == "taef2" or path.is_dir():
        files = [find_weights(path if path.is_dir() else None, name) for name in TAEF2]
    else:
        raise InputError(
            f"`autoencoder` (={source!r}) must be 'taef2', a folder of weights (TAEF2's, or one that "
            "diffusers saved), or the paths of TAEF2's encoder and decoder with a comma between."
        )
    return Codec(taef2_encoder(files[0]), taef2_decoder(files[1]), source)


def _from_diffusers(folder: Path) -> Codec:
    try:
        name = json.loads((folder / "config.json").read_text()).get("_class_name")
    except (OSError, ValueError, AttributeError):
        name = None
    if name not in SIGNED and name not in UNIT:
        known = ", ".join((*SIGNED, *UNIT))
        raise InputError(f"{folder / 'config.json'} names the class {name!r}, but must name one of {known}.")
    try:
        import diffusers
    except ImportError:
        raise InputError(f"{folder} holds a {name} of diffusers: install diffusers to read it.") from None
    try:
        model = getattr(diffusers, name).from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder} cannot be read by diffusers ({reason(error)}): save it again.") from None
    return _diffusers(model, str(folder))


def _diffusers(model: Any, source: str | None) -> Codec:
    signed = type(model).__name__ in SIGNED

    def encode(images: Tensor) -> Tensor:
        output = model.encode(images * 2 - 1 if signed else images)
        if hasattr(output, "latent_dist"):
            return output.latent_dist.mean
        return output.latents if hasattr(output, "latents") else output.latent

    def decode(codes: Tensor) -> Tensor:
        images = model.decode(codes).sample
        return (images + 1) / 2 if signed else images

    return Codec(encode, decode, source, held=model)
