"""What a flow costs: time and memory of its density, its samples and a training step."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowprior.errors import RunError
from flowprior.priors import FlowPrior
from flowprior.training.optimizers import OptimizerSettings, build_optimizer

OPERATIONS = ("log_prob", "sample", "step")  # the first two without gradients
PRECISIONS = {  # dtype, and what torch may round inside float32 matrix products
    "float32": (torch.float32, "highest"),
    "float64": (torch.float64, "highest"),
    "tf32": (torch.float32, "high"),
}
COMPILES = ("none", "default", "reduce-overhead")  # the last one is CUDA graphs
TURN = 0.05  # seconds of work between two looks at the clock, so that caches are warm, as in a loop
MEASURED = {
    "ms": "median milliseconds a call over interleaved rounds in one process, `low` and `high` its quartiles",
    "to_first": "time / that of the first contestant in the same round",
    "memory": "bytes; CUDA: peak of the call; CPU: saved for the backward pass, without parameters",
}
Call = Callable[[], object]
Row = dict[str, Any]


class Size(NamedTuple):
    """D features, `depth` couplings with two hidden layers of `width`, a batch of examples."""

    features: int
    depth: int
    width: int
    batch: int


class Contestant(NamedTuple):
    """What is measured: its calls by operation, and the parameters that it trains."""

    name: str
    calls: Mapping[str, Call]
    parameters: Sequence[Tensor] = ()


def contestant(name: str, flow: Any, optimizer: torch.optim.Optimizer, size: Size, device: str) -> Contestant:
    """All operations of a module with `log_prob(z)` and `sample(n)`."""
    z, log_prob, sample = torch.randn(size.batch, size.features, device=device), flow.log_prob, flow.sample

    def step() -> None:
        optimizer.zero_grad()
        (-log_prob(z).mean()).backward()
        optimizer.step()

    free = map(torch.no_grad(), (partial(log_prob, z), partial(sample, size.batch)))
    calls: dict[str, Call] = dict(zip(OPERATIONS, (*free, step), strict=True))
    return Contestant(name, calls, [p for p in flow.parameters() if p.requires_grad])


def flowpriors(
    size: Size, device: str, backends: Sequence[str] = ("nflows",), compiles: Sequence[str] = ("none",)
) -> Iterator[Contestant]:
    """flowprior as users get it, for each backend and compiler; names say what is not the default.

    Without a whitening, which other libraries lack, and which compiled code runs even while it is idle.
    """
    for backend, mode in product(backends, compiles):
        shape: dict[str, Any] = {"transforms": size.depth, "hidden_features": (size.width, size.width)}
        flow = FlowPrior(size.features, backend=backend, standardize=None, **shape).to(device)
        if mode != "none":
            flow.compile(mode)
        optimizer = build_optimizer({"prior": list(flow.parameters())}, {"prior": OptimizerSettings(lr=1e-5)})
        name = " ".join(word for word in ("flowprior", backend, mode) if word not in ("nflows", "none"))
        yield contestant(name, flow, optimizer, size, device)


def measure(
    size: Size, contestants: Callable[[Size, str], Iterable[Contestant]] = flowpriors, *, device: str = "cpu",
    precision: str = "float32", seconds: float = 2.0, least: int = 5, seed: int = 0,
) -> list[Row]:  # fmt: skip
    """A row for each operation of each contestant (see `MEASURED`).

    Args:
        contestants: (size, device) -> who is measured; the first one must have every operation.
        device: "cpu", "cuda" or "cuda:1".
        seconds, least: how long the rounds of each operation last, and how many there are at least.

    Raises:
        InputError: if there is no compiler to call.
        RunError: if torch.compile fails.
    """
    rows: list[Row] = []
    torch.compiler.reset()  # or it would count the sizes as recompilations of one function
    with in_precision(precision):
        torch.manual_seed(seed)
        entered = list(contestants(size, device))
        for operation in OPERATIONS:
            able = [each for each in entered if operation in each.calls]
            times = rounds({each.name: each.calls[operation] for each in able}, device, seconds, least)
            for name, calls, parameters in able:
                row: Row = {**size._asdict(), "operation": operation, "contestant": name}
                row |= {"precision": precision, "device": device, "rounds": len(times[name])}
                ratios = [own / first for own, first in zip(times[name], times[able[0].name], strict=True)]
                for key, values in (("ms", [1e3 * own for own in times[name]]), ("to_first", ratios)):
                    row |= zip((key, f"{key}_low", f"{key}_high"), spread(values), strict=True)
                row["examples_per_s"] = 1e3 * size.batch / row["ms"]
                row["memory"] = peak_memory(calls[operation], parameters, device)
                rows.append(row | {"parameters": sum(p.numel() for p in parameters) or None})
    return rows


@contextmanager
def in_precision(precision: str) -> Iterator[None]:
    """Inside, new tensors and matrix products have one of `PRECISIONS`."""
    before = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    try:
        torch.set_default_dtype(PRECISIONS[precision][0])
        torch.set_float32_matmul_precision(PRECISIONS[precision][1])
        yield
    finally:
        torch.set_default_dtype(before[0])
        torch.set_float32_matmul_precision(before[1])


def rounds(calls: Mapping[str, Call], device: str, seconds: float, least: int) -> dict[str, list[float]]:
    """Seconds a call, of each in turn, for about `seconds` and `least` rounds; raises as `measure`."""
    from torch._dynamo.exc import TorchDynamoException

    repeats, turn = {}, min(TURN, seconds / 20)
    for name, call in calls.items():
        try:
            _elapsed(call, 3, device)  # compiles, and warms up
        except TorchDynamoException as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RunError(f"torch.compile failed on {name} ({reason}): check its C++ compiler.") from error
        repeats[name] = max(1, round(3 * turn / max(_elapsed(call, 3, device), 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    order, end = list(calls), time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[order[0]]) < least:
        for name in order:
            times[name].append(_elapsed(calls[name], repeats[name], device) / repeats[name])
        order.append(order.pop(0))  # nobody always follows the same neighbor
    return times


def _elapsed(call: Call, count: int, device: str) -> float:
    """Seconds of `count` calls, to the end of the work that they give to a GPU."""
    began = time.perf_counter()
    for _ in range(count):
        call()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, low, high


def peak_memory(call: Call, parameters: Iterable[Tensor], device: str) -> int | None:
    """Bytes that a call needs (see `MEASURED`); None on the CPU for one that saves nothing."""
    if device == "cpu":
        return saved_bytes(call, parameters) or None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def saved_bytes(call: Call, parameters: Iterable[Tensor]) -> int:
    """Bytes of the tensors that `call` saves for the backward pass, parameters left out."""
    known = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, Tensor] = {}  # they stay alive, so that no two have one address

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
