"""Coverage and quality: Eq. 1, 6, 7 and A.3 by hand, who learns from whom, and runs that resume."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from flowprior import InputError, StandardNormal
from flowprior.bijectors import MultiScale, Pixels
from flowprior.models import GaussianLikelihood, Ladder, PartiallyInvertible
from flowprior.networks import ImageCritic, LadderDecoder, LadderEncoder
from flowprior.objectives import CoverageQuality
from flowprior.training import OptimizerSettings, joint_stage, train
from flowprior.training.checkpoint import load_checkpoint

SIZE = 16


def model(f: bool = True, classes: int | None = None, noise: bool = True) -> PartiallyInvertible:
    torch.manual_seed(0)
    inner = Ladder(
        LadderEncoder(1, SIZE, width=0.03, classes=classes),
        LadderDecoder(4, 1, SIZE, width=0.03, classes=classes),
        StandardNormal(4),
        latent_channels=2,
        likelihood=GaussianLikelihood("learned", "identity"),
        classes=classes,
    )
    shape = (1, SIZE, SIZE)
    flow = MultiScale(shape, 1, 2, 1, hidden_channels=4) if f else None
    built = PartiallyInvertible(inner, flow, Pixels(shape), noise=noise)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return built


def critic(classes: int | None = None) -> nn.Module:
    torch.manual_seed(1)
    return ImageCritic(1, SIZE, width=0.03, classes=classes)


def objective(**options: object) -> CoverageQuality:
    classes, f = options.pop("classes", None), options.pop("f", True)
    noise = options.pop("noise", True)
    built = model(f, classes, noise)  # type: ignore[arg-type]
    return CoverageQuality(built, lambda: critic(classes), **options)  # type: ignore[arg-type]


def batch(n: int = 6, classes: int | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(256, (n, 1, SIZE, SIZE), generator=generator) / 255
    extra = {} if classes is None else {"context": torch.eye(classes)[torch.arange(n) % classes]}
    return {"x": x} | extra


def grads(built: CoverageQuality, player: str, data: dict[str, Tensor]) -> dict[str, list[Tensor | None]]:
    built.zero_grad()
    built(player, data, 0)["loss"].backward()
    groups = built.parameter_groups("model") | {"critic": list(built.critic.parameters())}
    return {name: [p.grad for p in own] for name, own in groups.items()}


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("unit", ["nats", "bits"])
def test_losses_are_the_printed_ones(classes: int | None, unit: str) -> None:
    built = objective(classes=classes, quality=7.0, gradient_penalty=5.0, coverage=2.0, unit=unit).eval()
    data = batch(classes=classes)
    x, context = data["x"], data.get("context")
    torch.manual_seed(4)
    seed = int(torch.randint(2**62, ()))
    u = torch.rand_like(x)
    share = torch.rand(len(x), 1, 1, 1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fake = built.model.rsample(len(x), context)
    real = (x * 255 + u) / 256

    def d(images: Tensor) -> Tensor:
        return torch.sigmoid(built.critic(2 * images - 1, *([] if context is None else [context])))

    between = (2 * (share * real + (1 - share) * fake) - 1).detach().requires_grad_()
    logit = torch.logit(d((between + 1) / 2).double())
    (slope,) = torch.autograd.grad(logit.sum(), between)
    penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    wanted = -d(real).log().mean() - (1 - d(fake)).log().mean() + 5 * penalty
    torch.manual_seed(4)
    losses = built("critic", data, 0)
    torch.testing.assert_close(losses["loss"], wanted.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses["penalty"], penalty.float(), rtol=1e-4, atol=1e-4)
    torch.manual_seed(6)
    bound = -built.model.log_bound(x, context).mean()
    coverage = bound / (1 if unit == "nats" else SIZE**2 * math.log(2))
    torch.manual_seed(6)
    losses = built("model", data, 0)
    generator = -(d(fake) / (1 - d(fake))).log().mean()
    torch.testing.assert_close(losses["adversarial"], generator, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses["loss"], 2 * coverage + 7 * generator, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(losses["bound"], bound / (SIZE**2 * math.log(2)) + 8, rtol=1e-4, atol=1e-4)


def test_the_critic_moves_the_decoder_and_the_variance_through_f_but_not_f() -> None:
    built, data = objective(coverage=1e-12, quality=1.0), batch()
    built("critic", data, 0)
    through = grads(built, "model", data)
    alone = grads(objective(coverage=1e-12, quality=0.0 + 1e-12), "model", data)
    assert all(g is None or g.abs().max() < 1e-6 for g in through["flow"]), "f: from the likelihood alone"
    assert any(g is not None and g.abs().max() > 1e-4 for g in through["decoder"])
    assert through["likelihood"][0].abs() > 1e-5
    assert all(g is None or g.abs().max() < 1e-6 for g in alone["decoder"])
    assert all(g is None or g.abs().max() < 1e-6 for g in through["encoder"])


def test_each_player_leaves_the_other_untouched_and_both_see_one_draw() -> None:
    built, data = objective(), batch()
    seen: list[Tensor] = []
    rsample = built.model.rsample
    built.model.rsample = lambda *a, **k: seen.append(rsample(*a, **k)) or seen[-1]  # type: ignore[method-assign]
    before = {name: each.clone() for name, each in built.state_dict().items()}
    for name, moved, rest in (("critic", "critic.", "model."), ("model", "model.", "critic.")):
        start = {key: each.clone() for key, each in built.state_dict().items()}
        own = {id(p) for group in built.parameter_groups(name).values() for p in group}
        frozen = [p for p in built.parameters() if id(p) not in own]
        for p in frozen:
            p.requires_grad_(False)
        optimizer = torch.optim.Adamax([p for p in built.parameters() if p.requires_grad], 1e-2)
        optimizer.zero_grad()
        built(name, data, 0)["loss"].backward()
        optimizer.step()
        for p in frozen:
            p.requires_grad_(True)
        now = built.state_dict()
        assert any(not torch.equal(now[key], start[key]) for key in now if key.startswith(moved))
        assert all(torch.equal(now[key], start[key]) for key in now if key.startswith(rest))
    assert len(before) == len(built.state_dict())
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])


def test_five_rows_of_one_objective() -> None:
    vae = objective(f=False, quality=0.0)
    assert vae.players == ("model",)
    assert vae.critic is None
    assert set(vae.parameter_groups("model")) == {"encoder", "decoder", "likelihood"}
    assert "flow" in objective(quality=0.0).parameter_groups("model")
    gan = objective(f=False, coverage=0.0, noise=False)
    losses = gan("model", batch(), 0)
    assert set(losses) == {"loss", "adversarial"}
    learned = grads(gan, "model", batch())
    assert all(g is None for g in learned["encoder"] + learned["likelihood"])
    with pytest.raises(InputError, match="both 0"):
        objective(coverage=0.0, quality=0.0)
    with pytest.raises(InputError, match="`critic` \\(=None\\) is missing"):
        CoverageQuality(model())
    with pytest.raises(InputError, match="`unit` \\(='bit'\\)"):
        objective(unit="bit")


@pytest.mark.parametrize("residual", [False, True])
def test_the_gradient_of_the_penalty_is_that_of_finite_differences(residual: bool) -> None:
    """Double backward through every network that the penalty touches, projection included."""
    torch.manual_seed(0)
    network = ImageCritic(1, SIZE, width=0.03, residual=residual, classes=2).double()
    built = CoverageQuality(model(classes=2).double(), lambda: network)
    real, fake = torch.rand(2, 3, 1, SIZE, SIZE, dtype=torch.float64)
    context = torch.eye(2, dtype=torch.float64)[[0, 1, 1]]

    def penalty() -> Tensor:
        torch.manual_seed(3)
        return built._penalty(real, fake, context)

    penalty().backward()
    for parameter in network.parameters():
        if parameter is network.head.bias:
            continue
        direction = torch.randn_like(parameter)
        analytic = 0.0 if parameter.grad is None else (parameter.grad * direction).sum().item()
        values = []
        for sign in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.add_(sign * direction)
            values.append(penalty().item())
            with torch.no_grad():
                parameter.sub_(sign * direction)
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(analytic, rel=1e-3, abs=1e-5)


def stage(**options: object):
    built = model()
    settings = {
        "likelihood": OptimizerSettings(lr=0.02, kind="adamax"),
        "others": OptimizerSettings(kind="adamax"),
    }
    return joint_stage(
        built, batch(30), objective=lambda m: CoverageQuality(m, critic), epochs=2, batch_size=6,
        optimizers=settings, ema=0.9, **options,
    )  # fmt: skip


def test_an_adversarial_run_resumes_bit_by_bit(tmp_path: Path) -> None:
    quiet = {"progress": False, "tensorboard": False, "device": "cpu"}
    steps = {"critic": 2}
    train([stage(steps=steps)], run=tmp_path / "whole", **quiet)
    train([stage(steps=steps)], run=tmp_path / "parts", max_steps=3, **quiet)
    train([stage(steps=steps)], run=tmp_path / "parts", max_steps=7, resume=True, **quiet)
    train([stage(steps=steps)], run=tmp_path / "parts", resume=True, **quiet)
    whole, parts = (load_checkpoint(tmp_path / name).tensors for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "parts/metrics.csv").read_bytes()


def test_a_player_takes_as_many_steps_on_a_batch_as_the_stage_says() -> None:
    taken: list[str] = []
    prepared = stage(steps={"critic": 3})
    losses = prepared.objective.losses
    prepared.objective.losses = lambda player, *rest: taken.append(player) or losses(player, *rest)  # type: ignore[method-assign]
    train([prepared], max_steps=2, progress=False, device="cpu")
    assert taken == 2 * ["critic", "critic", "critic", "model"]
    with pytest.raises(InputError, match="Unknown player in `steps` of stage 'joint' 'critics'"):
        stage(steps={"critics": 2})


def test_frozen_groups_of_the_second_stage_of_a_gan_stand_still() -> None:
    built = model(f=False, noise=False)
    second = joint_stage(
        built, batch(12), objective=lambda m: CoverageQuality(m, quality=0.0), epochs=1, batch_size=6,
        frozen=("decoder",), optimizers=OptimizerSettings(lr=0.01, kind="adamax"),
    )  # fmt: skip
    built.initialize(batch(12))
    before = {name: p.clone() for name, p in built.named_parameters()}
    train([second], progress=False, device="cpu")
    still = {id(p) for part in built.parts()["decoder"] for p in part.parameters()}
    for name, parameter in built.named_parameters():
        assert torch.equal(parameter, before[name]) == (id(parameter) in still), name
