"""The bilevel objective: a prior that learns at full strength, and β of its pull on the encoder."""

from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, kl_divergence

from flowprior.checks import check_number, check_one_of
from flowprior.errors import InputError
from flowprior.models.autoencoder import Autoencoder
from flowprior.objectives.objective import draw_like
from flowprior.objectives.schedules import Beta, LinearAnnealing
from flowprior.objectives.variational import Pass, Terms, VariationalObjective, normal_parameters
from flowprior.priors import StandardNormal

Subsets = Literal["latent", "dimension"]


class Bilevel(VariationalObjective):
    """max_φ,ψ F and max_θ f at once, with one backward pass through encoder φ, decoder ψ and prior θ:

        F = E_q[log p(x|z)] + β (E_q[log p(z)] + H(q(z|x))),    f = E_q[log p(z)],    z ~ q(z|x)

    The loss is that of β = 1, but of the gradient that its KL sends back into q(z|x) only the part β passes;
    the prior gets all of it. β = 1 is the plain `ELBO`; β = 0 is GLF's stop-gradient (`LatentFlow` is this
    on a point posterior, whose entropy is dropped), and then nothing is computed behind z. Where the prior
    sees what the model computes of a context (the shape branch of a `VariationalUnet`), φ includes that, and
    β scales log p(z|c) in c as in z.

    Against over-regularization, as the paper's section 2.1 recounts:
      - annealing: `beta=LinearAnnealing(steps)`.
      - free bits: F has β Σ_s max(λ, KL_s) in place of β KL, KL_s the batch's mean for a subset s of the
        latent (Kingma et al. 2016, Eq. 15). A learned prior couples all of z, the one subset ("latent", at
        the price of a second evaluation of the prior); N(0, I) can be given its dimensions ("dimension"). f
        is as before: the prior learns below λ as well.
      - latent reconstruction: latent_weight · E_p(z) ‖z - mean of q(·|decode(z))‖₁, summed over the latent.
        It trains the decoder alone (and its view of a context), as its source found best (Zhu et al. 2017,
        Eq. 7 and section 4).

    Logged with those of `VariationalObjective`: "beta" if annealed, "latent_reconstruction" if asked for.
    "loss" is reconstruction_weight · reconstruction + nll - β entropy, and what the options add.

    Args:
        model: with any posterior, and a prior with a density.
        beta: β in [0, 1], or a `LinearAnnealing`.
        reconstruction_weight, latent_weight: of the reconstruction term, as for `ELBO`, and of the latent's.
        free_bits: λ, nats a subset.
        free_subsets: "latent", or "dimension" for N(0, I) and a factorized Gaussian posterior.

    Raises:
        InputError: on a β outside [0, 1], a weight that is negative or not finite, or free bits that the
            model has no KL for.

    Source: Morrow & Chiu, Eq. 5-7 and 12-13.
    """

    deterministic: bool | None = None

    def __init__(
        self,
        model: Autoencoder,
        beta: float | LinearAnnealing = 1.0,
        reconstruction_weight: float = 1.0,
        free_bits: float = 0.0,
        free_subsets: Subsets = "latent",
        latent_weight: float = 0.0,
    ) -> None:
        super().__init__(model, reconstruction_weight)
        self.beta = Beta(beta)
        self.free_bits = check_number("free_bits", free_bits, least=0)
        self.latent_weight = check_number("latent_weight", latent_weight, least=0)
        self.free_subsets = check_one_of("free_subsets", free_subsets, ("latent", "dimension"))
        if self.free_bits and model.posterior.deterministic:
            raise InputError(
                f"`free_bits` (={free_bits!r}) are nats of a KL, which a {type(model.posterior).__name__} "
                "does not have: leave them out, or build the model with GaussianPosterior()."
            )
        if self.free_bits and free_subsets == "dimension" and not isinstance(model.prior, StandardNormal):
            raise InputError(
                f"`free_subsets` (='dimension') needs a prior whose dimensions are independent, but "
                f"{type(model.prior).__name__} is not known to be one: use 'latent', or StandardNormal."
            )

    def pull(self, posterior: Distribution, z: Tensor, context: Tensor | None, step: int) -> float | Tensor:
        """β; with free bits of the whole latent, 0 while its KL lies below them."""
        beta = self.beta.at(step)
        if not (beta and self.free_bits and self.free_subsets == "latent"):
            return beta
        with torch.no_grad():
            kl = self.model.prior.kl(posterior, z, context).mean()
        return beta * (kl > self.free_bits)

    def regularizer(self, seen: Pass, step: int) -> tuple[Tensor, Terms]:
        """KL, whose value counts β of the entropy, and what the options add."""
        beta, terms = self.beta.at(step), {}
        loss = seen.kl + (1 - beta) * seen.entropy.detach()
        if self.free_bits:
            loss = loss + beta * self._lift(seen)
        if self.latent_weight:
            terms["latent_reconstruction"] = self._latent_reconstruction(seen)
            loss = loss + self.latent_weight * terms["latent_reconstruction"]
        return loss, terms | self.beta.logged(step, seen.kl)

    def _lift(self, seen: Pass) -> Tensor:
        """Σ_s max(λ, KL_s) - KL_s; its gradient is for dimensions alone, since `pull` sees to the latent."""
        if self.free_subsets == "latent":
            return (self.free_bits - seen.kl.detach()).relu()
        loc, scale = normal_parameters(seen.posterior)
        unit = Normal(torch.zeros_like(loc), torch.ones_like(loc), validate_args=False)
        each = kl_divergence(Normal(loc, scale, validate_args=False), unit).mean(0)  # (D,)
        return (self.free_bits - each).relu().sum()

    def _latent_reconstruction(self, seen: Pass) -> Tensor:
        model = self.model
        with torch.no_grad():
            z = draw_like(seen.z, model.prior, seen.prior_context)
        # Without its own parameters and buffers, the encoder neither learns nor counts these images.
        held = {name: parameter.detach() for name, parameter in model.encoder.named_parameters()}
        held |= {name: buffer.clone() for name, buffer in model.encoder.named_buffers()}
        images = model.likelihood.mean(model.conditioned_output(z, seen.condition))
        outputs = torch.func.functional_call(model.encoder, held, model.encoder_inputs(images, seen.context))
        codes = model.posterior(outputs, model.prior.event_shape).mean
        return (z - codes).abs().flatten(1).sum(1).mean()
