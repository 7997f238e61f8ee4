"""How much of a dense embedder's retrieval quality its SAE codes keep, for ways of scoring that read postings alone.

Retention of k is nDCG@10 of the codes divided by nDCG@10 of the dense vectors: same documents, same queries, every
document scored. What is measured is what an index of the codes would answer.

References
----------
Wen et al. 2025, "Beyond Matryoshka: Revisiting Sparse Coding for Adaptive Representation" (ICML), for quality by active
latents, and for the symmetric product. Jegou, Douze, Schmid 2011, "Product Quantization for Nearest Neighbor Search"
(TPAMI), for the asymmetric one: a query as it is against documents that were coded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import InvalidArgumentError, ShapeError
from sparsight.retrieval.judged_vectors import (
    JudgedVectors,
    Quality,
    measure,
    query_blocks,
    rank_dense,
    top_documents,
)
from sparsight.retrieval.sae_scoring import DEFAULT_SCORERS, CodedSet, Coder, Scorer, parse_scorer

if TYPE_CHECKING:
    from sparsight.encoders.sae.model import SAE

__all__ = ["DEFAULT_SCORERS", "Coder", "JudgedVectors", "Quality", "Retention", "Scorer", "dense_quality",
           "parse_scorer", "ratio", "ratio_interval", "retention", "retentions"]

F64 = NDArray[np.float64]

_DRAWS = 2000
_WEIGHTS = 1 << 26  # query weights at once: 256 MiB


@dataclass(frozen=True, eq=False)
class Retention:
    """Quality of codes beside that of the dense vectors they are made of.

    Attributes
    ----------
    set : str
    k : int
        Most latents active in a document; with thresholds, the number that they aim at.
    mode : "topk", "threshold" or "pursuit"
        How documents are coded; "topk" for codes that were brought along.
    scorer : Scorer
    rounded : bool
        Whether documents' weights had 8 bits.
    quality, dense : Quality
    postings : float
        Postings that an exhaustive search reads, mean of a query; without those of documents scored a second time.
    l0 : float
        Latents active in a document, mean.
    """

    set: str
    k: int
    mode: str
    scorer: Scorer
    rounded: bool
    quality: Quality
    dense: Quality
    postings: float
    l0: float

    @property
    def ndcg(self) -> float:
        """nDCG@10 of the codes divided by the dense vectors'."""
        return ratio(self.quality.ndcg, self.dense.ndcg)

    @property
    def recall(self) -> float:
        """R@100 of the codes divided by the dense vectors'."""
        return ratio(self.quality.recall, self.dense.recall)

    def interval(self, seed: int = 0) -> tuple[float, float]:
        """95 % bootstrap interval of `ndcg` over queries: percentiles of 2000 draws, both sides with the same ones."""
        return ratio_interval(self.quality.ndcg, self.dense.ndcg, seed)


def ratio(part: F64, whole: F64) -> float:
    """``part.mean() / whole.mean()``."""
    return float(part.mean() / max(whole.mean(), 1e-12))


def ratio_interval(part: F64, whole: F64, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of ``part.mean() / whole.mean()``, paired; both float64 (Q,)."""
    drawn = _draws(len(part), seed)
    low, high = np.percentile((drawn @ part) / np.maximum(drawn @ whole, 1e-12), [2.5, 97.5])
    return float(low), float(high)


@lru_cache(maxsize=2)  # many ways of scoring one set take the same ones
def _draws(queries: int, seed: int) -> F64:
    """How often each query is in each draw, (draws, queries)."""
    drawn = np.random.default_rng(seed).multinomial(queries, np.full(queries, 1 / queries), _DRAWS)
    return drawn.astype(np.float64)


def dense_quality(judged: JudgedVectors, *, device: str = "cpu") -> Quality:
    """Quality of the inner products of the vectors themselves."""
    return measure(judged, rank_dense(judged.documents, judged.queries, device=device))


def retention(sae: SAE, judged: JudgedVectors, k: int = 0, scorer: Scorer = DEFAULT_SCORERS[0], *,
              rounded: bool = True, device: str = "cpu") -> Retention:
    """`retentions` of one k and one scorer."""
    return retentions(sae, judged, [k], [scorer], rounded=rounded, device=device)[0]


def retentions(sae: SAE, judged: JudgedVectors, ks: Sequence[int], scorers: Sequence[Scorer] = DEFAULT_SCORERS, *,
               rounded: bool = True, dense: Quality | None = None, code: Coder | None = None, device: str = "cpu",
               progress: Callable[[int, int], None] | None = None) -> list[Retention]:
    """Measure codes with each k and each scorer.

    Parameters
    ----------
    sae : SAE
    judged : JudgedVectors
    ks : sequence of int
        Active latents of documents, at most all; of fewer are the largest values of a code of more. 0 is the code that
        the autoencoder gives by itself, which may be one of thresholds.
    scorers : sequence of Scorer
    rounded : bool
        Documents' weights have the index's 8 bits. The scale of a latent is ``sae.impact_scale`` for the autoencoder's
        own codes and weights that are divided; else, or where it has no statistics, the largest weight in these
        documents.
    dense : Quality, optional
        Of the vectors themselves, where it is known.
    code : callable, optional
        Makes codes, float32 csr (B, N), of rows and a k, of documents and for "symmetric" of queries, in place of the
        encoder: pursuit, say. 8-bit scales are then those of these documents' weights.
    device : str
        Of torch.
    progress : callable, optional
        Called with (measured, all).

    Returns
    -------
    list of Retention
        Scorer by scorer, k within scorer.

    Raises
    ------
    ShapeError, InvalidArgumentError
        If the vectors have another width than the autoencoder's, or a k is out of range.

    Notes
    -----
    The index rounds query weights too, to 16 bits; that moves near ties alone and is not done here.

    One thread took 0.2 s for each k and scorer with 3,229 documents, 1,967 queries and 1,024 latents, and 0.6 s with
    16,384: the work is queries times postings, and queries times latents.
    """
    if judged.documents.shape[1] != sae.d_in:
        raise ShapeError(f"{judged.name}: expected vectors of {sae.d_in} dimensions, as the autoencoder has, got "
                         f"{judged.documents.shape[1]}", field="judged")
    if not ks or min(ks) < 0 or max(ks) > sae.n_latents:
        raise InvalidArgumentError(f"expected each k in [0, {sae.n_latents}], got {list(ks)}", field="ks")
    dense = dense or dense_quality(judged, device=device)
    coded = CodedSet(sae, judged, ks, rounded, device, code)
    wanted = list(dict.fromkeys((scorer, coded.plain(k)) for scorer in scorers for k in ks))
    found: dict[tuple[Scorer, int], list[NDArray[np.int64]]] = {pair: [] for pair in wanted}
    reads = dict.fromkeys(wanted, 0.0)
    parts = list(query_blocks(len(judged.queries), _WEIGHTS // sae.n_latents))
    for at, rows in enumerate(parts):
        for done, ((scorer, k), weights) in enumerate(coded.query_weights(rows, wanted), start=1):
            best = top_documents(coded.scores(weights, scorer, k))
            found[scorer, k].append(coded.refocused(rows, best, scorer, k) if scorer.refocus else best)
            reads[scorer, k] += coded.postings(weights, k)
            if progress is not None:
                progress(at * len(wanted) + done, len(parts) * len(wanted))
    return [Retention(judged.name, k or sae.k, coded.mode if k == 0 and code is None else "topk", scorer, rounded,
                      measure(judged, np.concatenate(found[scorer, k])), dense, reads[scorer, k] / len(judged.queries),
                      float(coded.counts(k).sum()) / len(judged.documents)) for scorer, k in wanted]  # fmt: skip
