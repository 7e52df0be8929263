"""Stages: an objective, its data and its optimizers for some epochs; training is a list of them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from flowprior.checks import check_count, check_known, check_number
from flowprior.errors import InputError
from flowprior.models import Autoencoder
from flowprior.models.autoencoder import evaluating
from flowprior.objectives import LatentFlow, LatentNLL, Objective
from flowprior.priors.flow import FlowPrior, Standardize
from flowprior.priors.invertible import HeldPrior
from flowprior.priors.prior import Prior
from flowprior.tensors import as_input
from flowprior.training.optimizers import OptimizerSettings

Tensors: TypeAlias = Mapping[str, Tensor]
Data: TypeAlias = Tensors | Callable[[], Tensors]
Optimizers: TypeAlias = OptimizerSettings | Mapping[str, OptimizerSettings]

INITIAL_BATCHES = 4  # whose examples a data-dependent start sees, as in the Variational U-net's code


@dataclass
class Stage:
    """What is trained, on what, how and for how long; an InputError if a value is out of range.

    Args:
        name: in the logs.
        data: named tensors (N, ...), or a function that returns them: it is called when the stage begins, and
            again when a run is resumed within it, and must return the same (the codes, say, of an
            autoencoder that the stages before have trained).
        epochs: passes over the data at most; 0 only runs `initialize`, all that a mixture by EM needs.
        batch_size: examples a step, over all processes together.
        optimizers: for all parameter groups, or one for each by name; "others" stands for those not named.
        frozen: groups that are not trained in this stage; modules all of whose parameters are frozen stay in
            evaluation mode, so that batch statistics rest as well.
        ema: decay of a moving average of the weights (see `WeightAverage`), which validation, `on_epoch`
            and, at the end of the stage, the model get.
        clip: largest norm of a player's gradient.
        validation: the part of the data that is held out (its choice follows from the run's seed), or data of
            its own. It is evaluated after every epoch with the same noise each time.
        patience: stop after so many epochs without a better validation loss.
        keep_best: at the end of the stage, give the model the weights with the best validation loss.
        judge_start: validate the start as well, so that the best weights are never worse than those.
        initialize: called once when the stage begins, with the training data (the held-out part left out).
        steps: of each player on a batch, one after the other; 1 for those that are not named.
        at_epoch: what is called so when an epoch begins, by the number of finished ones. The moving averages
            and the optimizer's moments of the parameters that it changes start again.
    """

    name: str
    objective: Objective
    data: Data
    epochs: int
    batch_size: int
    optimizers: Optimizers
    frozen: tuple[str, ...] = ()
    ema: float | None = None
    clip: float | None = None
    validation: float | Data = 0.0
    patience: int | None = None
    keep_best: bool = True
    initialize: Callable[[Tensors], None] | None = None
    steps: Mapping[str, int] = field(default_factory=dict)
    at_epoch: Mapping[int, Callable[[Tensors], None]] = field(default_factory=dict)
    judge_start: bool = False

    def __post_init__(self) -> None:
        check_count("epochs", self.epochs, least=0)
        for player, count in self.steps.items():
            check_known(f"player in `steps` of stage {self.name!r}", player, self.objective.players)
            check_count("steps", count)
        check_count("batch_size", self.batch_size)
        if self.clip is not None:
            check_number("clip", self.clip, above=0)
        if self.ema is not None:
            check_number("ema", self.ema, least=0, below=1, fix="take 0.999, for instance, or None")
        held = self.validation
        if isinstance(held, int | float) and not 0 <= held < 1:
            raise InputError(f"`validation` (={held!r}) must be a part in [0, 1), e.g. 0.1, or data.")
        if self.patience is not None:
            check_count("patience", self.patience)
            if not self.validation:
                raise InputError("`patience` needs a validation loss: set `validation`, e.g. to 0.1.")
        known = set(chain(*map(self.objective.parameter_groups, self.objective.players)))
        named = {*self.frozen, *(self.optimizers if isinstance(self.optimizers, Mapping) else ())}
        unknown = named - known - {"others"}
        if unknown:
            names = f"Stage {self.name!r} names the parameter groups {sorted(unknown)}"
            raise InputError(f"{names}, but its objective has {sorted(known)}: correct them.")
        for group in sorted(known - set(self.frozen)):
            self.settings(group)

    def settings(self, group: str) -> OptimizerSettings:
        """The optimizer settings of a parameter group; an InputError if there are none."""
        if isinstance(self.optimizers, OptimizerSettings):
            return self.optimizers
        for name in (group, "others"):
            if name in self.optimizers:
                return self.optimizers[name]
        missing = f"Stage {self.name!r} has no optimizer for the parameter group {group!r}"
        raise InputError(f"{missing}: add it to `optimizers`, or name it in `frozen`.")

    def split(self, seed: int) -> tuple[Tensors, Tensors | None]:
        """The training and the validation data; which rows are held out follows from `seed`."""
        tensors = resolve(self.data)
        if not isinstance(self.validation, int | float):
            return tensors, resolve(self.validation)
        size = len(next(iter(tensors.values())))
        count = round(size * self.validation)
        if self.validation and not 0 < count < size:
            part = f"`validation` (={self.validation!r}) of {size} examples"
            raise InputError(f"{part} leaves nothing to validate or train on: give more, or validation=0.")
        if not count:
            return tensors, None
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
        held, rest = order[:count].sort().values, order[count:].sort().values
        return {k: v[rest] for k, v in tensors.items()}, {k: v[held] for k, v in tensors.items()}


def _later(change: Callable[[Tensors], Tensors], data: Any) -> Any:
    """`Data` with a change that is made when it is asked for; a number, as it is."""
    return data if isinstance(data, int | float) else lambda: change(resolve(data))


def resolve(data: Data) -> Tensors:
    return data() if callable(data) else data


def joint_stage(
    model: Autoencoder,
    data: Data,
    *,
    objective: Callable[[Autoencoder], Objective] = LatentFlow,
    epochs: int = 20,
    batch_size: int = 256,
    optimizers: Optimizers | None = None,
    frozen: tuple[str, ...] = (),
    ema: float | None = None,
    clip: float | None = None,
    validation: float | Data = 0.0,
    patience: int | None = None,
    steps: Mapping[str, int] | None = None,
    prior_start: int | None = None,
    name: str = "joint",
) -> Stage:
    """Autoencoder and prior together (GLF in one stage, VAEs); with frozen=("prior",) the autoencoder alone.

    Where the prior is conditional and the data has no "context", one-hot labels are taken for it. A model
    with a data-dependent start (`VariationalUnet`) takes it from examples of 4 batches, spread evenly over
    the data, when the stage begins; one that has had it, or is frozen, stays as it is.

    `prior_start` is the number of epochs (at the latest, all but the last) after which the prior gets its own
    data-dependent start, from the codes as they are then (`Prior.initialize`): a mixture base finds clusters
    that are there by now, and the flow has few steps to unlearn. None leaves the prior as it was built.

    The data is "x" and, as far as `objective` (of the model) needs them, "label" or "context"; the optimizers
    are Adam, 1e-3, unless given; the other arguments are those of `Stage`.
    """

    def start(tensors: Tensors) -> None:
        size = len(tensors["x"])
        rows = torch.linspace(0, size - 1, min(size, INITIAL_BATCHES * batch_size), dtype=torch.float64)
        chosen = {k: tensors[k] for k in ("x", "context") if k in tensors}
        model.initialize({k: as_input(v[rows.long().to(v.device)]) for k, v in chosen.items()})

    if prior_start is not None:
        prior_start = max(0, min(check_count("prior_start", prior_start, least=0), epochs - 1))
    change = partial(with_context, model)
    optimizers = OptimizerSettings() if optimizers is None else optimizers
    first = None if "autoencoder" in frozen else start
    later = {} if prior_start is None else {prior_start: partial(start_prior, model)}
    stage = partial(Stage, name, objective(model), _later(change, data), epochs, batch_size, optimizers)
    held = _later(change, validation)
    return stage(frozen, ema, clip, held, patience, initialize=first, steps=steps or {}, at_epoch=later)


def prior_stage(
    model: Autoencoder | Prior,
    data: Data,
    *,
    epochs: int = 20,
    batch_size: int = 256,
    optimizers: Optimizers | None = None,
    initialize: bool = True,
    ema: float | None = 0.99,
    clip: float | None = None,
    validation: float | Data = 0.0,
    patience: int | None = None,
    standardize: Standardize | None = "auto",
    seed: int = 0,
    restart: bool = False,
    name: str = "prior",
) -> Stage:
    """The prior alone, on frozen codes: GLF's second stage, and extra steps after joint training.

    Args:
        model: an autoencoder, whose codes of data["x"] are taken when the stage begins and drawn from
            posteriors again in each step; or a prior, trained on data["z"], with noise data["std"] if any.
        optimizers: default Adam, one-cycle up to 3e-3, weight decay 1e-5.
        initialize: give the prior its data-dependent start (`Prior.initialize`), or continue where it is.
        standardize: of a FlowPrior in that start: "auto" as it was built, or less ("diagonal", None).
        restart: of a FlowPrior in that start: couplings at the identity, context standardized.
        seed: of that start; the other arguments are those of `Stage`.
    """
    prior = model.prior if isinstance(model, Autoencoder) else model

    def encode(tensors: Tensors) -> Tensors:
        return latents(model, with_context(model, tensors))

    if optimizers is None:
        optimizers = OptimizerSettings(lr=3e-3, weight_decay=1e-5, schedule="one_cycle")
    begin = partial(start_prior, prior, standardize=standardize, seed=seed, restart=restart)
    first = begin if initialize else None
    stage = partial(Stage, name, LatentNLL(prior), _later(encode, data), epochs, batch_size, optimizers)
    held = _later(encode, validation)
    return stage((), ema, clip, held, patience, initialize=first, judge_start=restart and initialize)


def start_prior(
    model: Autoencoder | Prior,
    tensors: Tensors,
    standardize: Standardize | None = "auto",
    seed: int = 0,
    restart: bool = False,
) -> None:
    """The prior's data-dependent start, from what `latents` makes of `tensors`, noise of posteriors added."""
    prior = model.prior if isinstance(model, Autoencoder) else model
    tensors = latents(model, tensors)
    z = tensors["z"]
    if "std" in tensors:
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed))
        z = z + tensors["std"] * noise.to(z)
    context = as_input(tensors["context"]) if "context" in tensors else None
    inner = prior
    while isinstance(inner, HeldPrior):
        inner = inner.prior
    of_flow: dict[str, Any] = (
        {"standardize": standardize, "restart": restart} if isinstance(inner, FlowPrior) else {}
    )
    prior.initialize(z, context, seed=seed, **of_flow)


def latents(model: Autoencoder | Prior, tensors: Tensors) -> Tensors:
    """ "z", "std" and "context" of `tensors`; of an autoencoder: codes of "x", its posterior's standard
    deviation about them if it has one, and what its prior sees of the context."""
    if isinstance(model, Autoencoder):
        for name in ("x", "context") if model.conditional else ("x",):
            _check_has(tensors, name)
        contexts = _chunks(tensors["context"]) if model.conditional else None
        codes, std = model.code_distributions(_chunks(tensors["x"]), contexts)
        spread = {} if std is None else {"std": std.cpu()}
        tensors = {"z": codes.cpu()} | spread | _seen_contexts(model, tensors)
    _check_has(tensors, "z")
    return {name: tensors[name] for name in ("z", "std", "context") if name in tensors}


def _check_has(tensors: Tensors, name: str) -> None:
    if name not in tensors:
        raise InputError(f"The data of a prior's stage has no {name!r}, only {sorted(tensors)}.")


@torch.no_grad()
def _seen_contexts(model: Autoencoder, tensors: Tensors) -> dict[str, Tensor]:
    """{"context": what the prior sees of each} for a conditional prior, else nothing."""
    if model.prior.context_shape is None:
        return {}
    if model.prior.context_shape == model.context_shape:
        return {"context": tensors["context"]}  # itself; images stay bytes
    with evaluating(model):
        chunks = (model.condition(part.to(model.device)) for part in _chunks(tensors["context"]))
        seen = [context.cpu() for context in map(model.prior_context, chunks) if context is not None]
    return {"context": torch.cat(seen)}


def with_context(model: Autoencoder | Prior, tensors: Tensors) -> Tensors:
    """`tensors` with labels as the "context", one-hot for a vector, if one is needed and there is none."""
    prior = model.prior if isinstance(model, Autoencoder) else model
    if isinstance(prior, Prior) and prior.classes is not None and "label" in tensors:
        return {"context": tensors["label"].long(), **tensors}
    width = model.context_features if isinstance(model, Prior) else None
    if isinstance(model, Autoencoder) and len(model.context_shape or ()) == 1:
        (width,) = model.context_shape or ()
    if not isinstance(width, int) or "context" in tensors or "label" not in tensors:
        return tensors
    classes = int(tensors["label"].max()) + 1
    if classes > width:
        built = f"the prior was built with `context_features` (={width})"
        raise InputError(f"The labels go up to {classes - 1}, but {built}: it must be at least {classes}.")
    return {**tensors, "context": nn.functional.one_hot(tensors["label"].long(), width).float()}


def _chunks(x: Tensor) -> Iterator[Tensor]:
    """`x` in chunks as a model reads them: bytes become floats in [0, 1]."""
    return map(as_input, x.split(512))
