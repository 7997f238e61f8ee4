"""Losses of learned sparse retrieval: what to rank (distillation, contrast) and how sparse to be.

All are plain functions of torch tensors that give one number and can be differentiated; sums are taken in float32 (in
float64 where that comes in), whatever the model computes in. A ``mask`` is true where a candidate counts; it may have
any shape that broadcasts to the scores', so (Q, 1) switches whole queries off.

::

    ranking    margin_mse, kl_distillation, info_nce       scores of a query's candidates -> loss
    teachers   ensemble                                    scores of several teachers -> scores of one
    sparsity   flops, flops_l0, flops_idf, l1              weights of a batch -> penalty

Shapes: Q queries, D candidate documents of a query, B texts in a batch, V terms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sparsight.errors import InvalidArgumentError, ShapeError

__all__ = ["ensemble", "flops", "flops_idf", "flops_l0", "info_nce", "kl_distillation", "l1", "margin_mse"]

_MIN_RELATIVE_IDF = 0.1


# --- ranking --------------------------------------------------------------------------------------------------


def margin_mse(scores: torch.Tensor, teacher: torch.Tensor, positive: int = 0,
               mask: torch.Tensor | None = None) -> torch.Tensor:
    """Squared error of the margins between the positive and every other candidate.

    ``mean over q, k of ((s_qp - s_qk) - (t_qp - t_qk))^2`` with p the positive's column and k every other one.

    Parameters
    ----------
    scores, teacher : shape (Q, D), D >= 2
        The student's and the teacher's scores of the same candidates. The scales matter: margins are compared as
        they are.
    positive : int
        Column of the positive.
    mask : bool, broadcast to (Q, D), optional
        Pairs with a masked member are left out of the mean; 0 if none is left.

    Raises
    ------
    ShapeError
        If the shapes differ or there is nothing to compare the positive with.

    References
    ----------
    Hofstätter et al. 2020, "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation",
    arXiv:2010.02666.
    """
    scores, teacher, kept = _checked(scores, teacher, mask)
    if scores.shape[1] < 2 or not -scores.shape[1] <= positive < scores.shape[1]:
        raise ShapeError(f"expected at least 2 candidates and the positive among them, got {scores.shape[1]} and "
                         f"column {positive}", field="positive")
    gap = scores - teacher  # the margins' difference is the difference of these
    error = (gap[:, [positive]] - gap).square()
    pairs = kept & kept[:, [positive]]
    pairs[:, positive] = False
    return error.masked_fill(~pairs, 0).sum() / pairs.sum().clamp_min(1)


def kl_distillation(scores: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0,
                    mask: torch.Tensor | None = None) -> torch.Tensor:
    """Divergence of the student's distribution over a query's candidates from the teacher's.

    ``mean over q of KL(softmax(t_q / temperature) || softmax(s_q / temperature))``. Not multiplied by the square of
    the temperature (Hinton et al. 2015 do), as in the trainers of SPLADE and OpenSearch.

    Parameters
    ----------
    scores, teacher : shape (Q, D)
        The student's and the teacher's scores of the same candidates; no gradient reaches the teacher's.
    temperature : float
        Above 0.
    mask : bool, broadcast to (Q, D), optional
        Masked candidates are in neither distribution. Queries without candidates do not count; 0 if none does.

    References
    ----------
    Lassance et al. 2024, "SPLADE-v3: New baselines for SPLADE", arXiv:2403.06789; Hinton, Vinyals, Dean 2015,
    "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
    """
    scores, teacher, kept = _checked(scores, teacher, mask)
    _check_temperature(temperature)
    counted = kept.any(1)
    shown = kept | ~counted[:, None]  # a row of -inf alone would give NaN, in the gradient too
    theirs = torch.log_softmax((teacher.detach() / temperature).masked_fill(~shown, -torch.inf), 1)
    ours = torch.log_softmax((scores / temperature).masked_fill(~shown, -torch.inf), 1)
    divergence = (theirs.exp() * (theirs - ours).masked_fill(~kept, 0)).sum(1)
    return divergence.sum() / counted.sum().clamp_min(1)


def info_nce(scores: torch.Tensor, positives: torch.Tensor, mask: torch.Tensor | None = None,
             temperature: float = 1.0) -> torch.Tensor:
    """Cross entropy of finding the positive among all candidates.

    ``mean over q of -log(exp(s_qp / temperature) / sum_d exp(s_qd / temperature))``, d over the positive and every
    candidate that is not masked.

    Parameters
    ----------
    scores : shape (Q, D)
        Each query's scores of D documents: the batch's positives (in-batch negatives) beside hard negatives.
    positives : int64, shape (Q,)
        Column of each query's positive; -1 where there is none, and the query does not count.
    mask : bool, broadcast to (Q, D), optional
        False for known false negatives. The positive itself always counts.
    temperature : float
        Above 0.

    Notes
    -----
    0 if no query has a positive.

    References
    ----------
    van den Oord, Li, Vinyals 2018, "Representation Learning with Contrastive Predictive Coding", arXiv:1807.03748.
    """
    scores, _, kept = _checked(scores, scores, mask)
    _check_temperature(temperature)
    if positives.shape != scores.shape[:1]:
        raise ShapeError(f"expected a positive for each of {scores.shape[0]} queries, got {tuple(positives.shape)}",
                         field="positives")
    counted = positives >= 0
    target = positives.clamp_min(0)[:, None]
    kept = kept.scatter(1, target, True)
    logits = (scores / temperature).masked_fill(~kept, -torch.inf)
    losses = torch.logsumexp(logits, 1) - logits.gather(1, target)[:, 0]
    return losses.masked_fill(~counted, 0).sum() / counted.sum().clamp_min(1)


# --- teachers -------------------------------------------------------------------------------------------------


def ensemble(teachers: Sequence[torch.Tensor], weights: Sequence[float] | None = None, scale: float = 30.0,
             mask: torch.Tensor | None = None) -> torch.Tensor:
    """Scores of several teachers as those of one.

    ``scale * sum_i a_i (t_i - min t_i) / (max t_i - min t_i) / sum_i a_i``, minimum and maximum per query over its
    candidates that are not masked.

    Parameters
    ----------
    teachers : tensors of shape (Q, D)
        Scores of the same candidates in any units.
    weights : floats >= 0, optional
        Of the teachers, a_i; equal if left out.
    scale : float
        The best possible score; with a softmax over candidates, how sharp the teacher is. 30 is the public trainer's
        of OpenSearch.
    mask : bool, broadcast to (Q, D), optional
        Masked candidates get 0.

    Returns
    -------
    shape (Q, D)
        In [0, scale]. A teacher that gives all of a query's candidates one score gives 0 to all of them.

    References
    ----------
    Geng et al. 2024, "Towards Competitive Search Relevance For Inference-Free Learned Sparse Retrievers",
    arXiv:2411.04403 (heterogeneous ensemble knowledge distillation).
    """
    shares = [1.0] * len(teachers) if weights is None else list(weights)
    if not teachers or len(shares) != len(teachers) or min(shares) < 0 or sum(shares) <= 0:
        raise InvalidArgumentError(f"expected teachers with a weight >= 0 each, not all 0, got {len(teachers)} with "
                                   f"{shares}", field="weights")
    total: torch.Tensor | None = None
    for share, scores in zip(shares, teachers, strict=True):
        teacher, _, kept = _checked(scores, teachers[0], mask)
        least = teacher.masked_fill(~kept, torch.inf).amin(1, keepdim=True)
        most = teacher.masked_fill(~kept, -torch.inf).amax(1, keepdim=True)
        span = most - least
        part = torch.where(kept & (span > 0), (teacher - least) / span.masked_fill(~(span > 0), 1), 0)
        total = part * share if total is None else total + part * share
    assert total is not None
    return total * (scale / sum(shares))


# --- sparsity -------------------------------------------------------------------------------------------------


def flops(weights: torch.Tensor, groups: int = 1, across_devices: bool = False) -> torch.Tensor:
    """Expected work of scoring one document of the batch's kind against another.

    ``sum_j (mean_b |w_bj|)^2``.

    Parameters
    ----------
    weights : shape (B, V)
        Term weights of a batch of texts.
    groups : int
        Rows b, b + groups, b + 2 groups, ... are a group with a mean of its own, and the groups' penalties are summed.
        With each query's candidates in consecutive rows and groups their number, all positives are one group and all
        k-th negatives are one, so that a query's similar documents do not share a mean (OpenSearch's trainer).
    across_devices : bool
        Take the means over all processes of torch.distributed, where that is initialised. The sparsity that a given
        factor leads to then does not depend on how many devices share the batch. The gradient is the exact one once
        it has been *averaged* over the processes, as DistributedDataParallel does.

    Raises
    ------
    ShapeError
        If ``weights`` is no matrix with a multiple of ``groups`` rows.

    References
    ----------
    Paria et al. 2020, "Minimizing FLOPs to Learn Efficient Sparse Representations", ICLR; Formal, Piwowarski,
    Clinchant 2021, "SPLADE", SIGIR.

    Examples
    --------
    >>> float(flops(torch.tensor([[1.0, 0.0], [3.0, 2.0]]))), float(flops(torch.tensor([[1.0, 0.0], [3.0, 2.0]]), 2))
    (5.0, 14.0)
    """
    return _group_means(_full(weights).abs(), groups, across_devices).square().sum()


def flops_l0(weights: torch.Tensor, threshold: int, groups: int = 1, across_devices: bool = False) -> torch.Tensor:
    """`flops` that leaves short documents alone.

    ``sum_j (mean_b [n_b > threshold] |w_bj|)^2``, where n_b is the number of non-zeros of row b. Rows with at most
    ``threshold`` get no gradient at all (exactly 0); they still count in the mean's denominator, as in the authors'
    code. Other parameters as in `flops`.

    References
    ----------
    Shen, Geng, Yang 2025, "Exploring l0 Sparsification for Inference-free Sparse Retrievers", arXiv:2504.14839.
    """
    sizes = _full(weights).abs()
    long = (weights.detach() != 0).sum(1, keepdim=True) > threshold
    return _group_means(sizes.masked_fill(~long, 0), groups, across_devices).square().sum()


def flops_idf(weights: torch.Tensor, idf: torch.Tensor, groups: int = 1,
              across_devices: bool = False) -> torch.Tensor:
    """`flops` that presses on frequent terms and spares rare ones.

    ``sum_j (c_j mean_b |w_bj|)^2`` with ``c_j = i / max(idf_j, i / 10)`` and i the mean of all idf. A term of mean
    idf is penalised as by `flops`, one of twice that idf by a quarter, a stop word by a hundred times at most. Equal
    idf give `flops`.

    Parameters
    ----------
    weights : shape (B, V)
    idf : shape (V,)
        Inverse document frequencies >= 0, in any unit.

    Notes
    -----
    That the penalty should fall with idf is the IDF-aware FLOPS loss of arXiv:2411.04403 (its first version; the
    second puts idf into the matching function instead, and so does the public code, which trains with plain FLOPS).
    Porco et al. 2025, "An Alternative to FLOPS Regularization to Effectively Productionize SPLADE-Doc",
    weigh the means of FLOPS by document frequency. The factor's exact form here, its unit and its limit, are ours.
    """
    if idf.shape != weights.shape[1:]:
        raise ShapeError(f"expected idf of {weights.shape[-1]} terms, got {tuple(idf.shape)}", field="idf")
    sizes = _full(weights).abs()
    known = idf.detach().to(sizes.dtype)
    usual = known.mean()
    factor = usual / torch.maximum(known, usual * _MIN_RELATIVE_IDF)
    return (_group_means(sizes, groups, across_devices) * factor).square().sum()


def l1(weights: torch.Tensor) -> torch.Tensor:
    """Mean over texts of the sum of a text's weights, ``mean_b sum_j |w_bj|``; the usual penalty for queries.

    Parameters
    ----------
    weights : shape (B, V)

    References
    ----------
    Lassance and Clinchant 2022, "An Efficiency Study for SPLADE Models", SIGIR.
    """
    if weights.ndim != 2 or not len(weights):
        raise ShapeError(f"expected weights of at least one text, got {tuple(weights.shape)}", field="weights")
    return _full(weights).abs().sum(1).mean()


# --- helpers --------------------------------------------------------------------------------------------------


def _full(x: torch.Tensor) -> torch.Tensor:
    """float32, or float64 where it is."""
    return x if x.dtype == torch.float64 else x.float()


def _checked(scores: torch.Tensor, teacher: torch.Tensor,
             mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Both in full precision and the mask in their shape."""
    if scores.ndim != 2 or scores.shape != teacher.shape:
        raise ShapeError("expected two matrices of scores of one shape, got "
                         f"{tuple(scores.shape)} and {tuple(teacher.shape)}", field="scores")
    if mask is None:
        kept = torch.ones_like(scores, dtype=torch.bool)
    elif mask.dtype != torch.bool or mask.ndim != 2 or any(
            mine not in (1, size) for mine, size in zip(mask.shape, scores.shape, strict=True)):
        raise ShapeError(f"expected a mask of booleans that broadcasts to {tuple(scores.shape)}, got {mask.dtype} "
                         f"{tuple(mask.shape)}", field="mask")
    else:
        kept = mask.expand(scores.shape)
    return _full(scores), _full(teacher), kept


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise InvalidArgumentError(f"expected a temperature above 0, got {temperature}", field="temperature")


def _group_means(sizes: torch.Tensor, groups: int, across_devices: bool) -> torch.Tensor:
    """(groups, V): mean of each group's rows, here or over all processes."""
    if sizes.ndim != 2 or groups < 1 or not len(sizes) or len(sizes) % groups:
        raise ShapeError(f"expected rows in {groups} groups of one size, got {tuple(sizes.shape)}", field="weights")
    rows = len(sizes) // groups
    here = sizes.reshape(rows, groups, -1).sum(0)
    processes = torch.distributed
    if not (across_devices and processes.is_available() and processes.is_initialized()):
        return here / rows
    # Counts travel with the sums: batches may differ in size.
    total = torch.cat([here.detach().flatten(), here.new_tensor([rows])])
    processes.all_reduce(total)
    elsewhere = total[:-1].view_as(here) - here.detach()
    # Each process sees the gradient of its own rows only. Times their number, because it will be averaged over them.
    own = here + (here - here.detach()) * (processes.get_world_size() - 1)
    return (own + elsewhere) / total[-1]
