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

__all__ = [
    "Bijector",
    "DecoupledPrior",
    "EmbeddedPrior",
    "FlowPrior",
    "GaussianPrior",
    "HierarchicalPrior",
    "ImplicitPrior",
    "InputError",
    "InvertiblePrior",
    "MixturePrior",
    "Prior",
    "StandardNormal",
    "dataset",
    "figure",
    "fit",
    "metric",
    "register",
]

_HOMES = dict.fromkeys(
    __all__, "flowprior.priors"
) | {  # imported when first asked for: torch is slow to load
    "Bijector": "flowprior.bijectors",
    "InputError": "flowprior.errors",
    "fit": "flowprior.training.fit",
    **dict.fromkeys(("dataset", "figure", "metric", "register"), "flowprior.registry"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flowprior' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(["__version__", *__all__])
