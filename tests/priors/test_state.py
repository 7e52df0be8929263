"""State of fixed shape: whatever loads a prior gets all of it; what an optimizer holds is what is used."""

import ast
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch import nn

import flowprior
from flowprior import FlowPrior, MixturePrior, Prior

STORED = Path(__file__).parent / "stored"  # saved by version 0.1.0, with the answers that it gave


@pytest.mark.parametrize("name", sorted(path.name for path in STORED.iterdir()))
def test_priors_of_the_first_version_load_and_answer_as_they_did(name):
    prior, answers = Prior.from_pretrained(STORED / name), load_file(STORED / name / "answers.safetensors")
    z0, _ = prior.to_base(answers["z"])
    torch.testing.assert_close(z0, answers["z0"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(prior.log_prob(answers["z"]), answers["log_prob"], rtol=1e-5, atol=1e-4)


def test_saved_again_an_old_prior_is_a_new_one(tmp_path):
    for path in STORED.iterdir():
        prior = Prior.from_pretrained(path)
        prior.save_pretrained(tmp_path / path.name)
        again = Prior.from_pretrained(tmp_path / path.name)
        z = load_file(path / "answers.safetensors")["z"]
        assert torch.equal(again.log_prob(z), prior.log_prob(z))


def _fitted(**settings):
    prior = FlowPrior(3, transforms=4, hidden_features=(8,), **settings)
    z = torch.randn(400, 3) * torch.tensor([1.0, 5.0, 0.2]) + 3
    context = None if prior.context_shape is None else torch.randn(400, *prior.context_shape)
    prior.initialize(z, context)
    return prior, z, context


SETTINGS = {
    "whitened": {},
    "diagonal": {"standardize": "diagonal"},
    "mixture": {"base": "mixture"},
    "actnorm": {"recipe": "actnorm"},
    "spline": {"recipe": "spline"},
    "pyro": {"backend": "pyro"},
    "given": {"context_features": 2},
}
EVERY = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())


@EVERY
@pytest.mark.parametrize("assign", [True, False])
def test_built_on_meta_then_loaded(settings, assign):
    prior, z, context = _fitted(**settings)
    with torch.device("meta"):
        fresh = FlowPrior(3, transforms=4, hidden_features=(8,), **settings)
    assert all(each.is_meta for each in fresh.state_dict().values())
    shapes = {name: value.shape for name, value in fresh.state_dict().items()}
    assert shapes == {name: value.shape for name, value in prior.state_dict().items()}
    if not assign:
        fresh.to_empty(device="cpu")
    fresh.load_state_dict(prior.state_dict(), assign=assign)
    assert fresh.sample(2, None if context is None else context[0]).device.type == "cpu"
    assert torch.equal(fresh.log_prob(z, context), prior.log_prob(z, context))


@EVERY
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of torch's own checkpoints
def test_a_distributed_checkpoint_keeps_everything(settings, tmp_path):
    prior, z, context = _fitted(**settings)
    dcp.save({"prior": prior.state_dict()}, checkpoint_id=tmp_path / "state")
    fresh = FlowPrior(3, transforms=4, hidden_features=(8,), **settings)
    dcp.load({"prior": fresh.state_dict()}, checkpoint_id=tmp_path / "state")  # in place, as DCP does
    assert torch.equal(fresh.log_prob(z, context), prior.log_prob(z, context))


@EVERY
def test_an_optimizer_built_before_the_start_trains_what_is_used(settings):
    torch.manual_seed(0)
    prior = FlowPrior(3, transforms=4, hidden_features=(8,), **settings)
    tensors = {name: value.data_ptr() for name, value in prior.state_dict().items()}
    optimizer = torch.optim.Adam(prior.parameters(), 1e-2)
    z = torch.randn(400, 3).square()
    context = None if prior.context_shape is None else torch.randn(400, 2)
    prior.initialize(z, context)
    assert {name: value.data_ptr() for name, value in prior.state_dict().items()} == tensors
    before = prior.log_prob(z, context).mean().item()
    for _ in range(20):
        optimizer.zero_grad()
        (-prior.log_prob(z, context).mean()).backward()
        optimizer.step()
    assert prior.log_prob(z, context).mean() > before + 0.05


def test_partial_state_does_not_undo_a_whitening():
    prior, z, _ = _fitted()
    expected = prior.log_prob(z)
    trained = {name: value for name, value in prior.named_parameters()}  # noqa: C416
    prior.load_state_dict(trained, strict=False)
    assert torch.equal(prior.log_prob(z), expected)


def test_components_of_earlier_mixtures_find_their_room():
    old, new = MixturePrior(3, 4), MixturePrior(3)
    new.load_state_dict(old.state_dict())
    z = torch.randn(20, 3)
    torch.testing.assert_close(new.log_prob(z), old.log_prob(z))


class _Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.prior = FlowPrior(3, transforms=2)


def test_whoever_sets_tensors_one_by_one_sets_all_of_them():
    """As loaders of large models do, past `load_state_dict`."""
    holder = _Holder()
    holder.prior.initialize(torch.randn(100, 3) * 4 + 1)
    with torch.device("meta"):
        fresh = _Holder()
    for name, value in holder.state_dict().items():
        path, _, leaf = name.rpartition(".")
        module = fresh.get_submodule(path)
        if leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(value)
        else:
            module._buffers[leaf] = value
    z = torch.randn(4, 3)
    assert torch.equal(fresh.prior.log_prob(z), holder.prior.log_prob(z))


@pytest.mark.parametrize("room", ["bijectors", "priors"])
def test_no_cycle_of_imports(room):
    """Imports inside functions and for the type checker count as well."""
    folder = Path(flowprior.__file__).parent / room
    imports = {}
    for path in folder.glob("*.py"):
        name = f"flowprior.{room}" + ("" if path.stem == "__init__" else f".{path.stem}")
        imports[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imports[name] |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                imports[name] |= {alias.name for alias in node.names}

    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        for name in imports.get(start, set()) - seen:
            seen.add(name)
            if name == goal or reaches(name, goal, seen):
                return True
        return False

    assert [name for name in imports if reaches(name, name, set())] == []
