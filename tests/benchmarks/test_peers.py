"""The peers of the benchmark do the work of `glf`: same layers, a density that is one, samples of it."""

import importlib.util

import pytest
import torch
from torch import nn

from flowprior import FlowPrior
from flowprior.errors import InputError
from flowprior.evaluation.costs import OPERATIONS, Size

PEERS = ("nflows", "normflows", "zuko", "pyro", "FrEIA")


def _shapes(flow: nn.Module) -> list[tuple[int, ...]]:
    """The shapes of all weights."""
    return sorted(tuple(p.shape) for p in flow.parameters() if p.dim() == 2 and p.requires_grad)


# What the peers' own imports and transforms warn of is not ours to mend.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("features", "depth"), [(2, 2), (3, 5), (6, 4)])
@pytest.mark.parametrize("name", PEERS)
def test_same_layers_and_a_true_density(name: str, features: int, depth: int, script) -> None:
    peers = script("peers")
    if name not in peers.installed():
        pytest.skip(f"{name} is not installed")
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        flow = peers.FLOWS[name](features, depth, 8)
        z = flow.sample(5)
    finally:
        torch.set_default_dtype(torch.float32)
    assert z.shape == (5, features)
    assert _shapes(flow) == _shapes(FlowPrior(features, transforms=depth, hidden_features=(8, 8)))
    assert flow.log_prob(z).shape == (5,)
    parameters = [p for p in flow.parameters() if p.requires_grad]
    flow.log_prob(z).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters if p.dim() == 2)
    if features == 2:  # the density integrates to one
        line = torch.linspace(-12, 12, 400, dtype=torch.float64)
        grid = torch.cartesian_prod(line, line)
        total = flow.log_prob(grid).exp().sum() * (line[1] - line[0]) ** 2
        assert abs(total - 1) < 1e-2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_is_a_contestant_that_learns(name: str, script) -> None:
    peers = script("peers")
    if name not in peers.installed():
        pytest.skip(f"{name} is not installed")
    entered = peers.PEERS[name](Size(4, 2, 8, 5), "cpu")
    assert entered.name == name
    assert tuple(entered.calls) == OPERATIONS
    before = [p.detach().clone() for p in entered.parameters]
    entered.calls["step"]()
    assert all(not torch.equal(*both) for both in zip(before, entered.parameters, strict=True))


def test_peers_by_name(script) -> None:
    peers = script("peers")
    assert tuple(peers.PEERS) == PEERS
    assert peers.choose("none") == ()
    assert peers.choose("installed") == peers.installed()
    assert peers.choose("nflows, pyro") == ("nflows", "pyro")
    with pytest.raises(InputError, match="nflowz"):
        peers.choose("nflowz")


def test_a_peer_that_is_missing_is_named_with_its_package(script, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = script("peers")
    assert importlib.util.find_spec("pyro") is not None
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install pyro-ppl"):
        peers.choose("pyro")


def test_the_arithmetic_is_that_of_the_layers_of_the_flow(script) -> None:
    peers = script("peers")
    for size in (Size(20, 8, 64, 100), Size(5, 3, 7, 2)):
        flow = FlowPrior(size.features, transforms=size.depth, hidden_features=(size.width, size.width))
        weights = [layer.weight for layer in flow.modules() if isinstance(layer, nn.Linear)]
        assert sorted(peers.layers(size)) == sorted((w.shape[1], w.shape[0]) for w in weights)
        forward = 2 * size.batch * sum(w.numel() for w in weights)
        assert peers.flop(size, "sample") == peers.flop(size, "log_prob") == forward
        assert peers.flop(size, "step") == 3 * forward


@pytest.mark.filterwarnings("ignore")
def test_a_fused_step_of_a_peer_is_told_apart(script) -> None:
    peers = script("peers")
    entered = peers.with_fused_adam("nflows", Size(4, 2, 8, 5), "cpu")
    assert (entered.name, tuple(entered.calls)) == ("nflows, fused Adam", ("step",))


def test_jax_computes_the_flow_of_flowprior(script) -> None:
    jax = pytest.importorskip("jax")
    engines = script("engines")
    size = Size(5, 3, 8, 6)
    prior, z = engines.glf(size), torch.randn(6, 5)
    flow = engines.JaxFlow(prior)
    with torch.no_grad():
        expected, z0 = prior.log_prob(z), prior.to_base(z)[0]
    numbers = torch.from_numpy(jax.device_get(flow.log_prob(flow.parameters, z.numpy())).copy())
    torch.testing.assert_close(numbers, expected, rtol=1e-5, atol=1e-5)
    back = torch.from_numpy(jax.device_get(flow.from_base(flow.parameters, z0.numpy())).copy())
    torch.testing.assert_close(back, z, rtol=1e-4, atol=1e-4)
    optimizer = torch.optim.Adam(prior.parameters(), lr=engines.LR)
    (-prior.log_prob(z).mean()).backward()
    optimizer.step()
    moments = [jax.tree.map(lambda leaf: 0 * leaf, flow.parameters) for _ in range(2)]
    stepped, _, _ = flow.step(flow.parameters, tuple(moments), 0.0, z.numpy())
    for own, other in zip(prior.parameters(), jax.tree.leaves(stepped), strict=True):
        torch.testing.assert_close(torch.from_numpy(jax.device_get(other).copy()), own.detach())
