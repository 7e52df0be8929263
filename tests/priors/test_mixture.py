"""The mixture against torch's and scikit-learn's own, and its starts on good and bad data."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from flowprior import FlowPrior, InputError, MixturePrior


def _perturbed(covariance: str, features: int = 4, components: int = 6) -> MixturePrior:
    prior = MixturePrior(features, components, covariance).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return prior


def _twin(prior: MixturePrior) -> MixtureSameFamily:
    weights = Categorical(logits=prior.logits)
    if prior.covariance == "full":
        return MixtureSameFamily(weights, MultivariateNormal(prior.means, scale_tril=prior.scale_tril))
    return MixtureSameFamily(weights, Independent(Normal(prior.means, prior.log_scales.exp()), 1))


def _clusters(rows: int = 3_000) -> torch.Tensor:
    centers = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 9.0]])
    label = torch.arange(rows) % 6 // 3 + torch.arange(rows) % 6 // 5  # shares 1/2, 1/3, 1/6
    return centers[label] + torch.randn(rows, 2) * torch.tensor([0.5, 1.0])


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_density_and_gradient_agree_with_torch(covariance):
    prior, z = _perturbed(covariance), torch.randn(7, 3, 4, dtype=torch.float64) * 2
    weights = torch.randn(7, 3, dtype=torch.float64)
    got = prior.log_prob(z)
    expected = _twin(prior).log_prob(z)
    torch.testing.assert_close(got, expected)
    parameters = list(prior.parameters())
    for one, other in zip(
        torch.autograd.grad((got * weights).sum(), parameters),
        torch.autograd.grad((expected * weights).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_samples_have_the_moments_and_margins_of_the_mixture(covariance):
    prior = _perturbed(covariance)
    z = prior.sample(40_000)
    weights, means, factors = prior.logits.softmax(0), prior.means, prior.scale_tril
    mean = weights @ means
    second = torch.einsum("k,kij->ij", weights, factors @ factors.mT + means[:, :, None] * means[:, None])
    covariance_matrix = second - mean[:, None] * mean
    error = (covariance_matrix.diagonal() / len(z)).sqrt()
    assert ((z.mean(0) - mean).abs() < 4 * error).all()
    torch.testing.assert_close(z.T.cov(), covariance_matrix, rtol=0.05, atol=0.03)
    for i in range(4):  # each margin is a mixture of normals
        scale = factors[:, i].square().sum(-1).sqrt()

        def cdf(x, i=i, scale=scale):
            values = stats.norm.cdf((x[:, None] - means[:, i].detach().numpy()) / scale.detach().numpy())
            return values @ weights.detach().numpy()

        assert stats.kstest(z[:, i].numpy(), cdf).pvalue > 1e-3


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_em_start_is_scikit_learns_mixture(covariance):
    z = _clusters()
    prior = MixturePrior(2, 3, covariance, start="em").double()
    prior.initialize(z, seed=4)
    kind = "diag" if covariance == "diagonal" else "full"
    floor = 1e-6 * z.double().var(0, correction=0).mean().item()  # scikit-learn's own is absolute
    twin = GaussianMixture(3, covariance_type=kind, random_state=4, reg_covar=floor)
    twin.fit(z.double().numpy())
    np.testing.assert_allclose(
        prior.log_prob(z.double()).detach().numpy(), twin.score_samples(z.double().numpy()), rtol=1e-9
    )


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_kmeans_start_holds_the_moments_of_the_clusters(covariance):
    z = _clusters().double()
    prior = MixturePrior(2, 3, covariance).double()
    prior.initialize(z, seed=4)
    result = KMeans(3, n_init=1, random_state=4).fit(z.numpy())
    torch.testing.assert_close(prior.means.detach(), torch.from_numpy(result.cluster_centers_))
    for k in range(3):
        members = z[torch.from_numpy(result.labels_) == k]
        assert prior.logits.softmax(0)[k].item() == pytest.approx(len(members) / len(z), rel=0.01)
        expected = members.T.cov(correction=0)
        if covariance == "diagonal":
            expected = expected.diagonal().diag()
        factor = prior.scale_tril[k].detach()
        torch.testing.assert_close(factor @ factor.T, expected, rtol=0.02, atol=0.02)
    # and it is a better start than none
    assert prior.log_prob(z).mean() > MixturePrior(2, 3).log_prob(z.float()).mean() + 1


@pytest.mark.parametrize("start", ["kmeans", "em"])
def test_start_is_repeatable(start):
    z = _clusters(400)
    one, other = MixturePrior(2, 5, start=start), MixturePrior(2, 5, start=start)
    one.initialize(z, seed=1)
    other.initialize(z, seed=1)
    assert torch.equal(one.log_prob(z), other.log_prob(z))


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
@pytest.mark.parametrize("start", ["kmeans", "em"])
@pytest.mark.parametrize(
    "kind", ["duplicates", "constant feature", "one point", "one row each", "far and tiny"]
)
def test_starts_survive_degenerate_latents(covariance, start, kind):
    z = {
        "duplicates": torch.randn(3, 4).repeat(5, 1),  # fewer distinct rows than components
        "constant feature": torch.cat([torch.randn(40, 3), torch.full((40, 1), 7.0)], 1),
        "one point": torch.full((12, 4), 2.0),
        "one row each": torch.randn(5, 4),
        "far and tiny": torch.randn(40, 4) * 1e-3 + 50,
    }[kind]
    prior = MixturePrior(4, 5, covariance, start)
    prior.initialize(z)
    assert prior.log_prob(z).isfinite().all()
    assert prior.sample(50).isfinite().all()
    assert (prior.sample(50) - z.mean(0)).abs().max() < 10 * (z - z.mean(0)).abs().max() + 1
    prior.log_prob(z).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in prior.parameters())


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_float32_is_precise_far_from_the_origin(covariance):
    """Sums of large terms that cancel would lose every digit: 300 sigmas away, 1e5 of them squared."""
    prior = _perturbed(covariance)
    with torch.no_grad():
        prior.means.mul_(3).add_(30)
        prior.log_scales.fill_(-3.0)
        if prior.lower is not None:
            prior.lower.mul_(0.05)
    rounded = MixturePrior(4, 6, covariance)
    rounded.load_state_dict(prior.state_dict())
    exact = MixturePrior(4, 6, covariance).double()
    exact.load_state_dict(rounded.state_dict())
    z = prior.sample(200).float()
    torch.testing.assert_close(rounded.log_prob(z).double(), exact.log_prob(z.double()), rtol=1e-4, atol=1e-3)


def test_full_covariance_in_blocks_is_the_same():
    prior = _perturbed("full", features=32, components=64)
    z = torch.randn(5_000, 32, dtype=torch.float64)  # 10 million terms: several blocks
    with torch.no_grad():
        whole = prior.log_prob(z)
        parts = torch.cat([prior.log_prob(part) for part in z.split(700)])
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=1e-12)


def test_event_shapes_are_flattened():
    flat, shaped = MixturePrior(12, 3), MixturePrior((3, 4), 3)
    shaped.load_state_dict(flat.state_dict())
    z = torch.randn(5, 3, 4)
    assert torch.equal(shaped.log_prob(z), flat.log_prob(z.flatten(1)))
    assert shaped.sample(2).shape == (2, 3, 4)
    assert shaped.sample(0).shape == (0, 3, 4)


def test_it_trains_as_the_base_of_a_flow():
    z = _clusters()
    prior = FlowPrior(2, transforms=2, hidden_features=(8,), base=MixturePrior(2, components=3))
    plain = FlowPrior(2, transforms=2, hidden_features=(8,))
    scores = {}
    for name, flow in (("mixture", prior), ("normal", plain)):
        flow.initialize(z)
        optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
        for _ in range(100):
            optimizer.zero_grad()
            (-flow.log_prob(z).mean()).backward()
            optimizer.step()
        scores[name] = flow.log_prob(z).mean().item()
    assert scores["mixture"] > scores["normal"] + 0.1


def test_arguments_are_checked():
    for wrong, name in (
        ({"components": 0}, "components"),
        ({"components": True}, "components"),
        ({"covariance": "diag"}, "covariance"),
        ({"start": "k-means"}, "start"),
    ):
        with pytest.raises(InputError, match=f"`{name}` \\(="):
            MixturePrior(4, **wrong)
    with pytest.raises(InputError, match=r"`latents` has 10 rows but a mixture of `components` \(=128\)"):
        MixturePrior(4, 128).initialize(torch.randn(10, 4))


def test_covariances_are_full_by_default_up_to_64_features():
    assert MixturePrior(64, 2).covariance == "full"
    assert MixturePrior((4, 4, 4), 2).covariance == "full"
    assert MixturePrior(65, 2).covariance == "diagonal"
    assert MixturePrior(65, 2, "full").covariance == "full"


def _used(prior: MixturePrior) -> int:
    return int((prior.logits.softmax(0) > 0).sum())


def test_the_number_of_components_follows_the_data_unless_it_was_given():
    torch.manual_seed(0)
    prior, few = MixturePrior(3), torch.randn(450, 3)
    assert prior.components == 128
    prior.initialize(few)
    assert _used(prior) == 4
    assert prior.means.shape == (128, 3)
    twin = MixturePrior(3, 4)
    twin.initialize(few)
    torch.testing.assert_close(prior.log_prob(few), twin.log_prob(few))
    value = prior.log_prob(few).sum()
    for gradient in torch.autograd.grad(value, list(prior.parameters())):
        assert gradient[:4].any()
        assert not gradient[4:].any()  # what is not used is not learned
    assert MixturePrior(3, 7).components == 7
    fixed = MixturePrior(3, 7)
    fixed.initialize(few)
    assert fixed.components == 7
    many = MixturePrior(1)
    many.initialize(torch.randn(12_900, 1))
    assert _used(many) == 128

    fresh = FlowPrior(3, base="mixture")
    fitted = FlowPrior(3, base="mixture")
    fitted.initialize(few)
    fresh.load_state_dict(fitted.state_dict())
    assert _used(fresh.base) == 4
    assert torch.equal(fresh.log_prob(few), fitted.log_prob(few))
    with pytest.raises(RuntimeError, match="size mismatch"):
        MixturePrior(3, 7).load_state_dict(prior.state_dict())
