"""A prior for embeddings you already have: PCA codes of the digits, fitted, sampled and decoded back.

    python examples/fit_embeddings.py [--epochs 60] [--out fit_embeddings.png]

Any (N, D) array works in place of the codes. The picture shows held-out digits through PCA alone (the best
that a sampler of these codes can do), decoded samples of a full-covariance Gaussian, and of the fitted prior.
"""

import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from torchvision.utils import make_grid, save_image

from flowprior import FlowPrior, MixturePrior, fit


def sheet(images: np.ndarray) -> Tensor:
    digits = torch.tensor(images, dtype=torch.float32).clamp(0, 1).view(-1, 1, 8, 8)
    larger = nn.functional.interpolate(digits, scale_factor=4)  # to be looked at
    return make_grid(larger, nrow=8, padding=4, pad_value=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", default="fit_embeddings.png")
    options = parser.parse_args()

    pixels = np.random.default_rng(0).permutation(load_digits().data / 16)  # (1797, 64)
    pca = PCA(16, random_state=0).fit(pixels[:1500])
    codes, held_out = pca.transform(pixels[:1500]), pca.transform(pixels[1500:])

    torch.manual_seed(0)
    prior = FlowPrior(16, base=MixturePrior(16, components=15))  # a component for every hundred codes
    fit(prior, codes, epochs=options.epochs, progress=False)

    gaussian = MultivariateNormal(torch.tensor(codes.mean(0)), torch.tensor(np.cov(codes.T)))
    with torch.no_grad():
        flow_nll = -prior.log_prob(torch.tensor(held_out, dtype=torch.float32)).mean().item()
    gaussian_nll = -gaussian.log_prob(torch.tensor(held_out)).mean().item()
    print(f"held-out NLL of the codes: Gaussian {gaussian_nll:.2f}, fitted prior {flow_nll:.2f} nats")

    rows = (held_out[:64], gaussian.sample((64,)).numpy(), prior.sample(64).numpy())
    sheets = [sheet(pca.inverse_transform(z)) for z in rows]
    gap = torch.ones(3, sheets[0].shape[1], 24)
    save_image(torch.cat([sheets[0], gap, sheets[1], gap, sheets[2]], dim=2), options.out)
    print(f"held-out digits, samples of a Gaussian, samples of the fitted prior: {options.out}")


if __name__ == "__main__":
    main()
