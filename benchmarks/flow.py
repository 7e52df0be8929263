"""The published table of what a flow costs: `flowprior benchmark` at the three sizes that have targets.

    python benchmarks/flow.py
    python benchmarks/flow.py --device cuda --out benchmarks/results/flow_gpu.json

Rows as `flowprior benchmark` writes them (see "measured" in the file), with a verdict on each target:
nflows' time / flowprior's and, for log_prob, flowprior's / that of the bare products; 1 for other peers. The
verdicts are of eager mode; "flowprior default" is torch.compile's, "flowprior folded" for inference alone.
Writes benchmarks/results/flow_cpu.json (--out).
"""

import argparse
from pathlib import Path

from flowprior.commands.benchmark import measure
from flowprior.commands.flow_costs import Size
from flowprior.commands.peers import PEERS
from flowprior.files import write_json

TARGETS = {  # nflows / flowprior at least; log_prob: flowprior / products at most
    Size(features=20, depth=8, width=64, batch=100): (2.2, 1.25),
    Size(features=64, depth=8, width=256, batch=100): (1.6, 1.1),
    Size(features=64, depth=24, width=1024, batch=100): (1.05, 1.05),
}


def verdicts(rows: list[dict]) -> list[dict]:
    """Target, value and whether it is met, for each size and operation."""
    found = []
    for row in rows:
        size = Size(*(row[name] for name in ("features", "depth", "width", "batch")))
        ahead, bare = TARGETS[size]
        about = {"size": [size.features, size.depth, size.width, size.batch], "operation": row["operation"]}
        if row["contestant"] in PEERS:
            target = ahead if row["contestant"] == "nflows" else 1.0
            about |= {"ratio": f"{row['contestant']} / flowprior", "value": row["to_flowprior"]}
            found.append({**about, "target": target, "met": row["to_flowprior"] >= target})
        elif row["contestant"] == "flowprior" and row["operation"] == "log_prob":
            about |= {"ratio": "flowprior / products", "value": row["to_products"]}
            found.append({**about, "target": bare, "met": row["to_products"] <= bare})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=20.0, help="of rounds, for each size and operation")
    parser.add_argument("--compile", default="none,default", help="torch.compile's modes, none first")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/flow_cpu.json"))
    options = parser.parse_args()

    table = measure(
        list(TARGETS),
        command=f"python benchmarks/flow.py --threads {options.threads} --device {options.device} "
        f"--seconds {options.seconds:g} --compile {options.compile}",
        device=options.device,
        compiles=options.compile.split(","),
        threads=options.threads,
        seconds=options.seconds,
    )
    table["targets"] = verdicts(table["rows"])
    for each in table["targets"]:
        size = ", ".join(map(str, each["size"]))
        met = "met" if each["met"] else "missed"
        print(
            f"{size} {each['operation']} {each['ratio']}: {each['value']:.2f}, target {each['target']}, {met}"
        )
    write_json(options.out, table)
    print(f"in {options.out}")


if __name__ == "__main__":
    main()
