"""The loop against loops written by hand, and each of its promises."""

import csv
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from flowprior.data.batches import Batches
from flowprior.errors import InputError
from flowprior.objectives import Objective
from flowprior.training import OptimizerSettings, Stage, load_weights, train

DATA = {"x": torch.randn(47, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)}
QUIET = {"progress": False, "device": "cpu", "tensorboard": False}


class Regression(Objective):
    """x -> x through a bottleneck, with two groups and noise on request."""

    def __init__(self, noise: float = 0.0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.inner, self.outer = nn.Linear(3, 2, dtype=dtype), nn.Linear(2, 3, dtype=dtype)
        self.noise, self.seen = noise, []

    def parameter_groups(self, player: str) -> dict[str, list[nn.Parameter]]:
        return {"inner": list(self.inner.parameters()), "outer": list(self.outer.parameters())}

    def losses(self, player: str, batch, step: int) -> dict[str, Tensor]:
        x = batch["x"]
        h = self.inner(x)
        error = self.outer(h + self.noise * torch.randn_like(h)) - x
        self.seen.append((step, self.training, h.dtype))
        return {"loss": error.square().mean(), "size": error.detach().abs().mean()}


def stage(objective: Objective | None = None, **settings) -> Stage:
    defaults = {"epochs": 3, "batch_size": 10, "optimizers": OptimizerSettings(lr=0.01)}
    return Stage("fit", objective or Regression(), DATA, **{**defaults, **settings})


def by_hand(
    objective: Regression, rates, clip: float | None = None, decay: float | None = None, seed: int = 0
):
    """Adam as torch has it, over the same batches; returns the averaged weights."""
    batches = Batches(DATA, 10, seed=seed)
    groups = objective.parameter_groups("model").values()
    optimizer = torch.optim.Adam([{"params": group} for group in groups], lr=0.01, foreach=False)
    weights = list(objective.parameters())
    averages = [weight.detach().clone() for weight in weights]
    step = 0
    for epoch in range(3):
        for batch in batches.epoch(epoch):
            for group, rate in zip(optimizer.param_groups, rates(step, 12), strict=True):
                group["lr"] = rate
            optimizer.zero_grad()
            objective.losses("model", batch, step)["loss"].backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(weights, clip)
            optimizer.step()
            if decay is not None:
                kept = min(decay, (1 + step) / (10 + step))
                for average, weight in zip(averages, weights, strict=True):
                    average.mul_(kept).add_(weight.detach(), alpha=1 - kept)
            step += 1
    return averages


def close(one, other) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-9, atol=1e-12)


def test_plain_training_is_torchs() -> None:
    ours, theirs = Regression(), Regression()
    result = train([stage(ours)], **QUIET)
    by_hand(theirs, lambda step, steps: (0.01, 0.01))
    close(ours.parameters(), theirs.parameters())
    assert result.steps == 12
    assert result.finished
    assert [step for step, *_ in ours.seen] == list(range(12))


def test_groups_schedules_and_clipping() -> None:
    ours, theirs = Regression(), Regression()
    settings = {"inner": OptimizerSettings(lr=0.02, schedule="cosine"), "outer": OptimizerSettings(lr=0.01)}
    train([stage(ours, optimizers=settings, clip=0.1)], **QUIET)
    by_hand(theirs, lambda step, steps: (0.01 * (1 + math.cos(math.pi * step / steps)), 0.01), clip=0.1)
    close(ours.parameters(), theirs.parameters())


def test_averaged_weights_end_in_the_model() -> None:
    ours, theirs = Regression(), Regression()
    train([stage(ours, ema=0.5)], **QUIET)
    close(ours.parameters(), by_hand(theirs, lambda step, steps: (0.01, 0.01), decay=0.5))


def test_frozen_groups_rest_and_may_be_trained_later() -> None:
    class Normed(Regression):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()

    ours = Normed()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    train([stage(ours, frozen=("inner",), optimizers={"outer": OptimizerSettings(lr=0.01)})], **QUIET)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("inner"), name
    assert all(parameter.requires_grad for parameter in ours.parameters())
    train([stage(ours)], **QUIET)
    assert not torch.equal(ours.state_dict()["inner.0.weight"], before["inner.0.weight"])


class Game(Objective):
    """Two players on one number each, whose losses hang on both."""

    players = ("first", "second")

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(2.0))
        self.history: list[tuple[str, float, float]] = []

    def parameter_groups(self, player: str) -> dict[str, list[nn.Parameter]]:
        return {"first": {"a": [self.a]}, "second": {"b": [self.b]}}[player]

    def losses(self, player: str, batch, step: int) -> dict[str, Tensor]:
        self.history.append((player, self.a.item(), self.b.item()))
        return {"loss": self.a * self.b if player == "first" else -self.a * self.b}


def test_players_step_in_order_and_leave_each_other_alone(tmp_path: Path) -> None:
    game = Game()
    settings = {"a": OptimizerSettings(lr=0.1), "b": OptimizerSettings(lr=0.5)}
    train([stage(game, epochs=1, optimizers=settings)], run=tmp_path, **QUIET)
    (one, a0, b0), (two, a1, b1), (three, a2, b2) = game.history[:3]
    assert (one, two, three) == ("first", "second", "first")
    assert (a1, b1) == (pytest.approx(a0 - 0.1), b0)  # Adam's first step is lr * sign
    assert (a2, b2) == (a1, pytest.approx(b1 + 0.5))
    assert game.a.grad is None
    names = {name for _, name, _ in read(tmp_path)}
    assert {"train/first/loss", "train/second/loss", "lr/a", "lr/b"} <= names


def test_a_player_takes_as_many_steps_on_a_batch_as_the_stage_says(tmp_path: Path) -> None:
    game = Game()
    settings = {"a": OptimizerSettings(lr=0.1), "b": OptimizerSettings(lr=0.5)}
    options = {"epochs": 1, "optimizers": settings, "steps": {"second": 3}}
    result = train([stage(game, **options)], run=tmp_path, **QUIET)
    players = [player for player, *_ in game.history]
    assert players == ["first", "second", "second", "second"] * result.steps  # a step of the run is a batch
    once = Game()
    train([stage(once, epochs=1, optimizers=settings)], **QUIET)
    assert once.history[1] == game.history[1]
    with pytest.raises(InputError, match="Unknown player in `steps` of stage 'fit' 'third'"):
        stage(Game(), optimizers=settings, steps={"third": 2})
    with pytest.raises(InputError, match=r"`steps` \(=0\)"):
        stage(Game(), optimizers=settings, steps={"first": 0})


def read(run: Path) -> list[tuple[int, str, float]]:
    with (run / "metrics.csv").open() as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["step", "name", "value"]
    return [(int(step), name, float(value)) for step, name, value in rows[1:]]


def test_logged_values_are_means_of_their_windows(tmp_path: Path) -> None:
    losses = []

    class Noted(Regression):
        def losses(self, player: str, batch, step: int) -> dict[str, Tensor]:
            terms = super().losses(player, batch, step)
            losses.append(terms["loss"].item())
            return terms

    result = train([stage(Noted())], run=tmp_path, log_every=3, **QUIET)
    windows = {step: value for step, name, value in read(tmp_path) if name == "train/loss"}
    assert list(windows) == [3, 4, 6, 8, 9, 12]
    assert windows[3] == pytest.approx(sum(losses[:3]) / 3)
    assert windows[4] == pytest.approx(losses[3])
    assert windows[12] == pytest.approx(sum(losses[9:]) / 3)
    epochs = [entry["train/loss"] for entry in result.history]
    assert epochs == pytest.approx([sum(losses[i : i + 4]) / 4 for i in (0, 4, 8)])
    assert result.metrics["train/loss"] == epochs[-1]


def test_validation_sees_averaged_weights_in_evaluation_mode_with_the_same_noise() -> None:
    objective = Regression(noise=0.5)
    reports = []
    whole = stage(objective, validation=0.2, ema=0.5, epochs=2)
    result = train([whole], on_epoch=reports.append, **QUIET)
    modes = [training for _, training, _ in objective.seen]
    assert modes == ([True] * 3 + [False] * 1) * 2  # 38 rows to train on, 9 held out
    assert result.best_epoch is not None
    best = result.history[result.best_epoch - 1]["valid/loss"]
    assert best == min(entry["valid/loss"] for entry in result.history)
    assert [end.epoch for end in reports] == [1, 2]
    assert reports[-1].metrics["valid/loss"] == result.history[-1]["valid/loss"]
    training, held = whole.split(0)
    assert held is not None
    rows = torch.cat([training["x"], held["x"]])
    assert torch.equal(rows[rows[:, 0].argsort()], DATA["x"][DATA["x"][:, 0].argsort()])
    order = next(iter(Batches(held, 10, drop_last=False, seed=0).epoch(0)))
    torch.manual_seed(0)  # the noise of every validation
    with torch.no_grad():  # the model now has the best epoch's averaged weights
        again = objective.losses("model", order, 0)["loss"].item()
    assert again == pytest.approx(best, rel=1e-9)


def test_patience_stops_and_the_best_weights_stay() -> None:
    objective = Regression()
    worse = stage(
        objective, epochs=50, validation=0.2, patience=2, optimizers=OptimizerSettings(lr=3.0)
    )  # too fast: it soon gets worse
    result = train([worse], **QUIET)
    assert len(result.history) < 50
    assert len(result.history) == result.best_epoch + 2
    _, held = worse.split(0)
    with torch.no_grad():
        now = objective.losses("model", held, 0)["loss"].item()
    assert now == pytest.approx(min(entry["valid/loss"] for entry in result.history), rel=1e-9)


def test_stages_follow_each_other_and_see_what_came_before() -> None:
    objective = Regression()
    seen = {}

    def data():
        seen["at data"] = objective.outer.weight.detach().clone()
        return DATA

    def initialize(tensors) -> None:
        seen["rows"] = len(tensors["x"])

    second = Stage(
        "second", objective, data, 1, 10, OptimizerSettings(), validation=0.1, initialize=initialize
    )
    start = objective.outer.weight.detach().clone()
    result = train([stage(objective, epochs=1), second], **QUIET)
    assert not torch.equal(seen["at data"], start)
    assert seen["rows"] == 42
    assert [entry["stage"] for entry in result.history] == ["fit", "second"]
    assert set(result.seconds_per_epoch) == {"fit", "second"}
    assert result.history[-1]["step"] == result.steps == 8


def test_the_callers_random_state_and_modes_are_left_alone() -> None:
    objective = Regression(noise=0.1).eval()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train([stage(objective, validation=0.2)], seed=5, on_epoch=lambda end: torch.rand(9), **QUIET)
    assert torch.equal(torch.rand(3), expected)
    assert not objective.training
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_an_interrupted_training_leaves_modes_as_they_were() -> None:
    objective = Regression().eval()

    def interrupt(end: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train([stage(objective, frozen=("inner",))], on_epoch=interrupt, **QUIET)
    assert not objective.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in objective.parameters())


def test_seeds_repeat_and_differ() -> None:
    def weights(seed: int, **options) -> Tensor:
        objective = Regression(noise=0.1)
        train([stage(objective, validation=0.2)], seed=seed, **options, **QUIET)
        return objective.inner.weight.detach()

    assert torch.equal(weights(1), weights(1))
    assert torch.equal(weights(1), weights(1, on_epoch=lambda end: torch.rand(9)))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_precisions(precision: str) -> None:
    objective = Regression(dtype=torch.float32)
    data = {"x": DATA["x"].float()}
    train([Stage("fit", objective, data, 2, 10, OptimizerSettings())], precision=precision, **QUIET)
    inside = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "64-true": torch.float64}[precision]
    outside = torch.float64 if precision == "64-true" else torch.float32
    assert {dtype for *_, dtype in objective.seen} == {inside}
    assert {parameter.dtype for parameter in objective.parameters()} == {outside}


def test_interrupted_by_max_steps_the_model_has_what_load_weights_gives(tmp_path: Path) -> None:
    ours, loaded = Regression(), Regression()
    result = train([stage(ours, ema=0.5)], run=tmp_path, max_steps=5, **QUIET)
    assert (result.steps, result.finished) == (5, False)
    assert load_weights(tmp_path, loaded) == 5
    close(loaded.parameters(), ours.parameters())


def test_a_finished_run_resumes_to_its_result(tmp_path: Path) -> None:
    ours, again = Regression(), Regression()
    first = train([stage(ours)], run=tmp_path, **QUIET)
    log = (tmp_path / "metrics.csv").read_bytes()
    second = train([stage(again)], run=tmp_path, resume=True, **QUIET)
    assert second.steps == first.steps
    assert second.metrics == first.metrics
    assert not again.seen
    close(again.parameters(), ours.parameters())
    assert (tmp_path / "metrics.csv").read_bytes() == log


def test_resume_goes_on_from_an_older_checkpoint_if_the_newest_is_damaged(tmp_path: Path) -> None:
    whole, stopped, resumed = (Regression(noise=0.1) for _ in range(3))
    train([stage(whole)], run=tmp_path / "whole", log_every=2, **QUIET)
    run = tmp_path / "run"
    train([stage(stopped)], run=run, checkpoint_every=3, log_every=2, max_steps=8, **QUIET)
    for path in sorted((run / "checkpoints").glob("*.safetensors"))[1:]:
        path.write_bytes(b"")
    train([stage(resumed)], run=run, resume=True, log_every=2, **QUIET)
    assert next(step for step, *_ in resumed.seen) == 3
    close(resumed.parameters(), whole.parameters())
    assert (run / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()


def test_resume_refuses_other_stages(tmp_path: Path) -> None:
    train([stage(epochs=1)], run=tmp_path, **QUIET)
    renamed = Stage("other", Regression(), DATA, 1, 10, OptimizerSettings())
    with pytest.raises(InputError, match="stages"):
        train([renamed], run=tmp_path, resume=True, **QUIET)
    wider = Regression()
    wider.inner = nn.Linear(3, 5)
    with pytest.raises(InputError, match="does not fit"):
        train([stage(wider, epochs=1)], run=tmp_path, resume=True, **QUIET)


def test_tensorboard_has_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train([stage()], run=tmp_path, log_every=4, progress=False, device="cpu")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = {item.step: item.value for item in events.Scalars("train/loss")}
    written = {step: value for step, name, value in read(tmp_path) if name == "train/loss"}
    assert logged == pytest.approx(written, rel=1e-6)


def test_progress_bar_shows_steps_loss_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    train([stage()], device="cpu")
    shown = capsys.readouterr().err
    assert "fit:" in shown
    assert "12/12" in shown
    assert "loss=" in shown


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"log_every": 0}, "log_every"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"keep": 0}, "keep"),
        ({"max_steps": -1}, "max_steps"),
        ({"resume": True}, "resume"),
        ({"precision": "8-true"}, "precision"),
        ({"precision": "16-mixed"}, "GPU"),
        ({"device": "gpu"}, "device"),
        ({"device": "cuda:77"}, "cuda:77"),
        ({"devices": 0}, "devices"),
    ],
)
def test_bad_arguments_are_named(options, word: str) -> None:
    with pytest.raises(InputError, match=word):
        train([stage()], **{**QUIET, **options})


def test_a_run_folder_is_not_overwritten_and_an_empty_one_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not list"):
        train([stage()], run=tmp_path, resume=True, **QUIET)
    train([stage(epochs=1)], run=tmp_path, **QUIET)
    with pytest.raises(InputError, match="holds checkpoints already"):
        train([stage(epochs=1)], run=tmp_path, **QUIET)
    with pytest.raises(InputError, match="stages"):
        train([], **QUIET)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"epochs": -1}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"ema": 1.0}, "ema"),
        ({"clip": 0.0}, "clip"),
        ({"validation": 1.0}, "validation"),
        ({"patience": 3}, "patience"),
        ({"frozen": ("iner",)}, "iner"),
        ({"optimizers": {"inner": OptimizerSettings(), "oter": OptimizerSettings()}}, "oter"),
    ],
)
def test_bad_stages_are_named(settings, word: str) -> None:
    with pytest.raises(InputError, match=word):
        stage(**settings)


def test_others_stands_for_the_groups_that_are_not_named() -> None:
    slow, fast = OptimizerSettings(lr=1e-4), OptimizerSettings(lr=1e-2)
    given = stage(optimizers={"inner": slow, "others": fast})
    assert given.settings("inner") is slow
    assert given.settings("outer") is fast


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"optimizers": {"inner": OptimizerSettings()}}, "outer"),
        ({"frozen": ("inner", "outer")}, "nothing to train"),
        ({"validation": 0.001}, "validation"),
    ],
)
def test_stages_that_cannot_run_are_named(settings, word: str) -> None:
    with pytest.raises(InputError, match=word):
        train([stage(**settings)], **QUIET)
