"""VGG features from a local weights file, for the perceptual likelihood."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowprior.errors import InputError
from flowprior.files import find_weights, read_state_dict

BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
NORMALIZED_CONVOLUTIONS = (2, 5, 9, 12, 16)  # indices in the normalized file; 0 is the color matrix
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DEFAULT_FILE = "vgg19_normalised_relu3_1.pth"


@dataclass(frozen=True)
class Convolution:
    """One 3x3 convolution: its ReLU's name, such as relu1_2, its key, and whether a pooling precedes it."""

    name: str
    key: str
    pooled: bool


class VGGFeatures(nn.Module):
    """Feature maps of VGG at named ReLUs: images (N, 1 or 3, H, W) in [0, 1] -> list of (N, C_l, H_l, W_l).

    Gray images are repeated to three channels. The weights are buffers outside the state dict: no optimizer
    finds them, and checkpoints do not carry them. Three formats are read, always with `weights_only=True`:
    the normalized VGG-19 up to relu3_1 (its first layer takes RGB in [0, 1]), and torchvision's `vgg16` and
    `vgg19` state dicts (ImageNet mean and standard deviation are applied here). Their distances differ.

    Args:
        file: a path, or a file name inside the folder that FLOWPRIOR_WEIGHTS names.
        stages: the ReLUs to return, in the network's order.

    Raises:
        InputError: if the file is missing, is none of the three formats, or does not reach a stage.

    Source: Johnson et al. 2016, section 3; Simonyan & Zisserman 2014.
    """

    def __init__(
        self, file: str | Path = DEFAULT_FILE, stages: tuple[str, ...] = ("relu1_2", "relu2_2", "relu3_1")
    ) -> None:
        super().__init__()
        path = find_weights(file, f"{DEFAULT_FILE} (or torchvision's vgg16 or vgg19 state dict)")
        weights = read_state_dict(path)
        convolutions, self.normalized = recognize(weights, path)
        known = [convolution.name for convolution in convolutions]
        missing = [stage for stage in stages if stage not in known]
        if not stages or missing:
            raise InputError(
                f"`stages` (={stages!r}) must name some of {', '.join(known)}, which {path.name} holds."
            )
        self.stages = tuple(stages)
        last = max(known.index(stage) for stage in stages)
        self.convolutions = convolutions[: last + 1]
        if self.normalized:
            self._store("color", weights, "0")
        else:
            self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
            self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        for convolution in self.convolutions:
            self._store(convolution.name, weights, convolution.key)

    def _store(self, name: str, weights: dict[str, Tensor], key: str) -> None:
        for part in ("weight", "bias"):
            self.register_buffer(f"{name}_{part}", weights[f"{key}.{part}"].clone(), persistent=False)

    def _convolve(self, images: Tensor, name: str) -> Tensor:
        return functional.conv2d(
            images, self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias"), padding=0
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 1 or 3, H, W) in [0, 1] -> the maps at `stages`, in that order.

        Raises:
            InputError: if the images have neither one nor three channels.
        """
        if images.dim() != 4 or images.shape[1] not in (1, 3):
            raise InputError(
                f"`images` has shape {tuple(images.shape)} but VGG reads (N, 1, H, W) or (N, 3, H, W)."
            )
        maps = images.expand(-1, 3, -1, -1)
        if self.normalized:
            maps = self._convolve(maps, "color")
        else:
            maps = (maps - self.get_buffer("mean")) / self.get_buffer("std")
        seen: dict[str, Tensor] = {}
        for convolution in self.convolutions:
            if convolution.pooled:
                maps = functional.max_pool2d(maps, 2, ceil_mode=self.normalized)
            padding = "reflect" if self.normalized else "constant"
            maps = self._convolve(functional.pad(maps, (1, 1, 1, 1), mode=padding), convolution.name).relu()
            seen[convolution.name] = maps
        return [seen[stage] for stage in self.stages]


def recognize(weights: dict[str, Tensor], path: Path) -> tuple[list[Convolution], bool]:
    """The convolutions a VGG state dict holds, and whether it is the normalized format.

    Raises:
        InputError: if it is none of the three formats.
    """
    if weights.keys() == {
        f"{key}.{part}" for key in (0, *NORMALIZED_CONVOLUTIONS) for part in ("weight", "bias")
    }:
        names = ("relu1_1", "relu1_2", "relu2_1", "relu2_2", "relu3_1")
        return [
            Convolution(name, str(key), name in ("relu2_1", "relu3_1"))
            for name, key in zip(names, NORMALIZED_CONVOLUTIONS, strict=True)
        ], True
    matches = (re.fullmatch(r"features\.(\d+)\.weight", key) for key in weights)
    features = {int(match[1]) for match in matches if match}
    for blocks in BLOCKS.values():
        index, convolutions = 0, []
        for block, count in enumerate(blocks, start=1):
            for position in range(1, count + 1):
                pooled = block > 1 and position == 1
                convolutions.append(Convolution(f"relu{block}_{position}", f"features.{index}", pooled))
                index += 2  # the convolution and its ReLU
            index += 1  # the pooling
        if features == {int(convolution.key.split(".")[1]) for convolution in convolutions}:
            return convolutions, False
    raise InputError(
        f"{path} is not a VGG file that is known here: give the normalized VGG-19 up to relu3_1, or "
        "torchvision's vgg16 or vgg19 state dict (without batch norm)."
    )
