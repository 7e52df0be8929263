"""Learned normalizing-flow priors for autoencoders and VAEs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowprior.errors import InputError
    from flowprior.priors import (
        DecoupledPrior,
        FlowPrior,
        ImplicitPrior,
        InvertiblePrior,
        MixturePrior,
        Prior,
        StandardNormal,
    )
    from flowprior.registry import figure, metric, register
    from flowprior.training.fit import fit

__version__ = "0.1.0"

__all__ = [
    "DecoupledPrior",
    "FlowPrior",
    "ImplicitPrior",
    "InputError",
    "InvertiblePrior",
    "MixturePrior",
    "Prior",
    "StandardNormal",
    "figure",
    "fit",
    "metric",
    "register",
]

# Imported when first asked for: `flowprior list` should not wait for torch.
_HOMES = dict.fromkeys(__all__, "flowprior.priors") | {
    "InputError": "flowprior.errors",
    "fit": "flowprior.training.fit",
    **dict.fromkeys(("figure", "metric", "register"), "flowprior.registry"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flowprior' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
