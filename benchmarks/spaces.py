"""Separability and path length in z against z0 of the finished rows of a study of learned priors.

    flowprior compare learned_prior/beta_sweep --data-root DATA --row fashion_mnist --seeds 3 --out STUDY
    python benchmarks/spaces.py STUDY/fashion_mnist --rows flow_0,flow_1 --data-root DATA --weights WEIGHTS

writes benchmarks/results/learned_prior_spaces_cpu.json.
"""

import argparse
from pathlib import Path

import results

from flowprior.commands import evaluate
from flowprior.experiments import report
from flowprior.experiments.config import load
from flowprior.metrics.summary import summary

METRICS = ("separability", "ppl")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path)
    parser.add_argument("--rows", default="flow_0,flow_1")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/learned_prior_spaces_cpu.json"))
    options = parser.parse_args()
    rows = []
    for row in options.rows.split(","):
        reports = []
        for run in sorted((options.study / row).glob("seed[0-9]")):
            kept = report.read(run / "report.json").get("metric_facts", {})
            if not set(METRICS) <= set(kept):
                binding = f"Source.root = {options.data_root!r}"
                experiment = load([str(run / "config.gin")], [binding]).experiment
                names = ",".join(METRICS)
                evaluate.run(experiment, run, metrics=names, count=options.samples, weights=options.weights)
            reports.append(report.read(run / "report.json"))
        names = [name for name in reports[0]["metrics"] if name.startswith(METRICS)]
        metrics = {name: summary([each["metrics"][name] for each in reports]) for name in names}
        notes = [
            note
            for each in reports
            for name in METRICS
            for note in each["metric_facts"][name].get("notes", [])
        ]
        rows.append({"name": row, "seeds": len(reports), "metrics": metrics, "notes": notes})
    command = (
        f"python benchmarks/spaces.py STUDY/fashion_mnist --rows {options.rows} --samples {options.samples}"
    )
    results.write(options.out, rows, command=f"{command} --data-root DATA --weights WEIGHTS")
    print(results.markdown(rows, list(rows[0]["metrics"])))


if __name__ == "__main__":
    main()
