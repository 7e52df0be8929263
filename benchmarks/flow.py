"""The published table of what a flow costs, beside other libraries and bare products.

    python benchmarks/flow.py
    python benchmarks/flow.py --device cuda --out benchmarks/results/flow_gpu.json

The three sizes that have targets, with a verdict on each target: nflows' time / flowprior's and, for
log_prob, flowprior's / that of the bare products; 1 for other peers. Eager mode is what is judged; "flowprior
default" is that of torch.compile. "measured" in the file says what the columns mean.
Writes benchmarks/results/flow_cpu.json (--out).
"""

import argparse
from pathlib import Path

import results
import torch
from contest import contest
from peers import PEERS, choose

from flowprior.evaluation.costs import Row, Size

TARGETS = {  # nflows / flowprior at least; log_prob: flowprior / products at most
    Size(features=20, depth=8, width=64, batch=100): (2.2, 1.25),
    Size(features=64, depth=8, width=256, batch=100): (1.6, 1.1),
    Size(features=64, depth=24, width=1024, batch=100): (1.05, 1.05),
}


def verdicts(rows: list[Row]) -> list[dict]:
    """Target, value and whether it is met, for each size and operation."""
    judged = []
    for row in rows:
        size = Size(*(row[name] for name in Size._fields))
        ahead, bare = TARGETS[size]
        about = {"size": list(size), "operation": row["operation"]}
        if row["contestant"] in PEERS:
            value, target = row["to_first"], ahead if row["contestant"] == "nflows" else 1.0
            about |= {"ratio": f"{row['contestant']} / flowprior", "value": value, "target": target}
            judged.append({**about, "met": value >= target})
        elif row["contestant"] == "flowprior" and row["operation"] == "log_prob":
            about |= {"ratio": "flowprior / products", "value": row["to_products"], "target": bare}
            judged.append({**about, "met": row["to_products"] <= bare})
    return judged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=20.0, help="of rounds, for each size and operation")
    parser.add_argument("--compile", default="none,default", help="torch.compile's modes, none first")
    parser.add_argument("--peers", default="installed", help="other libraries: names, or none")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/flow_cpu.json"))
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    rows, facts = contest(
        list(TARGETS),
        device=options.device,
        compiles=options.compile.split(","),
        peers=choose(options.peers),
        seconds=options.seconds,
    )
    targets = verdicts(rows)
    for each in targets:
        size, met = ", ".join(map(str, each["size"])), "met" if each["met"] else "missed"
        ratio = f"{each['ratio']}: {each['value']:.2f}, target {each['target']}"
        print(f"{size} {each['operation']} {ratio}, {met}")
    command = (
        f"python benchmarks/flow.py --threads {options.threads} --device {options.device}"
        f" --seconds {options.seconds:g} --compile {options.compile}"
    )
    results.write(options.out, rows, command=command, targets=targets, **facts)
    print(f"in {options.out}")


if __name__ == "__main__":
    main()
