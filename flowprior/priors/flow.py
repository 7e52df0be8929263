"""The prior of this library: a normalizing flow over z."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowprior.bijectors import Bijector, Recipe, Whitening, as_bijector, as_recipe, build_bijector
from flowprior.bijectors.chain import Chain
from flowprior.bijectors.transformer import Transformer
from flowprior.checks import check_number
from flowprior.errors import InputError
from flowprior.priors.base_mean import LinearMean, MapMean
from flowprior.priors.context_scale import ContextScale
from flowprior.priors.guidance import NO_LABEL, shape_with_presence, with_presence, without_presence
from flowprior.priors.invertible import BasedPrior
from flowprior.priors.mixture import MixturePrior
from flowprior.priors.prior import Prior
from flowprior.priors.standard_normal import StandardNormal
from flowprior.tensors import as_context_shape, without_autocast

Standardize = Literal["auto", "full", "diagonal"]
Mode = Literal["full", "diagonal"]
_LEVELS: tuple[Mode | None, ...] = (None, "diagonal", "full")  # what is built for one holds those before it


class FlowPrior(BasedPrior):
    """log p(z | c) = log p0(z0) + log|det dz0/dz|, with z0 = f(whiten(z); c) - m(c).

    f is a chain of couplings, p0 the base. The whitening is the identity until `initialize` has seen latents;
    the base mean m(c), a linear map (of context maps in a spatial flow, a convolution) that starts at zero,
    is there if the prior is conditional. Both belong to `to_base` and `from_base`, so that z0 ~ p0 whatever
    the context. All state has a shape that is known at construction and is filled in place.

    Args:
        features: the event shape, an int or a tuple such as `(4, 8, 8)`.
        recipe: "glf", "actnorm", "masked", "spline", "spatial" (for maps (C, h, w)), "transformer" or "jet"
            (for sequences (T, C) and maps), a `Recipe` of your own, or a mapping of its fields.
        transforms, hidden_features: the number of coupling layers (of a transformer, blocks) and the widths
            of a conditioner's hidden layers; None for the recipe's own.
        context_features: the width of the context, which every coupling and the base mean see (of
            "transformer", the block beside z0), or the shape (K, H, W) of context maps or (S, K) of
            sequences, flat rows to all but spatial couplings (maps) and flows over tokens; None without.
        classes: the number of classes instead, where a context is integer labels (*batch,): couplings and
            base mean see them one-hot, so that their first layers hold an embedding of each class.
        backend: "nflows" or "pyro".
        bijector: your own transform instead of a recipe: a Bijector, an nflows Transform, a torch or Pyro
            Transform or a list of these.
        reversible: compute activations again in the backward pass, by the inverse: memory is the same for
            any depth, at a third more arithmetic and with the rounding of the inverse in gradients, which
            can swamp them where deep couplings (64 and more, scales near their limit) stretch far
            (benchmarks/results/reversible.json). Inside torch.compile the compiler decides what is kept.
        base: "normal" for N(0, I), "mixture" for a `MixturePrior`, or an unconditional prior of that shape.
        context_dropout: the share of contexts that `fit` and the prior's own stage leave out in training, so
            that the prior learns p(z) as well, for `sample(..., guidance=w)`; a row of NaN, or the label -1,
            then is none.
        standardize: how `initialize` standardizes latents: "full" whitens (zero mean, identity covariance;
            D x D numbers), "diagonal" scales each feature, None leaves z as it is. "auto" is "diagonal" in a
            spatial flow, whose maps a full whitening would mix, and "full" in any other; over tokens in their
            order, with shrunk correlations.

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
        classes: int | None = None,
        backend: str = "nflows",
        bijector: object = None,
        reversible: bool = False,
        base: str | Prior = "normal",
        context_dropout: float = 0.0,
        standardize: Standardize | None = "auto",
    ) -> None:
        super().__init__(features, context_features, classes)
        self.context_dropout = check_number("context_dropout", context_dropout, least=0, below=1)
        given = as_context_shape(context_features if self.classes is None else self.classes)
        shape = given  # of what couplings and the base mean see
        if context_dropout:
            if shape is None:
                raise InputError(
                    f"`context_dropout` (={context_dropout}) needs a context to leave out: give "
                    "`context_features` or `classes`."
                )
            shape, self.least_label = shape_with_presence(shape), NO_LABEL
        seen = None if shape is None else shape[0] if len(shape) == 1 else tuple(shape)
        self.whitening: Whitening | None = None
        if bijector is None:
            self.bijector: Bijector = build_bijector(
                self.event_shape,
                as_recipe(recipe),
                transforms=transforms,
                hidden_features=hidden_features,
                context_features=seen,
                backend=backend,
                reversible=reversible,
            )
        else:
            if recipe != "glf" or transforms is not None or hidden_features is not None or reversible:
                raise InputError(
                    "`bijector` was given together with `recipe`, `transforms`, `hidden_features` or "
                    "`reversible`, which describe another one: leave those out, or leave out `bijector`."
                )
            self.bijector = as_bijector(bijector, self.event_shape, seen)
        self._arguments = {
            "recipe": dict(recipe) if isinstance(recipe, Mapping) else recipe,
            "transforms": transforms,
            "hidden_features": None if hidden_features is None else tuple(hidden_features),
            "backend": backend,
            "reversible": reversible,
            "context_dropout": self.context_dropout,
            "bijector": None if bijector is None else type(bijector).__name__,
        }
        self.base = _as_base(base, self.event_shape)
        self.has_density, self.has_rsample = self.base.has_density, self.base.has_rsample
        self.base_mean: LinearMean | MapMean | None = None
        self.context_scale = None if given is None else ContextScale(given)
        spatial = bijector is None and as_recipe(recipe).coupling == "spatial"
        self._own_mode: Mode = "diagonal" if spatial else "full"
        self.standardize_by(standardize)
        if shape is not None and not isinstance(self.bijector, Transformer):
            kind = MapMean if spatial and len(shape) == 3 else LinearMean
            self.base_mean = kind(shape, self.event_shape)
        own = next((value for value in self.bijector.parameters() if value.is_floating_point()), None)
        if own is not None:  # a user's transform may be in float64 or on a GPU already
            self.follow(own.device, own.dtype)

    def arguments(self) -> dict[str, Any]:
        recipe = self._arguments["recipe"]
        return super().arguments() | {
            **self._arguments,
            "recipe": asdict(recipe) if isinstance(recipe, Recipe) else recipe,
            "context_features": self.context_features,
            "classes": self.classes,
            "base": self.base,
            "standardize": self.standardize,
        }

    def initialize(
        self,
        latents: Tensor,
        context: Tensor | None = None,
        *,
        standardize: Standardize | None = "auto",
        seed: int = 0,
        restart: bool = False,
    ) -> None:
        """Start from latents (N, *event) with context (N, C): whitening, data-dependent actnorm, base.

        The base mean of a conditional prior starts at the least squares of z0 on the context.

        Args:
            latents, context: the rows to model, which are not kept, and a context for each if it has one.
            standardize: "auto" as the prior was built; "diagonal" or None to use less of the whitening it was
                built with. It becomes part of the prior, fixed: `log_prob` stays that of z.
            seed: of the k-means start of a mixture base.
            restart: start as the standardized data's Gaussian, or mixture: couplings and actnorms become the
                identity, whatever they were, and each entry of the context is standardized.

        Raises:
            InputError: as `check_latents`, or if the prior was built without the whitening asked for.
        """
        with torch.no_grad(), without_autocast(self._anchor.device.type):
            rows, context = self._start_rows(latents, context)
            self._initialize(rows, context, seed, standardize, restart)

    def standardize_by(self, mode: Standardize | None) -> None:
        """Make room for another whitening, which starts as the identity, before the prior is used."""
        _check_standardize(mode)
        self.standardize: Mode | None = self._own_mode if mode == "auto" else mode
        self.whitening = None
        if self.standardize is not None:
            self.whitening = Whitening(self.event_shape, self.standardize, self.bijector.tokens)
            self.whitening.follow(self.device, self.dtype)

    def _initialize(
        self,
        latents: Tensor,
        context: Tensor | None,
        seed: int,
        standardize: Standardize | None = "auto",
        restart: bool = False,
    ) -> None:
        _check_standardize(standardize)
        chosen: Mode | None = self.standardize if standardize == "auto" else standardize
        if _LEVELS.index(chosen) > _LEVELS.index(self.standardize):
            raise InputError(
                f"`standardize` (={chosen!r}) asks for more than this prior was built with "
                f"({self.standardize!r}): build it with FlowPrior(..., standardize={chosen!r})."
            )
        if restart and self.context_scale is not None and context is not None:
            scaled = without_presence(context) if self.context_dropout else context
            context = self.context_scale.fit(scaled)
            context = with_presence(context) if self.context_dropout else context
        if self.whitening is not None:
            self.whitening.reset()
            if chosen is not None:
                self.whitening.initialize(latents, mode=chosen)
        seen = self._bijector_context(context)
        if restart:
            self._make_couplings_idle(latents, seen, standardized=chosen is not None)
        given = latents
        if self.whitening is not None:
            latents, _ = self.whitening._to_base(latents, None)
        self.bijector.initialize(latents, seen)
        if self.base_mean is not None and context is not None:
            z0, _ = self.bijector._to_base(latents, seen)
            self.base_mean.start(context, z0)
        if self.base.is_standard_normal:  # it has no start, and a pass through the flow costs
            return
        z0, _ = self._flow_to_base(latents, context)
        if restart and isinstance(self.base, MixturePrior):
            self.base._initialize(z0, None, seed, other=given)
        else:
            self.base.initialize(z0, seed=seed)

    def _make_couplings_idle(self, latents: Tensor, seen: Tensor | None, standardized: bool) -> None:
        """Make a recipe's flow the identity; a constant scale that is left goes to the whitening."""
        self.bijector.reset(started=standardized)
        if isinstance(self.bijector, Chain) and self.whitening is not None and standardized:
            row = torch.ones_like(latents[:1])
            scales, _ = self.bijector._from_base(row, None if seen is None else seen[:1])
            self.whitening.divide(scales.flatten())

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.whitening is None or self.whitening.is_idle():
            return self._flow_to_base(z, context)
        z, scale = self.whitening._to_base(z, None)
        z0, logabsdet = self._flow_to_base(z, context)
        return z0, logabsdet + scale

    def _flow_to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        z0, logabsdet = self.bijector._to_base(z, self._bijector_context(context))
        if self.base_mean is not None:
            z0 = z0 - self.base_mean(context).reshape(z0.shape)
        return z0, logabsdet

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.base_mean is not None:
            z0 = z0 + self.base_mean(context).reshape(z0.shape)
        z, logabsdet = self.bijector._from_base(z0, self._bijector_context(context))
        if self.whitening is None or self.whitening.is_idle():
            return z, logabsdet
        z, scale = self.whitening._from_base(z, None)
        return z, logabsdet + scale

    def _seen(self, context: Tensor) -> Tensor:
        if self.classes is not None:
            labels = context.long()
            context = nn.functional.one_hot(labels.clamp(min=0), self.classes).to(self.dtype)
            context = context.masked_fill((labels < 0).unsqueeze(-1), torch.nan)
        scaled = context if self.context_scale is None else self.context_scale(context)
        return with_presence(scaled) if self.context_dropout else scaled

    def _draw_guided(
        self,
        count: int,
        context: Tensor,
        temperature: float,
        weight: float,
        generator: torch.Generator | None,
    ) -> Tensor:
        if not isinstance(self.bijector, Transformer) or not self.base.is_standard_normal:
            return super()._draw_guided(count, context, temperature, weight, generator)
        z0 = self.base._drawn(count, None, temperature, generator)
        z = self.bijector.guided_from_base(z0, context, torch.zeros_like(context), weight)
        return z if self.whitening is None else self.whitening._from_base(z, None)[0]

    def _bijector_context(self, context: Tensor | None) -> Tensor | None:
        """Context maps, flattened for a user's own bijector over vectors."""
        flat = context is not None and len(self.bijector.context_shape or ()) == 1
        return context.flatten(1) if flat and context is not None else context

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # Earlier versions stored a whitening only once it was fitted, of the shape that was asked for then.
        home = f"{prefix}whitening."
        if f"{home}scale_tril" in state_dict and self.standardize != "full":
            self.standardize_by("full")
        elif f"{home}scale" in state_dict and self.standardize is None:
            self.standardize_by("diagonal")
        elif f"{home}scale" in state_dict and self.standardize == "full":
            state_dict[f"{home}scale_tril"] = state_dict.pop(f"{home}scale").diag()
        if self.whitening is not None and f"{home}fitted" not in state_dict:
            if f"{home}loc" in state_dict:
                state_dict[f"{home}fitted"] = torch.tensor(True)
            elif self._is_unfitted() and any(name.startswith(f"{prefix}bijector.") for name in state_dict):
                state_dict |= {f"{home}{name}": value for name, value in self.whitening.identity().items()}
        if self.context_scale is not None:  # earlier versions had no scale
            with torch.device("cpu"):
                idle = ContextScale(self.context_scale.shape).state_dict(prefix=f"{prefix}context_scale.")
            state_dict |= {name: value for name, value in idle.items() if name not in state_dict}
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _is_unfitted(self) -> bool:
        return self.whitening is None or self.whitening.fitted.is_meta or not self.whitening.fitted


def _check_standardize(standardize: Standardize | None) -> None:
    if standardize not in ("auto", *_LEVELS):
        raise InputError(f"`standardize` (={standardize!r}) must be 'full', 'diagonal', 'auto' or None.")


def _as_base(base: str | Prior, event_shape: torch.Size) -> Prior:
    if base == "normal":
        return StandardNormal(event_shape)
    if base == "mixture":
        return MixturePrior(event_shape)
    if not isinstance(base, Prior):
        raise InputError(
            f"`base` (={base!r}) must be 'normal', 'mixture' or a prior such as MixturePrior(64)."
        )
    if base.event_shape != event_shape or base.context_shape is not None:
        raise InputError(
            f"`base` has event shape {tuple(base.event_shape)} and `context_features` "
            f"{base.context_features} but must be unconditional with event shape {tuple(event_shape)}: build "
            "it with the `features` of the flow."
        )
    return base
