"""What is measured of z against z0: linear separability and perceptual path length."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path as File

import torch
from torch import Tensor

from flowprior import metrics
from flowprior.data.attributes import read_attributes
from flowprior.evaluation.context import CHUNK, Evaluation, Facts, Result, Values, backbone
from flowprior.latent import lerp, slerp
from flowprior.metrics.features import SQUEEZENET_FILE, SqueezeNetMaps
from flowprior.metrics.path_length import Path
from flowprior.networks.vgg import DEFAULT_FILE, VGGFeatures
from flowprior.priors import InvertiblePrior
from flowprior.registry import metric

SEPARATING = ("unconditional model", "attribute classifier")
SEPARABILITIES = ("separability_z", "separability_z0")
KEPT_DRAWS = 20  # draws of the prior for each of `count`: 200,000, as StyleGAN, for 10,000
KEPT_PAIRS = 10  # paths for each of `count`: 100,000, as StyleGAN, for 10,000
PAIRS = 64  # paths at once through the perceptual network
LPIPS_FILE = "vgg16-397923af.pth"  # torchvision's name for its VGG-16
LPIPS_STAGES = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
DISTANCES = {
    "vgg distance": ("ppl", "diversity_vgg"),
    "lpips distance": ("ppl_lpips", "lpips"),
    "squeezenet distance": ("ppl_squeezenet", "diversity_squeezenet"),
}
"""By backbone: its path length, and the diversity of conditional samples that it measures."""
Space = tuple[Tensor, Callable[[Tensor], Tensor], Path]
Distance = tuple[metrics.PerceptualDistance, Facts]


def vgg_distance(device: torch.device, weights: File | None) -> Distance:
    """Normalized VGG-19 up to relu3_1, every channel with weight 1.

    Raises:
        InputError: if its file is neither in `weights` nor in FLOWPRIOR_WEIGHTS.
    """
    maps = VGGFeatures(DEFAULT_FILE if weights is None else weights / DEFAULT_FILE).to(device)
    return metrics.PerceptualDistance(maps), _facts(DEFAULT_FILE, maps.stages)


@backbone("lpips distance")
def _lpips(evaluation: Evaluation) -> Distance:
    device, folder = evaluation.model.device, evaluation.weights
    maps = VGGFeatures(LPIPS_FILE if folder is None else folder / LPIPS_FILE, LPIPS_STAGES).to(device)
    heads = [weight.to(device) for weight in metrics.lpips_weights("vgg")]
    return metrics.PerceptualDistance(maps, heads), _facts(LPIPS_FILE, maps.stages, "LPIPS 0.1")


@backbone("squeezenet distance")
def _squeezenet(evaluation: Evaluation) -> Distance:
    maps = SqueezeNetMaps(evaluation.weights).to(evaluation.model.device)
    return metrics.PerceptualDistance(maps), _facts(SQUEEZENET_FILE, maps.stages, resize=maps.resize)


def _facts(file: str, stages: tuple[object, ...], weights: str = "1", resize: str = "none") -> Facts:
    return {"features": file, "layers": stages, "layer_weights": weights, "resize": resize}


backbone("vgg distance")(lambda evaluation: vgg_distance(evaluation.model.device, evaluation.weights))


@backbone("attribute classifier")
def _attribute_classifier(evaluation: Evaluation) -> tuple[metrics.FeatureNetwork, Facts]:
    """A small classifier of the training images: of CelebA's attributes, or elsewhere of the classes."""
    train, test = (read_attributes(evaluation.source, train=train) for train in (True, False))
    by_class = evaluation.source.train().label is not None
    targets = () if by_class else (train.values, test.values)
    facts = {"attributes": train.names, "by_class": by_class}
    return evaluation.learned(metrics.attribute_classifier, *targets), facts


@metric("separability", better="lower", unit="exp of nats", needs=SEPARATING, values=SEPARABILITIES)
def _separability(evaluation: Evaluation) -> Result:
    """exp Σ_i H(Y_i | X_i) of attributes decided by hyperplanes in z and in z0, of 20 `count` draws.

    Source: Morrow & Chiu, section 6.1.
    """
    draws = evaluation.draws(KEPT_DRAWS * evaluation.count)
    classifier, facts = evaluation.backbone("attribute classifier")
    images = (evaluation.model.decode(part) for part in draws[0].split(CHUNK))
    log_odds = torch.cat([odds.cpu() for part in images for odds in metrics.extract(part, classifier)])
    values, facts = {}, facts | classifier.facts
    for name, latents in zip(SEPARABILITIES, draws, strict=True):
        if latents is not None:
            result = metrics.separability(latents, log_odds)
            values[name] = result.value
            facts[name.removeprefix("separability_")] = asdict(result)
    return values, facts


def _register_path_length(name: str, kind: str) -> None:
    about = (
        f"Perceptual path length of 10 `count` pairs of draws in z and z0, each on its own path, by {kind}."
    )
    needs, values = ("unconditional model", kind), (f"{name}_z", f"{name}_z0", f"{name}_z0_lerp")

    @metric(name, better="lower", unit="squared speed", needs=needs, values=values, summary=about)
    def path_length(evaluation: Evaluation) -> Result:
        distance, facts = evaluation.backbone(kind)
        values: Values = {}
        for space, (latents, decode, path) in _spaces(evaluation).items():
            measured = partial(metrics.perceptual_path_length, seed=evaluation.seed, batch_size=PAIRS)
            result = measured(decode, distance, path, *latents.chunk(2))
            values[f"{name}_{space}"] = result.value
            facts = facts | {space: asdict(result)}
        return values, facts


def _spaces(evaluation: Evaluation) -> dict[str, Space]:
    """The same draws, what decodes them, and the paths between them: "z" is straight in z, "z0" along the
    sphere, for a base N(0, I), and "z0_lerp" straight in z0, both mapped back.
    """
    model, prior = evaluation.model, evaluation.model.prior
    z, z0 = evaluation.draws(2 * KEPT_PAIRS * evaluation.count)
    spaces: dict[str, Space] = {"z": (z, model.decode, lerp)}
    if z0 is not None and isinstance(prior, InvertiblePrior):

        def decode(points: Tensor) -> Tensor:
            return model.decode(prior.from_base(points)[0])

        if prior.has_normal_base:
            spaces["z0"] = (z0, decode, slerp)
        spaces["z0_lerp"] = (z0, decode, lerp)
    return spaces


for _kind, (_name, _) in DISTANCES.items():
    _register_path_length(_name, _kind)
