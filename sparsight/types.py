"""The values that both doors take and give: documents, fields, queries, hits.

Plain frozen dataclasses over the standard library and numpy, so that the embedded database, the gRPC
server and the client speak of the same things without importing each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DEFAULT_FIELDS",
    "BM25Field",
    "CollectionInfo",
    "Contribution",
    "DenseField",
    "Document",
    "Edit",
    "Effort",
    "Explanation",
    "Feature",
    "FeatureDifference",
    "FeatureFamily",
    "FeatureMap",
    "FeaturePage",
    "FeatureWeight",
    "FeatureWords",
    "Field",
    "Fusion",
    "Hit",
    "LabelQuality",
    "MapLobe",
    "MapPoint",
    "Movement",
    "Operation",
    "Overlap",
    "Page",
    "Passage",
    "PassageSpec",
    "Profile",
    "Query",
    "RelatedFeatures",
    "Retriever",
    "RetrieverScore",
    "RetrieverWork",
    "SAEField",
    "SearchResult",
    "SparseField",
    "SparseVector",
    "Timings",
    "VerifyReport",
    "WordShare",
    "WriteResult",
]

# --- vectors ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """A sparse vector: ``values[i]`` is the weight of term (or latent) ``indices[i]``.

    Indices are unique and in ``[0, 2**32 - 2]``; order is free. Values are finite; zeros are dropped on
    entry. Document vectors are non-negative; query vectors may hold negative weights.
    """

    indices: NDArray[np.uint32]
    values: NDArray[np.float32]

    @classmethod
    def from_dict(cls, weights: Mapping[int, float]) -> SparseVector:
        """Vector from a ``{index: weight}`` mapping."""
        return cls(
            np.fromiter(weights.keys(), np.uint32, len(weights)),
            np.fromiter(weights.values(), np.float32, len(weights)),
        )

    def to_dict(self) -> dict[int, float]:
        """The vector as ``{index: weight}``."""
        return dict(zip(self.indices.tolist(), self.values.tolist(), strict=True))


Vector: TypeAlias = SparseVector | NDArray[np.float32]

# --- documents --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Passage:
    """A scored part of a document: its text and, where given ready-made, its vectors by field name."""

    text: str = ""
    vectors: Mapping[str, Vector] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Document:
    """What is stored, filtered, deleted and returned.

    Attributes
    ----------
    id : str
        The user's own id, 1 to 512 bytes of UTF-8 without control characters; unique in its collection.
    title, text : str
        What is searched. The title is put before each passage of the text when it is encoded.
    metadata : mapping
        JSON values by key, for filters: str, bool, int (|x| <= 2**53), float, None, or lists of these;
        nested objects are addressed as ``a.b``.
    vectors : mapping
        Ready vectors by field name; such a document is one passage, and fields with a vector here are
        not encoded.
    passages : sequence of Passage
        Passages with ready vectors, for documents that were split by the caller. Excludes ``vectors``.
    version : int
        Grows by at least one with every write of the collection; 0 on input.
    """

    id: str
    text: str = ""
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    vectors: Mapping[str, Vector] = field(default_factory=dict)
    passages: Sequence[Passage] = ()
    version: int = 0


# --- collections and their fields -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SparseField:
    """Impacts over a vocabulary: learned sparse retrieval, or any weights the caller brings.

    Attributes
    ----------
    encoder : str
        Model that fills it from text (a name, a folder, ``pypi:...``); "" for ready vectors only.
    dimension : int
        Number of terms; 0 takes the encoder's (without an encoder: 2**32 - 1).
    max_impact : float
        The weight that 8 bits can hold at most; larger ones saturate and are counted. 0 takes the default.
    max_terms : int
        Largest weights kept in a document's passage; 0 keeps all.
    max_query_terms : int
        Largest weights kept in an encoded query; 0 keeps all.
    """

    name: str
    encoder: str = ""
    dimension: int = 0
    max_impact: float = 0.0
    max_terms: int = 0
    max_query_terms: int = 0
    kind: Literal["sparse"] = "sparse"


@dataclass(frozen=True, slots=True)
class BM25Field:
    """BM25 over the text as an impact field: stored term-frequency parts, inverse document frequency in the query.

    ``k1`` saturates term frequency, ``b`` normalises by length (Robertson and Zaragoza 2009).
    ``language`` chooses stop words and stemmer: "english" or "none".
    """

    name: str = "bm25"
    k1: float = 1.2
    b: float = 0.75
    language: str = "english"
    kind: Literal["bm25"] = "bm25"


@dataclass(frozen=True, slots=True)
class DenseField:
    """A dense vector per passage, compared by inner product.

    ``index`` is "flat" (exact) or "hnsw" (approximate graph). ``dimension`` 0 takes the encoder's.
    """

    name: str = "dense"
    encoder: str = ""
    dimension: int = 0
    index: Literal["flat", "hnsw"] = "flat"
    kind: Literal["dense"] = "dense"


@dataclass(frozen=True, slots=True)
class SAEField:
    """k-sparse codes of a dense field under a sparse autoencoder.

    A passage's weight of latent i is its activation divided by the length of the reconstruction, ``z_i / |xhat|``.

    Attributes
    ----------
    source : str
        The dense field.
    model : str
        A saved SAE's folder, "sparsight-minilm-sae" for the one that comes along (all-MiniLM-L6-v2, 4,096 latents), or
        "" until one is trained in the collection. Of a collection that exists, its own copy.
    scorer : str
        "decode" weights latent i of the query by ``w_i . x_q`` (asymmetric decode: the dense product with the
        normalised reconstruction, but for the share of its bias); "symmetric" by the query's own code. Both read the
        same postings, so a :class:`Retriever` may choose the other.
    max_query_terms : int
        Weights that a query is searched with, the most important ones; 0 takes all.
    rescore : int
        So many documents, at least those that are wanted anyway and at most 10,000, are found by these weights and then
        scored with all weights of the query, of which each of them has at most k. 0: none are. Of the dense nDCG@10 256
        weights alone keep 0.931, all weights 0.971 (``benches/results/sae.md``, k = 32, 4,096 latents).
    weighting : str
        "none"; "idf" multiplies the query's weights by ``max(0, ln((M - n + 0.5) / (n + 0.5)))``, with the share n / M
        of the SAE's training rows that the latent fires on (not of this collection's documents); "bm25" does that and
        saturates the documents' weights w, which are filled in accordingly: ``s (k1 + 1) t / (k1 + t)``, ``t = w / s``,
        with s the 90 % quantile of the latent's activations. Ready sparse queries are taken as they are.
    k1 : float
        Saturation of "bm25", 0 to 100; the smaller, the more strong activations are held back.
    """

    name: str = "sae"
    source: str = "dense"
    model: str = ""
    scorer: Literal["decode", "symmetric"] = "decode"
    max_query_terms: int = 256
    weighting: Literal["none", "idf", "bm25"] = "none"
    k1: float = 1.2
    rescore: int = 50
    kind: Literal["sae"] = "sae"


Field: TypeAlias = SparseField | BM25Field | DenseField | SAEField

DEFAULT_FIELDS: tuple[Field, ...] = (
    SparseField("splade", encoder="sparsight-small"),
    BM25Field("bm25"),
    DenseField("dense", encoder="all-MiniLM-L6-v2"),
    SAEField("sae", "dense", "sparsight-minilm-sae"),
)
"""What a collection gets when its creator names no fields: models that need no hub."""


@dataclass(frozen=True, slots=True)
class PassageSpec:
    """How long texts are split: at most ``max_tokens`` word pieces a passage with ``overlap_tokens`` shared by
    neighbours; ``max_passages`` 1 truncates instead, 0 is no limit."""

    max_tokens: int = 256
    overlap_tokens: int = 32
    max_passages: int = 0


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection's description and size. ``fingerprints`` are the SHA-256 of the models, by field."""

    name: str
    fields: tuple[Field, ...]
    passages: PassageSpec = PassageSpec()
    documents: int = 0
    passage_count: int = 0
    segments: int = 0
    tail_documents: int = 0
    generation: int = 0
    bytes_on_disk: int = 0
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    saturated: Mapping[str, int] = field(default_factory=dict)
    created: str = ""


# --- queries ----------------------------------------------------------------------------------------------


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


# --- answers ----------------------------------------------------------------------------------------------


class Contribution(NamedTuple):
    """One term's or feature's part in a retriever's score: ``query_weight * document_weight = score``."""

    # Not a dataclass: an explained list has hundreds of these, and a frozen one takes four times as long to make.
    index: int  # type: ignore[assignment]
    label: str
    query_weight: float
    document_weight: float
    score: float


@dataclass(frozen=True, slots=True)
class RetrieverScore:
    """One retriever's part in a hit.

    ``score`` is in the retriever's own units, ``rank`` its rank there (from 1; 0 when it was not among that
    retriever's candidates), ``share`` its part of the hit's final score (the shares sum to it), ``passage``
    the passage that scored best there (-1: none), ``contributions`` sum to ``score``; ``rest`` is what is left
    when only the largest are listed (0 when all are). Of a re-ranked retriever the contributions are the features' in
    the dense product, and ``dense`` is what no feature carries of it (the SAE's bias and error): contributions,
    ``dense`` and ``rest`` sum to ``score``. It is 0 for all others.
    """

    field: str
    score: float
    rank: int
    share: float
    passage: int
    contributions: tuple[Contribution, ...] = ()
    rest: float = 0.0
    dense: float = 0.0


@dataclass(frozen=True, slots=True)
class Movement:
    """Where a steered hit stood without the edits.

    Attributes
    ----------
    rank_before : int
        0: beyond the candidates looked at.
    by_feature : tuple of Contribution
        What each edited feature changed in the score of the passage that is best now.
    other_passage : float
        Where another passage was best before: that one's score then, subtracted from the present one's then; else 0.
        With one retriever, and unless weights of the query were left out, it and ``by_feature`` add up to the change of
        the score.
    """

    rank_before: int
    rank_after: int
    score_before: float
    score_after: float
    by_feature: tuple[Contribution, ...] = ()
    other_passage: float = 0.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a hit has its score: the retrievers' shares sum to it; ``movement`` is there for steered queries."""

    retrievers: tuple[RetrieverScore, ...]
    movement: Movement | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One found document. ``passage`` is the index of its best passage, ``passage_text`` that passage."""

    id: str
    score: float
    rank: int
    passage: int = 0
    title: str = ""
    text: str = ""
    passage_text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    vectors: Mapping[str, Vector] = field(default_factory=dict)
    explanation: Explanation | None = None
    version: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a search's time went, in milliseconds. ``server_ms`` covers all of them; ``total_ms`` is the caller's
    view (over gRPC: with the network)."""

    encode_ms: float = 0.0
    search_ms: float = 0.0
    fetch_ms: float = 0.0
    server_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class RetrieverWork:
    """What one retriever did, over all segments and the tail.

    Attributes
    ----------
    field : str
    mode : str
        "exact": the same documents as scoring all of them, in every segment. "approximate": some may have been missed.
        "cut": the time budget ended before everything was looked at.
    terms : int
        Query terms that were scanned, in the segment with the most of them; 0 for dense fields and the tail.
    postings : int
        Postings added up, those of a scan that was repeated too; 0 for dense fields.
    passages : int
        Passages in the windows visited, likewise; of a dense field all that are there.
    rescored : int
        Passages that were scored one by one with all terms: finalists of a scan, those of a narrow filter, the tail's.
    reranked : int
        Documents found by their codes that were scored again: by their dense vectors (``rerank``), or with all weights
        of the query (``rescore``). ``mode`` and the other counts are those of the search that found them.
    """

    field: str
    mode: Literal["exact", "approximate", "cut"] = "exact"
    terms: int = 0
    postings: int = 0
    passages: int = 0
    rescored: int = 0
    reranked: int = 0


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits, best first, and how they were found.

    ``generation`` is the state of the collection that answered. ``exact`` is true when every retriever was
    rank-safe. ``warnings`` are things worth knowing that are no error (an empty query vector, say). ``work`` has an
    entry for each retriever, in order.
    """

    hits: tuple[Hit, ...]
    generation: int = 0
    exact: bool = True
    timings: Timings = Timings()
    warnings: tuple[str, ...] = ()
    work: tuple[RetrieverWork, ...] = ()

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, position: int) -> Hit:
        return self.hits[position]

    @property
    def ids(self) -> list[str]:
        """The hits' document ids, best first."""
        return [hit.id for hit in self.hits]


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What a write did. ``version`` is the collection's version after it; all counts are documents."""

    upserted: int = 0
    replaced: int = 0
    deleted: int = 0
    version: int = 0
    dropped_weights: int = 0
    saturated_weights: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """A page of documents; ``next_page_token`` is "" on the last page."""

    documents: tuple[Document, ...]
    next_page_token: str = ""


@dataclass(frozen=True, slots=True)
class LabelQuality:
    """How well a label says which passages its feature fires on, by a sparse encoder, on passages that it was not made
    from. None: too few to tell.

    Attributes
    ----------
    detection : float, optional
        Chance that a passage which fires the feature suits the label better than one that does not; 0.5 says nothing.
    strong_detection : float, optional
        The same of passages with more than half of the largest activation.
    correlation : float, optional
        Pearson's, of activations with how much passages suit the label.
    intruder : float, optional
        How often, of four of its strongest passages and one that does not fire it, the latter suits the label least;
        0.2 says nothing.
    """

    detection: float | None = None
    strong_detection: float | None = None
    correlation: float | None = None
    intruder: float | None = None


@dataclass(frozen=True, slots=True)
class Feature:
    """A latent of a collection's SAE with what is known about it.

    Attributes
    ----------
    index : int
    label : str
        Its most telling words.
    density : float
        Share of training passages it fires on.
    scale : float
        90 % quantile of its positive activations, the unit of steering strength.
    examples : tuple of str
        Ids of documents it is strongest on.
    field : str
    history : tuple of str
        Labels that it had before, the one that it came with first.
    label_source : str
        Where the label is from: "contrast" (words of its passages against all others), "matched" (against passages
        that nearly fire it), "expansion" (terms of the sparse encoder), "nearest" (words whose embeddings lie its way),
        "model" (a language model), "user", or "" where nobody knows.
    quality : LabelQuality, optional
        How good the label is; None for a user's, and where nothing judged it.
    histogram : tuple of int
        Passages by activation, in ten equal parts of what lies between 0 and the largest; empty where not known.
    stability : float, optional
        Share of other trainings, of other seeds, that found it again; None where there was one training.
    """

    index: int
    label: str = ""
    density: float = 0.0
    scale: float = 0.0
    examples: tuple[str, ...] = ()
    field: str = "sae"
    history: tuple[str, ...] = ()
    label_source: str = ""
    quality: LabelQuality | None = None
    histogram: tuple[int, ...] = ()
    stability: float | None = None


@dataclass(frozen=True, slots=True)
class FeatureWeight:
    """A feature that was looked for, and how much of it.

    Attributes
    ----------
    feature : Feature
    weight : float
        Of features found from examples: the strength, in units of the feature's own, that it has in a step of length 1
        towards the examples, all of them together. Of features related to another: the cosine of their directions.
    share : float
        Of features found from examples: share of the positives that it is active on.
    """

    feature: Feature
    weight: float
    share: float = 0.0

    def edit(self, step: float) -> Edit:
        """The feature's part in a step of that length towards the examples; 0.3 to 0.5 is a good one for unit rows."""
        return Edit(self.feature.index, "boost", step * self.weight, self.feature.field)


@dataclass(frozen=True, slots=True)
class RelatedFeatures:
    """Features whose directions are most like that of one, and most unlike: weights are cosines, above and below 0."""

    nearest: tuple[FeatureWeight, ...]
    opposite: tuple[FeatureWeight, ...]


@dataclass(frozen=True, slots=True)
class FeatureFamily:
    """A general feature, and those that fire mostly where it does.

    Attributes
    ----------
    parent : Feature
    children : tuple of Feature
        All below it, level by level.
    above : tuple of int
        Index of the feature that each child hangs on: the parent, or an earlier child.
    strength : tuple of float
        Share of the child's passages on which the one above it fires.
    """

    parent: Feature
    children: tuple[Feature, ...]
    above: tuple[int, ...]
    strength: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class MapPoint:
    """A feature's place on a map.

    Attributes
    ----------
    index : int
    x, y : float
        In [-1, 1]; only distances mean anything, and small ones more than large ones.
    lobe : int
        Its place in the map's ``lobes``; -1 if it fires with no other feature more often than by chance.
    label, density
        As :class:`Feature`.
    """

    index: int
    x: float
    y: float
    lobe: int
    label: str = ""
    density: float = 0.0


@dataclass(frozen=True, slots=True)
class MapLobe:
    """Features that fire together: the words that mark their labels, and how many they are."""

    label: str
    size: int


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """A map of an SAE field's features: near ones have directions alike, those of one lobe fire on the same passages.

    ``points`` are in the order of their features, ``lobes`` the largest first.
    """

    points: tuple[MapPoint, ...]
    lobes: tuple[MapLobe, ...]
    field: str = "sae"


@dataclass(frozen=True, slots=True)
class WordShare:
    """A word, characters ``start`` to ``end`` (the one after its last) of a text, and its part in something."""

    word: str
    start: int
    end: int
    share: float


@dataclass(frozen=True, slots=True)
class FeatureWords:
    """Which words of a passage fired a feature.

    Attributes
    ----------
    feature : Feature
    text : str
        What the encoder read: the title, if there is one, and the passage.
    words : tuple of WordShare
        The most telling first; of the product of the feature's direction with the text's vector.
    total : float
        That product.
    begins : int
        Where in ``text`` the passage begins.
    """

    feature: Feature
    text: str
    words: tuple[WordShare, ...]
    total: float
    begins: int = 0


@dataclass(frozen=True, slots=True)
class FeatureDifference:
    """How strong a feature is in two documents, in units of its own; 0 is not active."""

    feature: Feature
    a: float
    b: float


@dataclass(frozen=True, slots=True)
class FeaturePage:
    """A page of features; ``next_page_token`` is "" on the last page."""

    features: tuple[Feature, ...]
    next_page_token: str = ""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What ``verify`` looked at and the faults it found; none means every byte and invariant holds."""

    documents: int = 0
    segments: int = 0
    bytes_checked: int = 0
    faults: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no fault was found."""
        return not self.faults


@dataclass(frozen=True, slots=True)
class Operation:
    """Long-running work. ``done`` with an empty ``error`` is success; ``progress`` is in [0, 1]."""

    name: str
    kind: str = ""
    done: bool = False
    progress: float = 0.0
    message: str = ""
    error: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
