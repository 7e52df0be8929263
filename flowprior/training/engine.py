"""The engine: Lightning Fabric and its strategies, started from plain words."""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from flowprior.checks import check_count, check_one_of
from flowprior.compiler import compile_options
from flowprior.errors import InputError
from flowprior.training.shards import shard

NVML_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"
SHARDED = ("32-true", "bf16-mixed")  # what "fsdp" can do
PRECISIONS = (*SHARDED, "16-mixed", "64-true")
Strategy = Literal["auto", "ddp", "fsdp"]


def start_fabric(
    device: str = "auto", devices: int = 1, precision: str = "32-true", strategy: Strategy = "auto"
) -> Any:
    """A launched Fabric. Under `torchrun` the number of processes is torchrun's.

    Args:
        device, precision: as for `resolve_device`; one of `PRECISIONS`.
        devices: how many to use on this machine; Fabric starts a process for each further one.
        strategy: how several processes share a model: "ddp" (or "auto") holds it in each and averages
            gradients; "fsdp" shards weights, gradients and optimizer state, for objectives with one player,
            in "32-true" or "bf16-mixed". One process needs none.

    Raises:
        InputError: as `check_engine`, or if `devices` is no positive number.
    """
    check_count("devices", devices)
    resolved = check_engine(device, precision, strategy)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", devices))
    total = int(os.environ.get("WORLD_SIZE", local))
    before = os.environ.get(NVML_CHECK)
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    if (
        before is None
    ):  # set by the import: each step would open the driver's library to look for a GPU, 0.17 ms
        os.environ.pop(NVML_CHECK, None)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it greets at every start
    several: Any = (
        "auto" if total == 1 else "ddp_find_unused_parameters_true"
    )  # some may rest, as behind β = 0
    if total > 1 and strategy == "fsdp":
        several = ModelParallelStrategy(shard, data_parallel_size=total, tensor_parallel_size=1)
    plain: Any = {"accelerator": resolved.type, "precision": precision, "num_nodes": max(1, total // local)}
    own = [resolved.index] if resolved.index is not None and local == 1 else local
    fabric = Fabric(devices=own, strategy=several, **plain)
    _join_again(resolved, local, total)
    fabric.launch()
    return fabric


def _join_again(device: torch.device, local: int, total: int) -> None:
    """Processes that torchrun restarts meet under a name of their own: the store of its agent still has the
    addresses of those before, which are gone."""
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if attempt == "0" or not shared or local != total or torch.distributed.is_initialized():
        return
    c10d: Any = torch.distributed  # whose stubs do not export its stores
    agent = c10d.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    store = c10d.PrefixStore(f"attempt {attempt}", agent)
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, store=store, rank=int(os.environ["RANK"]), world_size=total)


def is_first_process() -> bool:
    """Whether this process writes for all that share a run: known before Fabric is started."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def is_sharded(fabric: Any) -> bool:
    """Whether the strategy shards parameters."""
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    return isinstance(fabric.strategy, ModelParallelStrategy)


def check_engine(
    device: str, precision: str, strategy: Strategy, sync: bool = False, compiled: bool = False
) -> torch.device:
    """The device that is meant; an InputError if it is not here or cannot do the rest: `sync` batch norm,
    or steps that are `compiled`."""
    check_one_of("precision", precision, PRECISIONS)
    check_one_of("strategy", strategy, get_args(Strategy))
    resolved = resolve_device(device)
    if precision == "16-mixed" and resolved.type == "cpu":
        raise InputError("`precision` (='16-mixed') needs a GPU: take 'bf16-mixed' or '32-true' on the CPU.")
    if strategy == "fsdp" and precision not in SHARDED:
        raise InputError(f"`strategy` (='fsdp') has no precision {precision!r}: take {' or '.join(SHARDED)}.")
    if sync and resolved.type != "cuda":
        raise InputError("`sync_batch_norm` (=True) needs CUDA GPUs: leave it out for statistics by process.")
    if compiled:
        compile_options(resolved)
    return resolved


def resolve_device(device: str) -> torch.device:
    """What "auto" (CUDA where there is one, else the CPU), "cpu", "cuda", "cuda:1" or "mps" means here.

    Raises:
        InputError: if there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        expected = "'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'"
        raise InputError(f"`device` (={device!r}) must be {expected}.") from None
    cuda = torch.cuda.is_available() and (resolved.index or 0) < torch.cuda.device_count()
    available = {"cpu": not resolved.index, "cuda": cuda, "mps": torch.backends.mps.is_available()}
    if not available.get(resolved.type):
        raise InputError(f"`device` (={device!r}) is not available here: take 'cpu' or 'auto'.")
    return resolved


def move(module: nn.Module, fabric: Any) -> None:
    """Move a module to the device and, for true 64-bit precision, to its dtype."""
    fabric.strategy.precision.convert_module(module).to(fabric.device)


def copy_from_first_process(tensors: Iterable[Tensor], fabric: Any) -> None:
    """What DDP does with buffers before each forward pass, for uses of a module outside of one."""
    if fabric.world_size > 1:
        for tensor in tensors:
            torch.distributed.broadcast(tensor.detach(), src=0)


def gather(tensor: Tensor, fabric: Any) -> Tensor:
    """The tensors of all processes as rows, in order; the tensor itself where there is one process."""
    if fabric.world_size == 1:
        return tensor
    own = tensor.to(fabric.device)
    rows = [torch.empty_like(own) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(rows, own)  # Fabric's own calls what torch has deprecated
    return torch.stack(rows)


@contextmanager
def own_random_state(device: torch.device, seed: int) -> Iterator[None]:
    """Inside, torch draws from `seed` on; afterwards as if nothing had been drawn."""
    with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
