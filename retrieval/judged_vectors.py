"""Dense vectors of a judged set, exact rankings of all its documents, and how good rankings are.

Made for measuring many ways of scoring the same set: rankings are found block by block on any device of torch, and
measures of all queries are one numpy expression. Figures equal those of `sparsight.retrieval.evaluation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import InvalidArgumentError, InvalidVectorError, ShapeError
from sparsight.retrieval.evaluation import Evaluation

if TYPE_CHECKING:
    import torch

__all__ = ["DEPTH", "NDCG", "RECALL", "JudgedVectors", "Quality", "blocks", "measure", "query_blocks", "rank_dense",
           "top_documents"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

NDCG, RECALL = "nDCG@10", "R@100"
DEPTH = 100  # documents of a ranking: what R@100 looks at
_CUT = 10
_BLOCK = 1 << 24  # scores at once: 64 MiB of float32, twice that of sortable keys
_QUERIES = 2048  # at once, so that a block has thousands of documents
_LAST = 0xFFFFFFFF


@dataclass(frozen=True, eq=False)
class JudgedVectors:
    """Documents, queries and judgements of one set.

    Attributes
    ----------
    name : str
    documents : float32, shape (N, D)
        Finite rows of length 1.
    queries : float32, shape (Q, D)
        As documents.
    qrels : int64, shape (J, 3)
        Row of a query, row of a document, grade; no pair twice. A grade above 0 is relevant and is the gain. Document
        -1 is one that was judged but is not in the set: it counts in the ideal ranking and among the relevant. A query
        without a relevant document counts as 0.

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If something is not as above.
    """

    name: str
    documents: F32
    queries: F32
    qrels: I64

    def __post_init__(self) -> None:
        for field in ("documents", "queries"):
            rows = getattr(self, field)
            if rows.ndim != 2 or rows.dtype != np.float32 or not len(rows) or rows.shape[1] != self.documents.shape[1]:
                raise ShapeError(f"{self.name}: expected {field} float32 (rows, D), as many columns as documents have, "
                                 f"got {rows.dtype} {rows.shape}", field=field)
            # A NaN fails this comparison, too.
            if not (np.abs(np.linalg.norm(rows, axis=1) - 1) < 1e-3).all():
                raise InvalidVectorError(f"{self.name}: expected {field} of length 1", field=field)
        if self.qrels.ndim != 2 or self.qrels.shape[1] != 3 or self.qrels.dtype != np.int64:
            raise ShapeError(f"{self.name}: expected qrels int64 (J, 3), got {self.qrels.dtype} {self.qrels.shape}",
                             field="qrels")
        query, document, _ = self.qrels.T
        if ((query < 0) | (query >= len(self.queries)) | (document < -1) | (document >= len(self.documents))).any():
            raise InvalidArgumentError(f"{self.name}: expected judgements of queries 0..{len(self.queries) - 1} and "
                                       f"documents -1..{len(self.documents) - 1}", field="qrels")
        keys = self._keys(query, document)[document >= 0]
        if len(np.unique(keys)) < len(keys):
            raise InvalidArgumentError(f"{self.name}: a document is judged twice for one query", field="qrels")

    @classmethod
    def from_ids(cls, name: str, documents: F32, queries: F32, document_ids: Sequence[str], query_ids: Sequence[str],
                 qrels: Mapping[str, Mapping[str, int]]) -> JudgedVectors:
        """Of ids of rows, and grades by document id by query id; judgements of other queries are left out."""
        of_document, of_query = ({key: row for row, key in enumerate(ids)} for ids in (document_ids, query_ids))
        judged = [(of_query[query], of_document.get(document, -1), grade)
                  for query, grades in qrels.items() if query in of_query for document, grade in grades.items()]
        return cls(name, documents, queries, np.array(judged, np.int64).reshape(-1, 3))

    @cached_property
    def _graded(self) -> tuple[I64, I64]:
        """Keys of judged pairs, ascending, and their gains."""
        query, document, grade = self.qrels.T[:, self.qrels[:, 1] >= 0]
        keys = self._keys(query, document)
        order = np.argsort(keys)
        return keys[order], np.maximum(grade[order], 0)

    @cached_property
    def relevant(self) -> I64:
        """Relevant documents of each query, int64 (Q,)."""
        return np.bincount(self.qrels[self.qrels[:, 2] > 0, 0], minlength=len(self.queries))

    @cached_property
    def _ideal(self) -> F64:
        """DCG@10 of the best possible ranking of each query."""
        query, _, grade = self.qrels[self.qrels[:, 2] > 0].T
        order = np.lexsort((-grade, query))
        query, grade = query[order], grade[order]
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        kept = rank < _CUT
        gains = grade[kept] / np.log2(rank[kept] + 2)
        return np.bincount(query[kept], gains, minlength=len(self.queries)).astype(np.float64)

    def gains(self, found: I64) -> I64:
        """Grades of the documents of rankings, int64 (Q, depth); 0 for unjudged ones, and for -1."""
        keys, grades = self._graded
        wanted = self._keys(np.arange(len(self.queries))[:, None], found)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where((found >= 0) & (keys[at] == wanted), grades[at], 0) if len(keys) else np.zeros_like(found)

    def _keys(self, query: I64, document: I64) -> I64:
        return query * len(self.documents) + document


@dataclass(frozen=True, eq=False)
class Quality:
    """Measures of one way of ranking a set, query by query.

    Attributes
    ----------
    ndcg, recall : float64, shape (Q,)
        nDCG@10 and R@100.
    """

    ndcg: F64
    recall: F64

    def evaluation(self) -> Evaluation:
        """The same for `sparsight.retrieval.evaluation.compare`; queries are named by their rows."""
        values = {NDCG: self.ndcg, RECALL: self.recall}
        return Evaluation({name: float(of.mean()) for name, of in values.items()},
                          {name: dict(zip(map(str, range(len(of))), of.tolist(), strict=True))
                           for name, of in values.items()})


def measure(judged: JudgedVectors, found: I64) -> Quality:
    """Quality of rankings.

    Parameters
    ----------
    judged : JudgedVectors
    found : int64, shape (Q, depth)
        Rows of documents, best first, none twice in a query; -1 where a ranking is shorter.

    Notes
    -----
    nDCG of Jarvelin and Kekalainen 2002 as trec_eval has it: the gain is the grade, discounted by
    ``log2(rank + 1)``.
    """
    if found.ndim != 2 or len(found) != len(judged.queries) or found.dtype != np.int64:
        raise ShapeError(f"expected rankings int64 ({len(judged.queries)}, depth), got {found.dtype} {found.shape}",
                         field="found")
    gains = judged.gains(found)
    top = gains[:, :_CUT]
    dcg = top @ (1 / np.log2(np.arange(top.shape[1]) + 2))
    hits = (gains[:, :DEPTH] > 0).sum(1)
    return Quality(np.divide(dcg, judged._ideal, out=np.zeros(len(dcg)), where=judged._ideal > 0),
                   hits / np.maximum(judged.relevant, 1))


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of ``rows`` rows whose scores for ``width`` others fit into memory together."""
    step = max(_BLOCK // max(width, 1), 1)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def query_blocks(queries: int, most: int = _QUERIES) -> Iterator[slice]:
    """Slices of at most ``most`` queries."""
    step = max(min(most, _QUERIES), 1)
    return (slice(start, min(start + step, queries)) for start in range(0, queries, step))


def top_documents(scores: Iterable[torch.Tensor], depth: int = DEPTH) -> I64:
    """The best documents of queries, from their scores block by block.

    Parameters
    ----------
    scores : iterable of float32 tensors, shape (B, Q)
        Blocks of documents in order; finite.
    depth : int

    Returns
    -------
    int64, shape (Q, min(depth, N))
        Best first; of equal scores the lower document.
    """
    import torch

    best: torch.Tensor | None = None
    first = 0
    for block in scores:
        keys = _sortable(block.T.contiguous(), first)
        first += len(block)
        keys = keys if best is None else torch.cat([best, keys], 1)
        best = keys.topk(min(depth, keys.shape[1]), dim=1).values
    if best is None:
        raise InvalidArgumentError("there are no documents to rank", field="scores")
    documents: I64 = (_LAST - (best & _LAST)).cpu().numpy()
    return documents


def _sortable(scores: torch.Tensor, first: int) -> torch.Tensor:
    """int64 keys (Q, B) that are all different and order as (score descending, document ascending) from high to low.

    ``torch.topk`` promises nothing about ties. The bits of a float32 order like the number's size: flipping those of
    negative numbers makes them order like the number.
    """
    import torch

    bits = (scores + 0.0).view(torch.int32)  # + 0.0: -0.0 has other bits than the 0.0 it equals
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    documents = torch.arange(first, first + scores.shape[1], device=scores.device)
    return (ordered.long() << 32) | (_LAST - documents)


def rank_dense(documents: F32, queries: F32, *, device: str = "cpu") -> I64:
    """The documents with the largest inner products, int64 (Q, depth); see `top_documents`.

    Parameters
    ----------
    documents : float32, shape (N, W)
    queries : float32, shape (Q, W)
    device : str
        Of torch.
    """
    import torch

    on_device = torch.from_numpy(np.ascontiguousarray(documents)).to(device)

    def found(rows: slice) -> I64:
        asked = torch.from_numpy(np.ascontiguousarray(queries[rows])).to(device).T
        return top_documents(on_device[part] @ asked for part in blocks(len(documents), asked.shape[1]))

    return np.concatenate([found(rows) for rows in query_blocks(len(queries))])
