"""`fit(codes)` beside scikit-learn's Gaussians: held-out NLL, in nats a dimension, and seconds.

    python benchmarks/fit.py --data-root DATA

Both sides see the same train rows and are judged on the same held-out rows. Of scikit-learn there are
LedoitWolf and GaussianMixture with 1, 10 and 50 components, full and diagonal, in float64; its best is the
one that the held-out rows themselves prefer, which favors it. `fit` sees the train rows alone, in float32.
DATA has MNIST, Fashion-MNIST and CIFAR-10 as torchvision lays them out (or cifar10.npz).
Writes benchmarks/results/fit.json (--out) and prints the table.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import results
import torch
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from flowprior import fit
from flowprior.metrics.summary import summary

Rows = tuple[np.ndarray, np.ndarray]  # train and held-out
ALLOWED = 0.005  # nats a dimension by which no row may be worse


def pca(train: np.ndarray, test: np.ndarray, size: int) -> Rows:
    fitted = PCA(size, random_state=0).fit(train)
    return fitted.transform(train), fitted.transform(test)


def digits(_: Path) -> Rows:
    x = load_digits().data[np.random.default_rng(0).permutation(1797)]
    return pca(x[:1437], x[1437:], 32)


def images(name: str, size: int) -> Callable[[Path], Rows]:
    def read(root: Path) -> Rows:
        from torchvision import datasets

        sets = [getattr(datasets, name)(str(root), train=train).data for train in (True, False)]
        train, test = (each.flatten(1).numpy() / 255.0 for each in sets)
        return pca(train[:20_000], test[:5_000], size)

    return read


def features(rows: int) -> Callable[[Path], Rows]:
    """Random filters of 6 x 6 pixels on CIFAR-10, rectified and averaged over quarters of the image."""

    def read(root: Path) -> Rows:
        if (root / "cifar10.npz").is_file():
            with np.load(root / "cifar10.npz") as archive:
                x = np.concatenate((archive["train_images"][:rows], archive["test_images"][:2_000]))
            x = x if x.shape[1] == 3 else x.transpose(0, 3, 1, 2)
        else:
            from torchvision.datasets import CIFAR10

            sets = [CIFAR10(str(root), train=train).data for train in (True, False)]
            x = np.concatenate((sets[0][:rows], sets[1][:2_000])).transpose(0, 3, 1, 2)
        filters = torch.randn(128, 3, 6, 6, generator=torch.Generator().manual_seed(0)) / 108**0.5
        maps = [
            torch.nn.functional.conv2d(torch.from_numpy(part).float() / 128 - 1, filters).relu()
            for part in np.array_split(x, -(-len(x) // 500))
        ]
        pooled = torch.cat([torch.nn.functional.adaptive_avg_pool2d(each, 2).flatten(1) for each in maps])
        return pooled[:rows].numpy(), pooled[rows:].numpy()

    return read


def many(_: Path) -> Rows:
    """Twenty clusters in 12 dimensions, bent by a random network into 64, with noise."""
    rng = np.random.default_rng(0)
    centers, label = 2 * rng.normal(size=(20, 12)), rng.integers(20, size=110_000)
    hidden = np.tanh((centers[label] + rng.normal(size=(110_000, 12))) @ rng.normal(size=(12, 64)) / 4)
    x = hidden @ rng.normal(size=(64, 64)) / 8 + 0.1 * rng.normal(size=(110_000, 64))
    return x[:100_000], x[100_000:]


def deficient(_: Path) -> Rows:
    """Three clusters in a plane of 12 dimensions among 32."""
    rng = np.random.default_rng(0)
    inside = 3 * rng.normal(size=(3, 12))[rng.integers(3, size=4_000)] + rng.normal(size=(4_000, 12))
    x = inside @ rng.normal(size=(12, 32))
    return x[:2_000], x[2_000:]


def heavy(_: Path) -> Rows:
    """Student's t with 3 degrees of freedom, correlated, in 16 dimensions."""
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(10_000, 16)) @ rng.normal(size=(16, 16))
    x = normal / np.sqrt(rng.chisquare(3, size=(10_000, 1)) / 3)
    return x[:5_000], x[5_000:]


DATA: dict[str, Callable[[Path], Rows]] = {
    "digits, PCA-32": digits,
    "MNIST, PCA-32": images("MNIST", 32),
    "Fashion-MNIST, PCA-20": images("FashionMNIST", 20),
    **{f"CIFAR-10 features, {rows} x 512": features(rows) for rows in (200, 600, 1_000, 5_000)},
    "100,000 x 64": many,
    "rank 12 of 32": deficient,
    "heavy tails, 16": heavy,
}


def scikit_learn(train: np.ndarray, held: np.ndarray) -> dict[str, dict[str, float]]:
    """Of each of its Gaussians the held-out NLL a dimension, and the seconds."""
    models = {"LedoitWolf": LedoitWolf()}
    for kind in ("full", "diag"):
        for count in (1, 10, 50):
            models[f"GMM {count} {kind}"] = GaussianMixture(count, covariance_type=kind, random_state=0)
    found = {}
    for name, model in models.items():
        began = time.perf_counter()
        try:
            nll = -model.fit(train).score(held) / train.shape[1]
        except ValueError:  # its covariances were not positive definite
            nll = float("inf")
        found[name] = {"nll": nll, "seconds": time.perf_counter() - began}
    return found


def row(name: str, rows: Rows, seconds: float, seed: int) -> dict:
    train, held = (np.ascontiguousarray(each, dtype=np.float32) for each in rows)
    theirs = scikit_learn(train.astype(np.float64), held.astype(np.float64))
    best = min(theirs, key=lambda each: theirs[each]["nll"])
    began = time.perf_counter()
    prior = fit(train, seconds=seconds, seed=seed, device="cpu", progress=False)
    took = time.perf_counter() - began
    with torch.no_grad():
        parts = [prior.log_prob(part).double() for part in torch.from_numpy(held).split(1_000)]
    ours = -torch.cat(parts).mean().item() / train.shape[1]
    print(
        f"{name}: {ours:.4f}, scikit-learn's {best} {theirs[best]['nll']:.4f}\n{prior.fitted}\n", flush=True
    )
    metrics = {
        "fit": ours,
        "best of scikit-learn": theirs[best]["nll"],
        "difference": ours - theirs[best]["nll"],
        "seconds of fit": took,
        "seconds of scikit-learn, all": sum(each["seconds"] for each in theirs.values()),
    }
    return {
        "name": name,
        "rows": [len(train), len(held)],
        "chosen": prior.fitted.notes[-1],
        "candidates": list(map(str, prior.fitted.candidates)),
        "best of scikit-learn": best,
        "scikit-learn": theirs,
        "metrics": {key: summary([value]) for key, value in metrics.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter, prog="python benchmarks/fit.py"
    )
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/fit.json"))
    parser.add_argument("--row", action="append", help="only rows whose name has this; repeatable")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each fit")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn's of convergence, ours of few rows
    rows = [
        row(name, read(options.data_root), options.seconds, options.seed)
        for name, read in DATA.items()
        if not options.row or any(part in name for part in options.row)
    ]
    command = f"python benchmarks/fit.py --data-root DATA --seconds {options.seconds:g} --seed {options.seed}"
    results.write(options.out, rows, command=command, study="fit beside scikit-learn", seed=options.seed)
    print(results.markdown(rows, list(rows[0]["metrics"])))
    worse = [each["name"] for each in rows if each["metrics"]["difference"]["mean"] > ALLOWED]
    print(f"worse by more than {ALLOWED} nats a dimension: {', '.join(worse) or 'none'}; in {options.out}")


if __name__ == "__main__":
    main()
