"""β-TCVAE: the KL of a VAE in three parts, weighted apart."""

import math
from typing import Literal

import torch
from torch import Tensor

from flowprior.checks import check_count, check_number, check_one_of
from flowprior.errors import InputError
from flowprior.models.autoencoder import Autoencoder
from flowprior.objectives.variational import Pass, Terms, VariationalObjective, normal_parameters

Sampling = Literal["stratified", "weighted"]


class BetaTCVAE(VariationalObjective):
    """loss = reconstruction_weight · E_q[-log p(x|z)] + mi_weight MI + tc_weight TC + dimension_weight DW

    With q(z) = mean_n q(z|x_n) over the N training examples, z_i ~ q(z|x_i) and means over the batch:

        MI = log q(z_i|x_i) - log q(z_i)           mutual information of z and the example
        TC = log q(z_i) - Σ_j log q(z_ij)          total correlation
        DW = Σ_j log q(z_ij) - log p(z_i)          dimension-wise KL

    log q(z_i) and each log q(z_ij) are estimated from the batch, by the logarithm of one of

        stratified  Σ_k W_ik q(z_i|x_k),  W_ii = 1/N,  W_i,i+1 = (N - M)/(N M) (cyclic), else 1/M,  M = B - 1
        weighted    1/(N B) Σ_k q(z_i|x_k)

    The first is unbiased for q(z_i) if the batch holds distinct examples; a batch of one example, such as the
    last of a validation, is all of q(z) that it knows: W = 1, MI = TC = 0. The second is small by a factor of
    about N where the batch covers the support of q(z): MI is then logged large by log N, TC by (D - 1) log N,
    DW small by D log N; these constants have no gradient, and cancel at equal weights. The logarithm of
    either is biased downwards for small batches.

    Only DW reads the prior (dpVAE, section 4.3), with its full density, and nothing is drawn from it. For
    N(0, I) DW = Σ_j KL(q(z_j) ‖ p(z_j)). A decoupled p does not factorize: the expectation of log p stays
    under q(z), not under Π_j q(z_j), so that DW may fall below zero, but MI + TC + DW =
    log q(z_i|x_i) - log p(z_i) holds sample by sample, whatever the prior.

    Logged with those of `VariationalObjective`: "mutual_information", "total_correlation", "dimension_kl".

    Args:
        model: with a `GaussianPosterior`.
        dataset_size: N.
        tc_weight, mi_weight, dimension_weight: the β, α and γ of β-TCVAE.
        sampling: "stratified" or "weighted".
        legacy: the stratified weights as in the official code and its many copies, for comparison: 1/N stands
            in column 0 instead of on the diagonal, and row B - 2 does not sum to one.
        reconstruction_weight: as for `ELBO`.

    Raises:
        InputError: on a posterior that is not a factorized Gaussian, or a setting that is none of these.

    Source: Chen et al. 2018 (arXiv:1802.04942), Eq. 2 and 4, Appendix C.
    """

    def __init__(
        self,
        model: Autoencoder,
        dataset_size: int,
        tc_weight: float = 6.0,
        mi_weight: float = 1.0,
        dimension_weight: float = 1.0,
        sampling: Sampling = "stratified",
        legacy: bool = False,
        reconstruction_weight: float = 1.0,
    ) -> None:
        super().__init__(model, reconstruction_weight)
        self.dataset_size = check_count("dataset_size", dataset_size, least=2)
        self.sampling = check_one_of("sampling", sampling, ("stratified", "weighted"))
        if legacy and sampling != "stratified":
            raise InputError("`legacy` is of the stratified weights: leave it out, or sample 'stratified'.")
        self.legacy = legacy
        self.tc_weight = check_number("tc_weight", tc_weight, least=0)
        self.mi_weight = check_number("mi_weight", mi_weight, least=0)
        self.dimension_weight = check_number("dimension_weight", dimension_weight, least=0)

    def regularizer(self, seen: Pass, step: int) -> tuple[Tensor, Terms]:
        """The three parts, weighted."""
        size = len(seen.z)
        if size == 1 and self.sampling == "stratified":
            log_weights = seen.z.new_zeros(1, 1)
        elif self.sampling == "weighted":
            log_weights = seen.z.new_full((size, size), -math.log(self.dataset_size * size))
        else:
            log_weights = stratified_weights(size, self.dataset_size, self.legacy).to(seen.z).log()
        loc, scale = normal_parameters(seen.posterior)
        log_p = self.model.prior.log_prob(seen.z, seen.prior_context)
        mi, tc, dimension = decompose(seen.z.flatten(1), loc, scale, log_p, log_weights)
        loss = self.mi_weight * mi + self.tc_weight * tc + self.dimension_weight * dimension
        return loss, {"mutual_information": mi, "total_correlation": tc, "dimension_kl": dimension}


def decompose(
    z: Tensor, loc: Tensor, scale: Tensor, log_p: Tensor, log_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """MI, TC and DW of `BetaTCVAE`, means over the batch: z_i ~ N(loc_i, diag scale_i²), each (B, D), log p
    (B,), and log W (B, B), row i for q(z_i)."""
    each = torch.distributions.Normal(loc, scale, validate_args=False)
    pairs = each.log_prob(z[:, None])  # (B, B, D): log q(z_ij | x_k)
    own = pairs.diagonal().sum(0)  # (B,)
    joint = torch.logsumexp(pairs.sum(-1) + log_weights, 1)  # (B,)
    marginals = torch.logsumexp(pairs + log_weights[..., None], 1).sum(-1)  # (B,)
    return (own - joint).mean(), (joint - marginals).mean(), (marginals - log_p).mean()


def stratified_weights(batch_size: int, dataset_size: int, legacy: bool = False) -> Tensor:
    """The matrix W of `BetaTCVAE`, (B, B) float64; raises InputError unless 2 <= B <= `dataset_size`.

    >>> stratified_weights(3, 4) * 8
    tensor([[2., 2., 4.],
            [4., 2., 2.],
            [2., 4., 2.]], dtype=torch.float64)
    """
    others = batch_size - 1
    if not 1 <= others < dataset_size:
        raise InputError(
            f"The batch has {batch_size} examples, but stratified sampling needs at least 2 and at most "
            f"`dataset_size` (={dataset_size}): change `batch_size` or `dataset_size`."
        )
    weights = torch.full((batch_size, batch_size), 1 / others, dtype=torch.float64)
    rest = (dataset_size - others) / (dataset_size * others)
    if legacy:
        weights[:, 0], weights[:, 1], weights[batch_size - 2, 0] = 1 / dataset_size, rest, rest
        return weights
    rows = torch.arange(batch_size)
    weights[rows, (rows + 1) % batch_size] = rest
    weights[rows, rows] = 1 / dataset_size
    return weights
