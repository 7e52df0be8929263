"""In other people's programs: Pyro's modules, diffusers and transformers with their real packages."""

import copy
import inspect
import pickle

import pyro
import pytest
import torch
from pyro.nn.module import PyroModule, to_pyro_module_
from torch import nn

import flowprior
from flowprior import Bijector, DecoupledPrior, FlowPrior, Prior, StandardNormal


def _latents():
    return torch.randn(300, 4) * torch.tensor([1.0, 4.0, 0.3, 2.0]) + 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: FlowPrior(4, transforms=2),
        lambda: FlowPrior(4, transforms=2, base="mixture"),
        lambda: FlowPrior(4, transforms=2, recipe="actnorm", backend="pyro"),
        lambda: DecoupledPrior(FlowPrior(4, transforms=2, recipe="spline")),
    ],
    ids=["flow", "mixture", "pyro", "decoupled"],
)
def test_a_prior_becomes_a_module_of_pyro(make):
    prior, z = make(), torch.randn(5, 4)
    prior.initialize(_latents())
    expected = prior.log_prob(z)
    to_pyro_module_(prior)
    assert isinstance(prior, PyroModule)
    assert isinstance(prior, Prior)
    prior._pyro_name = "prior"
    torch.testing.assert_close(prior.log_prob(z), expected)
    trace = pyro.poutine.trace(lambda: pyro.sample("z", prior())).get_trace()
    assert trace.nodes["z"]["value"].shape == (4,)
    (-prior.log_prob(z).mean()).backward()
    assert any(parameter.grad is not None for parameter in prior.parameters())


def test_what_a_subclass_owes_is_asked_for_without_a_metaclass():
    class Half(Bijector):
        def _to_base(self, z, context):
            return z, z.new_zeros(len(z))

    class Whole(Half):
        def _from_base(self, z0, context):
            return z0, z0.new_zeros(len(z0))

    with pytest.raises(TypeError, match="_from_base"):
        Half(3)
    assert inspect.isabstract(Half)
    assert inspect.isabstract(Prior)
    assert not inspect.isabstract(Whole)
    assert type(Prior) is type
    assert flowprior.Bijector is Bijector
    for twin in (copy.deepcopy(StandardNormal(3)), pickle.loads(pickle.dumps(StandardNormal(3)))):
        assert twin.event_shape == (3,)
    assert FlowPrior(3, bijector=Whole(3)).log_prob(torch.zeros(2, 3)).shape == (2,)


def test_diffusers_saves_and_loads_all_of_a_prior(tmp_path):
    from diffusers import ConfigMixin, ModelMixin
    from diffusers.configuration_utils import register_to_config

    class Model(ModelMixin, ConfigMixin):
        @register_to_config
        def __init__(self, features=4):
            super().__init__()
            self.head = nn.Linear(2, features)
            self.prior = FlowPrior(features, transforms=2, hidden_features=(8,), base="mixture")

    model = Model()
    model.prior.initialize(_latents())
    model.save_pretrained(tmp_path)
    z = _latents()[:5]
    for settings in ({}, {"low_cpu_mem_usage": False}, {"torch_dtype": torch.bfloat16}):
        loaded = Model.from_pretrained(tmp_path, **settings)
        if "torch_dtype" not in settings:
            assert torch.equal(loaded.prior.log_prob(z), model.prior.log_prob(z)), settings
        assert {each.dtype for each in loaded.prior.parameters()} == {torch.float32}, settings
        assert loaded.prior.sample(2).shape == (2, 4)


def test_transformers_saves_and_loads_all_of_a_prior(tmp_path):
    from transformers import PretrainedConfig, PreTrainedModel

    class Config(PretrainedConfig):
        model_type = "with-a-prior"

    class Model(PreTrainedModel):
        config_class = Config

        def __init__(self, config):
            super().__init__(config)
            self.head = nn.Linear(2, 4)
            self.prior = FlowPrior(4, transforms=2, hidden_features=(8,), base="mixture")
            self.post_init()

    model = Model(Config())
    model.prior.initialize(_latents())
    model.save_pretrained(tmp_path)
    loaded = Model.from_pretrained(tmp_path)  # built on the meta device, then filled
    z = _latents()[:5]
    assert torch.equal(loaded.prior.log_prob(z), model.prior.log_prob(z))
    assert loaded.prior.sample(2).shape == (2, 4)
