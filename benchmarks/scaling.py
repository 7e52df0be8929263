"""How cost grows: with features, depth, width, batch, rows of data, processes; where small flows lose time.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --data-root DATA        with processes on glf/fashion_mnist as well

Sweeps: one of a flow's numbers at a time, away from 64 features, 8 couplings, width 256, batch 100, measured
as in benchmarks/flow.py. Calls: operations that torch dispatches, views left out, in all and by
coupling, and milliseconds at 20, 8, 64, 100 beside those of the bare products and of as many calls on one
number. Latents: an epoch of `fit` on that many rows, and its start. Processes: an epoch of `flowprior train`
with one and with two, one thread each, by the loop's own clock.
Writes benchmarks/results/scaling_cpu.json (--out).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results
import torch
from contest import contest
from peers import products
from torch.utils._python_dispatch import TorchDispatchMode

from flowprior import FlowPrior, fit
from flowprior.evaluation.costs import OPERATIONS, Size, flowpriors, rounds, spread

BASE = Size(features=64, depth=8, width=256, batch=100)
SMALL = Size(features=20, depth=8, width=64, batch=100)
SWEEPS = {
    "features": (8, 32, 128, 512),
    "depth": (2, 8, 32),
    "width": (32, 128, 512, 1024),
    "batch": (10, 100, 1000, 10000),
}
LATENTS = (1_000, 10_000, 100_000)
CONFIGS = {"glf/digits": 8, "glf/fashion_mnist": 1}  # epochs of the first stage
VIEWS = (
    "view",
    "expand",
    "t.default",
    "transpose",
    "slice",
    "split",
    "detach",
    "alias",
    "unsqueeze",
    "select",
)


class Counter(TorchDispatchMode):
    """Counts the operations that are not views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not any(view in str(func) for view in VIEWS)
        return func(*args, **(kwargs or {}))


def sweeps(seconds: float) -> list[dict]:
    kept = (*Size._fields, "operation", "ms", "rate_share", "to_products", "memory")
    rows = []
    for name, values in SWEEPS.items():
        sizes = [BASE._replace(**{name: value}) for value in values]
        measured, _ = contest(sizes, seconds=seconds, least=3)
        ours = [row for row in measured if row["contestant"] == "flowprior"]
        rows += [{"sweep": name, **{key: row[key] for key in kept}} for row in ours]
    return rows


def latents() -> list[dict]:
    table = []
    for rows in LATENTS:
        torch.manual_seed(0)
        z, prior = torch.randn(rows, SMALL.features), FlowPrior(SMALL.features)
        began = time.perf_counter()
        prior.initialize(z)
        start = time.perf_counter() - began
        history = fit(prior, z, epochs=2, device="cpu", progress=False).history
        seconds = history[1]["seconds"]  # the second: the first one also waits for what is new
        table.append({"rows": rows, "epoch_s": seconds, "rows_per_s": rows / seconds, "start_s": start})
        print(f"{rows} rows: {seconds:.3f} s an epoch, {start:.3f} s to start", flush=True)
    return table


def calls(seconds: float) -> list[dict]:
    """What the small size calls, and how long it, its products and as many empty calls take."""
    table = []
    counts: dict[int, dict[str, int]] = {}
    for depth in (SMALL.depth, 2 * SMALL.depth):
        (ours,) = flowpriors(SMALL._replace(depth=depth), "cpu")
        counts[depth] = {}
        for operation in OPERATIONS:
            ours.calls[operation]()
            with Counter() as counter:
                ours.calls[operation]()
            counts[depth][operation] = counter.count
    (ours,), bare, one = flowpriors(SMALL, "cpu"), products(SMALL, "cpu"), torch.zeros(1)
    for operation in OPERATIONS:
        total = counts[SMALL.depth][operation]
        chosen = {
            "flow": ours.calls[operation],
            "products": bare.calls[operation],
            "calls": lambda total=total: [torch.add(one, one) for _ in range(total)],
        }
        with torch.no_grad() if operation != "step" else torch.enable_grad():
            times = {name: spread(values)[0] for name, values in rounds(chosen, "cpu", seconds, 5).items()}
        row = {
            "operation": operation,
            "calls": total,
            "calls_a_coupling": (counts[2 * SMALL.depth][operation] - total) / SMALL.depth,
            **{f"{name}_ms": 1e3 * value for name, value in times.items()},
        }
        table.append(row)
        print(row, flush=True)
    return table


def processes(root: Path | None) -> list[dict]:
    table = []
    for config, count in CONFIGS.items():
        if config == "glf/fashion_mnist" and root is None:
            continue
        row: dict = {"config": config, "epochs": count}
        for devices in (1, 2):
            words = ["train", config, "--device", "cpu", "--devices", str(devices), "--quiet"]
            words += ["-b", "experiment.threads = 1", "-b", "experiment.metrics = ('nll',)"]
            words += ["-b", f"joint_stage.epochs = {count}"]
            words += [] if root is None else ["--data-root", str(root)]
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "flowprior", *words, "--out", f"{folder}/run"]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                report = json.loads(Path(folder, "run", "report.json").read_text(encoding="utf-8"))
            row[f"epoch_s_{devices}"] = next(iter(report["seconds_per_epoch"].values()))
        row["speedup"] = row["epoch_s_1"] / row["epoch_s_2"]
        table.append(row)
        print(row, flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="of rounds, for each size and operation")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scaling_cpu.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = sweeps(options.seconds)
    facts = {"calls": calls(options.seconds), "latents": latents(), "processes": processes(options.data_root)}
    command = f"python benchmarks/scaling.py --threads {options.threads} --seconds {options.seconds:g}"
    command += "" if options.data_root is None else " --data-root DATA"
    results.write(options.out, rows, command=command, study="how cost grows", seed=0, **facts)
    print(f"in {options.out}")


if __name__ == "__main__":
    main()
