"""What is measured of likelihoods: of latents under the prior, and of test examples under the model."""

import math
from dataclasses import asdict

import torch
from torch import Tensor

from flowprior import metrics
from flowprior.checks import check_finite
from flowprior.data.dataset import thin
from flowprior.evaluation.context import CHUNK, Evaluation, Result
from flowprior.registry import metric
from flowprior.tensors import as_input

EXAMPLES = 500  # test examples of the importance-weighted likelihood
ROWS = 2000  # pairs of example and latent at once through the decoder
DENSITIES = ("prior density", "posterior density")
WEIGHTS = (*DENSITIES, "one latent")
STORED = (*DENSITIES, "stored pixels")


@metric("nll", better="lower", unit="nats per latent", needs=("prior density",), undefined="worst")
def _nll(evaluation: Evaluation) -> Result:
    """E_q[-log p(z)] of the latents of the test examples."""
    z, context = evaluation.posterior_draws()
    nll = metrics.latent_nll(evaluation.model.prior.log_prob, z, context, device=evaluation.model.device)
    return {"nll": nll.mean}, asdict(nll)


@metric("iw_nll", better="lower", unit="nats per example", needs=WEIGHTS, undefined="worst")
def _iw_nll(evaluation: Evaluation) -> Result:
    """Importance-weighted -log p(x) of at most 500 test examples, from draws of q(z|x)."""
    model = evaluation.model

    def log_weight(x: Tensor, draws: int, context: Tensor | None = None) -> Tensor:
        q, condition = model.encode(x, context), model.condition(context)
        z = q.sample(torch.Size([draws]))  # (K, n, *event)
        repeated = x.expand(draws, *x.shape).flatten(0, 1)
        output = model.conditioned_output(z, condition).flatten(0, 1)
        nll = model.likelihood.nll(output, repeated).view(draws, len(x))
        return model.prior.log_prob(z, model.prior_context(condition)) - nll - q.log_prob(z)

    rows, samples = thin(len(evaluation.test), EXAMPLES), evaluation.importance_samples
    x, context = as_input(evaluation.test.x[rows]), evaluation.context(rows)
    result = metrics.importance_nll(log_weight, x, context, samples=samples, rows=ROWS, device=model.device)
    return {"iw_nll": result.mean}, asdict(result)


@metric("bpd", better="lower", unit="bits per dimension", needs=STORED, undefined="worst")
def _bpd(evaluation: Evaluation) -> Result:
    """The bound on -log2 P(x) of the stored test images by dimension, from one draw each, dequantized."""
    bounds = [evaluation.model.bound(x, context) for x, context in evaluation.examples()]
    terms = {name: torch.cat([getattr(each, name) for each in bounds]) for name in bounds[0]._fields}
    bits = {name: _bits(evaluation, value.double().mean().item()) for name, value in terms.items()}
    check_finite("bound", sum(terms.values(), torch.zeros(())).cpu(), "the model has diverged")
    offset = math.log2(evaluation.model.levels or 1)
    facts = {"reconstruction": bits["reconstruction"] + offset, "kl": bits["kl"], "levels": 2**offset}
    return {"bpd": sum(bits.values()) + offset}, facts


@metric("iw_bpd", better="lower", unit="bits per dimension", needs=STORED, undefined="worst")
def _iw_bpd(evaluation: Evaluation) -> Result:
    """`bpd` by importance sampling over latents and dequantization, of at most 500 test images."""
    model = evaluation.model

    def log_weight(x: Tensor, draws: int, context: Tensor | None = None) -> Tensor:
        again = x.expand(draws, *x.shape).flatten(0, 1)
        seen = None if context is None else context.expand(draws, *context.shape).flatten(0, 1)
        reconstruction, kl = model.bound(again, seen, closed_form=False)
        return -(reconstruction + kl).view(draws, len(x))

    rows, samples = thin(len(evaluation.test), EXAMPLES), evaluation.importance_samples
    x, context = as_input(evaluation.test.x[rows]), evaluation.context(rows)
    result = metrics.importance_nll(log_weight, x, context, samples=samples, rows=CHUNK, device=model.device)
    offset = math.log2(model.levels or 1)
    return {"iw_bpd": _bits(evaluation, result.mean) + offset}, asdict(result)


def _bits(evaluation: Evaluation, nats: float) -> float:
    return nats / (evaluation.test.x[0].numel() * math.log(2))
