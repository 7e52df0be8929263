"""Who is measured beside flowprior: the flow of recipe `glf` in other libraries, and its bare products.

Each does the same work: as many affine couplings with bounded log-scales, halves that swap from one coupling
to the next, conditioners of the same layers, and a permutation after every second coupling. Libraries are
imported where they are used. Another contestant is one more function `(size, device) -> Contestant` in
`PEERS`; it may lack an operation (an inference engine has no "step").
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from flowprior.errors import InputError
from flowprior.evaluation.costs import Contestant, Size, contestant


def kept_features(features: int, index: int) -> int:
    """How many features coupling `index` passes on, and its conditioner reads."""
    return (features + 1) // 2 if index % 2 == 0 else features // 2


def layers(size: Size) -> list[tuple[int, int]]:
    """(inputs, outputs) of all linear layers of the conditioners."""
    pairs: list[tuple[int, int]] = []
    for index in range(size.depth):
        kept = kept_features(size.features, index)
        pairs += pairwise((kept, size.width, size.width, 2 * (size.features - kept)))
    return pairs


def flop(size: Size, operation: str) -> int:
    """Floating-point operations of the conditioners' matrix products; a training step has three times
    those of `log_prob`."""
    forward = 2 * size.batch * sum(inputs * outputs for inputs, outputs in layers(size))
    return 3 * forward if operation == "step" else forward


def products(size: Size, device: str) -> Contestant:
    """The conditioners' matrix products alone, without biases and activations; a step's with its backward."""
    operands = [
        tuple(torch.randn(shape, device=device) for shape in ((size.batch, i), (o, i), (size.batch, o)))
        for i, o in layers(size)
    ]

    def forward() -> None:
        for inputs, weight, _ in operands:
            torch.mm(inputs, weight.t())

    def with_backward() -> None:
        forward()
        for inputs, weight, gradient in operands:
            torch.mm(gradient.t(), inputs)
            torch.mm(gradient, weight)

    return Contestant("products", {"log_prob": forward, "sample": forward, "step": with_backward})


class _Network(nn.Module):
    """The layers of a `glf` conditioner, (N, inputs) -> (N, outputs)."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
        )
        with torch.no_grad():
            for parameter in self.layers[-1].parameters():
                parameter.mul_(0.1)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        return self.layers(inputs)


def nflows_flow(features: int, depth: int, width: int) -> nn.Module:
    """nflows' own couplings, scale sigmoid(s + 2) + 1e-3."""
    from nflows.distributions.normal import StandardNormal
    from nflows.flows.base import Flow
    from nflows.transforms.base import CompositeTransform
    from nflows.transforms.coupling import AffineCouplingTransform
    from nflows.transforms.permutations import RandomPermutation

    steps: list[nn.Module] = []
    for index in range(depth):
        second = torch.arange(features) >= (features + 1) // 2
        mask = (second if index % 2 == 0 else ~second).int()
        steps.append(AffineCouplingTransform(mask, lambda i, o: _Network(i, o, width)))
        if index % 2 == 1:
            steps.append(RandomPermutation(features))
    return Flow(CompositeTransform(steps), StandardNormal([features]))


class Normflows(nn.Module):
    """normflows' couplings, scale sigmoid(s + 2)."""

    def __init__(self, features: int, depth: int, width: int) -> None:
        super().__init__()
        import normflows

        steps: list[nn.Module] = []
        for index in range(depth):
            kept = kept_features(features, index)
            network = _Network(kept, 2 * (features - kept), width)
            split = "channel" if index % 2 == 0 else "channel_inv"
            steps.append(normflows.flows.AffineCouplingBlock(network, scale_map="sigmoid", split_mode=split))
            if index % 2 == 1:
                steps.append(normflows.flows.Permute(features))
        base = normflows.distributions.DiagGaussian(features, trainable=False)
        self.flow = normflows.NormalizingFlow(base, steps[::-1])  # it lists them from z0 to z

    def log_prob(self, z: Tensor) -> Tensor:
        return self.flow.log_prob(z)

    def sample(self, count: int) -> Tensor:
        return self.flow.sample(count)[0]


class Zuko(nn.Module):
    """zuko's couplings, log-scale s / (1 + |s| / 6.9)."""

    def __init__(self, features: int, depth: int, width: int) -> None:
        super().__init__()
        from zuko.distributions import DiagNormal
        from zuko.flows.coupling import GeneralCouplingTransform
        from zuko.lazy import Flow, UnconditionalDistribution, UnconditionalTransform
        from zuko.transforms import PermutationTransform

        steps: list[Any] = []
        first = torch.arange(features) < (features + 1) // 2
        for index in range(depth):
            kept = first if index % 2 == 0 else ~first
            steps.append(GeneralCouplingTransform(features, mask=kept, hidden_features=(width, width)))
            if index % 2 == 1:
                order = torch.randperm(features)
                steps.append(UnconditionalTransform(PermutationTransform, order, buffer=True))
        zeros = torch.zeros(features)
        base = UnconditionalDistribution(DiagNormal, loc=zeros, scale=zeros + 1, buffer=True)
        self.flow = Flow(steps, base)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.flow().log_prob(z)

    def sample(self, count: int) -> Tensor:
        return self.flow().sample((count,))


class _Parts(_Network):
    """Shift and log-scale as two tensors, as Pyro asks for them."""

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Any:
        return super().forward(inputs).chunk(2, dim=-1)


class Pyro(nn.Module):
    """Pyro's couplings, log-scale clipped to [-5, 3]; the swap and the permutation are one reordering."""

    def __init__(self, features: int, depth: int, width: int) -> None:
        super().__init__()
        from pyro.distributions import Normal, TransformedDistribution
        from pyro.distributions.transforms import AffineCoupling, Permute

        steps: list[Any] = []
        for index in range(depth):
            kept = kept_features(features, index)
            steps.append(AffineCoupling(kept, _Parts(kept, 2 * (features - kept), width)))
            swap = torch.arange(features).roll(features - kept)
            steps.append(Permute(swap if index % 2 == 0 else torch.randperm(features)))
        self.couplings = nn.ModuleList([step for step in steps if isinstance(step, nn.Module)])
        base = Normal(torch.zeros(features), torch.ones(features)).to_event(1)
        self.flow = TransformedDistribution(base, steps[::-1])  # from z0 to z

    def log_prob(self, z: Tensor) -> Tensor:
        self.flow.clear_cache()  # or it would answer for the parameters of the call before
        return self.flow.log_prob(z)

    def sample(self, count: int) -> Tensor:
        return self.flow.sample((count,))


class Freia(nn.Module):
    """FrEIA's couplings, log-scale 2 tanh(s); one of its blocks is two couplings."""

    def __init__(self, features: int, depth: int, width: int) -> None:
        super().__init__()
        from FrEIA import framework, modules

        self.features = features
        self.flow = framework.SequenceINN(features)
        sizes = {"clamp": 2.0, "clamp_activation": "TANH", "split_len": (features + 1) // 2}
        sizes["subnet_constructor"] = lambda i, o: _Network(i, o, width)
        for _ in range(depth // 2):
            self.flow.append(modules.GLOWCouplingBlock, **sizes)
            self.flow.append(modules.PermuteRandom)
        if depth % 2 == 1:
            self.flow.append(modules.AffineCouplingOneSided, **sizes)

    def log_prob(self, z: Tensor) -> Tensor:
        z0, logabsdet = self.flow(z)
        return logabsdet - 0.5 * z0.square().sum(1) - 0.5 * math.log(2 * math.pi) * self.features

    def sample(self, count: int) -> Tensor:
        parameter = next(self.parameters())
        z0 = torch.randn(count, self.features, device=parameter.device, dtype=parameter.dtype)
        return self.flow(z0, rev=True)[0]


def _library(
    name: str, build: Callable[[int, int, int], nn.Module], size: Size, device: str, fused: bool | None = None
) -> Contestant:
    with torch.device(device):  # some hold tensors that do not follow `.to`
        flow = build(size.features, size.depth, size.width).to(device)
    adam = torch.optim.Adam([p for p in flow.parameters() if p.requires_grad], lr=1e-5, fused=fused)
    return contestant(name, flow, adam, size, device)


FLOWS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "nflows": nflows_flow,
    "normflows": Normflows,
    "zuko": Zuko,
    "pyro": Pyro,
    "FrEIA": Freia,
}
PEERS: dict[str, Callable[[Size, str], Contestant]] = {
    name: partial(_library, name, build) for name, build in FLOWS.items()
}
# where pip, and where Python, knows one by another name
PACKAGES = {"pyro": "pyro-ppl", "JAX": "jax", "ONNX Runtime": "onnxruntime"}
MODULES = {"JAX": "jax", "ONNX Runtime": "onnxruntime"}
FUSED = ", fused Adam"  # what the name of a peer ends in where its step is by flowprior's optimizer


def with_fused_adam(name: str, size: Size, device: str) -> Contestant:
    """The training step of a peer with torch's fused Adam in the place of its default one."""
    entered = _library(name + FUSED, FLOWS[name], size, device, fused=True)
    return entered._replace(calls={"step": entered.calls["step"]})


def installed(names: Iterable[str] = tuple(PEERS)) -> tuple[str, ...]:
    """Those of `names`, peers or engines, that can be imported here."""
    return tuple(name for name in names if find_spec(MODULES.get(name, name)) is not None)


def choose(names: str, known: Iterable[str] = tuple(PEERS)) -> tuple[str, ...]:
    """Those of `known` that "installed", "none" or names with commas between them mean.

    Raises:
        InputError: if a name is not known, or is not installed.
    """
    known = tuple(known)
    if names in ("installed", "none"):
        return installed(known) if names == "installed" else ()
    chosen = tuple(name.strip() for name in names.split(","))
    for name in chosen:
        if name not in known:
            raise InputError(f"`peers` (={name!r}) must be 'installed', 'none' or among {', '.join(known)}.")
        if name not in installed(known):
            package = PACKAGES.get(name, name)
            raise InputError(f"`peers` (={name!r}) is not installed: run `pip install {package}`.")
    return chosen
