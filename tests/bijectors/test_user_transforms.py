"""Users' own nflows, torch and Pyro transforms as bijectors."""

import copy
import pickle
from typing import Any

import pyro.distributions.transforms as pt
import pytest
import torch
import torch.distributions.transforms as tt
from nflows.transforms import (
    BatchNorm,
    CompositeTransform,
    Logit,
    MaskedAffineAutoregressiveTransform,
    MultiscaleCompositeTransform,
    RandomPermutation,
    Transform,
)
from nflows.transforms.normalization import ActNorm
from pyro.distributions.conditional import ConditionalComposeTransformModule
from torch import Tensor, nn

from flowprior.bijectors import Bijector, as_bijector, build_bijector
from flowprior.errors import InputError


def check(bijector: Bijector, batch: int = 6) -> None:
    """Round trips, Jacobian, copies after use, every parameter registered and trained."""
    bijector.double()
    z = 0.5 * torch.randn(batch, *bijector.event_shape, dtype=torch.float64)
    width = bijector.context_features
    context = None if width is None else torch.randn(batch, width, dtype=torch.float64)
    z, _ = bijector.from_base(z, context)
    z0, logabsdet = bijector.to_base(z, context)
    back, logabsdet_back = bijector.from_base(z0, context)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-8)
    torch.testing.assert_close(logabsdet_back, -logabsdet, rtol=0, atol=1e-8)
    for index in range(2):
        one = None if context is None else context[index]
        jacobian = torch.autograd.functional.jacobian(
            lambda row, c=one: bijector.to_base(row, c)[0], z[index]
        )
        expected = torch.linalg.slogdet(jacobian.reshape(bijector.features, -1)).logabsdet
        torch.testing.assert_close(logabsdet[index], expected, rtol=0, atol=1e-8)
    for twin in (copy.deepcopy(bijector), pickle.loads(pickle.dumps(bijector))):
        torch.testing.assert_close(twin.to_base(z, context), (z0, logabsdet), rtol=0, atol=0)
    if z0.requires_grad:
        (z0.square().sum() + logabsdet.sum()).backward()
    assert all(parameter.grad is not None for parameter in bijector.parameters())


def torch_cases() -> dict[str, tuple[Any, int | tuple[int, ...]]]:
    torch.manual_seed(0)
    loc, scale = torch.randn(3), torch.rand(3) + 0.5
    return {
        "scalar affine": (tt.AffineTransform(1.0, -2.0), 3),
        "vector affine": (tt.AffineTransform(loc, scale, event_dim=1), 3),
        "elementwise on images": (tt.AffineTransform(1.0, 2.0), (2, 3, 2)),
        "inverse": (tt.AffineTransform(loc, scale).inv, 3),
        "compose": (tt.ComposeTransform([tt.AffineTransform(loc, scale), tt.TanhTransform()]), 3),
        "inverse of compose": (
            tt.ComposeTransform([tt.TanhTransform(), tt.AffineTransform(loc, scale)]).inv.inv,
            3,
        ),
        "list": ([tt.AffineTransform(loc, scale), tt.SigmoidTransform(), tt.AffineTransform(0.0, 3.0)], 3),
        "independent": (tt.IndependentTransform(tt.AffineTransform(loc, scale), 1), 3),
        "cat": (
            tt.CatTransform([tt.ExpTransform(), tt.AffineTransform(0.0, 2.0)], dim=-1, lengths=[1, 2]),
            3,
        ),
        "permute": (pt.Permute(torch.tensor([2, 0, 1])), 3),
        "coupling": (pt.affine_coupling(3, [8]), 3),
        "coupling, inverse": (pt.affine_coupling(3, [8]).inv, 3),
        "mixed list": (
            [pt.affine_coupling(3, [8]), pt.Permute(torch.tensor([2, 0, 1])), pt.affine_coupling(3, [8])],
            3,
        ),
        "compose module": (
            pt.ComposeTransformModule([pt.affine_coupling(3, [8]), pt.affine_coupling(3, [8])]),
            3,
        ),
        "spline": (pt.Spline(3), 3),
    }


@pytest.mark.parametrize("name", list(torch_cases()))
def test_torch_and_pyro_transforms(name: str) -> None:
    transform, features = torch_cases()[name]
    check(as_bijector(transform, features))


@pytest.mark.parametrize("name", ["one", "inverse", "list", "compose module"])
def test_pyro_conditional_transforms(name: str) -> None:
    torch.manual_seed(0)
    one, two = (pt.conditional_affine_coupling(3, 2, [8]) for _ in range(2))
    permute = pt.Permute(torch.tensor([2, 0, 1]))
    transform = {
        "one": one,
        "inverse": one.inv,
        "list": [one, permute, two, tt.AffineTransform(torch.randn(3), 2.0)],
        "compose module": ConditionalComposeTransformModule([one, permute, two]),
    }[name]
    check(as_bijector(transform, 3, context_features=2))


def test_pyro_autoregressive_in_float32() -> None:
    """Pyro inverts it by tensors of the default dtype, so it is not for float64."""
    torch.manual_seed(0)
    bijector = as_bijector(pt.affine_autoregressive(3, [8]), 3)
    z0 = torch.randn(5, 3)
    z, logabsdet = bijector.from_base(z0)
    torch.testing.assert_close(bijector.to_base(z), (z0, -logabsdet), rtol=0, atol=1e-5)


def test_torch_direction_is_that_of_transformed_distribution() -> None:
    torch.manual_seed(0)
    parts = [pt.affine_coupling(3, [8]), pt.Permute(torch.tensor([2, 0, 1])), tt.AffineTransform(1.0, 3.0)]
    z0 = torch.randn(5, 3)
    z, _ = as_bijector(parts, 3).from_base(z0)
    for part in parts:
        z0 = part(z0)
    torch.testing.assert_close(z, z0)


def nflows_cases() -> dict[str, tuple[nn.Module, int | tuple[int, ...], int | None]]:
    torch.manual_seed(0)
    made = MaskedAffineAutoregressiveTransform
    multiscale = MultiscaleCompositeTransform(2)
    shape = multiscale.add_transform(ActNorm(4), (4, 2, 2))
    multiscale.add_transform(ActNorm(2), shape)
    with torch.no_grad():
        for parameter in multiscale.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return {
        "autoregressive": (made(3, 8), 3, None),
        "composite": (CompositeTransform([made(3, 8), RandomPermutation(3), made(3, 8)]), 3, None),
        "conditional": (CompositeTransform([made(3, 8, context_features=2), RandomPermutation(3)]), 3, 2),
        "image": (ActNorm(4), (4, 2, 2), None),
        "multiscale": (multiscale, (4, 2, 2), None),
    }


@pytest.mark.parametrize("name", list(nflows_cases()))
def test_nflows_transforms(name: str) -> None:
    transform, features, context_features = nflows_cases()[name]
    check(as_bijector(transform.eval(), features, context_features))


def test_nflows_direction_is_that_of_an_nflows_flow() -> None:
    torch.manual_seed(0)
    transform = MaskedAffineAutoregressiveTransform(3, 8)
    z = torch.randn(5, 3)
    torch.testing.assert_close(as_bijector(transform, 3).to_base(z), transform(z))


def test_stale_cache_is_cleared() -> None:
    """Pyro alone answers with the old value on the same tensor object; as a bijector it does not."""
    torch.manual_seed(0)
    coupling = pt.affine_coupling(3, [8])
    bijector = as_bijector([coupling, pt.affine_coupling(3, [8])], 3)
    z = torch.randn(5, 3)
    before = bijector.to_base(z)[1]
    before.sum().backward()
    with torch.no_grad():
        for parameter in bijector.parameters():
            parameter.add_(0.1)
    after = bijector.to_base(z)[1]
    after.sum().backward()  # a second backward through a remembered graph would raise
    torch.testing.assert_close(after, bijector.to_base(z.clone())[1], rtol=0, atol=0)
    assert not torch.allclose(before, after)
    assert coupling._cached_log_scale is None


def test_a_transform_used_before_can_be_copied() -> None:
    coupling = pt.affine_coupling(3, [8])
    coupling(torch.randn(5, 3))  # leaves non-leaf tensors behind, which deepcopy refuses
    bijector = as_bijector(coupling, 3)
    bijector.to_base(torch.randn(5, 3))
    copy.deepcopy(bijector).to_base(torch.randn(5, 3))


def test_permutations_are_saved_loaded_and_moved() -> None:
    z = torch.randn(5, 4)
    one = as_bijector([pt.Permute(torch.tensor([3, 0, 2, 1])), tt.AffineTransform(torch.ones(4), 2.0)], 4)
    two = as_bijector([pt.Permute(torch.tensor([0, 1, 2, 3])), tt.AffineTransform(torch.zeros(4), 2.0)], 4)
    two.to_base(z)  # computes the inverse permutation, which must not outlive the load
    assert sorted(one.state_dict()) == ["tensors.0.permutation", "tensors.1.loc"]
    two.load_state_dict(one.state_dict())
    torch.testing.assert_close(two.to_base(z), one.to_base(z), rtol=0, atol=0)
    torch.testing.assert_close(two.from_base(z), one.from_base(z), rtol=0, atol=0)
    assert two.double().from_base(z.double())[0].dtype == torch.float64
    moved = [buffer.device.type for buffer in copy.deepcopy(one).to("meta").buffers()]
    assert moved == ["meta"] * 3  # and the empty one that tells the dtype


def test_parameters_of_inverses_and_plain_transforms_are_registered() -> None:
    loc = nn.Parameter(torch.zeros(3))
    coupling = pt.affine_coupling(3, [8])
    bijector = as_bijector([coupling.inv, tt.AffineTransform(loc, torch.ones(3))], 3)
    registered = {id(parameter) for parameter in bijector.parameters()}
    assert registered == {id(parameter) for parameter in (*coupling.parameters(), loc)}


def test_compiled_equals_eager() -> None:
    torch.manual_seed(0)
    bijector = as_bijector([pt.affine_coupling(3, [8]), tt.AffineTransform(torch.ones(3), 2.0)], 3)
    z = torch.randn(5, 3)
    torch._dynamo.reset()
    compiled = torch.compile(bijector.to_base, backend="aot_eager")
    torch.testing.assert_close(compiled(z), bijector.to_base(z))


class Shift(Bijector):
    """A user's own bijector: two methods on rows are all that it must implement."""

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return z + (0 if context is None else context[:, :1, None]), z.new_zeros(len(z))

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return z0 - (0 if context is None else context[:, :1, None]), z0.new_zeros(len(z0))


def test_own_bijector_is_taken_as_it_is() -> None:
    shift = Shift((2, 2), context_features=3)
    assert as_bijector(shift, (2, 2), 3) is shift
    check(shift)
    shift.initialize(torch.zeros(4, 2, 2), torch.zeros(4, 3))  # nothing to start


def test_wrong_transforms_are_refused() -> None:
    one = pt.conditional_affine_coupling(3, 2, [8])
    for arguments, words in [
        ((nn.Linear(3, 3), 3), r"`bijector` \(a Linear\) must be an nflows Transform"),
        ((lambda z: z, 3), r"`bijector` \(a function\)"),
        (([tt.ExpTransform(), "exp"], 3), r"`bijector` \(a str\)"),
        ((tt.AbsTransform(), 3), "AbsTransform, that is not bijective"),
        ((tt.StickBreakingTransform(), 3), r"event shape \(3,\) to \(4,\)"),
        ((tt.ReshapeTransform((4,), (2, 2)), 4), r"event shape \(4,\) to \(2, 2\)"),
        ((pt.Permute(torch.arange(3), dim=-2), 3), "2 event dimensions"),
        ((one, 3), r"`context_features` \(=None\) must be"),
        ((tt.ExpTransform(), 3, 2), r"`context_features` \(=2\) needs a conditional transform"),
        ((build_bijector(3, transforms=1), 4), r"`bijector` has event shape \(3,\)"),
        ((build_bijector(3, transforms=1), 3, 2), "`bijector` has context_features None"),
    ]:
        with pytest.raises(InputError, match=words):
            as_bijector(*arguments)


def test_a_stack_of_scalar_transforms() -> None:
    """torch's StackTransform reports its log-det an element: both are summed over the event."""
    from torch.distributions.transforms import AffineTransform, ExpTransform, StackTransform

    bijector = as_bijector(StackTransform([ExpTransform(), AffineTransform(1.0, 3.0)], dim=-1), 2)
    z0 = torch.tensor([[0.5, -1.0], [0.1, 2.0]])
    z, logabsdet = bijector.from_base(z0)
    torch.testing.assert_close(z, torch.stack((z0[:, 0].exp(), 1 + 3 * z0[:, 1]), -1))
    torch.testing.assert_close(logabsdet, z0[:, 0] + torch.tensor(3.0).log())


@pytest.mark.parametrize("made", [pt.planar(3), [pt.affine_coupling(3, [8]), pt.radial(3)]])
def test_a_transform_without_an_inverse_is_refused_at_once(made):
    with pytest.raises(InputError, match=r"a part, (Planar|Radial), that cannot be inverted"):
        as_bijector(made, 3)
    with pytest.raises(InputError, match="a part, ConditionedPlanar, that cannot be inverted"):
        as_bijector(pt.conditional_planar(3, 2, [8]), 3, 2)


class NoInverse(Transform):
    def forward(self, inputs, context=None):
        return inputs, inputs.new_zeros(len(inputs))


def test_an_nflows_transform_without_an_inverse_is_refused_at_once():
    with pytest.raises(InputError, match=r"`bijector` \(a CompositeTransform\) cannot be inverted"):
        as_bijector(CompositeTransform([NoInverse()]), 3)
    as_bijector(Logit(), 3)  # it has one, if not at 0
    trained = as_bijector(BatchNorm(3), 3)
    assert trained.transform.training
    assert torch.equal(trained.transform.running_mean, torch.zeros(3))  # the trial leaves no trace
