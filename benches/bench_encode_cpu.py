"""How many texts a second are encoded on the CPU, by us and by sentence-transformers, in one process and in turns?

    python benches/bench_encode_cpu.py [--texts 400] [--rounds 5] [--threads 2] [--max-tokens 256]

The first abstracts of the demonstration's corpus, title and text, through splade-tiny (SPLADE weights as a sparse
matrix) and all-MiniLM-L6-v2 (unit vectors). Each side tokenises, batches and pools as it does by default; both run on
the same cores. The vectors are compared before the clock starts. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np

from sparsight.encoders import DenseEncoder, load_encoder, resolve
from sparsight.retrieval.datasets import read_documents
from sparsight.service.demo import CORPUS

MODELS = ("splade-tiny", "all-MiniLM-L6-v2")
Encode = Callable[[Sequence[str]], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=256)
    arguments = parser.parse_args()
    import torch

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    torch.set_num_threads(arguments.threads)
    texts = [f"{document.title} {document.text}" for document in islice(read_documents(CORPUS), arguments.texts)]
    report: dict[str, Any] = {"op": "encode", "backend": "cpu", "texts": len(texts), "threads": arguments.threads,
                              "max_tokens": arguments.max_tokens, "rounds": arguments.rounds, "models": {}}
    print(f"{'model':<18} {'ours':>10} {'sentence-transformers':>22} {'ratio':>7}   texts/s, median of rounds")
    for model in MODELS:
        row = measure(model, texts, arguments.max_tokens, arguments.rounds)
        report["models"][model] = row
        print(f"{model:<18} {row['ours']:>10.1f} {row['sentence_transformers']:>22.1f} {row['ratio']:>7.2f}")
    print(json.dumps(report))


def measure(model: str, texts: Sequence[str], max_tokens: int, rounds: int) -> dict[str, Any]:
    """Texts a second of both, and the largest difference of their vectors."""
    ways = {"ours": _ours(model, max_tokens), "sentence_transformers": _theirs(model, max_tokens)}
    first = {name: _as_array(encode(texts[:64])) for name, encode in ways.items()}  # warms up, too
    difference = float(np.abs(first["ours"] - first["sentence_transformers"]).max())
    assert difference < 1e-3, f"{model}: the vectors differ by {difference}"
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            started = time.perf_counter()
            ways[name](texts)
            taken[name].append(len(texts) / (time.perf_counter() - started))
    rates = {name: round(statistics.median(values), 1) for name, values in taken.items()}
    ratios = [a / b for a, b in zip(taken["ours"], taken["sentence_transformers"], strict=True)]
    return rates | {"ratio": round(statistics.median(ratios), 3), "ratios": [round(ratio, 3) for ratio in ratios],
                    "largest_difference": difference}


def _ours(model: str, max_tokens: int) -> Encode:
    encoder = load_encoder(model)
    return lambda texts: encoder.encode(texts, max_tokens=max_tokens)


def _theirs(model: str, max_tokens: int) -> Encode:
    from sentence_transformers import SentenceTransformer, SparseEncoder
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = str(resolve(model))
    if isinstance(load_encoder(model), DenseEncoder):
        dense = SentenceTransformer(folder, device="cpu")
        dense.max_seq_length = max_tokens
        return lambda texts: dense.encode(list(texts), normalize_embeddings=True)
    sparse = SparseEncoder(folder, device="cpu")
    sparse.max_seq_length = max_tokens
    return lambda texts: sparse.encode_document(list(texts))


def _as_array(vectors: Any) -> np.ndarray:
    if isinstance(vectors, np.ndarray):
        return vectors
    return np.asarray(vectors.toarray() if hasattr(vectors, "toarray") else vectors.to_dense())


if __name__ == "__main__":
    main()
