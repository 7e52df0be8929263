"""The peers of the benchmark do the work of `glf`: same layers, a density that is one, samples of it."""

import pytest
import torch
from torch import nn

from flowprior import FlowPrior
from flowprior.commands.peers import PEERS, choose, installed
from flowprior.errors import InputError


def _sizes(flow: nn.Module) -> list[tuple[int, ...]]:
    """The sizes of all weights."""
    return sorted(tuple(p.shape) for p in flow.parameters() if p.dim() == 2 and p.requires_grad)


# What the peers' own imports and transforms warn of is not ours to mend.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("features", "depth"), [(2, 2), (3, 5), (6, 4)])
@pytest.mark.parametrize("name", PEERS)
def test_same_layers_and_a_true_density(name: str, features: int, depth: int) -> None:
    if name not in installed():
        pytest.skip(f"{name} is not installed")
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        flow = PEERS[name](features, depth, 8)
        z = flow.sample(5)
    finally:
        torch.set_default_dtype(torch.float32)
    assert z.shape == (5, features)
    assert _sizes(flow) == _sizes(FlowPrior(features, transforms=depth, hidden_features=(8, 8)))
    assert flow.log_prob(z).shape == (5,)
    parameters = [p for p in flow.parameters() if p.requires_grad]
    flow.log_prob(z).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters if p.dim() == 2)
    if features == 2:  # the density integrates to one
        line = torch.linspace(-12, 12, 400, dtype=torch.float64)
        grid = torch.cartesian_prod(line, line)
        total = flow.log_prob(grid).exp().sum() * (line[1] - line[0]) ** 2
        assert abs(total - 1) < 1e-2


def test_peers_by_name() -> None:
    assert choose("none") == ()
    assert choose("installed") == installed()
    assert choose("nflows, pyro") == ("nflows", "pyro")
    with pytest.raises(InputError, match="nflowz"):
        choose("nflowz")


def test_a_peer_that_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowprior.commands.peers.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install pyro-ppl"):
        choose("pyro")
