"""Collections and their fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = ["DEFAULT_FIELDS", "BM25Field", "CollectionInfo", "DenseField", "Field", "PassageSpec", "SAEField",
           "SparseField"]


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
