"""torch.compile and DistributedDataParallel."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from flowprior import FlowPrior, MixturePrior

CASES = {
    "glf": lambda: FlowPrior(4, transforms=2, hidden_features=(8,)),
    "glf-given": lambda: FlowPrior(4, transforms=2, hidden_features=(8,), context_features=3),
    "actnorm-pyro": lambda: FlowPrior(
        4, recipe="actnorm", transforms=2, hidden_features=(8,), backend="pyro"
    ),
    "mixture": lambda: MixturePrior(4, components=3, covariance="diagonal"),
    "mixture-full": lambda: MixturePrior(4, components=3, covariance="full"),
}


# The compiler's own warnings are not ours to mend.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_compiled_log_prob_is_the_eager_one(name):
    torch._dynamo.reset()
    prior, z = CASES[name](), torch.randn(50, 4) * 2 + 1
    context = torch.randn(50, 3) if prior.context_features else None
    prior.initialize(z, context)
    compiled = torch.compile(prior.log_prob, backend="aot_eager", fullgraph=True)
    expected, got = prior.log_prob(z, context), compiled(z, context)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    parameters = list(prior.parameters())
    for one, other in zip(
        torch.autograd.grad(got.sum(), parameters),
        torch.autograd.grad(expected.sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        parameters[-1].add_(0.5)  # compiled code follows the parameters
    torch.testing.assert_close(compiled(z, context), prior.log_prob(z, context), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_inductor_agrees_and_adapts_to_another_batch():
    torch._dynamo.reset()
    prior = FlowPrior(4, transforms=1, hidden_features=(8,))
    compiled = torch.compile(prior.log_prob, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for rows in (50, 7):
            z = torch.randn(rows, 4)
            torch.testing.assert_close(compiled(z), prior.log_prob(z), rtol=1e-5, atol=1e-5)


class _NegativeLogProb(nn.Module):
    def __init__(self, prior: nn.Module) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return -self.prior.log_prob(z).mean()


def test_in_distributed_data_parallel(tmp_path):
    prior, z = (
        FlowPrior(4, transforms=2, hidden_features=(8,), base=MixturePrior(4, components=3)),
        torch.randn(50, 4),
    )
    prior.initialize(z)
    expected = torch.autograd.grad(-prior.log_prob(z).mean(), list(prior.parameters()))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(_NegativeLogProb(prior))
        wrapped(z).backward()
    finally:
        dist.destroy_process_group()
    for parameter, gradient in zip(prior.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
