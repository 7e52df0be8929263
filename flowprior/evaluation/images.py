"""What is measured of images: reconstruction, and distances of samples by the features of a network."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from flowprior import metrics
from flowprior.evaluation.context import CHUNK, Evaluation, Facts, Result, backbone
from flowprior.registry import metric

LABELED = ("images", "labels")
ONE_Q = ("posterior density", "unconditional model")
DISTANCE = "squared distance of features"
FRECHET = {
    "inception": "fid",
    "squeezenet": "fd_squeezenet",
    "efficientnet": "fd_efficientnet",
    "dinov2": "fd_dinov2",
    "clip": "fd_clip",
    "classifier": "fd_classifier",
}
"""The Fréchet distance of each backbone; other metrics end in its name, which Inception's leave out."""
SCORED = ("inception", "classifier")  # those with logits, for the inception score
RESAMPLES = 20  # bootstrap samples, for the standard error of a Fréchet distance
NEAREST_ROWS = 10_000  # training examples that the nearest is looked for among

backbone("inception")(lambda e: metrics.inception_features(e.weights, download=e.download))
backbone("inception logits")(lambda e: metrics.inception_logits(e.weights, download=e.download))
backbone("squeezenet")(lambda e: metrics.squeezenet_features(e.weights))
backbone("efficientnet")(lambda e: metrics.efficientnet_features())
backbone("dinov2")(lambda e: metrics.dinov2_features(_within(e, "dinov2")))
backbone("clip")(lambda e: metrics.clip_features(_within(e, "clip")))
backbone("classifier", needs=LABELED)(lambda e: e.learned(metrics.classifier_features))
backbone("classifier logits", needs=LABELED)(lambda e: e.learned(metrics.classifier_logits))


@metric("reconstruction", better="lower", unit="squared error per pixel")
def _reconstruction(evaluation: Evaluation) -> Result:
    """Mean squared error of the reconstructed test examples, images in [0, 1]."""
    model, x = evaluation.model, evaluation.test.x
    error = metrics.reconstruction_error(x, model.reconstruct, evaluation.contexts, device=model.device)
    return {"reconstruction": error.mse}, asdict(error)


def _within(evaluation: Evaluation, name: str) -> Path | None:
    return None if evaluation.weights is None else evaluation.weights / name


def _register_frechet(
    name: str, kind: str, what: str, images: Callable[[Evaluation], Iterator[Tensor]] | None, *needs: str
) -> None:
    about = f"Fréchet distance of {what} from the test images, by {kind} features."

    @metric(name, better="lower", unit=DISTANCE, needs=(*needs, kind), summary=about)
    def distance(evaluation: Evaluation) -> Result:
        network, test = evaluation.backbone(kind), evaluation.test
        real = metrics.cached_statistics(test.x, network, data_fingerprint=test.fingerprint)
        if images is None:
            features = _sample_features(evaluation, kind)
        else:
            features = torch.cat(list(_extracted(images(evaluation), network)))
        ours = metrics.statistics(features)
        spread = metrics.frechet_error(features, real, resamples=RESAMPLES, seed=evaluation.seed)
        facts: Facts = {"samples": ours.count, "real": real.count, "standard_error": spread}
        facts |= _identity(network) | {"facts": dict(network.facts)}
        facts |= {"real_set": "test", "preprocessing": test.preprocessing}
        return {name: metrics.frechet_distance(ours, real)}, facts


def _register_prd(name: str, kind: str) -> None:
    about = f"F8 (recall) and F1/8 (precision) of as many samples as test images, by {kind} features."
    values = recall, precision = f"{name}_f8", f"{name}_f1_8"

    @metric(name, better="higher", unit="share", needs=(kind,), values=values, summary=about)
    def summary(evaluation: Evaluation) -> Result:
        ours, theirs, facts = _features(evaluation, kind)
        result = metrics.prd(ours, theirs, seed=evaluation.seed)
        return {recall: result.f8, precision: result.f1_8}, facts | {"samples": result.samples}


def _register_manifolds(name: str, kind: str) -> None:
    about = f"Precision, recall, density, coverage of as many samples as test images, by {kind} features."
    values = tuple(f"{name}_{each}" for each in ("precision", "recall", "density", "coverage"))

    @metric(name, better="higher", unit="share", needs=(kind,), values=values, summary=about)
    def shares(evaluation: Evaluation) -> Result:
        ours, theirs, facts = _features(evaluation, kind)
        result = metrics.manifolds(ours, theirs)
        measured = (result.precision, result.recall, result.density, result.coverage)
        facts |= {"samples": result.samples, "neighbors": result.neighbors}
        return dict(zip(values, measured, strict=True)), facts


def _register_kernel_distance(name: str, kind: str) -> None:
    about = f"Kernel distance of as many samples as test images, by {kind} features."

    @metric(name, better="lower", unit=DISTANCE, needs=(kind,), summary=about)
    def distance(evaluation: Evaluation) -> Result:
        ours, theirs, facts = _features(evaluation, kind)
        size = min(1000, len(theirs))
        result = metrics.kernel_distance(ours, theirs, subset_size=size, seed=evaluation.seed)
        return {name: result.mean}, facts | {"standard_deviation": result.std, "samples": result.samples}


def _register_copies(name: str, kind: str) -> None:
    about = f"Median distance to the nearest training image: samples' over test images', by {kind} features."

    @metric(name, better="higher", unit="ratio", needs=(kind,), summary=about)
    def ratio(evaluation: Evaluation) -> Result:
        ours, theirs, facts = _features(evaluation, kind)
        train = evaluation.source.train().x[:NEAREST_ROWS]
        known = torch.cat(list(_extracted(train.split(CHUNK), evaluation.backbone(kind))))
        return {name: metrics.nearest_ratio(ours, known, theirs)}, facts | {"train": len(known)}


def _register_score(name: str, kind: str) -> None:
    about = f"Inception score of samples: how sure and how varied the {kind} are."

    @metric(name, better="higher", unit="effective classes", needs=(kind,), summary=about)
    def score(evaluation: Evaluation) -> Result:
        network = evaluation.backbone(kind)
        logits = torch.cat(list(_extracted(evaluation.samples(), network)))
        result = metrics.inception_score(logits, seed=evaluation.seed)
        return {name: result.value}, asdict(result) | _identity(network)


def _training_images(evaluation: Evaluation) -> Iterator[Tensor]:
    """As many training images as samples: the floor of a distance."""
    yield from evaluation.source.train().x[: evaluation.count].split(CHUNK)


def _register_family(kind: str, frechet: str) -> None:
    """All that one extraction of features gives."""
    end = "" if kind == "inception" else f"_{kind}"
    _register_frechet(frechet, kind, "samples", None)
    _register_frechet(
        f"lp_{frechet}", kind, "low-posterior samples", Evaluation.low_posterior_samples, *ONE_Q
    )
    floor = "that slice of q(z)'s own draws, the floor of low-posterior samples,"
    _register_frechet(f"lp_{frechet}_floor", kind, floor, Evaluation.low_posterior_floor, *ONE_Q)
    overrated = ("the prior's draws with the least log q - log p", Evaluation.low_ratio_samples)
    _register_frechet(f"lp_ratio_{frechet}", kind, *overrated, "prior density", *ONE_Q)
    best = "decoded draws of the aggregate posterior, the best that any prior can do,"
    _register_frechet(f"{frechet}_aggregate", kind, best, Evaluation.aggregate_samples, *ONE_Q)
    copies = ("reconstructed test images", Evaluation.reconstructions)
    _register_frechet(f"{frechet}_reconstruction", kind, *copies)
    _register_frechet(f"{frechet}_floor", kind, "training images", _training_images)
    _register_prd(f"prd{end}", kind)
    _register_manifolds(f"prdc{end}", kind)
    _register_kernel_distance(f"kid{end}", kind)
    _register_copies(f"copies{end}", kind)
    if kind in SCORED:
        _register_score(f"is{end}", f"{kind} logits")


for _kind, _frechet in FRECHET.items():
    _register_family(_kind, _frechet)


def _features(evaluation: Evaluation, kind: str) -> tuple[Tensor, Tensor, Facts]:
    """Features of samples and of test images, equally many, and what they depend on."""
    network, test = evaluation.backbone(kind), evaluation.test
    ours = _sample_features(evaluation, kind)[: len(test)]
    theirs = metrics.cached_features(test.x[: len(ours)], network, data_fingerprint=test.fingerprint)
    facts = {"real_set": "test", "real": len(theirs), "facts": dict(network.facts)}
    return ours, theirs, _identity(network) | facts


def _sample_features(evaluation: Evaluation, kind: str) -> Tensor:
    """Features of all samples (N, F), extracted once for all metrics."""

    def extract() -> Tensor:
        return torch.cat(list(_extracted(evaluation.samples(), evaluation.backbone(kind))))

    return evaluation.once(f"sample features by {kind}", extract)


def _extracted(chunks: Iterable[Tensor], network: metrics.FeatureNetwork) -> Iterator[Tensor]:
    for chunk in chunks:
        yield from (part.cpu() for part in metrics.extract(chunk, network))


def _identity(network: metrics.FeatureNetwork) -> Facts:
    return {"resize": network.resize, "checksum": network.checksum}
