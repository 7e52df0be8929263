"""The contract between a method and the training loop."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from flowprior.checks import check_number, check_one_of
from flowprior.errors import InputError
from flowprior.models.autoencoder import Autoencoder
from flowprior.priors import Prior

Batch = Mapping[str, Tensor]  # "x" (floats in [0, 1] or vectors), optionally "label", "context", "z"


class Objective(nn.Module, ABC):
    """A method, as the loop sees it: players, their parameters, and named losses of a batch.

    Subclasses must implement `losses`; those that train parts at different rates, also `parameter_groups`. A
    player takes one optimizer step a batch; most methods have the single player "model".
    """

    players: tuple[str, ...] = ("model",)

    @abstractmethod
    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Tensor]:
        """Named scalars, means over the batch of nats per example; "loss" is what the player minimizes.

        The tensors of `batch` lead with its size; `step` counts the optimizer steps so far, for schedules.
        """

    def forward(self, player: str, batch: Batch, step: int) -> dict[str, Tensor]:
        """`losses`, of which only "loss" has a gradient: what the loop calls, and strategies wrap."""
        terms = self.losses(player, batch, step)
        return {name: value if name == "loss" else value.detach() for name, value in terms.items()}

    def parameter_groups(self, player: str) -> dict[str, list[nn.Parameter]]:
        """The player's parameters by group, so that each group can have its own optimizer.

        Groups do not overlap and none is empty; frozen parameters are listed as well. Raises InputError if
        there is no such player.
        """
        return {self.check_player(player): list(self.parameters())}

    def parameters_of(self, player: str) -> Iterable[nn.Parameter]:
        """All parameters that the player's loss trains."""
        return [parameter for group in self.parameter_groups(player).values() for parameter in group]

    def check_player(self, player: str) -> str:
        """`player`; raises InputError unless it is one of `players`."""
        return check_one_of("player", player, self.players)


class ModelObjective(Objective):
    """An objective that trains a model, its autoencoder and its prior, as the player "model"."""

    def __init__(self, model: Autoencoder, reconstruction_weight: float = 1.0) -> None:
        super().__init__()
        if not model.single_latent:
            raise InputError(
                f"`model` (a {type(model).__name__}) infers its latents in a way of its own, which "
                f"{type(self).__name__} does not know: train it with CoverageQuality(quality=0)."
            )
        self.model = model
        self.reconstruction_weight = check_number("reconstruction_weight", reconstruction_weight, least=0)

    def parameter_groups(self, player: str) -> dict[str, list[nn.Parameter]]:
        """{"autoencoder": ..., "prior": ...}: the prior's parameters, and all others that learn, so none of a
        perceptual likelihood's feature network; a group without parameters is left out."""
        self.check_player(player)
        prior, likelihood = list(self.model.prior.parameters()), self.model.likelihood
        apart = {id(parameter) for parameter in (*prior, *likelihood.parameters())}
        others = [parameter for parameter in self.model.parameters() if id(parameter) not in apart]
        groups = {"autoencoder": others + likelihood.learned_parameters(), "prior": prior}
        return {name: parameters for name, parameters in groups.items() if parameters}


def with_logs(loss: Tensor, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """{"loss": ...} and the terms to be logged beside it, without gradient."""
    return {"loss": loss} | {name: value.detach() for name, value in terms.items()}


def entry(batch: Batch, name: str) -> Tensor:
    """`batch[name]`; raises InputError if the batch has no such entry."""
    if name not in batch:
        raise InputError(
            f"The batch has no {name!r} (only {', '.join(map(repr, batch))}): add it to the stage's data."
        )
    return batch[name]


def context_of(part: Prior | Autoencoder, batch: Batch) -> Tensor | None:
    """`batch["context"]`, which must be there, for a conditional prior or model; None for others."""
    return None if part.context_shape is None else entry(batch, "context")


def scale_gradient(value: Tensor, weight: float | Tensor) -> Tensor:
    """`value`, through which only the part `weight` of a gradient passes; at 0 the graph ends here.

    >>> import torch
    >>> z = torch.ones(2, requires_grad=True)
    >>> torch.autograd.grad(scale_gradient(z, 0.25).square().sum(), z)
    (tensor([0.5000, 0.5000]),)
    """
    if not value.requires_grad:
        return value
    if isinstance(weight, float) and weight in (0.0, 1.0):
        return value if weight else value.detach()
    return value.detach() + weight * (value - value.detach())


def check_draws(prior: Prior) -> bool:
    """Whether the prior has parameters; raises InputError if its draws have no gradient for them."""
    learned = any(True for _ in prior.parameters())
    if learned and not prior.has_rsample:
        raise InputError(
            f"`model` has a {type(prior).__name__}, whose draws have no gradient to learn from: take an "
            "ImplicitPrior or a FlowPrior, or StandardNormal for a fixed prior."
        )
    return learned


def draw_like(z: Tensor, prior: Prior, context: Tensor | None) -> Tensor:
    """As many draws of the prior as z (N, *event) has rows, at what it sees of their contexts (N, C), with
    the gradient of the path where the prior has one."""
    draw = prior.rsample if prior.has_rsample else prior.sample
    return draw(len(z)) if context is None else draw(1, context)[0]
