"""The main comparison: Generative Latent Flow and its rivals on one data set, network and budget.

    python benchmarks/glf_fashion.py --data-root DATA --weights WEIGHTS [--size cpu] [--seeds 1]

Each row is a shipped config; its run goes to RUNS/<row>-seed<k> and is skipped when it is there, so that an
interrupted comparison goes on where it was, and rows can be shared among processes. Distances are those of
10,000 samples to the 10,000 test images, for five sets of samples a run: one set varies by a few percent.
Writes benchmarks/results/glf_fashion_<size>.json (--out) and a picture beside it, and prints the table.
"""

import argparse
import json
from pathlib import Path

import results
import torch
from PIL import Image

from flowprior.commands import report, train
from flowprior.commands.measure import measure
from flowprior.commands.runs import CONFIG, REPORT, restore
from flowprior.config import load, load_model
from flowprior.plots import image_grid

ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "vae": ("glf/vae", ()),
    "vae_flow_1": ("glf/vae_flow", ("BETA = 1.0",)),
    "vae_flow_100": ("glf/vae_flow", ("BETA = 100.0",)),
    "ae_gmm": ("glf/ae_gmm", ()),
    "glf": ("glf/fashion_mnist", ()),
    "glf_refit": ("glf/refit", ()),
}
PICTURED = {
    "vae": "VAE, N(0, I)",
    "glf": "GLF, the paper's prior",
    "glf_refit": "GLF, prior refitted",
}
ONCE = ("reconstruction", "nll", "fd_classifier_reconstruction", "fd_squeezenet_reconstruction")
SAMPLED = ("fd_classifier", "fd_squeezenet")
SAMPLE_SETS = 5


def run_row(row: str, seed: int, options: argparse.Namespace) -> Path:
    """Train and measure one row with one seed, unless that is done; its run folder."""
    folder = options.runs / f"{row}-seed{seed}"
    path = folder / REPORT
    if "benchmark" in report.read(path):
        return folder
    config, bindings = ROWS[row]
    given = [*bindings, f"SIZE = {options.size!r}", f"experiment.seed = {seed}"]
    given += [f"Source.root = {str(options.data_root)!r}", "experiment.metrics = ('reconstruction', 'nll')"]
    loaded = load([config], given)
    resume = (folder / "checkpoints").is_dir()
    train.run(
        loaded.experiment,
        loaded.text,
        folder=folder,
        settings=loaded.settings,
        resume=resume,
        device=options.device,
        progress=options.progress,
    )
    restore(loaded.experiment.model, folder, options.device)
    model, source = loaded.experiment.model, loaded.experiment.source
    values = {
        name: [value] for name, value in measure(model, source, ONCE, weights=options.weights).values.items()
    }
    for sample_seed in range(SAMPLE_SETS):
        found = measure(model, source, SAMPLED, weights=options.weights, seed=sample_seed)
        for name, value in found.values.items():
            values.setdefault(name, []).append(value)
    report.update(path, benchmark=values, metric_facts=found.facts)
    return folder


def collect(row: str, options: argparse.Namespace) -> dict | None:
    """The row of the results file, over the seeds that are done."""
    reports = {}
    for seed in range(options.seeds):
        found = report.read(options.runs / f"{row}-seed{seed}" / REPORT)
        if "benchmark" in found:
            reports[seed] = found
    if not reports:
        return None
    metrics = {
        name: results.summary([value for found in reports.values() for value in found["benchmark"][name]])
        for name in (*ONCE, *SAMPLED)
    }
    for stage in next(iter(reports.values()))["seconds_per_epoch"]:
        metrics[f"seconds per epoch, {stage}"] = results.summary(
            [found["seconds_per_epoch"][stage] for found in reports.values()]
        )
    config, bindings = ROWS[row]
    first = next(iter(reports.values()))
    return {
        "name": row,
        "config": config,
        "bindings": list(bindings),
        "seeds": list(reports),
        "metrics": metrics,
        "threads": first["machine"]["threads"],
        "facts": {name: first["metric_facts"].get(name) for name in SAMPLED},
    }


def draw(options: argparse.Namespace, path: Path) -> None:
    """Samples of the rows of `PICTURED` that are there, side by side."""
    sheets = []
    for row, title in PICTURED.items():
        folder = options.runs / f"{row}-seed0"
        if not (folder / CONFIG).is_file():
            continue
        model = load_model(str(folder / CONFIG))
        restore(model, folder, "cpu")
        torch.manual_seed(0)
        sheets.append(image_grid(model.sample(56), columns=7, title=title))
    if not sheets:
        return
    gap = 12
    width = sum(sheet.width for sheet in sheets) + gap * (len(sheets) - 1)
    picture = Image.new("RGB", (width, max(sheet.height for sheet in sheets)), "white")
    left = 0
    for sheet in sheets:
        picture.paste(sheet, (left, 0))
        left += sheet.width + gap
    picture.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the SqueezeNet file")
    parser.add_argument("--size", choices=["cpu", "paper"], default="cpu")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--row", action="append", choices=list(ROWS), help="only these; repeatable")
    parser.add_argument("--runs", type=Path, help="default: runs/glf_fashion_<size>")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/glf_fashion_<size>.json")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--progress", action="store_true")
    options = parser.parse_args()
    options.runs = options.runs or Path("runs") / f"glf_fashion_{options.size}"
    out = options.out or Path("benchmarks/results") / f"glf_fashion_{options.size}.json"

    for seed in range(options.seeds):
        for row in options.row or ROWS:
            print(f"{row}, seed {seed}: {run_row(row, seed, options)}", flush=True)

    rows = [found for row in ROWS if (found := collect(row, options)) is not None]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    command = "python benchmarks/glf_fashion.py --data-root DATA --weights WEIGHTS"
    command += f" --size {options.size} --seeds {options.seeds}"
    facts = {"study": "GLF on Fashion-MNIST", "size": options.size, "device": device}
    results.write(out, rows, command=command, **facts)
    print(results.markdown(rows, list(json.loads(out.read_text())["rows"][0]["metrics"])[: len(ONCE) + 2]))
    draw(options, out.with_suffix(".png"))
    print(f"in {out} and {out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
