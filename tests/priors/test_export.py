"""Priors as programs: torch.export and ONNX."""

import pytest
import torch
from torch import nn

from flowprior import FlowPrior, MixturePrior
from flowprior.errors import InputError, RunError
from flowprior.priors import EmbeddedPrior, ImplicitPrior

SMALL = {"transforms": 2, "hidden_features": (4,)}
CASES = {
    "mixture base": lambda: FlowPrior(4, **SMALL, base=MixturePrior(4, components=3)),
    "context": lambda: FlowPrior(4, recipe="actnorm", **SMALL, context_features=3),
    "pyro": lambda: FlowPrior(4, recipe="masked", backend="pyro", **SMALL),
    "spatial": lambda: FlowPrior((2, 4, 4), recipe="spatial", **SMALL, context_features=(3, 2, 2)),
    "embedded": lambda: EmbeddedPrior(
        FlowPrior(4, **SMALL, context_features=2), nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 2, 2)
    ),
}


def started(name):
    torch.manual_seed(0)
    prior = CASES[name]()
    z = torch.randn(60, *prior.event_shape) * 3 + 1
    context = () if prior.context_shape is None else (torch.randn(60, *prior.context_shape),)
    prior.initialize(z, *context)
    return prior, z, context


@pytest.mark.parametrize("name", ["mixture base", "context"])
def test_onnx_runtime_gives_the_eager_numbers(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    prior, z, context = started(name)
    files = prior.export(tmp_path / "prior.onnx")
    assert {file.name for file in tmp_path.iterdir()} == {"prior.log_prob.onnx", "prior.from_base.onnx"}
    expected = {"log_prob": prior.log_prob(z, *context), "from_base": prior.from_base(z, *context)[0]}
    for entry, first in (("log_prob", "z"), ("from_base", "z0")):
        session = onnxruntime.InferenceSession(str(files[entry]), providers=["CPUExecutionProvider"])
        for rows in (60, 1):
            fed = dict(zip((first, "context"), (z[:rows], *(each[:rows] for each in context)), strict=False))
            (got,) = session.run(None, {key: each.numpy() for key, each in fed.items()})
            torch.testing.assert_close(torch.from_numpy(got), expected[entry][:rows], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["pyro", "spatial", "embedded"])
def test_torch_export_gives_the_eager_numbers(name, tmp_path):
    prior, z, context = started(name)
    files = prior.export(tmp_path / "prior.pt2")
    log_prob = torch.export.load(files["log_prob"]).module()
    from_base = torch.export.load(files["from_base"]).module()
    torch.testing.assert_close(log_prob(z, *context), prior.log_prob(z, *context), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(from_base(z, *context), prior.from_base(z, *context)[0], rtol=1e-5, atol=1e-4)


def test_a_prior_without_a_base_has_its_density_alone(tmp_path):
    files = MixturePrior(4, components=3, covariance="diagonal").export(tmp_path / "mixture.pt2")
    assert list(files) == ["log_prob"]


def test_a_program_that_disagrees_is_not_written(tmp_path):
    class Inconstant(FlowPrior):
        def _to_base(self, z, context):
            z0, logabsdet = super()._to_base(z, context)
            return z0 + (0.1 if torch.compiler.is_exporting() else 0.0), logabsdet

    with pytest.raises(RunError, match=r"`log_prob` is off by .*nothing was written"):
        Inconstant(4, **SMALL).export(tmp_path / "prior.pt2")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_one_sentence(tmp_path, monkeypatch):
    prior = FlowPrior(4, **SMALL)
    with pytest.raises(InputError, match=r"`path` .* must end in .pt2 or .onnx"):
        prior.export(tmp_path / "prior.pt")
    with pytest.raises(InputError, match="can only be sampled"):
        ImplicitPrior(4, hidden_features=(8,)).export(tmp_path / "prior.pt2")
    monkeypatch.setattr("flowprior.priors.export.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"flowprior\[export\]"):
        prior.export(tmp_path / "prior.onnx")


def test_the_command_line_exports_a_fitted_prior(flowprior, tmp_path):
    prior = FlowPrior(4, **SMALL)
    prior.save_pretrained(tmp_path / "prior")
    result = flowprior("export", tmp_path / "prior", "--out", tmp_path / "flow.pt2")
    assert result.exit_code == 0, result.output
    program = torch.export.load(tmp_path / "flow.log_prob.pt2").module()
    z = torch.randn(9, 4)
    torch.testing.assert_close(program(z), prior.log_prob(z), rtol=1e-5, atol=1e-5)
    result = flowprior("export", tmp_path / "prior", "--out", tmp_path / "flow.txt")
    assert (result.exit_code, "must end in .pt2 or .onnx" in result.output) == (2, True)
