"""KID against its definition and a twin written with numpy."""

import numpy as np
import pytest
import torch

from flowprior.errors import InputError
from flowprior.metrics import kernel_distance


def sets(shift: float, count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.randn(2, count, 5, generator=torch.Generator().manual_seed(0))
    return draws[0], draws[1] + shift


def unbiased(x: np.ndarray, y: np.ndarray) -> float:
    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    n, inside = len(x), kernel(x, x).sum() + kernel(y, y).sum()
    inside -= np.trace(kernel(x, x)) + np.trace(kernel(y, y))
    return inside / (n * (n - 1)) - 2 * kernel(x, y).mean()


def test_one_subset_of_everything_is_the_unbiased_estimate():
    x, y = sets(0.7)
    found = kernel_distance(x, y, subsets=1, subset_size=200)
    assert found.mean == pytest.approx(unbiased(x.double().numpy(), y.double().numpy()), rel=1e-9)
    assert (found.samples, found.real) == (200, 200)


def test_equal_distributions_are_about_zero_and_others_are_not():
    same, apart = (kernel_distance(*sets(shift), subsets=20, subset_size=100) for shift in (0.0, 0.7))
    assert abs(same.mean) < 3 * same.std
    assert apart.mean > 10 * abs(same.mean)


def test_a_seed_decides_and_the_global_state_is_left_alone():
    x, y = sets(0.2)
    state = torch.get_rng_state()
    first, again, other = (kernel_distance(x, y, subsets=3, subset_size=50, seed=s) for s in (0, 0, 1))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_wrong_input_is_named():
    x, y = sets(0.0)
    with pytest.raises(InputError, match="features of one network"):
        kernel_distance(x, y[:, :2])
    with pytest.raises(InputError, match=r"`subset_size` \(=1000\) must be an int from 2 to 200"):
        kernel_distance(x, y)
