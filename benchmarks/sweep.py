"""What a flow costs over its sizes, beside other libraries: a table, a map of it and curves.

    python benchmarks/sweep.py --depth 2,4,8,16,32 --width 32,128,512 --batch 100,1000 --threads 2 \\
        --peers nflows --seconds 1

Every combination of the sizes, as `flowprior benchmark`, with the columns of benchmarks/flow.py on top.
Writes benchmarks/results/flow_sweep_cpu.json (--out) and, beside it, flow_cpu_depth_width.png and
flow_cpu_scaling.png (--figures).
"""

import argparse
from itertools import product
from pathlib import Path

import plots
import results
import torch
from contest import contest
from peers import choose

from flowprior.evaluation.costs import Size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in zip(Size._fields, ("20", "2,8,32", "64,256", "100,1000"), strict=True):
        parser.add_argument(f"--{name}", default=default, help="numbers with commas between")
    for name, default in (("backend", "nflows"), ("precision", "float32"), ("compile", "none")):
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--peers", default="installed", help="other libraries: names, or none")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="of rounds, for each size and operation")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/flow_sweep_cpu.json"))
    parser.add_argument("--figures", default="flow_cpu", help="how the figures' names begin")
    options = parser.parse_args()

    given = vars(options)

    torch.set_num_threads(options.threads)
    rows, facts = contest(
        [Size(*map(int, each)) for each in product(*(given[name].split(",") for name in Size._fields))],
        device=options.device,
        backends=options.backend.split(","),
        precisions=options.precision.split(","),
        compiles=options.compile.split(","),
        peers=choose(options.peers),
        seconds=options.seconds,
    )
    words = [f"--{name} {value}" for name, value in given.items() if name not in ("out", "figures")]
    results.write(options.out, rows, command=" ".join(["python benchmarks/sweep.py", *words]), **facts)
    print(f"in {options.out}")
    for name, figure in plots.draw(rows).items():
        path = options.out.with_name(f"{options.figures}_{name}.png")
        figure.savefig(path)
        print(path)


if __name__ == "__main__":
    main()
