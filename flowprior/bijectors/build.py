"""The flow that a recipe describes, on a backend."""

from collections.abc import Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

from torch import nn

from flowprior.bijectors.bijector import Bijector
from flowprior.bijectors.chain import Chain
from flowprior.bijectors.conditioner import AffineConditioner, MapNetwork, Network
from flowprior.bijectors.permutation import Permutation
from flowprior.bijectors.recipes import Recipe, as_recipe, as_widths, check_choice
from flowprior.bijectors.spatial import ByPosition
from flowprior.checks import check_count
from flowprior.errors import InputError
from flowprior.tensors import as_context_shape, as_event_shape, numel

BACKENDS = ("nflows", "pyro")


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
        reversible: compute activations again in the backward pass, through the inverse, instead of keeping
            them: a third more arithmetic, and memory that does not grow with `transforms`.

    Raises:
        InputError: if an argument is none of these, or the backend lacks the coupling.

    >>> import torch
    >>> import torch
    >>> bijector = build_bijector((4, 8, 8), "actnorm", transforms=3, hidden_features=(16,))
    >>> z0, logabsdet = bijector.to_base(torch.zeros(5, 4, 8, 8))
    >>> z0.shape, logabsdet.shape
    (torch.Size([5, 4, 8, 8]), torch.Size([5]))
    """
    event_shape = as_event_shape(event_shape)
    context_shape = as_context_shape(context_features)
    recipe = as_recipe(recipe)
    check_choice("backend", backend, BACKENDS)
    if recipe.coupling == "spline" and backend == "pyro":
        raise InputError(
            "`backend` (='pyro') has no rational-quadratic coupling: build spline flows with "
            "`backend=\"nflows\"`, or choose the recipe 'glf', 'actnorm' or 'masked'."
        )
    count = check_count("transforms", recipe.transforms if transforms is None else transforms)
    hidden = recipe.hidden_features if hidden_features is None else as_widths(hidden_features)
    spatial = recipe.coupling == "spatial"
    if spatial and (len(event_shape) != 3 or event_shape[0] < 2):
        raise InputError(
            f"`features` (={tuple(event_shape)}) must be maps (C, h, w) of at least two channels for spatial "
            "couplings, such as (4, 8, 8): choose the recipe 'glf' for anything else."
        )
    features = event_shape[0] if spatial else numel(event_shape)  # what masks and permutations speak of
    size = numel(event_shape) // features  # columns of a feature: the positions of a channel
    width = None if context_shape is None else context_shape[0] if spatial else numel(context_shape)
    library = _library(backend)

    def network(inputs: int, outputs: int) -> nn.Module:
        return (MapNetwork if spatial else Network)(inputs, outputs, hidden, width, recipe)

    steps: list[nn.Module] = []
    for index in range(count):
        if recipe.actnorm_every and index % recipe.actnorm_every == 0:
            actnorm = library.actnorm(features)
            steps.append(ByPosition(actnorm) if spatial else actnorm)
        mask = _mask(features, recipe.mask, index)
        changed = sum(mask)
        of_kept = partial(network, features - changed)
        if recipe.coupling == "spline":
            parameters = of_kept(changed * (3 * recipe.bins - 1))
            steps.append(library.spline_coupling(mask, parameters, recipe.bins, recipe.tail_bound))
        else:
            conditioner = AffineConditioner(of_kept, changed, recipe)
            steps.append(library.affine_coupling(mask, conditioner, size))
        if recipe.permute_every and (index + 1) % recipe.permute_every == 0:
            steps.append(Permutation.random(features, recipe.permutation_seed + index, size))
    return Chain(
        event_shape,
        steps,
        context_features,
        start_from_data=recipe.actnorm_start == "data",
        spatial=spatial,
        reversible=reversible,
    )


def _mask(features: int, kind: str, index: int) -> list[bool]:
    """True where coupling `index` changes the feature; both parts are non-empty unless there is only one."""
    if features == 1:
        return [True]
    changed = [
        feature >= (features + 1) // 2 if kind == "halves" else feature % 2 == 1
        for feature in range(features)
    ]
    return changed if index % 2 == 0 else [not each for each in changed]


def _library(backend: str) -> ModuleType:
    """The backend's module, imported when it is first needed."""
    if backend == "nflows":
        import flowprior.bijectors.nflows_backend as library
    else:
        import flowprior.bijectors.pyro_backend as library  # type: ignore[no-redef]
    return library
