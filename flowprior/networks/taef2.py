"""The tiny autoencoder of FLUX.2's latent space, from a pair of local weights files."""

from pathlib import Path

from torch import Tensor, nn

from flowprior.errors import InputError
from flowprior.files import read_state_dict

CHANNELS, HIDDEN, WIDE = 32, 64, 256  # of a latent, between, and of the extra path


class Block(nn.Module):
    """relu(convolutions(x) + x); with `pooled`, x + pool(x) in the place of x."""

    def __init__(self, pooled: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(), nn.ReLU(), _conv(), nn.ReLU(), _conv())
        self.pool: nn.Module | None = None
        if pooled:
            self.pool = nn.Sequential(
                nn.Conv2d(HIDDEN, WIDE, 1, bias=False),
                nn.GroupNorm(4, WIDE),
                nn.ReLU(inplace=True),
                nn.Conv2d(WIDE, HIDDEN, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return (self.conv(x) + x).relu()


class _Bound(nn.Module):
    """3 tanh(x / 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return (x / 3).tanh() * 3


def taef2_encoder(path: Path) -> nn.Sequential:
    """Images (N, 3, 8h, 8w) in [0, 1] -> latents (N, 32, h, w), with the weights of a file.

    Raises:
        InputError: if the file cannot be read, or is of another network.

    Source: the public repository madebyollin/taesd, `taef2_encoder.pth`.
    """
    layers: list[nn.Module] = [_conv(3), Block()]
    for scale in range(3):
        layers += [nn.Conv2d(HIDDEN, HIDDEN, 3, stride=2, padding=1, bias=False)]
        layers += [Block(pooled=scale == 2) for _ in range(3)]
    return _loaded(nn.Sequential(*layers, _conv(HIDDEN, CHANNELS)), path, "encoder")


def taef2_decoder(path: Path) -> nn.Sequential:
    """Latents (N, 32, h, w) -> images (N, 3, 8h, 8w), in [0, 1] but for overshoot; as `taef2_encoder`."""
    layers: list[nn.Module] = [_Bound(), _conv(CHANNELS), nn.ReLU()]
    for scale in range(3):
        layers += [Block(pooled=scale == 0) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1, bias=False)]
    return _loaded(nn.Sequential(*layers, Block(), _conv(HIDDEN, 3)), path, "decoder")


def _conv(before: int = HIDDEN, after: int = HIDDEN) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1)


def _loaded(network: nn.Sequential, path: Path, half: str) -> nn.Sequential:
    weights = read_state_dict(path)
    try:
        network.load_state_dict({name: value.float() for name, value in weights.items()})
    except RuntimeError:
        raise InputError(f"{path} does not hold the {half} of TAEF2: give taef2_{half}.pth.") from None
    return network.eval().requires_grad_(False)
