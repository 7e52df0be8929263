"""A plain PyTorch VAE, before and after: two changed lines give it a learned prior.

    python examples/drop_in_vae.py [--epochs 200] [--out drop_in_vae.png]

It trains the same VAE twice on scikit-learn's digits (8x8 images, no download), once with N(0, I) and once
with a FlowPrior, prints the held-out ELBO of both in nats, and draws samples of both side by side.
"""

import argparse
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torchvision.utils import make_grid, save_image

from flowprior import FlowPrior  # changed line 1: the import

LATENTS = 8
PIXEL_SCALE = 0.1  # standard deviation of a pixel, in [0, 1]


class VAE(nn.Module):
    def __init__(self, prior):
        super().__init__()
        self.prior = prior
        self.encoder = nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2 * LATENTS)
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENTS, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 64)
        )

    def elbo(self, x: Tensor) -> Tensor:
        mean, log_scale = self.encoder(x).chunk(2, dim=-1)
        q = Independent(Normal(mean, log_scale.exp()), 1)
        z = q.rsample()
        reconstruction = Independent(Normal(self.decoder(z), PIXEL_SCALE), 1).log_prob(x)
        return reconstruction + self.prior.log_prob(z) - q.log_prob(z)  # (N,) nats

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        images = self.decoder(self.prior.sample((n,))).clamp(0, 1).view(n, 1, 8, 8)
        return nn.functional.interpolate(images, scale_factor=4)  # larger, to be looked at


def train(vae: VAE, x: Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            loss = -vae.elbo(x[rows]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--out", default="drop_in_vae.png")
    options = parser.parse_args()

    x = torch.tensor(load_digits().data / 16, dtype=torch.float32)  # (1797, 64)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    training, held_out = x[:1500], x[1500:]

    priors: dict[str, Callable] = {
        "before, N(0, I)": lambda: Independent(Normal(torch.zeros(LATENTS), torch.ones(LATENTS)), 1),
        "after, FlowPrior": lambda: FlowPrior(LATENTS),  # changed line 2: the prior
    }
    elbos, sheets = [], []
    for name, prior in priors.items():
        torch.manual_seed(0)
        vae = VAE(prior())
        train(vae, training, options.epochs)
        with torch.no_grad():
            elbos.append(torch.stack([vae.elbo(held_out).mean() for _ in range(100)]).mean().item())
        sheets.append(make_grid(vae.sample(64), nrow=8, padding=4, pad_value=1.0))
        print(f"{name}: held-out ELBO {elbos[-1]:.2f} nats")
    print(f"gain: {elbos[1] - elbos[0]:+.2f} nats")
    save_image(torch.cat([sheets[0], torch.ones(3, sheets[0].shape[1], 24), sheets[1]], dim=2), options.out)
    print(f"samples before (left) and after (right): {options.out}")


if __name__ == "__main__":
    main()
