from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sparsight.errors import InvalidArgumentError
from sparsight.retrieval import judged_embedding
from sparsight.retrieval.judged_embedding import embed_documents, embed_judged, read_judged, vector_cache

DOCUMENTS = [("d0", "Cats", "red cats"), ("d1", "", "blue dogs"), ("d2", "Houses", ""), ("d1", "Dogs", "again"),
             *((f"x{n}", "", f"filler {n}") for n in range(20))]  # fmt: skip
QUERIES = {"q0": "cats", "q1": "dogs", "q2": "judged as bad", "q3": "not judged", "q4": "houses"}
QRELS = [("q0", "d0", 2), ("q0", "d2", 0), ("q1", "d1", 1), ("q2", "d0", 0), ("q4", "gone", 1), ("q4", "d2", 1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    (folder / "qrels").mkdir(parents=True)
    with gzip.open(folder / "corpus.jsonl.gz", "wt") as file:
        for name, title, text in DOCUMENTS:
            file.write(json.dumps({"_id": name, "title": title, "text": text}) + "\n")
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": name, "text": text}) + "\n" for name, text in QUERIES.items()))
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(
        f"{query}\t{document}\t{grade}\n" for query, document, grade in QRELS))
    return folder


class Recorder:
    """A dense encoder whose vectors depend on texts and mode alone, and which says what it was asked."""

    dimension, precision = 8, "float32"

    def __init__(self, fingerprint: str = "one", prompt: str = "") -> None:
        self.fingerprint, self.settings = fingerprint, SimpleNamespace(prompts={"query": prompt})
        self.asked: list[str] = []

    def encode(self, texts: list[str], *, mode: str = "document", max_tokens: int = 0) -> np.ndarray:
        self.asked += texts
        rows = [np.random.default_rng(list(f"{mode}{max_tokens}{text}".encode())).standard_normal(8) for text in texts]
        return np.float32([row / np.linalg.norm(row) for row in rows])


def embed(folder: Path, encoder: Any, cache: Path, **options: Any) -> Any:
    return embed_judged(read_judged(folder), encoder, cache, **options)


def test_what_is_read(folder):
    texts = read_judged(folder)
    assert texts.name == "small" and len(texts.documents) == 23
    assert list(texts.documents.items())[:3] == [("d0", "Cats red cats"), ("d1", "Dogs again"), ("d2", "Houses")]
    assert list(texts.queries) == ["q0", "q1", "q4"]  # those with a relevant document
    assert texts.qrels == {"q0": {"d0": 2, "d2": 0}, "q1": {"d1": 1}, "q4": {"gone": 1, "d2": 1}}
    assert list(read_judged(folder, titles=False).documents.values())[:3] == ["red cats", "again", ""]


def test_samples(folder):
    few = read_judged(folder, max_documents=10, max_queries=2)
    assert len(few.queries) == 2 and set(few.qrels) == set(few.queries) and len(few.documents) <= 10
    judged = {document for grades in few.qrels.values() for document in grades} - {"gone"}
    assert judged <= set(few.documents)
    assert list(few.documents) == [name for name in read_judged(folder).documents if name in few.documents]
    assert few == read_judged(folder, max_documents=10, max_queries=2)
    assert few.documents != read_judged(folder, max_documents=10, max_queries=2, seed=1).documents
    assert read_judged(folder, max_documents=23, max_queries=1) == read_judged(folder)  # small enough: whole


def test_sets_that_cannot_be_asked(folder):
    (folder / "qrels/none.tsv").write_text("q0\td0\t0\n")
    for split in ("none", "dev"):
        with pytest.raises(InvalidArgumentError) as caught:
            read_judged(folder, split=split)
        assert caught.value.field == "split"


def test_vectors_and_judgements_meet(folder, tmp_path):
    encoder = Recorder()
    judged = embed(folder, encoder, tmp_path / "cache", max_tokens=7)
    assert judged.documents[1] == pytest.approx(Recorder().encode(["Dogs again"], max_tokens=7)[0])
    assert judged.queries[2] == pytest.approx(Recorder().encode(["houses"], mode="query")[0])
    assert judged.qrels.tolist() == [[0, 0, 2], [0, 2, 0], [1, 1, 1], [2, -1, 1], [2, 2, 1]]


def test_a_second_run_encodes_nothing(folder, tmp_path):
    first = embed(folder, Recorder(), tmp_path / "cache")
    again = Recorder()
    judged = embed(folder, again, tmp_path / "cache")
    assert again.asked == []
    assert (judged.documents == first.documents).all() and (judged.queries == first.queries).all()


@pytest.mark.parametrize(("encoder", "options", "documents", "queries"), [
    (Recorder("two"), {}, True, True), (Recorder(), {"max_tokens": 9}, True, False),
    (Recorder(prompt="query: "), {}, False, True)])
def test_what_decides_vectors_is_in_the_key(folder, tmp_path, encoder, options, documents, queries):
    embed(folder, Recorder(), tmp_path)
    embed(folder, encoder, tmp_path, **options)
    assert ("blue dogs" not in encoder.asked and "Dogs again" in encoder.asked) == documents
    assert ("cats" in encoder.asked) == queries


def test_other_texts_are_encoded_again(folder, tmp_path):
    embed(folder, Recorder(), tmp_path / "cache")
    with (folder / "queries.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "q9", "text": "more"}) + "\n")
    with (folder / "qrels/test.tsv").open("a") as file:
        file.write("q9\td0\t1\n")
    again = Recorder()
    assert len(embed(folder, again, tmp_path / "cache").queries) == 4
    assert again.asked == ["cats", "dogs", "houses", "more"]


def test_a_stopped_run_goes_on_and_damage_is_mended(tmp_path, monkeypatch):
    monkeypatch.setattr(judged_embedding, "_PART", 3)
    texts = [f"text {n}" for n in range(8)]
    steps: list[tuple[str, int, int]] = []

    def run(encoder: Any) -> np.ndarray:
        return embed_documents("a b/c", texts, encoder, tmp_path, progress=lambda *step: steps.append(step))

    class Stopped(Recorder):
        def encode(self, texts: list[str], **options: Any) -> np.ndarray:
            if "text 3" in texts:
                raise KeyboardInterrupt
            return super().encode(texts, **options)

    with pytest.raises(KeyboardInterrupt):
        run(Stopped())
    rest = Recorder()
    whole = run(rest)
    assert rest.asked == texts[3:] and whole.shape == (8, 8)
    assert steps[-4:] == [("a b/c documents", done, 8) for done in (0, 3, 6, 8)]
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3 and all(path.suffix == ".npy" for path in files)
    files[0].write_bytes(files[0].read_bytes()[:-5])
    files[1].write_bytes(b"")
    np.save(files[2], np.zeros((9, 8), np.float32))
    mended = Recorder()
    assert (run(mended) == whole).all() and mended.asked == texts


def test_where_vectors_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSIGHT_CACHE", str(tmp_path))
    assert vector_cache() == tmp_path / "vectors"
