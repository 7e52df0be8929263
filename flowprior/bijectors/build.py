"""The flow that a recipe describes, on a backend."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

from torch import nn

from flowprior.bijectors.bijector import Bijector
from flowprior.bijectors.chain import Chain
from flowprior.bijectors.conditioner import AffineConditioner, Network
from flowprior.bijectors.jet import Jet
from flowprior.bijectors.permutation import Permutation
from flowprior.bijectors.recipes import MOST_TRANSFORMS, Recipe, as_recipe, as_widths, check_choice
from flowprior.bijectors.spatial import ByPosition
from flowprior.bijectors.transformer import Transformer
from flowprior.checks import check_count
from flowprior.errors import InputError
from flowprior.tensors import as_context_shape, as_event_shape, numel

BACKENDS = ("nflows", "pyro")
OVER_TOKENS = {"transformer": Transformer, "jet": Jet}


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

    Every conditioner sees the context beside the features that its coupling passes on: in spatial couplings
    as maps of their size (`context_maps`), in others flat. With one feature there is nothing to pass on: each
    coupling changes it, with parameters that depend on the context alone, or are free if there is none. Equal
    parameters give equal maps on both backends, and their state dicts have the same keys.

    Args:
        event_shape: an int or a tuple such as (4, 8, 8); spatial couplings need maps of two channels or more.
        recipe: as for `as_recipe`.
        transforms, hidden_features: as in `Recipe`, whose own they replace.
        context_features: as in `Bijector`.
        backend: "nflows" or "pyro"; flows over tokens are torch's alone, and the same with both.
        reversible: compute activations again in the backward pass, through the inverse, instead of keeping
            them: a third more arithmetic, and memory that does not grow with `transforms`. Flows over tokens
            keep the inputs of their layers and compute the rest again.

    Raises:
        InputError: if an argument is none of these, or the backend lacks the coupling.

    >>> import torch
    >>> import torch
    >>> bijector = build_bijector((4, 8, 8), "actnorm", transforms=3, hidden_features=(16,))
    >>> z0, logabsdet = bijector.to_base(torch.zeros(5, 4, 8, 8))
    >>> z0.shape, logabsdet.shape
    (torch.Size([5, 4, 8, 8]), torch.Size([5]))
    """
    event_shape, context_shape = as_event_shape(event_shape), as_context_shape(context_features)
    recipe = as_recipe(recipe)
    check_choice("backend", backend, BACKENDS)
    if recipe.coupling == "spline" and backend == "pyro":
        raise InputError(
            "`backend` (='pyro') has no rational-quadratic coupling: build spline flows with "
            "`backend=\"nflows\"`, or choose the recipe 'glf', 'actnorm' or 'masked'."
        )
    count = check_count(
        "transforms", recipe.transforms if transforms is None else transforms, most=MOST_TRANSFORMS
    )
    hidden = recipe.hidden_features if hidden_features is None else as_widths(hidden_features)
    if recipe.coupling in OVER_TOKENS:
        sized = replace(recipe, transforms=count, hidden_features=hidden)
        return OVER_TOKENS[recipe.coupling](event_shape, sized, context_features, recompute=reversible)
    spatial = recipe.coupling == "spatial"
    if spatial and context_shape is not None and len(context_shape) == 2:
        raise InputError(
            f"`context_features` (={context_features}) must be a positive int or the shape (K, H, W) for "
            "spatial couplings; sequences of context are for the recipes 'transformer' and 'jet'."
        )
    if spatial and (len(event_shape) != 3 or event_shape[0] < 2):
        raise InputError(
            f"`features` (={tuple(event_shape)}) must be maps (C, h, w) of at least two channels for spatial "
            "couplings, such as (4, 8, 8): choose the recipe 'glf' for anything else."
        )
    features = event_shape[0] if spatial else numel(event_shape)  # what masks and permutations speak of
    size = numel(event_shape) // features  # columns of a feature: the positions of a channel
    width = 0 if context_shape is None else context_shape[0] if spatial else numel(context_shape)
    library = import_module(f"flowprior.bijectors.{backend}_backend")  # only now: both are slow to import
    steps: list[nn.Module] = []
    for index in range(count):
        if recipe.actnorm_every and index % recipe.actnorm_every == 0:
            actnorm = library.ActNorm(features)
            steps.append(ByPosition(actnorm) if spatial else actnorm)
        mask = _mask(features, recipe.mask, index)
        changed = sum(mask)
        network = partial(Network, features - changed + width, hidden_features=hidden, recipe=recipe)
        if recipe.coupling == "spline":
            parameters = network(changed * (3 * recipe.bins - 1))
            steps.append(library.SplineCoupling(mask, parameters, recipe.bins, recipe.tail_bound))
        else:
            steps.append(library.AffineCoupling(mask, AffineConditioner(network, changed, recipe), size))
        if recipe.permute_every and (index + 1) % recipe.permute_every == 0:
            steps.append(Permutation.random(features, recipe.permutation_seed + index, size))
    from_data = recipe.actnorm_start == "data"
    return Chain(
        event_shape,
        steps,
        context_features,
        start_from_data=from_data,
        spatial=spatial,
        reversible=reversible,
    )


def _mask(features: int, kind: str, index: int) -> list[bool]:
    """True where coupling `index` changes the feature; both parts are non-empty unless there is only one."""
    if features == 1:
        return [True]
    half, flipped = (features + 1) // 2, index % 2 == 1
    return [
        (feature >= half if kind == "halves" else feature % 2 == 1) != flipped for feature in range(features)
    ]
