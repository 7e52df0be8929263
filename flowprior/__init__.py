"""Learned normalizing-flow priors for autoencoders and VAEs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowprior.bijectors import Bijector
    from flowprior.errors import InputError
    from flowprior.priors import (
        DecoupledPrior,
        EmbeddedPrior,
        FlowPrior,
        GaussianPrior,
        HierarchicalPrior,
        ImplicitPrior,
        InvertiblePrior,
        MixturePrior,
        Prior,
        StandardNormal,
    )
    from flowprior.registry import dataset, figure, metric, register
    from flowprior.training.fit import fit

__version__ = "0.1.0"

_HOMES = {  # imported when first asked for: `flowprior list` should not wait for torch
    "flowprior.bijectors": ("Bijector",),
    "flowprior.errors": ("InputError",),
    "flowprior.priors": ("DecoupledPrior", "EmbeddedPrior", "FlowPrior", "GaussianPrior", "HierarchicalPrior")
    + ("ImplicitPrior", "InvertiblePrior", "MixturePrior", "Prior", "StandardNormal"),
    "flowprior.registry": ("dataset", "figure", "metric", "register"),
    "flowprior.training.fit": ("fit",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'flowprior' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
