"""Whitening: exact statistics, safe on degenerate data, an ordinary bijector."""

import copy

import pytest
import torch

from flowprior.bijectors import Whitening
from flowprior.errors import InputError

BOTH = pytest.mark.parametrize("mode", ["full", "diagonal"])


def data(rows: int = 400) -> torch.Tensor:
    torch.manual_seed(0)
    mix = torch.tensor([[1.0, 0.0, 0.0], [5.0, 1.0, 0.0], [0.0, 30.0, 2.0]])
    return torch.randn(rows, 3) @ mix + torch.tensor([100.0, -5.0, 0.0])


def test_full_gives_zero_mean_and_identity_covariance() -> None:
    z = data().double()
    whitening = Whitening.from_data(z)
    z0, _ = whitening.to_base(z)
    torch.testing.assert_close(z0.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(z0.T.cov(correction=0), torch.eye(3).double(), rtol=0, atol=1e-9)
    tril = whitening.scale_tril
    torch.testing.assert_close(tril @ tril.T, z.T.cov(correction=0))
    assert torch.equal(tril, tril.tril())
    assert (tril.diagonal() > 0).all()


def test_diagonal_gives_unit_variances() -> None:
    z = data().double()
    z0, _ = Whitening.from_data(z, "diagonal").to_base(z)
    torch.testing.assert_close(z0, (z - z.mean(0)) / z.std(0, correction=0))


@BOTH
def test_jacobian_and_round_trip(mode: str) -> None:
    z = data().double()
    whitening = Whitening.from_data(z, mode)
    z0, logabsdet = whitening.to_base(z)
    back, logabsdet_back = whitening.from_base(z0)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-9)
    jacobian = torch.autograd.functional.jacobian(lambda row: whitening.to_base(row)[0], z[0])
    expected = torch.linalg.slogdet(jacobian).logabsdet.expand(len(z))
    torch.testing.assert_close(logabsdet, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(logabsdet_back, -expected, rtol=0, atol=1e-9)


@BOTH
@pytest.mark.parametrize("case", ["constant", "duplicate", "few rows", "one row", "tiny", "all constant"])
def test_degenerate_latents_are_safe(mode: str, case: str) -> None:
    z = data()
    if case == "constant":
        z[:, 1] = 0.1  # not exact in binary: its float statistics are not exactly zero
    elif case == "duplicate":
        z[:, 1] = 2 * z[:, 0] - 1
    elif case == "few rows":
        z = z[:2]
    elif case == "one row":
        z = z[:1]
    elif case == "tiny":
        z = z * torch.tensor([1.0, 1e-12, 1e12])
    else:
        z = torch.full((5, 3), 0.1)
    whitening = Whitening.from_data(z, mode)
    z0, logabsdet = whitening.to_base(z)
    assert torch.isfinite(logabsdet).all()
    assert z0.square().mean() < 1.5  # nothing is blown up
    scale = z.abs().amax(0).clamp(min=1e-12)
    torch.testing.assert_close(whitening.from_base(z0)[0] / scale, z / scale, rtol=0, atol=1e-3)
    if case == "constant":  # samples stay at the constant
        samples, _ = whitening.from_base(torch.randn(100, 3))
        torch.testing.assert_close(samples[:, 1], torch.full((100,), 0.1), rtol=0, atol=0.1)


@BOTH
def test_event_shapes_state_and_copies(mode: str) -> None:
    z = data().reshape(100, 2, 2, 3)
    whitening = Whitening.from_data(z, mode)
    assert whitening.event_shape == (2, 2, 3)
    assert whitening.to_base(z.reshape(10, 10, 2, 2, 3))[0].shape == (10, 10, 2, 2, 3)
    fresh = Whitening((2, 2, 3), mode)
    torch.testing.assert_close(fresh.to_base(z), (z, torch.zeros(100)))  # the identity before it is fitted
    fresh.load_state_dict(whitening.state_dict())
    for twin in (fresh, copy.deepcopy(whitening)):
        torch.testing.assert_close(twin.to_base(z), whitening.to_base(z), rtol=0, atol=0)
    assert not list(whitening.parameters())
    inside_shape = Whitening.from_data(torch.randn(5, 4, 3), mode, event_shape=3)
    assert inside_shape.event_shape == (3,)


def test_wrong_input_is_named() -> None:
    for latents, words in [
        (torch.zeros(0, 3), "`latents` of shape .* has no rows"),
        (torch.full((2, 3), float("nan")), "`latents` holds NaN"),
        (torch.zeros(2, 3, dtype=torch.long), "`latents` must be a floating-point tensor"),
        ([[1.0]], "`latents` must be"),
    ]:
        with pytest.raises(InputError, match=words):
            Whitening.from_data(latents)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"`mode` \(='pca'\)"):
        Whitening.from_data(data(), "pca")
    with pytest.raises(InputError, match=r"`latents` has shape \(400, 3\)"):
        Whitening.from_data(data(), event_shape=4)
    with pytest.raises(InputError, match=r"`context` .* unconditional Whitening"):
        Whitening(3).to_base(data(), data())
