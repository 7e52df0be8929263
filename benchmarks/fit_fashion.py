"""How good `fit` is on real codes: its defaults, what each of them is worth, and scikit-learn's mixtures.

    python benchmarks/fit_fashion.py --run RUN --data-root DATA

RUN is a run of glf/refit (or of any deterministic autoencoder) on Fashion-MNIST, such as the comparison's
runs/compare/glf/fashion_mnist-cpu/glf_refit/seed0. All priors are fitted to the codes of the 60,000 training
images. The NLL is that of the codes of the 10,000 test images, in nats; the distance is `fd_classifier` of
10,000 decoded samples to the test images, mean over ten sets of samples, divided by that of the reconstructed
test images.
Writes benchmarks/results/fit_fashion.json (--out) and prints the table.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import results
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from flowprior import FlowPrior, MixturePrior, Prior, fit
from flowprior.experiments.config import load
from flowprior.experiments.runs import config_of
from flowprior.experiments.unchanged import restore
from flowprior.metrics.classifier import classifier_features
from flowprior.metrics.frechet import FeatureStatistics, frechet_distance, statistics
from flowprior.metrics.summary import summary
from flowprior.models import Autoencoder
from flowprior.tensors import as_input

SAMPLE_SETS, SAMPLES = 10, 10_000
D = 20


def mixture(components: int = 128, covariance: str = "full") -> MixturePrior:
    return MixturePrior(D, components=components, covariance=covariance)


# name: the prior, and what is changed in `fit`
PRIORS: dict[str, tuple[Callable[[], Prior], dict]] = {
    "defaults: base='mixture'": (lambda: FlowPrior(D, base="mixture"), {}),
    "base='normal'": (lambda: FlowPrior(D), {}),
    "base='normal', 12 x 128": (lambda: FlowPrior(D, transforms=12, hidden_features=(128, 128)), {}),
    "base of 64 diagonal components": (lambda: FlowPrior(D, base=mixture(64, "diagonal")), {}),
    "base of 400 diagonal components": (lambda: FlowPrior(D, base=mixture(400, "diagonal")), {}),
    "base of 50 full components": (lambda: FlowPrior(D, base=mixture(50)), {}),
    "12 couplings x 128": (
        lambda: FlowPrior(D, base="mixture", transforms=12, hidden_features=(128, 128)),
        {},
    ),
    "4 couplings x 64": (lambda: FlowPrior(D, base="mixture", transforms=4), {}),
    "no couplings, the base alone": (lambda: mixture(), {}),
    "scaled, not whitened": (lambda: FlowPrior(D, base="mixture"), {"standardize": "diagonal"}),
    "as it is, not whitened": (lambda: FlowPrior(D, base="mixture"), {"standardize": None}),
    "constant learning rate": (lambda: FlowPrior(D, base="mixture"), {"schedule": "constant", "lr": 1e-3}),
    "no average of the weights": (lambda: FlowPrior(D, base="mixture"), {"ema": None}),
    "half the epochs": (lambda: FlowPrior(D, base="mixture"), {"epochs": 10}),
}
MIXTURES = (10, 50)  # components of scikit-learn's GaussianMixture, full covariances


class Scores:
    """Test codes and decoded samples of one autoencoder."""

    def __init__(self, model: Autoencoder, source) -> None:
        train, test = source.train(), source.test()
        self.model = model
        self.codes = model.codes(as_input(chunk) for chunk in train.x.split(500))
        self.test_codes = model.codes(as_input(chunk) for chunk in test.x.split(500))
        fingerprint = f"{train.fingerprint} {test.fingerprint}"
        self.network = classifier_features(
            train.x, train.label, test.x, test.label, data_fingerprint=fingerprint
        )
        self.real = statistics(test.x, self.network)
        self.reconstruction = frechet_distance(self._decoded(self.test_codes), self.real)

    def _decoded(self, z: Tensor) -> FeatureStatistics:
        return statistics((self.model.decode(chunk) for chunk in z.split(500)), self.network)

    @torch.no_grad()
    def row(self, name: str, seconds: float, nll: float, draw: Callable[[int], Tensor]) -> dict:
        distances = []
        for seed in range(SAMPLE_SETS):
            distances.append(frechet_distance(self._decoded(draw(seed)), self.real))
        ratios = [distance / self.reconstruction for distance in distances]
        metrics = {
            "test NLL": summary([nll]),
            "fd_classifier": summary(distances),
            "fd_classifier / reconstruction": summary(ratios),
            "seconds": summary([seconds]),
        }
        print(
            results.markdown([{"name": name, "metrics": metrics}], list(metrics)).splitlines()[-1], flush=True
        )
        return {"name": name, "metrics": metrics}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/fit_fashion.json"))
    parser.add_argument("--prior", action="append", help="only rows whose name has this; repeatable")
    options = parser.parse_args()

    experiment = load([str(config_of(options.run))], [f"Source.root = {str(options.data_root)!r}"]).experiment
    restore(experiment.model, options.run, "cpu")
    scores = Scores(experiment.model, experiment.source)
    rows = []
    for components in MIXTURES:
        began = time.perf_counter()
        fitted = GaussianMixture(components, random_state=0).fit(scores.codes.numpy())
        seconds = time.perf_counter() - began
        nll = -fitted.score(scores.test_codes.numpy())

        def draw(seed: int, fitted: GaussianMixture = fitted) -> Tensor:
            fitted.random_state = seed
            return torch.from_numpy(fitted.sample(SAMPLES)[0]).float()

        rows.append(scores.row(f"scikit-learn mixture, {components} components", seconds, nll, draw))
    for name, (make, changes) in PRIORS.items():
        if options.prior and not any(part in name for part in options.prior):
            continue
        torch.manual_seed(0)
        prior = make()
        result = fit(prior, scores.codes, device="cpu", progress=False, **changes)
        with torch.no_grad():
            nll = -prior.log_prob(scores.test_codes).double().mean().item()

        def draw(seed: int, prior: Prior = prior) -> Tensor:
            torch.manual_seed(seed)
            return prior.sample(SAMPLES)

        rows.append(scores.row(name, result.seconds, nll, draw))
    facts = {"codes": list(scores.codes.shape), "fd_classifier of the reconstructions": scores.reconstruction}
    command = "python benchmarks/fit_fashion.py --run RUN --data-root DATA"
    results.write(options.out, rows, command=command, study="fit on codes of Fashion-MNIST", **facts)
    print(results.markdown(rows, list(rows[0]["metrics"])))
    print(f"in {options.out}")


if __name__ == "__main__":
    main()
