"""Disentanglement scores on codes whose score is known: perfect, rotated by half a right angle, random."""

import math

import pytest
import torch

from flowprior.errors import InputError
from flowprior.metrics import disentanglement as scores

FEW = {"votes": 600, "judged": 600}
SCORES = {
    "beta_vae": lambda z, v: scores.beta_vae_score(z, v, **FEW),
    "factor_vae": lambda z, v: scores.factor_vae_score(z, v, **FEW),
    "mig": scores.mutual_information_gap,
    "modularity": scores.modularity,
    "sap": scores.attribute_predictability,
    "dci": lambda z, v: scores.dci(z, v).disentanglement,
    "completeness": lambda z, v: scores.dci(z, v).completeness,
    "informativeness": lambda z, v: scores.dci(z, v).informativeness,
}


def factors(values: int, n: int = 4000) -> torch.Tensor:
    return torch.randint(values, (n, 2), generator=torch.Generator().manual_seed(0))


def rotated(codes: torch.Tensor) -> torch.Tensor:
    turn = math.sqrt(0.5) * torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    return (codes - codes.mean(0)) @ turn


@pytest.mark.parametrize("name", SCORES)
def test_perfect_codes_have_the_highest_score(name):
    """Any order, sign and unit of the dimensions; of SAP, two binary factors leave 1 - ½ at best."""
    v = factors(2 if name == "sap" else 8)
    codes = v.flip(1).float() * torch.tensor([-30.0, 0.2]) + 1
    best = 0.5 if name == "sap" else 1.0
    assert SCORES[name](codes, v) == pytest.approx(best, abs=0.03)


@pytest.mark.parametrize("name", sorted(SCORES.keys() - {"modularity"}))  # noise has no best factor
def test_random_codes_have_the_lowest_score(name):
    v = factors(8)
    codes = torch.randn(len(v), 2, generator=torch.Generator().manual_seed(1))
    chance = {"beta_vae": 0.5, "factor_vae": 0.5, "informativeness": 1 / 8}.get(name, 0.0)
    assert SCORES[name](codes, v) == pytest.approx(chance, abs=0.07)


@pytest.mark.parametrize("name", SCORES)
def test_rotated_codes_tell_all_but_not_apart(name):
    v = factors(8)
    codes = rotated(v.float())
    expected = {"informativeness": 1.0, "beta_vae": 0.5, "factor_vae": 0.5}.get(name, 0.0)
    assert SCORES[name](codes, v) == pytest.approx(expected, abs=0.07)


def test_mig_and_modularity_by_hand():
    """z_1 = v_1 of two bits, z_2 = v_1 xor v_2 where v_2 is fair: I in nats known exactly."""
    v = torch.cartesian_prod(torch.arange(2), torch.arange(4)).repeat(10, 1)
    codes = torch.stack([v[:, 0] + 2 * (v[:, 1] > 1), v[:, 1]], 1).float()
    # I(z_1; v_1) = log 2, I(z_1; v_2) = log 2, I(z_2; v_1) = 0, I(z_2; v_2) = log 4
    mig = (1.0 + (math.log(4) - math.log(2)) / math.log(4)) / 2
    assert scores.mutual_information_gap(codes, v) == pytest.approx(mig)
    assert scores.modularity(codes, v) == pytest.approx((0.0 + 1.0) / 2)


def test_dci_weighs_dimensions_by_what_they_tell():
    """A dimension of noise hardly counts; a factor that two dimensions tell alike is not complete."""
    v = factors(8)
    noise = torch.randn(len(v), 1, generator=torch.Generator().manual_seed(2))
    with_noise = scores.dci(torch.cat([v.float(), noise], 1), v)
    assert with_noise.disentanglement > 0.97
    near = v[:, :1] + 1e-3 * noise
    twice = scores.dci(torch.cat([v.float(), near], 1), v)
    assert twice.disentanglement > 0.97
    halved = 1 - math.log(2) / math.log(3)
    assert twice.completeness == pytest.approx((1 + halved) / 2, abs=0.1)


def test_what_cannot_be_scored_is_said():
    v = factors(8)
    for score in SCORES.values():
        with pytest.raises(InputError, match="whole numbers"):
            score(v.float(), v + 0.5)
        with pytest.raises(InputError, match=r"constant in the columns \[1\]"):
            score(v.float(), v * torch.tensor([1, 0]))
        with pytest.raises(InputError, match="D > 1"):
            score(v[:, :1].float(), v)
        with pytest.raises(InputError, match="NaN"):
            score(v.float() * math.nan, v)
