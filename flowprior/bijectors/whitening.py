"""Standardization of latents as a bijector, so that a prior can carry it."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from flowprior.bijectors.bijector import Bijector
from flowprior.bijectors.shrinkage import limit_of, scales, shrunk_factor
from flowprior.bijectors.tokens import Tokens
from flowprior.checks import check_finite, check_one_of
from flowprior.errors import InputError
from flowprior.tensors import batch_shape_of, numel

Mode = Literal["full", "diagonal"]


class Whitening(Bijector):
    """The affine map z0 = L^-1 (z - loc), with fixed buffers.

    L is lower triangular (`mode="full"`, buffer `scale_tril` (D, D)) or a diagonal (`mode="diagonal"`,
    buffer `scale` (D,)), so that z = loc + L z0 has the mean and the covariance L L^T of the data. It starts
    as the identity; `initialize` fits it in place. The log-determinant is -log|det L|, exactly.

    With `tokens` the features are counted token by token, so that z0 of a token depends on those before it
    and on itself alone, and the correlations are shrunk towards none (Ledoit & Wolf 2004): with few rows for
    each feature the sample's own would be those of noise.

    Args:
        event_shape: an int or a tuple such as (4, 8, 8).
        mode: "full" or "diagonal".
        tokens: the order in which the flow behind reads an event; None for that of memory.

    Raises:
        InputError: if `mode` is neither.

    >>> noise = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    >>> z = noise * torch.tensor([1.0, 10.0, 0.0]) + 5
    >>> z0, _ = Whitening.from_data(z).to_base(z)
    >>> [round(abs(s), 2) for s in z0.std(0).tolist()], bool(z0.mean(0).abs().max() < 1e-4)
    ([1.0, 1.0, 0.0], True)
    """

    fitted: Tensor
    loc: Tensor
    scale_tril: Tensor
    scale: Tensor

    def __init__(
        self, event_shape: int | Sequence[int], mode: Mode = "full", tokens: Tokens | None = None
    ) -> None:
        super().__init__(event_shape)
        check_one_of("mode", mode, ("full", "diagonal"))
        self.mode, self.tokens = mode, tokens
        self._inverse: Tensor | None = None  # of scale_tril, in an export
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("loc", torch.zeros(self.features))
        if mode == "full":
            self.register_buffer("scale_tril", torch.eye(self.features))
        else:
            self.register_buffer("scale", torch.ones(self.features))

    @classmethod
    def from_data(
        cls, latents: Tensor, mode: Mode = "full", *, event_shape: int | Sequence[int] | None = None
    ) -> "Whitening":
        """The whitening of `latents` (N, *event), in at least float32.

        Args:
            latents: at least one row, finite.
            event_shape: of one latent; all but the first dimension of `latents` if None.

        Raises:
            InputError: as `initialize`.
        """
        if not isinstance(latents, Tensor) or latents.dim() < 1 or not latents.is_floating_point():
            raise InputError("`latents` must be a floating-point tensor of shape (N, *event).")
        whitening = cls(latents.shape[1:] or (1,) if event_shape is None else event_shape, mode)
        whitening.to(latents.device, torch.promote_types(latents.dtype, torch.float32))
        whitening.initialize(latents)
        return whitening

    @torch.no_grad()
    def initialize(self, z: Tensor, context: Tensor | None = None, mode: Mode | None = None) -> None:
        """Fit the buffers, in place, to z (N, *event).

        Where the rows are few for the features, the covariance is shrunk by as much as serves rows that were
        left out (`shrinkage.shrunk_factor`); with many rows it is that of the data. A direction in which the
        standardized data vary by less than 1e-4 (1e-7 in float64) is treated as varying by that much, so that
        exact low rank stays invertible and samples hardly leave the plane of the data; a constant feature
        gets that part of the median scale of the others, and where nothing varies the scale is 1.

        Args:
            z: at least one row, finite.
            mode: "diagonal" leaves a full whitening without correlations; None for its own.

        Raises:
            InputError: if `z` is empty, not finite, or of another event shape.
        """
        count = numel(batch_shape_of(z, self.event_shape, "latents"))
        rows = self._flat(z.detach().reshape(count, *self.event_shape))
        if len(rows) == 0:
            raise InputError(f"`latents` of shape {tuple(z.shape)} has no rows: pass at least one.")
        check_finite("latents", rows, "remove those rows first")
        rows, limit = rows.cpu(), limit_of(self.loc.dtype)
        mean, std, varies = scales(rows, limit)
        self.fitted.fill_(True)
        self.loc.copy_(mean)
        if self.mode == "diagonal":
            self.scale.copy_(std)
        elif mode == "diagonal":
            self.scale_tril.copy_(std.diag())
        else:
            self.scale_tril.copy_(shrunk_factor(rows, mean, std, varies, limit))

    @torch.no_grad()
    def reset(self, *, started: bool = False) -> None:
        """Make it the identity again."""
        for name, value in self.identity().items():
            getattr(self, name).copy_(value)

    @torch.no_grad()
    def divide(self, factors: Tensor) -> None:
        """Divide the standard deviations that it leaves, 1, by `factors` (D,), for what comes behind."""
        (self.scale_tril if self.mode == "full" else self.scale).div_(factors)

    def identity(self) -> dict[str, Tensor]:
        """The buffers of the identity, on the CPU."""
        with torch.device("cpu"):
            return dict(Whitening(self.event_shape, self.mode).state_dict())

    def is_idle(self) -> bool:
        """Whether it is known to be the identity still; asked only where the answer costs no waiting."""
        return self.fitted.is_cpu and not torch.compiler.is_compiling() and not bool(self.fitted)

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        centered = self._flat(z) - self.loc
        if self._inverse is not None:
            z0 = centered @ self._inverse.T
        elif self.mode == "full":
            z0 = torch.linalg.solve_triangular(self.scale_tril.T, centered, upper=True, left=False)
        else:
            z0 = centered / self.scale
        return self._shaped(z0), -self._log_scale().expand(z.shape[0])

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        flat = self._flat(z0)
        z = self.loc + (flat @ self.scale_tril.T if self.mode == "full" else flat * self.scale)
        return self._shaped(z), self._log_scale().expand(z0.shape[0])

    def _flat(self, z: Tensor) -> Tensor:
        return (z if self.tokens is None else self.tokens.split(z)).flatten(1)

    def _shaped(self, flat: Tensor) -> Tensor:
        if self.tokens is None:
            return flat.view(-1, *self.event_shape)
        return self.tokens.join(flat.unflatten(1, (self.tokens.count, self.tokens.width)))

    def fold(self) -> None:
        if self.mode == "full":  # ONNX has products, and no solver
            self._inverse = self.scale_tril.double().inverse().to(self.dtype)

    def _log_scale(self) -> Tensor:
        diagonal = self.scale_tril.diagonal() if self.mode == "full" else self.scale
        return diagonal.log().sum()
