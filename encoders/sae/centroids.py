"""Spherical k-means, which sparse autoencoders start from."""

from __future__ import annotations

import torch

__all__ = ["centroids"]

_AT_ONCE = 16_384  # rows compared at a time


def centroids(x: torch.Tensor, count: int, *, rounds: int = 0, seed: int = 0, most_rows: int = 0) -> torch.Tensor:
    """Unit centres of rows by cosine.

    Parameters
    ----------
    x : float32, shape (B, D)
    count : int
        Where there are fewer rows, some centres are random directions.
    rounds : int
        Of Lloyd's algorithm; 0 takes 10 on a GPU and 4 elsewhere.
    seed : int
        Of the rows that it starts from, and of those that take part where there are more than ``most_rows``.
    most_rows : int
        0 takes 200,000 on a GPU and 50,000 elsewhere, where a round of those with 16,384 centres is 10 s of one core.

    Returns
    -------
    float32, shape (count, D)
        On ``x``'s device. A centre that no row is nearest to stays where it was.

    References
    ----------
    Dhillon and Modha 2001, "Concept Decompositions for Large Sparse Text Data Using Clustering", Machine Learning 42.
    """
    rounds, most_rows = rounds or (10 if x.is_cuda else 4), most_rows or (200_000 if x.is_cuda else 50_000)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    rows = torch.nn.functional.normalize(x[order[:most_rows].to(x.device)], dim=1)
    centres = rows[:count].clone()
    if len(centres) < count:
        more = torch.randn(count - len(centres), x.shape[1], generator=generator).to(x)
        return torch.cat([centres, torch.nn.functional.normalize(more, dim=1)])
    for _ in range(rounds):
        nearest = torch.cat([(part @ centres.T).argmax(1) for part in rows.split(_AT_ONCE)])
        # Sums in a fixed order: sorted rows, differences of a running sum in float64.
        found = torch.sort(nearest, stable=True)
        running = rows[found.indices].double().cumsum(0)
        ends = torch.searchsorted(found.values, torch.arange(count, device=x.device), right=True)
        upto = torch.cat([running.new_zeros(1, x.shape[1]), running])[ends]
        sums = torch.diff(upto, dim=0, prepend=upto.new_zeros(1, x.shape[1])).float()
        counts = torch.diff(ends, prepend=ends.new_zeros(1))
        centres = torch.where((counts > 0)[:, None], torch.nn.functional.normalize(sums, dim=1), centres)
    return centres
