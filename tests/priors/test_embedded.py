"""Priors with an embedding net: what it sees and learns, images as contexts, errors."""

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from flowprior import FlowPrior, InputError, Prior, StandardNormal
from flowprior.priors import EmbeddedPrior, GaussianPrior, ImplicitPrior
from flowprior.training.fit import fit

IMAGE = (1, 8, 8)


class Counting(nn.Module):
    """Images (N, 1, 8, 8) -> 16 numbers; counts the rows that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.rows = nn.Linear(64, 16), 0

    def forward(self, images: Tensor) -> Tensor:
        self.rows += len(images)
        return self.layer(images.flatten(1)).tanh()


def flow() -> FlowPrior:
    return FlowPrior(2, transforms=2, hidden_features=(16, 16), context_features=16)


def prior() -> EmbeddedPrior:
    torch.manual_seed(0)
    return EmbeddedPrior(flow(), Counting(), IMAGE)


def test_it_is_the_prior_at_embedded_contexts():
    embedded, images, z = prior(), torch.rand(3, 5, *IMAGE), torch.randn(3, 5, 2)
    inner = embedded.prior
    seen = embedded.embedding(images.flatten(0, 1)).unflatten(0, (3, 5))
    torch.testing.assert_close(embedded.log_prob(z, images), inner.log_prob(z, seen))
    for got, wanted in zip(embedded.to_base(z, images), inner.to_base(z, seen), strict=True):
        torch.testing.assert_close(got, wanted)
    torch.manual_seed(1)
    drawn = embedded.sample(4, images)
    torch.manual_seed(1)
    torch.testing.assert_close(drawn, inner.sample(4, seen))
    assert embedded(images).sample((2,)).shape == (2, 3, 5, 2)
    assert embedded.has_normal_base


def test_a_gaussian_inside_keeps_its_closed_form():
    torch.manual_seed(0)
    network = Counting()
    embedded = EmbeddedPrior(GaussianPrior(2, 16, hidden_features=(8,)), network, IMAGE)
    images, q = torch.rand(6, *IMAGE), Independent(Normal(torch.randn(6, 2), torch.rand(6, 2) + 0.5), 1)
    mean = embedded.prior(network(images)).sample((200_000,)).mean(0)
    exact = kl_divergence(q.base_dist, Normal(mean, torch.ones(6, 2))).sum(-1)
    torch.testing.assert_close(embedded.kl(q, context=images), exact, atol=0.02, rtol=0.02)


def test_a_context_is_embedded_once_whatever_the_draws():
    embedded = prior()
    embedded.sample(100, torch.rand(3, *IMAGE))
    assert embedded.embedding.rows == 3


def test_the_embedding_learns_with_the_prior():
    embedded = prior()
    images = torch.rand(1500, *IMAGE)
    z = 4 * images[:, 0, :2, 0] + 0.2 * torch.randn(1500, 2)
    before = embedded.embedding.layer.weight.clone()
    fit(embedded, z, images, epochs=20, batch_size=128, lr=1e-2, progress=False, device="cpu")
    assert not torch.equal(embedded.embedding.layer.weight, before)
    with torch.no_grad():
        own, other = (embedded.log_prob(z, c).mean() for c in (images, images.roll(1, 0)))
    assert own - other > 2
    entropy = Independent(Normal(torch.zeros(2), torch.full((2,), 0.2)), 1).entropy()
    assert -own < entropy + 1  # z | c is that Gaussian: -E log p is its entropy, or more


def test_initialize_starts_the_prior_inside_from_embedded_contexts():
    embedded, twin = prior(), prior()
    z, images = 3 + 2 * torch.randn(1300, 2), torch.rand(1300, *IMAGE)
    embedded.initialize(z, images)
    twin.prior.initialize(z, twin.embedding(images))
    for got, wanted in zip(embedded.state_dict().values(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(got, wanted)


def test_saved_and_loaded_with_the_network_passed(tmp_path):
    embedded, images, z = prior(), torch.rand(3, *IMAGE), torch.randn(3, 2)
    embedded.save_pretrained(tmp_path)
    loaded = Prior.from_pretrained(tmp_path, embedding=Counting())
    torch.testing.assert_close(loaded.log_prob(z, images), embedded.log_prob(z, images))
    with pytest.raises(InputError, match=r"its own embedding \(Counting\), and code is not stored: pass"):
        Prior.from_pretrained(tmp_path)
    StandardNormal(2).save_pretrained(tmp_path / "normal")
    with pytest.raises(InputError, match="`embedding` was given but"):
        Prior.from_pretrained(tmp_path / "normal", embedding=Counting())
    with pytest.raises(InputError, match="does not fit the prior"):
        Prior.from_pretrained(tmp_path, embedding=nn.Linear(2, 2))


def test_bad_input_is_named():
    for wrong in (StandardNormal(2), FlowPrior(2), ImplicitPrior(2), nn.Linear(2, 2)):
        with pytest.raises(InputError, match=rf"`prior` \(a {type(wrong).__name__}\) must be invertible and"):
            EmbeddedPrior(wrong, Counting(), IMAGE)
    for network in (None, torch.rand):
        with pytest.raises(InputError, match=r"`embedding` .* must be a torch module"):
            EmbeddedPrior(flow(), network, IMAGE)
    narrow = EmbeddedPrior(flow(), nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), IMAGE)
    with pytest.raises(
        InputError, match=r"`embedding` returned \(5, 3\) for 5 contexts but must return \(N, 16"
    ):
        narrow.sample(1, torch.rand(5, *IMAGE))
    with pytest.raises(InputError, match=r"`context` has shape \(5, 64\) but must end in `context_features`"):
        prior().sample(1, torch.rand(5, 64))
    with pytest.raises(InputError, match="`context` is missing"):
        prior().sample(1)
