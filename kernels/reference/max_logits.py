"""The head of a learned sparse encoder and the rows it makes: the specification, in plain torch on any device."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["activate", "max_logits", "pruned_csr"]


def max_logits(
    hidden: torch.Tensor, starts: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """``m[b, v] = max over the tokens t of text b of hidden[t] . weight[v], plus bias[v]``.

    Parameters
    ----------
    hidden : shape (T, H)
        Token vectors of all texts, one after another without padding.
    starts : int, shape (B + 1,)
        Text b has the tokens ``starts[b]:starts[b + 1]``, at least one.
    weight, bias : shapes (V, H) and (V,)

    Returns
    -------
    shape (B, V), of ``hidden``'s dtype
        Differentiable; among equal logits the gradient goes to the first token.

    References
    ----------
    Formal, Lassance, Piwowarski, Clinchant 2021, "SPLADE v2", arXiv 2109.10086 (max pooling). Rounding is monotone,
    so bias and activation may follow the maximum.
    """
    import torch

    rows = []
    bounds = starts.tolist()
    for first, last in pairwise(bounds):
        logits = hidden[first:last] @ weight.T  # (L, V)
        rows.append(logits.gather(0, logits.argmax(0, keepdim=True))[0])  # amax would share the gradient among ties
    out = torch.stack(rows)
    return out if bias is None else out + bias


def activate(logits: torch.Tensor, activation: str) -> torch.Tensor:
    """``log1p(relu(x))``, and for "log1p_log1p_relu" the logarithm of that once more (arXiv 2504.14839)."""
    import torch

    weights = torch.log1p(torch.relu(logits))
    return torch.log1p(weights) if activation == "log1p_log1p_relu" else weights


def pruned_csr(
    weights: torch.Tensor, max_terms: int, threshold: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Entries above ``threshold`` of each row, the ``max_terms`` largest if that is not 0; equal ones by lower term.

    Parameters
    ----------
    weights : shape (B, V)
        Not negative.
    max_terms : int
    threshold : float

    Returns
    -------
    starts : int64, shape (B + 1,)
    terms : int64, shape (nnz,)
        Ascending in each row.
    values : shape (nnz,)
    """
    import torch

    kept = weights.float() > threshold
    if 0 < max_terms < weights.shape[1]:
        order = torch.sort(weights, dim=1, descending=True, stable=True).indices[:, :max_terms]
        largest = torch.zeros_like(kept).scatter_(1, order, True)
        kept &= largest
    starts = torch.zeros(len(weights) + 1, dtype=torch.int64, device=weights.device)
    starts[1:] = kept.sum(1).cumsum(0)
    rows, terms = kept.nonzero(as_tuple=True)
    return starts, terms, weights[rows, terms]
