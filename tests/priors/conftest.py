"""The battery's registry: every public prior, each with parameters away from its start."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.distributions.transforms import AffineTransform, SoftplusTransform

from flowprior.priors import (
    DecoupledPrior,
    EmbeddedPrior,
    FlowPrior,
    GaussianPrior,
    HierarchicalPrior,
    ImplicitPrior,
    MixturePrior,
    Prior,
    StandardNormal,
    VariationalPrior,
)

CONTEXT = 3
FLOWS = [(recipe, backend) for recipe in ("glf", "actnorm", "masked") for backend in ("nflows", "pyro")]
FLOWS.append(("spline", "nflows"))


@dataclass(frozen=True)
class Case:
    """A way to build a prior; `build` gives it in float64 with perturbed parameters, the same each time.

    A test for an event shape that the prior is not for is skipped.
    """

    name: str
    make: Callable[..., Prior]
    conditional: bool = False
    whitened: str | None = None
    events: tuple[int | tuple[int, ...], ...] = (1, 2, 4, (4,), (2, 3))

    def build(self, features: int | tuple[int, ...] = 4) -> Prior:
        if features not in self.events:
            pytest.skip(f"{self.name} is not for events of shape {features}")
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


def _hierarchy(features: int | tuple[int, ...]) -> Prior:
    """Two scales of 1x1 maps, each with a part of the context; one scale of a single number."""
    if features == 1:
        return HierarchicalPrior([GaussianPrior((1, 1, 1), CONTEXT, hidden_features=(8,))])
    half = torch.Size((features,) if isinstance(features, int) else features).numel() // 2
    coarse = GaussianPrior((half, 1, 1), (1, 1, 1), hidden_features=(8,))
    return HierarchicalPrior(
        [coarse, GaussianPrior((half, 1, 1), (CONTEXT - 1 + half, 1, 1), hidden_features=(8, 8))]
    )


def _flow_hierarchy(features: int | tuple[int, ...]) -> Prior:
    """Spatial flows: of two scales, or of one where there are only two features."""
    settings = {"recipe": "spatial", "transforms": 3, "hidden_features": (8, 8)}
    if features == 2:
        return HierarchicalPrior([FlowPrior((2, 1, 1), context_features=(CONTEXT, 1, 1), **settings)])
    return HierarchicalPrior(
        [
            FlowPrior((2, 1, 1), context_features=CONTEXT - 1, **settings),
            FlowPrior((2, 1, 1), context_features=(1 + 2, 1, 1), **settings),
        ]
    )


def _embedded(features: int | tuple[int, ...]) -> Prior:
    network = nn.Sequential(nn.Linear(CONTEXT, 8), nn.Tanh(), nn.Linear(8, 5))
    return EmbeddedPrior(_flow(context_features=5)(features), network, CONTEXT)


REGISTRY = [
    Case("normal", StandardNormal),
    Case("mixture-diagonal", lambda features: MixturePrior(features, 5, "diagonal")),
    Case("mixture-full", lambda features: MixturePrior(features, components=5, covariance="full")),
    *(Case(f"{r}-{b}", _flow(recipe=r, backend=b)) for r, b in FLOWS),
    *(Case(f"{r}-{b}-given", _flow(recipe=r, backend=b, context_features=CONTEXT), True) for r, b in FLOWS),
    *(
        Case(
            f"{r}-given",
            lambda f, r=r: FlowPrior(
                f, recipe=r, transforms=2, hidden_features=(8, 8), context_features=CONTEXT
            ),
            True,
            events=(4, (4,), (2, 3)) if r == "transformer" else (2, 4, (4,), (2, 3)),
        )
        for r in ("transformer", "jet")
    ),
    Case("flow-on-mixture", lambda f: _flow(base=MixturePrior(f, components=4))(f)),
    Case("flow-on-flow", lambda f: _flow(base=FlowPrior(f, transforms=2, hidden_features=(8,)))(f)),
    Case("whitened-full", _flow(), whitened="full"),
    Case("whitened-diagonal", _flow(recipe="masked"), whitened="diagonal"),
    Case("own-nflows-transform", _nflows_transform),
    Case("decoupled", lambda f: DecoupledPrior(_flow()(f))),
    Case("gaussian", lambda f: GaussianPrior(f, CONTEXT, hidden_features=(16,)), True),
    Case("hierarchical", _hierarchy, True, events=(1, 2, 4, (4,))),
    Case("hierarchical-spatial", _flow_hierarchy, True, events=(2, 4, (4,))),
    Case("embedded", _embedded, True),
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
BOUNDED = [
    Case("variational", lambda f: VariationalPrior(f, hidden_features=(16, 16)))
]  # test_variational.py


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
    return REGISTRY + SAMPLERS + BOUNDED


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
