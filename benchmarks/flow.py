"""The published table of what a flow costs, beside other libraries, engines and bare products.

    python benchmarks/flow.py
    python benchmarks/flow.py --device cuda --compile none,reduce-overhead \\
        --out benchmarks/results/flow_gpu.json

The three sizes that have targets, with a verdict on each: nflows' time / flowprior's, in eager mode and
compiled, and that of each other library, which flowprior has to be ahead of. A step of another library is by
torch's default Adam, as its users write it, and that is what is judged; ", fused Adam" is its step with
flowprior's optimizer. "flowprior default" is `prior.compile()`. JAX is the same flow in plain code under jit,
ONNX Runtime the flow as `prior.export` writes it: no libraries of flows; they show how far the limit is.
"measured" in the file says what the columns mean. Writes benchmarks/results/flow_cpu.json (--out).
"""

import argparse
from pathlib import Path

import results
import torch
from contest import contest
from engines import ENGINES
from peers import PEERS, choose

from flowprior.evaluation.costs import Row, Size

EAGER, COMPILED = "flowprior", "flowprior compiled"
TARGETS = {  # nflows / flowprior at least, of log_prob and of a training step
    Size(features=20, depth=8, width=64, batch=100): {EAGER: (1.7, 1.6), COMPILED: (2.8, 2.5)},
    Size(features=64, depth=8, width=256, batch=100): {EAGER: (1.35, 1.4), COMPILED: (1.75, 1.8)},
    Size(features=64, depth=24, width=1024, batch=100): {EAGER: (1.08, 1.35), COMPILED: (1.1, 1.4)},
}
JUDGED = ("log_prob", "step")  # of nflows; in sampling it has to be ahead


def verdicts(rows: list[Row]) -> list[dict]:
    """Target, value and whether it is met, for each size, operation and library, eager and compiled."""
    times = {
        (Size(*(row[n] for n in Size._fields)), row["operation"], row["contestant"]): row for row in rows
    }
    judged = []
    for (size, operation, name), row in times.items():
        for mode, targets in TARGETS[size].items() if name in PEERS else ():
            own = [1.0] if mode == EAGER else _compiled(times, size, operation)
            if not own or (mode == COMPILED and (name != "nflows" or operation not in JUDGED)):
                continue
            ahead = name == "nflows" and operation in JUDGED
            target = targets[JUDGED.index(operation)] if ahead else 1.0
            value = row["to_first"] / own[0]
            about = {"size": list(size), "operation": operation, "ratio": f"{name} / {mode}"}
            judged.append({**about, "value": value, "target": target, "met": value >= target})
    return judged


def _compiled(times: dict, size: Size, operation: str) -> list[float]:
    """The time of the compiled flowprior / the eager one's, where it was measured."""
    return [
        row["to_first"]
        for (own, what, name), row in times.items()
        if (own, what) == (size, operation) and name.startswith("flowprior ")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=12.0, help="of rounds, for each size and operation")
    parser.add_argument("--compile", default="none,default", help="torch.compile's modes, none first")
    parser.add_argument("--peers", default="installed", help="other libraries: names, or none")
    parser.add_argument("--engines", default="installed", help="JAX, ONNX Runtime, or none")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/flow_cpu.json"))
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    rows, facts = contest(
        list(TARGETS),
        device=options.device,
        compiles=options.compile.split(","),
        peers=choose(options.peers),
        fused=True,
        engines=choose(options.engines, ENGINES),
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
