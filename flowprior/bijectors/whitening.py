"""Standardization of latents as a bijector, so that a prior can carry it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowprior.bijectors.bijector import Bijector
from flowprior.errors import InputError
from flowprior.tensors import batch_shape_of, numel

# The smallest standard deviation, of a direction of the standardized data, that is still scaled up to 1.
FLOOR = 1e-4


class Whitening(Bijector):
    """The affine map z0 = L^-1 (z - loc), with fixed buffers.

    L is lower triangular (`mode="full"`, buffer `scale_tril` (D, D)) or a diagonal (`mode="diagonal"`,
    buffer `scale` (D,)), so that z = loc + L z0 has the mean and the covariance L L^T of the data. It starts
    as the identity; `from_data` fits it. The log-determinant is -log|det L|, exactly.

    Args:
        event_shape: an int or a tuple such as (4, 8, 8).
        mode: "full" or "diagonal".

    Raises:
        InputError: if `mode` is neither.

    >>> noise = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    >>> z = noise * torch.tensor([1.0, 10.0, 0.0]) + 5
    >>> z0, _ = Whitening.from_data(z).to_base(z)
    >>> [round(abs(s), 2) for s in z0.std(0).tolist()], bool(z0.mean(0).abs().max() < 1e-4)
    ([1.0, 1.0, 0.0], True)
    """

    loc: Tensor
    scale_tril: Tensor
    scale: Tensor

    def __init__(self, event_shape: int | Sequence[int], mode: str = "full") -> None:
        super().__init__(event_shape)
        if mode not in ("full", "diagonal"):
            raise InputError(f"`mode` (={mode!r}) must be 'full' or 'diagonal'.")
        self.mode = mode
        self.register_buffer("loc", torch.zeros(self.features))
        if mode == "full":
            self.register_buffer("scale_tril", torch.eye(self.features))
        else:
            self.register_buffer("scale", torch.ones(self.features))

    @classmethod
    def from_data(
        cls, latents: Tensor, mode: str = "full", *, event_shape: int | Sequence[int] | None = None
    ) -> "Whitening":
        """The whitening of `latents` (N, *event).

        A direction in which the standardized data vary by less than 1e-4 is treated as varying by that much:
        near-singular covariances and fewer rows than features stay invertible, and samples hardly leave
        the plane of the data. A constant feature gets 1e-4 of the median scale of the others; where nothing
        varies, as in a single row, the scale is 1.

        Args:
            latents: (N, *event), at least one row, finite.
            mode: "full" or "diagonal".
            event_shape: of one latent; all but the first dimension of `latents` if None.

        Raises:
            InputError: if `latents` is empty, not finite, not floating point, or of another event shape.
        """
        if not isinstance(latents, Tensor) or latents.dim() < 1 or not latents.is_floating_point():
            raise InputError("`latents` must be a floating-point tensor of shape (N, *event).")
        whitening = cls(latents.shape[1:] or (1,) if event_shape is None else event_shape, mode)
        batch = batch_shape_of(latents, whitening.event_shape, "latents")
        rows = latents.detach().reshape(numel(batch), whitening.features)
        if len(rows) == 0:
            raise InputError(f"`latents` of shape {tuple(latents.shape)} has no rows: pass at least one.")
        if not bool(torch.isfinite(rows).all()):
            raise InputError("`latents` holds NaN or infinite values: remove those rows first.")
        rows = rows.cpu().double()  # once a fit: exact statistics are worth the copy
        mean = rows.mean(0)
        centred = rows - mean
        std = centred.square().mean(0).sqrt()
        varies = std > 1e-7 * mean.abs()  # below that it is the rounding of float32
        std = torch.where(varies, std, FLOOR * std[varies].median() if bool(varies.any()) else 1.0)
        buffers = {"loc": mean}
        if mode == "diagonal":
            buffers["scale"] = std
        else:
            standard = centred / std * varies
            correlation = standard.T @ standard / len(rows) + torch.diag((~varies).double())
            values, vectors = torch.linalg.eigh(correlation)
            values = values.clamp(min=FLOOR**2)
            # L L^T = V diag(values) V^T through QR of the square root: no Cholesky of a near-singular matrix
            upper = torch.linalg.qr((vectors * values.sqrt()).T).R
            tril = upper.T * upper.diagonal().sign()
            buffers["scale_tril"] = std[:, None] * tril
        dtype = torch.promote_types(latents.dtype, torch.float32)
        for name, value in buffers.items():
            whitening.register_buffer(name, value)
        return whitening.to(latents.device, dtype)

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        centred = z - self.loc
        if self.mode == "full":
            z0 = torch.linalg.solve_triangular(self.scale_tril, centred.T, upper=False).T
        else:
            z0 = centred / self.scale
        return z0, -self._log_scale().expand(z.shape[0])

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        z = self.loc + (z0 @ self.scale_tril.T if self.mode == "full" else z0 * self.scale)
        return z, self._log_scale().expand(z0.shape[0])

    def _log_scale(self) -> Tensor:
        diagonal = self.scale_tril.diagonal() if self.mode == "full" else self.scale
        return diagonal.abs().log().sum()
