"""An encoder, an objective and a metric of one's own, for a config (`--plugin my_parts`) and for Python."""

import torch
from torch import nn

import flowprior
from flowprior.objectives import Objective


@flowprior.register
class TwoConvolutions(nn.Module):
    """(N, channels, size, size) -> (N, out_features); a config leaves all three to the data and the model."""

    def __init__(self, channels: int, size: int, out_features: int, width: int = 16) -> None:
        super().__init__()
        first, second = nn.Conv2d(channels, width, 3, 2, 1), nn.Conv2d(width, width, 3, 2, 1)
        self.layers = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), nn.Flatten())
        self.out = nn.Linear(width * (size // 4) ** 2, out_features)

    def forward(self, images):
        return self.out(self.layers(images))


@flowprior.register
class PulledFlow(Objective):
    """Generative Latent Flow whose codes are pulled towards the origin by `pull` |z|^2 / 2."""

    def __init__(self, model, pull: float = 0.1) -> None:
        super().__init__()
        self.model, self.pull = model, pull

    def losses(self, player, batch, step):
        z = self.model.encode(batch["x"]).mean
        reconstruction = self.model.reconstruction_nll(batch["x"], z).mean()
        nll = -self.model.prior.log_prob(z.detach()).mean()
        pulled = z.square().sum(1).mean() / 2
        loss = reconstruction + nll + self.pull * pulled
        return {"loss": loss, "reconstruction": reconstruction, "nll": nll, "pulled": pulled}


@flowprior.metric("radius", better="lower", unit="length of z")
def radius(evaluation):
    """The mean length of the test examples' codes."""
    codes = [evaluation.model.encode(x, context).mean for x, context in evaluation.examples()]
    return {"radius": torch.cat(codes).norm(dim=1).mean().item()}, {}
