"""Priors whose density and maps are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowprior.bijectors.gate import Gate
from flowprior.compiler import compile_options, records_graphs

Hook = Callable[[Tensor, Tensor | None], Any]

HOOKS = ("_log_prob", "_to_base", "_from_base")


class Compiled(Gate):
    """What makes the hooks of a prior, and so all that is asked of it, compiled ones."""

    def compile(self, mode: str | None = None, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile, in place, what users call: `log_prob`, `sample`, `to_base`, `from_base`, `kl`, `prior()`.

        The numbers stay those of eager mode up to rounding (1e-5), draws included: noise is drawn eagerly and
        then mapped by compiled code. Compilation happens at the first call of each kind (with gradient or
        without, on the CPU or a GPU), and serves batches of any size. Parameters are followed; state dicts
        keep their names; a copy, and a prior that is loaded, is in eager mode until it is compiled itself.
        Gradients of gradients need eager mode.

        Args:
            mode, backend: of torch.compile; by default "reduce-overhead" (CUDA graphs) on a GPU. Move the
                prior there first.

        Raises:
            InputError: if there is no C++ compiler, or no such mode.
        """
        for module in self.modules():
            if isinstance(module, Compiled):
                options = compile_options(module.device, mode, backend)
                for name in HOOKS:
                    vars(module).pop(name, None)
                    if hasattr(module, name):
                        setattr(module, name, _compiled(getattr(module, name), options))

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in HOOKS}


def _compiled(hook: Hook, options: dict[str, Any]) -> Hook:
    """`hook` on rows, compiled once for any number of them."""
    compiled, graphs = torch.compile(hook, **options), records_graphs(options)

    def call(value: Tensor, context: Tensor | None) -> Any:
        if torch.compiler.is_compiling():  # inside of something larger that is compiled or exported
            return hook(value, context)
        rows = value.view_as(value)  # marks are made on an alias, and not on what belongs to the user
        seen = None if context is None else context.view_as(context)
        for each in (rows, seen):
            if each is not None:
                torch._dynamo.maybe_mark_dynamic(each, 0)
        result = compiled(rows, seen)
        if not graphs:
            return result
        return tuple(part.clone() for part in result) if isinstance(result, tuple) else result.clone()

    return call
