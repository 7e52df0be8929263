"""What is measured of a conditional model: fidelity to the condition, diversity under it, use of it."""

from collections.abc import Callable
from dataclasses import asdict
from itertools import tee

import torch
from torch import Tensor

from flowprior.data.garments import edges, silhouette
from flowprior.data.images import Source
from flowprior.data.stick_figures import FACTORS, recover_factors, true_factors
from flowprior.errors import InputError
from flowprior.evaluation.context import CHUNK, Evaluation
from flowprior.evaluation.overlap import Facts, Values
from flowprior.evaluation.spaces import DISTANCES
from flowprior.metrics import edge_agreement, silhouette_iou
from flowprior.metrics.features import extract
from flowprior.metrics.pose import joint_distances
from flowprior.models import Autoencoder
from flowprior.tensors import as_input

EACH = 10  # samples at each condition, for the spread of factors
DIVERSITIES = {"lpips": "ppl_lpips", "diversity_vgg": "ppl", "diversity_squeezenet": "ppl_squeezenet"}
"""The metrics of diversity, and the path lengths that use the same distance."""


def check(name: str, model: Autoencoder) -> None:
    """Refuse models that have no condition.

    Raises:
        InputError: as said.
    """
    if not model.conditional:
        raise InputError(f"'{name}' is of conditional models, and this one has no context: leave it out.")


def check_source(name: str, source: Source) -> None:
    """Refuse data for which metric `name` has no meaning.

    Raises:
        InputError: as said.
    """
    known = SOURCES.get(name)
    if known is not None and source.name not in known:
        raise InputError(
            f"'{name}' is of {' or '.join(known)}, where the condition can be read back from an image, "
            f"and not of {source.name!r}: leave it out."
        )


def latents(job: Evaluation) -> tuple[Tensor, Tensor | None]:
    """A draw z of q for each test example, and what the prior sees of its context."""
    z, seen = [], []
    for x, context in job.examples():
        z.append(job.model.encode(x, context).sample())
        seen.append(job.model.prior_context(job.model.condition(context)))
    return torch.cat(z), None if seen[0] is None else torch.cat([part for part in seen if part is not None])


def diversity(name: str, job: Evaluation) -> tuple[Values, Facts]:
    """E d(x, x') of two samples at the same condition, `count` pairs on the test contexts in turn."""
    from flowprior.metrics import pair_diversity

    distance, facts = DISTANCES[DIVERSITIES[name]](job.model.device, job.weights)
    first, second = tee(images for _, images in job.at_conditions(job.count, 2))
    found = pair_diversity((pair[:, 0] for pair in first), (pair[:, 1] for pair in second), distance)
    return {name: found.value}, facts | asdict(found)


def condition_error(job: Evaluation) -> tuple[Values, Facts]:
    """How far the condition that is read back from an image lies from the given one; the less, the better.

    "condition_error" is of samples, one at each of `count` contexts; "real" in the facts of the test images
    themselves, which stick figures' joints, found by a network, do not hold to the pixel.
    """
    unit, errors = CONDITIONS[job.source.name]
    found = [errors(job, images[:, 0].cpu(), rows) for rows, images in job.at_conditions(job.count, 1)]
    real = [errors(job, as_input(job.test.x[rows]), rows) for rows in _every(job)]
    facts = {"unit": unit, "samples": sum(map(len, found)), "real": _mean(real)}
    return {"condition_error": _mean(found)}, facts


def condition_error_reconstruction(job: Evaluation) -> tuple[Values, Facts]:
    """`condition_error` of the reconstructed test images, each at its own condition: what the networks lose
    before the prior does."""
    unit, errors = CONDITIONS[job.source.name]
    pairs = zip(job.reconstructions(), _every(job), strict=True)
    found = [errors(job, images.cpu(), rows) for images, rows in pairs]
    return {"condition_error_reconstruction": _mean(found)}, {"unit": unit}


def factors(job: Evaluation) -> tuple[Values, Facts]:
    """The appearance of sampled stick figures against the true law, which does not depend on the pose.

    "factors": mean 1-Wasserstein distance of the factors, in standard deviations; "factors_energy": of all
    together; "factors_spread": spread at one pose over that of the true law.
    """
    from flowprior.metrics import conditional_spread, factor_distance

    poses = max(2, job.count // EACH)
    joints = job.test.known["joints"]
    read = []
    for rows, images in job.at_conditions(poses, EACH):
        images = images.transpose(0, 1).flatten(0, 1).cpu()  # (EACH n, C, H, W)
        at = joints[rows].repeat(EACH, 1, 1)
        read.append(recover_factors(images, at).unflatten(0, (EACH, len(rows))))
    found = torch.cat(read, 1)  # (EACH, poses, F)
    real = true_factors(found[..., 0].numel(), job.seed)
    far, spread = factor_distance(found.flatten(0, 1), real), conditional_spread(found, real)
    floor = factor_distance(true_factors(len(real), job.seed + 1), real)
    values = {"factors": far.value, "factors_energy": far.energy, "factors_spread": spread.value}
    facts = {"names": tuple(FACTORS), "distance": asdict(far), "spread": asdict(spread)}
    return values, facts | {"two_true_draws": asdict(floor)}


def context_gain(job: Evaluation) -> tuple[Values, Facts]:
    """E log p(z|y) - E log p(z|y'), y' the context of another example, in nats; 0 if the prior ignores it."""
    from flowprior.metrics.likelihood import latent_nll

    z, context = latents(job)
    if context is None:
        return {"context_gain": 0.0}, {"notes": ["the prior has no context"]}
    log_prob, place = job.model.prior.log_prob, job.model.device
    own = latent_nll(log_prob, z, context, device=place)
    other = latent_nll(log_prob, z, context.roll(1, 0), device=place)
    return {"context_gain": other.mean - own.mean}, {
        "unit": "nats",
        "own": asdict(own),
        "other": asdict(other),
    }


def _every(job: Evaluation) -> tuple[Tensor, ...]:
    """All test examples, in chunks."""
    return torch.arange(len(job.test)).split(CHUNK)


def _mean(parts: list[Tensor]) -> float:
    return torch.cat(parts).double().mean().item()


def _silhouettes(job: Evaluation, images: Tensor, rows: Tensor) -> Tensor:
    return 1 - silhouette_iou(silhouette(images), _given(job, rows))


def _edges(job: Evaluation, images: Tensor, rows: Tensor) -> Tensor:
    return 1 - edge_agreement(edges(images), _given(job, rows)).f_score


def _joints(job: Evaluation, images: Tensor, rows: Tensor) -> Tensor:
    found = torch.cat(list(extract(images.to(job.model.device), job.network("pose"))))
    given = job.test.known["joints"][rows]
    return joint_distances(found.view(given.shape), given).mean(1)


def _given(job: Evaluation, rows: Tensor) -> Tensor:
    return job.test.tensors()["context"][rows]


CONDITIONS: dict[str, tuple[str, Callable[[Evaluation, Tensor, Tensor], Tensor]]] = {
    "fashion_silhouettes": ("1 - intersection over union", _silhouettes),
    "fashion_edges": ("1 - F-score within a pixel", _edges),
    "stick_figures": ("pixels from joint to joint", _joints),
}
"""Data whose condition can be read back from images: the unit, and the errors (N,) of images at some rows."""
SOURCES = {
    "condition_error": tuple(CONDITIONS),
    "condition_error_reconstruction": tuple(CONDITIONS),
    "factors": ("stick_figures",),
}
"""The data that a metric has a meaning for, of those which need certain data."""
