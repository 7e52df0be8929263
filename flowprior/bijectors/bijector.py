"""The contract of every bijector: direction, mask polarity and composition order.

Stated here once, and kept by every backend:

* *Direction*: `to_base` maps representation space to base space, z -> z0; `from_base` maps z0 -> z. An
  nflows transform's call is `to_base`; a torch or Pyro transform's call is `from_base`, as in
  `torch.distributions.TransformedDistribution`.
* *Mask polarity*: a mask is true where a coupling changes the feature, false where it passes it on.
* *Composition order*: steps are listed in the order in which `to_base` applies them.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from flowprior.bijectors.gate import Invertible
from flowprior.bijectors.tokens import Tokens
from flowprior.tensors import numel


class Bijector(Invertible):
    """An invertible map between z and z0 that reports its volume change.

    log p(z | c) = log p0(z0) + log|det dz0/dz|, with z0 = to_base(z, c).

    A subclass must implement two methods, `_to_base` and `_from_base`, on rows: (N, *event) and, if the
    bijector is conditional, a context (N, *context_shape); each returns the mapped rows and the
    log-determinants (N,). Checks, broadcasting and precision are handled here, for all.

    Args:
        event_shape: shape of one z, an int or a tuple such as (4, 8, 8).
        context_features: width C of the context vectors, or the shape (K, H, W) of context maps; None for an
            unconditional bijector.

    Raises:
        InputError: if an argument is not of that kind.
    """

    kind = "bijector"
    tokens: Tokens | None = None  # the order in which it reads an event, where a whitening should keep to it

    @property
    def features(self) -> int:
        """The number D of elements of one z."""
        return numel(self.event_shape)

    def reset(self, *, started: bool = False) -> None:
        """Make a recipe's flow the identity again, as far as its parameters can; nothing for other bijectors.

        `started` keeps what starts from data from doing so.
        """

    def initialize(self, z: Tensor, context: Tensor | None = None) -> None:
        """Start data-dependent parameters from a batch of z; most bijectors have none.

        It happens only when this is called, never inside `to_base` or `from_base`. In a distributed
        run every rank must call it; the statistics are those of all ranks together.
        """


def no_rows(module: nn.Module, value: Tensor) -> tuple[Tensor, Tensor]:
    """What `module` makes of a `value` of no rows, (0, ...) and (0,), with zero gradients for its parameters.

    For libraries whose reshapes are ambiguous there.
    """
    trained = (each for each in module.parameters() if each.requires_grad)
    nothing = sum((each.flatten()[:0].sum().to(value.dtype) for each in trained), value.new_zeros(()))
    return value + nothing, value.new_zeros(0) + nothing


def follow_own(bijector: Bijector) -> None:
    """Give a bijector the dtype and device of the user's own parameters or buffers in it."""
    tensors = (each for each in (*bijector.parameters(), *bijector.buffers()) if each is not bijector._anchor)
    own = next((each for each in tensors if each.is_floating_point()), None)
    if own is not None:
        bijector._anchor = bijector._anchor.to(own.device, own.dtype)


def try_once(bijector: Bijector, run: Callable[[Tensor, Tensor | None], object]) -> None:
    """Call `run` on one z0 of zeros and its context of zeros, in evaluation mode, without gradients.

    On the meta device, where nothing can be read, it is not called.
    """
    home = next(bijector.parameters(), bijector._anchor).device
    if home.type == "meta":
        return
    like = torch.zeros(1, device=home, dtype=bijector.dtype)
    context = None if bijector.context_shape is None else like.new_zeros(1, *bijector.context_shape)
    modes = {module: module.training for module in bijector.modules()}
    bijector.eval()
    try:
        with torch.no_grad():
            run(like.new_zeros(1, *bijector.event_shape), context)
    finally:
        for module, training in modes.items():
            module.training = training
