"""Corpora, queries and judgements: BEIR folders, files of documents, and `ir_datasets` by name.

A BEIR folder holds ``corpus.jsonl`` and ``queries.jsonl`` (``_id``, ``title``, ``text``) and ``qrels/<split>.tsv``
(query, document, grade), each plain, ``.gz`` or ``.zst``. Lines are read one at a time; a bad one is an
`InvalidArgumentError` with file and line.

References
----------
Thakur et al. 2021, "BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of Information Retrieval Models",
arXiv:2104.08663.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from sparsight.errors import InvalidArgumentError
from sparsight.retrieval.lines import bad_line, count_lines, read_json_lines, read_lines
from sparsight.retrieval.readers import document_from_json, read_parquet
from sparsight.types import Document

__all__ = ["BeirFolder", "Dataset", "IRDataset", "Qrels", "count_documents", "open_dataset", "read_documents"]

Qrels = dict[str, dict[str, int]]
_IR_DATASETS = "ir_datasets:"
_ENDINGS = ("", ".gz", ".zst")


class Dataset(Protocol):
    """A corpus with queries and their judgements."""

    name: str

    def documents(self) -> Iterator[Document]:
        """The corpus in its own order, one document at a time."""

    def count(self) -> int:
        """Number of documents; 0 when it cannot be told without reading them all from elsewhere."""

    def splits(self) -> list[str]:
        """Names that `qrels` takes."""

    def queries(self) -> dict[str, str]:
        """Text by query id."""

    def qrels(self, split: str = "test") -> Qrels:
        """Grade by document id by query id; grades above 0 are relevant."""


class BeirFolder:
    """A folder in the layout of BEIR.

    Raises
    ------
    InvalidArgumentError
        If the folder has no ``corpus.jsonl`` (plain, .gz or .zst).
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.name = self.folder.resolve().name
        self._corpus = self._find("corpus.jsonl")

    def documents(self) -> Iterator[Document]:
        """The corpus; keys of a line beyond ``_id``, ``title`` and ``text`` become metadata."""
        return _json_documents(self._corpus)

    def count(self) -> int:
        """Number of documents; reads through the (decompressed) corpus once."""
        return count_lines(self._corpus)

    def splits(self) -> list[str]:
        """Names of the files under ``qrels/``, sorted."""
        names = {path.name for path in (self.folder / "qrels").glob("*.tsv*")}
        return sorted({name.split(".tsv")[0] for name in names if name.endswith(tuple(f".tsv{e}" for e in _ENDINGS))})

    def queries(self) -> dict[str, str]:
        """Text by query id, in the order of the file."""
        path = self._find("queries.jsonl")
        queries: dict[str, str] = {}
        for number, value in read_json_lines(path):
            identifier, text = value.get("_id", value.get("id")), value.get("text")
            if not isinstance(identifier, str | int) or not isinstance(text, str):
                raise bad_line(path, number, 'a query needs "_id" and "text"')
            if str(identifier) in queries:
                raise bad_line(path, number, f"query {identifier!r} came before")
            queries[str(identifier)] = text
        return queries

    def qrels(self, split: str = "test") -> Qrels:
        """Judgements of ``qrels/<split>.tsv``: query, document, grade between tabs, with or without a header."""
        if split not in self.splits():
            raise InvalidArgumentError(
                f"{self.folder} has no judgements {split!r}; it has: {', '.join(self.splits()) or 'none'}",
                field="split",
                split=split,
            )
        path = self._find(f"qrels/{split}.tsv")
        qrels: Qrels = {}
        for number, text in read_lines(path):
            parts = text.rstrip("\r\n").split("\t")
            if number == 1 and parts[-1] == "score":
                continue
            if len(parts) != 3:
                raise bad_line(path, number, f"expected query, document and grade between tabs, got {text!r}")
            try:
                grade = int(parts[2])
            except ValueError:
                raise bad_line(path, number, f"expected a whole number as grade, got {parts[2]!r}") from None
            qrels.setdefault(parts[0], {})[parts[1]] = grade
        return qrels

    def _find(self, name: str) -> Path:
        for ending in _ENDINGS:
            path = self.folder / f"{name}{ending}"
            if path.is_file():
                return path
        raise InvalidArgumentError(
            f"{self.folder} is no BEIR folder: it has no {name} (plain, .gz or .zst)",
            field="source",
            file=self.folder / name,
        )


class IRDataset:
    """A data set of the package `ir_datasets`, which is an extra (``pip install "sparsight[datasets]"``).

    Raises
    ------
    InvalidArgumentError
        If the package is not installed or knows no such data set.
    """

    def __init__(self, name: str) -> None:
        try:
            import ir_datasets
        except ImportError:
            raise InvalidArgumentError(
                'reading "ir_datasets:..." needs the package: pip install "sparsight[datasets]"', field="source"
            ) from None
        try:
            self._dataset: Any = ir_datasets.load(name)
        except KeyError:
            raise InvalidArgumentError(f"ir_datasets has no data set {name!r}", field="source", name=name) from None
        self.name = name

    def documents(self) -> Iterator[Document]:
        """The corpus; attributes beyond id, title and text that hold plain values become metadata."""
        for record in self._dataset.docs_iter():
            value = record._asdict()
            identifier = value.pop("doc_id")
            title, text = value.pop("title", "") or "", value.pop("text", None)
            if text is None:
                text = record.default_text()
            metadata = {key: entry for key, entry in value.items() if isinstance(entry, str | int | float | bool)}
            yield Document(str(identifier), text, title, metadata)

    def count(self) -> int:
        """Number of documents that the package states."""
        return int(self._dataset.docs_count() or 0)

    def splits(self) -> list[str]:
        """Judgements belong to the data set's name, whatever the split."""
        return ["test"] if self._dataset.has_qrels() else []

    def queries(self) -> dict[str, str]:
        """Text by query id."""
        return {str(query.query_id): query.default_text() for query in self._dataset.queries_iter()}

    def qrels(self, split: str = "test") -> Qrels:
        """Judgements; ``split`` is part of the data set's name and not looked at."""
        qrels: Qrels = {}
        for judged in self._dataset.qrels_iter():
            qrels.setdefault(str(judged.query_id), {})[str(judged.doc_id)] = int(judged.relevance)
        return qrels


def open_dataset(source: str | Path) -> Dataset:
    """The data set of a BEIR folder or of ``ir_datasets:NAME``.

    Raises
    ------
    InvalidArgumentError
        If it is neither.
    """
    if str(source).startswith(_IR_DATASETS):
        return IRDataset(str(source).removeprefix(_IR_DATASETS))
    if not Path(source).is_dir():
        raise InvalidArgumentError(f"expected a BEIR folder or ir_datasets:NAME, got {source}", field="source")
    return BeirFolder(source)


def read_documents(
    source: str | Path, *, vocabulary: Mapping[str, int] | None = None, vector_field: str = "splade"
) -> Iterator[Document]:
    """Documents of a BEIR folder, of ``ir_datasets:NAME``, of a ``.parquet`` or of a JSON lines file.

    Parameters
    ----------
    source : str or Path
        Where they are. Files not called ``.parquet`` are read as JSON lines, decompressed by their ending.
    vocabulary, vector_field
        For ready vectors, see `sparsight.retrieval.readers.document_from_json`.

    Raises
    ------
    InvalidArgumentError
        If the source is none of these (at once), or a line or row is bad (when it is reached).
    """
    if str(source).startswith(_IR_DATASETS) or Path(source).is_dir():
        return open_dataset(source).documents()
    path = Path(source)
    if not path.is_file():
        raise InvalidArgumentError(f"no such file or folder: {source}", field="source", file=source)
    if path.suffix == ".parquet":
        return read_parquet(path, vector_field=vector_field)
    return _json_documents(path, vocabulary, vector_field)


def count_documents(source: str | Path) -> int:
    """Number of documents that `read_documents` will give (lines or rows; 0 when unknown)."""
    if str(source).startswith(_IR_DATASETS) or Path(source).is_dir():
        return open_dataset(source).count()
    if Path(source).suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return int(pq.read_metadata(source).num_rows)
        except (pa.ArrowException, OSError) as error:
            raise InvalidArgumentError(
                f"{source}: not a readable Parquet file: {error}", field="source", file=source
            ) from None
    return count_lines(source)


def _json_documents(
    path: Path, vocabulary: Mapping[str, int] | None = None, vector_field: str = "splade"
) -> Iterator[Document]:
    for number, value in read_json_lines(path):
        try:
            yield document_from_json(value, vocabulary=vocabulary, vector_field=vector_field)
        except InvalidArgumentError as error:
            place = f"{error.field}: " if error.field else ""
            raise InvalidArgumentError(
                f"{path}, line {number}: {place}{error.message}", field=error.field, file=path, line=number
            ) from None
