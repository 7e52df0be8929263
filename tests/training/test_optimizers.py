"""Schedules against torch's own, and settings that do not fit together."""

import math

import pytest
import torch
from torch import nn

from flowprior.errors import InputError
from flowprior.training.optimizers import OptimizerSettings, build_optimizer

STEPS, PER_EPOCH = 60, 6


def torch_rates(make) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = make(optimizer)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def rates(**settings) -> list[float]:
    return [OptimizerSettings(lr=0.3, **settings).rate(step, STEPS, PER_EPOCH) for step in range(STEPS)]


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({}, lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0)),
        ({"schedule": "cosine"}, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS)),
        ({"schedule": "linear"}, lambda o: torch.optim.lr_scheduler.PolynomialLR(o, STEPS)),
        (
            {"schedule": "linear", "linear_after": 0.25},
            lambda o: torch.optim.lr_scheduler.SequentialLR(
                o,
                [
                    torch.optim.lr_scheduler.ConstantLR(o, factor=1.0),
                    torch.optim.lr_scheduler.PolynomialLR(o, STEPS * 3 // 4),
                ],
                [STEPS // 4],
            ),
        ),
        ({"schedule": "one_cycle"}, lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.3, STEPS)),
        (
            {"schedule": "halving", "halve_every": 3},
            lambda o: torch.optim.lr_scheduler.StepLR(o, 3 * PER_EPOCH, gamma=0.5),
        ),
    ],
    ids=["constant", "cosine", "linear", "linear_after", "one_cycle", "halving"],
)
def test_schedules_agree_with_torch(settings, make) -> None:
    torch.testing.assert_close(rates(**settings), torch_rates(make), rtol=1e-9, atol=1e-12)


def test_warmup_multiplies_the_schedule_by_a_ramp() -> None:
    plain, warm = rates(schedule="cosine"), rates(schedule="cosine", warmup=4)
    assert warm[:4] == pytest.approx([plain[i] * (i + 1) / 4 for i in range(4)])
    assert warm[4:] == plain[4:]


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "one_cycle"])
def test_short_stages_have_finite_positive_rates(schedule, steps) -> None:
    found = [OptimizerSettings(schedule=schedule).rate(step, steps, 1) for step in range(steps)]
    assert all(math.isfinite(rate) and 0 < rate <= 1e-3 for rate in found)


def test_each_group_has_its_own_settings() -> None:
    groups = {"a": [nn.Parameter(torch.ones(2))], "b": [nn.Parameter(torch.ones(2))]}
    settings = {
        "a": OptimizerSettings(lr=0.1),
        "b": OptimizerSettings(lr=0.2, betas=(0.8, 0.9), eps=1e-6, weight_decay=2e-5),
    }
    first, second = build_optimizer(groups, settings).param_groups
    assert (first["name"], first["lr"], first["weight_decay"]) == ("a", 0.1, 0.0)
    assert (second["lr"], second["betas"], second["eps"], second["weight_decay"]) == (
        0.2,
        (0.8, 0.9),
        1e-6,
        2e-5,
    )


def test_adamw_decouples_the_decay() -> None:
    def after_a_step_without_gradient(kind: str) -> float:
        parameter = nn.Parameter(torch.ones(1, dtype=torch.float64))
        parameter.grad = torch.zeros(1, dtype=torch.float64)
        settings = {"g": OptimizerSettings(lr=0.1, weight_decay=0.5, kind=kind)}
        build_optimizer({"g": [parameter]}, settings).step()
        return parameter.item()

    assert after_a_step_without_gradient("adamw") == pytest.approx(1 - 0.1 * 0.5)
    assert after_a_step_without_gradient("adam") == pytest.approx(1 - 0.1)  # the decay is a gradient to Adam


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"lr": 0.0}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"schedule": "cos"}, "schedule"),
        ({"schedule": "halving"}, "halve_every"),
        ({"halve_every": 3}, "halve_every"),
        ({"schedule": "halving", "halve_every": 0}, "halve_every"),
        ({"linear_after": 0.5}, "linear_after"),
        ({"schedule": "linear", "linear_after": 1.0}, "linear_after"),
        ({"schedule": "linear", "linear_after": -0.1}, "linear_after"),
        ({"warmup": -1}, "warmup"),
        ({"kind": "sgd"}, "kind"),
    ],
)
def test_bad_settings_are_named(settings, word) -> None:
    with pytest.raises(InputError, match=word):
        OptimizerSettings(**settings)


def test_one_kind_a_player() -> None:
    groups = {"a": [nn.Parameter(torch.ones(1))], "b": [nn.Parameter(torch.ones(1))]}
    settings = {"a": OptimizerSettings(), "b": OptimizerSettings(kind="adamw")}
    with pytest.raises(InputError, match="kind"):
        build_optimizer(groups, settings)
