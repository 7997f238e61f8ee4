"""Workload files from shards: what the search benchmark reads (``d_*`` documents, ``q_*`` queries, CSR each)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from benches.vectors.corpora import Query, read_queries
from benches.vectors.planes import load_planes

__all__ = ["assemble"]

SHORT = 10  # terms of an inference-free query


def _save(path: Path, documents: csr_matrix, queries: csr_matrix, about: list[Query]) -> None:
    part = path.with_suffix(".part.npz")
    np.savez(
        part, d_indptr=documents.indptr.astype(np.int64), d_indices=documents.indices, d_data=documents.data,
        q_indptr=queries.indptr.astype(np.int64), q_indices=queries.indices, q_data=queries.data,
        vocab=documents.shape[1], split=np.array([not query.tuning for query in about], np.int8),
        kind=np.array([query.kind for query in about]),
    )
    part.rename(path)
    print(f"{path.name}: {documents.shape[0]:,} documents, {documents.nnz / documents.shape[0]:.1f} weights each; "
          f"{queries.shape[0]:,} queries, {queries.nnz / queries.shape[0]:.1f} each", flush=True)


def inference_free(queries: list[Query], documents: csr_matrix) -> csr_matrix:
    """Queries without a model: the rarest word pieces, each by its inverse document frequency in the document vectors.

    As the inference-free models do it (Geng et al. 2024, arXiv 2411.04403): the query side is tokenizer and table, and
    the table leaves nothing of common words; here the 10 rarest word pieces stay.
    """
    from sparsight.encoders.loading import load_encoder

    tokenizer = load_encoder("splade-tiny").tokenizer
    n = documents.shape[0]
    df = np.bincount(documents.indices, minlength=documents.shape[1])
    idf = np.log(1 + (n - df + 0.5) / (df + 0.5)).astype(np.float32)
    rows = [np.unique(np.array(tokenizer.encode(query.text.lower(), add_special_tokens=False).ids, np.int32))
            for query in queries]
    rows = [np.sort(row[np.argsort(-idf[row], kind="stable")[:SHORT]]) for row in rows]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    terms = np.concatenate(rows)
    return csr_matrix((idf[terms], terms, indptr), shape=(len(queries), documents.shape[1]))


def assemble(data: Path, folder: Path) -> None:
    """``splade.npz``, ``splade_short.npz``, ``sae_16k.npz`` and ``sae_64k.npz`` in ``folder`` from its shards."""
    queries = read_queries(data)
    shards = folder / "shards"
    for name, stem, vocab in (("splade", "splade", 30_522), ("sae_16k", "sae16384", 16_384),
                              ("sae_64k", "sae65536", 65_536)):
        paths = sorted(shards.glob(f"{stem}-[0-9][0-9][0-9].npz"))
        documents = load_planes(paths, vocab)
        _save(folder / f"{name}.npz", documents, load_planes([shards / f"{stem}-queries.npz"], vocab), queries)
        if name == "splade":
            _save(folder / "splade_short.npz", documents, inference_free(queries, documents), queries)
