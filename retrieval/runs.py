"""Runs and judgements as files in the formats of TREC.

A run maps a query to its documents with their scores, best first; a line is ``query Q0 document rank score tag``.
Judgements map a query to grades by document; a line is ``query 0 document grade``. ``.gz`` files are (de)compressed.
"""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sparsight.errors import InvalidArgumentError
from sparsight.retrieval.datasets import Qrels
from sparsight.retrieval.lines import bad_line, read_lines

__all__ = ["Run", "read_qrels", "read_run", "write_qrels", "write_run"]

Run = dict[str, list[tuple[str, float]]]


def read_run(path: str | Path) -> Run:
    """The run of a file, every query's documents in the order of its ranks.

    Raises
    ------
    InvalidArgumentError
        If a line has not six parts, a rank or score is no finite number, or a query lists a document twice.
    """
    ranked: dict[str, list[tuple[float, str, float]]] = {}
    seen: set[tuple[str, str]] = set()
    for number, text in read_lines(path):
        parts = text.split()
        if len(parts) != 6:
            raise bad_line(path, number, f"expected 6 parts (query Q0 document rank score tag), got {len(parts)}")
        query, _, document, rank, score, _ = parts
        try:
            place, value = float(rank), float(score)
        except ValueError:
            raise bad_line(path, number, f"expected numbers as rank and score, got {rank!r} and {score!r}") from None
        if not (math.isfinite(place) and math.isfinite(value)):
            raise bad_line(path, number, f"expected finite numbers, got {rank!r} and {score!r}")
        if (query, document) in seen:
            raise bad_line(path, number, f"query {query!r} lists document {document!r} twice")
        seen.add((query, document))
        ranked.setdefault(query, []).append((place, document, value))
    return {
        query: [(document, score) for _, document, score in sorted(found, key=lambda entry: entry[0])]
        for query, found in ranked.items()
    }


def write_run(path: str | Path, run: Mapping[str, Sequence[tuple[str, float]]], tag: str = "sparsight") -> None:
    """Write a run; a reader never sees half of it.

    Scores keep all their digits, so that reading gives the same run back.

    Raises
    ------
    InvalidArgumentError
        If a query, a document or the tag is empty or holds blanks, which the format cannot express.
    """
    _write(
        path,
        (
            f"{_word(query)} Q0 {_word(document)} {rank} {float(score)!r} {_word(tag)}\n"
            for query, found in run.items()
            for rank, (document, score) in enumerate(found, start=1)
        ),
    )


def read_qrels(path: str | Path) -> Qrels:
    """The judgements of a file.

    Raises
    ------
    InvalidArgumentError
        If a line has not four parts or its grade is no whole number.
    """
    qrels: Qrels = {}
    for number, text in read_lines(path):
        parts = text.split()
        if len(parts) != 4:
            raise bad_line(path, number, f"expected 4 parts (query 0 document grade), got {len(parts)}")
        try:
            qrels.setdefault(parts[0], {})[parts[2]] = int(parts[3])
        except ValueError:
            raise bad_line(path, number, f"expected a whole number as grade, got {parts[3]!r}") from None
    return qrels


def write_qrels(path: str | Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write judgements; a reader never sees half of them. Raises as `write_run`."""
    _write(
        path,
        (
            f"{_word(query)} 0 {_word(document)} {int(grade)}\n"
            for query, grades in qrels.items()
            for document, grade in grades.items()
        ),
    )


def _write(path: str | Path, lines: Iterable[str]) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        zipped = path.suffix == ".gz"
        with gzip.open(partial, "wt", encoding="utf-8") if zipped else partial.open("w", encoding="utf-8") as target:
            target.writelines(lines)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _word(value: str) -> str:
    if not value or any(character.isspace() for character in value):
        raise InvalidArgumentError(f"TREC files cannot hold {value!r}: it is empty or has blanks", value=value)
    return value
