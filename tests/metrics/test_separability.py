"""Separability on constructed codes, and the classifier's log-odds it is made from."""

import math

import pytest
import torch

from flowprior.errors import InputError
from flowprior.metrics import attribute_classifier, conditional_entropy, separability


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def binary_entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_a_linearly_separable_code_scores_one_in_any_unit_and_shape():
    z = normal(2000, 2, 3)
    log_odds = z.flatten(1) @ normal(6, 4, seed=1)  # four attributes, each a half space
    for units in (1.0, 1e-3, 1e3):
        found = separability(units * z + 7 * units, log_odds, standardize=True)
        assert found.value == pytest.approx(1, abs=0.02)
        assert min(found.accuracies) > 0.999
    assert found.samples == 2000
    assert found.kept == 1000
    as_it_is = separability(z, log_odds)
    assert as_it_is.value == pytest.approx(1, abs=0.02)
    assert separability(1e-3 * z, log_odds).value > 1.5  # the machine's regularization sees the unit


def test_a_code_independent_of_the_labels_scores_the_entropy_of_the_labels():
    shares = (0.5, 0.2, 0.05)
    odds = torch.where(
        torch.rand(40_000, 3, generator=torch.Generator().manual_seed(1)) < torch.tensor(shares), 1.0, -1
    )
    found = separability(normal(40_000, 2), odds, keep=1.0)
    observed = [(odds[:, i] > 0).double().mean().item() for i in range(3)]
    assert found.shares == pytest.approx(observed)
    for entropy, share in zip(found.entropies, observed, strict=True):
        assert entropy == pytest.approx(binary_entropy(share), abs=1e-3)
    assert found.value == pytest.approx(math.exp(sum(map(binary_entropy, observed))), rel=3e-3)


def test_a_noisy_half_space_leaves_the_entropy_of_its_noise():
    z = normal(40_000, 4)
    flipped = torch.rand(40_000, generator=torch.Generator().manual_seed(3)) < 0.1
    found = separability(z, torch.where(flipped, -1.0, 1.0)[:, None] * z[:, :1].sign(), keep=1.0)
    assert found.entropies[0] == pytest.approx(binary_entropy(0.1), abs=0.01)
    assert found.accuracies[0] == pytest.approx(0.9, abs=0.005)


def test_an_entangled_code_scores_worse_than_the_straight_one():
    angle = 2 * torch.pi * torch.rand(4000, generator=torch.Generator().manual_seed(0))
    radius = 1 + (torch.arange(4000) % 2)
    ring = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)  # inner or outer: no line tells
    log_odds = (radius - 1.5)[:, None]
    assert separability(ring, log_odds).value == pytest.approx(2, abs=0.05)
    assert separability(ring.norm(dim=1, keepdim=True), log_odds).value == pytest.approx(1)


def test_the_least_sure_half_is_left_out_attribute_by_attribute():
    z = torch.linspace(-1, 1, 400)[:, None]
    noisy = torch.where(z.abs() < 0.5, -z, z) * 9  # the unsure half is decided the wrong way
    found = separability(z, torch.cat([noisy, -noisy.flip(1)], 1), keep=0.5)
    assert found.value == pytest.approx(1)
    assert separability(z, noisy, keep=1.0).value > 1.5


def test_an_attribute_that_is_always_there_is_certain():
    found = separability(normal(20, 2), torch.ones(20, 1))
    assert found.value == 1
    assert found.shares == (1.0,)


def test_conditional_entropy_is_that_of_the_table():
    joint = {(0, 0): 30, (0, 1): 10, (1, 0): 5, (1, 1): 55}  # (x, y)
    x = torch.tensor([x for (x, _), count in joint.items() for _ in range(count)]).bool()
    y = torch.tensor([y for (_, y), count in joint.items() for _ in range(count)]).bool()
    expected = 0.4 * binary_entropy(0.25) + 0.6 * binary_entropy(55 / 60)
    assert conditional_entropy(y, x) == pytest.approx(expected)
    assert conditional_entropy(y, torch.zeros(100, dtype=torch.bool)) == pytest.approx(binary_entropy(0.65))


def test_wrong_input_is_named():
    with pytest.raises(InputError, match="one row of both"):
        separability(normal(4, 2), normal(3, 1))
    with pytest.raises(InputError, match=r"`keep` \(=0.1\)"):
        separability(normal(4, 2), normal(4, 1), keep=0.1)
    with pytest.raises(InputError, match=r"`latents` holds NaN or infinity in 1 of 4 rows"):
        separability(torch.tensor([[1.0], [2.0], [torch.inf], [0.0]]), normal(4, 1))
    with pytest.raises(InputError, match="`x`"):
        conditional_entropy(torch.zeros(3).bool(), torch.zeros(2).bool())


@pytest.fixture
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWPRIOR_CACHE", str(tmp_path / "cache"))


def halves(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with the upper, the left half bright or not, and which: attributes that occur together."""
    generator = torch.Generator().manual_seed(seed)
    attributes = torch.rand(count, 2, generator=generator) < 0.5
    images = 0.3 * torch.rand(count, 1, 8, 8, generator=generator)
    images[:, :, :4] += 0.3 * attributes[:, 0].view(-1, 1, 1, 1)
    images[:, :, :, :4] += 0.3 * attributes[:, 1].view(-1, 1, 1, 1)
    return images, attributes


@pytest.mark.usefixtures("_cache")
def test_attributes_are_learnt_side_by_side():
    images, attributes = halves(400)
    network = attribute_classifier(images, attributes, *halves(100, seed=1))
    log_odds = network(halves(50, seed=2)[0])
    assert torch.equal(log_odds > 0, halves(50, seed=2)[1])
    assert network.facts["test_accuracy"] == 1
    assert network.metric == "separability"
    with pytest.raises(InputError, match="or rows of bool attributes"):
        attribute_classifier(images, attributes.long())


@pytest.mark.usefixtures("_cache")
def test_attributes_are_seen_at_full_resolution():
    """Stripes of one pixel, lying or standing, which are gray once the pictures are averaged to 32 pixels."""
    generator = torch.Generator().manual_seed(0)
    attributes = torch.rand(200, 1, generator=generator) < 0.5
    stripes = (torch.arange(40) % 2).float().expand(40, 40)
    images = torch.where(attributes[:, :, None, None], stripes, stripes.T)
    network = attribute_classifier(images, attributes)
    assert network.resize == "none"
    assert network.facts["test_accuracy"] == 1


@pytest.mark.usefixtures("_cache")
def test_every_class_is_an_attribute_against_the_rest():
    images, attributes = halves(400)
    labels = 5 + 2 * attributes.long() @ torch.tensor([2, 1])  # 5, 7, 9, 11
    network = attribute_classifier(images, labels)
    log_odds = network(images[:60])
    assert log_odds.shape == (60, 4)
    probabilities = network.network[0](images[:60]).double().softmax(1)
    torch.testing.assert_close(log_odds.double(), probabilities.logit(), rtol=1e-3, atol=1e-3)
    assert torch.equal(5 + 2 * log_odds.argmax(1), labels[:60])
