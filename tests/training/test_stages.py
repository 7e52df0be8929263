"""The ready-made stages on real models: what each trains, and on what."""

import pytest
import torch
from torch import nn

from flowprior.data.images import Source
from flowprior.errors import InputError
from flowprior.models import Autoencoder
from flowprior.networks import MLP
from flowprior.objectives import LatentFlow, LatentNLL
from flowprior.priors import FlowPrior, MixturePrior
from flowprior.training import OptimizerSettings, Stage, joint_stage, prior_stage, train

QUIET = {"progress": False, "device": "cpu"}


def autoencoder(**options) -> Autoencoder:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 2))
    decoder = nn.Sequential(MLP(2, 16, (12,)), nn.Unflatten(1, (1, 4, 4)))
    return Autoencoder(encoder, decoder, FlowPrior(2, transforms=2, hidden_features=(8,), **options))


def images(labels: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randint(0, 256, (300, 1, 4, 4), generator=generator, dtype=torch.uint8),
        "label": torch.randint(0, labels, (300,), generator=generator),
    }


def changed(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    """The first part of the name of each tensor that is not what it was."""
    return {
        name.split(".")[0]
        for name, value in model.state_dict().items()
        if name not in before or not torch.equal(value, before[name])
    }


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_two_stage_glf_trains_one_part_at_a_time() -> None:
    model = autoencoder()
    seen = []

    def after(end) -> None:
        seen.append((end.stage.name, changed(model, before[end.stage.name])))
        before["prior"] = snapshot(model)

    before = {"autoencoder": snapshot(model)}
    first = joint_stage(model, images(), frozen=("prior",), epochs=1, batch_size=50, name="autoencoder")
    train([first, prior_stage(model, images(), epochs=1, batch_size=50)], on_epoch=after, **QUIET)
    assert seen == [("autoencoder", {"encoder", "decoder"}), ("prior", {"prior"})]


def test_the_prior_is_trained_on_the_codes_of_the_autoencoder_as_it_then_is() -> None:
    model = autoencoder()
    stages = [joint_stage(model, images(), epochs=2), prior_stage(model, images(), epochs=1)]
    train(stages, **QUIET)
    tensors, _ = stages[1].split(0)
    assert torch.equal(tensors["z"], model.codes(images()["x"].float() / 255))
    assert set(tensors) == {"z"}
    torch.testing.assert_close(model.prior.whitening.loc, tensors["z"].mean(0))


def test_initialize_can_be_left_out_to_go_on_from_where_the_prior_is() -> None:
    model = autoencoder()
    latents = {"z": torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) * 5 + 3}
    train([prior_stage(model.prior, latents, epochs=3)], **QUIET)
    whitening = model.prior.whitening
    train([prior_stage(model.prior, {"z": latents["z"] - 50}, initialize=False, epochs=1)], **QUIET)
    assert model.prior.whitening is whitening


def test_a_stage_of_no_epochs_only_initializes() -> None:
    """The papers' mixture on an autoencoder's codes: expectation maximisation, and no gradient step."""
    from sklearn.mixture import GaussianMixture

    latents = {"z": torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).sinh()}
    prior = MixturePrior(2, components=3, covariance="full", start="em")
    result = train([prior_stage(prior, latents, epochs=0)], **QUIET)
    expected = (
        GaussianMixture(3, random_state=0).fit(latents["z"].numpy()).score_samples(latents["z"].numpy())
    )
    assert result.finished
    assert result.steps == 0
    torch.testing.assert_close(
        prior.log_prob(latents["z"]).double(), torch.tensor(expected).double(), atol=1e-3, rtol=0
    )


def test_joint_training_trains_both_parts() -> None:
    settings = {"autoencoder": OptimizerSettings(lr=1e-2), "prior": OptimizerSettings(lr=1e-2)}

    def trained(**options) -> list[dict[str, float]]:
        stage = joint_stage(autoencoder(), images(), epochs=15, batch_size=50, optimizers=settings, **options)
        return train([stage], **QUIET).history

    both, without_prior = trained(), trained(frozen=("prior",))
    assert both[-1]["train/reconstruction"] < both[0]["train/reconstruction"]
    # The stop-gradient lets the autoencoder go its way in both; the codes grow, and only one prior follows.
    assert both[-1]["train/reconstruction"] == without_prior[-1]["train/reconstruction"]
    assert both[-1]["train/nll"] < without_prior[-1]["train/nll"] - 0.1


def test_labels_become_the_context_of_a_conditional_prior() -> None:
    model = autoencoder(context_features=3)
    tensors, held = joint_stage(model, images(), validation=0.1).split(0)
    assert held is not None
    assert torch.equal(tensors["context"].argmax(1), tensors["label"])
    assert tensors["context"].sum(1).eq(1).all()
    assert held["context"].shape == (30, 3)
    stages = [joint_stage(model, images(), epochs=1), prior_stage(model, images(), epochs=1, validation=0.1)]
    train(stages, **QUIET)
    with pytest.raises(InputError, match="context_features"):
        joint_stage(model, images(labels=5)).split(0)


def test_validation_data_of_its_own_is_encoded_as_well() -> None:
    model = autoencoder()
    held_out = {"x": images()["x"][:40]}
    stage = prior_stage(model, images, epochs=1, validation=lambda: held_out)
    tensors, held = stage.split(0)
    assert (len(tensors["z"]), len(held["z"])) == (300, 40)
    assert "valid/nll" in train([stage], **QUIET).metrics


@pytest.mark.parametrize("data", [{"label": torch.zeros(20)}, {"z": torch.zeros(20, 2)}], ids=["label", "z"])
def test_data_without_what_a_stage_needs_is_named(data) -> None:
    with pytest.raises(InputError, match="'x'"):
        train([prior_stage(autoencoder(), data, epochs=1)], **QUIET)


def test_a_prior_alone_needs_z() -> None:
    with pytest.raises(InputError, match="'z'"):
        train([prior_stage(FlowPrior(2), images(), epochs=1)], **QUIET)


def test_stages_are_built_on_their_model_and_read_data_late() -> None:
    model = autoencoder()
    source = Source("digits", limit=60)
    joint, prior = (make(model, lambda: source.train().tensors()) for make in (joint_stage, prior_stage))
    assert isinstance(joint, Stage)
    assert isinstance(joint.objective, LatentFlow)
    assert joint.objective.model is model
    assert isinstance(prior.objective, LatentNLL)
    assert prior.objective.prior is model.prior
    assert len(joint.split(0)[0]["x"]) == 60


def late_start(model: Autoencoder, **options) -> Stage:
    return joint_stage(model, images(), epochs=4, batch_size=50, prior_start=2, **options)


def test_a_late_start_sees_the_codes_of_that_epoch_and_restarts_averages_and_moments() -> None:
    model = autoencoder(base="mixture")
    seen = {}

    def after(end) -> None:
        if end.epoch == 2:
            seen["codes"] = model.codes(images()["x"].float() / 255)

    stage = late_start(model)
    start = stage.at_epoch[2]

    def spy(tensors) -> None:
        seen["at start"] = model.codes(tensors["x"].float() / 255)
        start(tensors)
        seen["means"] = model.prior.base.means.detach().clone()

    stage.at_epoch = {2: spy}
    train([stage], on_epoch=after, **QUIET)
    torch.testing.assert_close(seen["at start"], seen["codes"])
    expected = autoencoder(base="mixture").prior
    assert not torch.equal(seen["means"], expected.base.means)
    assert (seen["means"] - model.prior.base.means).abs().max() < 1  # trained on from there


def test_an_average_forgets_what_was_before_a_late_start() -> None:
    model = autoencoder(base="mixture")
    stage = late_start(model, ema=0.9999)
    start, filled = stage.at_epoch[2], {}

    def spy(tensors) -> None:
        start(tensors)
        filled.update(snapshot(model.prior.base))

    stage.at_epoch = {2: spy}
    before = model.prior.base.means.detach().clone()
    train([stage], max_steps=13, **QUIET)  # one step after the start, with its average delivered
    now = model.prior.base.means
    assert (now - filled["means"]).abs().max() < (now - before).abs().max() / 10


def test_a_run_interrupted_after_a_late_start_ends_with_equal_bits(tmp_path) -> None:
    whole = autoencoder(base="mixture")
    train([late_start(whole)], **QUIET)
    for steps in (12, 15):  # at the epoch's end, where the start is still to come, and after it
        parted = autoencoder(base="mixture")
        train([late_start(parted)], run=tmp_path / str(steps), max_steps=steps, tensorboard=False, **QUIET)
        parted = autoencoder(base="mixture")
        train([late_start(parted)], run=tmp_path / str(steps), resume=True, tensorboard=False, **QUIET)
        assert not changed(parted, snapshot(whole))


def test_a_late_start_comes_before_the_last_epoch() -> None:
    assert list(joint_stage(autoencoder(), images(), epochs=3, prior_start=9).at_epoch) == [2]
    with pytest.raises(InputError, match="prior_start"):
        joint_stage(autoencoder(), images(), epochs=3, prior_start=-1)
