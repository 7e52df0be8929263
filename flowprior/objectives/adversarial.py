"""The adversarial autoencoder, with a fixed or a learned prior and β of the critic's pull on the encoder."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from flowprior.checks import check_number
from flowprior.errors import InputError
from flowprior.models.autoencoder import Autoencoder
from flowprior.networks.mlp import MLP
from flowprior.objectives.objective import (
    Batch,
    ModelObjective,
    check_draws,
    draw_like,
    entry,
    scale_gradient,
    with_logs,
)
from flowprior.objectives.schedules import Beta, LinearAnnealing
from flowprior.tensors import numel

PAPER_CRITIC = partial(MLP, out_features=1, hidden=(1024, 1024))


class AdversarialAutoencoder(ModelObjective):
    """An autoencoder, a prior and a critic D that tells draws of the prior (class 1) from codes (class 0).

    Each is a player and minimizes, with z ~ q(z|x) and z' ~ p(z):

        model   reconstruction_weight · E[-log p(x|z)] + β E[log(1 - D(z))]     (Eq. 14)
        prior   E[log D(z')]                                                     (Eq. 15)
        critic  -E[log D(z')] - E[log(1 - D(z))] + gradient_penalty · R1         (Eq. 16)

    With a prior without parameters, such as `StandardNormal`, the player "prior" has nothing to do, and this
    is Makhzani et al.'s AAE at β = 1. With an `ImplicitPrior` (or another that draws with gradient) and
    β = 0, the critic serves the prior alone: the Prior-AAE of the paper's earlier version.

    As printed, the losses of model and prior saturate: where the critic is sure of itself, their gradients
    vanish. `saturating=False` takes -β E[log D(z)] and -E[log(1 - D(z'))] instead, which have the same fixed
    points (Goodfellow et al. 2014, section 3).

    R1 = ½ E‖∂a/∂z‖², a = log D / (1 - D) the critic's output, over what plays the data: the codes where the
    prior is learned, the draws where it is fixed (Mescheder et al. 2018, Eq. 9). The paper has none.

    Logged: "reconstruction", "adversarial" (the term behind β) and, if annealed, "beta" of the model; of the
    critic "accuracy" (½ when prior and codes cannot be told apart) and, if asked for, "penalty".
    Groups: "autoencoder"; "prior" (if it has parameters); "critic".

    Args:
        model: unconditional, with any posterior.
        beta: β in [0, 1], or a `LinearAnnealing`.
        critic: makes the critic of `features`, the entries of a latent: (N, features) -> logits (N, 1). By
            default that of A.2 and A.3, two layers of 1024 with ReLU.
        gradient_penalty, reconstruction_weight: of R1, where 10 is usual, and of the reconstruction term.
        saturating: as printed, or not.

    Raises:
        InputError: on a β outside [0, 1], a weight that is negative or not finite, a conditional model, or a
            prior with parameters that cannot draw with gradient.

    Source: Morrow & Chiu, Eq. 14-16 and A.2-A.3; Makhzani et al. 2016.
    """

    players = ("model", "prior", "critic")

    def __init__(
        self,
        model: Autoencoder,
        beta: float | LinearAnnealing = 1.0,
        critic: Callable[[int], nn.Module] = PAPER_CRITIC,
        gradient_penalty: float = 0.0,
        saturating: bool = True,
        reconstruction_weight: float = 1.0,
    ) -> None:
        super().__init__(model, reconstruction_weight)
        prior = model.prior
        if model.conditional:
            raise InputError(
                f"`model` is a conditional {type(model).__name__}, but this critic sees no context: build an "
                "Autoencoder and its prior without `context_features`, or train with Bilevel or ELBO."
            )
        self.learned = check_draws(prior)
        self.beta, self.saturating = Beta(beta), saturating
        self.gradient_penalty = check_number("gradient_penalty", gradient_penalty, least=0)
        self.critic = critic(numel(prior.event_shape))

    def parameter_groups(self, player: str) -> dict[str, list[nn.Parameter]]:
        """{"autoencoder": ...} of "model", {"prior": ...} or nothing, {"critic": ...}."""
        groups = super().parameter_groups(player) | {"critic": list(self.critic.parameters())}
        own = {"model": "autoencoder"}.get(player, player)
        return {own: groups[own]} if own in groups else {}

    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Tensor]:
        """The player's loss and its terms, from `batch["x"]`."""
        self.check_player(player)
        x = entry(batch, "x")
        if player == "model":
            return self._model(x, step)
        if player == "prior":
            return {"loss": self._fool(self.model.prior.rsample(len(x)), towards=0)}
        return self._critic(x)

    def _model(self, x: Tensor, step: int) -> dict[str, Tensor]:
        model, beta = self.model, self.beta.at(step)
        z = model.encode(x).rsample()  # (N, *event)
        reconstruction = model.reconstruction_nll(x, z).mean()
        adversarial = self._fool(scale_gradient(z, 1.0 if beta else 0.0), towards=1)
        terms = {"reconstruction": reconstruction, "adversarial": adversarial}
        loss = self.reconstruction_weight * reconstruction + beta * adversarial
        return with_logs(loss, terms | self.beta.logged(step, reconstruction))

    def _critic(self, x: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            z = self.model.encode(x).sample()
        drawn = draw_like(z, self.model.prior, None).detach()
        data = z if self.learned else drawn
        data.requires_grad_(self.gradient_penalty > 0)
        with torch.set_grad_enabled(torch.is_grad_enabled() or self.gradient_penalty > 0):
            real, fake = self._logits(drawn), self._logits(z)
            loss = softplus(-real).mean() + softplus(fake).mean()
            correct = torch.cat([real > 0, fake < 0])
            terms = {"accuracy": correct.to(loss.dtype).mean()}
            if self.gradient_penalty:
                logits = fake if self.learned else real
                (slope,) = torch.autograd.grad(logits.sum(), data, create_graph=True)
                terms["penalty"] = slope.flatten(1).square().sum(1).mean() / 2
                loss = loss + self.gradient_penalty * terms["penalty"]
        return with_logs(loss, terms)

    def _fool(self, z: Tensor, towards: int) -> Tensor:
        """What makes the critic take z for `towards`: log of the other's probability, or minus its own's."""
        logits = self._logits(z) if towards else -self._logits(z)
        return -softplus(logits).mean() if self.saturating else softplus(-logits).mean()

    def _logits(self, z: Tensor) -> Tensor:
        """log D(z) / (1 - D(z)): z (N, *event) -> (N,), in the precision of z."""
        return self.critic(z.flatten(1)).squeeze(1).to(z.dtype)
