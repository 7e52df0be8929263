"""GMMN + autoencoder: a prior matched to the codes by their maximum mean discrepancy."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowprior.checks import check_number
from flowprior.errors import InputError
from flowprior.models.autoencoder import Autoencoder
from flowprior.objectives.mmd import Kernel, check_kernel, mmd
from flowprior.objectives.objective import (
    Batch,
    ModelObjective,
    check_draws,
    context_of,
    draw_like,
    entry,
    scale_gradient,
    with_logs,
)
from flowprior.objectives.schedules import Beta, LinearAnnealing


class MomentMatching(ModelObjective):
    """loss = reconstruction_weight · E[-log p(x|z)] + weight · MMD²(q(z), p(z)), β of it for the encoder.

    With `root` it is MMD itself, as Li et al. train it (section 3.3): the gradient does not fade as the laws
    come together. They train the autoencoder first and then the prior alone, which two stages do, the one
    with the prior frozen, the other with the autoencoder.

    The batch's z ~ q(z|x) are compared with as many draws of the prior (at the batch's contexts, if it is
    conditional), which learns from all of the discrepancy's gradient; the encoder, and a network for the
    context, get the part β of it. β = 0 is GMMN + autoencoder, an unregularized autoencoder whose codes an
    MLP learns to imitate (Li et al. 2015, section 4); with a fixed prior and β = 1 it is WAE-MMD (Tolstikhin
    et al. 2018).

    Codes that nothing regularizes have a scale of their own: distances are in units of the root mean squared
    distance between two codes of the batch (without gradient), and the kernel is the mean of those of widths
    `scale`. A batch should be large, as the discrepancy is estimated from it; in one of a single row, such as
    the last of a validation, the unit is the distance to the draw, and the estimate the biased one.

    Logged: "loss", "reconstruction", "mmd" (squared, before the weight), if annealed "beta".
    Groups: "autoencoder", "prior" (if it has parameters).

    Args:
        model: with any posterior, and a prior that draws with gradient, such as `ImplicitPrior`.
        beta: β in [0, 1], or a `LinearAnnealing`.
        weight, reconstruction_weight: of the discrepancy and of the reconstruction term.
        root: whether the square root of MMD² is minimized.
        kernel, scale, unbiased, block: as for `mmd`, but in the units above.

    Raises:
        InputError: on a β outside [0, 1], a weight that is negative or not finite, an unknown kernel, or a
            prior with parameters that cannot draw with gradient.
    """

    def __init__(
        self,
        model: Autoencoder,
        beta: float | LinearAnnealing = 0.0,
        weight: float = 1.0,
        kernel: Kernel = "gaussian",
        scale: float | Sequence[float] = (0.125, 0.25, 0.5, 1.0, 2.0),
        unbiased: bool = False,
        block: int | None = None,
        root: bool = False,
        reconstruction_weight: float = 1.0,
    ) -> None:
        super().__init__(model, reconstruction_weight)
        check_draws(model.prior)
        check_kernel(kernel, scale, block)
        self.beta, self.weight = Beta(beta), check_number("weight", weight, least=0)
        self.kernel, self.scale, self.unbiased, self.block = kernel, scale, unbiased, block
        if root and unbiased:
            raise InputError("`root` (=True) needs an MMD² that cannot be negative: take `unbiased` = False.")
        self.root = root

    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Tensor]:
        """The loss and its terms, from `batch["x"]` and, if conditional, `batch["context"]`."""
        self.check_player(player)
        model, x, beta = self.model, entry(batch, "x"), self.beta.at(step)
        context = context_of(model, batch)
        condition = model.condition(context)
        seen = model.prior_context(condition)
        z = model.encode(x, context).rsample()  # (N, *event)
        drawn = draw_like(z, model.prior, None if seen is None else scale_gradient(seen, beta))
        alone = len(z) == 1  # with nothing to be a distance from but the draw, nor another row to pair with
        unit = typical_distance(torch.cat((z, drawn)).detach() if alone else z.detach())
        codes, drawn = scale_gradient(z, beta) / unit, drawn / unit
        unbiased = self.unbiased and not alone
        squared = mmd(codes, drawn, self.kernel, scale=self.scale, unbiased=unbiased, block=self.block)
        reconstruction = model.likelihood.nll(model.conditioned_output(z, condition), x).mean()
        terms = {"reconstruction": reconstruction, "mmd": squared} | self.beta.logged(step, squared)
        discrepancy = squared.clamp(min=1e-12).sqrt() if self.root else squared
        return with_logs(self.reconstruction_weight * reconstruction + self.weight * discrepancy, terms)


def typical_distance(z: Tensor) -> Tensor:
    """(2 Σ_j var_j)^½, the root mean squared distance of two independent rows of z (N, *event): a scalar.

    >>> import torch
    >>> typical_distance(torch.tensor([[0.0], [2.0]]))
    tensor(2.)
    """
    return (2 * z.flatten(1).var(0).sum()).clamp(min=1e-12).sqrt()
