"""What is measured of a conditional model: fidelity to the condition, diversity under it, use of it."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import tee

import torch
from einops import rearrange, repeat
from torch import Tensor

from flowprior import metrics
from flowprior.data.garments import edges, silhouette
from flowprior.data.stick_figures import FACTORS, recover_factors, true_factors
from flowprior.evaluation.context import Evaluation, Result, backbone
from flowprior.evaluation.spaces import DISTANCES
from flowprior.metrics import edge_agreement, silhouette_iou
from flowprior.metrics.pose import joint_distances
from flowprior.registry import Better, metric
from flowprior.tensors import as_input

EACH = 10  # samples at each condition, for the spread of factors


def _joints(images: Tensor, given: Tensor, network: metrics.FeatureNetwork) -> Tensor:
    joints = torch.cat(list(metrics.extract(images, network)))
    return joint_distances(joints.view(given.shape), given).mean(1)


CONDITIONS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "fashion_silhouettes": ("1 - intersection over union", lambda x, y: 1 - silhouette_iou(silhouette(x), y)),
    "fashion_edges": ("1 - F-score within a pixel", lambda x, y: 1 - edge_agreement(edges(x), y).f_score),
    "stick_figures": ("pixels from joint to joint", _joints),
}
"""Data whose condition can be read back from images: the unit, and the errors (n,) of images."""
READABLE = tuple(CONDITIONS)
READ_BACK = ("conditional model", "condition reader")
SPREADS: dict[str, Better] = {"factors": "lower", "factors_energy": "lower", "factors_spread": "higher"}
GAINING = ("prior density", "conditional model")


@backbone("pose")
def _pose(evaluation: Evaluation) -> metrics.FeatureNetwork:
    """What finds joints, trained on the real images of the data set and kept."""
    train, test = evaluation.source.train(), evaluation.test
    return evaluation.learned(metrics.pose_regressor, train.known["joints"], test.known["joints"])


@backbone("condition reader")
def _reader(evaluation: Evaluation) -> Callable[[Tensor, Tensor], Tensor]:
    """Images and the test examples (n,) whose conditions they were given -> their errors (n,)."""
    _, error = CONDITIONS[evaluation.source.name]
    given = evaluation.test.tensors()["context"]
    if error is _joints:
        given, error = evaluation.test.known["joints"], partial(_joints, network=evaluation.backbone("pose"))
    return lambda images, rows: error(images.cpu(), given[rows])


def _register_diversity(name: str, kind: str) -> None:
    about = f"E d(x, x') of two samples at one condition, `count` pairs, by the {kind}."

    @metric(name, better="higher", unit="distance", needs=("conditional model", kind), summary=about)
    def diversity(evaluation: Evaluation) -> Result:
        distance, facts = evaluation.backbone(kind)
        first, second = tee(images for _, images in evaluation.at_conditions(evaluation.count, 2))
        pairs = (pair[:, 0] for pair in first), (pair[:, 1] for pair in second)
        result = metrics.pair_diversity(*pairs, distance)
        return {name: result.value}, facts | asdict(result)


for _kind, (_, _name) in DISTANCES.items():
    _register_diversity(_name, _kind)


@metric("condition_error", better="lower", unit="by the data", needs=READ_BACK, data=READABLE)
def _condition_error(evaluation: Evaluation) -> Result:
    """How far the condition read back from samples, one at each of `count` contexts, is from the given one.

    "real" in the facts is of the test images, which stick figures' joints, found by a network, miss too.
    """
    errors = evaluation.backbone("condition reader")
    samples = evaluation.at_conditions(evaluation.count, 1)
    sampled = torch.cat([errors(images[:, 0], rows) for rows, images in samples])
    real = torch.cat([errors(as_input(evaluation.test.x[rows]), rows) for rows in evaluation.chunks()])
    facts = {"unit": CONDITIONS[evaluation.source.name][0], "samples": len(sampled)}
    return {"condition_error": _mean(sampled)}, facts | {"real": _mean(real)}


@metric("condition_error_reconstruction", better="lower", unit="by the data", needs=READ_BACK, data=READABLE)
def _condition_error_reconstruction(evaluation: Evaluation) -> Result:
    """`condition_error` of reconstructed test images: what the networks lose before the prior does."""
    errors = evaluation.backbone("condition reader")
    pairs = zip(evaluation.reconstructions(), evaluation.chunks(), strict=True)
    error = _mean(torch.cat([errors(images, rows) for images, rows in pairs]))
    return {"condition_error_reconstruction": error}, {"unit": CONDITIONS[evaluation.source.name][0]}


def _mean(errors: Tensor) -> float:
    return errors.double().mean().item()


@metric(
    "factors", better="lower", unit="standard deviations", needs=("images", "conditional model"),
    values=SPREADS, data=("stick_figures",),
)  # fmt: skip
def _factors(evaluation: Evaluation) -> Result:
    """The appearance of sampled stick figures against the true law, which does not depend on the pose.

    "factors": mean 1-Wasserstein distance of the factors, in standard deviations; "factors_energy": of all
    together; "factors_spread": spread at one pose over that of the true law.
    """
    joints, seed = evaluation.test.known["joints"], evaluation.seed
    parts = []
    for rows, images in evaluation.at_conditions(max(2, evaluation.count // EACH), EACH):
        flat = rearrange(images, "n each ... -> (each n) ...").cpu()
        at = repeat(joints[rows], "n joints xy -> (each n) joints xy", each=EACH)
        parts.append(rearrange(recover_factors(flat, at), "(each n) f -> each n f", each=EACH))
    factors = torch.cat(parts, 1)  # (EACH, poses, F)
    real = true_factors(factors[..., 0].numel(), seed)
    far = metrics.factor_distance(factors.flatten(0, 1), real)
    spread = metrics.conditional_spread(factors, real)
    floor = metrics.factor_distance(true_factors(len(real), seed + 1), real)
    values = {"factors": far.value, "factors_energy": far.energy, "factors_spread": spread.value}
    facts = {"names": tuple(FACTORS), "distance": asdict(far), "spread": asdict(spread)}
    return values, facts | {"two_true_draws": asdict(floor)}


@metric("context_gain", better="higher", unit="nats", needs=GAINING, undefined="worst")
def _context_gain(evaluation: Evaluation) -> Result:
    """E log p(z|y) - E log p(z|y'), y' the context of another example; 0 if the prior ignores it."""
    z, context = evaluation.posterior_draws()
    if context is None:
        return {"context_gain": 0.0}, {"notes": ["the prior has no context"]}
    log_prob, device = evaluation.model.prior.log_prob, evaluation.model.device
    own = metrics.latent_nll(log_prob, z, context, device=device)
    other = metrics.latent_nll(log_prob, z, context.roll(1, 0), device=device)
    return {"context_gain": other.mean - own.mean}, {"own": asdict(own), "other": asdict(other)}
