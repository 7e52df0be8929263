"""The inception score: are single images decided, are all of them diverse, in the eyes of a classifier."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowprior.checks import check_count, check_finite, check_shapes


@dataclass(frozen=True)
class InceptionScore:
    """Mean and standard deviation (over n, as published) of the splits' scores; 1 at the least, K at most."""

    value: float
    std: float
    splits: int
    samples: int


def inception_score(logits: Tensor, *, splits: int = 10, seed: int = 0) -> InceptionScore:
    """exp(E_x KL(p(y|x) || p(y))) of a classifier's logits (N, K), mean over random splits of the samples.

    Log-probabilities are logits as well: pass probabilities as `p.log()`. With the logits of
    `inception_logits` it is the published "is", with those of `classifier_logits` "is_classifier"; the two
    are not to be compared. A small split scores low: compare equal numbers of samples and splits only.
    Each split has its own p(y); `seed` shuffles, so that none holds the samples of neighboring conditions.
    Source: Salimans et al. 2016 (arXiv:1606.03498), section 4.

    Raises:
        InputError: on another shape, fewer samples than splits, or logits that decide nothing (NaN).

    >>> round(inception_score(100 * torch.eye(4), splits=1).value, 4)  # four samples, four classes
    4.0
    >>> round(inception_score(torch.zeros(4, 4), splits=1).value, 4)  # no sample is decided
    1.0
    """
    check_shapes("", logits=(logits, "samples>0 classes>0"))
    check_count("splits", splits, most=len(logits), fix="each split needs a sample")
    log_p = logits.detach().cpu().double().log_softmax(1)
    check_finite("logits.softmax(1)", log_p.exp(), "check the images and the network")
    order = torch.randperm(len(log_p), generator=torch.Generator().manual_seed(seed))
    scores = torch.stack([_score(part.exp()) for part in log_p[order].tensor_split(splits)])
    return InceptionScore(scores.mean().item(), scores.std(correction=0).item(), splits, len(logits))


def _score(p: Tensor) -> Tensor:
    """E KL(p || mean of p) is the entropy of the mean less the mean entropy."""
    return (torch.special.entr(p.mean(0)).sum() - torch.special.entr(p).sum(1).mean()).exp()
