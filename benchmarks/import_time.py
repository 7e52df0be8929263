"""How long a start takes: fresh processes, in turns.

    python benchmarks/import_time.py

"added" is the median over the rounds of the time beyond `import torch`, or beyond an empty Python for what
should not need torch. Writes benchmarks/results/import_time.json (--out).
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import results

from flowprior.evaluation.costs import spread

COMMAND = "from flowprior.cli import main; main({words}, standalone_mode=False)"
CASES = {  # what is run, and what it is compared with
    "python": ("pass", "python"),
    "import flowprior": ("import flowprior", "python"),
    "flowprior list": (COMMAND.format(words=["list"]), "python"),
    "flowprior --help": (COMMAND.format(words=["--help"]), "python"),
    "import torch": ("import torch", "python"),
    "from flowprior import FlowPrior": ("from flowprior import FlowPrior", "import torch"),
    "a prior and its first sample": (
        "from flowprior import FlowPrior; FlowPrior(4).sample(1)",
        "import torch",
    ),
    "from flowprior import fit": ("from flowprior import fit", "import torch"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/import_time.json"))
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds must be at least 2: quartiles need more than one value")
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for number in range(options.rounds + 1):
        for name, (code, _) in CASES.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
            if number:  # the first one fills the caches of the disk
                times[name].append(time.perf_counter() - began)
    rows = []
    for name, (_, other) in CASES.items():
        middle, low, high = spread(times[name])
        added = spread([own - base for own, base in zip(times[name], times[other], strict=True)])
        rows.append(
            {"name": name, "seconds": middle, "quartiles": [low, high], "beyond": other, "added": added[0]}
        )
        print(f"{name}: {middle:.3f} s, {added[0]:+.3f} beyond {other}")
    command = f"python benchmarks/import_time.py --rounds {options.rounds}"
    results.write(options.out, rows, command=command, study="time of a start")
    print(f"in {options.out}")


if __name__ == "__main__":
    main()
