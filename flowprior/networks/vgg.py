"""VGG features from a local weights file, for the perceptual likelihood."""

import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowprior.errors import InputError
from flowprior.files import find_weights, read_state_dict

BLOCKS = ((2, 2, 3, 3, 3), (2, 2, 4, 4, 4))  # convolutions of VGG-16 and VGG-19 before each pooling
NORMALIZED = {"color": "0", "relu1_1": "2", "relu1_2": "5", "relu2_1": "9", "relu2_2": "12", "relu3_1": "16"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DEFAULT_FILE = "vgg19_normalised_relu3_1.pth"


class VGGFeatures(nn.Module):
    """Feature maps of VGG at named ReLUs: images (N, 1 or 3, H, W) in [0, 1] -> list of (N, C_l, H_l, W_l).

    Gray images are repeated to three channels. The weights are buffers outside the state dict: neither
    optimizers nor checkpoints have them. Three formats are read, always with `weights_only=True`:
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
        keys = recognize(weights, path)
        self.normalized = "color" in keys
        known = [name for name in keys if name != "color"]
        if not stages or not set(stages) <= set(known):
            raise InputError(
                f"`stages` (={stages!r}) must name some of {', '.join(known)}, which {path.name} holds."
            )
        self.stages = tuple(stages)
        self.names = known[: 1 + max(map(known.index, stages))]  # up to the last that is wanted
        moments = {} if self.normalized else {"mean": torch.tensor(MEAN), "std": torch.tensor(STD)}
        held = {name: value.view(3, 1, 1) for name, value in moments.items()}
        for name in ["color", *self.names] if self.normalized else self.names:
            held |= {f"{name}_{part}": weights[f"{keys[name]}.{part}"].clone() for part in ("weight", "bias")}
        for name, value in held.items():
            self.register_buffer(name, value, persistent=False)

    def _convolve(self, images: Tensor, name: str) -> Tensor:
        return functional.conv2d(images, self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias"))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 1 or 3, H, W) in [0, 1] -> the maps at `stages`, in order; raises InputError on others."""
        if images.dim() != 4 or images.shape[1] not in (1, 3):
            raise InputError(
                f"`images` has shape {tuple(images.shape)} but VGG reads (N, 1, H, W) or (N, 3, H, W)."
            )
        maps = images.expand(-1, 3, -1, -1)
        if self.normalized:
            maps, padding = self._convolve(maps, "color"), "reflect"
        else:
            maps, padding = (maps - self.get_buffer("mean")) / self.get_buffer("std"), "constant"
        seen: dict[str, Tensor] = {}
        for name in self.names:
            if seen and name.endswith("_1"):  # a block begins
                maps = functional.max_pool2d(maps, 2, ceil_mode=self.normalized)
            maps = self._convolve(functional.pad(maps, (1, 1, 1, 1), mode=padding), name).relu()
            seen[name] = maps
        return [seen[stage] for stage in self.stages]


def recognize(weights: dict[str, Tensor], path: Path) -> dict[str, str]:
    """The keys of a VGG file's convolutions by their ReLUs' names, such as relu1_2; the normalized format has
    a "color" matrix before them. Raises InputError if it is none of the three formats."""
    if weights.keys() == {f"{key}.{part}" for key in NORMALIZED.values() for part in ("weight", "bias")}:
        return NORMALIZED
    held = {key for key in weights if re.fullmatch(r"features\.\d+\.weight", key)}
    for blocks in BLOCKS:
        names = [f"relu{block}_{n + 1}" for block, count in enumerate(blocks, 1) for n in range(count)]
        # Layers before a convolution: two for each earlier one, itself and its ReLU, and a pooling a block.
        keys = {name: f"features.{2 * i + int(name[4]) - 1}" for i, name in enumerate(names)}
        if held == {f"{key}.weight" for key in keys.values()}:
            return keys
    raise InputError(
        f"{path} is not a VGG file that is known here: give the normalized VGG-19 up to relu3_1, or "
        "torchvision's vgg16 or vgg19 state dict (without batch norm)."
    )
