"""The texts: corpora in BEIR layout, read in a fixed order, and the queries with their split."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["CORPORA", "QUERY_SETS", "Query", "read_corpus", "read_queries"]

# Known-item corpora are encoded without their titles: those are the queries.
CORPORA = {"arxiv_cs": False, "arxiv_sci": False, "wiki_passages": True}
QUERY_SETS = {"arxiv_cs": "title", "arxiv_sci": "title", "scifact": "claim", "squad_sent": "question"}
FOREIGN_QUERIES = 500  # of each set that has no documents here: they only check that settings carry over


class Query(NamedTuple):
    """A query, and whether settings may be tuned on it (titles at even places) or it is only measured."""

    text: str
    kind: str
    tuning: bool


def _lines(path: Path) -> Iterator[str]:
    if path.suffix == ".zst":
        import zstandard

        with path.open("rb") as raw:
            stream = zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(raw)
            yield from io.TextIOWrapper(stream, "utf-8")
    else:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            yield from stream


def _only(folder: Path, stem: str) -> Path:
    found = sorted(folder.glob(f"{stem}.jsonl*"))
    if not found:
        raise FileNotFoundError(f"expected {stem}.jsonl.gz or {stem}.jsonl.zst in {folder}")
    return found[0]


def read_corpus(data: Path, name: str) -> Iterator[str]:
    """The texts of one corpus in its file's order; with the title before the text where that is no query."""
    for line in _lines(_only(data / name, "corpus")):
        record = json.loads(line)
        title = record.get("title", "") if CORPORA[name] else ""
        yield f"{title}. {record['text']}" if title else record["text"]


def read_queries(data: Path) -> list[Query]:
    """All queries, in a fixed order: titles of the corpora first, half of them for tuning."""
    queries = []
    for name, kind in QUERY_SETS.items():
        texts = [json.loads(line)["text"] for line in _lines(_only(data / name, "queries"))]
        if kind != "title":
            texts = texts[:: max(1, len(texts) // FOREIGN_QUERIES)][:FOREIGN_QUERIES]
        queries += [Query(text, kind, kind == "title" and at % 2 == 0) for at, text in enumerate(texts)]
    return queries
