"""What is measured of z against z0: linear separability and perceptual path length."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path as File

import torch
from torch import Tensor

from flowprior.data.attributes import read_attributes
from flowprior.data.images import Source
from flowprior.errors import InputError
from flowprior.evaluation.context import CHUNK, finite
from flowprior.evaluation.overlap import Facts, Values
from flowprior.latent import lerp, slerp
from flowprior.metrics.path_length import Path, perceptual_path_length
from flowprior.metrics.perceptual import PerceptualDistance, lpips_weights
from flowprior.models import Autoencoder
from flowprior.priors import InvertiblePrior

KEPT_DRAWS = 20  # draws of the prior for each of `count`: 200,000, as StyleGAN, for 10,000
PAIRS = 64  # paths at once through the perceptual network
LPIPS_FILE = "vgg16-397923af.pth"  # torchvision's name for its VGG-16
LPIPS_STAGES = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")


def separability(model: Autoencoder, source: Source, count: int, seed: int) -> tuple[Values, Facts]:
    """exp Σ_i H(Y_i | X_i) in z and in z0 (Morrow & Chiu, section 6.1), of `KEPT_DRAWS` times `count` draws.

    The attributes are CelebA's, or elsewhere the classes; a small classifier of the training images decides.

    Raises:
        InputError: if the model is conditional, or the data has no attributes.
    """
    from flowprior.metrics import separability as score
    from flowprior.metrics.classifier import attribute_classifier
    from flowprior.metrics.features import extract

    z, z0 = draws(model, KEPT_DRAWS * count, seed, "separability")
    train, test = source.train(), source.test()
    attributes = read_attributes(source, train=True)
    by_class = train.label is not None
    classifier = attribute_classifier(
        train.x,
        train.label if train.label is not None else attributes.values,
        test.x,
        test.label if train.label is not None else read_attributes(source, train=False).values,
        data_fingerprint=f"{train.fingerprint} {test.fingerprint}",
        device=model.device,
    )
    log_odds = torch.cat(
        [odds.cpu() for part in z.split(CHUNK) for odds in extract(model.decode(part), classifier)]
    )
    values, facts = {}, {"attributes": attributes.names, "by_class": by_class} | classifier.facts
    for space, latents in (("z", z), ("z0", z0)):
        if latents is not None:
            found = score(latents, log_odds)
            values[f"separability_{space}"] = found.value
            facts[space] = asdict(found)
    return values, facts


def path_length(
    name: str, model: Autoencoder, count: int, seed: int, weights: File | None
) -> tuple[Values, Facts]:
    """Perceptual path length of `count` pairs of draws, by the distance of metric `name`.

    `_z` is along straight lines in z; `_z0` along the sphere, for a base N(0, I), and `_z0_lerp` along
    straight lines in z0, both mapped back. The pairs are the same. z has no sphere to follow.

    Raises:
        InputError: if the model is conditional, or weights are missing.
    """
    z, z0 = draws(model, 2 * count, seed, name)
    distance, facts = DISTANCES[name](model.device, weights)
    prior = model.prior
    spaces: dict[str, tuple[Tensor, Callable[[Tensor], Tensor], Path]] = {"z": (z, model.decode, lerp)}
    if z0 is not None and isinstance(prior, InvertiblePrior):

        def decode(points: Tensor) -> Tensor:
            return model.decode(prior.from_base(points)[0])

        if prior.has_normal_base:
            spaces["z0"] = (z0, decode, slerp)
        spaces["z0_lerp"] = (z0, decode, lerp)
    values = {}
    for space, (latents, decoder, path) in spaces.items():
        start, end = latents.chunk(2)
        found = perceptual_path_length(decoder, distance, path, start, end, seed=seed, batch_size=PAIRS)
        values[f"{name}_{space}"] = found.value
        facts[space] = asdict(found)
    return values, facts


def draws(model: Autoencoder, count: int, seed: int, name: str) -> tuple[Tensor, Tensor | None]:
    """`count` draws z of the prior and, where it is invertible, their z0; those that are not finite are left
    out with a warning.

    Raises:
        InputError: if the model is conditional, `name` says what for, or too many draws are not finite.
    """
    prior = model.prior
    if model.conditional:
        raise InputError(f"'{name}' is of one prior's spaces, but this model is conditional: leave it out.")
    torch.manual_seed(seed)
    z = torch.cat([part for (part,) in finite(((z,) for z in prior.sample(count).split(CHUNK)), "draws")])
    z = z[: len(z) // 2 * 2]  # pairs of them are wanted
    if not isinstance(prior, InvertiblePrior):
        return z, None
    return z, torch.cat([prior.to_base(part)[0] for part in z.split(CHUNK)])


def vgg_distance(device: torch.device, weights: File | None) -> tuple[PerceptualDistance, Facts]:
    """Normalised VGG-19 up to relu3_1, every channel with weight 1.

    Raises:
        InputError: if its file is neither in `weights` nor in FLOWPRIOR_WEIGHTS.
    """
    from flowprior.networks.vgg import DEFAULT_FILE, VGGFeatures

    maps = VGGFeatures(DEFAULT_FILE if weights is None else weights / DEFAULT_FILE).to(device)
    return PerceptualDistance(maps), _facts(DEFAULT_FILE, maps.stages, "1", "none")


def _lpips(device: torch.device, weights: File | None) -> tuple[PerceptualDistance, Facts]:
    from flowprior.networks.vgg import VGGFeatures

    maps = VGGFeatures(LPIPS_FILE if weights is None else weights / LPIPS_FILE, LPIPS_STAGES).to(device)
    heads = [weight.to(device) for weight in lpips_weights("vgg")]
    return PerceptualDistance(maps, heads), _facts(LPIPS_FILE, maps.stages, "LPIPS 0.1", "none")


def _squeezenet(device: torch.device, weights: File | None) -> tuple[PerceptualDistance, Facts]:
    from flowprior.metrics.features import SQUEEZENET_FILE, SqueezeNetMaps

    maps = SqueezeNetMaps(weights).to(device)
    return PerceptualDistance(maps), _facts(SQUEEZENET_FILE, maps.stages, "1", maps.resize)


def _facts(file: str, stages: tuple[object, ...], layer_weights: str, resize: str) -> Facts:
    return {"features": file, "layers": stages, "layer_weights": layer_weights, "resize": resize}


DISTANCES: dict[str, Callable[[torch.device, File | None], tuple[PerceptualDistance, Facts]]] = {
    "ppl": vgg_distance,
    "ppl_lpips": _lpips,
    "ppl_squeezenet": _squeezenet,
}
