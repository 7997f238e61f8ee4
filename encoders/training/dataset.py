"""Training data as files: word pieces, teachers' vectors, and candidates; made part by part, so that a stop costs one.

==================  ======================================================================================
file                content
==================  ======================================================================================
``texts.json``      documents and queries (and what else :class:`TrainingTexts` holds, in ``texts.npz``)
``pieces.npz``      word pieces of documents and queries by the trained model's tokenizer
``dense.npz``       unit vectors of both by the dense teacher, float16
``sparse.npz``      rows of both by the sparse teacher
``bm25.npz``        BM25 rows of both
``candidates.npy``  int32 (Q, 3 k at most): each teacher's best documents, -1 where there is none or it is relevant
==================  ======================================================================================
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.encoders.loading import load_encoder
from sparsight.encoders.training.batches import PackedTexts
from sparsight.encoders.training.bm25 import bm25_impacts
from sparsight.encoders.training.config import SpladeTrainingConfig
from sparsight.encoders.training.pairs import TrainingTexts, read_training_texts
from sparsight.encoders.training.teachers import Say, best_by_product, best_by_search, dense_vectors, sparse_rows

__all__ = ["Dataset", "prepare"]


class Dataset:
    """What training reads, from a folder that :func:`prepare` filled. N documents, Q queries.

    Attributes
    ----------
    texts : TrainingTexts
        Without the texts themselves.
    documents, queries : PackedTexts
    dense : (float16 (N, D), float16 (Q, D)) or None
    sparse, bm25 : (csr_matrix (N, V), csr_matrix (Q, V)) or None
    candidates : int32, shape (Q, C)
    """

    def __init__(self, folder: Path) -> None:
        with np.load(folder / "texts.npz") as saved:
            self.texts = TrainingTexts(documents=[], queries=[], **dict(saved))
        with np.load(folder / "pieces.npz") as saved:
            self.documents = PackedTexts(saved["document_ids"], saved["document_starts"])
            self.queries = PackedTexts(saved["query_ids"], saved["query_starts"])
        self.dense: tuple[NDArray[np.float16], NDArray[np.float16]] | None = None
        if (folder / "dense.npz").exists():
            with np.load(folder / "dense.npz") as saved:
                self.dense = saved["documents"], saved["queries"]
        self.sparse, self.bm25 = _load_rows(folder / "sparse.npz"), _load_rows(folder / "bm25.npz")
        self.candidates: NDArray[np.int32] = np.load(folder / "candidates.npy")


def prepare(config: SpladeTrainingConfig, folder: Path, device: str, say: Say) -> Dataset:
    """Fill ``folder`` with what is missing of a run's data."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = _texts(config, folder, say)
    _once(folder / "bm25.npz", lambda path: _bm25(texts, path), say, wanted=config.bm25_weight > 0)
    tokens = config.max_document_tokens, config.max_query_tokens
    _once(folder / "pieces.npz", lambda path: _pieces(config.backbone, texts, tokens, path), say)
    _once(folder / "dense.npz", lambda path: _dense(config, texts, device, path, say), say,
          wanted=config.dense_weight > 0)
    _once(folder / "sparse.npz", lambda path: _sparse(config, texts, device, path, say), say,
          wanted=config.sparse_weight > 0 or config.vector_steps > 0)
    _once(folder / "candidates.npy", lambda path: _candidates(config, texts, folder, device, path), say)
    return Dataset(folder)


def _once(path: Path, make: Callable[[Path], None], say: Say, *, wanted: bool = True) -> None:
    """Make a file under another name and give it its own when it is whole."""
    if not wanted or path.exists():
        return
    unfinished = path.with_name("unfinished-" + path.name)
    make(unfinished)
    unfinished.replace(path)
    say(f"prepared {path.name}")


def _texts(config: SpladeTrainingConfig, folder: Path, say: Say) -> TrainingTexts:
    if (folder / "texts.json").exists() and (folder / "texts.npz").exists():
        words = json.loads((folder / "texts.json").read_text("utf-8"))
        with np.load(folder / "texts.npz") as saved:
            return TrainingTexts(documents=words["documents"], queries=words["queries"], **dict(saved))
    texts = read_training_texts(config.sources, config.seed)
    arrays: dict[str, Any] = {item.name: getattr(texts, item.name) for item in fields(texts)
                              if item.name not in ("documents", "queries")}
    _once(folder / "texts.npz", lambda path: np.savez(path, **arrays), say)
    words = {"documents": texts.documents, "queries": texts.queries}
    _once(folder / "texts.json", lambda path: _write(path, json.dumps(words)), say)
    say(f"{len(texts.documents):,} documents, {len(texts.queries):,} queries")
    return texts


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


def _pieces(backbone: str, texts: TrainingTexts, tokens: tuple[int, int], path: Path) -> None:
    pieces = load_encoder(backbone)._tokens
    arrays = {}
    for name, some, limit in (("document", texts.documents, tokens[0]), ("query", texts.queries, tokens[1])):
        ids, starts = pieces.packed(some, limit)
        arrays[f"{name}_ids"] = ids.astype(np.uint16) if ids.max(initial=0) < 65_536 else ids
        arrays[f"{name}_starts"] = starts
    np.savez(path, **arrays)


def _bm25(texts: TrainingTexts, path: Path) -> None:
    made = bm25_impacts(texts.documents, texts.queries, processes=min(len(os.sched_getaffinity(0)), 16))
    _save_rows(path, made.documents, made.queries)


def _dense(config: SpladeTrainingConfig, texts: TrainingTexts, device: str, path: Path, say: Say) -> None:
    encoder = load_encoder(config.dense_teacher)
    np.savez(path, documents=dense_vectors(encoder, texts.documents, 256, device, say),
             queries=dense_vectors(encoder, texts.queries, 64, device, say))


def _sparse(config: SpladeTrainingConfig, texts: TrainingTexts, device: str, path: Path, say: Say) -> None:
    encoder = load_encoder(config.sparse_teacher, device=device)
    _save_rows(path, sparse_rows(encoder, texts.documents, 256, device, say),
               sparse_rows(encoder, texts.queries, 64, device, say))


def _candidates(config: SpladeTrainingConfig, texts: TrainingTexts, folder: Path, device: str, path: Path) -> None:
    parts = []
    if (folder / "dense.npz").exists():
        with np.load(folder / "dense.npz") as saved:
            parts.append(best_by_product(saved["queries"], saved["documents"], config.candidates, device))
    for name in ("sparse.npz", "bm25.npz"):
        rows = _load_rows(folder / name)
        if rows is not None:
            parts.append(best_by_search(rows[1], rows[0], config.candidates))
    found = np.concatenate(parts, axis=1)
    for known in (texts.positives, texts.own):
        found[found == known[:, None]] = -1
    for query, document in texts.also_relevant.tolist():
        found[query, found[query] == document] = -1
    np.save(path.open("wb"), found)


def _save_rows(path: Path, documents: csr_matrix, queries: csr_matrix) -> None:
    np.savez(path, shape=np.array(documents.shape), **{
        f"{name}_{part}": getattr(rows, part) if part != "data" else rows.data.astype(np.float16)
        for name, rows in (("documents", documents), ("queries", queries)) for part in ("data", "indices", "indptr")})


def _load_rows(path: Path) -> tuple[csr_matrix, csr_matrix] | None:
    if not path.exists():
        return None
    with np.load(path) as saved:
        width = int(saved["shape"][1])
        made = [csr_matrix((saved[f"{name}_data"].astype(np.float32), saved[f"{name}_indices"],
                            saved[f"{name}_indptr"]), shape=(len(saved[f"{name}_indptr"]) - 1, width))
                for name in ("documents", "queries")]
    return made[0], made[1]
