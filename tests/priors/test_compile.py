"""torch.compile and DistributedDataParallel."""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._dynamo.testing import CompileCounter

from flowprior import FlowPrior, MixturePrior
from flowprior.errors import InputError
from flowprior.priors import DecoupledPrior

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


def _answers(prior, z, context):
    torch.manual_seed(0)
    draws = prior.sample(3, context)
    return prior.log_prob(z, context), *prior.to_base(z, context), *prior.from_base(z, context), draws


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("recipe", "backend", "context_features"),
    [
        ("glf", "nflows", None),
        *((recipe, "nflows", 3) for recipe in ("glf", "actnorm", "masked", "spline", "spatial")),
        *((recipe, "pyro", 3) for recipe in ("glf", "actnorm", "masked", "spatial")),
    ],
)
def test_every_recipe_is_one_graph(recipe, backend, context_features):
    event = (2, 4, 4) if recipe == "spatial" else 4
    shape = {"transforms": 2, "hidden_features": (8,), "context_features": context_features}
    prior = FlowPrior(event, recipe=recipe, backend=backend, **shape)
    z = torch.randn(5, *prior.event_shape)
    context = None if context_features is None else torch.randn(5, 3)
    for call in (prior.log_prob, prior.from_base):
        torch._dynamo.reset()
        compiled = torch.compile(call, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(z, context), call(z, context), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        lambda: FlowPrior(4, transforms=2, hidden_features=(8,), base=MixturePrior(4, components=3)),
        lambda: DecoupledPrior(FlowPrior(4, transforms=2, hidden_features=(8,), context_features=3)),
    ],
)
def test_a_compiled_prior_compiles_once_for_all_batches(make, tmp_path):
    torch._dynamo.reset()
    prior = make()
    z = torch.randn(50, 4) * 2 + 1
    context = torch.randn(50, 3) if prior.context_features else None
    prior.initialize(z, context)
    expected = _answers(prior, z, context)
    keys = list(prior.state_dict())
    counter = CompileCounter()
    prior.compile(backend=counter)
    for one, other in zip(_answers(prior, z, context), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    compiled = counter.frame_count
    assert compiled
    for rows in (7, 33, 2):
        _answers(prior, z[:rows], None if context is None else context[:rows])
    assert counter.frame_count == compiled
    with pytest.raises(InputError, match="must end in the event shape"):
        prior.log_prob(torch.zeros(5, 3))
    assert list(prior.state_dict()) == keys
    prior.save_pretrained(tmp_path)
    torch.save(prior, tmp_path / "whole.pt")
    loaded = torch.load(tmp_path / "whole.pt", weights_only=False)
    for twin in (copy.deepcopy(prior), type(prior).from_pretrained(tmp_path), loaded):
        torch.testing.assert_close(twin.log_prob(z, context), expected[0])
    assert counter.frame_count == compiled


@pytest.mark.filterwarnings("ignore")
def test_prior_compile_with_the_default_compiler():
    torch._dynamo.reset()
    prior, z = FlowPrior(4, transforms=1, hidden_features=(8,)), torch.randn(50, 4)
    expected = torch.autograd.grad(prior.log_prob(z).sum(), list(prior.parameters()))
    prior.compile()
    got = torch.autograd.grad(prior.log_prob(z).sum(), list(prior.parameters()))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_without_a_compiler_it_is_one_sentence(monkeypatch):
    from torch._inductor import config, cpp_builder

    cpp_builder.cpp_compiler_search.cache_clear()
    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    try:
        with pytest.raises(InputError, match=r"needs a C\+\+ compiler"):
            FlowPrior(4, transforms=1).compile()
        with pytest.raises(InputError, match="`mode`"):
            FlowPrior(4, transforms=1).compile("fast")
    finally:
        cpp_builder.cpp_compiler_search.cache_clear()


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_sample_takes_symbolic_and_numpy_sizes(strict):
    prior = FlowPrior(4, transforms=1, hidden_features=(8,))

    class Draws(nn.Module):
        def forward(self, x):
            return x.new_tensor(0.0) + prior.sample(x.shape[0])

    shapes = {"x": {0: torch.export.Dim("n")}}
    program = torch.export.export(Draws(), (torch.zeros(5, 1),), dynamic_shapes=shapes, strict=strict)
    assert program.module()(torch.zeros(9, 1)).shape == (9, 4)
    assert prior.sample(np.int64(3)).shape == (3, 4)
    assert prior.sample((np.int32(3), 2)).shape == (3, 2, 4)
    for wrong in (True, 2.0, np.float64(2), -1):
        with pytest.raises(InputError, match="`n`"):
            prior.sample(wrong)
