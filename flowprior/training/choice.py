"""`fit` without a prior: Gaussians, mixtures and flows compete by the likelihood of held-out rows."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowprior.bijectors.shrinkage import limit_of, scales, shrunk_factor
from flowprior.checks import check_finite, check_number, check_rows
from flowprior.errors import InputError
from flowprior.priors import FlowPrior, MixturePrior, Prior
from flowprior.priors.expectation import Moments, search
from flowprior.priors.flow import Mode
from flowprior.training.fitting import Candidate, FitResult, look_at, step_seconds, train_prior

TIE = 1e-3  # nats a feature that a less simple candidate must gain
LARGEST_FULL = 4096  # features up to which covariances are full
FEW = 10_000  # rows below which flows are small
STEPS = 3_000  # of a flow, if the time allows
SEARCHED = 100_000  # rows that mixtures see
LADDER = {"full": (3, 10, 25, 50, 100), "diagonal": (10, 50, 100)}  # components of mixtures
LONG_LADDER = {"full": (50, 100), "diagonal": (50, 100)}  # where rows are many: few are never the best
FEWEST_STEPS = 20
MIXTURE_TIME, FLOW_TIME = 0.5, 0.15  # parts of the time, of each flow; the rest is for the last fit

Tensors = Mapping[str, Tensor]


class Entry(NamedTuple):
    """A fitted candidate: what it got, and what fits it again to all rows if some seconds are enough."""

    candidate: Candidate
    prior: Prior
    again: Callable[[float], Prior]
    result: FitResult | None = None


class _Choice:
    """The rows, the clock and the candidates so far."""

    def __init__(self, tensors: Tensors, validation: float, seconds: float, training: dict[str, Any]) -> None:
        self.tensors, self.training, self.seconds = tensors, training, seconds
        self.began = time.perf_counter()
        count = len(tensors["z"])
        held = max(round(validation * count), min(count // 4, 500))
        order = torch.randperm(count, generator=torch.Generator().manual_seed(training["seed"]))
        self.held = {name: value[order[:held].sort().values] for name, value in tensors.items()}
        self.train = {name: value[order[held:].sort().values] for name, value in tensors.items()}
        self.entries: list[Entry] = []
        self.missing: list[Candidate] = []
        self.moments: list[tuple[float, str, Moments]] = []  # of the standardized rows
        self.event, self.dtype = tensors["z"].shape[1:], tensors["z"].dtype
        self.features = self.event.numel()
        self.full = self.features <= LARGEST_FULL

    def left(self) -> float:
        return self.seconds - (time.perf_counter() - self.began)

    def enter(
        self,
        name: str,
        prior: Prior,
        began: float,
        again: Callable[[float], Prior],
        result: FitResult | None = None,
    ) -> None:
        nll = self.nll(prior) if result is None else result.nll
        candidate = Candidate(name, nll, time.perf_counter() - began)
        self.entries.append(Entry(candidate, prior, again, result))

    @torch.no_grad()
    def nll(self, prior: Prior) -> float:
        """Of the held-out rows."""
        parts = [-prior.log_prob(part).double().sum() for part in self.held["z"].split(1024)]
        return float(torch.stack(parts).sum()) / len(self.held["z"])

    def best(self) -> Entry:
        """The simplest of those that are best, but for a tie."""
        found = [(entry.candidate.nll or 0.0, entry) for entry in self.entries]
        least = min(nll for nll, _ in found)
        return next(entry for nll, entry in found if nll <= least + TIE * self.features)

    # The closed forms.

    def gaussian(self) -> None:
        began = time.perf_counter()

        def build(tensors: Tensors) -> Prior:
            rows, limit = tensors["z"].flatten(1), limit_of(self.dtype)
            mean, std, varies = scales(rows, limit)
            factor = shrunk_factor(rows, mean, std, varies, limit) if self.full else std
            return self.mixture_prior(Moments(mean.new_ones(1), mean[None], factor[None]))

        self.enter("Gaussian", build(self.train), began, lambda _: build(self.tensors))

    def mixture_prior(self, moments: Moments) -> MixturePrior:
        diagonal = moments.factors.dim() == 2
        prior = MixturePrior(self.event, len(moments.weights), "diagonal" if diagonal else "full")
        prior.to(self.dtype)
        prior.start_from(moments)
        return prior

    def mixtures(self) -> None:
        """Of each kind of covariance, more and more components, until that is worse or takes too long."""
        mean, std, _ = scales(self.train["z"].flatten(1), limit_of(self.dtype))
        rows, all_rows, held = (
            (each["z"].flatten(1)[:SEARCHED].double() - mean) / std
            for each in (self.train, self.tensors, self.held)
        )
        floor, until = limit_of(self.dtype) ** 2, self.began + MIXTURE_TIME * self.seconds
        for kind, ladder in (LONG_LADDER if len(rows) > FEW else LADDER).items():
            least, pace = float("inf"), 0.0
            for count in ladder if self.full or kind == "diagonal" else ():
                name, began = f"mixture of {count} {kind} Gaussians", time.perf_counter()
                if count > len(rows) // 20:
                    break
                if began + pace * count**0.5 > until:  # k-means and what is done once take their share
                    self.missing.append(Candidate(name, None, 0.0))
                    break
                found, more = search(
                    rows, held, std, count, kind, floor=floor, seed=self.training["seed"], until=until
                )

                def again(_: float, found: Moments = found, more: Any = more) -> Prior:
                    return self.unstandardized(more(found, all_rows), mean, std)

                self.enter(name, self.unstandardized(found, mean, std), began, again)
                pace, nll = (time.perf_counter() - began) / count**0.5, self.entries[-1].candidate.nll or 0.0
                self.moments.append((nll, name, found))
                if nll > least:
                    break
                least = nll

    def unstandardized(self, moments: Moments, mean: Tensor, std: Tensor) -> MixturePrior:
        scale = std if moments.factors.dim() == 2 else std[:, None]
        return self.mixture_prior(
            Moments(moments.weights, mean + std * moments.means, scale * moments.factors)
        )

    # The flows.

    def flow(self, name: str, base: Callable[[], Any], start: Any = None, **options: Any) -> None:
        """A flow on what `base` makes; `start(prior, tensors)` gives its start, None is that of its own."""
        began = time.perf_counter()
        rows = len(self.train["z"])
        size: dict[str, Any] = {} if rows < FEW else {"transforms": 12, "hidden_features": (128, 128)}

        def build() -> FlowPrior:
            with torch.random.fork_rng():
                torch.manual_seed(self.training["seed"])
                return FlowPrior(self.event, base=base(), **size, **options).to(self.dtype)

        prior, settings = build(), dict(self.training)
        batch = settings["batch_size"] = min(settings["batch_size"], max(16, rows // 10))
        steps = int(FLOW_TIME * self.seconds / step_seconds(prior, self.train, batch))
        if steps < FEWEST_STEPS and self.entries:
            self.missing.append(Candidate(name, None, 0.0))
            return
        steps = max(steps, FEWEST_STEPS)
        train = {key: value[: steps * batch] for key, value in self.train.items()}
        epochs = settings["epochs"] or min(200, max(10, STEPS * batch // rows))
        epochs = settings["epochs"] = max(1, min(epochs, steps * batch // len(train["z"])))
        settings["patience"] = settings["patience"] or max(10, epochs // 4)

        def own(prior: FlowPrior) -> Any:
            return None if start is None else partial(start, prior)

        result = train_prior(prior, train, validation=self.held, start=own(prior), **settings)

        def again(left: float) -> Prior:
            per_epoch = result.seconds / result.epochs * len(self.tensors["z"]) / len(train["z"])
            if per_epoch * (result.best_epoch or 0) > left:
                return prior
            new, rest = build(), settings | {"patience": None, "validation": 0.0}
            train_prior(new, self.tensors, start=own(new), stop_after=result.best_epoch, **rest)
            return new

        self.enter(name, prior, began, again, result)

    def flows(self) -> None:
        """On N(0, I) and on the best mixture; with a context, also on one Gaussian."""
        options: dict[str, Any] = {"standardize": "full" if self.full else "diagonal"}
        kind: Mode = "full" if self.full else "diagonal"
        context = self.train.get("context")
        if context is not None:
            options["context_features"] = context.shape[1] if context.dim() == 2 else tuple(context.shape[1:])
            self.flow("flow on one Gaussian", lambda: MixturePrior(self.event, 1, kind), **options)
        self.flow("flow on N(0, I)", lambda: "normal", **options)
        if context is not None:
            self.flow("flow on a mixture", lambda: "mixture", **options)
        elif self.moments:
            _, name, moments = min(self.moments, key=lambda each: each[0])

            def start(prior: Any, _: Tensors) -> None:
                prior.whitening.initialize(self.train["z"])
                prior.bijector.reset(started=True)
                row = torch.arange(self.features, dtype=self.dtype).view(1, *self.event)
                order, _ = prior.bijector.to_base(row.to(prior.device))  # the permutations stay
                prior.base.start_from(moments.reordered(order.flatten().round().long().cpu()))

            base = partial(self.mixture_prior, moments)
            self.flow(f"flow on a {name}", base, start, standardize="diagonal")


def choose(tensors: Tensors, *, seconds: float, validation: float, **training: Any) -> Prior:
    """The prior of "z" (N, *event), with "context" if it is there, that `fit` chooses; `fitted` says how.

    Raises:
        InputError: if a row is not finite, or an argument does not fit.
    """
    check_number("validation", validation, above=0, below=1, fix="the choice needs rows that are held out")
    if tensors["z"].dim() < 2:
        shape = tuple(tensors["z"].shape)
        raise InputError(f"`latents` has shape {shape} but must be (N, D): one row per latent.")
    for name, value in tensors.items():
        check_rows(name, value, len(tensors["z"]), "rows of `latents`")
        check_finite("latents" if name == "z" else name, value, "drop those rows or mend what made them")
    notes = look_at(tensors["z"])
    choice = _Choice(tensors, validation, seconds, training)
    if "context" not in tensors:
        choice.gaussian()
        choice.mixtures()
    choice.flows()
    best = choice.best()
    prior = best.again(choice.left())
    result = best.result or FitResult(best.candidate.nll or 0.0, None, 0, 0.0, [])
    held, count = len(choice.held["z"]), len(tensors["z"])
    again = "as it is" if prior is best.prior else "fitted again to all of them"
    notes += (f"Chosen: {best.candidate.name}, by {held} of {count} rows, {again}.",)
    candidates = (*(entry.candidate for entry in choice.entries), *choice.missing)
    took = seconds - choice.left()
    prior.fitted = replace(result, seconds=took, notes=notes, candidates=candidates)
    return prior
