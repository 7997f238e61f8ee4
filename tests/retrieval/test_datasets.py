from __future__ import annotations

import gzip
import json
import sys
from collections import namedtuple
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import zstandard

from sparsight.errors import InvalidArgumentError
from sparsight.retrieval.datasets import BeirFolder, count_documents, open_dataset, read_documents
from sparsight.retrieval.lines import count_lines, read_json_lines, read_lines
from sparsight.retrieval.readers import document_from_json, read_vocabulary
from sparsight.types import SparseVector

CORPUS = (
    '{"_id": "d1", "title": "One", "text": "first text"}\n'
    "\n"
    '{"_id": 2, "title": "Zwei \\u00fc", "text": "ü", "year": 1996, "metadata": {"cat": ["a", "b"], "deep": {"x": 1}}}'
)


def _plain(data: bytes) -> bytes:
    return data


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def _two_frames(data: bytes) -> bytes:
    return _zstd(data[:50]) + _zstd(data[50:])


PACKERS = [("", _plain), (".gz", gzip.compress), (".zst", _zstd), (".zst", _two_frames)]


def write_beir(folder, ending="", pack=_plain):
    (folder / "qrels").mkdir()
    (folder / f"corpus.jsonl{ending}").write_bytes(pack(CORPUS.encode()))
    (folder / f"queries.jsonl{ending}").write_bytes(
        pack(b'{"_id": "q1", "text": "one"}\n{"_id": "q2", "text": "two"}\n')
    )
    (folder / f"qrels/test.tsv{ending}").write_bytes(
        pack(b"query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\t2\t0\nq2\t2\t3\n")
    )
    (folder / "qrels/train.tsv").write_bytes(b"q1\td1\t1\r\n")
    return folder


# --- BEIR ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "pack"), PACKERS)
def test_beir_folder(tmp_path, ending, pack):
    dataset = open_dataset(write_beir(tmp_path, ending, pack))
    first, second = dataset.documents()
    assert (first.id, first.title, first.text, first.metadata) == ("d1", "One", "first text", {})
    assert (second.id, second.title, second.text) == ("2", "Zwei ü", "ü")
    assert second.metadata == {"year": 1996, "cat": ["a", "b"], "deep": {"x": 1}}
    assert dataset.count() == 2 == count_documents(tmp_path)
    assert dataset.splits() == ["test", "train"]
    assert dataset.queries() == {"q1": "one", "q2": "two"}
    assert dataset.qrels() == {"q1": {"d1": 1, "2": 0}, "q2": {"2": 3}}
    assert dataset.qrels("train") == {"q1": {"d1": 1}}
    assert dataset.name == tmp_path.name


def test_documents_are_read_one_at_a_time(tmp_path):
    write_beir(tmp_path)
    (tmp_path / "corpus.jsonl").write_text('{"_id": "good", "text": "x"}\nnot json\n')
    documents = BeirFolder(tmp_path).documents()
    assert next(documents).id == "good"
    with pytest.raises(InvalidArgumentError) as caught:
        next(documents)
    assert "corpus.jsonl, line 2: not JSON" in str(caught.value)
    assert caught.value.details["line"] == "2"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[1]", "expected a JSON object, got list"),
        ("{", "not JSON"),
        ('{"_id": "a", "text": NaN}', "NaN is not a finite number"),
        ('{"text": "no id"}', "needs an id"),
        ('{"_id": "", "text": "no id"}', "needs an id"),
        ('{"_id": true, "text": "no id"}', "needs an id"),
        ('{"_id": "a", "text": 7}', "text: expected a string, got int"),
        ('{"_id": "a", "title": ["x"]}', "title: expected a string, got list"),
        ('{"_id": "a", "metadata": 3}', "metadata: expected an object, got int"),
        ('{"_id": "a", "vectors": [1]}', "vectors: expected an object of vectors"),
        (
            '{"_id": "a", "vectors": {"f": {"indices": [1, 2], "values": [1.0]}}}',
            "as many values as indices, got 1 and 2",
        ),
        ('{"_id": "a", "vectors": {"f": {"indices": [-1], "values": [1.0]}}}', 'vectors["f"].indices: expected a list'),
        ('{"_id": "a", "vectors": {"f": {"indices": [1.5], "values": [1.0]}}}', "whole numbers"),
        ('{"_id": "a", "vectors": {"f": {"indices": [4294967296], "values": [1.0]}}}', "whole numbers"),
        ('{"_id": "a", "vectors": {"f": ["x"]}}', 'vectors["f"]: expected a list of numbers'),
        ('{"_id": "a", "vectors": {"f": [[1.0]]}}', "expected a list of numbers"),
        ('{"_id": "a", "vectors": {"f": [true]}}', "expected a list of numbers"),
        ('{"_id": "a", "passages": [3]}', "passages: expected a list of objects"),
        ('{"_id": "a", "vector": {"word": 1.0}}', "needs a vocabulary"),
        ('{"_id": "a", "vector": [1.0]}', "an object of weights by term"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, problem):
    path = tmp_path / "docs.jsonl"
    path.write_text(f'{{"_id": "ok", "text": "x"}}\n\n{line}\n')
    with pytest.raises(InvalidArgumentError) as caught:
        list(read_documents(path))
    assert f"{path}, line 3: " in str(caught.value)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("queries.jsonl", '{"_id": "q"}', 'a query needs "_id" and "text"'),
        ("queries.jsonl", '{"_id": "q", "text": "a"}\n{"_id": "q", "text": "b"}', "line 2: query 'q' came before"),
        ("qrels/test.tsv", "q d 1", "between tabs"),
        ("qrels/test.tsv", "q\td\tx", "a whole number as grade, got 'x'"),
    ],
)
def test_bad_queries_and_judgements_are_named(tmp_path, name, text, problem):
    dataset = BeirFolder(write_beir(tmp_path))
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidArgumentError, match="line") as caught:
        dataset.queries() if "queries" in name else dataset.qrels()
    assert problem in str(caught.value)


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(InvalidArgumentError, match="no corpus"):
        BeirFolder(tmp_path)
    with pytest.raises(InvalidArgumentError, match="no judgements 'dev'; it has: test, train"):
        BeirFolder(write_beir(tmp_path)).qrels("dev")
    with pytest.raises(InvalidArgumentError, match="no such file"):
        read_documents(tmp_path / "none.jsonl")
    with pytest.raises(InvalidArgumentError, match="BEIR folder or"):
        open_dataset(tmp_path / "none")


# --- lines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "pack"), PACKERS[1:3])
def test_a_cut_file_is_not_taken_for_a_short_one(tmp_path, ending, pack):
    lines = "".join(json.dumps({"_id": str(n), "text": f"{n * 7919}"}) + "\n" for n in range(2000))
    path = tmp_path / f"docs.jsonl{ending}"
    packed = pack(lines.encode())
    path.write_bytes(packed[:-20])
    with pytest.raises(InvalidArgumentError, match="damaged or cut short"):
        list(read_documents(path))
    path.write_bytes(packed)
    assert count_lines(path) == 2000


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_file_that_is_not_what_its_name_says(tmp_path, ending):
    path = tmp_path / f"docs.jsonl{ending}"
    path.write_bytes(b"plain text, no archive at all")
    with pytest.raises(InvalidArgumentError, match="damaged"):
        list(read_lines(path))


def test_lines_across_chunks_keep_their_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("sparsight.retrieval.lines._CHUNK_BYTES", 7)
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"".join(b'{"_id": "%d"}\r\n' % n for n in range(20)))
    read = list(read_json_lines(path))
    assert [number for number, _ in read] == list(range(1, 21))
    assert [value["_id"] for _, value in read] == [str(n) for n in range(20)]


def test_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b'{"_id": "a"}\n{"_id": "\xff"}\n')
    with pytest.raises(InvalidArgumentError, match="line 2: not UTF-8"):
        list(read_documents(path))


def test_endless_lines_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sparsight.retrieval.lines._MAX_LINE_BYTES", 100)
    monkeypatch.setattr("sparsight.retrieval.lines._CHUNK_BYTES", 16)
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b'{"_id": "a"}\n' + b"x" * 500)
    with pytest.raises(InvalidArgumentError, match="line 2: longer than 100 bytes"):
        list(read_documents(path))


def test_an_empty_file_has_no_documents(tmp_path):
    (tmp_path / "docs.jsonl").write_bytes(b"")
    assert list(read_documents(tmp_path / "docs.jsonl")) == []


# --- ready vectors --------------------------------------------------------------------------------------------


def test_vectors_by_field():
    document = document_from_json(
        {
            "id": "a",
            "contents": "words",
            "vectors": {"splade": {"indices": [5, 1], "values": [0.5, 2]}, "dense": [1, 0.25], "none": []},
        }
    )
    assert document.text == "words"
    assert isinstance(document.vectors["splade"], SparseVector)
    assert document.vectors["splade"].to_dict() == {5: 0.5, 1: 2.0}
    assert document.vectors["dense"].tolist() == [1.0, 0.25]
    assert document.vectors["dense"].dtype == np.float32
    assert document.vectors["none"].shape == (0,)


def test_passages_with_vectors():
    document = document_from_json(
        {
            "_id": "a",
            "passages": [{"text": "one", "vectors": {"s": {"indices": [1], "values": [1.0]}}}, {"text": "two"}],
        }
    )
    assert [passage.text for passage in document.passages] == ["one", "two"]
    assert document.passages[0].vectors["s"].to_dict() == {1: 1.0}
    assert document.passages[1].vectors == {}


def test_anserini_impacts(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\nhello\nworld\n")
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"[PAD]": 0, "hello": 1, "world": 2}}}')
    line = {"id": "a", "contents": "hello world", "vector": {"world": 120, "hello": 3}}
    for name in ("vocab.txt", "tokenizer.json"):
        document = document_from_json(line, vocabulary=read_vocabulary(tmp_path / name), vector_field="impacts")
        assert document.vectors["impacts"].to_dict() == {2: 120.0, 1: 3.0}
    with pytest.raises(InvalidArgumentError, match="'world' is not in the vocabulary"):
        document_from_json(line, vocabulary={"hello": 1})
    assert document_from_json({"id": 1, "vector": {"17": 2.0}}).vectors["splade"].to_dict() == {17: 2.0}


# --- Parquet ----------------------------------------------------------------------------------------------------


def test_parquet(tmp_path):
    import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "docs.parquet"
    pq.write_table(
        pa.table(
            {
                "id": [1, 2],
                "title": ["One", None],
                "text": ["first", "second"],
                "metadata": ['{"year": 1996}', None],
                "day": [datetime.date(2020, 1, 2), None],
                "tags": [["a", "b"], []],
                "indices": [[3, 1], []],
                "values": pa.array([[1.0, 0.5], []], pa.list_(pa.float32())),
                "terms_indices": pa.array([[7], None], pa.list_(pa.uint32())),
                "terms_values": pa.array([[1.0], None], pa.list_(pa.float32())),
                "vector": pa.array([[0.5, 0.5], [1, 0]], pa.list_(pa.float32(), 2)),
                "other_vector": pa.array([[1.0], [2.0]], pa.list_(pa.float32())),
            }
        ),
        path,
    )
    first, second = read_documents(path, vector_field="impacts")
    assert (first.id, first.title, first.text) == ("1", "One", "first")
    assert first.metadata == {"year": 1996, "day": "2020-01-02", "tags": ["a", "b"]}
    assert first.vectors["impacts"].to_dict() == {3: 1.0, 1: 0.5}
    assert first.vectors["terms"].to_dict() == {7: 1.0}
    assert first.vectors["dense"].tolist() == [0.5, 0.5]
    assert first.vectors["other"].tolist() == [1.0]
    assert (second.id, second.title, second.metadata) == ("2", "", {"tags": []})
    assert "terms" not in second.vectors
    assert second.vectors["impacts"].to_dict() == {}
    assert count_documents(path) == 2


def test_parquet_structs_and_bad_rows(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "docs.parquet"
    pq.write_table(pa.table({"_id": ["a", None], "metadata": [{"year": 1}, None]}), path)
    documents = read_documents(path)
    assert next(documents).metadata == {"year": 1}
    with pytest.raises(InvalidArgumentError, match="row 2: a document needs an id"):
        next(documents)
    pq.write_table(pa.table({"text": ["a"]}), path)
    with pytest.raises(InvalidArgumentError, match='expected a column "_id" or "id"'):
        list(read_documents(path))
    path.write_bytes(b"PAR1 nothing")
    for read in (lambda: list(read_documents(path)), lambda: count_documents(path)):
        with pytest.raises(InvalidArgumentError, match="not a readable Parquet file"):
            read()


# --- ir_datasets ----------------------------------------------------------------------------------------------


def test_ir_datasets_is_imported_late(monkeypatch):
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(InvalidArgumentError, match=r"sparsight\[datasets\]"):
        open_dataset("ir_datasets:vaswani")


def test_ir_datasets_by_name(monkeypatch):
    record = namedtuple("Record", ["doc_id", "title", "text", "year", "odd"])
    query = SimpleNamespace(query_id="q1", default_text=lambda: "one")
    judged = SimpleNamespace(query_id="q1", doc_id="d1", relevance=2)
    loaded = SimpleNamespace(
        docs_iter=lambda: iter([record("d1", "T", "words", 1999, object())]),
        docs_count=lambda: 1,
        queries_iter=lambda: iter([query]),
        qrels_iter=lambda: iter([judged]),
        has_qrels=lambda: True,
    )
    package = ModuleType("ir_datasets")
    package.load = {"known": loaded}.__getitem__
    monkeypatch.setitem(sys.modules, "ir_datasets", package)
    dataset = open_dataset("ir_datasets:known")
    (document,) = dataset.documents()
    assert (document.id, document.title, document.text, document.metadata) == ("d1", "T", "words", {"year": 1999})
    assert (dataset.queries(), dataset.qrels(), dataset.count()) == ({"q1": "one"}, {"q1": {"d1": 2}}, 1)
    with pytest.raises(InvalidArgumentError, match="no data set 'unknown'"):
        open_dataset("ir_datasets:unknown")


# --- the shipped corpus -------------------------------------------------------------------------------------------


def test_the_shipped_corpus():
    import sparsight.service

    folder = sparsight.service.__path__[0]
    documents = list(read_documents(f"{folder}/demo_data/arxiv_2000.jsonl.gz"))
    assert len({document.id for document in documents}) == 2000
    for document in documents:
        assert document.title and document.text
        assert set(document.metadata) == {"year", "cat", "primary"}
        assert 1991 <= document.metadata["year"] <= 2019
        assert document.metadata["cat"][0] == document.metadata["primary"]
