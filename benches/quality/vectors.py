"""Vectors of a set by a model, kept in a folder part by part: a stopped run goes on where it was."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse, vstack

from benches.quality.files import write_bytes
from benches.quality.sets import JudgedSet
from sparsight.encoders.dense import DenseEncoder
from sparsight.encoders.fingerprint import digest_json
from sparsight.encoders.sparse import SparseEncoder

__all__ = ["Encoder", "Vectors", "document_vectors", "query_vectors"]

Vectors: TypeAlias = csr_matrix | NDArray[np.float32]
Encoder: TypeAlias = SparseEncoder | DenseEncoder
PART = 2_000  # texts: what a stopped run loses at most


def document_vectors(encoder: Encoder, judged: JudgedSet, max_tokens: int, cache: Path) -> Vectors:
    """Vectors (N, dimension) of a set's documents, cut after ``max_tokens`` word pieces."""
    key = _key(encoder, judged.document_digest, {"side": "document", "max_tokens": max_tokens})
    return _in_parts(judged.texts, lambda texts: encoder.encode(texts, max_tokens=max_tokens),
                     cache / f"{judged.name}-documents-{key}")


def query_vectors(encoder: Encoder, judged: JudgedSet, cache: Path) -> Vectors:
    """Vectors (Q, dimension) of a set's queries; those that need no model are made again each time."""
    settings = encoder.settings

    def encode(texts: Sequence[str]) -> Vectors:
        return encoder.encode(texts, mode="query")

    if encoder.kind == "sparse" and settings.query != "encoder":
        return encode(judged.questions)
    # The fingerprint is the documents' side: what else decides a query's vector is added.
    key = _key(encoder, judged.query_digest, {"side": "query", "prompt": settings.prompts.get("query", ""),
                                              "expand": settings.expand_queries,
                                              "query_k": settings.options.get("query_k")})
    return _in_parts(judged.questions, encode, cache / f"{judged.name}-queries-{key}")


def _key(encoder: Encoder, texts: str, more: dict[str, object]) -> str:
    return digest_json({"model": encoder.fingerprint, "precision": encoder.precision, "texts": texts} | more)[:24]


def _in_parts(texts: Sequence[str], encode: Callable[[Sequence[str]], Vectors], stem: Path) -> Vectors:
    parts = []
    for start in range(0, max(len(texts), 1), PART):
        path = stem.with_name(f"{stem.name}-{start // PART:04d}.npz")
        part = _read(path)
        if part is None:
            part = encode(texts[start:start + PART])
            _write(path, part)
        parts.append(part)
    if issparse(parts[0]):
        return csr_matrix(vstack(parts, format="csr"))
    return np.concatenate(parts)


def _write(path: Path, part: Vectors) -> None:
    if isinstance(part, np.ndarray):
        write_bytes(path, lambda file: np.savez(file, dense=part))
    else:
        write_bytes(path, lambda file: np.savez(file, data=part.data, indices=part.indices, indptr=part.indptr,
                                                shape=np.asarray(part.shape)))


def _read(path: Path) -> Vectors | None:
    """What is in a file; None if there is none, or it is damaged."""
    try:
        with np.load(path) as file:
            if "dense" in file:
                dense: NDArray[np.float32] = file["dense"]
                return dense
            return csr_matrix((file["data"], file["indices"], file["indptr"]), shape=tuple(file["shape"].tolist()))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
