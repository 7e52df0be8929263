"""The evidence lower bound of a VAE with any prior."""

from torch import Tensor, nn

from flowprior.errors import InputError
from flowprior.models.autoencoder import Autoencoder
from flowprior.objectives.objective import (
    Batch,
    Objective,
    autoencoder_groups,
    check_weight,
    context_of,
    entry,
)


class ELBO(Objective):
    """loss = reconstruction_weight · E_q[-log p(x|z)] + kl_weight · KL(q(z|x) ‖ p(z)), one z ~ q an example.

    GLF Eq. 3 with a flow prior, Eq. 2 with N(0, I). The papers put their β on different terms; here each has
    its own name:
      - `reconstruction_weight` is the β of GLF (section 3.2; 1 to 400, Gaussian variance one): larger means
        sharper reconstructions and a smaller posterior variance. Its "learnable β" is
        `GaussianLikelihood(variance="learned")` at weight 1 (Dai & Wipf's γ).
      - `kl_weight` is the β of β-VAE (Higgins et al. 2017): larger means a stronger pull to the prior.
        Only the ratio of the two weights moves the optimum.
      - Morrow & Chiu's β is neither: it scales the gradient that log p(z) sends into the encoder, while the
        prior itself always learns with weight one.

    Logged, means over the batch in nats per example: "loss", "reconstruction" (-log p(x|z)), "kl",
    "entropy" (exact, of q(z|x)), "nll" (the estimate of E_q[-log p(z)] = kl + entropy, Fig. 3c).
    GLF's Fig. 3b draws -Σ_j log(σ_j) / 2 instead, which *grows* as the variances shrink: with
    H = Σ_j log σ_j + (d/2) log 2πe it is (d/2 · log 2πe - H) / 2.

    Groups: "autoencoder" (encoder, decoder, learned parameters of the likelihood), "prior" (if it has any).

    Args:
        model: with a posterior of positive entropy, such as `GaussianPosterior`.
        reconstruction_weight: GLF's β.
        kl_weight: β-VAE's β.

    Raises:
        InputError: on a deterministic posterior, or a weight that is negative or not finite.
    """

    def __init__(
        self, model: Autoencoder, reconstruction_weight: float = 1.0, kl_weight: float = 1.0
    ) -> None:
        super().__init__()
        if model.posterior.deterministic:
            raise InputError(
                f"`model` has a {type(model.posterior).__name__}, for which the KL is infinite: "
                "build it with GaussianPosterior(), or use LatentFlow."
            )
        self.model = model
        self.reconstruction_weight = check_weight("reconstruction_weight", reconstruction_weight)
        self.kl_weight = check_weight("kl_weight", kl_weight)

    def parameter_groups(self, player: str) -> dict[str, list[nn.Parameter]]:
        """{"autoencoder": ..., "prior": ...}; no "prior" where it has no parameters."""
        self.check_player(player)
        return autoencoder_groups(self.model)

    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Tensor]:
        """The negative ELBO and its terms, from `batch["x"]` and, if conditional, `batch["context"]`."""
        self.check_player(player)
        x = entry(batch, "x")
        posterior = self.model.encode(x)
        z = posterior.rsample()  # (N, *event)
        reconstruction = self.model.reconstruction_nll(x, z).mean()
        kl = self.model.prior.kl(posterior, z, context_of(self.model.prior, batch)).mean()
        entropy = posterior.entropy().mean()
        return {
            "loss": self.reconstruction_weight * reconstruction + self.kl_weight * kl,
            "reconstruction": reconstruction.detach(),
            "nll": (kl + entropy).detach(),
            "entropy": entropy.detach(),
            "kl": kl.detach(),
        }
