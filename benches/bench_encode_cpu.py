"""How many texts a second are encoded on the CPU, by us in float32 and bfloat16 and by sentence-transformers?

    python benches/bench_encode_cpu.py [--texts 400] [--rounds 5] [--threads 2] [--max-tokens 256]

The first abstracts of the demonstration's corpus, title and text, through our two SPLADE models (weights as a sparse
matrix; the others get a float32 copy) and all-MiniLM-L6-v2 (unit vectors). Each side tokenises, batches and pools as it
does by default; all run in one process, in turns, on the same cores. Float32 vectors are compared before the clock
starts. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from sparsight.encoders import DenseEncoder, load_encoder, resolve
from sparsight.encoders.checkpoint import load_model
from sparsight.encoders.precision import Precision
from sparsight.retrieval.datasets import read_documents
from sparsight.service.demo import CORPUS

MODELS = ("sparsight-tiny", "sparsight-small", "all-MiniLM-L6-v2")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
THEIRS = "sentence_transformers"
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
    print("texts/s, median of rounds; in brackets, times sentence-transformers' in the same round")
    print(f"{'model':<18} {'float32':>16} {'bfloat16':>16} {'sentence-transformers':>22}")
    for model in MODELS:
        row = measure(model, texts, arguments.max_tokens, arguments.rounds)
        report["models"][model] = row
        ours = (f"{row[name]:.1f} ({row['ratios'][name]:.2f})" for name in PRECISIONS)
        print(f"{model:<18}", *(f"{text:>16}" for text in ours), f"{row['sentence_transformers']:>22.1f}")
    print(json.dumps(report))


def measure(model: str, texts: Sequence[str], max_tokens: int, rounds: int) -> dict[str, Any]:
    """Texts a second of all, and the largest difference of our vectors from theirs."""
    ways = {name: _ours(model, max_tokens, name) for name in PRECISIONS} | {THEIRS: _theirs(model, max_tokens)}
    first = {name: _as_array(encode(texts[:64])) for name, encode in ways.items()}  # warms up, too
    differences = {name: float(np.abs(first[name] - first[THEIRS]).max()) for name in PRECISIONS}
    assert differences["float32"] < 1e-3, f"{model}: the vectors differ by {differences}"
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            started = time.perf_counter()
            ways[name](texts)
            taken[name].append(len(texts) / (time.perf_counter() - started))
    rates = {name: round(statistics.median(values), 1) for name, values in taken.items()}
    ratios = {name: statistics.median(a / b for a, b in zip(taken[name], taken[THEIRS], strict=True))
              for name in PRECISIONS}
    return rates | {"ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
                    "largest_difference": differences}


def _ours(model: str, max_tokens: int, precision: Precision) -> Encode:
    encoder = load_encoder(model, precision=precision)
    return lambda texts: encoder.encode(texts, max_tokens=max_tokens)


def _theirs(model: str, max_tokens: int) -> Encode:
    from sentence_transformers import SentenceTransformer, SparseEncoder
    from transformers.utils import logging

    logging.disable_progress_bar()
    encoder = load_encoder(model)
    folder = str(resolve(model))
    if isinstance(encoder, DenseEncoder):
        dense = SentenceTransformer(folder, device="cpu")
        dense.max_seq_length = max_tokens
        return lambda texts: dense.encode(list(texts), normalize_embeddings=True)
    with TemporaryDirectory() as copy:
        sparse = SparseEncoder(_float32(encoder, Path(copy)), device="cpu")
    sparse.max_seq_length = max_tokens
    return lambda texts: sparse.encode_document(list(texts))


def _float32(encoder: Any, folder: Path) -> str:
    """A folder with the encoder's model as plain float32, which others read."""
    load_model(encoder.settings).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(encoder.settings.weights / name, folder)
    return str(folder)


def _as_array(vectors: Any) -> np.ndarray:
    if isinstance(vectors, np.ndarray):
        return vectors
    return np.asarray(vectors.toarray() if hasattr(vectors, "toarray") else vectors.to_dense())


if __name__ == "__main__":
    main()
