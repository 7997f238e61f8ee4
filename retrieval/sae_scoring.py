"""Scores of documents' SAE codes against queries, from what an inverted index of the codes holds and nothing else.

A document's weight of latent i is ``z_i`` or ``z_i / |xhat|``, if wanted with the index's 8 bits; a query is a vector
of weights of latents; the score is the sum of products. Every document is scored, block by block, on any device of
torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import InvalidArgumentError
from sparsight.retrieval.judged_vectors import JudgedVectors, blocks

if TYPE_CHECKING:
    import torch
    from scipy.sparse import csr_matrix

    from sparsight.encoders.sae.model import SAE

__all__ = ["DEFAULT_SCORERS", "CodedSet", "Coder", "Scorer", "parse_scorer"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Coder: TypeAlias = "Callable[[F32, int], csr_matrix | tuple[torch.Tensor, torch.Tensor]]"
"""Codes, float32 (B, N), of at most k latents, from rows, float32 (B, D), and k."""

_LEVELS = 255  # of a document's weight in the index


@dataclass(frozen=True, slots=True)
class Scorer:
    """A way to score documents' codes.

    Attributes
    ----------
    query : "decode" or "symmetric"
        Weight of latent i in a query x: ``w_i . x``, which makes the score the inner product with the reconstruction
        but for the share of ``b_dec``; or the query's own code.
    m : int
        Latents of a query: the m that come first by `sparsight.encoders.sae.weighting.importance`, as in a search; for
        "symmetric", the m that are active. 0 takes all; for "symmetric" as many as documents have.
    divided : bool
        Documents' weights are divided by the length of their reconstruction.
    idf : bool
        Query weights are multiplied by `sparsight.encoders.sae.weighting.idf` before m are chosen.
    by_size : bool
        The m are those of the largest weights, of either sign, in place of the most important.
    refocus : int
        So many of the best documents are scored a second time, with m weights chosen anew: those that add most to the
        scores of these documents, of either sign. 0: no second time. For "decode" with m.

    Notes
    -----
    How often latents fire is what the autoencoder says of its training rows for its own codes; for others, or where it
    has no such statistics, what these documents say.
    """

    query: Literal["decode", "symmetric"] = "decode"
    m: int = 512
    divided: bool = True
    idf: bool = False
    by_size: bool = False
    refocus: int = 0

    def __post_init__(self) -> None:
        if self.query not in ("decode", "symmetric"):
            raise InvalidArgumentError(f"expected query 'decode' or 'symmetric', got {self.query!r}", field="query")
        if self.m < 0:
            raise InvalidArgumentError(f"expected m of at least 0, got {self.m}", field="m")
        if self.refocus < 0 or (self.refocus and (self.query != "decode" or not self.m)):
            raise InvalidArgumentError(f"expected refocus of at least 0, and 0 unless query is 'decode' with m, got "
                                       f"{self.refocus}", field="refocus")

    @property
    def name(self) -> str:
        """As `parse_scorer` takes it: "decode-512", "decode-all", "decode-256-refocus-50", "symmetric-64-idf-raw"."""
        count = f"-{self.m}" if self.m else "-all" if self.query == "decode" else ""
        again = f"-refocus-{self.refocus}" if self.refocus else ""
        return f"{self.query}{count}{again}{'-size' * self.by_size}{'-idf' * self.idf}{'-raw' * (not self.divided)}"


def parse_scorer(name: str) -> Scorer:
    """The scorer of a name: decode or symmetric, then -M or -all, -refocus-R, -size, -idf, -raw (not divided), each as
    wanted.

    Raises
    ------
    InvalidArgumentError
        If it is no such name.

    Examples
    --------
    >>> parse_scorer("decode-64-idf")
    Scorer(query='decode', m=64, divided=True, idf=True, by_size=False, refocus=0)
    """
    found = re.fullmatch(r"(decode|symmetric)(?:-(\d+|all))?(?:-refocus-(\d+))?(-size)?(-idf)?(-raw)?", name)
    if found is None:
        raise InvalidArgumentError("expected decode or symmetric, then -M or -all, -refocus-R, -size, -idf and -raw as "
                                   f"wanted, got {name!r}", field="scorers", scorer=name)
    query, count, again, size, idf, raw = found.groups()
    m = 0 if count in (None, "all") else int(count)
    return Scorer("decode" if query == "decode" else "symmetric", m, not raw, bool(idf), bool(size),
                  int(again or 0))


DEFAULT_SCORERS = tuple(map(parse_scorer, (
    "decode-512", "decode-256-refocus-50", "decode-all", "decode-256", "decode-128", "decode-64", "decode-128-size",
    "decode-512-idf", "decode-512-raw", "decode-all-raw", "symmetric", "symmetric-64", "symmetric-idf",
    "symmetric-raw")))  # fmt: skip
"""A collection's SAE field, if not told otherwise, finds documents by decode-256 and scores the best 50 with all
weights: near decode-256-refocus-50, which takes 256 for these too."""


class CodedSet:
    """Codes of a set on a device, strongest latent first: a smaller k is a prefix of the columns. k = 0: its own.

    With ``code`` all codes are that function's, of the largest k; the autoencoder's own k is then that many of them.
    Otherwise documents are coded as the autoencoder codes documents, and queries by its encoder.
    """

    def __init__(self, sae: SAE, judged: JudgedVectors, ks: Sequence[int], rounded: bool, device: str,
                 code: Coder | None = None) -> None:
        import torch

        self.sae, self.judged, self.rounded, self.device, self.code = sae, judged, rounded, device, code
        self.mode = sae.document_mode if sae.document_mode == "pursuit" and code is None else sae.mode
        thresholds = self.mode == "threshold" and code is None
        most = max(k or (0 if thresholds else sae.k) for k in ks)
        self._most = self._of(judged.documents, most) if most else None
        self._own = self._of(judged.documents, 0) if thresholds and 0 in ks else None
        self.w_dec, self.b_dec, self.impact_scale = (
            torch.from_numpy(array).to(device) for array in (sae.W_dec, sae.b_dec, sae.impact_scale))

    def plain(self, k: int) -> int:
        """0 for every name of the autoencoder's own codes."""
        return 0 if self.mode != "threshold" and k == self.sae.k else k

    def _of(self, documents: F32, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        from sparsight.encoders.sae.blocks import document_codes

        if self.mode != "pursuit":
            return _codes(self.sae, documents, k, self.device, self.code)
        return _slots(document_codes(replace(self.sae, k=k), documents, device=self.device), self.device)

    def codes(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents and values (N, at most k) of documents."""
        if k == 0 and self._own is not None:
            return self._own
        assert self._most is not None
        latents, values = self._most
        return latents[:, :k or self.sae.k], values[:, :k or self.sae.k]

    def counts(self, k: int) -> torch.Tensor:
        """Documents that each latent is active in, int64 (F,)."""
        import torch

        latents, values = self.codes(k)
        return torch.bincount(latents[values > 0], minlength=self.sae.n_latents)

    def postings(self, weights: torch.Tensor, k: int) -> float:
        """Postings of the latents of all queries of a block, together."""
        return float((weights != 0).sum(1).double() @ self.counts(k).double())

    def query_weights(self, rows: slice, wanted: Iterable[tuple[Scorer, int]]) -> Iterator[tuple[Any, torch.Tensor]]:
        """Each of ``wanted`` with its weights (F, queries); made again only where they differ from those before."""
        import torch

        asked = torch.from_numpy(np.ascontiguousarray(self.judged.queries[rows])).to(self.device)
        made: dict[Any, torch.Tensor] = {}
        for scorer, k in wanted:
            key = scorer.query, scorer.m, scorer.idf, scorer.by_size, k if self._follows(scorer) else None
            if key not in made:
                made = {key: self._pruned(self._all_weights(rows, asked, scorer, k), scorer).T.contiguous()}
            yield (scorer, k), made[key]

    def _follows(self, scorer: Scorer) -> bool:
        """Whether a scorer's query weights depend on the documents' k."""
        if scorer.query == "symmetric":
            return scorer.idf or not scorer.m
        return scorer.idf or (0 < scorer.m < self.sae.n_latents and not scorer.by_size)

    def _all_weights(self, rows: slice, asked: torch.Tensor, scorer: Scorer, k: int) -> torch.Tensor:
        """Weights (queries, F) before all but m are left out."""
        import torch

        from sparsight.encoders.sae.weighting import idf

        if scorer.query == "decode":
            weights = asked @ self.w_dec.T
        else:
            active = min(scorer.m or k, self.sae.n_latents)
            latents, values = _codes(self.sae, self.judged.queries[rows], active, self.device, self.code)
            weights = asked.new_zeros(len(asked), self.sae.n_latents).scatter_add_(1, latents, values)
        if scorer.idf:
            weights = weights * torch.from_numpy(idf(self._density(k))).to(self.device)
        return weights

    def _pruned(self, weights: torch.Tensor, scorer: Scorer) -> torch.Tensor:
        """Weights (queries, F) of which m are left for each query."""
        import torch

        if scorer.query == "symmetric" or not 0 < scorer.m < self.sae.n_latents:
            return weights
        return _first(weights, weights.abs() if scorer.by_size else torch.where(weights > 0, weights, -0.5 * weights),
                      scorer.m)

    def refocused(self, rows: slice, found: I64, scorer: Scorer, k: int) -> I64:
        """Rankings of these queries, (queries, depth), with the first documents ordered by the second scores."""
        import torch

        first = torch.from_numpy(found[:, :scorer.refocus]).to(self.device)
        latents, values = (of[first].flatten(1) for of in self._posted(k, scorer.divided))  # (queries, R most)
        asked = torch.from_numpy(np.ascontiguousarray(self.judged.queries[rows])).to(self.device)
        weights = self._all_weights(rows, asked, scorer, k)
        if scorer.m < self.sae.n_latents:
            adds = torch.zeros_like(weights).scatter_add_(1, latents, values) * weights.abs()
            weights = _first(weights, adds, scorer.m)
        scores = (weights.gather(1, latents) * values).unflatten(1, (first.shape[1], -1)).sum(2)
        order = scores.argsort(dim=1, descending=True, stable=True)
        best: I64 = first.gather(1, order).cpu().numpy()
        return np.concatenate([best, found[:, scorer.refocus:]], axis=1)

    def _density(self, k: int) -> F32:
        """Share of documents that each latent fires on, float32 (F,)."""
        if self._described(k):
            return self.sae.density
        shares = self.counts(k).float() / len(self.judged.documents)
        density: F32 = shares.cpu().numpy()
        return density

    def _described(self, k: int) -> bool:
        """Whether the autoencoder's statistics are of these codes."""
        return k == 0 and self.code is None and bool(self.sae.density.any())

    def scores(self, weights: torch.Tensor, scorer: Scorer, k: int) -> Iterator[torch.Tensor]:
        """Scores (B, queries) of blocks of documents, in order."""
        from torch.nn.functional import embedding_bag

        latents, values = self._posted(k, scorer.divided)
        for part in blocks(len(latents), weights.shape[1]):
            yield embedding_bag(latents[part], weights, per_sample_weights=values[part], mode="sum")

    def _posted(self, k: int, divided: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Documents' latents and weights, as the postings hold them."""
        import torch
        from torch.nn.functional import embedding_bag

        latents, values = self.codes(k)
        if divided:
            norms = torch.cat([(embedding_bag(latents[part], self.w_dec, per_sample_weights=values[part], mode="sum")
                                + self.b_dec).norm(dim=1) for part in blocks(len(latents), self.sae.d_in)])
            values = values / norms.clamp_min(1e-12)[:, None]
        if not self.rounded:
            return latents, values
        scale = self.impact_scale
        if not (divided and self._described(k)):
            scale = torch.zeros_like(scale).scatter_reduce_(0, latents.flatten(), values.flatten(), "amax")
        unit = scale[latents].double().clamp_min(1e-30) / _LEVELS
        return latents, ((values / unit).round().clamp_max(_LEVELS) * unit).float()


def _first(weights: torch.Tensor, rank: torch.Tensor, m: int) -> torch.Tensor:
    """Weights (queries, F) of which those of the m largest ranks are left."""
    kept = rank.topk(m, dim=1, sorted=False).indices
    return weights.new_zeros(weights.shape).scatter_(1, kept, weights.gather(1, kept))


def _codes(sae: SAE, x: F32, k: int, device: str, code: Coder | None) -> tuple[torch.Tensor, torch.Tensor]:
    from sparsight.encoders.sae.blocks import encode

    if code is not None:
        codes = code(x, k or sae.k)
        if isinstance(codes, tuple):
            return codes
    else:
        codes = encode(replace(sae, k=k, threshold=np.zeros(0, np.float32)) if k else sae, x, device=device)
    return _slots(codes, device)


def _slots(codes: csr_matrix, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents int64 and values float32 of codes, both (B, most active), largest first; value 0 where fewer are."""
    import torch

    counts = np.diff(codes.indptr)
    row = np.repeat(np.arange(codes.shape[0]), counts)
    column = np.arange(codes.nnz) - np.repeat(codes.indptr[:-1], counts)
    shape = codes.shape[0], max(int(counts.max(initial=0)), 1)
    latents, values = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    latents[row, column], values[row, column] = codes.indices, codes.data
    ordered = torch.from_numpy(values).to(device).sort(dim=1, descending=True, stable=True)
    return torch.from_numpy(latents).to(device).gather(1, ordered.indices), ordered.values
