"""The classifier's features: it learns, it is kept, and it leaves the rest of the process alone."""

from dataclasses import replace

import pytest
import torch

from flowprior.errors import InputError
from flowprior.metrics import (
    attribute_classifier,
    classifier,
    classifier_features,
    classifier_logits,
    extract,
    frechet,
    inception_score,
    learned,
)
from flowprior.metrics.features import FeatureNetwork


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWPRIOR_CACHE", str(tmp_path / "cache"))


def striped(
    count: int, size: int = 16, channels: int = 1, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy stripes, lying (label 3) or standing (label 7): learnable, with labels that are not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=generator)
    stripes = (torch.arange(size) // 2 % 2).float().expand(size, size)
    pictures = torch.where(labels.view(-1, 1, 1).bool(), stripes, stripes.T)[:, None].expand(
        -1, channels, -1, -1
    )
    noisy = 0.5 * pictures + 0.5 * torch.rand(pictures.shape, generator=generator)
    return (noisy * 255).to(torch.uint8), 3 + 4 * labels


def features(network: FeatureNetwork, images: torch.Tensor) -> torch.Tensor:
    return torch.cat(list(extract(images, network)))


def test_digits_are_learnt_and_worse_digits_are_further_away():
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images)[:, None].float() / 16
    labels = torch.from_numpy(data.target)
    network = classifier_features(images[:1400], labels[:1400], images[1400:], labels[1400:])
    assert network.metric == "fd_classifier"
    assert network.facts["test_accuracy"] > 0.9
    assert network.facts["test_accuracy_on"] == "test 397"
    assert features(network, images[:3]).shape == (3, 64)
    real, noise = images[1400:], torch.rand(images[:397].shape, generator=torch.Generator().manual_seed(0))
    worse = [images[1000:1397], *((1 - k) * images[1000:1397] + k * noise for k in (0.2, 0.5, 1.0))]
    distances = [frechet(samples, real, network).value for samples in worse]
    assert distances == sorted(distances)
    assert distances[0] < 0.2 * distances[2]


def test_a_seed_gives_the_same_network_and_the_process_is_left_alone(monkeypatch, tmp_path):
    images, labels = striped(120)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        first = classifier_features(images, labels)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setenv("FLOWPRIOR_CACHE", str(tmp_path / "another"))
    torch.rand(3)
    with torch.inference_mode():
        again = classifier_features(images, labels)
    other = classifier_features(images, labels, seed=1)
    assert first.checksum == again.checksum != other.checksum
    torch.set_rng_state(state)
    drawn = torch.rand(4)
    torch.set_rng_state(state)
    classifier_features(images, labels, seed=2)
    assert torch.equal(torch.rand(4), drawn)


def test_it_is_trained_once_per_data_set(monkeypatch):
    images, labels = striped(120)
    train, trainings = learned.fit, []

    def counted(*arguments, **options):
        trainings.append(1)
        return train(*arguments, **options)

    monkeypatch.setattr(learned, "fit", counted)
    first = classifier_features(images, labels)
    again = classifier_features(images, labels)
    assert len(trainings) == 1
    assert again.checksum == first.checksum
    assert again.facts == first.facts
    torch.testing.assert_close(features(again, images), features(first, images), rtol=0, atol=0)
    classifier_features(255 - images, labels)
    assert len(trainings) == 2
    monkeypatch.setattr(classifier, "RECIPE", replace(classifier.RECIPE, version=3))
    classifier_features(images, labels)
    assert len(trainings) == 3


def test_accuracy_is_that_of_the_test_set_by_its_own_labels():
    images, labels = striped(160)
    test_images, test_labels = striped(40, seed=1)
    right = classifier_features(images, labels, test_images, test_labels)
    assert right.facts["test_accuracy"] > 0.9
    unknown = torch.where(torch.arange(40) < 20, test_labels, 5)  # 5 was never seen: half cannot be right
    assert classifier_features(images, labels, test_images, unknown).facts["test_accuracy"] <= 0.5
    assert classifier_features(images, labels).facts["test_accuracy_on"] == "held-out 17"


def test_logits_are_those_of_the_same_network_and_score_its_two_classes(monkeypatch):
    images, labels = striped(400)
    odds = attribute_classifier(images, labels)
    monkeypatch.delattr(learned, "fit")  # it is trained already
    network = classifier_logits(images, labels)
    assert (network.metric, network.checksum) == ("is_classifier", odds.checksum)
    logits = features(network, images)
    torch.testing.assert_close(logits.softmax(1), features(odds, images).sigmoid(), rtol=1e-4, atol=1e-5)
    assert (3 + 4 * logits.argmax(1) == labels).double().mean() > 0.9
    both, one = (inception_score(part, splits=2).value for part in (logits, logits[labels == 3]))
    assert 1 <= one < 1.3 < both <= 2
    with pytest.raises(InputError, match="attributes"):
        classifier_logits(images, labels[:, None] == 3)


def test_large_colour_images_are_averaged_and_other_sizes_refused():
    images, labels = striped(40, size=48, channels=3)
    network = classifier_features(images, labels)
    assert network.resize == "averaged to 32x32"
    with pytest.raises(InputError, match=r"trained on \(3, 48, 48\)"):
        features(network, images[..., :32, :32])


def test_wrong_input_is_named():
    images, labels = striped(20)
    with pytest.raises(InputError, match="1 class"):
        classifier_features(images, torch.zeros(20, dtype=torch.int64))
    with pytest.raises(InputError, match="one for each of the 20 images"):
        classifier_features(images, labels[:-1])
    with pytest.raises(InputError, match="must be integers"):
        classifier_features(images, labels.float())
    with pytest.raises(InputError, match="given together"):
        classifier_features(images, labels, images)
    with pytest.raises(InputError, match="`test_labels`"):
        classifier_features(images, labels, images, labels[:3])
    with pytest.raises(InputError, match=r"`images` has shape \(20, 16, 16\)"):
        classifier_features(images[:, 0], labels)
