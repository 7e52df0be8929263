"""The battery's registry: every public prior, each with parameters away from its start."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.distributions.transforms import AffineTransform, SoftplusTransform

from flowprior.priors import DecoupledPrior, FlowPrior, ImplicitPrior, MixturePrior, Prior, StandardNormal

CONTEXT = 3
FLOWS = [(recipe, backend) for recipe in ("glf", "actnorm", "masked") for backend in ("nflows", "pyro")]
FLOWS.append(("spline", "nflows"))


@dataclass(frozen=True)
class Case:
    """A way to build a prior; `build` gives it in float64 with perturbed parameters, the same each time."""

    name: str
    make: Callable[..., Prior]
    conditional: bool = False
    whitened: str | None = None

    def build(self, features: int | tuple[int, ...] = 4) -> Prior:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            prior = self.make(features).double()
            if self.whitened is not None:
                assert isinstance(prior, FlowPrior)
                latents = 2 + torch.randn(500, *prior.event_shape, dtype=torch.float64) * 1.5
                prior.initialize(latents, standardize=self.whitened)
            with torch.no_grad():
                for parameter in prior.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return prior

    def context(self, *batch: int) -> Tensor | None:
        generator = torch.Generator().manual_seed(5)
        shape = (*batch, CONTEXT)
        return torch.randn(shape, generator=generator, dtype=torch.float64) if self.conditional else None


def _flow(**settings: object) -> Callable[..., Prior]:
    return lambda features: FlowPrior(features, transforms=4, hidden_features=(16, 16), **settings)


def _torch_transforms(features: int | tuple[int, ...]) -> Prior:
    return FlowPrior(
        features, bijector=[AffineTransform(0.5, 2.0), SoftplusTransform().inv, AffineTransform(-1.0, 1.0)]
    )


def _nflows_transform(features: int | tuple[int, ...]) -> Prior:
    from nflows.transforms import PointwiseAffineTransform

    return FlowPrior(features, bijector=PointwiseAffineTransform(shift=0.3, scale=1.7))


REGISTRY = [
    Case("normal", StandardNormal),
    Case("mixture-diagonal", lambda features: MixturePrior(features, 5, "diagonal")),
    Case("mixture-full", lambda features: MixturePrior(features, components=5, covariance="full")),
    *(Case(f"{r}-{b}", _flow(recipe=r, backend=b)) for r, b in FLOWS),
    *(Case(f"{r}-{b}-given", _flow(recipe=r, backend=b, context_features=CONTEXT), True) for r, b in FLOWS),
    Case("flow-on-mixture", lambda f: _flow(base=MixturePrior(f, components=4))(f)),
    Case("flow-on-flow", lambda f: _flow(base=FlowPrior(f, transforms=2, hidden_features=(8,)))(f)),
    Case("whitened-full", _flow(), whitened="full"),
    Case("whitened-diagonal", _flow(recipe="masked"), whitened="diagonal"),
    Case("own-nflows-transform", _nflows_transform),
    Case("decoupled", lambda f: DecoupledPrior(_flow()(f))),
    Case("decoupled-given", lambda f: DecoupledPrior(_flow(context_features=CONTEXT)(f)), True),
]


SAMPLERS = [  # priors without a density
    Case("implicit", lambda f: ImplicitPrior(f, hidden_features=(16, 16))),
    Case(
        "implicit-uniform",
        lambda f: ImplicitPrior(
            f, noise_features=3, hidden_features=(16,), batch_norm=False, noise="uniform"
        ),
    ),
]


@pytest.fixture(params=REGISTRY, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    """Every way to build a prior with a density."""
    return request.param


@pytest.fixture(params=SAMPLERS, ids=lambda case: case.name)
def sampler(request: pytest.FixtureRequest) -> Case:
    """Every way to build a prior without one."""
    return request.param


@pytest.fixture
def registry() -> list[Case]:
    return REGISTRY + SAMPLERS


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
