"""The prior of this library: a normalizing flow over z."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor

from flowprior.bijectors import Bijector, Recipe, Whitening, as_bijector, as_recipe, build_bijector
from flowprior.errors import InputError
from flowprior.priors.base_mean import LinearMean, MapMean
from flowprior.priors.based import BasedPrior
from flowprior.priors.folded import FoldedPrior
from flowprior.priors.mixture import MixturePrior
from flowprior.priors.prior import Prior
from flowprior.priors.standard_normal import StandardNormal
from flowprior.tensors import numel, without_autocast

Standardize = Literal["full", "diagonal"]


class FlowPrior(BasedPrior):
    """log p(z | c) = log p0(z0) + log|det dz0/dz|, with z0 = f(whiten(z); c) - m(c).

    f is a chain of couplings, p0 the base. The whitening is there once `initialize` has seen latents; the
    base mean m(c), a linear map (of context maps in a spatial flow, a convolution) that starts at zero, is
    there if the prior is conditional. Both belong to
    `to_base` and `from_base`, so that z0 ~ p0 whatever the context.

    Args:
        features: the event shape, an int or a tuple such as `(4, 8, 8)`.
        recipe: "glf", "actnorm", "masked", "spline", "spatial" (for maps (C, h, w)), a `Recipe` of your own,
            or a mapping of its fields.
        transforms: the number of coupling layers; None for the recipe's own.
        hidden_features: the widths of a conditioner's hidden layers; None for the recipe's own.
        context_features: the width of the context, which every coupling and the base mean see, or the shape
            (K, H, W) of context maps, which are maps to spatial couplings and flat rows to others; None
            without.
        backend: "nflows" or "pyro".
        bijector: your own transform instead of a recipe: a Bijector, an nflows Transform, a torch or Pyro
            Transform or a list of these.
        reversible: keep no activations of the couplings for the gradient, and compute them anew in the
            backward pass through the inverse: its memory is then the same for any depth, at a third more
            arithmetic and with the rounding of the inverse in the gradients; where deep couplings stretch far
            (64 and more, scales near their limit) that rounding can swamp the gradient
            (benchmarks/results/reversible.json). Affine recipes on nflows only.
            Inside torch.compile it is the compiler that decides what is kept.
        base: "normal" for N(0, I), "mixture" for a `MixturePrior` (a learnable mixture of Gaussians),
            or an unconditional prior of the same event shape.

    Raises:
        InputError: if an argument is not one of these, or a recipe is asked for beside a `bijector`.

    Sources: RealNVP couplings, Dinh et al. 2017, Eq. 7-8; as a prior, Xiao et al. 2019 (GLF), Eq. 5.

    >>> prior = FlowPrior(4, transforms=2, hidden_features=(8,), context_features=3)
    >>> p = prior(torch.zeros(5, 3))
    >>> p.sample((2,)).shape, p.log_prob(torch.zeros(5, 4)).shape
    (torch.Size([2, 5, 4]), torch.Size([5]))
    """

    def __init__(
        self,
        features: int | Sequence[int],
        *,
        recipe: str | Recipe | Mapping[str, Any] = "glf",
        transforms: int | None = None,
        hidden_features: Sequence[int] | None = None,
        context_features: int | Sequence[int] | None = None,
        backend: str = "nflows",
        bijector: object = None,
        reversible: bool = False,
        base: str | Prior = "normal",
    ) -> None:
        super().__init__(features, context_features)
        self.whitening: Whitening | None = None
        if bijector is None:
            self.bijector: Bijector = build_bijector(
                self.event_shape,
                as_recipe(recipe),
                transforms=transforms,
                hidden_features=hidden_features,
                context_features=context_features,
                backend=backend,
                reversible=reversible,
            )
        else:
            if recipe != "glf" or transforms is not None or hidden_features is not None or reversible:
                raise InputError(
                    "`bijector` was given together with `recipe`, `transforms`, `hidden_features` or "
                    "`reversible`, which describe another one: leave those out, or leave out `bijector`."
                )
            width = None if self.context_shape is None else numel(self.context_shape)
            self.bijector = as_bijector(bijector, self.event_shape, width)
        self._arguments = {
            "recipe": dict(recipe) if isinstance(recipe, Mapping) else recipe,
            "transforms": transforms,
            "hidden_features": None if hidden_features is None else tuple(hidden_features),
            "backend": backend,
            "reversible": reversible,
            "bijector": None if bijector is None else type(bijector).__name__,
        }
        self.base = _as_base(base, self.event_shape)
        self.has_density, self.has_rsample = self.base.has_density, self.base.has_rsample
        self.base_mean: LinearMean | MapMean | None = None
        if self.context_shape is not None:
            spatial = bijector is None and as_recipe(recipe).coupling == "spatial"
            kind = MapMean if spatial and len(self.context_shape) == 3 else LinearMean
            self.base_mean = kind(self.context_shape, self.event_shape)
        own = next((value for value in self.bijector.parameters() if value.is_floating_point()), None)
        if own is not None:  # a user's transform may be in float64 or on a GPU already
            self.to(own.device, own.dtype)

    def arguments(self) -> dict[str, Any]:
        recipe = self._arguments["recipe"]
        return super().arguments() | {
            **self._arguments,
            "recipe": asdict(recipe) if isinstance(recipe, Recipe) else recipe,
            "context_features": self.context_features,
            "base": self.base,
        }

    def initialize(
        self,
        latents: Tensor,
        context: Tensor | None = None,
        *,
        standardize: Standardize | None = "full",
        seed: int = 0,
    ) -> None:
        """Start from latents (N, *event) with context (N, C): whitening, data-dependent actnorm, base.

        The base mean of a conditional prior starts at the least squares of z0 on the context. "full" mixes
        the positions of maps: in a spatial flow "diagonal" leaves them maps.

        Args:
            latents: the rows to model; the more the better, they are not kept.
            context: a row for each, if the prior is conditional.
            standardize: "full" whitens (zero mean, identity covariance), "diagonal" scales each feature, None
                leaves z as it is. It becomes part of the prior, fixed: `log_prob` stays that of z.
            seed: of the k-means start of a mixture base.

        Raises:
            InputError: if the latents have the wrong shape, hold NaN or infinity, or are too few.
        """
        if standardize not in ("full", "diagonal", None):
            raise InputError(f"`standardize` (={standardize!r}) must be 'full', 'diagonal' or None.")
        latents, context = self.check_latents(latents, context)
        with torch.no_grad(), without_autocast(latents.device.type):
            self.whitening = None
            if standardize is not None:
                self.whitening = Whitening.from_data(latents, standardize).to(self.device, self.dtype)
                latents, _ = self.whitening.to_base(latents)
            self.bijector.initialize(latents, context)
            if self.base_mean is not None and context is not None:
                z0, _ = self.bijector.to_base(latents, context)
                self.base_mean.start(context, z0.flatten(1))
            z0, _ = self._flow_to_base(latents, context)
        self.base.initialize(z0, seed=seed)

    def folded(self) -> FoldedPrior:
        """A copy for inference alone, which answers sooner: same distribution to rounding, no training.

        Actnorms, the whitening's inverse and all constants are worked out once. Later changes of this prior
        do not reach the copy.

        Raises:
            InputError: if the bijector is not one of affine couplings on nflows, of two features or more.

        >>> prior = FlowPrior(4, transforms=2, hidden_features=(8,))
        >>> z = torch.zeros(3, 4)
        >>> torch.allclose(prior.folded().log_prob(z), prior.log_prob(z))
        True
        """
        return FoldedPrior(self)

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.whitening is None:
            return self._flow_to_base(z, context)
        z, scale = self.whitening.to_base(z)
        z0, logabsdet = self._flow_to_base(z, context)
        return z0, logabsdet + scale

    def _flow_to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        z0, logabsdet = self.bijector.to_base(z, context)
        if self.base_mean is not None:
            z0 = z0 - self.base_mean(context).reshape(z0.shape)
        return z0, logabsdet

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.base_mean is not None:
            z0 = z0 + self.base_mean(context).reshape(z0.shape)
        z, logabsdet = self.bijector.from_base(z0, context)
        if self.whitening is None:
            return z, logabsdet
        z, scale = self.whitening.from_base(z)
        return z, logabsdet + scale

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        # The whitening comes with data, so a fresh prior makes room for the one that the state dict holds.
        for mode, buffer in (("full", "scale_tril"), ("diagonal", "scale")):
            held = state_dict.get(f"{prefix}whitening.{buffer}")
            if held is not None and (self.whitening is None or self.whitening.mode != mode):
                self.whitening = Whitening(self.event_shape, mode).to(self.device, self.dtype)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _as_base(base: str | Prior, event_shape: torch.Size) -> Prior:
    if base == "normal":
        return StandardNormal(event_shape)
    if base == "mixture":
        return MixturePrior(event_shape)
    if not isinstance(base, Prior):
        raise InputError(
            f"`base` (={base!r}) must be 'normal', 'mixture' or a prior such as MixturePrior(64, "
            "components=32)."
        )
    if base.event_shape != event_shape or base.context_features is not None:
        raise InputError(
            f"`base` has event shape {tuple(base.event_shape)} and `context_features` "
            f"{base.context_features} but must be unconditional with event shape {tuple(event_shape)}: "
            "build it with the `features` of the flow."
        )
    return base
