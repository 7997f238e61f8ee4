from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sparsight
from sparsight.errors import (
    AlreadyExistsError,
    ClosedError,
    FailedPreconditionError,
    InvalidArgumentError,
    InvalidVectorError,
    LockedError,
    NotFoundError,
    ReadOnlyError,
    UnknownCollectionError,
    UnknownDocumentError,
)
from sparsight.types import BM25Field, DenseField, Document, Passage, PassageSpec, SparseField, SparseVector

FIELDS = [SparseField("terms", dimension=100), BM25Field("bm25"), DenseField("vec", dimension=4)]


def _document(id: str, **changes: object) -> Document:
    vectors = {"terms": SparseVector.from_dict({1: 1.0, 7: 0.5}), "vec": np.array([1, 2, 3, 4], np.float32)}
    return Document(id, **{"text": "some words", "vectors": vectors, **changes})  # type: ignore[arg-type]


def test_a_database_outlives_its_object(tmp_path: Path) -> None:
    with sparsight.open(tmp_path) as database:
        made = database.create_collection("a", FIELDS, passages=PassageSpec(max_tokens=64))
        made.upsert([_document("1", metadata={"n": 1, "list": [1, "x", None]}, title="T")])
        before = made.get("1", include=["title", "text", "metadata", "vectors"])
    with sparsight.open(tmp_path) as database:
        assert [info.name for info in database.list_collections()] == ["a"]
        info = database["a"].info()
        assert (info.documents, info.passages.max_tokens, [f.name for f in info.fields]) == (
            1,
            64,
            ["terms", "bm25", "vec"],
        )
        after = database["a"].get("1", include=["title", "text", "metadata", "vectors"])
    assert (after.title, after.text, after.metadata, after.version) == (
        before.title,
        before.text,
        before.metadata,
        before.version,
    )
    assert after.vectors["terms"].to_dict() == {1: 1.0, 7: 0.5}  # type: ignore[union-attr]
    assert np.array_equal(after.vectors["vec"], [1, 2, 3, 4])  # type: ignore[arg-type]


def test_names_and_states_are_checked(tmp_path: Path) -> None:
    database = sparsight.open(tmp_path)
    database.create_collection("a", FIELDS)
    with pytest.raises(AlreadyExistsError):
        database.create_collection("a", FIELDS)
    assert database.create_collection("a", exist_ok=True).name == "a"
    for name in ("", "A", "../x", "a/b", "a" * 64, ".building-x", "nul\0"):
        with pytest.raises(InvalidArgumentError):
            database.create_collection(name, FIELDS)
        with pytest.raises(InvalidArgumentError):
            database.collection(name)
    with pytest.raises(UnknownCollectionError):
        database["b"]
    with pytest.raises(LockedError):
        sparsight.open(tmp_path)
    database.drop_collection("a")
    assert database.list_collections() == [] and [p.name for p in tmp_path.iterdir()] == ["LOCK"]
    database.close()
    with pytest.raises(ClosedError):
        database.list_collections()
    with pytest.raises(NotFoundError):
        sparsight.open(tmp_path / "none", read_only=True)


def test_a_follower_in_another_process_sees_writes(tmp_path: Path) -> None:
    code = """
import sys, sparsight
database = sparsight.open(sys.argv[1], read_only=True)
for line in sys.stdin:
    things = database["a"]
    print(things.count(), *things.search(line.strip(), retrievers=["bm25"]).ids, flush=True)
"""
    with sparsight.open(tmp_path) as database:
        things = database.create_collection("a", FIELDS)
        things.upsert([_document("1")])
        follower = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=-1, stdout=-1, text=True)
        assert follower.stdin and follower.stdout

        def ask(text: str) -> str:
            print(text, file=follower.stdin, flush=True)
            return follower.stdout.readline().strip()  # type: ignore[union-attr]

        assert ask("words") == "1 1"
        things.upsert([_document("2", text="other words"), _document("3", text="nothing")])
        assert ask("other") == "3 2"
        things.flush()
        things.delete(["2"])
        assert ask("other") == "2"
        things.compact()
        assert ask("words") == "2 1"
        follower.stdin.close()
        assert follower.wait(20) == 0
    with sparsight.open(tmp_path, read_only=True) as reader:
        with pytest.raises(ReadOnlyError):
            reader["a"].upsert([_document("9")])
        with pytest.raises(ReadOnlyError):
            reader.create_collection("b", FIELDS)


def test_passages_keep_their_text_and_the_best_one_wins(tmp_path: Path) -> None:
    with sparsight.open(tmp_path) as database:
        things = database.create_collection("a", FIELDS)
        parts = [
            Passage(
                "first part about cats",
                {"terms": SparseVector.from_dict({1: 1.0}), "vec": np.array([1, 0, 0, 0], np.float32)},
            ),
            Passage(
                "second part about dogs",
                {"terms": SparseVector.from_dict({2: 3.0}), "vec": np.array([0, 1, 0, 0], np.float32)},
            ),
        ]
        things.upsert([Document("p", title="Animals", passages=parts), _document("q")])
        hit = things.search("dogs", retrievers=["bm25"], include=["passage", "text"])[0]
        assert (hit.id, hit.passage, hit.passage_text) == ("p", 1, "second part about dogs")
        assert hit.text == "first part about cats\n\nsecond part about dogs"
        hit = things.search(sparsight.Query(retrievers=[sparsight.Retriever("vec", dense=np.array([2, 0, 0, 0]))]))[0]
        assert (hit.id, hit.passage, hit.score) == ("p", 0, 2.0)
        again = things.get("p", include=["text", "vectors"])
        assert [p.text for p in again.passages] == [p.text for p in parts]
        assert again.passages[1].vectors["terms"].to_dict() == {2: 3.0}  # type: ignore[union-attr]
        assert things.info().passage_count == 3


def test_get_count_scroll_and_delete(tmp_path: Path) -> None:
    with sparsight.open(tmp_path) as database:
        things = database.create_collection("a", FIELDS)
        things.upsert([_document(f"d{n}", metadata={"n": n}) for n in range(25)])
        things.upsert([_document("d3", metadata={"n": 100})])
        assert things.count() == 25 and things.count("n >= 20") == 6
        seen, token = [], ""
        while True:
            page = things.scroll("n != 7", page_size=10, page_token=token)
            seen += [d.id for d in page.documents]
            token = page.next_page_token
            if not token:
                break
        assert seen == [f"d{n}" for n in range(25) if n not in (3, 7)] + ["d3"]
        with pytest.raises(InvalidArgumentError, match="token"):
            things.scroll("n != 8", page_token=things.scroll("n != 7", page_size=1).next_page_token)
        assert [d.id for d in things.get_many(["d9", "none", "d1"])] == ["d9", "d1"]
        with pytest.raises(UnknownDocumentError):
            things.get("none")
        assert things.delete(["d1", "none"]).deleted == 1
        assert things.delete(filter="n < 5").deleted == 3
        assert things.count() == 21
        for wrong in ({}, {"ids": ["x"], "filter": "n = 1"}):
            with pytest.raises(InvalidArgumentError):
                things.delete(**wrong)  # type: ignore[arg-type]


def test_a_refused_write_changes_nothing(tmp_path: Path) -> None:
    with sparsight.open(tmp_path) as database:
        things = database.create_collection("a", FIELDS)
        bad = [
            (
                _document("x", vectors={"terms": SparseVector.from_dict({1: float("nan")})}),
                'documents[1].vectors["terms"].values[0]',
            ),
            (
                _document("x", vectors={"terms": SparseVector.from_dict({100: 1.0})}),
                'documents[1].vectors["terms"].indices[0]',
            ),
            (
                _document("x", vectors={"terms": SparseVector.from_dict({1: -1.0})}),
                'documents[1].vectors["terms"].values[0]',
            ),
            (_document("x", vectors={"vec": np.ones(5, np.float32)}), 'documents[1].vectors["vec"]'),
            (_document("x", vectors={"nope": np.ones(4, np.float32)}), 'documents[1].vectors["nope"]'),
            (_document("ok"), "documents[1].id"),
            (_document("bad\nid"), "documents[1].id"),
            (_document("x", metadata={"n": float("inf")}), 'documents[1].metadata["n"]'),
            (_document("x", text="\ud800"), "documents[1].text"),
        ]
        for document, field in bad:
            with pytest.raises((InvalidArgumentError, InvalidVectorError)) as caught:
                things.upsert([_document("ok"), document])
            assert caught.value.field == field
        assert things.count() == 0 and things.info().generation == 0


def test_ready_vectors_need_no_model_library(tmp_path: Path) -> None:
    """A service of ready vectors starts without torch and transformers in memory."""
    code = """
import sys, numpy as np, sparsight
from sparsight.types import *
with sparsight.open(sys.argv[1]) as database:
    fields = [SparseField("terms", dimension=9), BM25Field(), DenseField("vec", dimension=2)]
    things = database.create_collection("a", fields)
    vectors = {"terms": SparseVector.from_dict({1: 1.0}), "vec": np.ones(2, np.float32)}
    things.upsert([Document("1", text="words", vectors=vectors)])
    assert things.search("words").ids == ["1"]
print(*sorted(set(sys.modules) & {"torch", "transformers", "tokenizers", "pyarrow", "grpc"}))
"""
    assert (
        subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True).stdout
        == "\n"
    )


def test_operations_can_be_watched_cancelled_and_forgotten(tmp_path: Path) -> None:
    with sparsight.open(tmp_path) as database:
        things = database.create_collection("a", FIELDS)
        with pytest.raises(FailedPreconditionError, match="at least 64"):
            things.train_sae(source="vec")
        rng = np.random.default_rng(0)
        things.upsert(
            [Document(str(n), vectors={"vec": rng.standard_normal(4).astype(np.float32)}) for n in range(300)]
        )
        running = things.train_sae(source="vec", n_latents=64, k=2, epochs=10_000, wait=False)
        with pytest.raises(FailedPreconditionError, match="running"):
            database.delete_operation(running.name)
        database.cancel_operation(running.name)
        done = database.wait_operation(running.name, timeout=60)
        assert done.done and "cancel" in done.error
        assert [f.name for f in things.info().fields] == ["terms", "bm25", "vec"]
        database.delete_operation(running.name)
        assert database.list_operations() == []
        with pytest.raises(NotFoundError):
            database.operation(running.name)


def test_a_trained_sae_survives_reopening_and_new_documents(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((200, 4)).astype(np.float32)
    with sparsight.open(tmp_path) as database:
        things = database.create_collection("a", FIELDS)
        things.upsert([Document(str(n), text="t", vectors={"vec": vectors[n]}) for n in range(150)])
        result = things.train_sae(source="vec", n_latents=16, k=2, epochs=5).result
        assert result["n_latents"] == 16
        things.upsert([Document(str(n), text="t", vectors={"vec": vectors[n]}) for n in range(150, 200)])
        query = sparsight.Query(retrievers=[sparsight.Retriever("sae", dense=vectors[170])], k=200)
        before = [(hit.id, hit.score) for hit in things.search(query)]
        things.compact()
        assert [(hit.id, hit.score) for hit in things.search(query)] == before
        assert things.verify().ok
    with sparsight.open(tmp_path) as database:
        assert [(hit.id, hit.score) for hit in database["a"].search(query)] == before
        assert any(int(id) >= 150 for id, _ in before)


def test_a_retrained_sae_does_not_change_a_pinned_generation(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((120, 4)).astype(np.float32)
    with sparsight.open(tmp_path) as database:
        things = database.create_collection("a", FIELDS)
        things.upsert([Document(str(n), text="t", vectors={"vec": vectors[n]}) for n in range(120)])
        things.train_sae(source="vec", n_latents=16, k=2, epochs=5)
        pinned = things._store.generation
        model = pinned.derived["sae"]
        things.flush()
        assert things._store.generation.derived["sae"] is model
        things.train_sae(source="vec", n_latents=16, k=2, epochs=5, seed=9)
        assert things._store.generation.derived["sae"].fingerprint != model.fingerprint
        assert pinned.derived["sae"] is model
    with sparsight.open(tmp_path) as database:  # the replaced model's files go with the next opening
        assert len(list((tmp_path / "a" / "models").iterdir())) == 1
        assert database["a"].features().features
