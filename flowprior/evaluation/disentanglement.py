"""What is measured of representations: disentanglement scores against known factors, and dependence."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flowprior import metrics
from flowprior.evaluation.context import CHUNK, Evaluation, Facts, Result, Values
from flowprior.priors import InvertiblePrior
from flowprior.registry import metric
from flowprior.tensors import as_input

NEEDS = ("discrete factors", "unconditional model")
EXAMPLES = 10_000  # test examples that are scored
DRAWS, MAPPED = 2000, 20_000  # of q(z), for the densities of z, and for the spacings of z0
Score = Callable[[Tensor, Tensor], float | metrics.DCI]


def spaces_of(evaluation: Evaluation, z: Tensor) -> dict[str, Tensor]:
    """Codes (N, *event) in "z" and, where a prior has another space, in "z0": (N, D) each."""
    prior, spaces = evaluation.model.prior, {"z": z.flatten(1)}
    if isinstance(prior, InvertiblePrior) and not prior.is_standard_normal:
        spaces["z0"] = torch.cat([prior.to_base(part)[0].flatten(1) for part in z.split(CHUNK)])
    return spaces


def _register(name: str, summary: str, score: Callable[..., Any], parts: tuple[str, ...] = ("",)) -> None:
    values = tuple(f"{name}{part}_{space}" for part in parts for space in ("z", "z0"))
    about = f"{summary}, of posterior means in z and in z0."

    @metric(name, better="higher", unit="share", needs=NEEDS, values=values, summary=about)
    def scored(evaluation: Evaluation) -> Result:
        model, x = evaluation.model, evaluation.test.x[:EXAMPLES]
        means = torch.cat([model.encode(as_input(part.to(model.device))).mean for part in x.split(CHUNK)])
        factors = evaluation.test.known["factors"][:EXAMPLES]
        found: Values = {}
        for space, codes in spaces_of(evaluation, means).items():
            result = score(codes, factors)
            each = asdict(result) if isinstance(result, metrics.DCI) else {"": result}
            found |= {f"{name}{f'_{part}' if part else ''}_{space}": value for part, value in each.items()}
        return found, {"examples": len(means), "factors": factors.shape[1]}


_register(
    "beta_vae_score", "Accuracy of the shared factor from mean differences of pairs", metrics.beta_vae_score
)
_register("factor_vae_score", "Majority vote from the least varying dimension", metrics.factor_vae_score)
_register("mig", "Mutual information gap", metrics.mutual_information_gap)
_register("sap", "Gap of the two most predictive dimensions", metrics.attribute_predictability)
_register("modularity", "How far each dimension tells of one factor alone", metrics.modularity)
_register(
    "dci", "Disentanglement, completeness and informativeness by random forests", metrics.dci,
    ("_disentanglement", "_completeness", "_informativeness"),
)  # fmt: skip


@metric(
    "total_correlation", better="lower", unit="nats", needs=("posterior density", "unconditional model"),
    values=("total_correlation_z", "total_correlation_z0", "dimension_kl_z", "dimension_kl_z0"),
)  # fmt: skip
def _total_correlation(evaluation: Evaluation) -> Result:
    """KL(q(z) ‖ Π_j q(z_j)) in z and in z0, and the mean of each dimension's KL from the prior's."""
    prior, aggregate = evaluation.model.prior, evaluation.aggregate
    z, q, p = (
        draw(n) for draw, n in ((aggregate.sample, DRAWS), (aggregate.sample, MAPPED), (prior.sample, MAPPED))
    )
    exact = metrics.total_correlation(aggregate, z)
    values: Values = {"total_correlation_z": exact.value}
    facts: Facts = {"z": asdict(exact)}
    if isinstance(prior, InvertiblePrior) and not prior.is_standard_normal:
        mapped = metrics.mapped_total_correlation(aggregate, partial(_whole, prior), q)
        values["total_correlation_z0"], facts["z0"] = mapped.value, asdict(mapped)
    drawn = spaces_of(evaluation, p[:DRAWS])
    for space, codes in spaces_of(evaluation, q[:DRAWS]).items():
        each = metrics.dimension_kl(codes, drawn[space])
        values[f"dimension_kl_{space}"] = sum(each) / len(each)
        facts[space]["dimension_kl"] = each
    return values, facts


def _whole(prior: InvertiblePrior, z: Tensor) -> tuple[Tensor, Tensor]:
    """`to_base` of many latents, in chunks."""
    parts = [prior.to_base(part) for part in z.split(CHUNK)]
    return torch.cat([z0 for z0, _ in parts]), torch.cat([volume for _, volume in parts])
