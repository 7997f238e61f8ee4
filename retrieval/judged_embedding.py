"""From a judged set on disk to vectors, kept in a cache part by part: a stopped run goes on where it was."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import InvalidArgumentError
from sparsight.retrieval.datasets import Qrels, open_dataset
from sparsight.retrieval.judged_vectors import JudgedVectors
from sparsight.types import Document

if TYPE_CHECKING:
    from sparsight.encoders import DenseEncoder

__all__ = ["JudgedTexts", "document_text", "embed_documents", "embed_judged", "named_dense_encoder", "read_judged",
           "vector_cache"]

F32 = NDArray[np.float32]
Progress = Callable[[str, int, int], None]
_PART = 2_000  # texts: what a stopped run loses at most


@dataclass(frozen=True)
class JudgedTexts:
    """What is embedded of a set.

    Attributes
    ----------
    name : str
    documents, queries : mapping
        Text by id.
    qrels : mapping
        Grade by document by query, of these queries.
    """

    name: str
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    qrels: Qrels


def read_judged(source: str | Path, *, split: str = "test", titles: bool = True, max_documents: int = 0,
                max_queries: int = 0, seed: int = 0) -> JudgedTexts:
    """The documents of a set, and those of its queries that have a relevant one.

    Parameters
    ----------
    source : str or Path
        BEIR folder or ``ir_datasets:NAME``. Of documents that share an id the last one counts, as in a collection.
    split : str
        Judgements to use.
    titles : bool
        A document is its title, a blank and its text; without, the text alone (where the titles are the queries).
    max_documents, max_queries : int
        A set with more documents is sampled: ``max_queries`` of its queries, every document judged for them, and others
        up to ``max_documents``. Smaller sets are taken whole, queries too. 0 is no limit.
    seed : int
        Of the sample.

    Raises
    ------
    InvalidArgumentError
        If the source is no such set, or no query has a relevant document.

    Notes
    -----
    A sample keeps the order of the files. Fewer documents make a set easier.
    """
    dataset = open_dataset(source)
    documents = {document.id: document_text(document, titles=titles) for document in dataset.documents()}
    qrels = dataset.qrels(split)
    queries = {query: text for query, text in dataset.queries().items()
               if any(grade > 0 for grade in qrels.get(query, {}).values())}
    if not queries or not documents:
        raise InvalidArgumentError(f"{source} has no documents, or no query with a relevant one in {split!r}",
                                   field="split", split=split)
    if 0 < max_documents < len(documents):
        rng = np.random.default_rng(seed)
        queries = {query: queries[query] for query in _sample(list(queries), max_queries or len(queries), rng)}
        judged = {document for query in queries for document in qrels[query]}
        rest = [document for document in documents if document not in judged]
        kept = judged.union(_sample(rest, max(max_documents - len(judged), 0), rng))
        documents = {document: text for document, text in documents.items() if document in kept}
    return JudgedTexts(dataset.name, documents, queries, {query: qrels[query] for query in queries})


def document_text(document: Document, *, titles: bool = True) -> str:
    """What is embedded of a document: title, blank and text, or the text alone."""
    return f"{document.title} {document.text}".strip() if titles else document.text.strip()


def named_dense_encoder(name: str, *, device: str = "cpu") -> DenseEncoder:
    """The dense encoder of a name that `sparsight.encoders.load_encoder` takes.

    Raises
    ------
    InvalidArgumentError
        If it is a sparse one.
    CheckpointError
        If it cannot be had.
    """
    from sparsight.encoders import DenseEncoder, load_encoder

    encoder = load_encoder(name, device=device)
    if not isinstance(encoder, DenseEncoder):
        raise InvalidArgumentError(f"expected a dense encoder, got {name}, which is sparse", field="encoder", name=name)
    return encoder


def embed_judged(texts: JudgedTexts, encoder: DenseEncoder, cache: Path, *, max_tokens: int = 256,
                 progress: Progress = lambda what, done, total: None) -> JudgedVectors:
    """Vectors of a set.

    Parameters
    ----------
    texts : JudgedTexts
    encoder : DenseEncoder
    cache : Path
        Folder of vectors that were made before, by encoder and texts; made if it is not there.
    max_tokens : int
        Word pieces after which documents are cut.
    progress : callable
        Called with what is embedded, texts done, texts in all.
    """
    documents = embed_documents(texts.name, list(texts.documents.values()), encoder, cache, max_tokens=max_tokens,
                                progress=progress)
    key = {**_model(encoder), "side": "query", "prompt": encoder.settings.prompts.get("query", "")}
    queries = _in_parts(f"{texts.name} queries", list(texts.queries.values()), key, cache, progress,
                        lambda part: encoder.encode(part, mode="query"))
    return JudgedVectors.from_ids(texts.name, documents, queries, list(texts.documents), list(texts.queries),
                                  texts.qrels)


def embed_documents(name: str, texts: Sequence[str], encoder: DenseEncoder, cache: Path, *, max_tokens: int = 256,
                    progress: Progress = lambda what, done, total: None) -> F32:
    """Vectors of documents' texts, float32 (N, D); arguments as for `embed_judged`."""
    key = {**_model(encoder), "side": "document", "max_tokens": max_tokens}
    return _in_parts(f"{name} documents", texts, key, cache, progress,
                     lambda part: encoder.encode(part, max_tokens=max_tokens))


def vector_cache() -> Path:
    """Where vectors are kept unless told otherwise: ``vectors`` in the cache of models."""
    from sparsight.encoders.resolver import cache_folder

    return cache_folder() / "vectors"


def _model(encoder: DenseEncoder) -> dict[str, object]:
    return {"model": encoder.fingerprint, "precision": encoder.precision}


def _in_parts(what: str, texts: Sequence[str], key: Mapping[str, object], cache: Path, progress: Progress,
              encode: Callable[[Sequence[str]], F32]) -> F32:
    from sparsight.encoders.fingerprint import digest_json

    stem = f"{re.sub('[^a-zA-Z0-9_.-]', '-', what)}-{digest_json({**key, 'texts': _digest(texts)})[:24]}"
    parts = []
    for start in range(0, len(texts), _PART):
        progress(what, start, len(texts))
        part, path = texts[start:start + _PART], cache / f"{stem}-{start // _PART:04d}.npy"
        vectors = _read(path, len(part))
        if vectors is None:
            vectors = encode(part)
            _write(path, vectors)
        parts.append(vectors)
    progress(what, len(texts), len(texts))
    return np.concatenate(parts)


def _read(path: Path, rows: int) -> F32 | None:
    """What a file holds; None if it is not there or damaged."""
    try:
        vectors: F32 = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vectors if vectors.ndim == 2 and len(vectors) == rows and vectors.dtype == np.float32 else None


def _write(path: Path, vectors: F32) -> None:
    """Under another name first, so that no reader sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.save(file, vectors)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _sample(names: Sequence[str], count: int, rng: np.random.Generator) -> Sequence[str]:
    if count >= len(names):
        return names
    return [names[at] for at in np.sort(rng.choice(len(names), count, replace=False)).tolist()]


def _digest(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()
