"""Stages on a Variational U-net: its start from data, uint8 pairs, the prior's stage on the shape's maps."""

import pytest
import torch

from flowprior.errors import InputError
from flowprior.models import VariationalUnet
from flowprior.networks import AppearanceEncoder, ShapeBranch, ShapeEmbedding, UnetDecoder, UnetScales
from flowprior.objectives import Bilevel
from flowprior.priors import EmbeddedPrior, FlowPrior
from flowprior.training import joint_stage, prior_stage, train

QUIET = {"progress": False, "device": "cpu", "tensorboard": False}
DIMENSIONS, CONTEXT = 16 + 64, 4 * 16 + 4 * 64


def unet(embedded: bool = False) -> VariationalUnet:
    torch.manual_seed(0)
    scales = UnetScales(32, filters=2, max_filters=4, blocks=1)
    flow = FlowPrior(DIMENSIONS, transforms=2, hidden_features=(4,), context_features=CONTEXT)
    return VariationalUnet(
        ShapeBranch(1, scales),
        AppearanceEncoder(1, 1, 1, scales),
        UnetDecoder(1, 1, scales),
        EmbeddedPrior(flow, ShapeEmbedding(ShapeBranch(1, scales)), (1, 32, 32)) if embedded else flow,
    )


def pairs(n: int = 96) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.rand(n, 1, 32, 32, generator=generator),
        "context": torch.randint(0, 256, (n, 1, 32, 32), generator=generator, dtype=torch.uint8).float()
        / 255,
        "label": torch.arange(n) % 3,
    }


def stored(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Images as data sets store them, in bytes."""
    return {k: (v * 255).byte() if v.is_floating_point() else v for k, v in tensors.items()}


def state_of(model: VariationalUnet) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_joint_stage_starts_from_four_batches_spread_over_the_data() -> None:
    data, seen = pairs(), []
    model = unet()
    model.initialize = lambda batch: seen.append(batch)  # type: ignore[method-assign]
    stage = joint_stage(model, stored(data), objective=Bilevel, batch_size=6, epochs=0)
    train([stage], **QUIET)
    (batch,) = seen
    rows = torch.linspace(0, 95, 24, dtype=torch.float64).long()
    assert set(batch) == {"x", "context"}
    torch.testing.assert_close(batch["x"], data["x"][rows].mul(255).byte() / 255)
    torch.testing.assert_close(batch["context"], data["context"][rows])


def test_the_start_happens_once_and_not_for_frozen_networks() -> None:
    model, before = unet(), state_of(unet())
    frozen = joint_stage(model, pairs(), batch_size=24, epochs=0, objective=Bilevel, frozen=("autoencoder",))
    train([frozen], **QUIET)
    assert not model.initialized
    first, second = (joint_stage(model, pairs(), batch_size=24, epochs=0, objective=Bilevel) for _ in "ab")
    train([first], **QUIET)
    started = state_of(model)
    assert model.initialized
    assert not torch.equal(started["decoder.end.gain"], before["decoder.end.gain"])
    with torch.no_grad():
        model.decoder.end.gain.mul_(2)
    changed = state_of(model)
    train([second], **QUIET)
    assert all(torch.equal(value, changed[name]) for name, value in state_of(model).items())


def test_a_resumed_run_ends_as_one_that_was_not_interrupted(tmp_path) -> None:
    def run(folder, **options):
        model = unet()
        stage = joint_stage(model, pairs(), batch_size=24, epochs=2, objective=Bilevel)
        train([stage], run=tmp_path / folder, **QUIET, **options)
        return state_of(model)

    whole = run("whole")
    run("parts", max_steps=3)
    resumed = run("parts", resume=True)
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_training_lowers_the_reconstruction() -> None:
    """On pairs whose image follows from the context."""
    tensors = pairs(24)
    tensors["x"] = 1 - torch.nn.functional.avg_pool2d(tensors["context"], 8).repeat_interleave(
        8, 2
    ).repeat_interleave(8, 3)
    stage = joint_stage(unet(), tensors, batch_size=12, epochs=15, objective=lambda m: Bilevel(m, beta=0.0))
    history = train([stage], **QUIET).history
    assert history[-1]["train/reconstruction"] < 0.9 * history[0]["train/reconstruction"]


def test_the_priors_stage_sees_the_shapes_maps() -> None:
    model, data = unet(), stored(pairs(30))
    stage = prior_stage(model, data, epochs=1, batch_size=10, standardize="diagonal", validation=0.2)
    _, held = stage.split(0)
    assert held is not None
    assert len(held["z"]) == 6
    before = {name: value for name, value in state_of(model).items() if not name.startswith("prior")}
    train([stage], **QUIET)
    assert all(torch.equal(value, before[name]) for name, value in state_of(model).items() if name in before)
    whole = prior_stage(model, data).split(0)[0]
    x, y = data["x"] / 255, data["context"] / 255
    torch.testing.assert_close(whole["z"], model.codes(x, y))
    model.eval()
    expected = model.prior_context(model.condition(y))
    assert expected is not None
    torch.testing.assert_close(whole["context"], expected.detach())
    assert set(whole) == {"z", "std", "context"}
    assert torch.equal(whole["std"], torch.ones_like(whole["z"]))  # that of the unit Gaussian posterior


@pytest.mark.parametrize("initialize", [True, False])
def test_an_embedded_priors_stage_sees_the_conditions_themselves(initialize) -> None:
    model, data = unet(embedded=True), stored(pairs(400))
    stage = prior_stage(model, data, epochs=1, batch_size=50, initialize=initialize)
    whole = stage.split(0)[0]
    assert whole["context"].dtype == torch.uint8
    assert torch.equal(whole["context"], data["context"])
    before = state_of(model)
    train([stage], **QUIET)
    after = state_of(model)
    changed = {name for name in after if name not in before or not torch.equal(after[name], before[name])}
    assert all(name.startswith("prior.") for name in changed)
    assert any(name.startswith("prior.embedding.branch.path.") for name in changed)
    assert any(name.startswith("prior.prior.") for name in changed)


def test_labels_do_not_stand_in_for_images() -> None:
    data = {name: value for name, value in pairs().items() if name != "context"}
    with pytest.raises(InputError, match="'context'"):
        train([prior_stage(unet(), data, epochs=1)], **QUIET)
    stage = joint_stage(unet(), data, epochs=1, objective=Bilevel)
    assert "context" not in stage.split(0)[0]
