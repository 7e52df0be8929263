"""What a training costs, end to end: steps of the shipped models, whole epochs, and what goes where.

    python benchmarks/training.py --data-root DATA
    python benchmarks/training.py --data-root DATA --quick

Steps: one optimizer step of each of `CONFIGS` as `flowprior train` takes it (size cpu, their own batch), in
turns, round after round in one process; "to vae" is the time of a step / that of glf/vae in the same round.
For glf/vae_flow, the same network and batch with a flow instead of N(0, I), that is what the prior adds; "its
flow alone" is a step of that flow on latents that are there.
Epochs of glf/fashion_mnist (60,000 images), in turns as well:

* flowprior: `train` without a run folder, from its own clock: data, meters and checks included.
* flowprior, logs: the same with a run folder: metrics.csv and TensorBoard.
* flowprior, checkpoints: with a checkpoint every 50 steps on top, from which one checkpoint's seconds follow.
* by hand: a loop over the same network with the data in memory as floats, fused Adams, and nothing else.

"data share" is the time of an epoch of batches alone / that of the whole epoch.
Writes benchmarks/results/training_cpu.json (--out).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import results
import torch
from torch import Tensor

from flowprior.data.batches import Batches
from flowprior.evaluation.costs import rounds, spread
from flowprior.experiments.config import load
from flowprior.experiments.experiment import Experiment
from flowprior.models import Autoencoder
from flowprior.training.averages import Meter
from flowprior.training.engine import start_fabric
from flowprior.training.loop import train
from flowprior.training.stage_run import StageRun
from flowprior.training.stages import Stage, prior_stage

CONFIGS = ("glf/vae", "glf/vae_flow", "glf/fashion_mnist", "glf/digits", "dpvae/mnist", "dpvae/moons")
ALONE = "glf/vae_flow, its flow alone"
EPOCHS = "glf/fashion_mnist"
LOG_EVERY, CHECKPOINT_EVERY, BATCH = 50, 50, 256


def experiment_of(config: str, root: Path) -> Experiment:
    torch.manual_seed(0)
    return load([config], [f"Source.root = {str(root)!r}"]).experiment


def step_of(stage: Stage, device: str) -> tuple[Callable[[], None], int]:
    """A step of a stage, as the loop takes it, and its examples."""
    stage.objective.to(device)
    meter = Meter()
    run = StageRun(stage, start_fabric(device), 0, meter, fresh=True)
    run.train_mode()
    state = {"epoch": 0, "step": 0, "batches": run.batches.epoch(0)}

    def step() -> None:
        batch = next(state["batches"], None)
        if batch is None:
            state["epoch"] += 1
            state["batches"] = run.batches.epoch(state["epoch"])
            batch = next(state["batches"])
        run.step(batch, state["step"], min(state["step"], run.steps - 1))
        state["step"] += 1
        if state["step"] % LOG_EVERY == 0:
            meter.close_window(lambda values: values)

    return step, stage.batch_size


def steps(root: Path, device: str, seconds: float, least: int) -> list[dict]:
    calls, batches = {}, {}
    for config in CONFIGS:
        calls[config], batches[config] = step_of(experiment_of(config, root).stages[0], device)
    flow = experiment_of("glf/vae_flow", root).model.prior
    latents = {"z": torch.randn(100 * BATCH, *flow.event_shape)}
    alone = prior_stage(flow, latents, batch_size=BATCH, initialize=False, ema=None)
    calls[ALONE], batches[ALONE] = step_of(alone, device)
    times = rounds(calls, device, seconds, least)
    rows = []
    for config, values in times.items():
        middle, low, high = spread(values)
        ratio = spread([own / other for own, other in zip(values, times["glf/vae"], strict=True)])
        rows.append(
            {
                "config": config,
                "batch": batches[config],
                "ms": 1e3 * middle,
                "quartiles": [1e3 * low, 1e3 * high],
                "examples_per_s": batches[config] / middle,
                "to vae": ratio[0],
                "to vae, quartiles": list(ratio[1:]),
                "rounds": len(values),
            }
        )
        print(f"{config}: {1e3 * middle:.1f} ms a step, {ratio[0]:.3f} of glf/vae's", flush=True)
    return rows


def by_hand(model: Autoencoder, x: Tensor) -> float:
    """Seconds of an epoch of GLF as one writes it for a single use."""
    autoencoder = [*model.encoder.parameters(), *model.decoder.parameters()]
    first = torch.optim.Adam(autoencoder, lr=1e-3, fused=True)
    second = torch.optim.Adam(
        model.prior.parameters(), lr=1e-3, betas=(0.8, 0.9), eps=1e-6, weight_decay=2e-5, fused=True
    )
    model.train()
    began = time.perf_counter()
    order = torch.randperm(len(x), device=x.device)
    for rows in order[: len(x) // BATCH * BATCH].split(BATCH):
        images = x[rows]
        z = model.encoder(images)
        residual = images - model.decoder(z).sigmoid()
        loss = 0.5 * residual.square().flatten(1).sum(1).mean() - model.prior.log_prob(z.detach()).mean()
        first.zero_grad()
        second.zero_grad()
        loss.backward()
        first.step()
        second.step()
    loss.item()
    return time.perf_counter() - began


def by_library(experiment: Experiment, device: str, folder: Path | None, checkpoint_every: int) -> float:
    """Seconds of an epoch by `train`, from its own clock."""
    (stage,) = experiment.stages
    stage.epochs = 1
    result = train(
        [stage],
        run=folder,
        device=device,
        checkpoint_every=checkpoint_every,
        log_every=LOG_EVERY,
        progress=False,
    )
    return result.history[0]["seconds"]


def epochs(root: Path, device: str, count: int) -> dict:
    source = experiment_of(EPOCHS, root).source.train()
    images = source.tensors()["x"]
    floats = (images.float() / 255).to(device)
    never = 10**9
    times: dict[str, list[float]] = {
        name: [] for name in ("flowprior", "flowprior, logs", "flowprior, checkpoints", "by hand")
    }
    for _ in range(count):
        with tempfile.TemporaryDirectory() as folder:
            variants = {
                "flowprior": (None, never),
                "flowprior, logs": (Path(folder) / "logs", never),
                "flowprior, checkpoints": (Path(folder) / "checkpoints", CHECKPOINT_EVERY),
            }
            for name, (run, every) in variants.items():
                times[name].append(by_library(experiment_of(EPOCHS, root), device, run, every))
        times["by hand"].append(by_hand(experiment_of(EPOCHS, root).model.to(device), floats))
        print(", ".join(f"{name} {values[-1]:.2f} s" for name, values in times.items()), flush=True)
    middle = {name: statistics.median(values) for name, values in times.items()}
    batches = Batches(source.tensors(), BATCH, device=device)
    began = time.perf_counter()
    for _ in batches.epoch(0):
        pass
    loading = time.perf_counter() - began
    own = times["flowprior"]
    rate = statistics.median([theirs / mine for theirs, mine in zip(times["by hand"], own, strict=True)])
    saves = len(batches) // CHECKPOINT_EVERY
    return {
        "config": EPOCHS,
        "seconds": times,
        "examples_per_s": len(batches) * BATCH / middle["flowprior"],
        "rate / by hand": rate,
        "data share": loading / middle["flowprior"],
        "logs share": middle["flowprior, logs"] / middle["flowprior"] - 1,
        "seconds a checkpoint": (middle["flowprior, checkpoints"] - middle["flowprior, logs"]) / saves,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=120.0, help="of rounds of steps")
    parser.add_argument("--epochs", type=int, default=5, help="of each kind, in turns")
    parser.add_argument("--quick", action="store_true", help="few steps, one epoch of each kind")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/training_cpu.json"))
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.epochs = 5.0, 1

    torch.set_num_threads(options.threads)
    rows = steps(options.data_root, options.device, options.seconds, 3)
    whole = epochs(options.data_root, options.device, options.epochs)
    by_config = {row["config"]: row for row in rows}
    targets = [
        ("prior's share of a step", by_config["glf/vae_flow"]["to vae"] - 1, 0.08, False),
        ("rate of an epoch / by hand", whole["rate / by hand"], 0.9, True),
    ]
    verdicts = [
        {"what": what, "value": value, "target": target, "met": value >= target if least else value <= target}
        for what, value, target, least in targets
    ]
    for each in verdicts:
        met = "met" if each["met"] else "missed"
        print(f"{each['what']}: {each['value']:.3f}, target {each['target']}, {met}")
    results.write(
        options.out,
        rows,
        command="python benchmarks/training.py --data-root DATA"
        f" --device {options.device} --threads {options.threads}",
        study="cost of a training",
        seed=0,
        epochs=whole,
        targets=verdicts,
    )
    print(f"in {options.out}")


if __name__ == "__main__":
    main()
