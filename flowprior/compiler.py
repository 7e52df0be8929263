"""torch.compile as flowprior asks for it, of priors and of training steps."""

from collections.abc import Callable
from typing import Any

import torch

from flowprior.checks import check_one_of
from flowprior.errors import InputError

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def compile_options(
    device: torch.device, mode: str | None = None, backend: str | Callable[..., Any] = "inductor"
) -> dict[str, Any]:
    """The arguments of torch.compile for what runs on `device`; random numbers stay those of eager mode.

    Args:
        mode: one of `MODES`; None for "reduce-overhead" (CUDA graphs) on a GPU and "default" elsewhere.
        backend: of torch.compile; another one than "inductor" has no modes.

    Raises:
        InputError: if there is no such mode, or no C++ compiler for inductor to call.
    """
    if backend != "inductor":
        return {"backend": backend}
    mode = mode or ("reduce-overhead" if device.type == "cuda" else "default")
    check_one_of("mode", mode, MODES)
    from torch._inductor import list_mode_options
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise InputError(
            "`compile` needs a C++ compiler, and none is found: install g++ (or name one by the environment "
            "variable CXX), or stay in eager mode."
        ) from None
    return {"options": {**list_mode_options(mode), "fallback_random": True}}


def records_graphs(options: dict[str, Any]) -> bool:
    """Whether results lie in the memory of a CUDA graph, which its next run writes over."""
    return bool(options.get("options", {}).get("triton.cudagraphs"))
