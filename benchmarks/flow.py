"""What a flow costs: flowprior beside nflows and beside the bare matrix products of its conditioners.

    python benchmarks/flow.py
    python benchmarks/flow.py --quick

Every row is one size: D features, couplings, width of the two hidden layers, batch; float32, eager, recipe
`glf`. What is timed at each size, in turns, round after round in one process, after a warm-up:

* flowprior: `FlowPrior` as a user gets it; its training step has fused Adam, as `flowprior.training` has.
* reference: the same prior through its nflows steps one by one, with torch's default Adam.
* nflows: nflows' own affine couplings and permutations with networks of the same layers, default Adam.
* SimpleRealNVP: nflows' ready-made flow with one residual block a coupling, which is four layers, not three.
* products: the conditioners' matrix products alone, without biases and activations; for a training step
  with those of the backward pass.

"log_prob" and "sample" are without gradients, "log_prob with graph" records them, "step" is log_prob,
backward and optimizer. The ratios are medians over the rounds of time / flowprior's time in the same round
(for products: flowprior's time / theirs), with the quartiles.
Writes benchmarks/results/flow_cpu.json (--out).
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import results
import torch
from nflows.distributions.normal import StandardNormal
from nflows.flows.base import Flow
from nflows.flows.realnvp import SimpleRealNVP
from nflows.transforms.base import CompositeTransform
from nflows.transforms.coupling import AffineCouplingTransform
from nflows.transforms.permutations import RandomPermutation
from torch import Tensor, nn

from flowprior import FlowPrior
from flowprior.training import OptimizerSettings
from flowprior.training.optimizers import build_optimizer

Size = tuple[int, int, int, int]  # D, couplings, width, batch
TARGETS: dict[Size, dict[str, float]] = {
    (20, 8, 64, 100): {"log_prob": 2.2, "sample": 2.2, "step": 2.2, "products": 1.25},
    (64, 8, 256, 100): {"log_prob": 1.6, "sample": 1.6, "step": 1.6, "products": 1.1},
    (64, 24, 1024, 100): {"log_prob": 1.05, "sample": 1.05, "step": 1.05, "products": 1.05},
}
SWEEP: list[Size] = [
    *TARGETS,
    (20, 2, 64, 100),
    (20, 32, 64, 100),
    (20, 8, 256, 100),
    (20, 8, 64, 1000),
    (2, 8, 64, 100),
    (256, 8, 256, 100),
]
WORK = ("log_prob", "sample", "log_prob with graph", "step")
CLOCKS = {"wall": time.perf_counter, "processor": time.thread_time}
SECONDS = 0.004  # of work, at least, between two looks at the clock


class Network(nn.Module):
    """The layers of a `glf` conditioner, as nflows calls its networks."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
        )
        with torch.no_grad():
            for parameter in self.layers[-1].parameters():
                parameter.mul_(0.1)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        return self.layers(inputs)


def nflows_glf(features: int, couplings: int, width: int) -> Flow:
    """nflows' own transforms in the order of `glf`: two couplings with swapped halves, a permutation."""
    steps: list[nn.Module] = []
    for index in range(couplings):
        mask = torch.arange(features) >= (features + 1) // 2
        mask = mask if index % 2 == 0 else ~mask
        steps.append(AffineCouplingTransform(mask.int(), lambda i, o: Network(i, o, width)))
        if index % 2 == 1:
            steps.append(RandomPermutation(features))
    return Flow(CompositeTransform(steps), StandardNormal([features]))


def products(size: Size) -> dict[str, Callable[[], object]]:
    """The matrix products of all conditioners, forward; and with those of the backward pass."""
    features, couplings, width, batch = size
    layers = []
    for index in range(couplings):
        kept = (features + 1) // 2 if index % 2 == 0 else features // 2
        sizes = ((kept, width), (width, width), (width, 2 * (features - kept)))
        layers.append([(torch.randn(batch, i), torch.randn(o, i), torch.randn(batch, o)) for i, o in sizes])
    flat = [layer for coupling in layers for layer in coupling]

    def forward() -> None:
        for inputs, weight, _ in flat:
            torch.mm(inputs, weight.t())

    def with_backward() -> None:
        forward()
        for inputs, weight, gradient in flat:
            torch.mm(gradient.t(), inputs)
            torch.mm(gradient, weight)

    return {"log_prob": forward, "sample": forward, "log_prob with graph": forward, "step": with_backward}


def work(flow: nn.Module, z: Tensor, optimizer: torch.optim.Optimizer) -> dict[str, Callable[[], object]]:
    """What is timed of a flow with `log_prob` and `sample`."""

    def log_prob() -> None:
        with torch.no_grad():
            flow.log_prob(z)

    def sample() -> None:
        with torch.no_grad():
            flow.sample(len(z))

    def step() -> None:
        optimizer.zero_grad()
        (-flow.log_prob(z).mean()).backward()
        optimizer.step()

    return {
        "log_prob": log_prob,
        "sample": sample,
        "log_prob with graph": lambda: flow.log_prob(z),
        "step": step,
    }


def contestants(size: Size) -> dict[str, dict[str, Callable[[], object]]]:
    features, couplings, width, batch = size
    torch.manual_seed(0)
    z = torch.randn(batch, features)
    settings = {"transforms": couplings, "hidden_features": (width, width)}
    ours, reference = FlowPrior(features, **settings), FlowPrior(features, **settings)
    reference.bijector.schedule = None
    fused = build_optimizer({"prior": list(ours.parameters())}, {"prior": OptimizerSettings(lr=1e-5)})
    found = {"flowprior": work(ours, z, fused)}
    others = {
        "reference": reference,
        "nflows": nflows_glf(features, couplings, width),
        "SimpleRealNVP": SimpleRealNVP(features, width, couplings, 1),
    }
    for name, flow in others.items():
        found[name] = work(flow, z, torch.optim.Adam(flow.parameters(), lr=1e-5))
    return {**found, "products": products(size)}


def rounds(
    calls: Mapping[str, Callable[[], object]], seconds: float, least: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Milliseconds a call, of each in turn, round after round for about `seconds`."""
    repeats = {}
    for name, call in calls.items():
        call()
        began = clock()
        for _ in range(3):
            call()
        repeats[name] = max(1, round(3 * SECONDS / (clock() - began)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    order = list(calls)
    while time.perf_counter() < end or len(times[order[0]]) < least:
        for name in order:
            call, count = calls[name], repeats[name]
            began = clock()
            for _ in range(count):
                call()
            times[name].append(1e3 * (clock() - began) / count)
        order.append(order.pop(0))  # nobody always follows the same neighbour
    return times


def spread(values: list[float]) -> dict[str, Any]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "quartiles": [low, high], "rounds": len(values)}


def measure(size: Size, seconds: float, least: int, clock: Callable[[], float]) -> Iterator[dict[str, Any]]:
    """A row for each kind of work at this size."""
    calls = contestants(size)
    for kind in WORK:
        times = rounds({name: made[kind] for name, made in calls.items()}, seconds, least, clock)
        ours = times["flowprior"]
        ratios = {
            name: spread([theirs / own for theirs, own in zip(values, ours, strict=True)])
            for name, values in times.items()
            if name not in ("flowprior", "products")
        }
        ratios["products"] = spread([own / bare for own, bare in zip(ours, times["products"], strict=True)])
        target = TARGETS.get(size, {})
        targets = {
            "nflows": target.get(kind),
            "products": target.get("products") if kind == "log_prob" else None,
        }
        yield {
            "size": dict(zip(("features", "couplings", "width", "batch"), size, strict=True)),
            "work": kind,
            "milliseconds": {name: spread(values) for name, values in times.items()},
            "ratios": ratios,
            "targets": {name: value for name, value in targets.items() if value is not None},
        }


def line(row: Mapping[str, Any]) -> str:
    cells = [", ".join(map(str, row["size"].values())), row["work"]]
    cells.append(f"{row['milliseconds']['flowprior']['median']:.3f}")
    for name in ("nflows", "reference", "SimpleRealNVP", "products"):
        low, high = row["ratios"][name]["quartiles"]
        target = row["targets"].get(name)
        wanted = f", target {target}" if target else ""
        cells.append(f"{row['ratios'][name]['median']:.2f} ({low:.2f}-{high:.2f}{wanted})")
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "| D, couplings, width, batch | work | flowprior, ms | nflows / flowprior | reference / flowprior "
    "| SimpleRealNVP / flowprior | flowprior / products |\n" + "|---" * 7 + "|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the sizes with targets only, few rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="processor: time of this thread alone, where others use the machine; needs --threads 1",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of wall time, for each row")
    parser.add_argument(
        "--size", type=int, nargs=4, action="append", help="D couplings width batch; repeatable"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/flow_cpu.json"))
    options = parser.parse_args()

    if options.clock == "processor" and options.threads != 1:
        parser.error("--clock processor sees one thread: give --threads 1")
    clock = CLOCKS[options.clock]
    torch.set_num_threads(options.threads)
    sizes = [tuple(size) for size in options.size] if options.size else SWEEP
    seconds, least = options.seconds, 5
    if options.quick:
        sizes, seconds, least = list(TARGETS), 3.0, 3
    rows = []
    print(HEAD, flush=True)
    for size in sizes:
        for row in measure(size, seconds, least, clock):
            rows.append(row)
            print(line(row), flush=True)
    facts = {"threads": options.threads, "clock": options.clock, "dtype": "float32", "seed": 0}
    results.write(options.out, rows, study="cost of a flow", **facts)
    print(f"in {options.out}")


if __name__ == "__main__":
    main()
