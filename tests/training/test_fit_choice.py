"""`fit` that cannot end in nonsense: its start, its choice, and all it can read."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from torch.utils.data import DataLoader, TensorDataset

from flowprior import DecoupledPrior, EmbeddedPrior, FlowPrior, InputError, MixturePrior, fit
from flowprior.bijectors import RECIPES, Recipe, Whitening
from flowprior.priors import Prior
from flowprior.training import rows as reading

FAST = {"progress": False, "device": "cpu"}
QUICK = {"seconds": 2.0, **FAST}


def _codes(rows: int = 400, features: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(features, features, generator=torch.Generator().manual_seed(5))
    return torch.randn(rows, features, generator=generator) @ mix + 4


def _modes(rows: int = 900, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    return centers[torch.arange(rows) % 3] + torch.randn(rows, 2, generator=generator)


@pytest.mark.parametrize(
    "recipe", [*sorted(set(RECIPES) - {"spatial"}), Recipe(scale="sigmoid", transforms=3)]
)
def test_the_start_of_every_recipe_is_the_shrunk_gaussian(recipe):
    z = _codes(60, 5)
    prior = FlowPrior(5, recipe=recipe, hidden_features=(8,))
    prior.initialize(z, restart=True)
    whitening = Whitening.from_data(z)
    z0, logabsdet = whitening.to_base(z)
    expected = logabsdet - 0.5 * z0.square().sum(1) - 2.5 * math.log(2 * math.pi)
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-4, atol=1e-3)


def test_few_rows_of_many_features_end_at_worst_in_the_gaussian():
    z, fresh = _codes(60, 64), _codes(500, 64, seed=1)
    prior = FlowPrior(64, transforms=2, hidden_features=(8,))
    with pytest.warns(UserWarning, match="60 rows of 64 features, few"):
        result = fit(prior, z, epochs=2, lr=0.5, **FAST)  # a rate that ruins every epoch
    assert result.best_epoch == 0
    with torch.no_grad():
        nll = -prior.log_prob(fresh).mean().item()
    assert nll < -LedoitWolf().fit(z[:54]).score(fresh)


def test_constant_features_and_exact_low_rank_are_named():
    z = torch.cat((_codes(300, 3), torch.full((300, 1), 7.0)), 1)
    z = torch.cat((z, z[:, :1] - z[:, 1:2]), 1)
    result = fit(FlowPrior(5, transforms=2, hidden_features=(8,)), z, epochs=1, **FAST)
    assert "1 of 5 features do not vary (3)" in result.notes[0]
    assert "4 features that vary have rank 3" in result.notes[1]
    assert "rank 3" in str(result)


@pytest.mark.parametrize("start", ["kmeans", "em"])
@pytest.mark.parametrize("covariance", ["diagonal", "full"])
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_a_mixture_of_scaled_codes_is_the_scaled_mixture(start, covariance, scale):
    z = _modes().double()
    one, other = (MixturePrior(2, 3, covariance, start).double() for _ in range(2))
    one.initialize(z)
    other.initialize(z * scale)
    expected = one.log_prob(z) - 2 * math.log(scale)
    torch.testing.assert_close(other.log_prob(z * scale), expected, rtol=1e-6, atol=1e-6)


def test_the_choice_is_right_and_says_what_each_got():
    prior = fit(_modes(), seconds=30.0, epochs=2, **FAST)
    said = str(prior.fitted)
    assert "mixture of 3 full Gaussians" in prior.fitted.notes[-1]
    assert [each.name for each in prior.fitted.candidates][:2] == ["Gaussian", "mixture of 3 full Gaussians"]
    assert any(each.name.startswith("flow on") for each in prior.fitted.candidates)
    assert all(each.name in said for each in prior.fitted.candidates)
    truth = (
        -torch.logsumexp(
            torch.stack(
                [
                    -0.5 * (_modes(3000, 1) - c).square().sum(1)
                    for c in torch.tensor([[0.0, 0], [9, 0], [0, 9]])
                ]
            ),
            0,
        ).mean()
        + math.log(2 * math.pi)
        + math.log(3)
    )
    assert -prior.log_prob(_modes(3000, 1)).mean() < truth + 0.03
    plain = fit(_codes(), seconds=30.0, epochs=2, **FAST)
    assert plain.fitted.notes[-1].startswith("Chosen: Gaussian, by")
    assert plain.dtype == torch.float32
    assert fit(_codes().double(), **QUICK).dtype == torch.float64


def test_a_flow_is_chosen_where_it_is_better_and_starts_where_the_mixture_is():
    angle = torch.rand(3_000, generator=torch.Generator().manual_seed(0)) * 2 * math.pi
    ring = torch.stack((angle.cos(), angle.sin()), 1) * (3 + 0.05 * torch.randn(3_000, 1))
    prior = fit(ring, seconds=60.0, epochs=10, **FAST)
    got = {each.name.split(" of ")[0]: each.nll for each in prior.fitted.candidates}
    assert (
        got["flow on a mixture"]
        <= min(each.nll for each in prior.fitted.candidates if each.name.startswith("mixture")) + 1e-3
    )
    assert isinstance(prior, Prior)
    assert prior.sample(500).norm(dim=1).sub(3).abs().mean() < 0.5


def test_the_same_seed_chooses_the_same():
    ample = QUICK | {"seconds": 600.0}  # so that no candidate is cut short
    one, other = (fit(_modes(300), epochs=2, **ample) for _ in range(2))
    assert torch.equal(one.log_prob(_modes(5)), other.log_prob(_modes(5)))


def test_a_context_is_standardized_and_chosen_for():
    context = torch.randn(600, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1e4, 1e-3]
    ) + torch.tensor([1e5, 1e-2])
    shifts = (context - context.mean(0)) / context.std(0)
    z = _codes(600) + 5 * shifts[:, :1]
    prior = FlowPrior(3, transforms=2, hidden_features=(8,), context_features=2)
    fit(prior, z, context, epochs=1, validation=0.0, **FAST)
    torch.testing.assert_close(prior.context_scale.loc, context.mean(0))
    std = context.double().std(0, correction=0).float()
    torch.testing.assert_close(prior.context_scale.scale, std)
    copy = FlowPrior(3, transforms=2, hidden_features=(8,), context_features=2)
    copy.load_state_dict(prior.state_dict())
    assert torch.equal(copy.log_prob(z, context), prior.log_prob(z, context))
    chosen = fit(z, context=context, epochs=2, **QUICK)
    assert chosen.context_features == 2
    assert "flow on one Gaussian" in str(chosen.fitted)
    plain = fit(z, epochs=2, **QUICK)
    assert chosen.log_prob(z, context).mean() > plain.log_prob(z).mean() + 1


def test_standardize_reaches_a_flow_inside():
    flow = FlowPrior(3, transforms=2, hidden_features=(8,))
    fit(DecoupledPrior(flow), _codes(), standardize="diagonal", epochs=1, **FAST)
    assert flow.whitening.fitted
    assert not flow.whitening.scale_tril.tril(-1).any()
    flow = FlowPrior(3, transforms=2, hidden_features=(8,), context_features=4)
    embedded = DecoupledPrior(EmbeddedPrior(flow, torch.nn.Linear(2, 4), 2))
    fit(embedded, _codes(), torch.randn(400, 2), standardize=None, epochs=1, **FAST)
    assert not flow.whitening.fitted
    assert flow.context_scale.loc.any()


class Table:
    """What a DataFrame is to `fit`."""

    def __init__(self, values):
        self.values = values

    def to_numpy(self):
        return self.values


def _sources(z, path):
    np.save(path, z.numpy())
    return {
        "array": z.numpy(),
        "table": Table(z.numpy()),
        "mapped": np.load(path, mmap_mode="r"),
        "dataset": TensorDataset(z, torch.zeros(len(z))),
        "loader": DataLoader(TensorDataset(z), batch_size=64),
        "batches": [{"z": part} for part in z.split(100)].__iter__(),
    }


@pytest.mark.parametrize("kind", ["array", "table", "mapped", "dataset", "loader", "batches"])
def test_everything_that_holds_rows_is_read(kind, tmp_path):
    z = _codes()
    one, other = (FlowPrior(3, transforms=2, hidden_features=(8,)) for _ in range(2))
    other.load_state_dict(one.state_dict())
    fit(one, z, epochs=1, **FAST)
    fit(other, _sources(z, tmp_path / "z.npy")[kind], epochs=1, **FAST)
    assert torch.equal(one.log_prob(z), other.log_prob(z))


def test_batches_bring_their_context():
    z, context = _codes(), torch.randn(400, 2)
    prior = FlowPrior(3, transforms=2, hidden_features=(8,), context_features=2)
    assert math.isfinite(fit(prior, DataLoader(TensorDataset(z, context), 64), epochs=1, **FAST).nll)
    with pytest.raises(InputError, match="`context` is missing"):
        fit(prior, DataLoader(TensorDataset(z), 64), epochs=1, **FAST)
    with pytest.raises(InputError, match="gave no batch"):
        fit(prior, iter(()), **FAST)


def test_more_rows_than_are_kept_are_sampled_evenly_in_bounded_memory(tmp_path, monkeypatch):
    rows, width = 400_000, 16
    array = np.lib.format.open_memmap(tmp_path / "z.npy", "w+", np.float32, (rows, width))  # a sparse file
    array[::100] = np.random.default_rng(0).normal(size=(rows // 100, width))
    array.flush()
    monkeypatch.setattr(reading, "MEMORY", 2**20)
    monkeypatch.setattr(reading, "PART", 2**18)
    mapped = np.load(tmp_path / "z.npy", mmap_mode="r")
    tracemalloc.start()
    with pytest.warns(UserWarning, match="400000 rows, more than are kept in memory: .* sample of 16384"):
        kept = reading.gather(mapped, None, dtype=torch.float32, conditional=False, seed=0)["z"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20  # NumPy's part of it; the file has 25 MiB
    assert len(kept) == 16384
    assert kept.any(1).double().mean() == pytest.approx(0.01, rel=0.25)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(mode):
    prior = FlowPrior(3, transforms=2, hidden_features=(8,))
    with mode():
        z = _codes() * 1.0
        result = fit(prior, z, epochs=2, **FAST)
        chosen = fit(z, epochs=1, **QUICK)
    assert result.epochs == 2
    assert all(parameter.requires_grad for parameter in chosen.parameters())
    chosen.log_prob(_codes()).sum().backward()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fit(torch.randn(50)), r"`latents` has shape \(50,\)"),
        (lambda: fit(torch.full((50, 2), math.nan)), "NaN"),
        (lambda: fit(torch.randn(5, 2)), "too few"),
        (lambda: fit(torch.randn(50, 2), seconds=-1.0), "`seconds`"),
        (lambda: fit(torch.randn(50, 2), validation=0.0), "`validation`"),
        (lambda: fit(torch.randn(50, 2), standardize=None), "`standardize`"),
        (lambda: fit(torch.randn(50, 2), context=torch.randn(49, 2)), "`context` has 49 rows"),
        (lambda: fit(FlowPrior(2)), "`latents` is missing"),
    ],
)
def test_what_cannot_be_chosen_for_gets_a_sentence(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_a_chosen_flow_that_was_best_at_its_start_is_that_start_of_all_rows():
    z, context = _codes(), torch.randn(400, 2)
    chosen = fit(z, context=context, epochs=1, lr=0.9, **QUICK)  # a rate that ruins every epoch
    assert chosen.fitted.best_epoch == 0
    assert "fitted again to all" in chosen.fitted.notes[-1]
    torch.testing.assert_close(chosen.whitening.loc, z.mean(0))


def test_seconds_bound_the_epochs_of_a_given_prior():
    prior = FlowPrior(3, transforms=2, hidden_features=(8,))
    assert fit(prior, _codes(), seconds=1e-3, epochs=50, **FAST).epochs == 1
