"""Generative Latent Flow: a deterministic autoencoder and a density of its codes, trained together."""

from flowprior.models.autoencoder import Autoencoder
from flowprior.objectives.bilevel import Bilevel


class LatentFlow(Bilevel):
    """loss = reconstruction_weight · -log p(x | E(x)) - log p(sg[E(x)]), sg = stop-gradient (GLF Eq. 5).

    This is `Bilevel` on a deterministic posterior: β = 0 with the stop-gradient, β = 1 without. With it the
    terms train disjoint parameters, autoencoder and prior, and the weight only scales the autoencoder's
    gradient. `stop_gradient=False` is regularized GLF (Eq. 4): the density pulls on the encoder as well,
    `reconstruction_weight` is the paper's β (50 to 400; at 1 and 10 the nll wins and the reconstruction
    diverges, section 4.2.1), and the nll falls without bound as the codes shrink (section 3.3.1).

    Two-stage GLF: train the group "autoencoder" first, then freeze it and train "prior", or train `LatentNLL`
    on `model.codes(x)`, which is the same and faster. Logged: "loss", "reconstruction", "nll" (Fig. 4c).

    Args:
        model: with a `DeterministicPosterior`.
        reconstruction_weight: β of Eq. 4.
        stop_gradient: Eq. 5 if true, Eq. 4 otherwise.

    Raises:
        InputError: on a posterior that is not deterministic, or a weight that is negative or not finite.
    """

    deterministic = True

    def __init__(
        self, model: Autoencoder, reconstruction_weight: float = 1.0, stop_gradient: bool = True
    ) -> None:
        super().__init__(model, 0.0 if stop_gradient else 1.0, reconstruction_weight)
