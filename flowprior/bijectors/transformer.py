"""An autoregressive flow over tokens, its parameters by causal transformers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from flowprior.bijectors.attention import Cache, TokenFlow, TokenTransformer
from flowprior.bijectors.recipes import Recipe
from flowprior.bijectors.tokens import Tokens

_UNIT = math.log(math.e - 1.0)  # softplus is 1 there
_TOLERANCE = 1e-6  # of a Jacobi pass, against the largest number


class CausalBlock(nn.Module):
    """z0_t = (z_t - μ_t) / σ_t, with μ_t and σ_t from the tokens before t (and the context, if it sees one).

    σ = softplus(a + log(e - 1)), and both a and μ stay within ± `limit`, by limit tanh(· / limit). With
    `backward` the last token is the first.
    """

    def __init__(
        self,
        tokens: Tokens,
        layers: int,
        context_shape: torch.Size | None,
        recipe: Recipe,
        *,
        backward: bool,
        recompute: bool,
    ) -> None:
        super().__init__()
        self.backward, self.limit = backward, recipe.log_scale_limit
        self.network = TokenTransformer(
            tokens.width,
            2 * tokens.width,
            tokens.count,
            layers,
            context_shape,
            recipe,
            causal=True,
            recompute=recompute,
        )

    def forward(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """z (N, T, C) -> z0 (N, T, C), log σ (N, T, C); one pass."""
        z = self._ordered(z)
        mean, scale = self._gaussian(self.network(z[:, :-1], context, start=True))
        return self._ordered((z - mean) / scale), scale.log()

    def inverse(
        self, z0: Tensor, context: Tensor | None, together: int = 1, guidance: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """z0 (N, T, C) -> z (N, T, C), log σ (N, T, C), with `together` tokens at a time.

        A token alone needs one pass of the network behind the keys and values of those before. Several are
        solved for by Jacobi iteration, z <- μ(z) + σ(z) z0: k passes make the first k exact, and mostly it
        settles in fewer. With `guidance` w, `context` holds 2 N rows, the second half without a context, and
        every Gaussian is that of `guided`.

        Reference: Song et al., Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving
        (2021), for the iteration.
        """
        z0 = self._ordered(z0)
        copies = 2 if guidance else 1
        seen = self.network.seen(context)
        past: Cache | None = None
        done: list[Tensor] = []
        scales: list[Tensor] = []
        last = z0[:, :0]
        for begin in range(0, z0.shape[1], together):
            noise = z0[:, begin : begin + together]
            z, start = noise, begin == 0
            for _ in range(noise.shape[1]):
                known = torch.cat((last, z[:, :-1]), 1).repeat(copies, 1, 1)
                outputs, cache = self.network.advance(known, seen, past, begin, start=start)
                mean, scale = self._gaussian(outputs)
                if guidance:
                    (mean, free_mean), (scale, free_scale) = mean.chunk(2), scale.chunk(2)
                    mean, scale = guided(mean, free_mean, scale, free_scale, guidance)
                before, z = z, mean + scale * noise
                if noise.shape[1] > 1 and _settled(before, z):
                    break
            past, last = cache, z[:, -1:]
            done.append(z)
            scales.append(scale)
        return self._ordered(torch.cat(done, 1)), torch.cat(scales, 1).log()

    def _gaussian(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        if self.limit is not None:
            outputs = self.limit * (outputs / self.limit).tanh()
        mean, scale = outputs.chunk(2, -1)
        return mean, softplus(scale + _UNIT)

    def _ordered(self, tokens: Tensor) -> Tensor:
        return tokens.flip(1) if self.backward else tokens


class Transformer(TokenFlow):
    """Blocks of causal transformers, the order of the tokens reversed from one to the next.

    `to_base` runs `transforms` blocks: shallow ones of `len(hidden_features)` layers first, beside the data,
    and last, beside z0, one of `deep_layers`, which alone sees the context. Heads are zero at the start, and
    the flow the identity: behind a whitening in the order of the tokens, training starts at the Gaussian with
    the mean and the covariance of the data. Log-determinants are sums of log σ in full precision.

    `to_base` is one pass through each block. `from_base` goes token by token, or `sampling_block` tokens at a
    time; where a gradient is wanted, and in a compiler, token by token. Attention has no second derivative on
    most devices, and neither has this.

    Args:
        event_shape: a vector, a sequence (T, C) or maps (C, h, w).
        recipe: of coupling "transformer".
        context_features: (K,) for vectors, (S, K) for sequences, (K, H, W) for maps of context; None without.
        recompute: keep less for the backward pass (`TokenTransformer`).

    Raises:
        InputError: as `Tokens`, or if the widths do not fit.

    References: Zhai et al., Normalizing Flows are Capable Generative Models (TarFlow, 2024); Gu et al.,
    STARFlow (2025), for the deep block, the scale and guidance.
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        recipe: Recipe,
        context_features: int | Sequence[int] | None = None,
        *,
        recompute: bool = False,
    ) -> None:
        super().__init__(event_shape, recipe, context_features)
        self.sampling_block = recipe.sampling_block
        last = recipe.transforms - 1
        self.blocks = nn.ModuleList(
            CausalBlock(
                self.tokens,
                recipe.deep_layers if index == last else len(recipe.hidden_features),
                self.context_shape if index == last else None,
                recipe,
                backward=index % 2 == 1,
                recompute=recompute,
            )
            for index in range(recipe.transforms)
        )

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        tokens, total = self.tokens.split(z), z.new_zeros(len(z))
        for block in self.blocks:
            tokens, log_scale = block(tokens, context)
            total = total - log_scale.flatten(1).sum(1)
        return self.tokens.join(tokens), total

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._invert(z0, context)

    def guided_from_base(self, z0: Tensor, context: Tensor, null: Tensor, guidance: float) -> Tensor:
        """Rows z0 (N, *event) -> z under guidance w >= 0, with rows of context and of none.

        Token by token of the deep block, p(z_t | z_<t, c)^(1 + w) / p(z_t | z_<t)^w of the two Gaussians
        (`guided`); the shallow blocks see no context and follow as they are.
        """
        return self._invert(z0, torch.cat((context, null)), guidance)[0]

    def _invert(self, z0: Tensor, context: Tensor | None, guidance: float = 0.0) -> tuple[Tensor, Tensor]:
        tokens, total = self.tokens.split(z0), z0.new_zeros(len(z0))
        one_by_one = torch.is_grad_enabled() or torch.compiler.is_compiling()
        together = 1 if one_by_one else min(self.sampling_block, self.tokens.count)
        last = len(self.blocks) - 1
        for index in range(last, -1, -1):
            own = (context, guidance) if index == last else (None, 0.0)
            tokens, log_scale = self.blocks[index].inverse(tokens, own[0], together, own[1])  # type: ignore[operator]
            total = total + log_scale.flatten(1).sum(1)
        return self.tokens.join(tokens), total


def guided(
    mean: Tensor, free_mean: Tensor, scale: Tensor, free_scale: Tensor, weight: float
) -> tuple[Tensor, Tensor]:
    """Mean and scale of N(μc, σc²)^(1 + w) / N(μu, σu²)^w, normalized; where σc > σu, with σu = σc.

    s = min(σc / σu, 1)², σ = σc / √(1 + w - w s), μ = ((1 + w) μc - w s μu) / (1 + w - w s)   (STARFlow).

    >>> mean, scale = guided(*map(torch.tensor, (1.0, 0.0, 1.0, 2.0)), weight=4.0)
    >>> round(mean.item(), 4), round(scale.item(), 4)
    (1.25, 0.5)
    """
    s = (scale / free_scale).clamp(max=1.0).square()
    precision = 1.0 + weight - weight * s
    return ((1.0 + weight) * mean - weight * s * free_mean) / precision, scale / precision.sqrt()


def _settled(before: Tensor, after: Tensor) -> bool:
    if not after.numel():
        return True
    change, largest = (after - before).abs().max(), after.abs().max().clamp(min=1.0)
    return bool(change <= _TOLERANCE * largest)
