"""FactorVAE: a critic estimates the total correlation of the codes, which the encoder then lowers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from flowprior.checks import check_number
from flowprior.models.autoencoder import Autoencoder
from flowprior.networks.critics import LatentCritic
from flowprior.objectives.objective import Batch, context_of, entry
from flowprior.objectives.variational import Pass, Terms, VariationalObjective
from flowprior.tensors import numel


class FactorVAE(VariationalObjective):
    """loss = reconstruction_weight · E_q[-log p(x|z)] + KL(q(z|x) ‖ p(z)) + tc_weight · TC

    TC = KL(q(z) ‖ Π_j q(z_j)) ≈ mean(c_0(z) - c_1(z)), with the logits of a critic that tells z ~ q(z) (class
    0) from z̄, whose every dimension comes from another example of the batch (class 1). It acts on the
    representation z; a decoupled prior changes the KL alone (dpVAE, section 4.3).

    Players: "model" as in `ELBO`; then "critic" (its only group), which lowers the mean cross-entropy of z
    and z̄, both drawn again from the encoder without gradient. It logs "loss", and "accuracy" (½ when the two
    cannot be told apart), the model "total_correlation" beside its common terms.

    That is what the critic sees, and the regularizer is no stronger than that. The metric
    `total_correlation` is the plug-in value; a study's table has both, and says where the critic sees less
    than half of it. The stage's `steps` can give the critic more steps a batch.

    Args:
        model, reconstruction_weight: as for `ELBO`.
        tc_weight: the γ of FactorVAE; 6.4 to 100 are in use. dpVAE's code has 1000 beside sums over a batch
            of 24, which is 42 an example.
        critic: makes the critic of `features`, the entries of a latent: (N, features) -> two logits (N, 2).

    Raises:
        InputError: on a deterministic posterior, or a weight that is negative or not finite.

    Source: Kim & Mnih 2018 (arXiv:1802.05983), Eq. 2 and 3, Algorithms 1 and 2. Adam of the critic: 1e-4 and
    betas (0.5, 0.9) there; (0.9, 0.999) and the same for the model in dpVAE's code for MNIST.
    """

    players = ("model", "critic")

    def __init__(
        self,
        model: Autoencoder,
        tc_weight: float = 10.0,
        critic: Callable[[int], nn.Module] = LatentCritic,
        reconstruction_weight: float = 1.0,
    ) -> None:
        super().__init__(model, reconstruction_weight)
        self.tc_weight = check_number("tc_weight", tc_weight, least=0)
        self.critic = critic(numel(model.prior.event_shape))

    def parameter_groups(self, player: str) -> dict[str, list[nn.Parameter]]:
        """{"autoencoder": ..., "prior": ...} of "model", {"critic": ...} of "critic"."""
        own = {"critic": list(self.critic.parameters())}
        return own if player == "critic" else super().parameter_groups(player)

    def losses(self, player: str, batch: Batch, step: int) -> Terms:
        """The player's loss and its terms, from `batch["x"]` and, if conditional, `batch["context"]`."""
        if player != "critic":
            return super().losses(player, batch, step)
        with torch.no_grad():
            context = context_of(self.model, batch)
            z = self.model.encode(entry(batch, "x"), context).sample().flatten(1)  # (N, D)
        logits = self.critic(torch.cat([z, permute_dimensions(z)]))  # (2N, 2)
        classes = torch.arange(2, device=z.device).repeat_interleave(len(z))
        accuracy = (logits.argmax(1) == classes).float().mean()
        return {"loss": nn.functional.cross_entropy(logits, classes), "accuracy": accuracy}

    def regularizer(self, seen: Pass, step: int) -> tuple[Tensor, Terms]:
        """KL + tc_weight · TC."""
        logits = self.critic(seen.z.flatten(1)).to(seen.z.dtype)  # a mean in half precision loses digits
        total_correlation = (logits[:, 0] - logits[:, 1]).mean()
        return seen.kl + self.tc_weight * total_correlation, {"total_correlation": total_correlation}


def permute_dimensions(z: Tensor) -> Tensor:
    """Each column of z (N, D) in a random order of its own: a draw from the product of its marginals."""
    return z.gather(0, torch.rand(z.shape, device=z.device).argsort(0))
