"""Linear separability: how much of an attribute the side of a hyperplane in latent space leaves open."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flowprior.checks import check_finite, check_number, check_shapes
from flowprior.errors import InputError


@dataclass(frozen=True)
class Separability:
    """exp Σ_i H(Y_i | X_i), and what it is made of, attribute by attribute."""

    value: float  # 1 where hyperplanes decide every attribute
    entropies: tuple[float, ...]  # H(Y_i | X_i), nats
    accuracies: tuple[float, ...]  # of the hyperplane on the latents it was fitted to
    shares: tuple[float, ...]  # of the kept latents that have the attribute
    samples: int
    kept: int  # for each attribute


def separability(
    latents: Tensor, log_odds: Tensor, *, keep: float = 0.5, standardize: bool = False
) -> Separability:
    """exp(Σ_i H(Y_i | X_i)), nats within: latents (N, *event), log_odds (N, A)   (StyleGAN, section 4.2)

    Y_i is whether a classifier sees attribute i in the image that was decoded from a latent, X_i what a
    linear support vector machine says from the latent alone, trained and counted for each attribute on the
    share `keep` of the latents with the surest decisions; of one class only, H = 0. Latents are taken as they
    are, as in the source; the machine's own regularization then sees their unit.

    Args:
        latents: draws of the prior, in z or in z0; the source takes 200,000 and keeps half.
        log_odds: log p / (1 - p) of each attribute by the classifier, `attribute_classifier`'s output.
        keep: the share of latents kept, more than 0 and at most 1.
        standardize: whether to standardize latents by coordinate, so that the value does not depend on units.

    Raises:
        InputError: if the shapes do not fit, fewer than 2 latents are kept, or a number is not finite.

    >>> z = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
    >>> separability(z, 5 * z, keep=1.0).value
    1.0
    """
    fix = "pass one row of both for each draw"
    check_shapes(fix, latents=(latents, "N *event"), log_odds=(log_odds, "N attributes>0"))
    kept = round(check_number("keep", keep, above=0, most=1) * len(latents))
    if kept < 2:
        raise InputError(f"`keep` (={keep}) of {len(latents)} latents is {kept} but must be 2 or more.")
    rows, decided = latents.detach().flatten(1).cpu().double(), log_odds.detach().cpu().double()
    for name, values in (("latents", rows), ("log_odds", decided)):
        check_finite(name, values, "check the prior and the decoder")
    if standardize:
        rows = (rows - rows.mean(0)) / rows.std(0).clamp_min(torch.finfo(rows.dtype).tiny)
    parts = []
    for odds in decided.T:
        surest = odds.abs().topk(kept).indices.sort().values
        y = odds[surest] > 0
        x = _sides(rows[surest], y)
        shares = ((x == y).double().mean().item(), y.double().mean().item())
        parts.append((conditional_entropy(y, x), *shares))
    entropies, accuracies, having = zip(*parts, strict=True)
    return Separability(math.exp(math.fsum(entropies)), entropies, accuracies, having, len(latents), kept)


def conditional_entropy(y: Tensor, x: Tensor) -> float:
    """H(Y | X) in nats of two binary variables, from their joint frequencies: (N,) bool twice.

    Raises:
        InputError: if the shapes differ or there is nothing.

    >>> truth = torch.tensor([True, True, False, False])
    >>> conditional_entropy(truth, truth)
    0.0
    >>> round(conditional_entropy(truth, truth.roll(1)), 4)  # log 2: nothing is known
    0.6931
    """
    check_shapes("", y=(y, "N>0"), x=(x, "N>0"))
    joint = torch.bincount(2 * x.long() + y.long(), minlength=4).double().view(2, 2) / len(x)  # [x, y]
    given = joint / joint.sum(1, keepdim=True)  # NaN in the row of a side that holds nothing
    return -torch.xlogy(joint, given).nansum().item() + 0.0


def _sides(rows: Tensor, y: Tensor) -> Tensor:
    """On which side of the best hyperplane each row lies, (N,) bool; `y` itself where it is constant."""
    from sklearn.svm import LinearSVC

    if y.all() or not y.any():
        return y
    machine = LinearSVC(dual=False)
    return torch.from_numpy(machine.fit(rows.numpy(), y.numpy()).predict(rows.numpy()))
