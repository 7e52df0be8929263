"""Compiled training steps: the numbers of eager mode, one compilation, and a resume that is exact."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from flowprior import FlowPrior, fit
from flowprior.errors import InputError
from flowprior.training import compiled
from flowprior.training.loop import train
from flowprior.training.stages import prior_stage

SHAPE = {"transforms": 2, "hidden_features": (8,)}
Z = torch.randn(67, 4, generator=torch.Generator().manual_seed(0))  # batches of 16, a held-out one of 7

pytestmark = pytest.mark.filterwarnings("ignore")  # the compiler's own are not ours to mend


@pytest.fixture
def counter(monkeypatch):
    """Counts compilations, by a backend that runs what it is given."""
    torch._dynamo.reset()
    counter = CompileCounter()
    monkeypatch.setattr(compiled, "compile_options", lambda device: {"backend": counter})
    return counter


def trained(**options):
    torch.manual_seed(0)
    prior = FlowPrior(4, **SHAPE)
    stage = prior_stage(prior, {"z": Z}, epochs=3, batch_size=16, validation=0.1)
    result = train([stage], device="cpu", progress=False, **options)
    return prior, result


def test_steps_are_compiled_once_and_give_the_eager_numbers(counter):
    eager, expected = trained()
    prior, result = trained(compile=True)
    assert counter.frame_count == 1
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(prior.state_dict()[name], value, rtol=1e-5, atol=1e-5)
    assert list(prior.state_dict()) == list(eager.state_dict())
    assert result.metrics == pytest.approx(expected.metrics, rel=1e-5)


def test_a_compiled_run_resumes_bit_by_bit(counter, tmp_path):
    whole, _ = trained(compile=True)
    trained(compile=True, run=tmp_path, max_steps=5)
    resumed, _ = trained(compile=True, run=tmp_path, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_fit_compiles_and_the_prior_is_an_eager_one_afterwards(counter):
    prior = FlowPrior(4, **SHAPE)
    fit(prior, Z, epochs=1, batch_size=16, compile=True, device="cpu", progress=False)
    compilations = counter.frame_count
    assert compilations == 1
    prior.log_prob(Z)
    assert counter.frame_count == compilations


def test_without_a_compiler_nothing_is_written(monkeypatch, tmp_path):
    from torch._inductor import config, cpp_builder

    cpp_builder.cpp_compiler_search.cache_clear()
    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    try:
        with pytest.raises(InputError, match=r"needs a C\+\+ compiler"):
            trained(compile=True, run=tmp_path / "run")
    finally:
        cpp_builder.cpp_compiler_search.cache_clear()
    assert not (tmp_path / "run").exists()
