"""Training steps that are compiled: the losses of an objective, and with them their gradients."""

from typing import Any

import torch
from torch import Tensor

from flowprior.compiler import compile_options, records_graphs
from flowprior.objectives import Objective


class CompiledCall:
    """A context inside which calling `objective` runs its compiled code; the names of its state stay.

    Outside it is called as it is, so that validation, pictures and the search for a number that is not finite
    need no compilation of their own. What a strategy wraps around the objective stays eager.
    """

    def __init__(self, objective: Objective, device: torch.device) -> None:
        options = compile_options(device)
        self.objective: Any = objective
        call = torch.compile(objective._call_impl, **options)
        self.call = _kept(call) if records_graphs(options) else call

    def __enter__(self) -> None:
        self.objective._compiled_call_impl = self.call

    def __exit__(self, *_: object) -> None:
        self.objective._compiled_call_impl = None


def _kept(call: Any) -> Any:
    """`call`, whose results outlive the next run of its CUDA graph."""

    def copied(*args: Any) -> dict[str, Tensor]:
        return {name: term.clone() for name, term in call(*args).items()}

    return copied
