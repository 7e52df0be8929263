"""What is measured of images: reconstruction, and the distances of samples by features of a network."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import NamedTuple

import torch
from torch import Tensor

from flowprior.evaluation.context import Evaluation, Facts, Values, backbone
from flowprior.metrics import (
    FeatureNetwork,
    cached_statistics,
    extract,
    frechet,
    inception_score,
    kernel_distance,
    reconstruction_error,
)
from flowprior.metrics import prd as precision_recall
from flowprior.registry import metric


class Family(NamedTuple):
    """The metrics on one backbone's features."""

    frechet: str
    prd: str
    score: str | None = None  # on its logits


FAMILIES = {
    "inception": Family("fid", "prd", "is"),
    "squeezenet": Family("fd_squeezenet", "prd_squeezenet"),
    "classifier": Family("fd_classifier", "prd_classifier", "is_classifier"),
}


@backbone("inception")
def _inception(evaluation: Evaluation) -> FeatureNetwork:
    from flowprior.metrics import inception_features

    return inception_features(evaluation.weights, download=evaluation.download).to(evaluation.device)


@backbone("inception logits")
def _inception_logits(evaluation: Evaluation) -> FeatureNetwork:
    from flowprior.metrics import inception_logits

    return inception_logits(evaluation.weights, download=evaluation.download).to(evaluation.device)


@backbone("squeezenet")
def _squeezenet(evaluation: Evaluation) -> FeatureNetwork:
    from flowprior.metrics import squeezenet_features

    return squeezenet_features(evaluation.weights).to(evaluation.device)


@backbone("classifier", needs=("images", "labels"))
def _classifier(evaluation: Evaluation) -> FeatureNetwork:
    from flowprior.metrics import classifier_features

    return evaluation.learned(classifier_features, evaluation.train.label, evaluation.test.label)


@backbone("classifier logits", needs=("images", "labels"))
def _classifier_logits(evaluation: Evaluation) -> FeatureNetwork:
    from flowprior.metrics import classifier_logits

    return evaluation.learned(classifier_logits, evaluation.train.label, evaluation.test.label)


@metric("reconstruction", better="lower", unit="squared error per pixel")
def _reconstruction(evaluation: Evaluation) -> tuple[Values, Facts]:
    """Mean squared error of the reconstructed test examples, images in [0, 1]."""
    test, model = evaluation.test, evaluation.model
    error = reconstruction_error(test.x, model.reconstruct, evaluation.contexts, device=evaluation.device)
    return {"reconstruction": error.mse}, asdict(error)


def _register_frechet(
    name: str, kind: str, what: str, images: Callable[[Evaluation], Iterator[Tensor]], *needs: str
) -> None:
    @metric(
        name,
        better="lower",
        unit="squared distance of features",
        needs=(*needs, kind),
        summary=f"Fréchet distance of {what} from the test images, by {kind} features.",
    )
    def distance(evaluation: Evaluation) -> tuple[Values, Facts]:
        network, test = evaluation.backbone(kind), evaluation.test
        real = cached_statistics(test.x, network, data_fingerprint=test.fingerprint)
        result = frechet(images(evaluation), real, network)
        facts = {key: value for key, value in asdict(result).items() if key not in ("metric", "value")}
        return {name: result.value}, facts | {"real_set": "test", "preprocessing": test.preprocessing}


def _register_prd(name: str, kind: str) -> None:
    @metric(
        name,
        better="higher",
        unit="share",
        needs=(kind,),
        values=(f"{name}_f8", f"{name}_f1_8"),
        summary=f"F8 (recall) and F1/8 (precision) of as many samples as test images, by {kind} features.",
    )
    def summary(evaluation: Evaluation) -> tuple[Values, Facts]:
        ours, theirs, facts = _features(evaluation, kind)
        result = precision_recall(ours, theirs, seed=evaluation.seed)
        values = {f"{name}_f8": result.f8, f"{name}_f1_8": result.f1_8}
        return values, facts | {"samples": result.samples}


def _register_score(name: str, kind: str) -> None:
    @metric(
        name,
        better="higher",
        unit="effective classes",
        needs=(kind,),
        summary=f"Inception score of samples: how sure and how varied the {kind} are.",
    )
    def score(evaluation: Evaluation) -> tuple[Values, Facts]:
        network = evaluation.backbone(kind)
        samples = evaluation.samples()
        logits = torch.cat([part.cpu() for chunk in samples for part in extract(chunk, network)])
        result = inception_score(logits, seed=evaluation.seed)
        facts = {"checksum": network.checksum, "resize": network.resize}
        return {name: result.value}, asdict(result) | facts


for _kind, _names in FAMILIES.items():
    _register_frechet(_names.frechet, _kind, "samples", Evaluation.samples)
    _register_frechet(
        f"lp_{_names.frechet}",
        _kind,
        "low-posterior samples",
        Evaluation.low_posterior_samples,
        "posterior density",
        "unconditional model",
    )
    _register_frechet(
        f"{_names.frechet}_reconstruction", _kind, "reconstructed test images", Evaluation.reconstructions
    )
    _register_prd(_names.prd, _kind)
    if _names.score is not None:
        _register_score(_names.score, f"{_kind} logits")


@metric("kid", better="lower", unit="squared distance of features", needs=("inception",))
def _kid(evaluation: Evaluation) -> tuple[Values, Facts]:
    """Kernel distance of as many samples as test images, by inception features."""
    ours, theirs, facts = _features(evaluation, "inception")
    result = kernel_distance(ours, theirs, subset_size=min(1000, len(theirs)), seed=evaluation.seed)
    return {"kid": result.mean}, facts | {"standard_deviation": result.std, "samples": result.samples}


def _features(evaluation: Evaluation, kind: str) -> tuple[Tensor, Tensor, Facts]:
    """Features of samples and of test images, equally many, and what they depend on."""
    network, test = evaluation.backbone(kind), evaluation.test
    samples = evaluation.samples(min(evaluation.count, len(test)))
    ours = torch.cat([part for chunk in samples for part in extract(chunk, network)]).cpu()
    theirs = torch.cat(list(extract(test.x[: len(ours)], network))).cpu()
    facts = {"resize": network.resize, "checksum": network.checksum, "real_set": "test", "real": len(ours)}
    return ours, theirs, facts | {"facts": dict(network.facts)}
