"""What a flow costs: who is measured, what of each, and the clock; `benchmark` makes tables of it."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from flowprior.commands.peers import PEERS, kept_features
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
TURN = (
    0.05  # seconds of work between two looks at the clock: as in a loop, caches are one's own for most of it
)
TURNS = 20  # at least so many fit into the time that is asked for; it goes before TURN
RATE_SIZE = {"cpu": 1536, "cuda": 8192}  # rows and columns of the product that the machine's rate is from
Call = Callable[[], object]


@dataclass(frozen=True)
class Size:
    """D features, `depth` couplings with two hidden layers of `width`, a batch of examples."""

    features: int
    depth: int
    width: int
    batch: int

    def layers(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of all linear layers of the conditioners."""
        found: list[tuple[int, int]] = []
        for index in range(self.depth):
            kept = kept_features(self.features, index)
            found += pairwise((kept, self.width, self.width, 2 * (self.features - kept)))
        return found

    def flop(self, operation: str) -> int:
        """Floating-point operations of the conditioners' matrix products; a training step has three times
        those of `log_prob`."""
        forward = 2 * self.batch * sum(inputs * outputs for inputs, outputs in self.layers())
        return 3 * forward if operation == "step" else forward


@dataclass(frozen=True)
class Setting:
    """On what, and how precisely, everything that is compared runs."""

    device: str
    precision: str

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Inside, new tensors have this dtype, and matrix products this precision."""
        dtype, products = PRECISIONS[self.precision]
        before = torch.get_default_dtype(), torch.get_float32_matmul_precision()
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(products)
        try:
            yield
        finally:
            torch.set_default_dtype(before[0])
            torch.set_float32_matmul_precision(before[1])


@dataclass(frozen=True)
class Contestant:
    """Somebody who does the work; `backend` and `compile` are flowprior's."""

    name: str
    calls: Mapping[str, Call]
    flow: nn.Module | None = None
    graph: Call | None = None  # `log_prob` that records gradients
    backend: str = ""
    compile: str = ""

    @property
    def parameters(self) -> int | None:
        """How many numbers are trained."""
        if self.flow is None:
            return None
        return sum(p.numel() for p in self.flow.parameters() if p.requires_grad)


def contestants(
    size: Size, setting: Setting, backends: Sequence[str], compiles: Sequence[str], peers: Sequence[str]
) -> list[Contestant]:
    """flowprior first, as users get it; peers; bare products."""
    shape = {"transforms": size.depth, "hidden_features": (size.width, size.width)}
    found = []
    for backend in backends:
        for mode in compiles:
            flow = FlowPrior(size.features, backend=backend, **shape)  # type: ignore[arg-type]
            flow.to(setting.device)
            groups = {"prior": list(flow.parameters())}
            optimizer = build_optimizer(groups, {"prior": OptimizerSettings(lr=1e-5)})
            name = " ".join(
                [
                    "flowprior",
                    *([backend] if backend != "nflows" else []),
                    *([mode] if mode != "none" else []),
                ]
            )
            found.append(_contestant(name, flow, size, setting, optimizer, backend=backend, compile=mode))
    others: dict[str, nn.Module] = {}
    with torch.device(setting.device):  # some hold tensors that do not follow `.to`
        others |= {name: PEERS[name](size.features, size.depth, size.width) for name in peers}
    for name, other in others.items():
        other.to(setting.device)
        adam = torch.optim.Adam([p for p in other.parameters() if p.requires_grad], lr=1e-5)
        found.append(_contestant(name, other, size, setting, adam))
    return [*found, Contestant("products", _products(size, setting))]


def _contestant(
    name: str,
    flow: nn.Module,
    size: Size,
    setting: Setting,
    optimizer: torch.optim.Optimizer,
    **of_flowprior: str,
) -> Contestant:
    density: Any = flow.log_prob
    draw: Any = flow.sample
    mode = of_flowprior.get("compile", "none")
    if mode != "none":
        density, draw = (torch.compile(each, mode=mode, dynamic=False) for each in (density, draw))

    z = torch.randn(size.batch, size.features, device=setting.device)

    def step() -> None:
        optimizer.zero_grad()
        (-density(z).mean()).backward()
        optimizer.step()

    calls = _inference(density, draw, size, setting) | {"step": step}
    if mode == "reduce-overhead":  # what a graph gave may be overwritten by its next run
        calls = {operation: _marked(call) for operation, call in calls.items()}
    return Contestant(name, calls, flow, lambda: density(z), **of_flowprior)


def _inference(density: Any, draw: Any, size: Size, setting: Setting) -> dict[str, Call]:
    z = torch.randn(size.batch, size.features, device=setting.device)

    def log_prob() -> None:
        with torch.no_grad():
            density(z)

    def sample() -> None:
        with torch.no_grad():
            draw(size.batch)

    return {"log_prob": log_prob, "sample": sample}


def _marked(call: Call) -> Call:
    def marked() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        call()

    return marked


def _products(size: Size, setting: Setting) -> dict[str, Call]:
    """The conditioners' matrix products alone, without biases and activations; a step's with its backward."""
    place = torch.device(setting.device)
    layers = [
        tuple(torch.randn(shape, device=place) for shape in ((size.batch, i), (o, i), (size.batch, o)))
        for i, o in size.layers()
    ]

    def forward() -> None:
        for inputs, weight, _ in layers:
            torch.mm(inputs, weight.t())

    def with_backward() -> None:
        forward()
        for inputs, weight, gradient in layers:
            torch.mm(gradient.t(), inputs)
            torch.mm(gradient, weight)

    return {"log_prob": forward, "sample": forward, "step": with_backward}


def _elapsed(call: Call, count: int, device: str) -> float:
    """Seconds of `count` calls: between two CUDA events, or by the wall clock."""
    if device == "cpu":
        began = time.perf_counter()
        for _ in range(count):
            call()
        return time.perf_counter() - began
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def rounds(calls: Mapping[str, Call], device: str, seconds: float, least: int) -> dict[str, list[float]]:
    """Seconds a call, of each in turn, round after round for about `seconds`, and `least` times at least."""
    repeats, turn = {}, min(TURN, seconds / TURNS)
    for name, call in calls.items():
        _warm_up(name, call, device)
        repeats[name] = max(1, round(3 * turn / max(_elapsed(call, 3, device), 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    order, end = list(calls), time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[order[0]]) < least:
        for name in order:
            times[name].append(_elapsed(calls[name], repeats[name], device) / repeats[name])
        order.append(order.pop(0))  # nobody always follows the same neighbor
    return times


def _warm_up(name: str, call: Call, device: str) -> None:
    """Three calls, the first of which compiles.

    Raises:
        RunError: if the compiler fails.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        _elapsed(call, 3, device)
    except TorchDynamoException as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"torch.compile failed on {name} ({reason}): see that it finds a C++ compiler."
        ) from error


def product_rate(setting: Setting, seconds: float) -> float:
    """Floating-point operations a second of a large square matrix product, the median of many."""
    side = RATE_SIZE[setting.device.split(":")[0]]
    left, right = (torch.randn(side, side, device=setting.device) for _ in range(2))
    times = rounds({"product": lambda: left @ right}, setting.device, seconds, 5)["product"]
    return 2 * side**3 / statistics.median(times)


def peak_memory(contestant: Contestant, operation: str, device: str) -> int | None:
    """Bytes that one call needs: on a GPU the peak beyond what was allocated before it.

    On the CPU, what `log_prob` saves for the backward pass, where there is one; None otherwise.
    """
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        contestant.calls[operation]()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if operation != "step" or contestant.graph is None or contestant.flow is None:
        return None
    return saved_bytes(contestant.graph, contestant.flow.parameters())


def saved_bytes(call: Call, parameters: Iterable[Tensor]) -> int:
    """Bytes of the tensors that `call` saves for the backward pass, parameters left out."""
    known = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, Tensor] = {}  # they stay alive, so that no two have one address

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in known:
            kept[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    del result
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, low, high
