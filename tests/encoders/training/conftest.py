"""A small collection in BEIR's layout, and a configuration that trains a tiny random BERT on it within seconds."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch

from sparsight.encoders.training.config import SpladeTrainingConfig
from sparsight.encoders.training.pairs import TextSource

WORDS = ["the", "cat", "sat", "on", "mat", "dog", "ran", "to", "house", "red", "blue", "old", "new", "small", "big",
         "and", "a", "is", "was", "he", "she", "it", "cats", "dogs", "houses", "mats", "sitting", "running", "redder",
         "bluest"]


class MakeConfig(Protocol):
    def __call__(self, **settings: Any) -> SpladeTrainingConfig: ...


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums in one order, and faster for matrices this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 documents with titles, 12 judged queries of which two have a second relevant document."""
    folder = tmp_path_factory.mktemp("collections") / "tiny"
    generator = random.Random(0)

    def words(count: int) -> str:
        return " ".join(generator.choices(WORDS, k=count))

    documents = [{"_id": f"d{n}", "title": words(4), "text": f"{words(8).capitalize()}. {words(9).capitalize()}."}
                 for n in range(60)]
    queries = [{"_id": f"q{n}", "text": f"{words(3)} {WORDS[n]}"} for n in range(12)]
    judged = [(f"q{n}", f"d{n}") for n in range(12)] + [("q0", "d40"), ("q1", "d41")]
    (folder / "qrels").mkdir(parents=True)
    for name, lines in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(
        f"{query}\t{document}\t1\n" for query, document in judged))
    return folder


@pytest.fixture
def make_config(collection: Path, splade_folder: Path, dense_folder: Path, tmp_path: Path) -> MakeConfig:
    """A run of 20 steps: 6 of masked words, 6 of vectors, 8 of distillation."""

    def make(**settings: Any) -> SpladeTrainingConfig:
        source = TextSource(collection, splits=("train",), titles=15, sentences=15, held_out=())
        return SpladeTrainingConfig(**{
            "backbone": str(splade_folder), "head": "checkpoint", "dense_teacher": str(dense_folder),
            "sparse_teacher": str(splade_folder), "sparse_weight": 0.5, "sources": (source,), "candidates": 10,
            "max_document_tokens": 32, "max_query_tokens": 16, "mlm_steps": 6, "vector_steps": 6, "steps": 8,
            "rate_warmup": 2, "warm_rate": 3e-3, "encoder_rate": 3e-3, "table_rate": 3e-2, "batch_queries": 6,
            "documents_per_query": 4, "document_nonzeros": 30.0, "ramp": 4, "checkpoint_every": 5,
            "output": tmp_path / "run"} | settings)

    return make
