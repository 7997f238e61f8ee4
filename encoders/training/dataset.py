"""Training data as files: word pieces, teachers' vectors, and candidates; made part by part, so that a stop costs one.

====================  ====================================================================================
file                  content
====================  ====================================================================================
``texts-*.json``      documents and queries (and what else :class:`TrainingTexts` holds, in ``texts-*.npz``)
``pieces-*.npz``      word pieces of documents and queries by the trained model's tokenizer
``dense-*.npz``       unit vectors of both by the dense teacher, float16
``sparse-*.npz``      rows of both by the sparse teacher
``bm25-*.npz``        BM25 rows of both
``best-*.npy``        int32 (Q, k): one teacher's best documents, -1 where there is none; a file for each teacher
====================  ====================================================================================

The star is a digest of the settings that decide a file, so several runs share a folder, and a changed setting makes
anew what hangs on it and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.encoders.dense import DenseEncoder
from sparsight.encoders.loading import load_encoder, split_name
from sparsight.encoders.packed import PackedTexts
from sparsight.encoders.sparse import SparseEncoder
from sparsight.encoders.training.bm25 import bm25_impacts
from sparsight.encoders.training.config import SpladeTrainingConfig
from sparsight.encoders.training.pairs import TrainingTexts, read_training_texts
from sparsight.encoders.training.teachers import Say, best_by_product, best_by_search
from sparsight.errors import CheckpointError

__all__ = ["Dataset", "Files", "prepare", "without_relevant"]

TEACHER_TERMS = 256  # of a text, at most


class Dataset:
    """What training reads. N documents, Q queries.

    Attributes
    ----------
    texts : TrainingTexts
        Without the texts themselves.
    documents, queries : PackedTexts
    dense : (float16 (N, D), float16 (Q, D)) or None
    sparse, bm25 : (csr_matrix (N, V), csr_matrix (Q, V)) or None
    candidates : int32, shape (Q, 3 k at most)
        The teachers' best documents, -1 where there is none or it is relevant.
    """

    def __init__(self, files: Files) -> None:
        with np.load(files.arrays) as saved:
            self.texts = TrainingTexts(documents=[], queries=[], **dict(saved))
        with np.load(files.pieces) as saved:
            self.documents = PackedTexts(saved["document_ids"], saved["document_starts"])
            self.queries = PackedTexts(saved["query_ids"], saved["query_starts"])
        self.dense: tuple[NDArray[np.float16], NDArray[np.float16]] | None = None
        if files.dense is not None:
            with np.load(files.dense) as saved:
                self.dense = saved["documents"], saved["queries"]
        self.sparse = _load_rows(files.sparse) if files.sparse else None
        self.bm25 = _load_rows(files.bm25) if files.bm25 else None
        found = [np.empty((len(self.queries), 0), np.int32), *(np.load(path) for path in files.best)]
        self.candidates = without_relevant(np.concatenate(found, axis=1), self.texts)


@dataclass(frozen=True, slots=True)
class Files:
    """Where a configuration's parts lie; None for a teacher that it does not have."""

    texts: Path
    arrays: Path
    pieces: Path
    dense: Path | None
    sparse: Path | None
    bm25: Path | None
    best: tuple[Path, ...]

    @classmethod
    def of(cls, config: SpladeTrainingConfig, folder: Path) -> Files:
        """The files of ``config`` in ``folder``."""
        drawn = [str(config.sources), config.seed]
        models = {name: (load_encoder(name).fingerprint, *split_name(name)[1:]) if name else ""
                  for name in (config.backbone, config.dense_teacher, config.sparse_teacher)}

        def path(name: str, ending: str, *settings: object) -> Path:
            digest = hashlib.sha256(json.dumps([drawn, settings], default=str).encode()).hexdigest()[:12]
            return folder / f"{name}-{digest}.{ending}"

        uses_sparse = config.sparse_weight > 0 or config.vector_steps > 0
        dense = path("dense", "npz", models[config.dense_teacher]) if config.dense_weight > 0 else None
        sparse = path("sparse", "npz", models[config.sparse_teacher]) if uses_sparse else None
        bm25 = path("bm25", "npz") if config.bm25_weight > 0 else None
        tokens = config.max_document_tokens, config.max_query_tokens
        best = tuple(path("best", "npy", part.name, config.candidates)
                     for part in (dense, sparse, bm25) if part is not None)
        return cls(path("texts", "json"), path("texts", "npz"), path("pieces", "npz", models[config.backbone], tokens),
                   dense, sparse, bm25, best)


def prepare(config: SpladeTrainingConfig, folder: Path, device: str, say: Say) -> Dataset:
    """Fill ``folder`` with what is missing of a run's data."""
    folder.mkdir(parents=True, exist_ok=True)
    files = Files.of(config, folder)
    if not all(path.exists() for path in (files.pieces, *files.best)):
        texts = _texts(config, files, say)
        _once(files.bm25, lambda path: _bm25(texts, path), say)  # before the GPU is in use: it forks
        tokens = config.max_document_tokens, config.max_query_tokens
        _once(files.pieces, lambda path: _pieces(config.backbone, texts, tokens, path), say)
        _once(files.dense, lambda path: _dense(config, texts, device, path), say)
        _once(files.sparse, lambda path: _sparse(config, texts, device, path), say)
        teachers = (path for path in (files.dense, files.sparse, files.bm25) if path is not None)
        for teacher, best in zip(teachers, files.best, strict=True):
            _once(best, partial(_best, teacher, config.candidates, device, teacher == files.dense), say)
    return Dataset(files)


def _once(path: Path | None, make: Callable[[Path], None], say: Say) -> None:
    """Make a file under another name and give it its own when it is whole."""
    if path is None or path.exists():
        return
    unfinished = path.with_name("unfinished-" + path.name)
    make(unfinished)
    unfinished.replace(path)
    say(f"prepared {path.name}")


def _texts(config: SpladeTrainingConfig, files: Files, say: Say) -> TrainingTexts:
    if files.texts.exists() and files.arrays.exists():
        words = json.loads(files.texts.read_text("utf-8"))
        with np.load(files.arrays) as saved:
            return TrainingTexts(documents=words["documents"], queries=words["queries"], **dict(saved))
    texts = read_training_texts(config.sources, config.seed)
    arrays: dict[str, Any] = {item.name: getattr(texts, item.name) for item in fields(texts)
                              if item.name not in ("documents", "queries")}
    _once(files.arrays, lambda path: np.savez(path, **arrays), say)
    words = {"documents": texts.documents, "queries": texts.queries}
    _once(files.texts, lambda path: _write(path, json.dumps(words)), say)
    say(f"{len(texts.documents):,} documents, {len(texts.queries):,} queries")
    return texts


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


def _pieces(backbone: str, texts: TrainingTexts, tokens: tuple[int, int], path: Path) -> None:
    pieces = load_encoder(backbone)._tokens
    arrays: dict[str, Any] = {}
    for name, some, limit in (("document", texts.documents, tokens[0]), ("query", texts.queries, tokens[1])):
        ids, starts = pieces.packed(some, limit)
        arrays[f"{name}_ids"] = ids.astype(np.uint16) if ids.max(initial=0) < 65_536 else ids
        arrays[f"{name}_starts"] = starts
    np.savez(path, **arrays)


def _bm25(texts: TrainingTexts, path: Path) -> None:
    made = bm25_impacts(texts.documents, texts.queries, processes=min(len(os.sched_getaffinity(0)), 16))
    _save_rows(path, made.documents, made.queries)


def _dense(config: SpladeTrainingConfig, texts: TrainingTexts, device: str, path: Path) -> None:
    encoder = load_encoder(config.dense_teacher, device=device)
    if not isinstance(encoder, DenseEncoder):
        raise CheckpointError(f"expected a dense encoder as teachers.dense_teacher, got {encoder!r}")
    np.savez(path, documents=encoder.encode(texts.documents, max_tokens=256).astype(np.float16),
             queries=encoder.encode(texts.queries, mode="query", max_tokens=64).astype(np.float16))


def _sparse(config: SpladeTrainingConfig, texts: TrainingTexts, device: str, path: Path) -> None:
    encoder = load_encoder(config.sparse_teacher, device=device)
    if not isinstance(encoder, SparseEncoder):
        raise CheckpointError(f"expected a sparse encoder as teachers.sparse_teacher, got {encoder!r}")
    documents = encoder.encode(texts.documents, max_tokens=256, max_terms=TEACHER_TERMS)
    _save_rows(path, documents, encoder.encode(texts.queries, mode="query", max_tokens=64, max_terms=TEACHER_TERMS))


def _best(teacher: Path, k: int, device: str, dense: bool, path: Path) -> None:
    if dense:
        with np.load(teacher) as saved:
            found = best_by_product(saved["queries"], saved["documents"], k, device)
    else:
        documents, queries = _load_rows(teacher)
        found = best_by_search(queries, documents, k)
    with path.open("wb") as file:
        np.save(file, found)


def without_relevant(found: NDArray[np.int32], texts: TrainingTexts) -> NDArray[np.int32]:
    """Candidates (Q, C) with -1 in place of a query's relevant documents and of the one it is a sentence of."""
    for known in (texts.positives, texts.own):
        found[found == known[:, None]] = -1
    for query, document in texts.also_relevant.tolist():
        found[query, found[query] == document] = -1
    return found


def _save_rows(path: Path, documents: csr_matrix, queries: csr_matrix) -> None:
    np.savez(path, shape=np.array(documents.shape), **{
        f"{name}_{part}": getattr(rows, part) if part != "data" else rows.data.astype(np.float16)
        for name, rows in (("documents", documents), ("queries", queries)) for part in ("data", "indices", "indptr")})


def _load_rows(path: Path) -> tuple[csr_matrix, csr_matrix]:
    with np.load(path) as saved:
        width = int(saved["shape"][1])
        made = [csr_matrix((saved[f"{name}_data"].astype(np.float32), saved[f"{name}_indices"],
                            saved[f"{name}_indptr"]), shape=(len(saved[f"{name}_indptr"]) - 1, width))
                for name in ("documents", "queries")]
    return made[0], made[1]
