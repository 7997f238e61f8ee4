"""Queries: retrievers, fusion, steering, effort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sparsight.types.documents import SparseVector

__all__ = ["Edit", "Effort", "Fusion", "Overlap", "Profile", "Query", "Retriever"]


@dataclass(frozen=True, slots=True)
class Retriever:
    """One way of scoring: a field and what to compare with it.

    Attributes
    ----------
    field : str
    text, sparse, dense
        Exactly one may be given; none takes the query's text.
    weight : float
        Its share in the fusion.
    scorer : str
        SAE fields, for a text or a dense vector: "decode" or "symmetric" instead of the field's own scorer; "" keeps
        that.
    max_query_terms : int or None
        Likewise: weights to search with, at most 16,384; 0 takes all, None is the field's own number.
    rescore : int or None
        Likewise: documents that are scored again with all weights; None is the field's own number.
    rerank : int
        Likewise: find that many documents (at least the candidates that are wanted anyway, at most 10,000) by their
        codes, and score them by the dense product of the SAE field's source instead. The scores of this retriever are
        then dense products, of all candidates when it is fused with others. 0 does not.
    """

    field: str
    text: str = ""
    sparse: SparseVector | None = None
    dense: NDArray[np.float32] | None = None
    weight: float = 1.0
    scorer: Literal["", "decode", "symmetric"] = ""
    max_query_terms: int | None = None
    rerank: int = 0
    rescore: int | None = None


@dataclass(frozen=True, slots=True)
class Fusion:
    """How several retrievers become one score.

    "convex": each retriever's scores are min-max normalised over the candidates and averaged by weight; every
    candidate is scored in every field. "rrf": sum of weight / (rank_constant + rank), rank counted from 1
    (Cormack, Clarke and Buettcher 2009). ``depth`` candidates are taken from each retriever (at least k).
    """

    method: Literal["convex", "rrf"] = "convex"
    rank_constant: int = 60
    depth: int = 100


@dataclass(frozen=True, slots=True)
class Edit:
    """One steering edit of a feature (a latent of an SAE field).

    Attributes
    ----------
    feature : int
    op : str
        "boost" adds ``strength`` to the query's activation, "suppress" takes it away (below 0 it pushes documents with
        the feature down), "set" replaces it, "clamp" lets it be at most ``strength``, "require" keeps documents whose
        activation is at least ``strength``, "exclude" drops them.
    strength : float
        1.0 is the 90 % quantile of the feature's own positive activations in the data the SAE was trained on. For
        require and exclude, 0 means "active at all".
    field : str
        The SAE field; "" is the collection's only one.
    when : int or None
        A feature of the same field: a boost, suppress, set or clamp is done only where the query's own activation of
        it, before all edits, is at least ``when_strength``; 0 is "active at all".
    when_strength : float

    Notes
    -----
    An empty list of edits, or boost and suppress with strength 0, change nothing, bit for bit. Edits of one feature
    apply in order.
    """

    feature: int
    op: Literal["boost", "suppress", "set", "clamp", "require", "exclude"] = "boost"
    strength: float = 1.0
    field: str = ""
    when: int | None = None
    when_strength: float = 0.0


@dataclass(frozen=True, slots=True)
class Profile:
    """Edits that are kept under a name, to be used by queries.

    Attributes
    ----------
    name : str
    version : int
        From 1; each saving makes another.
    edits : tuple of Edit
        With the field's name filled in.
    note : str
        What it is for.
    created : float
        Seconds since 1970.
    """

    name: str
    version: int
    edits: tuple[Edit, ...]
    note: str = ""
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class Overlap:
    """Keeps documents that have at least ``at_least`` of some features: a filter by set overlap.

    Attributes
    ----------
    features : sequence of int
        1 to 256 different latents of an SAE field.
    at_least : int
        1 to the number of features.
    strength : float
        How strong each must be to count, in units of its own as in :class:`Edit`; 0 is "active at all".
    field : str
        The SAE field; "" is the collection's only one.

    Notes
    -----
    A document has a feature if one of its passages has; different features may stand in different passages.
    """

    features: Sequence[int]
    at_least: int = 1
    strength: float = 0.0
    field: str = ""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much a search may leave out for speed. The default is exact: nothing.

    It concerns impact fields (sparse, bm25, sae); dense fields ignore it, and documents that are not in a segment yet
    are always scored exactly. Scores are exact in every mode: an approximate search may miss documents, it does not
    misjudge them. What was done is in :attr:`SearchResult.work`.

    Attributes
    ----------
    recall : float
        Above 0.5 and at most 1. 1 is exact: identical to scoring every document in the 8-bit domain. Below 1: the share
        of the exact top k to be found on average over queries, by a calibration on other data; a result that looks
        doubtful is replaced by the exact one, and a search that would not be quicker is exact at once. With several
        retrievers the fusion's ``depth`` takes the place of k.
    seconds : float
        Budget of each retriever for its scan, shared out over the segments by size: the weaker terms are left out when
        all would take longer, and what is not reached in time is not looked at. 0: none.
    documents : int
        Budget of documents that each retriever scores with all terms, shared out over the segments by size, though k
        are scored in each at least; they are chosen by the query's stronger terms. 0: none.

    Notes
    -----
    A budget alone asks for no recall: what is found within it counts. With both, doubtful results are made exact where
    the time allows, but not beyond a number of documents. Queries with negative weights know no stronger terms:
    ``recall`` and ``documents`` leave them exact.
    """

    recall: float = 1.0
    seconds: float = 0.0
    documents: int = 0


@dataclass(frozen=True, slots=True)
class Query:
    """A whole search request.

    Attributes
    ----------
    text : str
        Used by every retriever that brings nothing of its own.
    retrievers : sequence of Retriever or str
        Empty: every text-searchable field of the collection. A str is ``Retriever(field)``.
    filter : str
        Boolean expression over metadata, e.g. ``year >= 2015 and cat in ["cs.CL", "cs.IR"]``; "" is none.
    edits : sequence of Edit
        Steering of dense and SAE retrievers; require and exclude hold for all.
    profile : str
        A saved profile whose edits are done before the query's own: its name, for the latest version, or "name@3".
    overlaps : sequence of Overlap
        At most 16; a document must satisfy all of them.
    fusion : Fusion
        Used when there are two retrievers or more.
    k : int
        Documents wanted, 1 to 10,000.
    min_score : float or None
        Documents must score more than this; None is no threshold beyond "something matched" (score > 0)
        for sparse fields.
    explain : bool
        Return contributions that sum to each hit's score, and for a steered query rank and score before and after.
    include : sequence of str
        Stored parts to return: "title", "text", "metadata", "passage" (the winning passage's text), "vectors".
    effort : Effort
        Exact, approximate or within a budget.
    """

    text: str = ""
    retrievers: Sequence[Retriever | str] = ()
    filter: str = ""
    edits: Sequence[Edit] = ()
    fusion: Fusion = Fusion()
    k: int = 10
    min_score: float | None = None
    explain: bool = False
    include: Sequence[str] = ("title", "text", "metadata", "passage")
    effort: Effort = Effort()
    overlaps: Sequence[Overlap] = ()
    profile: str = ""
