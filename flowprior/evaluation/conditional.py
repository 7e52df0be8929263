"""What is measured of a conditional model: fidelity to the condition, diversity under it, use of it."""

from collections.abc import Callable
from dataclasses import asdict
from itertools import tee

import torch
from einops import rearrange, repeat
from torch import Tensor

from flowprior.data.garments import edges, silhouette
from flowprior.data.stick_figures import FACTORS, recover_factors, true_factors
from flowprior.evaluation.context import Evaluation, Facts, Values, backbone
from flowprior.metrics import (
    FeatureNetwork,
    conditional_spread,
    edge_agreement,
    extract,
    factor_distance,
    latent_nll,
    pair_diversity,
    silhouette_iou,
)
from flowprior.metrics.pose import joint_distances
from flowprior.registry import metric
from flowprior.tensors import as_input

EACH = 10  # samples at each condition, for the spread of factors
DIVERSITIES = {
    "lpips": "lpips distance",
    "diversity_vgg": "vgg distance",
    "diversity_squeezenet": "squeezenet distance",
}
Errors = Callable[[Tensor, Tensor], Tensor]
"""Images (n, C, H, W) and the test examples (n,) whose conditions they were given, to errors (n,)."""


def _register_diversity(name: str, kind: str) -> None:
    @metric(
        name,
        better="higher",
        unit="distance",
        needs=("conditional model", kind),
        summary=f"E d(x, x') of two samples at one condition, `count` pairs, by the {kind}.",
    )
    def diversity(evaluation: Evaluation) -> tuple[Values, Facts]:
        distance, facts = evaluation.backbone(kind)
        first, second = tee(images for _, images in evaluation.at_conditions(evaluation.count, 2))
        result = pair_diversity((pair[:, 0] for pair in first), (pair[:, 1] for pair in second), distance)
        return {name: result.value}, facts | asdict(result)


for _name, _kind in DIVERSITIES.items():
    _register_diversity(_name, _kind)


def _silhouettes(evaluation: Evaluation) -> Errors:
    given = evaluation.test.tensors()["context"]
    return lambda images, rows: 1 - silhouette_iou(silhouette(images), given[rows])


def _edges(evaluation: Evaluation) -> Errors:
    given = evaluation.test.tensors()["context"]
    return lambda images, rows: 1 - edge_agreement(edges(images), given[rows]).f_score


def _joints(evaluation: Evaluation) -> Errors:
    def errors(images: Tensor, rows: Tensor) -> Tensor:
        given = evaluation.test.known["joints"][rows]
        joints = torch.cat(list(extract(images.to(evaluation.device), evaluation.backbone("pose"))))
        return joint_distances(joints.view(given.shape), given).mean(1)

    evaluation.backbone("pose")
    return errors


CONDITIONS: dict[str, tuple[str, Callable[[Evaluation], Errors]]] = {
    "fashion_silhouettes": ("1 - intersection over union", _silhouettes),
    "fashion_edges": ("1 - F-score within a pixel", _edges),
    "stick_figures": ("pixels from joint to joint", _joints),
}
"""Data whose condition can be read back from images: the unit, and what makes the errors."""
READ_BACK = ("conditional model", "condition reader")


@backbone("pose")
def _pose(evaluation: Evaluation) -> FeatureNetwork:
    """What finds joints, trained on the real images of the data set and kept."""
    from flowprior.metrics import pose_regressor

    train, test = evaluation.train, evaluation.test
    return evaluation.learned(pose_regressor, train.known["joints"], test.known["joints"])


@backbone("condition reader")
def _reader(evaluation: Evaluation) -> Errors:
    return CONDITIONS[evaluation.source.name][1](evaluation)


@metric("condition_error", better="lower", unit="by the data set", needs=READ_BACK, data=tuple(CONDITIONS))
def _condition_error(evaluation: Evaluation) -> tuple[Values, Facts]:
    """How far the condition read back from samples lies from the given one, one sample at each of `count`.

    "real" in the facts is of the test images themselves, which stick figures' joints, found by a network, do
    not hold to the pixel.
    """
    errors: Errors = evaluation.backbone("condition reader")
    sampled = [
        errors(images[:, 0].cpu(), rows) for rows, images in evaluation.at_conditions(evaluation.count, 1)
    ]
    real = [errors(as_input(evaluation.test.x[rows]), rows) for rows in evaluation.chunks()]
    facts = {"unit": _unit(evaluation), "samples": sum(map(len, sampled)), "real": _mean(real)}
    return {"condition_error": _mean(sampled)}, facts


@metric(
    "condition_error_reconstruction",
    better="lower",
    unit="by the data set",
    needs=READ_BACK,
    data=tuple(CONDITIONS),
)
def _condition_error_reconstruction(evaluation: Evaluation) -> tuple[Values, Facts]:
    """`condition_error` of reconstructed test images: what the networks lose before the prior does."""
    errors: Errors = evaluation.backbone("condition reader")
    pairs = zip(evaluation.reconstructions(), evaluation.chunks(), strict=True)
    error = _mean([errors(images.cpu(), rows) for images, rows in pairs])
    return {"condition_error_reconstruction": error}, {"unit": _unit(evaluation)}


@metric(
    "factors",
    better="lower",
    unit="standard deviations",
    needs=("images", "conditional model"),
    values={"factors": "lower", "factors_energy": "lower", "factors_spread": "higher"},
    data=("stick_figures",),
)
def _factors(evaluation: Evaluation) -> tuple[Values, Facts]:
    """The appearance of sampled stick figures against the true law, which does not depend on the pose.

    "factors": mean 1-Wasserstein distance of the factors, in standard deviations; "factors_energy": of all
    together; "factors_spread": spread at one pose over that of the true law.
    """
    poses = max(2, evaluation.count // EACH)
    joints, seed = evaluation.test.known["joints"], evaluation.seed
    parts = []
    for rows, images in evaluation.at_conditions(poses, EACH):
        flat = rearrange(images, "n each ... -> (each n) ...").cpu()
        at = repeat(joints[rows], "n joints xy -> (each n) joints xy", each=EACH)
        parts.append(recover_factors(flat, at).unflatten(0, (EACH, len(rows))))
    factors = torch.cat(parts, 1)  # (EACH, poses, F)
    real = true_factors(factors[..., 0].numel(), seed)
    far, spread = factor_distance(factors.flatten(0, 1), real), conditional_spread(factors, real)
    floor = factor_distance(true_factors(len(real), seed + 1), real)
    values = {"factors": far.value, "factors_energy": far.energy, "factors_spread": spread.value}
    facts = {"names": tuple(FACTORS), "distance": asdict(far), "spread": asdict(spread)}
    return values, facts | {"two_true_draws": asdict(floor)}


@metric(
    "context_gain",
    better="higher",
    unit="nats",
    needs=("prior density", "conditional model"),
    undefined="worst",
)
def _context_gain(evaluation: Evaluation) -> tuple[Values, Facts]:
    """E log p(z|y) - E log p(z|y'), y' the context of another example; 0 if the prior ignores it."""
    z, context = evaluation.posterior_draws()
    if context is None:
        return {"context_gain": 0.0}, {"notes": ["the prior has no context"]}
    log_prob, device = evaluation.model.prior.log_prob, evaluation.device
    own = latent_nll(log_prob, z, context, device=device)
    other = latent_nll(log_prob, z, context.roll(1, 0), device=device)
    return {"context_gain": other.mean - own.mean}, {"own": asdict(own), "other": asdict(other)}


def _unit(evaluation: Evaluation) -> str:
    return CONDITIONS[evaluation.source.name][0]


def _mean(parts: list[Tensor]) -> float:
    return torch.cat(parts).double().mean().item()
