"""What the ELBO and its regularized kin share: one pass through the model, and the terms that it gives."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

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

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Pass:
    """A batch seen by a VAE: q(z|x), one z ~ q an example, and the means over the batch of its terms."""

    posterior: Distribution  # batch shape (N,)
    z: Tensor  # (N, *event), reparameterised
    context: Tensor | None  # (N, C)
    reconstruction: Tensor  # -log p(x|z)
    kl: Tensor  # KL(q(z|x) ‖ p(z))
    entropy: Tensor  # of q(z|x), exact


class VariationalObjective(Objective):
    """loss = reconstruction_weight · E_q[-log p(x|z)] + R: a subclass owes the regularizer R.

    Whatever the prior, KL(q(z|x) ‖ p(z)) = E_q[log q(z|x) - log p(z)]: its closed form where `Prior.kl` has
    one, else from the one z of each example. For a decoupled prior z0 = g(z), L dimensions and
    q = N(μ, diag σ²), that is an unbiased estimate of

        KL = -E_q[log|det dg/dz|] + ½ E_q[‖g(z)‖²] - Σ_j log σ_j - L/2

    (dpVAE Eq. 5, which as printed lacks the ½ of the norm and the constant -L/2, and whose log-det
    Σ_k Σ_l b s should count the changed features, 1 - b).

    Logged by all, means over the batch in nats per example: "loss", "reconstruction" (-log p(x|z)), "kl",
    "entropy" (exact, of q(z|x)), "nll" (the estimate of E_q[-log p(z)] = kl + entropy).

    Groups of the player "model": "autoencoder" (encoder, decoder, learned parameters of the likelihood),
    "prior" (if it has any).

    Args:
        model: with a posterior of positive entropy, such as `GaussianPosterior`, and any prior.
        reconstruction_weight: of the reconstruction term.

    Raises:
        InputError: on a deterministic posterior, or a weight that is negative or not finite.
    """

    def __init__(self, model: Autoencoder, reconstruction_weight: float = 1.0) -> None:
        super().__init__()
        if model.posterior.deterministic:
            raise InputError(
                f"`model` has a {type(model.posterior).__name__}, for which the KL is infinite: "
                "build it with GaussianPosterior(), or use LatentFlow."
            )
        self.model = model
        self.reconstruction_weight = check_weight("reconstruction_weight", reconstruction_weight)

    @abstractmethod
    def regularizer(self, seen: Pass, step: int) -> tuple[Tensor, Terms]:
        """R in nats per example, with gradient, and the terms to be logged beside the common ones."""

    def parameter_groups(self, player: str) -> dict[str, list[nn.Parameter]]:
        """{"autoencoder": ..., "prior": ...}; no "prior" where it has no parameters."""
        self.check_player(player)
        return autoencoder_groups(self.model)

    def losses(self, player: str, batch: Batch, step: int) -> Terms:
        """The loss and its terms, from `batch["x"]` and, if conditional, `batch["context"]`."""
        self.check_player(player)
        x, prior = entry(batch, "x"), self.model.prior
        posterior, context = self.model.encode(x), context_of(prior, batch)
        z = posterior.rsample()  # (N, *event)
        seen = Pass(
            posterior,
            z,
            context,
            self.model.reconstruction_nll(x, z).mean(),
            prior.kl(posterior, z, context).mean(),
            posterior.entropy().mean(),
        )
        regularizer, terms = self.regularizer(seen, step)
        named = {
            "reconstruction": seen.reconstruction,
            "nll": seen.kl + seen.entropy,
            "entropy": seen.entropy,
            "kl": seen.kl,
        } | terms
        loss = self.reconstruction_weight * seen.reconstruction + regularizer
        return {"loss": loss} | {name: value.detach() for name, value in named.items()}


def normal_parameters(posterior: Distribution) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (N, D) of a factorised Gaussian posterior, events flattened.

    Raises:
        InputError: if it is another distribution.
    """
    base = posterior
    while isinstance(base, Independent):
        base = base.base_dist
    if not isinstance(base, Normal):
        raise InputError(
            f"The posterior (a {type(base).__name__}) must be a factorised Gaussian, whose dimensions have "
            "densities of their own: build the model with GaussianPosterior()."
        )
    return base.loc.flatten(1), base.scale.flatten(1)
