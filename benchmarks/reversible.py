"""What the reversible mode saves and what it costs in rounding, over depth.

    python benchmarks/reversible.py

For each affine recipe (20 features, width 64, batch 100) and depth: bytes saved for the backward pass of
log_prob in the reversible mode and in the ordinary one, and the relative error |g - g64| / |g64| of all
gradients together, in float32 against the ordinary mode in float64. "as built" is the recipe's own start,
"trained" the same after 100 steps on scikit-learn's digits (20 principal components, unit variances),
"strong" an untrained one whose last layers have a gain of 1, which no recipe starts with. Null: not finite.
Writes benchmarks/results/reversible.json (--out). Nothing is timed.
"""

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import results
import torch

from flowprior import FlowPrior
from flowprior.bijectors import RECIPES
from flowprior.evaluation.costs import saved_bytes

DEPTHS = (2, 8, 32, 64, 128)
STARTS = ("as built", "trained", "strong")
STEPS = 100


def codes() -> torch.Tensor:
    """The digits, (1797, 20)."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    components = PCA(20, whiten=True, random_state=0).fit_transform(load_digits().data)
    return torch.from_numpy(components).float()


def train(prior: FlowPrior, z: torch.Tensor) -> None:
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-3, fused=True)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (-prior.log_prob(z[torch.randint(len(z), (100,))]).mean()).backward()
        optimizer.step()


def gradient(prior: FlowPrior, z: torch.Tensor) -> torch.Tensor:
    """The gradient of the mean log-density in z and all parameters, as one vector."""
    z = z.clone().requires_grad_()
    gradients = torch.autograd.grad(prior.log_prob(z).mean(), [z, *prior.parameters()])
    return torch.cat([each.flatten() for each in gradients]).double()


def measure(recipe: str, start: str, depth: int, latents: torch.Tensor) -> dict:
    chosen = replace(RECIPES[recipe], last_layer_gain=1.0) if start == "strong" else recipe
    torch.manual_seed(0)
    reversible = FlowPrior(20, recipe=chosen, transforms=depth, reversible=True)
    ordinary = copy.deepcopy(reversible)
    ordinary.bijector.reversible = False
    if start == "trained":
        train(ordinary, latents)
        reversible.load_state_dict(ordinary.state_dict())
    z = latents[:100].clone()
    exact = gradient(copy.deepcopy(ordinary).double(), z.double())
    row: dict = {"recipe": recipe, "start": start, "depth": depth}
    for name, prior in (("reversible", reversible), ("ordinary", ordinary)):
        error = (gradient(prior, z) - exact).norm() / exact.norm()
        row[f"{name} error"] = error.item() if error.isfinite() else None
        row[f"{name} bytes"] = saved_bytes(lambda prior=prior: prior.log_prob(z), prior.parameters())
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/reversible.json"))
    options = parser.parse_args()
    rows, latents = [], codes()
    print("| recipe | start | depth | error, reversible | ordinary | kB saved, reversible | ordinary |")
    print("|---" * 7 + "|")
    for recipe in ("glf", "actnorm", "masked"):
        for start in STARTS:
            for depth in DEPTHS:
                row = measure(recipe, start, depth, latents)
                rows.append(row)
                errors = " | ".join(
                    "not finite" if row[name] is None else f"{row[name]:.1e}"
                    for name in ("reversible error", "ordinary error")
                )
                saved = f"{row['reversible bytes'] / 1e3:.0f} | {row['ordinary bytes'] / 1e3:.0f}"
                print(f"| {recipe} | {start} | {depth} | {errors} | {saved} |", flush=True)
    command = "python benchmarks/reversible.py"
    results.write(options.out, rows, command=command, study="reversible mode", dtype="float32", seed=0)
    print(f"in {options.out}")


if __name__ == "__main__":
    main()
