"""What is measured of images: reconstruction, and distances of samples by the features of a network."""

from collections.abc import Callable, Iterator
from dataclasses import asdict

import torch
from torch import Tensor

from flowprior import metrics
from flowprior.evaluation.context import Evaluation, Facts, Result, backbone
from flowprior.registry import metric

LABELED = ("images", "labels")
ONE_Q = ("posterior density", "unconditional model")
DISTANCE = "squared distance of features"
FAMILIES = {
    "inception": ("fid", "prd", "is"),
    "squeezenet": ("fd_squeezenet", "prd_squeezenet", None),
    "classifier": ("fd_classifier", "prd_classifier", "is_classifier"),
}
"""By backbone: its Fréchet distance, its precision and recall, and the inception score by its logits."""

backbone("inception")(lambda e: metrics.inception_features(e.weights, download=e.download))
backbone("inception logits")(lambda e: metrics.inception_logits(e.weights, download=e.download))
backbone("squeezenet")(lambda e: metrics.squeezenet_features(e.weights))
backbone("classifier", needs=LABELED)(lambda e: e.learned(metrics.classifier_features))
backbone("classifier logits", needs=LABELED)(lambda e: e.learned(metrics.classifier_logits))


@metric("reconstruction", better="lower", unit="squared error per pixel")
def _reconstruction(evaluation: Evaluation) -> Result:
    """Mean squared error of the reconstructed test examples, images in [0, 1]."""
    model, x = evaluation.model, evaluation.test.x
    error = metrics.reconstruction_error(x, model.reconstruct, evaluation.contexts, device=model.device)
    return {"reconstruction": error.mse}, asdict(error)


def _register_frechet(
    name: str, kind: str, what: str, images: Callable[[Evaluation], Iterator[Tensor]], *needs: str
) -> None:
    about = f"Fréchet distance of {what} from the test images, by {kind} features."

    @metric(name, better="lower", unit=DISTANCE, needs=(*needs, kind), summary=about)
    def distance(evaluation: Evaluation) -> Result:
        network, test = evaluation.backbone(kind), evaluation.test
        real = metrics.cached_statistics(test.x, network, data_fingerprint=test.fingerprint)
        result = metrics.frechet(images(evaluation), real, network)
        facts = {key: value for key, value in asdict(result).items() if key not in ("metric", "value")}
        return {name: result.value}, facts | {"real_set": "test", "preprocessing": test.preprocessing}


def _register_prd(name: str, kind: str) -> None:
    about = f"F8 (recall) and F1/8 (precision) of as many samples as test images, by {kind} features."
    values = recall, precision = f"{name}_f8", f"{name}_f1_8"

    @metric(name, better="higher", unit="share", needs=(kind,), values=values, summary=about)
    def summary(evaluation: Evaluation) -> Result:
        ours, theirs, facts = _features(evaluation, kind)
        result = metrics.prd(ours, theirs, seed=evaluation.seed)
        return {recall: result.f8, precision: result.f1_8}, facts | {"samples": result.samples}


def _register_score(name: str, kind: str) -> None:
    about = f"Inception score of samples: how sure and how varied the {kind} are."

    @metric(name, better="higher", unit="effective classes", needs=(kind,), summary=about)
    def score(evaluation: Evaluation) -> Result:
        network = evaluation.backbone(kind)
        samples = evaluation.samples()
        logits = torch.cat([part.cpu() for chunk in samples for part in metrics.extract(chunk, network)])
        result = metrics.inception_score(logits, seed=evaluation.seed)
        return {name: result.value}, asdict(result) | _identity(network)


for _kind, (_frechet, _prd, _score) in FAMILIES.items():
    _register_frechet(_frechet, _kind, "samples", Evaluation.samples)
    _register_frechet(
        f"lp_{_frechet}", _kind, "low-posterior samples", Evaluation.low_posterior_samples, *ONE_Q
    )
    _floor = "that slice of q(z)'s own draws, the floor of low-posterior samples,"
    _register_frechet(f"lp_{_frechet}_floor", _kind, _floor, Evaluation.low_posterior_floor, *ONE_Q)
    _overrated = "the prior's draws with the least log q - log p"
    _register_frechet(
        f"lp_ratio_{_frechet}", _kind, _overrated, Evaluation.low_ratio_samples, "prior density", *ONE_Q
    )
    _best = "decoded draws of the aggregate posterior, the best that any prior can do,"
    _register_frechet(f"{_frechet}_aggregate", _kind, _best, Evaluation.aggregate_samples, *ONE_Q)
    _copies = ("reconstructed test images", Evaluation.reconstructions)
    _register_frechet(f"{_frechet}_reconstruction", _kind, *_copies)
    _register_prd(_prd, _kind)
    if _score is not None:
        _register_score(_score, f"{_kind} logits")


@metric("kid", better="lower", unit=DISTANCE, needs=("inception",))
def _kid(evaluation: Evaluation) -> Result:
    """Kernel distance of as many samples as test images, by inception features."""
    ours, theirs, facts = _features(evaluation, "inception")
    result = metrics.kernel_distance(ours, theirs, subset_size=min(1000, len(theirs)), seed=evaluation.seed)
    return {"kid": result.mean}, facts | {"standard_deviation": result.std, "samples": result.samples}


def _features(evaluation: Evaluation, kind: str) -> tuple[Tensor, Tensor, Facts]:
    """Features of samples and of test images, equally many, and what they depend on."""
    network, test = evaluation.backbone(kind), evaluation.test
    samples = evaluation.samples(min(evaluation.count, len(test)))
    ours = torch.cat([part for chunk in samples for part in metrics.extract(chunk, network)]).cpu()
    theirs = torch.cat(list(metrics.extract(test.x[: len(ours)], network))).cpu()
    facts = {"real_set": "test", "real": len(ours), "facts": dict(network.facts)}
    return ours, theirs, _identity(network) | facts


def _identity(network: metrics.FeatureNetwork) -> Facts:
    return {"resize": network.resize, "checksum": network.checksum}
