"""Generative Latent Flow: a deterministic autoencoder and a density of its codes, trained together."""

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


class LatentFlow(Objective):
    """loss = reconstruction_weight · -log p(x | E(x)) - log p(sg[E(x)]), sg = stop-gradient (GLF Eq. 5).

    With the stop-gradient the two terms train disjoint parameters, the autoencoder and the prior, and the
    weight only scales the autoencoder's gradient. `stop_gradient=False` is regularised GLF (Eq. 4): the
    density pulls on the encoder as well, `reconstruction_weight` is the paper's β (50 to 400; at 1 and 10 the
    nll wins and the reconstruction diverges, section 4.2.1), and the nll falls without bound as the codes
    shrink (section 3.3.1).

    Two-stage GLF needs nothing else: train the group "autoencoder" first, then freeze it and train "prior",
    or train `LatentNLL` on `model.codes(x)`, which is the same and faster.

    Logged, means over the batch in nats per example: "loss", "reconstruction", "nll" (-log p(z), Fig. 4c).

    Groups: "autoencoder" (encoder, decoder, learned parameters of the likelihood), "prior" (if it has any).

    Args:
        model: with a `DeterministicPosterior`.
        reconstruction_weight: β of Eq. 4.
        stop_gradient: Eq. 5 if true, Eq. 4 otherwise.

    Raises:
        InputError: on a posterior that is not deterministic, or a weight that is negative or not finite.
    """

    def __init__(
        self, model: Autoencoder, reconstruction_weight: float = 1.0, stop_gradient: bool = True
    ) -> None:
        super().__init__()
        if not model.posterior.deterministic:
            raise InputError(
                f"`model` has a {type(model.posterior).__name__}, but the encoder of GLF is deterministic: "
                "build it with DeterministicPosterior(), or use ELBO."
            )
        self.model = model
        self.reconstruction_weight = check_weight("reconstruction_weight", reconstruction_weight)
        self.stop_gradient = stop_gradient

    def parameter_groups(self, player: str) -> dict[str, list[nn.Parameter]]:
        """{"autoencoder": ..., "prior": ...}; no "prior" where it has no parameters."""
        self.check_player(player)
        return autoencoder_groups(self.model)

    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Tensor]:
        """Eq. 5 (or 4) and its terms, from `batch["x"]` and, if conditional, `batch["context"]`."""
        self.check_player(player)
        x, prior = entry(batch, "x"), self.model.prior
        z = self.model.encode(x).mean  # (N, *event)
        reconstruction = self.model.reconstruction_nll(x, z).mean()
        nll = -prior.log_prob(z.detach() if self.stop_gradient else z, context_of(prior, batch)).mean()
        return {
            "loss": self.reconstruction_weight * reconstruction + nll,
            "reconstruction": reconstruction.detach(),
            "nll": nll.detach(),
        }
