"""Damage the files of a run and of a fitted prior at random: each time the damage must be caught or harmless.

    python benchmarks/reliability/corrupt.py --cases 1500

Bits are flipped, bytes set to zero, files cut short, emptied or removed. Harmless means that weights, config
and report are read exactly as before; anything else must be an `InputError`, or an older checkpoint by name.
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from forks import GLF, bound, run

from flowprior.errors import InputError
from flowprior.experiments.runs import read_report
from flowprior.experiments.unchanged import changed_since
from flowprior.priors import FlowPrior
from flowprior.priors.prior import Prior
from flowprior.training.checkpoint import load_checkpoint


def read(folder: Path, prior: Path) -> tuple[object, ...]:
    """All that is believed: each part, or "refused"."""

    def checkpoint():
        found = load_checkpoint(folder)
        if changed_since(folder, found):
            raise InputError("the config was edited")
        tensors = {name: value.numpy().tobytes() for name, value in found.tensors.items()}
        return found.path.name, tensors, found.state

    def weights():
        return {
            name: value.numpy().tobytes() for name, value in Prior.from_pretrained(prior).state_dict().items()
        }

    parts = []
    for part in (checkpoint, lambda: read_report(folder), weights):
        try:
            parts.append(part())
        except InputError:
            parts.append("refused")
    return tuple(parts)


def damage(path: Path, chance: random.Random) -> str:
    """Damage a file in one way; its name."""
    payload = bytearray(path.read_bytes())
    kind = chance.choice(["flip", "flip", "zero", "cut", "empty", "remove"])
    place = chance.randrange(len(payload))
    if kind == "flip":
        payload[place] ^= 1 << chance.randrange(8)
    elif kind == "zero":
        payload[place : place + 16] = bytes(len(payload[place : place + 16]))
    elif kind == "cut":
        del payload[place:]
    elif kind == "empty":
        payload.clear()
    path.unlink() if kind == "remove" else path.write_bytes(payload)
    return kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, counts, believed = random.Random(options.seed), Counter(), []
    with tempfile.TemporaryDirectory() as name:
        whole, case = Path(name) / "whole", Path(name) / "case"
        if status := run(
            ["train", "glf/digits", "--quiet", "--out", whole / "run", *bound(GLF)], whole.with_name("log")
        ):
            sys.exit(f"the training ends with {status}")
        FlowPrior(3, transforms=2, hidden_features=(4,)).save_pretrained(whole / "prior")
        before = read(whole / "run", whole / "prior")
        older = {path.name for path in (whole / "run" / "checkpoints").glob("step-*")}
        for _ in range(options.cases):
            shutil.rmtree(case, ignore_errors=True)
            shutil.copytree(whole, case)
            files = [*case.glob("run/checkpoints/*"), case / "run/config.gin", case / "run/report.json"]
            path = chance.choice([*files, *case.glob("prior/*")])
            kind = damage(path, chance)
            after = read(case / "run", case / "prior")
            if after == before:
                counts["harmless"] += 1
            elif all(
                new in (old, "refused", {}) or _is_older(new, old, older)
                for new, old in zip(after, before, strict=True)
            ):
                counts["caught"] += 1
            else:
                believed.append(f"{kind} of {path.relative_to(case)}")
    print(f"torch {torch.__version__}; {options.cases} cases: {dict(counts)}, believed: {len(believed)}")
    print(*believed, sep="\n")
    sys.exit(bool(believed))


def _is_older(new: object, old: object, known: set[str]) -> bool:
    """Whether an earlier checkpoint of the run was taken."""
    return isinstance(new, tuple) and isinstance(old, tuple) and new[0] in known and new[0] < old[0]


if __name__ == "__main__":
    main()
