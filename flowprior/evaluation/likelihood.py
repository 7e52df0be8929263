"""What is measured of likelihoods: of latents under the prior, and of test examples under the model."""

from dataclasses import asdict

import torch
from torch import Tensor

from flowprior import metrics
from flowprior.data.dataset import thin
from flowprior.evaluation.context import Evaluation, Result
from flowprior.registry import metric
from flowprior.tensors import as_input

EXAMPLES = 500  # test examples of the importance-weighted likelihood
ROWS = 2000  # pairs of example and latent at once through the decoder
DENSITIES = ("prior density", "posterior density")


@metric("nll", better="lower", unit="nats per latent", needs=("prior density",), undefined="worst")
def _nll(evaluation: Evaluation) -> Result:
    """E_q[-log p(z)] of the latents of the test examples."""
    z, context = evaluation.posterior_draws()
    nll = metrics.latent_nll(evaluation.model.prior.log_prob, z, context, device=evaluation.model.device)
    return {"nll": nll.mean}, asdict(nll)


@metric("iw_nll", better="lower", unit="nats per example", needs=DENSITIES, undefined="worst")
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
