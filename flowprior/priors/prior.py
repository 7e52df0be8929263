"""The contract of every prior: what a subclass owes, and all that follows from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from flowprior.errors import InputError
from flowprior.tensors import as_context_shape, as_event_shape, batch_shape_of, without_autocast

if TYPE_CHECKING:
    from flowprior.priors.distribution import PriorDistribution


class Prior(nn.Module, ABC):
    """A module that, called with a context or without one, returns a distribution over z.

    A subclass owes `_draw`; with a density also `_log_prob`; with a data-dependent start `_initialize`; and
    `arguments`, what its constructor needs to build it again. The public methods check shapes and context,
    broadcast the batch of `z` against that of `context`, cast half precision up to the dtype of the prior and
    leave autocast, so that the hooks see full batches in full precision. NaN flows through: the training loop
    reports it.

    Args:
        features: the event shape, an int or a tuple such as `(4, 8, 8)`.
        context_features: the width of the context (*batch, context_features), or the shape (K, H, W) of
            context maps (*batch, K, H, W); None if there is none. `context_shape` is either as a shape.

    Raises:
        InputError: if `features` or `context_features` is not of that kind.
    """

    has_density: bool = True  # False where there are only samples: `log_prob` then says so
    has_rsample: bool = True  # False where a draw has no gradient: `rsample` then says so
    event_shape: torch.Size
    context_features: int | tuple[int, ...] | None
    context_shape: torch.Size | None
    _anchor: Tensor

    def __init__(
        self, features: int | Sequence[int], context_features: int | Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.event_shape = as_event_shape(features)
        self.context_shape = shape = as_context_shape(context_features)
        self.context_features = None if shape is None else shape[0] if len(shape) == 1 else tuple(shape)
        # A prior without parameters must still follow `.to()`: its draws need a device and a dtype.
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the prior draws and computes."""
        return self._anchor.device

    @property
    def dtype(self) -> torch.dtype:
        """What the prior draws and computes in."""
        return self._anchor.dtype

    @property
    def has_normal_base(self) -> bool:
        """Whether z0 ~ N(0, I), as slerp and traversals need."""
        return False

    def arguments(self) -> dict[str, Any]:
        """The constructor's keyword arguments, ready for JSON; a nested prior may stand as itself."""
        features = self.event_shape[0] if len(self.event_shape) == 1 else list(self.event_shape)
        return {"features": features}

    # The hooks: z (*batch, *event), context (*batch, C) or None, both of the prior's dtype. Context maps come
    # flattened, C = K H W.

    @abstractmethod
    def _draw(self, shape: torch.Size, context: Tensor | None) -> Tensor:
        """Draws of shape (*shape, *event), one for each row of context (*shape, C)."""

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        raise InputError(
            f"{type(self).__name__} has no density, only samples: use `sample`, or train it with an "
            "objective that needs no log_prob."
        )

    def _exact_kl(self, q: Distribution) -> Tensor | None:
        """KL(q || p) where a closed form exists."""
        return None

    def _conditional_kl(self, q: Distribution, z: Tensor, context: Tensor | None) -> Tensor | None:
        """An estimate of KL(q || p(. | context)) with less noise than log q(z) - log p(z | context) has.

        It is for a prior that is closed-form in each part of z given the parts before: those are taken from
        the draws z (*batch, *event), whose batch q's broadcasts to. None where there is no such form.
        """
        return None

    def _initialize(self, latents: Tensor, context: Tensor | None, seed: int) -> None:
        """Start from latents (N, *event); nothing to do for most priors."""

    # What follows from them.

    def forward(self, context: Tensor | None = None) -> PriorDistribution:
        """The distribution p(z) or p(z | context), with the batch shape of `context` (*batch, C).

        Wherever a context is (*batch, C), context maps are (*batch, K, H, W).

        >>> from flowprior import StandardNormal
        >>> StandardNormal(2)().sample((3,)).shape
        torch.Size([3, 2])
        """
        from flowprior.priors.distribution import PriorDistribution

        return PriorDistribution(self, self._as_given(self._check_context(context)))

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(z | context) in nats: z (*batch, *event), context (*batch, C) -> (*batch,).

        The batches of `z` and of `context` broadcast.

        Raises:
            InputError: if a shape does not fit, or a context is missing or not wanted.
        """
        z, context = self._prepare(z, context)
        with without_autocast(z.device.type):
            return self._log_prob(z, context)

    @torch.no_grad()
    def sample(self, n: int | Sequence[int] = 1, context: Tensor | None = None) -> Tensor:
        """Draws without gradient, (n, *batch, *event) where context is (*batch, C); `n` may be a shape."""
        return self._sample(n, context)

    def rsample(self, n: int | Sequence[int] = 1, context: Tensor | None = None) -> Tensor:
        """Draws as `sample` does, with the gradient of the path to parameters and context.

        Raises:
            InputError: if the draws of this prior have no such gradient.
        """
        if not self.has_rsample:
            raise InputError(
                f"{type(self).__name__} cannot draw with gradient (`has_rsample` is False): use `sample`."
            )
        return self._sample(n, context)

    def kl(self, q: Distribution, z: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """KL(q || p) = E_q[log q(z) - log p(z | context)], per example (*batch,).

        Exact where a closed form exists; otherwise the estimate from one draw `z` ~ q (reparameterised; drawn
        here if it is not given), with the closed form of each part given the parts before where there is one.
        A leading dimension of `z` beyond q's batch is kept: average over it.
        A point mass (pyro's Delta) has no entropy: that term is dropped, and -log p(z) is returned.

        Args:
            q: a distribution with this event shape; a factorised one without, such as `Normal(loc, scale)`
                of (*batch, *event), is read as independent over the event.
            z: draws of q, (*batch, *event).
            context: (*batch, C).

        Raises:
            InputError: if the shapes do not fit, or q cannot be drawn from with gradient.
        """
        from flowprior.priors.divergence import estimate_kl

        return estimate_kl(q, self, z, context)

    def initialize(self, latents: Tensor, context: Tensor | None = None, *, seed: int = 0) -> None:
        """Start the prior from latents (N, *event), with context (N, C); nothing happens if it has no such
        start.

        Raises:
            InputError: if the latents have the wrong shape, hold NaN or infinity, or are too few.
        """
        latents, context = self.check_latents(latents, context)
        with torch.no_grad(), without_autocast(latents.device.type):
            self._initialize(latents, context, seed)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` into `folder`, each of them whole or not at all."""
        from flowprior.priors.pretrained import save

        save(self, Path(folder))

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, bijector: object = None, embedding: nn.Module | None = None
    ) -> Self:
        """The prior that `save_pretrained` wrote to `folder`, on the CPU, with the dtype it had.

        Called on `Prior` it builds whatever class was stored; called on a subclass, only that one.

        Args:
            folder: what was given to `save_pretrained`.
            bijector: the user's own transform, if the prior was built with one: code is never stored.
            embedding: likewise the network of an `EmbeddedPrior`, whose weights the stored ones replace.

        Raises:
            InputError: if a file is missing, damaged, of another class or of a newer format.
        """
        from flowprior.priors.pretrained import load

        return load(cls, Path(folder), {"bijector": bijector, "embedding": embedding})

    def _sample(self, n: int | Sequence[int], context: Tensor | None) -> Tensor:
        shape = _as_sample_shape(n)
        context = self._check_context(context)
        if context is not None:
            shape = shape + context.shape[:-1]
            context = context.expand(*shape, context.shape[-1])
        with without_autocast(self.device.type):
            return self._draw(shape, context)

    def _check_context(self, context: Tensor | None) -> Tensor | None:
        """`context` as the hooks take it: (*batch, C), in the prior's dtype."""
        wanted = self.context_shape
        if wanted is None:
            if context is not None:
                raise InputError(
                    f"`context` was given to an unconditional {type(self).__name__}: leave it out, or build "
                    "a FlowPrior with `context_features`."
                )
            return None
        if context is None:
            raise InputError(
                f"`context` is missing: this {type(self).__name__} is conditional and needs a tensor of "
                f"shape {_with_batch(wanted)}."
            )
        if not isinstance(context, Tensor):
            raise InputError(
                f"`context` (a {type(context).__name__}) must be a tensor: torch.as_tensor makes one."
            )
        if context.dim() < len(wanted) or context.shape[context.dim() - len(wanted) :] != wanted:
            raise InputError(
                f"`context` has shape {tuple(context.shape)} but must end in `context_features` "
                f"(={self.context_features}), as in {_with_batch(wanted)}."
            )
        return context.to(self.dtype) if len(wanted) == 1 else context.to(self.dtype).flatten(-len(wanted))

    def _as_given(self, context: Tensor | None) -> Tensor | None:
        """A context of the hooks (*batch, C) as the public methods take it."""
        shape = self.context_shape
        return context if context is None or shape is None else context.unflatten(-1, tuple(shape))

    def _prepare(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if not isinstance(z, Tensor):
            raise InputError(f"`z` (a {type(z).__name__}) must be a tensor: torch.as_tensor makes one.")
        batch = batch_shape_of(z, self.event_shape)
        own = self.dtype
        if z.dtype != own:
            if torch.promote_types(z.dtype, own) != own or not z.is_floating_point():
                raise InputError(
                    f"`z` has dtype {z.dtype} but the prior computes in {own}: convert one, "
                    f"`z.to({own})` or `prior.to({z.dtype if z.is_floating_point() else own})`."
                )
            z = z.to(own)
        context = self._check_context(context)
        if context is None:
            return z, None
        shape = broadcast_batches(batch, context.shape[:-1], "z", "context")
        return z.expand(shape + self.event_shape), context.expand(*shape, context.shape[-1])

    def check_latents(self, latents: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Latents (N, *event) and context (N, C) as this prior takes them, on its device and in its dtype.

        Raises:
            InputError: if a shape does not fit, there are too few rows, or one holds NaN or infinity.
        """
        if not isinstance(latents, Tensor):
            raise InputError(
                f"`latents` (a {type(latents).__name__}) must be a tensor: torch.as_tensor makes one."
            )
        if len(batch_shape_of(latents, self.event_shape, "latents")) != 1:
            raise InputError(
                f"`latents` has shape {tuple(latents.shape)} but must be rows, (N, *event) with event shape "
                f"{tuple(self.event_shape)}."
            )
        if len(latents) < 2:
            raise InputError(f"`latents` has {len(latents)} row(s), too few to start from: give at least 2.")
        _check_finite(latents, "latents")
        context = self._check_context(context)
        if context is not None:
            if context.shape[:-1] != latents.shape[:1]:
                raise InputError(
                    f"`context` has batch shape {tuple(context.shape[:-1])} but must hold one row for each of"
                    f" the {len(latents)} rows of `latents`: {(len(latents), *(self.context_shape or ()))}."
                )
            _check_finite(context, "context")
            context = context.to(self.device)
        return latents.to(self.device, self.dtype), context


def broadcast_batches(left: torch.Size, right: torch.Size, left_name: str, right_name: str) -> torch.Size:
    """The shape that two batch shapes broadcast to.

    Raises:
        InputError: if they do not.
    """
    try:
        return torch.broadcast_shapes(left, right)
    except RuntimeError:
        raise InputError(
            f"the batch shapes of `{left_name}` {tuple(left)} and `{right_name}` {tuple(right)} must "
            "broadcast: give both the same leading shape."
        ) from None


def _with_batch(shape: torch.Size) -> str:
    return f"(*batch, {', '.join(map(str, shape))})"


def _as_sample_shape(n: int | Sequence[int]) -> torch.Size:
    sizes = (n,) if isinstance(n, int) else n
    if not isinstance(sizes, Sequence) or any(
        not isinstance(size, int) or isinstance(size, bool) or size < 0 for size in sizes
    ):
        raise InputError(f"`n` (={n!r}) must be a number of draws or a tuple of them, such as 16 or (4, 4).")
    return torch.Size(sizes)


def _check_finite(rows: Tensor, name: str) -> None:
    finite = rows.flatten(1).isfinite().all(1)  # (N,)
    if not finite.all():
        bad = (~finite).nonzero().flatten()
        raise InputError(
            f"`{name}` holds NaN or infinity in {len(bad)} of {len(rows)} rows, first in row {int(bad[0])}: "
            "drop those rows or mend what made them."
        )
