"""Coverage by likelihood and quality by an adversary, one objective for VAE, piVAE, GAN, CQG and CQFG."""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from flowprior.checks import check_number, check_one_of
from flowprior.errors import InputError
from flowprior.models.autoencoder import Autoencoder
from flowprior.objectives.objective import Batch, Objective, context_of, entry, with_logs

Unit = Literal["nats", "bits"]


class CoverageQuality(Objective):
    """A model that covers the data and whose samples x̃ a critic D cannot tell from them; players minimize

        model   coverage · L_C + quality · E[-log D(x̃) / (1 - D(x̃))]        (Eq. 6 and 7)
        critic  -E[log D(x)] - E[log(1 - D(x̃))] + gradient_penalty · E[(‖∂a/∂x̂‖ - 1)²]   (Eq. 1 and A.3)

    with L_C the bound on -log p(x), a = log D / (1 - D) the critic's output and x̂ = ε x + (1 - ε) x̃. Eq. 7 is
    -E[a(x̃)]. A.3 prints the penalty's weight as a summand. The critic sees images in [-1, 1], real ones
    dequantized as the likelihood sees them.

        quality 0     VAE, or piVAE for a model with an invertible f; there is no critic
        coverage 0    GAN, on mean images: build the model with `noise=False`
        both          CQG, or CQFG with f

    f learns from the likelihood alone (A.4): the critic's gradient passes through f⁻¹ to the decoder, not
    into f itself. The critic steps first, and both players see one draw of x̃: its seed is drawn with the
    critic's step, which has not moved the model.

    The paper does not say in which unit L_C stands beside the weight 100. `unit="nats"` takes nats an image,
    "bits" bits a dimension, a factor of 2,129 at 32x32x3.

    Groups: "encoder", "decoder", "likelihood", "prior", "flow" (those that have parameters) of "model",
    "critic". Logged: "bound" (L_C in bits a dimension for stored images, else nats), "reconstruction",
    "kl" (nats), "adversarial"; of the critic "accuracy" and "penalty".

    Args:
        model: any autoencoder, such as a `PartiallyInvertible`.
        critic: makes the critic, images (N, C, H, W) and context (if conditional) -> logits (N,).
        coverage, quality, gradient_penalty: weights; paper: 1, 100 (10 to 100 work), 100.
        unit: of L_C.

    Raises:
        InputError: on a weight that is negative or not finite, two that are 0, or a critic that is missing.

    Source: Lucas et al. 2019, sections 4.1, 4.2 and 5.1, A.3, A.4 and Algorithm 1; Sønderby et al. 2017.
    """

    players: tuple[str, ...] = ("critic", "model")

    def __init__(
        self,
        model: Autoencoder,
        critic: Callable[[], nn.Module] | None = None,
        coverage: float = 1.0,
        quality: float = 100.0,
        gradient_penalty: float = 100.0,
        unit: Unit = "nats",
    ) -> None:
        super().__init__()
        self.coverage = check_number("coverage", coverage, least=0)
        self.quality = check_number("quality", quality, least=0)
        self.gradient_penalty = check_number("gradient_penalty", gradient_penalty, least=0)
        self.unit = check_one_of("unit", unit, get_args(Unit))
        if not (coverage or quality):
            raise InputError("`coverage` and `quality` are both 0: there is nothing to train by.")
        if quality and critic is None:
            raise InputError("`critic` (=None) is missing: give one such as ImageCritic, or quality=0.")
        self.model = model
        self.critic = critic() if quality and critic is not None else None
        self.players = ("critic", "model") if quality else ("model",)
        self._seed: int | None = None

    def parameter_groups(self, player: str) -> dict[str, list[nn.Parameter]]:
        """{"encoder": ..., "decoder": ..., ...} of "model", {"critic": ...} of "critic"."""
        self.check_player(player)
        if player == "critic" and self.critic is not None:
            return {"critic": list(self.critic.parameters())}
        parts = self.model.parts().items()
        groups = {name: [p for part in modules for p in part.parameters()] for name, modules in parts}
        groups["likelihood"] = self.model.likelihood.learned_parameters()
        return {name: parameters for name, parameters in groups.items() if parameters}

    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Tensor]:
        """The player's loss and its terms, from `batch["x"]` and, if conditional, `batch["context"]`."""
        self.check_player(player)
        x, context = entry(batch, "x"), context_of(self.model, batch)
        return self._critic(x, context) if player == "critic" else self._model(x, context)

    def _model(self, x: Tensor, context: Tensor | None) -> dict[str, Tensor]:
        loss, terms = x.new_zeros(()), {}
        if self.quality:  # before the bound, which moves the running statistics of f
            terms["adversarial"] = -self._logits(self._fakes(x, context, self._seed), context).mean()
            loss = self.quality * terms["adversarial"]
        if self.coverage:
            reconstruction, kl = (each.mean() for each in self.model.bound(x, context))
            nats, size = reconstruction + kl, x[0].numel() * math.log(2)
            levels = self.model.levels
            shown = nats if levels is None else nats / size + math.log2(levels)
            terms |= {"bound": shown, "reconstruction": reconstruction, "kl": kl}
            loss = loss + self.coverage * (nats / size if self.unit == "bits" else nats)
        return with_logs(loss, terms)

    def _critic(self, x: Tensor, context: Tensor | None) -> dict[str, Tensor]:
        self._seed = int(torch.randint(2**62, ()))
        with torch.no_grad():
            fake = self._fakes(x, context, self._seed)
            real = self.model.dequantized(x)
        on_real, on_fake = self._logits(real, context), self._logits(fake, context)
        loss = softplus(-on_real).mean() + softplus(on_fake).mean()
        terms = {"accuracy": torch.cat([on_real > 0, on_fake < 0]).to(loss.dtype).mean()}
        if self.gradient_penalty:
            terms["penalty"] = self._penalty(real, fake, context)
            loss = loss + self.gradient_penalty * terms["penalty"]
        return with_logs(loss, terms)

    def _penalty(self, real: Tensor, fake: Tensor, context: Tensor | None) -> Tensor:
        """E (‖∂a/∂x̂‖ - 1)², by images in [-1, 1]."""
        share = torch.rand(len(real), *(1 for _ in real.shape[1:]), device=real.device, dtype=real.dtype)
        with torch.enable_grad():
            between = scaled(share * real + (1 - share) * fake).detach().requires_grad_()
            logits = self._judge(between, context)
            (slope,) = torch.autograd.grad(logits.sum(), between, create_graph=True)
            return (torch.linalg.vector_norm(slope.flatten(1), dim=1) - 1).square().mean()

    def _fakes(self, x: Tensor, context: Tensor | None, seed: int | None) -> Tensor:
        """As many samples as x has rows, from the draws of `seed`; the flow stands still."""
        if seed is None:
            return self.model.rsample(len(x), context, train_flow=False)
        with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
            torch.manual_seed(seed)
            return self.model.rsample(len(x), context, train_flow=False)

    def _logits(self, images: Tensor, context: Tensor | None) -> Tensor:
        """log D(x) / (1 - D(x)): images (N, *data) in [0, 1] -> (N,)."""
        return self._judge(scaled(images), context)

    def _judge(self, images: Tensor, context: Tensor | None) -> Tensor:
        critic = self.critic
        if critic is None:
            raise InputError("There is no critic at quality 0.")
        logits = critic(images) if context is None else critic(images, context)
        return logits.to(images.dtype)


def scaled(images: Tensor) -> Tensor:
    """[0, 1] to [-1, 1]."""
    return 2 * images - 1
