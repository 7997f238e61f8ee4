from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from sparsight.encoders.training.corpora import read_corpus, read_judgements, read_queries
from sparsight.errors import InvalidArgumentError

ROWS = [{"_id": "a", "title": " One ", "text": "first\u2028text "}, {"_id": 2, "title": None, "text": "zwei, größer"},
        {"_id": "c", "text": "", "cat": "x"}]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode()


def zstd(data: bytes) -> bytes:
    """Two frames, the first with a window of 128 MiB."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    half = len(data) // 2
    first = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return first.compress(data[:half]) + first.flush() + zstandard.ZstdCompressor().compress(data[half:])


PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("last", [b"", b"\n", b"\r\n\n"])
def test_a_corpus_in_every_packing(tmp_path: Path, ending: str, last: bytes) -> None:
    (tmp_path / f"corpus.jsonl{ending}").write_bytes(PACK[ending](LINES + last))
    assert list(read_corpus(tmp_path)) == [("a", "One", "first\u2028text"), ("2", "", "zwei, größer"), ("c", "", "")]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_cut_file_is_an_error(tmp_path: Path, ending: str) -> None:
    whole = PACK[ending](b"\n".join(json.dumps({"_id": i, "text": str(i * 7919)}).encode() for i in range(3000)))
    (tmp_path / f"corpus.jsonl{ending}").write_bytes(whole[:len(whole) * 2 // 3])
    with pytest.raises(InvalidArgumentError, match="damaged or cut short"):
        list(read_corpus(tmp_path))


@pytest.mark.parametrize(("line", "problem"), [
    (b"{", "line 4: not JSON"), (b"[1]", "line 4: expected a JSON object, got list"),
    (b'{"_id": "x"}', 'line 4: .*"text"'),
    (b'{"text": "x"}', 'line 4: .*"_id"'), (b'{"_id": "x", "text": 3}', 'line 4: .*"text"'), (b"\xff", "damaged"),
])
def test_bad_lines_say_where(tmp_path: Path, line: bytes, problem: str) -> None:
    (tmp_path / "corpus.jsonl").write_bytes(LINES + b"\n" + line + b"\n")
    with pytest.raises(InvalidArgumentError, match=problem):
        list(read_corpus(tmp_path))


def test_a_folder_needs_a_corpus_but_no_queries(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"has no corpus\.jsonl") as caught:
        list(read_corpus(tmp_path))
    assert caught.value.details["file"].endswith("corpus.jsonl")
    assert read_queries(tmp_path) == {}


def test_queries(tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl.gz").write_bytes(
        gzip.compress(b'{"_id": "q1", "text": " who? "}\n{"_id": 2, "text": "x"}'))
    assert read_queries(tmp_path) == {"q1": "who?", "2": "x"}
    (tmp_path / "queries.jsonl").write_bytes(b'{"_id": "q1"}')
    with pytest.raises(InvalidArgumentError, match="a query needs"):
        read_queries(tmp_path)


@pytest.mark.parametrize("header", ["query-id\tcorpus-id\tscore\n", ""])
def test_judgements_are_the_relevant_ones_best_first(tmp_path: Path, header: str) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "dev.tsv").write_text(header + "q\ta\t1\nq\tb\t0\nq\tc\t2\r\nq\td\t1\nr\ta\t-1\ns\tz\t1\n")
    assert read_judgements(tmp_path, "dev") == {"q": ["c", "a", "d"], "s": ["z"]}


@pytest.mark.parametrize("line", ["q\ta", "q\ta\tx", "q\ta\t1.5", "q a 1"])
def test_bad_judgements(tmp_path: Path, line: str) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "dev.tsv").write_text(f"q\ta\t1\n{line}\n")
    with pytest.raises(InvalidArgumentError, match="line 2: expected query, document and grade"):
        read_judgements(tmp_path, "dev")
    with pytest.raises(InvalidArgumentError, match=r"no qrels/test\.tsv"):
        read_judgements(tmp_path, "test")


def test_it_reads_what_retrieval_reads(tmp_path: Path) -> None:
    """Two readers of one layout: this one may not import the other."""
    from sparsight.retrieval.datasets import BeirFolder

    rows: list[dict[str, Any]] = [{"_id": str(i), "title": f"T {i}", "text": f"text {i} ü"} for i in range(50)]
    (tmp_path / "corpus.jsonl.zst").write_bytes(zstd("\n".join(map(json.dumps, rows)).encode()))
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "who"}\n')
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t7\t1\nq\t9\t3\n")
    other = BeirFolder(tmp_path)
    assert list(read_corpus(tmp_path)) == [(d.id, d.title, d.text) for d in other.documents()]
    assert read_queries(tmp_path) == other.queries()
    assert {query: set(found) for query, found in read_judgements(tmp_path, "test").items()} == {
        query: set(graded) for query, graded in other.qrels("test").items()}
