"""Regularized autoencoders: point codes, kept small, and a decoder kept smooth."""

from typing import Literal

import torch
from torch import Tensor

from flowprior.checks import check_number, check_one_of
from flowprior.errors import InputError
from flowprior.models.autoencoder import Autoencoder
from flowprior.objectives.objective import Batch, ModelObjective, entry, with_logs

Smoothness = Literal["weights", "gradient"]


class RegularizedAutoencoder(ModelObjective):
    """loss = reconstruction_weight · -log p(x | E(x)) + latent_weight · ½ ‖E(x)‖² + decoder_weight · R

    R keeps the decoder D smooth, as a VAE's noise does:

        weights    ‖θ_D‖², the decoder's squared weights (RAE-L2)
        gradient   E‖∇_z D(z)‖²_F at z = E(x), from one random projection an example: for v ~ N(0, I),
                   E_v ‖∇_z v·D(z)‖² is the squared Frobenius norm of the Jacobian (RAE-GP)

    RAE-SN is decoder_weight 0 with a spectrally normalized decoder, `InfoGANDecoder(spectral_norm=True)`. The
    prior is not trained: it is fitted to the codes afterwards, in the paper a mixture of ten Gaussians.

    Logged: "loss", "reconstruction", "latent" (½ ‖z‖²) and, where it counts, "decoder" (R). Groups:
    "autoencoder".

    Args:
        model: with a `DeterministicPosterior`, unconditional.
        latent_weight, decoder_weight: β and λ; in the paper's code 1e-4 and 1e-7 beside mean squared errors.
        decoder: which R.
        reconstruction_weight: of the reconstruction term.

    Raises:
        InputError: on another posterior, a conditional model, or a weight that is negative or not finite.

    Source: Ghosh et al. 2020 (From variational to deterministic autoencoders), Eq. 11.
    """

    def __init__(
        self,
        model: Autoencoder,
        latent_weight: float = 0.1,
        decoder_weight: float = 0.0,
        decoder: Smoothness = "weights",
        reconstruction_weight: float = 1.0,
    ) -> None:
        super().__init__(model, reconstruction_weight)
        if not model.posterior.deterministic or model.conditional:
            raise InputError(
                f"`model` has a {type(model.posterior).__name__} or a context, but a regularized autoencoder "
                "has point codes without one: build it with DeterministicPosterior() and such a prior."
            )
        self.latent_weight = check_number("latent_weight", latent_weight, least=0)
        self.decoder_weight = check_number("decoder_weight", decoder_weight, least=0)
        self.decoder = check_one_of("decoder", decoder, ("weights", "gradient"))

    def parameter_groups(self, player: str) -> dict[str, list[torch.nn.Parameter]]:
        """{"autoencoder": ...}: the prior waits for codes that rest."""
        return {"autoencoder": super().parameter_groups(player)["autoencoder"]}

    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Tensor]:
        """The loss and its terms, from `batch["x"]`."""
        self.check_player(player)
        model, x = self.model, entry(batch, "x")
        z = model.encode(x).mean  # (N, *event)
        output = model.decoder_output(z)
        terms = {
            "reconstruction": model.likelihood.nll(output, x).mean(),
            "latent": 0.5 * z.flatten(1).square().sum(1).mean(),
        }
        loss = self.reconstruction_weight * terms["reconstruction"] + self.latent_weight * terms["latent"]
        if self.decoder_weight:
            terms["decoder"] = self._weights() if self.decoder == "weights" else self._slope(z)
            loss = loss + self.decoder_weight * terms["decoder"]
        return with_logs(loss, terms)

    def _weights(self) -> Tensor:
        return torch.stack([p.square().sum() for p in self.model.decoder.parameters()]).sum()

    def _slope(self, z: Tensor) -> Tensor:
        """The mean over examples of an unbiased estimate of ‖∇_z D(z)‖²_F."""
        with torch.enable_grad():
            at = z if z.requires_grad else z.detach().requires_grad_()
            mean = self.model.decode(at)
            (slope,) = torch.autograd.grad(mean, at, torch.randn_like(mean), create_graph=True)
        return slope.flatten(1).square().sum(1).mean()
