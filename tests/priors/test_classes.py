"""`classes=`: integer labels as the context, against the same flow on one-hot codes."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import one_hot

from flowprior import DecoupledPrior, EmbeddedPrior, FlowPrior, HierarchicalPrior, InputError, Prior, fit

SIZES = {"transforms": 2, "hidden_features": (8,)}
LABELS = torch.tensor([2, 0, 1, 2, 2])


def _twins(features=4, **settings):
    """A prior on labels and its twin on their one-hot codes, with the same parameters."""
    prior = FlowPrior(features, classes=3, **SIZES, **settings)
    twin = FlowPrior(features, context_features=3, **SIZES, **settings)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    twin.load_state_dict(prior.state_dict())
    return prior, twin


@pytest.mark.parametrize(
    ("features", "settings"),
    [(4, {}), (4, {"backend": "pyro"}), (4, {"recipe": "spline"}), ((2, 2, 2), {"recipe": "spatial"})],
    ids=["glf", "pyro", "spline", "spatial"],
)
def test_labels_are_one_hot_codes(features, settings):
    prior, twin = _twins(features, **settings)
    z, codes = torch.randn(5, *prior.event_shape), one_hot(LABELS, 3).float()
    for labels in (LABELS, LABELS.int(), LABELS.to(torch.uint8)):
        torch.testing.assert_close(prior.log_prob(z, labels), twin.log_prob(z, codes))
        torch.testing.assert_close(prior.to_base(z, labels), twin.to_base(z, codes))
        torch.testing.assert_close(prior(labels).log_prob(z), twin(codes).log_prob(z))
    draws = []
    for one, context in ((prior, LABELS), (twin, codes)):
        for draw in (one.sample, one.rsample, lambda n, c, one=one: one(c).sample(n)):
            torch.manual_seed(0)
            draws.append(draw((2,), context))
    for draw in draws[1:]:
        torch.testing.assert_close(draw, draws[0])
    assert draws[0].shape == (2, 5, *prior.event_shape)


def test_batches_of_labels_broadcast():
    prior, twin = _twins()
    z = torch.randn(2, 5, 4)
    one = torch.tensor(1)
    torch.testing.assert_close(prior.log_prob(z, one), twin.log_prob(z, one_hot(one, 3).float()))
    torch.testing.assert_close(prior.log_prob(z, LABELS), twin.log_prob(z, one_hot(LABELS, 3).float()))
    assert prior.sample(3, one).shape == (3, 4)
    assert prior.sample(3, LABELS.expand(2, 5)).shape == (3, 2, 5, 4)
    assert prior(LABELS).batch_shape == (5,)
    assert prior(LABELS).expand((7, 5)).rsample().shape == (7, 5, 4)
    assert prior.sample(300, LABELS, truncate=0.5, temperature=0.9).shape == (300, 5, 4)


def test_divergences_see_the_labels():
    prior, twin = _twins()
    q, codes = Normal(torch.zeros(5, 4), 1.0), one_hot(LABELS, 3).float()
    z = q.sample()
    torch.testing.assert_close(prior.kl(q, z, LABELS), twin.kl(q, z, codes))
    torch.manual_seed(0)
    divergence = kl_divergence(q, prior(LABELS))
    torch.manual_seed(0)
    torch.testing.assert_close(divergence, kl_divergence(q, twin(codes)))


def test_copies_and_files_keep_the_classes(tmp_path):
    prior, _ = _twins()
    z = torch.randn(5, 4)
    prior.initialize(torch.randn(60, 4), torch.arange(60) % 3)
    expected = prior.log_prob(z, LABELS)
    prior.save_pretrained(tmp_path)
    for twin in (Prior.from_pretrained(tmp_path), copy.deepcopy(prior), pickle.loads(pickle.dumps(prior))):
        assert (twin.classes, twin.context_shape, twin.context_features) == (3, (), None)
        assert torch.equal(twin.log_prob(z, LABELS), expected)
    assert torch.equal(DecoupledPrior(prior).log_prob(z, LABELS), expected)
    torch.testing.assert_close(prior.double().log_prob(z.double(), LABELS).float(), expected)


def test_fit_learns_each_class():
    torch.manual_seed(0)
    labels = np.arange(600) % 3
    means = torch.tensor([[-4.0, 0.0], [0.0, 4.0], [4.0, 0.0]])
    codes = means[labels] + 0.5 * torch.randn(600, 2)
    prior = FlowPrior(2, classes=3, **SIZES)
    fit(prior, codes, labels, epochs=3, progress=False, device="cpu")
    drawn = prior.sample(400, torch.arange(3)).mean(0)
    torch.testing.assert_close(drawn, means, rtol=0, atol=0.35)


def test_numbers_for_labels_and_labels_for_numbers_are_refused():
    prior, twin = _twins()
    z = torch.randn(5, 4)
    labelled = "has `classes` \\(=3\\): pass integer labels \\(\\*batch,\\), such as `labels.long\\(\\)`"
    for wrong in (LABELS.float(), LABELS.bool()):
        for call in (prior, lambda c: prior.log_prob(z, c), lambda c: prior.sample(1, c)):
            with pytest.raises(InputError, match=labelled):
                call(wrong)
    for wrong in (LABELS + 1, LABELS - 1):
        with pytest.raises(InputError, match=r"`context` holds labels from .* must be from 0 to 2"):
            prior.log_prob(z, wrong)
    with pytest.raises(
        InputError, match=r"`context` is missing: .* needs integer labels of shape \(\*batch,\)"
    ):
        prior.log_prob(z)
    numbers = "must be floating point: use `context.float\\(\\)`, or, .* as in FlowPrior\\(16, classes=10\\)"
    for call in (twin, lambda c: twin.log_prob(z, c), lambda c: twin.sample(1, c)):
        with pytest.raises(InputError, match=numbers):
            call(one_hot(LABELS, 3))
    with pytest.raises(InputError, match=numbers):
        fit(twin, torch.randn(60, 4), one_hot(torch.arange(60) % 3, 3), epochs=1, progress=False)
    with pytest.raises(InputError, match=r"labels, such as|pass integer labels"):
        fit(prior, torch.randn(60, 4), torch.randn(60), epochs=1, progress=False)


def test_arguments_that_do_not_fit_are_named():
    for wrong in (0, 2.5, True, "3"):
        with pytest.raises(InputError, match="`classes`"):
            FlowPrior(4, classes=wrong)
    with pytest.raises(InputError, match=r"`classes` .* together with `context_features`"):
        FlowPrior(4, classes=3, context_features=3)
    with pytest.raises(InputError, match="must be unconditional"):
        FlowPrior(4, base=FlowPrior(4, classes=3))
    with pytest.raises(InputError, match="`prior`"):
        EmbeddedPrior(FlowPrior(4, classes=3), torch.nn.Linear(2, 3), 2)
    with pytest.raises(InputError, match=r"`priors\[0\]` has `classes` \(=3\)"):
        HierarchicalPrior([FlowPrior((2, 1, 1), classes=3, recipe="spatial")])
