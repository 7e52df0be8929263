"""`fit`: a prior on any array of latents, by the same loop; one that it chooses, if none is given."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor

from flowprior.checks import check_count, check_number
from flowprior.errors import InputError
from flowprior.priors.flow import Standardize
from flowprior.priors.prior import Prior
from flowprior.training.choice import choose
from flowprior.training.fitting import FitResult, look_at, train_prior
from flowprior.training.optimizers import RateSchedule
from flowprior.training.rows import gather

FEWEST_ROWS = 10
SECONDS = 60.0  # of a choice

Rows: TypeAlias = Tensor | np.ndarray | Iterable[Any] | Any  # the last: a DataFrame, a map-style Dataset


@overload
def fit(prior: Prior, latents: Rows, context: Rows | None = None, **options: Any) -> FitResult: ...
@overload
def fit(prior: Rows, latents: None = None, context: Rows | None = None, **options: Any) -> Prior: ...
def fit(  # type: ignore[misc]  # the overloads leave the options to it
    prior: Prior | Rows,
    latents: Rows | None = None,
    context: Rows | None = None,
    *,
    seconds: float | None = None,
    epochs: int | None = None,
    batch_size: int = 256,
    lr: float = 3e-3,
    weight_decay: float = 1e-5,
    schedule: RateSchedule = "one_cycle",
    ema: float | None = 0.99,
    clip: float | None = None,
    validation: float = 0.1,
    patience: int | None = None,
    standardize: Standardize | None = "auto",
    seed: int = 0,
    device: str = "auto",
    compile: bool = False,
    progress: bool = True,
) -> FitResult | Prior:
    """Train `prior`, in place, by maximum likelihood of `latents`: argmin mean -log p(z | context).

    The prior starts again from the latents: a Gaussian (shrunk, where rows are few for the features) or a
    mixture of them, with the couplings of a recipe at the identity and the context standardized. It is
    trained by Adam, and ends with the averaged weights of the epoch with the best held-out likelihood, the
    start included: so it is not worse there than that Gaussian. The defaults are those that did best on codes
    of Fashion-MNIST, with `FlowPrior(D, base="mixture")`: benchmarks/fit_fashion.py.

    Without a prior, `prior = fit(latents)` chooses one, a Gaussian, a mixture of Gaussians, a flow on N(0, I)
    or a flow on a mixture (with a context, the last three), of a size that follows from the data, by the
    likelihood of held-out rows, within `seconds`; and fits it again to all rows. `print(prior.fitted)` says
    what it chose and what each got. Its dtype is that of the latents, at least float32. The same seed gives
    the same prior, unless the time cuts a candidate short.

    Args:
        latents: (N, *event) for the prior's event shape, cast to the prior's dtype: a tensor, an array, a
            DataFrame; or, read once in parts, a memory-mapped array, a Dataset, a DataLoader or other
            iterable of batches, z or (z, context, ...), of which 256 MiB of rows are kept, an even sample.
        context: (N, context_features), maps (N, K, H, W), or labels (N,), if the prior is conditional.
        seconds: about the wall time to stay within; None for 60 where the prior is chosen, else no limit.
        epochs: at most; None for 20, or where the prior is chosen for what the data ask.
        batch_size, lr, weight_decay, schedule, ema, clip, patience: see `Stage`, `OptimizerSettings`.
        validation: part of the rows held out; 0 for none.
        standardize: of a FlowPrior, also one inside of the prior: "auto" as it was built, "diagonal" scales
            each feature, None neither. It becomes part of the prior: `log_prob` and `sample` speak of z as
            it was given. A prior that is chosen has its own.
        seed: of everything random.
        device: where to train; the prior returns to where it was.
        compile: compile the training steps, as `train` says; it pays for long fits.
        progress: show a progress bar.

    Returns:
        A `FitResult`; without a prior the prior, whose `fitted` is that.

    Raises:
        InputError: if latents or context do not fit the prior, are too few, or are not finite.
        RunError: if the likelihood stops being finite.

    >>> from flowprior import FlowPrior
    >>> latents = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) * 3 + 1
    >>> fit(FlowPrior(2), latents, epochs=1, progress=False).epochs
    1
    """
    given = prior if isinstance(prior, Prior) else None
    if given is None and latents is not None:
        raise InputError(f"`prior` (a {type(prior).__name__}) must be a prior, such as FlowPrior(64).")
    if given is not None and latents is None:
        raise InputError("`latents` is missing: pass the rows to fit to, fit(prior, latents).")
    if epochs is not None:
        check_count("epochs", epochs)
    if seconds is not None:
        check_number("seconds", seconds, above=0)
    check_count("seed", seed, least=0)
    training: dict[str, Any] = {
        "seconds": seconds,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "ema": ema,
        "clip": clip,
        "validation": validation,
        "patience": patience,
        "seed": seed,
        "device": device,
        "compile": compile,
        "progress": progress,
    }
    with torch.inference_mode(False), torch.enable_grad():
        if given is None:
            if standardize != "auto":
                raise InputError(
                    f"`standardize` (={standardize!r}) is that of a given prior; a chosen one has its own: "
                    "leave it out, or fit(FlowPrior(D), latents, standardize=...)."
                )
            tensors = gather(prior, context, dtype=None, conditional=False, seed=seed)
            _check_rows(tensors["z"])
            return choose(tensors, **(training | {"seconds": SECONDS if seconds is None else seconds}))
        conditional = given.context_shape is not None
        tensors = gather(latents, context, dtype=given.dtype, conditional=conditional, seed=seed)
        _check_rows(tensors["z"])
        given.check_latents(tensors["z"], tensors.get("context"))
        if any(parameter.is_inference() for parameter in given.parameters()):
            raise InputError("`prior` was built in inference mode, which forbids training: build it outside.")
        notes = look_at(tensors["z"], given)
        return replace(train_prior(given, tensors, standardize=standardize, **training), notes=notes)


def _check_rows(z: Tensor) -> None:
    if len(z) < FEWEST_ROWS:
        raise InputError(
            f"`latents` has {len(z)} rows, too few to fit a prior to: give at least {FEWEST_ROWS}."
        )
