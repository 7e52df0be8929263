"""Maximum likelihood of a prior on given latents."""

import torch
from torch import Tensor, nn

from flowprior.objectives.objective import Batch, Objective, context_of, entry
from flowprior.priors import Prior
from flowprior.priors.guidance import drop_context


class LatentNLL(Objective):
    """loss = -log p(z) of given latents `batch["z"]`: two-stage GLF's second stage, and what `fit` minimizes.

    Where the batch has an "std", z is drawn from N(z, std²): with codes of Gaussian posteriors that is
    E_q(z)[-log p(z)] over the aggregate posterior, which a VAE's prior is to match (Hoffman & Johnson 2016).

    A conditional prior with `context_dropout` sees, while it trains, that share of rows without a context.

    For a prior with a bound instead of a density (`VariationalPrior`), -log p(z) is that of the bound.

    Logged: "loss" and "nll", which are equal. One group, "prior"; a conditional one reads `batch["context"]`.

    Source: GLF Eq. 1.
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    def parameter_groups(self, player: str) -> dict[str, list[nn.Parameter]]:
        """{"prior": ...}; nothing where the prior has no parameters."""
        self.check_player(player)
        parameters = list(self.prior.parameters())
        return {"prior": parameters} if parameters else {}

    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Tensor]:
        """The mean -log p(z) of `batch["z"]` (N, *event), which may have a spread `batch["std"]`."""
        self.check_player(player)
        z = entry(batch, "z")
        if "std" in batch:
            z = torch.addcmul(z, batch["std"], torch.randn_like(z))
        context = context_of(self.prior, batch)
        if context is not None and self.training and self.prior.context_dropout:
            context = drop_context(context, self.prior.context_dropout)
        nll = -self.prior.log_bound(z, context).mean()
        return {"loss": nll, "nll": nll.detach()}
