"""Fréchet distances against scipy's matrix root, torchmetrics, closed forms; statistics against numpy."""

import os

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

from flowprior.errors import InputError
from flowprior.metrics import (
    FeatureNetwork,
    FeatureStatistics,
    FewSamplesWarning,
    cached_statistics,
    frechet,
    frechet_distance,
    statistics,
)
from flowprior.metrics.cache import cached


def gaussian(mean: torch.Tensor, covariance: torch.Tensor, count: int = 1000) -> FeatureStatistics:
    return FeatureStatistics(count, mean, covariance * (count - 1))


def random_set(seed: int, count: int = 400, features: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(features, features, generator=generator)
    return torch.randn(count, features, generator=generator) @ mix + torch.randn(
        features, generator=generator
    )


class Pooled(nn.Module):
    """Features that a test can compute itself: the image's mean, and the mean of its square, by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return torch.cat([images.mean((2, 3)), images.square().mean((2, 3))], 1)


def network(checksum: str = "a") -> FeatureNetwork:
    return FeatureNetwork(Pooled(), metric="fd_test", resize="none", checksum=checksum, facts={"good": 0.5})


def images(seed: int, count: int = 30) -> torch.Tensor:
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_diagonal_gaussians_have_a_closed_form():
    generator = torch.Generator().manual_seed(0)
    mean_a, mean_b = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    var_a, var_b = torch.rand(2, 9, generator=generator, dtype=torch.float64) + 0.1
    expected = (mean_a - mean_b).square().sum() + (var_a.sqrt() - var_b.sqrt()).square().sum()
    found = frechet_distance(gaussian(mean_a, var_a.diag()), gaussian(mean_b, var_b.diag()))
    assert found == pytest.approx(expected.item(), rel=1e-12)


def test_equals_the_matrix_root_of_scipy():
    a, b = random_set(0).double(), random_set(1).double()
    cov_a, cov_b = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    root = sqrtm(cov_a @ cov_b)
    shift = a.numpy().mean(0) - b.numpy().mean(0)
    expected = shift @ shift + np.trace(cov_a + cov_b - 2 * root.real)
    assert frechet_distance(statistics(a), statistics(b)) == pytest.approx(expected, rel=1e-9)


def test_equals_torchmetrics_on_the_same_features():
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Identity(nn.Module):
        num_features = 12

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features

    a, b = random_set(2), random_set(3)
    twin = FrechetInceptionDistance(Identity(), input_img_size=(12,)).set_dtype(torch.float64)
    twin.update(a.double(), real=True)
    twin.update(b.double(), real=False)
    assert frechet_distance(statistics(a), statistics(b)) == pytest.approx(twin.compute().item(), rel=1e-6)


def test_a_shift_adds_its_squared_length_and_order_does_not_matter():
    a, b = random_set(4), random_set(5)
    shift = torch.full((12,), 3.0)
    assert frechet_distance(statistics(a), statistics(a + shift)) == pytest.approx(12 * 9, rel=1e-5)
    there, back = (
        frechet_distance(statistics(a), statistics(b)),
        frechet_distance(statistics(b), statistics(a)),
    )
    assert there == pytest.approx(back, rel=1e-9)


def test_singular_covariances_are_exact_and_few_samples_are_said():
    few = statistics(random_set(6, count=8))  # rank 7 of 12
    with pytest.warns(FewSamplesWarning, match="12 features from 8 samples"):
        assert frechet_distance(few, few) == pytest.approx(0.0, abs=1e-5)
    point = gaussian(torch.zeros(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64))
    line = gaussian(torch.zeros(2, dtype=torch.float64), torch.tensor([[4.0, 0.0], [0.0, 0.0]]).double())
    assert frechet_distance(point, line) == pytest.approx(4.0, abs=1e-12)


@pytest.mark.parametrize("chunk", [1, 7, 400])
def test_streamed_statistics_are_those_of_the_whole_even_far_from_the_origin(chunk: int):
    features = random_set(7).double() + 1e6
    found = statistics(iter(features.split(chunk)))
    assert found.count == 400
    np.testing.assert_allclose(found.mean, features.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(features.numpy(), rowvar=False), rtol=1e-6, atol=1e-8)


def test_the_result_says_what_it_depends_on():
    real, samples = images(0, 30), images(1, 50)
    result = frechet(iter(samples.split(20)), real, network(), batch_size=7)
    by_hand = frechet_distance(statistics(Pooled()(samples)), statistics(Pooled()(real)))
    assert result.value == pytest.approx(by_hand, rel=1e-4)
    assert (result.metric, result.samples, result.real) == ("fd_test", 50, 30)
    assert (result.resize, result.checksum, result.facts) == ("none", "a", {"good": 0.5})


def test_worse_images_are_further_away():
    real, samples = images(2, 200), images(3, 200)
    distances = [frechet(samples * contrast, real, network()).value for contrast in (1.0, 0.9, 0.6, 0.2)]
    assert distances == sorted(distances)
    assert distances[0] < 0.1 * distances[1]


def test_wrong_input_is_named():
    one = statistics(torch.zeros(1, 3))
    with pytest.raises(InputError, match="a covariance needs two samples"):
        one.covariance  # noqa: B018
    with pytest.raises(InputError, match="12 and 3 features"):
        frechet_distance(statistics(random_set(0)), one)
    with pytest.raises(InputError, match="holds NaN or infinity in 1 of 2 rows"):
        statistics(torch.tensor([[0.0], [float("nan")]]))
    with pytest.raises(InputError, match="is empty"):
        statistics(iter(()))
    with pytest.raises(InputError, match=r"shape \(3,\)"):
        statistics(torch.zeros(3))


class TestCache:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("FLOWPRIOR_CACHE", str(tmp_path / "cache"))
        return tmp_path / "cache"

    def test_statistics_are_extracted_once(self, folder):
        real, net = images(0), network()
        first = cached_statistics(real, net)
        again = cached_statistics(real, net)
        assert net.network.calls == 1
        assert again.count == first.count == 30
        assert torch.equal(again.mean, first.mean)
        assert torch.equal(again.scatter, first.scatter)
        assert [path.suffix for path in folder.iterdir()] == [".safetensors"]

    def test_other_data_network_or_count_do_not_share(self):
        real, net = images(0), network()
        cached_statistics(real, net, data_fingerprint="set")
        cached_statistics(real[:20], net, data_fingerprint="set")
        cached_statistics(real, net, data_fingerprint="other set")
        assert net.network.calls == 3
        other = network("b")
        cached_statistics(real, other, data_fingerprint="set")
        assert other.network.calls == 1

    @pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "text"])
    def test_a_damaged_file_is_computed_again(self, folder, damage, caplog):
        real, net = images(0), network()
        sound = cached_statistics(real, net)
        (path,) = folder.iterdir()
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        damaged = {"flip": content, "truncate": content[:-20], "empty": b"", "text": b"not a tensor file"}
        path.write_bytes(damaged[damage])
        found = cached_statistics(real, net)
        assert torch.equal(found.scatter, sound.scatter)
        assert net.network.calls == 2
        assert "computing it again" in caplog.text
        cached_statistics(real, net)
        assert net.network.calls == 2  # the sound file is back

    def test_an_interrupted_write_leaves_the_old_file_and_no_other(self, folder, monkeypatch):
        cached("thing", "key", lambda: {"x": torch.ones(3)})
        (path,) = folder.iterdir()
        before = path.read_bytes()
        path.write_bytes(before[:-1])

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            cached("thing", "key", lambda: {"x": torch.ones(3)})
        assert [p.read_bytes() for p in folder.iterdir()] == [before[:-1]]

    def test_a_folder_that_cannot_be_written_costs_only_a_log_line(self, folder, caplog):
        folder.write_text("a file where the folder should be")
        assert torch.equal(cached("thing", "key", lambda: {"x": torch.ones(3)})["x"], torch.ones(3))
        assert "not kept" in caplog.text


def test_the_bootstrap_error_is_the_spread_over_draws():
    from flowprior.metrics import frechet_error

    generator = torch.Generator().manual_seed(0)
    real = statistics(torch.randn(4000, 3, generator=generator))
    draws = [torch.randn(500, 3, generator=generator) + 0.3 for _ in range(200)]
    spread = torch.tensor([frechet_distance(statistics(each), real) for each in draws]).std().item()
    errors = [frechet_error(each, real, resamples=50) for each in draws[:10]]
    assert sum(errors) / len(errors) == pytest.approx(spread, rel=0.25)
