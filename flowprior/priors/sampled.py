"""How a prior draws: shapes, temperature, truncation, guidance, the caller's generator."""

from abc import abstractmethod
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from flowprior.bijectors.gate import Gate
from flowprior.checks import check_number
from flowprior.errors import InputError
from flowprior.priors.guidance import check_guidance, draw_guided
from flowprior.priors.truncation import truncated
from flowprior.tensors import numel, without_autocast


class Sampled(Gate):
    """What draws: all that follows from the hook `_draw`, which a subclass must implement."""

    has_density: bool = True  # False where there are only samples: `log_prob` then says so
    has_rsample: bool = True  # False where a draw has no gradient: `rsample` then says so
    context_dropout: float = 0.0  # share of contexts left out in training; above 0, rows of NaN are none

    @abstractmethod
    def _draw(
        self,
        count: int,
        context: Tensor | None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws (count, *event), one for each row of the context, with noise scaled by `temperature`.

        `generator` is passed only where the caller gave one; `_noise` draws from it.
        """

    def _draw_guided(
        self,
        count: int,
        context: Tensor,
        temperature: float,
        weight: float,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Draws (count, *event) under guidance of `weight`; see `draw_guided`."""
        return draw_guided(self, count, context, temperature, weight, generator)

    @torch.no_grad()
    def sample(
        self,
        n: int | Sequence[int] = 1,
        context: Tensor | None = None,
        temperature: float = 1.0,
        truncate: float | None = None,
        *,
        guidance: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws without gradient, (n, *batch, *event) where context is (*batch, C); `n` may be a shape.

        Args:
            n, context: how many draws, of each row of the context if the prior is conditional.
            temperature: scales the noise: z0 of a flow, the noise of a Gaussian or within components.
            truncate: a share Q from 0.01 to 1: only draws among the Q most probable, those with log p(z | c)
                above its (1 - Q) quantile over draws at this temperature and this context. The quantile is
                that of `truncation.PILOT` (1,024) draws, so that Q is kept within ± 0.01 (one standard
                deviation at 0.9); draws below it are drawn again. None keeps all.
            guidance: w of about p(z | c) (p(z | c) / p(z))^w, for a prior with `context_dropout`: token by
                token in closed form from a transformer, elsewhere by resampling (`guidance.draw_guided`).
            generator: of all that is random here, instead of torch's own. The noise is drawn on its device,
                so that one on the CPU gives the same draws whatever the prior's device, up to rounding.

        Raises:
            InputError: if `n`, `temperature`, `truncate` or `guidance` is none, the prior to truncate has no
                density or log p is hardly ever above its quantile (it is constant, or not finite), both
                `truncate` and `guidance` are given; or as `log_prob`.
        """
        temperature = check_number("temperature", temperature, above=0)
        guidance = check_guidance(self, guidance, context)
        if truncate is None:
            return self._sample(n, context, temperature, generator, guidance)
        truncate = check_number("truncate", truncate, least=0.01, most=1)
        if guidance:
            raise InputError(
                f"`truncate` (={truncate}) is by the density of the prior, which `guidance` (={guidance:g}) "
                "leaves: give one of them."
            )
        if not self.has_density:
            name = type(self).__name__
            raise InputError(f"`truncate` (={truncate}) needs a density, and {name} has none: leave it out.")
        shape = _as_sample_shape(n)
        with without_autocast(self._anchor.device.type):
            rows, own = self._read(context)
            z = truncated(self, numel(shape), rows, truncate, temperature, generator)
        return z.reshape(shape + own + self.event_shape)

    def rsample(
        self,
        n: int | Sequence[int] = 1,
        context: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws as `sample` does, with the gradient of the path to parameters and context.

        Raises:
            InputError: if the draws of this prior have no such gradient.
        """
        if not self.has_rsample:
            name = type(self).__name__
            raise InputError(f"{name} cannot draw with gradient (`has_rsample` is False): use `sample`.")
        return self._sample(n, context, 1.0, generator)

    def _sample(
        self,
        n: int | Sequence[int],
        context: Tensor | None,
        temperature: float,
        generator: torch.Generator | None,
        guidance: float = 0.0,
    ) -> Tensor:
        shape = _as_sample_shape(n)
        with without_autocast(self._anchor.device.type):
            rows, own = self._read(context)
            batch = shape + own
            if rows is not None:
                rows = rows.repeat(numel(shape), *(1 for _ in rows.shape[1:]))
            if rows is None or not guidance:
                drawn = self._drawn(numel(batch), rows, temperature, generator)
            else:
                drawn = self._draw_guided(numel(batch), rows, temperature, guidance, generator)
            return drawn.reshape(batch + self.event_shape)

    def _drawn(
        self, count: int, context: Tensor | None, temperature: float, generator: torch.Generator | None
    ) -> Tensor:
        """`_draw`, which is told of a generator only where there is one."""
        given = () if generator is None else (generator,)
        return self._draw(count, context, temperature, *given)

    def _noise(self, *shape: int, generator: torch.Generator | None, uniform: bool = False) -> Tensor:
        """Standard normal numbers, or uniform ones from 0 to 1, in the prior's dtype and on its device."""
        draw = torch.rand if uniform else torch.randn
        if generator is None:  # which an exported program cannot take, not even as None
            return draw(shape, device=self.device, dtype=self.dtype)
        drawn = draw(shape, generator=generator, device=generator.device, dtype=self.dtype)
        return drawn.to(self.device)


def _as_sample_shape(n: int | Sequence[int]) -> torch.Size:
    """`n` as a shape; its integers may be NumPy's, or symbols of a compiler."""
    sizes = (n,) if isinstance(n, Integral | torch.SymInt) else n
    if not isinstance(sizes, Sequence) or any(
        not isinstance(size, Integral | torch.SymInt) or isinstance(size, bool) or size < 0 for size in sizes
    ):
        raise InputError(f"`n` (={n!r}) must be a number of draws or a tuple of them, such as 16 or (4, 4).")
    known: list[Any] = [size if isinstance(size, torch.SymInt) else int(size) for size in sizes]
    return torch.Size(known)
