"""The evidence lower bound of a VAE with any prior, weighted (β-VAE-H) or with a capacity (β-VAE-B)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from flowprior.checks import check_count, check_number
from flowprior.errors import InputError
from flowprior.models.autoencoder import Autoencoder
from flowprior.objectives.schedules import LinearAnnealing
from flowprior.objectives.variational import Pass, Terms, VariationalObjective
from flowprior.priors import Prior


class ELBO(VariationalObjective):
    """loss = reconstruction_weight · E_q[-log p(x|z)] + kl_weight · KL(q(z|x) ‖ p(z)), one z ~ q an example.

    GLF Eq. 3 with a flow prior, Eq. 2 with N(0, I); dpVAE Eq. 1 and 5 with a decoupled one. The papers' β are
    on different terms, each with a name here:
      - `reconstruction_weight` is the β of GLF (section 3.2; 1 to 400, variance one): larger means sharper
        reconstructions, a smaller posterior variance. GLF's "learnable β" (Dai & Wipf's γ) is
        `GaussianLikelihood(variance="learned")` at weight 1.
      - `kl_weight` is the β of β-VAE-H (Higgins et al. 2017): larger means a stronger pull to the prior.
        Only the ratio of the two weights moves the optimum.
      - Morrow & Chiu's β is neither: it weighs the gradient of the KL in the encoder alone, while the prior
        always learns with weight one. `Bilevel` has it, and is this objective at β = 1.

    Logged terms and groups: those of `VariationalObjective`; "nll" is drawn in GLF's Fig. 3c. GLF's Fig. 3b
    draws -Σ_j log(σ_j) / 2 instead of the entropy, which *grows* as the variances shrink: with
    H = Σ_j log σ_j + (d/2) log 2πe it is (d/2 · log 2πe - H) / 2.

    Args:
        model: with a posterior of positive entropy, such as `GaussianPosterior`.
        reconstruction_weight: GLF's β.
        kl_weight: β-VAE's β, a number or a `LinearAnnealing`, which is then logged as "kl_weight". The
            Variational U-net has LinearAnnealing(25_000, start=1e-6, after=50_000), of 100,000 steps.
        target: makes the p of the KL from the event shape, where that is not the model's prior: with
            `StandardNormal` a VAE whose own prior is fitted to its codes afterwards, as the two-stage VAE's.

    Raises:
        InputError: on a deterministic posterior, a weight that is negative or not finite, or a target for a
            conditional model.
    """

    def __init__(
        self,
        model: Autoencoder,
        reconstruction_weight: float = 1.0,
        kl_weight: float | LinearAnnealing = 1.0,
        target: Callable[..., Prior] | None = None,
    ) -> None:
        super().__init__(model, reconstruction_weight)
        if target is not None and model.prior.context_shape is not None:
            raise InputError("`target` takes the place of a prior without context, but `model` has another.")
        self.other = None if target is None else target(features=tuple(model.prior.event_shape))
        if not isinstance(kl_weight, LinearAnnealing):  # its values are checked already
            check_number("kl_weight", kl_weight, least=0)
        self.kl_weight = kl_weight

    @property
    def target(self) -> Prior:
        """The p of the KL."""
        return self.model.prior if self.other is None else self.other

    def parameter_groups(self, player: str) -> dict[str, list[nn.Parameter]]:
        """Those of the model, whose prior waits where there is another `target`: the KL trains that one."""
        groups = super().parameter_groups(player)
        if self.other is not None:
            groups["prior"] = list(self.other.parameters())
        return {name: parameters for name, parameters in groups.items() if parameters}

    def regularizer(self, seen: Pass, step: int) -> tuple[Tensor, Terms]:
        """kl_weight · KL."""
        if not isinstance(self.kl_weight, LinearAnnealing):
            return self.kl_weight * seen.kl, {}
        weight = self.kl_weight(step)
        return weight * seen.kl, {"kl_weight": seen.kl.new_tensor(weight)}


class CapacityELBO(VariationalObjective):
    """loss = reconstruction_weight · E_q[-log p(x|z)] + gamma · |KL(q(z|x) ‖ p(z)) - C(step)|   (β-VAE-B)

    C(step) = capacity · min(step / capacity_steps, 1) in nats per example; the absolute value is of the
    batch's mean KL. Public codes differ: dpVAE's KL is the batch's *sum*, so that its capacity of 25 is
    shared by the whole batch and the KL stays above it; pythae takes the absolute value example by example.

    A learned prior is no part of that penalty: below the capacity its sign would train the prior to fit the
    codes worse. The encoder (and what the model computes of a context) sees the penalty, the prior
    E_q[-log p(z)] with weight one, always. `strict` gives the prior the penalty too, as printed.

    Logged beside the terms of `VariationalObjective`: "capacity", C(step).

    Args:
        model, reconstruction_weight: as for `ELBO`.
        gamma: weight of the distance from the capacity.
        capacity, capacity_steps: at the end of the schedule, and the optimizer steps until then.
        strict: whether the prior's gradient is that of the penalty, reversed below the capacity.

    Raises:
        InputError: on a deterministic posterior, a weight or capacity that is negative or not finite, or a
            number of steps that is not positive.

    Source: Burgess et al. 2018 (arXiv:1804.03599), Eq. 8; with a decoupled prior dpVAE, section 4.3.
    """

    def __init__(
        self,
        model: Autoencoder,
        gamma: float = 1000.0,
        capacity: float = 25.0,
        capacity_steps: int = 100_000,
        strict: bool = False,
        reconstruction_weight: float = 1.0,
    ) -> None:
        super().__init__(model, reconstruction_weight)
        self.gamma = check_number("gamma", gamma, least=0)
        self.capacity = check_number("capacity", capacity, least=0)
        self.capacity_steps = check_count("capacity_steps", capacity_steps)
        learned = any(True for _ in model.prior.parameters())
        self.one_sign = strict or not learned  # whether the penalty's own gradient is the one that is wanted

    def pull(self, posterior: Distribution, z: Tensor, context: Tensor | None, step: int) -> float | Tensor:
        """The penalty's slope in the KL: gamma above the capacity, -gamma below it."""
        if self.one_sign:
            return 1.0
        with torch.no_grad():
            kl = self.model.prior.kl(posterior, z, context).mean()
        return self.gamma * (kl - self._at(step)).sign()

    def regularizer(self, seen: Pass, step: int) -> tuple[Tensor, Terms]:
        """gamma · |KL - C(step)|, whose gradient in the prior is that of the KL."""
        capacity = self._at(step)
        penalty = self.gamma * (seen.kl - capacity).abs()
        if not self.one_sign:
            penalty = seen.kl + (penalty - seen.kl).detach()
        return penalty, {"capacity": seen.kl.new_tensor(capacity)}

    def _at(self, step: int) -> float:
        return self.capacity * min(step / self.capacity_steps, 1.0)
