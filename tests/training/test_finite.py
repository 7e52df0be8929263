"""What is not finite stops a run, with the step, the term and the module; the last good checkpoint stays."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from flowprior.errors import RunError
from flowprior.objectives import Objective
from flowprior.training import OptimizerSettings, Stage, stage_run, train
from flowprior.training.checkpoint import load_checkpoint

DATA = {"x": torch.rand(40, 3, generator=torch.Generator().manual_seed(1))}


class Spoil(nn.Module):
    """The identity, until at one call its output, or its gradient, is spoilt."""

    def __init__(self, at: int, how: str) -> None:
        super().__init__()
        self.at, self.how, self.scale = at, how, nn.Parameter(torch.ones(1))
        self.armed = False

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale
        if not self.armed:
            return x
        if self.how == "output":
            return x / 0
        return x + (x - x).square().sum(1, keepdim=True).sqrt() if self.how == "gradient" else x


class Net(Objective):
    """A chain with one module that goes wrong at step `at`."""

    def __init__(self, at: int = 10**9, how: str = "output") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.spoil, self.last = nn.Linear(3, 3), Spoil(at, how), nn.Linear(3, 3)

    def losses(self, player: str, batch, step: int) -> dict[str, Tensor]:
        self.spoil.armed = step >= self.spoil.at
        out = self.last(torch.relu(self.spoil(self.first(batch["x"]))))
        nll = out.square().mean()
        entropy = torch.ones(()) / (0 if self.spoil.how == "term" and self.spoil.armed else 1)
        return {"loss": nll + entropy, "nll": nll.detach(), "entropy": entropy}


@pytest.fixture(params=["every step", "every window"])
def look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU, and as on a GPU, where numbers are read once a window."""
    if request.param == "every window":
        monkeypatch.setattr(stage_run, "reading_is_free", lambda device: False)


def failing(objective: Objective, run: Path, data=DATA, **options) -> str:
    stage = Stage("fit", objective, data, 5, 8, OptimizerSettings(lr=0.01))
    with pytest.raises(RunError) as error:
        train([stage], run=run, progress=False, tensorboard=False, device="cpu", **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.usefixtures("look")
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("output", ["'loss', 'nll'", "output of module `spoil` (Spoil)"]),
        ("term", ["'loss', 'entropy'", "Net itself"]),
        ("gradient", ["gradient", "output of module `first` (Linear)"]),
    ],
)
def test_step_term_and_module_are_named_and_the_checkpoint_stays(
    tmp_path: Path, how: str, words: list[str]
) -> None:
    objective = Net(at=13, how=how)
    message = failing(objective, tmp_path, checkpoint_every=4, log_every=10)
    for word in ["Step 13", "stage 'fit'", *words]:
        assert word in message
    found = load_checkpoint(tmp_path)
    assert found.state["progress"]["step"] == 12
    assert all(value.isfinite().all() for value in found.tensors.values() if value.is_floating_point())
    assert all(parameter.isfinite().all() for parameter in objective.parameters())


@pytest.mark.usefixtures("look")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_row_of_the_data_is_named(tmp_path: Path, bad: float) -> None:
    x = DATA["x"].clone()
    x[7, 1] = bad
    message = failing(Net(), tmp_path, {"x": x, "label": torch.arange(40)}, log_every=4)
    assert 'batch "x" (1 of 8 rows)' in message
    assert "Step " in message


def test_a_bad_parameter_is_named(tmp_path: Path) -> None:
    objective = Net()
    with torch.no_grad():
        objective.last.weight[0, 0] = float("nan")
    assert '"last.weight" of module `last` (Linear)' in failing(objective, tmp_path)


def test_weights_that_overflow_do_not_replace_a_good_checkpoint(tmp_path: Path) -> None:
    class Overflow(Net):
        def losses(self, player: str, batch, step: int) -> dict[str, Tensor]:
            if step == 7:
                with torch.no_grad():
                    self.first.weight.fill_(float("inf"))
            return {"loss": self.last(batch["x"]).square().mean()}

    message = failing(Overflow(), tmp_path, checkpoint_every=4)
    assert "'first.weight' is not finite" in message
    assert load_checkpoint(tmp_path).state["progress"]["step"] == 4


def test_the_noise_of_the_bad_step_is_drawn_again(tmp_path: Path) -> None:
    class Rare(Net):
        def losses(self, player: str, batch, step: int) -> dict[str, Tensor]:
            noise = torch.rand(())
            self.spoil.armed = bool(noise > 0.9)  # rare: another draw would most likely be sound
            return {"loss": self.spoil(self.first(batch["x"])).square().mean()}

    assert "module `spoil`" in failing(Rare(), tmp_path)


def test_a_validation_loss_that_is_not_a_number(tmp_path: Path) -> None:
    held = {"x": torch.full((4, 3), float("nan"))}
    stage = Stage("fit", Net(), DATA, 5, 8, OptimizerSettings(), validation=held)
    with pytest.raises(RunError, match="validation loss of stage 'fit' after epoch 1"):
        train([stage], run=tmp_path, progress=False, tensorboard=False, device="cpu")
