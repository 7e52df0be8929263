"""What the ELBO and its regularized kin share: one pass through the model, and the terms that it gives."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from flowprior.errors import InputError
from flowprior.models.autoencoder import Autoencoder
from flowprior.models.posteriors import normal_moments
from flowprior.objectives.objective import Batch, ModelObjective, context_of, entry, scale_gradient, with_logs
from flowprior.priors import Prior

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Pass:
    """A batch seen by a model: q(z|x), one z ~ q an example, and the means over the batch of its terms."""

    posterior: Distribution  # batch shape (N,)
    z: Tensor  # (N, *event), reparameterized
    context: Tensor | None  # (N, *context_shape), of the batch
    condition: Any  # what model and prior share of it
    prior_context: Tensor | None  # (N, C), what the prior sees of it
    kl: Tensor  # KL(q(z|x) ‖ p(z)); of a point mass, -log p(z)
    entropy: Tensor  # of q(z|x), exact; of a point mass, left out: 0


class VariationalObjective(ModelObjective):
    """loss = reconstruction_weight · E_q[-log p(x|z)] + R: a subclass must implement the regularizer R.

    Whatever the prior, KL(q(z|x) ‖ p(z)) = E_q[log q(z|x) - log p(z)]: its closed form where `Prior.kl` has
    one, else from the one z of each example. For a decoupled prior z0 = g(z), L dimensions and
    q = N(μ, diag σ²), that is an unbiased estimate of

        KL = -E_q[log|det dg/dz|] + ½ E_q[‖g(z)‖²] - Σ_j log σ_j - L/2

    (dpVAE Eq. 5, which as printed lacks the ½ and the -L/2, and whose log-det Σ_k Σ_l b s should count the
    changed features, 1 - b).

    The prior of a conditional model may see what the model computes, as a `VariationalUnet`'s shape maps: of
    a gradient, the part `pull` that passes into the posterior passes into these as well.

    Logged, means over the batch in nats per example: "loss", "reconstruction" (-log p(x|z)), "nll" (E_q[-log
    p(z)] = kl + entropy), and of posteriors with a density "kl" and "entropy" (exact, of q(z|x)).
    Groups: "autoencoder" (encoder, decoder, learned parameters of the likelihood), "prior" (if it has any).

    Args:
        model: with a posterior of positive entropy, such as `GaussianPosterior`, unless the subclass sets
            `deterministic`, and any prior with a density.
        reconstruction_weight: of the reconstruction term.

    Raises:
        InputError: on a posterior that does not suit, or a weight that is negative or not finite.
    """

    deterministic: bool | None = False  # whether the posterior must be a point mass; None: either

    def __init__(self, model: Autoencoder, reconstruction_weight: float = 1.0) -> None:
        super().__init__(model, reconstruction_weight)
        if self.deterministic is not None and model.posterior.deterministic != self.deterministic:
            reason = "for which the KL is infinite: build it with GaussianPosterior(), or use LatentFlow."
            if self.deterministic:
                reason = f"but the encoder of {type(self).__name__} is deterministic: build it with "
                reason += "DeterministicPosterior(), or use ELBO or Bilevel."
            raise InputError(f"`model` has a {type(model.posterior).__name__}, {reason}")

    @abstractmethod
    def regularizer(self, seen: Pass, step: int) -> tuple[Tensor, Terms]:
        """R in nats per example, with gradient, and the terms to be logged beside the common ones."""

    def pull(self, posterior: Distribution, z: Tensor, context: Tensor | None, step: int) -> float | Tensor:
        """The part of the KL's gradient that reaches the posterior, and what the model computes of the
        context for the prior; the prior's own parameters get all of it."""
        return 1.0

    @property
    def target(self) -> Prior:
        """The p of KL(q(z|x) ‖ p(z)): the model's prior, unless the subclass has another."""
        return self.model.prior

    def losses(self, player: str, batch: Batch, step: int) -> Terms:
        """The loss and its terms, from `batch["x"]` and, if conditional, `batch["context"]`."""
        self.check_player(player)
        model, x = self.model, entry(batch, "x")
        prior, context = self.target, context_of(model, batch)
        condition = model.condition(context)
        prior_context = model.prior_context(condition)  # (N, C)
        outputs = model.encoder(*model.encoder_inputs(x, context))
        posterior = model.posterior(outputs, prior.event_shape)
        z = posterior.rsample()  # (N, *event)
        pull = self.pull(posterior, z, prior_context, step)
        pulled = posterior
        if not (isinstance(pull, float) and pull == 1):
            pulled = model.posterior(scale_gradient(outputs, pull), prior.event_shape)
        pulled_context = None if prior_context is None else scale_gradient(prior_context, pull)
        kl = prior.kl(pulled, scale_gradient(z, pull), pulled_context).mean()
        point = model.posterior.deterministic
        entropy = torch.zeros_like(kl) if point else posterior.entropy().mean()
        reconstruction = model.likelihood.nll(model.conditioned_output(z, condition), x).mean()
        seen = Pass(posterior, z, context, condition, prior_context, kl, entropy)
        regularizer, terms = self.regularizer(seen, step)
        named = {"reconstruction": reconstruction, "nll": kl + entropy}
        named |= ({} if point else {"entropy": entropy, "kl": kl}) | terms
        return with_logs(self.reconstruction_weight * reconstruction + regularizer, named)


def normal_parameters(posterior: Distribution) -> tuple[Tensor, Tensor]:
    """`normal_moments`, events flattened: (N, D) each."""
    mean, std = normal_moments(posterior)
    return mean.flatten(1), std.flatten(1)
