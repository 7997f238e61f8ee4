"""Folders in the layout of BEIR, as training reads them: one line at a time, nothing silently short.

``corpus.jsonl`` and ``queries.jsonl`` (``_id``, ``title``, ``text``) and ``qrels/<split>.tsv`` (query, document,
grade), each plain, ``.gz`` or ``.zst``.

`retrieval` has a fuller reader, for indexing; the arrows of imports keep it out of reach here, and training needs no
metadata, no vectors and no errors per row of somebody's upload.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sparsight.errors import InvalidArgumentError

__all__ = ["read_corpus", "read_judgements", "read_queries"]

_ENDINGS = ("", ".gz", ".zst")
_MAX_ZSTD_WINDOW_BYTES = 1 << 27  # of `zstd --long=27`
_CHUNK_BYTES = 1 << 16


def read_corpus(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Id, title and text of every document, in the file's order, blanks around titles and texts stripped.

    Raises
    ------
    InvalidArgumentError
        If the folder has no corpus, or the file is damaged, cut short or holds something else.
    """
    for path, number, value in _objects(_find(folder, "corpus.jsonl")):
        title, text = value.get("title") or "", value.get("text")
        if "_id" not in value or not isinstance(title, str) or not isinstance(text, str):
            raise _bad(path, number, 'a document needs "_id" and "text"')
        yield str(value["_id"]), title.strip(), text.strip()


def read_queries(folder: Path) -> dict[str, str]:
    """Text by query id, in the file's order; empty if the folder has no queries.

    Raises
    ------
    InvalidArgumentError
        As `read_corpus`.
    """
    queries: dict[str, str] = {}
    if not any((folder / f"queries.jsonl{ending}").is_file() for ending in _ENDINGS):
        return queries
    for path, number, value in _objects(_find(folder, "queries.jsonl")):
        if "_id" not in value or not isinstance(value.get("text"), str):
            raise _bad(path, number, 'a query needs "_id" and "text"')
        queries[str(value["_id"])] = value["text"].strip()
    return queries


def read_judgements(folder: Path, split: str) -> dict[str, list[str]]:
    """Relevant documents by query id: those of grades above 0, the highest grade first.

    Raises
    ------
    InvalidArgumentError
        If there is no such split or a line is no judgement.
    """
    path = _find(folder, f"qrels/{split}.tsv")
    graded: dict[str, list[tuple[int, str]]] = {}
    for number, line in _lines(path):
        parts = line.rstrip("\r\n").split("\t")
        if number == 1 and parts[-1] == "score":
            continue
        if len(parts) != 3 or not parts[2].removeprefix("-").isdecimal():
            raise _bad(path, number, f"expected query, document and grade between tabs, got {line!r:.100}")
        if int(parts[2]) > 0:
            graded.setdefault(parts[0], []).append((-int(parts[2]), parts[1]))
    return {query: [document for _, document in sorted(found, key=lambda pair: pair[0])]
            for query, found in graded.items()}


def _find(folder: Path, name: str) -> Path:
    for ending in _ENDINGS:
        path = folder / f"{name}{ending}"
        if path.is_file():
            return path
    raise InvalidArgumentError(f"{folder} has no {name} (plain, .gz or .zst)", field="folder", file=folder / name)


def _objects(path: Path) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    for number, line in _lines(path):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise _bad(path, number, f"not JSON: {error}") from None
        if not isinstance(value, dict):
            raise _bad(path, number, f"expected a JSON object, got {type(value).__name__}")
        yield path, number, value


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is not blank."""
    import zstandard

    try:
        with path.open("rb") as file:
            lines: Iterator[bytes] = iter(file)
            if path.suffix == ".gz":
                lines = iter(gzip.GzipFile(fileobj=file))
            elif path.suffix == ".zst":
                lines = _zstd_lines(file)
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line.decode("utf-8")
    except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"{path}: damaged or cut short: {error}", field="folder", file=path) from None


def _zstd_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines of a zstd stream. Not its stream_reader, which takes the end of a cut file for the end of the data."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW_BYTES)
    frame: Any = None
    rest = b""
    while data := file.read(_CHUNK_BYTES):
        while data:
            frame = frame or decompressor.decompressobj()
            *whole, rest = (rest + frame.decompress(data)).split(b"\n")
            yield from whole
            data = b""
            if frame.eof:
                data, frame = frame.unused_data, None
    if frame is not None:
        raise EOFError("the file ends inside a frame")
    if rest:
        yield rest


def _bad(path: Path, number: int, problem: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{path}, line {number}: {problem}", field="folder", file=path, line=number)
