"""What do 8-bit impacts cost in quality? nDCG@10 of the served 8-bit scores against float32 scores of the same weights.

    python benches/bench_impact_bits.py BEIR_DIR [--split test] [--data FOLDER]

Indexes the texts (title and text, 256 word pieces, not split) with the default SPLADE model, or reuses the collection
``bits`` of ``--data``. The float scores are the stored float32 document weights times the float32 query weights.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

import sparsight
from sparsight.retrieval.datasets import open_dataset
from sparsight.retrieval.evaluation import evaluate
from sparsight.types import PassageSpec, SparseField

MODEL = "splade-tiny"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.folder)
    qrels = dataset.qrels(arguments.split)
    with tempfile.TemporaryDirectory() as scratch, sparsight.open(arguments.data or scratch) as database:
        things = database.create_collection(
            "bits", [SparseField("splade", encoder=MODEL)], passages=PassageSpec(max_passages=1), exist_ok=True
        )
        if things.count() == 0:
            documents = list(dataset.documents())
            for start in range(0, len(documents), 512):
                things.upsert(documents[start : start + 512])
        queries = {id: text for id, text in dataset.queries().items() if id in qrels}
        served = {}
        ids = list(queries)
        for start in range(0, len(ids), 100):
            part = ids[start : start + 100]
            found = things.batch_search([queries[id] for id in part], k=100, retrievers=["splade"], include=[])
            served |= {id: [(hit.id, hit.score) for hit in result] for id, result in zip(part, found, strict=True)}
        exact = _float_run(database, things, queries)
        report = {
            "dataset": arguments.folder.name,
            "model": MODEL,
            "nDCG@10 float32": evaluate(exact, qrels).mean["nDCG@10"],
            "nDCG@10 8-bit": evaluate(served, qrels).mean["nDCG@10"],
            "saturated weights": things.info().saturated["splade"],
        }
        report["difference"] = report["nDCG@10 8-bit"] - report["nDCG@10 float32"]
        print(json.dumps(report))


def _float_run(
    database: sparsight.retrieval.Database, things: sparsight.retrieval.Collection, queries: dict[str, str]
) -> dict[str, list[tuple[str, float]]]:
    """The 100 best documents by float32 dot products of the stored weights."""
    names, vectors, token = [], [], ""
    while True:
        page = things.scroll(page_size=1000, page_token=token, include=["vectors"])
        names += [document.id for document in page.documents]
        vectors += [document.vectors["splade"] for document in page.documents]
        token = page.next_page_token
        if not token:
            break
    documents = _stack(vectors)
    weights = _stack(database.encode(MODEL, list(queries.values()), mode="query"))
    scores = (weights @ documents.T).toarray()
    best = np.argsort(-scores, axis=1, kind="stable")[:, :100]
    return {
        id: [(names[d], float(row[d])) for d in order if row[d] > 0]
        for id, row, order in zip(queries, scores, best, strict=True)
    }


def _stack(vectors: list[sparsight.SparseVector]) -> csr_matrix:
    indptr = np.cumsum([0, *(len(v.indices) for v in vectors)])
    indices = np.concatenate([v.indices for v in vectors]).astype(np.int64)
    return csr_matrix((np.concatenate([v.values for v in vectors]), indices, indptr), shape=(len(vectors), 2**16))


if __name__ == "__main__":
    main()
