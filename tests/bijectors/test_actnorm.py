"""The start of the learned affine layers: explicit, safe, shared by all ranks."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flowprior.bijectors import RECIPES, build_bijector
from flowprior.bijectors.actnorm import ActNormBase
from flowprior.bijectors.bijector import Bijector
from flowprior.errors import InputError

BOTH = pytest.mark.parametrize("backend", ["nflows", "pyro"])
FROM_DATA = replace(RECIPES["actnorm"], actnorm_start="data")


def layers(bijector: Bijector) -> list[ActNormBase]:
    return [module for module in bijector.modules() if isinstance(module, ActNormBase)]


def build(backend: str, recipe: str = "data") -> Bijector:
    torch.manual_seed(0)
    chosen = FROM_DATA if recipe == "data" else RECIPES["actnorm"]
    return build_bijector(3, chosen, transforms=4, hidden_features=(8,), backend=backend)


@BOTH
def test_nothing_starts_by_itself(backend: str) -> None:
    """Neither a training batch, evaluation before training, nor sampling touches the layers."""
    bijector = build(backend)
    z = 5 + 3 * torch.randn(64, 3)
    expected = {name: value.clone() for name, value in bijector.state_dict().items()}
    for mode in (True, False):
        bijector.train(mode)
        z0, _ = bijector.to_base(z)
        torch.testing.assert_close(bijector.from_base(z0)[0], z)
    for name, value in bijector.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert not any(layer.initialized for layer in layers(bijector))


@BOTH
def test_initialize_standardizes_what_reaches_each_layer(backend: str) -> None:
    bijector = build(backend)
    z = torch.tensor([5.0, -100.0, 0.0]) + torch.randn(512, 3) * torch.tensor([3.0, 0.01, 50.0])
    bijector.initialize(z)
    for step in bijector.steps:
        z, _ = step(z, None)
        if isinstance(step, ActNormBase):
            torch.testing.assert_close(z.mean(0), torch.zeros(3), rtol=0, atol=1e-2)
            torch.testing.assert_close(z.std(0, correction=0), torch.ones(3), rtol=0, atol=1e-2)


@BOTH
def test_identity_recipe_ignores_initialize(backend: str) -> None:
    bijector = build(backend, "identity")
    bijector.initialize(5 + torch.randn(64, 3))
    assert not any(layer.shift.any() or layer.log_scale.any() for layer in layers(bijector))


@BOTH
@pytest.mark.parametrize("rows", [1, 2, 50])
def test_degenerate_batches_are_safe(backend: str, rows: int) -> None:
    """A batch of one, two equal rows, a constant feature: nflows gives NaN or inf."""
    bijector = build(backend)
    bijector.initialize(torch.full((rows, 3), 1e4) + torch.randn(rows, 3) * torch.tensor([1.0, 0.0, 1e-12]))
    z = 1e4 + torch.randn(8, 3)
    z0, logabsdet = bijector.to_base(z)
    assert torch.isfinite(z0).all()
    assert torch.isfinite(logabsdet).all()
    assert all(layer.log_scale[1] == 0 for layer in layers(bijector)[:1])
    torch.testing.assert_close(bijector.from_base(z0)[0], z)


def test_empty_batch_is_refused() -> None:
    with pytest.raises(InputError, match="`z` has batch shape"):
        build("nflows").initialize(torch.zeros(0, 3))


@BOTH
def test_started_layers_survive_a_reload(backend: str) -> None:
    bijector = build(backend)
    bijector.initialize(5 + torch.randn(64, 3))
    assert all(layer.initialized for layer in layers(bijector))
    again = build(backend)
    again.load_state_dict(bijector.state_dict())
    z = torch.randn(4, 3)
    expected = bijector.to_base(z)
    again.initialize(100 + 9 * torch.randn(64, 3))  # already started: must not throw away what was learned
    torch.testing.assert_close(again.to_base(z), expected, rtol=0, atol=0)


@BOTH
def test_flag_keeps_its_storage(backend: str) -> None:
    """nflows replaces the flag by a CPU tensor; in place it stays where the module was moved to."""
    bijector = build(backend)
    before = [layer.initialized.data_ptr() for layer in layers(bijector)]
    bijector.initialize(torch.randn(16, 3))
    assert [layer.initialized.data_ptr() for layer in layers(bijector)] == before


RANK = """
import sys, torch
import torch.distributed as dist
from dataclasses import replace
from flowprior.bijectors import RECIPES, build_bijector
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(0)
recipe = replace(RECIPES["actnorm"], actnorm_start="data")
bijector = build_bijector(3, recipe, transforms=4, hidden_features=(8,), backend="pyro")
rows = torch.load(f"{folder}/rows.pt", weights_only=True)
bijector.initialize(rows[:5] if rank == 0 else rows[5:])  # uneven shares
torch.save(bijector.state_dict(), f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def test_ranks_start_from_all_data_together(tmp_path: Path) -> None:
    torch.manual_seed(1)
    rows = 4 + 2 * torch.randn(20, 3)
    torch.save(rows, tmp_path / "rows.pt")
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)], stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in ranks:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()
    single = build("pyro")
    single.initialize(rows)
    for rank in range(2):
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in single.state_dict().items():
            torch.testing.assert_close(state[name], value, msg=name)
