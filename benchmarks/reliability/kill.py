"""Kill commands with SIGKILL at random moments and run them again: every end must be that without a kill.

    python benchmarks/reliability/kill.py --kills 500 --folder /tmp/kills

Half of the kills come at a random time, half at a random fsync or rename. Each case is killed one to three
times, then run to its end, and compared with one that nobody disturbed: checkpoints bit by bit, metrics.csv,
the metrics of the report, and the names of all files.
"""

import argparse
import json
import random
import re
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from forks import GLF, TINY, bound, kill_within, run

from flowprior.training.checkpoint import load_checkpoint

STUDY = "include 'glf/digits.gin'\nstudy.rows = {'one': (), 'two': ('autoencoder.features = 3',)}\n"
STUDY += "study.metrics = ('reconstruction',)\n"


def commands(folder: Path, cases: Path) -> dict[str, list[str]]:
    """What is killed, each with its output in `folder`."""
    train = ["train", "--quiet", "--resume", "--out", str(folder)]
    return {
        "GLF": [*train, "glf/digits", *bound(GLF)],
        "FactorVAE": [*train, "dpvae/moons", *bound([*TINY, "joint_stage.objective = @FactorVAE"])],
        "AAE": [*train, str(cases / "aae.gin"), *bound(TINY)],
        "fit": ["fit", str(cases / "z.npy"), "--out", str(folder), "--quiet", "--epochs", "2", *SMALL],
        "eval": ["eval", str(folder), "--metrics", "reconstruction,nll"],
        "compare": [
            "compare",
            str(cases / "s.gin"),
            "--out",
            str(folder),
            "--jobs",
            "1",
            "--quiet",
            *bound(GLF),
        ],
    }


AAE = """
include 'glf/digits.gin'
autoencoder.prior = @ImplicitPrior
ImplicitPrior.hidden_features = (8,)
experiment.stages = [@joint_stage]
joint_stage.frozen = ()
joint_stage.objective = @AdversarialAutoencoder
AdversarialAutoencoder.critic = @critic/MLP
critic/MLP.out_features = 1
critic/MLP.hidden = (8,)
"""
SMALL = ["--transforms", "2", "--hidden", "4"]


def facts(folder: Path) -> dict[str, object]:
    """What must be equal: all that does not tell the time."""
    found: dict[str, object] = {"files": names(folder)}
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder).as_posix()
        if path.name in ("metrics.csv", "config.gin", "model.safetensors"):
            found[place] = path.read_bytes()
        elif path.name == "report.json":
            found[place] = json.loads(path.read_text())["metrics"]
        elif path.name == "manifest.json":
            tensors = load_checkpoint(path.parent.parent).tensors
            found[place] = {name: value.numpy().tobytes() for name, value in tensors.items()}
    return found


def names(folder: Path) -> list[str]:
    """All files, without the dates of sheets and what TensorBoard names by the clock."""
    places = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted({re.sub(r"-\d{8}-\d{6}", "", place) for place in places if "tensorboard" not in place})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--folder", type=Path, default=Path("runs/kills"))
    parser.add_argument("--seconds", type=float, default=1e9, help="Begin no further case after so long.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cases, chance = options.folder, random.Random(options.seed)
    shutil.rmtree(cases, ignore_errors=True)
    cases.mkdir(parents=True)
    np.save(cases / "z.npy", np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32))
    (cases / "s.gin").write_text(STUDY)
    (cases / "aae.gin").write_text(AAE)
    log, whole, usual = cases / "log", {}, {}
    for name, words in commands(cases / "whole", cases).items():
        folder = cases / f"whole-{name}"
        words = commands(folder, cases)[name]
        if name == "eval":
            shutil.copytree(cases / "whole-GLF", folder)
        before = time.monotonic()
        if status := run(words, log):
            sys.exit(f"{name} ends with {status} without a kill: {log.read_text()[-500:]}")
        usual[name], whole[name] = time.monotonic() - before, facts(folder)
    killed, wrong, began = Counter(), [], time.monotonic()
    print({name: round(seconds, 1) for name, seconds in usual.items()}, flush=True)
    while sum(killed.values()) < options.kills and time.monotonic() - began < options.seconds:
        for name in whole:
            folder = cases / "case"
            shutil.rmtree(folder, ignore_errors=True)
            if name == "eval":
                shutil.copytree(cases / "whole-GLF", folder)
            words = commands(folder, cases)[name]
            for _ in range(chance.randint(1, 3)):
                killed[name] += kill_within(words, usual[name], log, chance)
                if name == "fit" and (folder / "config.json").exists():
                    break  # it is fitted: there is nothing to do again
            again = [*words, "--overwrite"] if name == "fit" and (folder / "config.json").exists() else words
            if status := run(again, log):
                wrong.append(f"{name} ends with {status}: {log.read_text()[-300:]}")
            else:
                found = facts(folder)
                wrong += [
                    f"{name}: {key} differs"
                    for key in found.keys() | whole[name]
                    if found.get(key) != whole[name].get(key)
                ]
    print(
        f"torch {torch.__version__}; {sum(killed.values())} kills ({dict(killed)}); wrong ends: {len(wrong)}"
    )
    print(*wrong[:10], sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
