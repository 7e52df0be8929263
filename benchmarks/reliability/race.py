"""Start two trainings at once in one folder, with different seeds: one is refused, the other is whole.

python benchmarks/reliability/race.py --tries 50
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from forks import GLF, bound, start, wait

from flowprior.training.checkpoint import load_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=50)
    options = parser.parse_args()
    chance, mixed = random.Random(0), 0
    for _ in range(options.tries):
        with tempfile.TemporaryDirectory() as name:
            folder, log, children = Path(name) / "run", Path(name) / "log", []
            for seed in (1, 2):
                words = [
                    "train",
                    "glf/digits",
                    "--quiet",
                    "--seed",
                    str(seed),
                    "--out",
                    str(folder),
                    *bound(GLF),
                ]
                children.append(start(words, log))
                time.sleep(chance.uniform(0, 0.2))
            ends = [wait(child) for child in children]
            seed = json.loads((folder / "report.json").read_text())["running"]["seed"]
            one = f"experiment.seed = {seed}\n"
            same = load_checkpoint(folder).state["notes"]["config"] == (folder / "config.gin").read_text()
            whole = one in (folder / "config.gin").read_text() and same
            mixed += not (sorted(ends) == [0, 2] and ends[seed - 1] == 0 and whole)
    print(f"{options.tries} tries, mixed or wrong: {mixed}")
    sys.exit(bool(mixed))


if __name__ == "__main__":
    main()
