"""MMD against a double loop, its block version against the plain one, and what InfoVAE compares."""

import math

import pytest
import torch

from flowprior.errors import InputError
from flowprior.models import Autoencoder, GaussianLikelihood, GaussianPosterior
from flowprior.networks import MLP
from flowprior.objectives import InfoVAE, mmd
from flowprior.priors import DecoupledPrior, FlowPrior

KERNELS = {
    "gaussian": lambda a, b: math.exp(-sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a) ** 2),
    "imq": lambda a, b: 2 * len(a) / (2 * len(a) + sum((x - y) ** 2 for x, y in zip(a, b, strict=True))),
}


def pair(n=9, m=7, features=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, features, generator=generator, dtype=torch.float64)
    return x, 1 + 2 * torch.randn(m, features, generator=generator, dtype=torch.float64)


def loop(x, y, kernel, unbiased):
    k, x, y = KERNELS[kernel], x.tolist(), y.tolist()

    def within(rows):
        pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j or not unbiased]
        return sum(k(rows[i], rows[j]) for i, j in pairs) / len(pairs)

    across = sum(k(a, b) for a in x for b in y) / (len(x) * len(y))
    return within(x) + within(y) - 2 * across


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("block", [None, 1, 4, 100])
def test_mmd_is_the_double_loops(kernel, unbiased, block):
    x, y = pair()
    found = mmd(x, y, kernel, unbiased=unbiased, block=block)
    assert found.item() == pytest.approx(loop(x, y, kernel, unbiased), abs=1e-12)
    assert mmd(x, x, kernel, block=block).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradient_in_blocks_is_the_plain_one_and_autograds_is_right(kernel):
    x, y = (rows.requires_grad_() for rows in pair(5, 4, 2))
    plain = torch.autograd.grad(mmd(x, y, kernel, unbiased=True), (x, y))
    blocks = torch.autograd.grad(mmd(x, y, kernel, unbiased=True, block=2), (x, y))
    for one, other in zip(plain, blocks, strict=True):
        torch.testing.assert_close(one, other)
    assert torch.autograd.gradcheck(lambda a, b: mmd(a, b, kernel), (x, y))


def test_blocks_keep_a_fraction_for_the_backward_pass():
    """What autograd saves: all pairs in the plain version, no more than the rows in blocks."""
    x, y = (rows.requires_grad_() for rows in pair(200, 200, 3))
    saved = {}
    for block in (None, 10):
        sizes = saved.setdefault(block, [])
        with torch.autograd.graph.saved_tensors_hooks(
            lambda value, sizes=sizes: (sizes.append(value.numel()), value)[1], lambda value: value
        ):
            mmd(x, y, block=block)
    assert max(saved[None]) >= 200 * 200
    assert max(saved[10], default=0) <= 200 * 3


def test_unbiased_is_zero_in_the_mean_at_equality_and_biased_is_not():
    generator = torch.Generator().manual_seed(1)
    draws = torch.randn(400, 2, 10, 2, generator=generator)
    found = {u: torch.stack([mmd(a, b, unbiased=u) for a, b in draws]) for u in (False, True)}
    error = found[True].std() / 20
    assert found[True].mean().abs() < 4 * error
    assert found[False].mean() > 10 * error


def test_gaussian_mmd_of_two_normals_meets_its_closed_form():
    """k = exp(-r²/s): E k between N(a, I) and N(b, I) in one dimension is √(s/(s+4)) exp(-(a-b)²/(s+4))."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3000, 1, generator=generator, dtype=torch.float64)
    y = 1.5 + torch.randn(3000, 1, generator=generator, dtype=torch.float64)
    root = math.sqrt(1 / 5)
    truth = 2 * root * (1 - math.exp(-(1.5**2) / 5))
    assert mmd(x, y, unbiased=True, block=500).item() == pytest.approx(truth, abs=0.02)


def test_info_vae_compares_in_z_and_teaches_encoder_and_prior():
    torch.manual_seed(0)
    prior = DecoupledPrior(FlowPrior(2, transforms=2, hidden_features=(8,)))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model = Autoencoder(
        MLP(5, 4),
        MLP(2, 5),
        prior,
        posterior=GaussianPosterior(),
        likelihood=GaussianLikelihood(activation="identity"),
    )
    x = torch.rand(16, 5)
    objective = InfoVAE(model, alpha=0.3, weight=7.0, kernel="imq", unbiased=True)
    torch.manual_seed(1)
    terms = objective.losses("model", {"x": x}, 0)
    torch.manual_seed(1)
    z = model.encode(x).rsample()
    true = prior.representation(torch.randn(16, 2))
    torch.testing.assert_close(terms["mmd"], mmd(z, true, "imq", unbiased=True).detach())
    expected = terms["reconstruction"] + 0.7 * terms["kl"] + 6.3 * terms["mmd"]
    torch.testing.assert_close(terms["loss"].detach(), expected)
    discrepancy = mmd(z, true, "imq", unbiased=True)
    for part in (model.encoder, prior):
        gradients = torch.autograd.grad(discrepancy, list(part.parameters()), retain_graph=True)
        assert sum(gradient.abs().sum() for gradient in gradients) > 0


def test_bad_input_is_named():
    x, y = pair()
    with pytest.raises(InputError, match="`kernel` \\(='rbf'\\)"):
        mmd(x, y, "rbf")
    with pytest.raises(InputError, match="`scale` \\(=0\\)"):
        mmd(x, y, scale=0)
    with pytest.raises(InputError, match="`block` \\(=0\\)"):
        mmd(x, y, block=0)
    with pytest.raises(InputError, match="one event shape"):
        mmd(x, y[:, :2])
    with pytest.raises(InputError, match="N > 1"):
        mmd(x[:1], y, unbiased=True)
