"""Diversity, inception score, agreement and factor distances where the answer is known."""

import math

import numpy as np
import pytest
import torch

from flowprior.errors import InputError
from flowprior.metrics import (
    PerceptualDistance,
    conditional_spread,
    edge_agreement,
    factor_distance,
    inception_score,
    pair_diversity,
    silhouette_iou,
)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).abs().mean((1, 2, 3))


def test_diversity_is_the_mean_distance_of_the_pairs():
    first, second = rand(7, 3, 4, 4), rand(7, 3, 4, 4, seed=1)
    distances = gap(first, second).double()
    for batch_size in (2, 64):
        found = pair_diversity(first, second, gap, batch_size=batch_size)
        assert found.value == pytest.approx(distances.mean().item())
        assert found.standard_error == pytest.approx(distances.std().item() / math.sqrt(7))
        assert found.pairs == 7
    chunks = pair_diversity(iter(first.split(3)), (part for part in second.split(3)), gap, batch_size=2)
    assert chunks == pair_diversity(first, second, gap)
    assert math.isnan(pair_diversity(first[:1], second[:1], gap).standard_error)


def test_equal_pairs_have_no_diversity_and_bytes_are_pixels():
    distance = PerceptualDistance(lambda x: [x, x[:, :, ::2, ::2]])
    x = (rand(5, 3, 8, 8) * 255).to(torch.uint8)
    assert pair_diversity(x, x, distance).value == 0
    other = x.flip(0)
    as_floats = pair_diversity(x.float() / 255, other.float() / 255, distance)
    assert pair_diversity(x, other, distance) == as_floats
    assert as_floats.value > 0.01


def test_diversity_refuses_what_makes_no_pairs():
    x = rand(4, 1, 4, 4)
    with pytest.raises(InputError, match="a row of each for every pair"):
        pair_diversity(x, x[:3], gap)
    with pytest.raises(InputError, match="same chunks"):
        pair_diversity(x.split(2), x[:2].split(2), gap)
    with pytest.raises(InputError, match="no pair"):
        pair_diversity([], [], gap)
    with pytest.raises(InputError, match="holds NaN or infinity in 4 of 4"):
        pair_diversity(x, x, lambda a, b: gap(a, b) / 0)
    with pytest.raises(InputError, match="batch_size"):
        pair_diversity(x, x, gap, batch_size=0)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save:UserWarning")
@pytest.mark.parametrize("splits", [2, 4])
def test_inception_score_is_torchmetrics(splits):
    from torchmetrics.image.inception import InceptionScore

    logits = 3 * normal(40, 6)
    twin = InceptionScore(torch.nn.Identity(), splits=splits)
    twin.update(logits)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        mean, deviation = twin.compute()
    found = inception_score(logits, splits=splits, seed=5)
    assert found.value == pytest.approx(mean.item(), rel=1e-6)
    assert found.std == pytest.approx(deviation.item() * math.sqrt((splits - 1) / splits), rel=1e-6)


def test_inception_score_of_known_predictions():
    certain = torch.eye(5).repeat(20, 1).log()  # log-probabilities, with -inf
    assert inception_score(certain, splits=1).value == pytest.approx(5)
    assert inception_score(certain[::5], splits=2).value == pytest.approx(1)  # one class, again and again
    half = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    divergence = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert inception_score(half.log(), splits=1).value == pytest.approx(math.exp(divergence), rel=1e-6)
    in_order = torch.eye(2).repeat_interleave(500, 0) * 50  # sorted by class: the order must not matter
    assert inception_score(in_order, splits=2).value > 1.98


def test_inception_score_names_what_is_wrong():
    with pytest.raises(InputError, match="`splits` \\(=10\\)"):
        inception_score(torch.zeros(4, 3))
    with pytest.raises(InputError, match="1 of 4 rows"):
        inception_score(torch.zeros(4, 3).index_fill(0, torch.tensor([2]), math.nan), splits=1)


def test_iou_counts_pixels():
    a, b = torch.zeros(3, 1, 10, 10), torch.zeros(3, 1, 10, 10)
    a[0, :, :6, :6], b[0, :, 3:9, 3:9] = 1, 1  # 9 of 36 + 36 - 9
    a[1] = 0.7
    assert silhouette_iou(a, b).tolist() == [9 / 63, 0, 1]
    assert silhouette_iou(a, a).tolist() == [1, 1, 1]
    as_bytes, as_bools = ((255 * x).to(torch.uint8)[:, 0] for x in (a, b)), ((x > 0.5)[:, 0] for x in (a, b))
    for pair in (as_bytes, as_bools):
        assert torch.equal(silhouette_iou(*pair), silhouette_iou(a, b))
    assert silhouette_iou(a, b, threshold=0.8)[1] == 1
    with pytest.raises(InputError, match="maps of one shape"):
        silhouette_iou(a, b[:2])
    with pytest.raises(InputError, match="maps of one shape"):
        silhouette_iou(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1))


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 1.5, 2.0, 3.2])
def test_edges_match_within_a_euclidean_distance(tolerance):
    from scipy.ndimage import distance_transform_edt

    found, given = rand(6, 20, 24) > 0.8, rand(6, 20, 24, seed=1) > 0.8
    agreement = edge_agreement(found, given, tolerance=tolerance)
    for k in range(6):
        a, b = found[k].numpy(), given[k].numpy()
        precision = np.mean(distance_transform_edt(~b)[a] <= tolerance)
        recall = np.mean(distance_transform_edt(~a)[b] <= tolerance)
        assert agreement.precision[k].item() == pytest.approx(precision)
        assert agreement.recall[k].item() == pytest.approx(recall)
        assert agreement.f_score[k].item() == pytest.approx(2 * precision * recall / (precision + recall))


def test_edges_that_are_not_there():
    line = torch.zeros(1, 1, 6, 6)
    line[..., 2, :] = 1
    nothing = torch.zeros_like(line)
    for found, given, expected in [
        (nothing, nothing, (1, 1, 1)),
        (nothing, line, (1, 0, 0)),
        (line, nothing, (0, 1, 0)),
    ]:
        agreement = edge_agreement(found, given)
        assert (agreement.precision, agreement.recall, agreement.f_score) == expected
    with pytest.raises(InputError, match="tolerance"):
        edge_agreement(line, line, tolerance=-1)


def test_factor_distances_are_scipys():
    from scipy.stats import energy_distance, wasserstein_distance

    samples, real = 2 + 3 * normal(50, 2), 2 * normal(70, 2, seed=1)
    deviation = real.std(0)
    x, y = (samples / deviation).numpy(), (real / deviation).numpy()
    found = factor_distance(samples, real)
    assert found.wasserstein == pytest.approx([wasserstein_distance(x[:, k], y[:, k]) for k in range(2)])
    assert found.value == pytest.approx(sum(found.wasserstein) / 2)
    one = factor_distance(samples[:, :1], real[:, :1])
    assert one.energy == pytest.approx(energy_distance(x[:, 0], y[:, 0]))
    assert factor_distance(real, real).value == factor_distance(real, real).energy == 0


def test_energy_distance_sees_dependence_that_single_factors_hide():
    real = normal(3000, 2)
    found = factor_distance(real.sort(0).values, real)  # the same margins, on a line
    assert found.value == pytest.approx(0, abs=1e-9)
    floor = factor_distance(normal(3000, 2, seed=1), real)
    assert floor.energy < 0.1 < found.energy


def test_factors_of_any_unit_are_compared_alike():
    samples, real = normal(40, 3) + 0.5, normal(60, 3, seed=1)
    unit = torch.tensor([1.0, 255.0, 1e-3])
    assert factor_distance(samples * unit, real * unit).energy == pytest.approx(
        factor_distance(samples, real).energy
    )


@pytest.mark.parametrize("n", [2, 10])
def test_spread_is_one_at_full_diversity_and_the_share_that_is_left_else(n):
    noise, centers = normal(n, 4000, 2), normal(4000, 2, seed=1)
    real = normal(4000, 2, seed=2)
    assert conditional_spread(noise, real).ratios == pytest.approx([1, 1], abs=0.05)
    assert conditional_spread(centers.expand(n, -1, -1), real).value == pytest.approx(0, abs=1e-9)
    mixed = torch.tensor([0.3, 0.8]) * noise + centers
    assert conditional_spread(mixed, real).ratios == pytest.approx([0.3, 0.8], rel=0.05)


def test_factors_that_do_not_fit_are_named():
    real = normal(5, 2)
    with pytest.raises(InputError, match=r"must be \(N > 0, F > 0\)"):
        factor_distance(normal(5, 3), real)
    with pytest.raises(InputError, match=r"must be \(n > 1, conditions > 0, F > 0\)"):
        conditional_spread(normal(5, 2), real)
    with pytest.raises(InputError, match="n > 1"):
        conditional_spread(normal(1, 4, 2), real)
    with pytest.raises(InputError, match=r"constant in the factors \[1\]"):
        factor_distance(real, torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    with pytest.raises(InputError, match="`samples` holds NaN"):
        factor_distance(real * math.nan, real)
