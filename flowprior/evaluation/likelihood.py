"""What is measured of likelihoods: of latents under the prior, and of test examples under the model."""

from dataclasses import asdict

import torch
from torch import Tensor

from flowprior.data.dataset import thin
from flowprior.evaluation.context import Evaluation, Facts, Values
from flowprior.metrics import importance_nll, latent_nll
from flowprior.registry import metric
from flowprior.tensors import as_input

EXAMPLES = 500  # test examples of the importance-weighted likelihood
ROWS = 2000  # pairs of example and latent at once through the decoder


@metric("nll", better="lower", unit="nats per latent", needs=("prior density",), undefined="worst")
def _nll(evaluation: Evaluation) -> tuple[Values, Facts]:
    """E_q[-log p(z)] of the latents of the test examples."""
    z, context = evaluation.posterior_draws()
    nll = latent_nll(evaluation.model.prior.log_prob, z, context, device=evaluation.device)
    return {"nll": nll.mean}, asdict(nll)


@metric(
    "iw_nll",
    better="lower",
    unit="nats per example",
    needs=("prior density", "posterior density"),
    undefined="worst",
)
def _iw_nll(evaluation: Evaluation) -> tuple[Values, Facts]:
    """Importance-weighted -log p(x) of some test examples, from draws of q(z|x)."""
    model = evaluation.model

    def log_weight(x: Tensor, draws: int, context: Tensor | None = None) -> Tensor:
        q, condition = model.encode(x, context), model.condition(context)
        z = q.sample(torch.Size([draws]))  # (K, n, *event)
        repeated = x.expand(draws, *x.shape).flatten(0, 1)
        output = model.conditioned_output(z, condition).flatten(0, 1)
        nll = model.likelihood.nll(output, repeated).view(draws, len(x))
        return model.prior.log_prob(z, model.prior_context(condition)) - nll - q.log_prob(z)

    rows = thin(len(evaluation.test), EXAMPLES)
    result = importance_nll(
        log_weight,
        as_input(evaluation.test.x[rows]),
        evaluation.context(rows),
        samples=evaluation.importance_samples,
        rows=ROWS,
        device=model.device,
    )
    return {"iw_nll": result.mean}, asdict(result)
