"""The seeds' flows as parameter sets over one builder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from math import inf
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from flowprior.bijectors.bijector import Bijector
from flowprior.bijectors.cascade import Cascade
from flowprior.bijectors.conditioner import ACTIVATIONS, AffineConditioner, Network
from flowprior.bijectors.permutation import Permutation
from flowprior.bijectors.spatial import ByPosition, MapNetwork
from flowprior.errors import InputError
from flowprior.tensors import as_context_shape, as_event_shape, numel

BACKENDS = ("nflows", "pyro")


def _choice(name: str, value: Any, options: Sequence[str]) -> None:
    """Raise the sentence for a value that is none of `options`, with the nearest of them."""
    if value not in options:
        near = get_close_matches(str(value), options, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"choose, for instance, {options[0]!r}."
        raise InputError(f"`{name}` (={value!r}) must be one of {', '.join(map(repr, options))}: {hint}")


def _whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(
            f"`{name}` (={value!r}) must be an int of at least {least}, such as {max(least, 8)}."
        )


def _number(name: str, value: Any, zero: bool = False) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < inf:
        raise InputError(f"`{name}` (={value!r}) must be a finite positive number, such as 2.0.")
    if value == 0 and not zero:
        raise InputError(f"`{name}` (=0) must be positive, such as 2.0.")


def as_widths(value: Any) -> tuple[int, ...]:
    """`hidden_features` as a tuple, once it is known to hold positive ints."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InputError(
            f"`hidden_features` (={value!r}) must be a tuple of positive ints, one a hidden layer, "
            "such as (64, 64)."
        )
    for width in value:
        _whole("hidden_features", width, 1)
    return tuple(value)


@dataclass(frozen=True)
class Recipe:
    """What a flow is built of. Change one with `dataclasses.replace(RECIPES["glf"], ...)`.

    Attributes:
        coupling: "affine" (z_b exp(log_scale) + shift), "spline" (rational-quadratic, nflows only), or
            "spatial": affine on the channels of maps (C, h, w), with convolutional networks (3x3, then 1x1,
            the last 3x3). Masks, permutations and actnorms are then those of whole channels.
        scale: log_scale = s ("exp") or log sigmoid(s + 2) ("sigmoid"; it can only shrink on the way to z0).
        shift_first: scale (z_b + t) instead of scale z_b + t.
        mask: the features that a coupling passes on: "halves" (first or last) or "alternating" (even or
            odd). Successive couplings swap the two parts, so that every feature is changed.
        permute_every: a fixed random permutation after every that many couplings; 0 for none.
        permutation_seed: what the permutations are drawn from.
        actnorm_every: a learned elementwise affine before every that many couplings, the first included;
            0 for none.
        actnorm_start: "identity", or "data": `Bijector.initialize` standardizes the activations.
        separate_networks: one network for s and one for t instead of one for both.
        activation: of the hidden layers, a name in `conditioner.ACTIVATIONS`.
        output_activation: "none", or "tanh" on both s and t.
        initialization: of the layers: "torch" (its default for Linear) or "glorot" (uniform, zero biases).
        last_layer_gain: factor on the last layers' first weights and biases; 0 starts as the identity (for
            scale "sigmoid": as a factor sigmoid(2)).
        log_scale_limit: bound c of a smooth clamp s -> c tanh(s / c), which keeps exp(s) finite far from the
            data; None for the plain s.
        bins, tail_bound: of the spline: bins in [-tail_bound, tail_bound], the identity outside.
        transforms: default number of couplings.
        hidden_features: default widths of a conditioner's hidden layers.

    Raises:
        InputError: if a value is none of these.
    """

    coupling: str = "affine"
    scale: str = "exp"
    shift_first: bool = False
    mask: str = "halves"
    permute_every: int = 0
    permutation_seed: int = 0
    actnorm_every: int = 0
    actnorm_start: str = "identity"
    separate_networks: bool = False
    activation: str = "relu"
    output_activation: str = "none"
    initialization: str = "torch"
    last_layer_gain: float = 1.0
    log_scale_limit: float | None = None
    bins: int = 8
    tail_bound: float = 5.0
    transforms: int = 8
    hidden_features: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        _choice("coupling", self.coupling, ("affine", "spline", "spatial"))
        _choice("scale", self.scale, ("exp", "sigmoid"))
        _choice("mask", self.mask, ("halves", "alternating"))
        _choice("actnorm_start", self.actnorm_start, ("identity", "data"))
        _choice("activation", self.activation, tuple(ACTIVATIONS))
        _choice("output_activation", self.output_activation, ("none", "tanh"))
        _choice("initialization", self.initialization, ("torch", "glorot"))
        for name, least in (("permute_every", 0), ("permutation_seed", 0), ("actnorm_every", 0), ("bins", 2)):
            _whole(name, getattr(self, name), least)
        _whole("transforms", self.transforms, 1)
        if self.bins > 500:  # each bin has at least a thousandth of the width
            raise InputError(f"`bins` (={self.bins}) must be at most 500, for instance 8.")
        _number("tail_bound", self.tail_bound)
        _number("last_layer_gain", self.last_layer_gain, zero=True)
        if self.log_scale_limit is not None:
            _number("log_scale_limit", self.log_scale_limit)
        object.__setattr__(self, "hidden_features", as_widths(self.hidden_features))


RECIPES: dict[str, Recipe] = {
    # Generative Latent Flow, section 3.1 and Fig. 1b: blocks of two couplings and a permutation, exp(s). The
    # paper's s is unbounded and overflows away from the data (measured on moons: a quarter of the densities
    # at radius 5 were NaN); the clamp is that of a public GLF script. log_scale_limit=None is the plain s.
    "glf": Recipe(permute_every=2, last_layer_gain=0.1, log_scale_limit=2.0),
    # Morrow & Chiu, A.1. The paper splits z in the same way each time; the halves swap here from one
    # coupling to the next, without which one of them would never be changed.
    "actnorm": Recipe(
        scale="sigmoid", shift_first=True, actnorm_every=2, initialization="glorot", last_layer_gain=0.0
    ),
    # dpVAE, Eq. 3 and 4: alternating binary masks, separate networks. Its public code puts a tanh on both
    # outputs: output_activation="tanh".
    "masked": Recipe(
        mask="alternating",
        separate_networks=True,
        activation="leaky_relu",
        last_layer_gain=0.1,
        log_scale_limit=2.0,
        transforms=6,
    ),
    # For users who need more than affine.
    "spline": Recipe(coupling="spline", permute_every=2, last_layer_gain=0.0, transforms=6),
    # For latents that are maps (C, h, w): the affine couplings of "glf" with convolutions, and the actnorm of
    # each channel that Glow has.
    "spatial": Recipe(
        coupling="spatial",
        permute_every=2,
        actnorm_every=2,
        actnorm_start="data",
        activation="elu",
        last_layer_gain=0.1,
        log_scale_limit=2.0,
    ),
}


def as_recipe(recipe: str | Recipe | Mapping[str, Any]) -> Recipe:
    """The recipe that is meant by a name in `RECIPES`, a `Recipe` or a mapping of its fields.

    Raises:
        InputError: if it is none of these.
    """
    if isinstance(recipe, Mapping):
        try:
            return Recipe(**recipe)
        except TypeError:
            raise InputError(
                f"`recipe` (={dict(recipe)!r}) must hold fields of Recipe, and nothing else."
            ) from None
    if isinstance(recipe, Recipe):
        return recipe
    _choice("recipe", recipe, tuple(RECIPES))
    return RECIPES[recipe]


def build_bijector(
    event_shape: int | Sequence[int],
    recipe: str | Recipe | Mapping[str, Any] = "glf",
    *,
    transforms: int | None = None,
    hidden_features: Sequence[int] | None = None,
    context_features: int | Sequence[int] | None = None,
    backend: str = "nflows",
    reversible: bool = False,
) -> Bijector:
    """The flow that a recipe describes, on a backend.

    Every conditioner of a conditional flow sees the context beside the features that its coupling passes
    on. With one feature there is nothing to pass on: each coupling changes it, with parameters that depend
    on the context alone, or are free if there is none. Equal parameters give equal maps on both backends,
    and their state dicts have the same keys. Context maps are seen by a spatial coupling as maps, resized to
    its own (averaged down, repeated up), a context vector at every position; other couplings see the maps
    flattened.

    Args:
        event_shape: an int or a tuple such as (4, 8, 8); spatial couplings need maps of two channels or more.
        recipe: as for `as_recipe`.
        transforms: number of couplings, at least 1; the recipe's own if None.
        hidden_features: widths (channels, in spatial couplings) of the conditioners' hidden layers; the
            recipe's own if None.
        context_features: width of the context vectors or shape (K, H, W) of context maps, None for an
            unconditional flow.
        backend: "nflows" or "pyro".
        reversible: compute activations anew in the backward pass, through the inverse, instead of keeping
            them: a third more arithmetic, and memory that does not grow with `transforms`.

    Raises:
        InputError: if an argument is none of these, or the backend lacks the coupling or the reversible mode.

    >>> bijector = build_bijector((4, 8, 8), "actnorm", transforms=3, hidden_features=(16,))
    >>> z0, logabsdet = bijector.to_base(torch.zeros(5, 4, 8, 8))
    >>> z0.shape, logabsdet.shape
    (torch.Size([5, 4, 8, 8]), torch.Size([5]))
    """
    event_shape = as_event_shape(event_shape)
    context_shape = as_context_shape(context_features)
    width = None if context_shape is None else numel(context_shape)
    recipe = as_recipe(recipe)
    _choice("backend", backend, BACKENDS)
    if recipe.coupling == "spline" and backend == "pyro":
        raise InputError(
            "`backend` (='pyro') has no rational-quadratic coupling: build spline flows with "
            "`backend=\"nflows\"`, or choose the recipe 'glf', 'actnorm' or 'masked'."
        )
    count = recipe.transforms if transforms is None else transforms
    _whole("transforms", count, 1)
    hidden = recipe.hidden_features if hidden_features is None else as_widths(hidden_features)
    spatial = recipe.coupling == "spatial"
    if spatial:
        _check_spatial(event_shape, reversible)
    features = event_shape[0] if spatial else numel(event_shape)  # what masks and permutations speak of
    size = numel(event_shape) // features  # columns of a feature: the positions of a channel
    library = _library(backend)

    def network(inputs: int, outputs: int) -> nn.Module:
        if spatial:
            return MapNetwork(inputs, outputs, event_shape[1:], hidden, context_shape, recipe)
        return Network(inputs, outputs, hidden, width, recipe)

    steps: list[nn.Module] = []
    for index in range(count):
        if recipe.actnorm_every and index % recipe.actnorm_every == 0:
            actnorm = library.actnorm(features)
            steps.append(ByPosition(actnorm) if spatial else actnorm)
        mask = _mask(features, recipe.mask, index)
        changed = int(mask.sum())
        of_kept = partial(network, features - changed)
        if recipe.coupling == "spline":
            parameters = of_kept(changed * (3 * recipe.bins - 1))
            steps.append(library.spline_coupling(mask, parameters, recipe.bins, recipe.tail_bound))
        else:
            conditioner = AffineConditioner(of_kept, changed, recipe)
            steps.append(library.affine_coupling(mask.repeat_interleave(size), conditioner))
        if recipe.permute_every and (index + 1) % recipe.permute_every == 0:
            steps.append(Permutation.random(features, recipe.permutation_seed + index, size))
    return Cascade(
        event_shape,
        steps,
        width,
        start_from_data=recipe.actnorm_start == "data",
        scheduled=backend == "nflows" and recipe.coupling == "affine",
        reversible=reversible,
    )


def _check_spatial(event_shape: torch.Size, reversible: bool) -> None:
    if len(event_shape) != 3 or event_shape[0] < 2:
        raise InputError(
            f"`features` (={tuple(event_shape)}) must be maps (C, h, w) of at least two channels for spatial "
            "couplings, such as (4, 8, 8): choose the recipe 'glf' for anything else."
        )
    if reversible:
        raise InputError(
            "`reversible` (=True) is not offered for spatial couplings: leave it out, or choose the recipe "
            "'glf', 'actnorm' or 'masked'."
        )


def _mask(features: int, kind: str, index: int) -> Tensor:
    """(D,), true where coupling `index` changes the feature; both parts are non-empty unless D is 1."""
    if features == 1:
        return torch.ones(1, dtype=torch.bool)
    order = torch.arange(features)
    second = order >= (features + 1) // 2 if kind == "halves" else order % 2 == 1
    return second if index % 2 == 0 else ~second


def _library(backend: str) -> ModuleType:
    """The backend's module, imported when it is first needed."""
    if backend == "nflows":
        from flowprior.bijectors import nflows_backend as library
    else:
        from flowprior.bijectors import pyro_backend as library  # type: ignore[no-redef]
    return library
