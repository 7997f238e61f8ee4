"""Judged sets: what of a BEIR folder is asked and searched, whole or as a sample that is the same every time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from sparsight.encoders.training.corpora import read_corpus, read_queries
from sparsight.retrieval.datasets import BeirFolder, Qrels

__all__ = ["JudgedSet", "read_set"]


@dataclass(frozen=True)
class JudgedSet:
    """Documents, queries and judgements.

    Attributes
    ----------
    name : str
    documents, texts : lists of str, length N
        External ids, and what is encoded of each: title, blank, text; the text alone without titles.
    queries, questions : lists of str, length Q
        Ids and texts. Every query has a relevant document.
    qrels : mapping
        Grade by document by query, of these queries.
    all_documents, all_queries : int
        Before sampling.
    """

    name: str
    documents: list[str]
    texts: list[str]
    queries: list[str]
    questions: list[str]
    qrels: Qrels
    all_documents: int
    all_queries: int

    @property
    def sampled(self) -> bool:
        """Whether documents or queries were left out."""
        return (len(self.documents), len(self.queries)) != (self.all_documents, self.all_queries)

    @cached_property
    def repeated(self) -> int:
        """How many documents have the id of an earlier one: some published sets have such."""
        return len(self.documents) - len(set(self.documents))

    @cached_property
    def document_digest(self) -> str:
        """Of the texts in their order: what vectors of documents are of."""
        return _digest(self.texts)

    @cached_property
    def query_digest(self) -> str:
        """Of the questions in their order."""
        return _digest(self.questions)


def read_set(folder: Path, *, titles: bool = True, max_documents: int = 0, max_queries: int = 0,
             seed: int = 0, split: str = "test") -> JudgedSet:
    """The queries of a folder's split that have a relevant document, and its documents.

    Parameters
    ----------
    folder : Path
        ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``, each plain, .gz or .zst.
    titles : bool
        Whether a document's title is part of its text.
    max_documents, max_queries : int
        A corpus with more documents is sampled: ``max_queries`` of its queries, every document judged for them, and
        others up to ``max_documents``. Smaller ones are taken whole, queries too. 0 is no limit.
    seed : int
        Of the sample.
    split : str
        Whose judgements are taken.

    Notes
    -----
    A sample keeps the order of the files. Fewer documents make a set easier: figures of a sample are compared with
    each other, not with published ones.
    """
    corpus = list(read_corpus(folder))
    asked = read_queries(folder)
    judged = BeirFolder(folder).qrels(split)
    queries = [query for query in asked if any(grade > 0 for grade in judged.get(query, {}).values())]
    everything = len(corpus), len(queries)
    if 0 < max_documents < len(corpus):
        rng = np.random.default_rng(seed)
        queries = _sample(queries, max_queries or len(queries), rng)
        needed = {document for query in queries for document in judged[query]}
        others = [entry[0] for entry in corpus if entry[0] not in needed]
        kept = needed.union(_sample(others, max(max_documents - len(needed), 0), rng))
        corpus = [entry for entry in corpus if entry[0] in kept]
    texts = [f"{title} {text}".strip() if titles else text for _, title, text in corpus]
    return JudgedSet(folder.name, [entry[0] for entry in corpus], texts, queries, [asked[query] for query in queries],
                     {query: judged[query] for query in queries}, *everything)


def _sample(names: list[str], count: int, rng: np.random.Generator) -> list[str]:
    if count >= len(names):
        return names
    return [names[at] for at in np.sort(rng.choice(len(names), count, replace=False)).tolist()]


def _digest(texts: list[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()
