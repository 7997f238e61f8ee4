"""Documents from files: JSON lines (plain, gzip, zstd) and Parquet, one at a time, whatever their size.

A document of a JSON line has an id (``_id`` or ``id``), ``title``, ``text`` (or ``contents``) and, where the caller
brings vectors, either of these:

- ``"vectors": {field: {"indices": [...], "values": [...]}}`` for sparse and ``{field: [numbers]}`` for dense fields,
  for the whole document or inside each of ``"passages": [{"text": ..., "vectors": {...}}]``;
- ``"vector": {term: weight}``, as Anserini writes impacts; terms are looked up in a vocabulary, all-digit ones may be
  indices already.

What is under ``"metadata"`` and every key not named here becomes metadata.

Columns of Parquet files have the same names. ``<field>_indices`` with ``<field>_values`` (lists) are a sparse vector
and ``<field>_vector`` (a list of numbers) a dense one; plain ``indices`` with ``values`` belong to the sparse field
chosen by the caller and ``vector`` to the field ``dense``. ``metadata`` is a struct, a map or a string of JSON.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparsight.errors import InvalidArgumentError
from sparsight.retrieval.lines import chunks, refuse_constant, split_lines
from sparsight.types import Document, Passage, SparseVector, Vector

__all__ = ["document_from_json", "read_parquet", "read_vocabulary"]

_RESERVED = frozenset({"_id", "id", "title", "text", "contents", "metadata", "vector", "vectors", "passages"})


# --- a document of a JSON object ----------------------------------------------------------------------------


def document_from_json(
    value: Mapping[str, Any],
    *,
    vocabulary: Mapping[str, int] | None = None,
    vector_field: str = "splade",
) -> Document:
    """A document from the object of a JSON line, as the module's head describes it.

    Parameters
    ----------
    value : mapping
        The object. Integer ids become strings; a missing title or text is "".
    vocabulary : mapping, optional
        Index of every term of a ``"vector"``. Without it, terms must be indices in decimal digits.
    vector_field : str
        Field that a ``"vector"`` belongs to.

    Raises
    ------
    InvalidArgumentError
        If there is no id, a part has the wrong type, or a term is not in the vocabulary; ``field`` names the part.
    """
    identifier = value.get("_id", value.get("id"))
    if isinstance(identifier, int) and not isinstance(identifier, bool):
        identifier = str(identifier)
    if not isinstance(identifier, str) or not identifier:
        raise InvalidArgumentError('a document needs an id ("_id" or "id"): a string or an integer', field="_id")
    nested = value.get("metadata") or {}
    if not isinstance(nested, Mapping):
        raise InvalidArgumentError(f"expected an object, got {type(nested).__name__}", field="metadata")
    metadata = {key: entry for key, entry in value.items() if key not in _RESERVED} | dict(nested)
    vectors = _vectors(value.get("vectors"), "vectors")
    if (weights := value.get("vector")) is not None:
        vectors[vector_field] = _impacts(weights, vocabulary)
    text = _text(value, "text") or _text(value, "contents")
    return Document(identifier, text, _text(value, "title"), metadata, vectors, _passages(value.get("passages")))


def _text(value: Mapping[str, Any], key: str) -> str:
    text = value.get(key)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise InvalidArgumentError(f"expected a string, got {type(text).__name__}", field=key)
    return text


def _passages(value: Any) -> tuple[Passage, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(passage, Mapping) for passage in value):
        raise InvalidArgumentError("expected a list of objects", field="passages")
    return tuple(
        Passage(_text(passage, "text"), _vectors(passage.get("vectors"), f"passages[{position}].vectors"))
        for position, passage in enumerate(value)
    )


def _vectors(value: Any, place: str) -> dict[str, Vector]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"expected an object of vectors by field, got {type(value).__name__}", field=place)
    return {name: _vector(entry, f'{place}["{name}"]') for name, entry in value.items()}


def _vector(value: Any, place: str) -> Vector:
    if isinstance(value, Mapping):
        return _sparse(value.get("indices"), value.get("values"), place)
    return _numbers(value, np.float32, place)


def _sparse(indices: Any, values: Any, place: str) -> SparseVector:
    ids, weights = _numbers(indices, np.uint32, f"{place}.indices"), _numbers(values, np.float32, f"{place}.values")
    if len(ids) != len(weights):
        raise InvalidArgumentError(
            f"expected as many values as indices, got {len(weights)} and {len(ids)}",
            field=place,
            indices=len(ids),
            values=len(weights),
        )
    return SparseVector(ids, weights)


def _numbers(value: Any, dtype: Any, place: str) -> Any:
    wanted = "whole numbers in [0, 2**32)" if dtype is np.uint32 else "numbers"
    try:
        given = np.asarray(value)
        if given.size == 0 and given.ndim == 1:
            return np.zeros(0, dtype)
        whole = np.issubdtype(given.dtype, np.integer)
        if given.ndim != 1 or not (whole or (dtype is np.float32 and np.issubdtype(given.dtype, np.floating))):
            raise ValueError
        if dtype is np.uint32 and (given.min() < 0 or given.max() >= 2**32):
            raise ValueError
        return np.ascontiguousarray(given, dtype)
    except (ValueError, TypeError, OverflowError):
        raise InvalidArgumentError(f"expected a list of {wanted}", field=place) from None


def _impacts(weights: Any, vocabulary: Mapping[str, int] | None) -> SparseVector:
    if not isinstance(weights, Mapping):
        raise InvalidArgumentError(
            f"expected an object of weights by term, got {type(weights).__name__}", field="vector"
        )
    ids = []
    for term in weights:
        index = None
        if vocabulary is not None:
            index = vocabulary.get(term)
        elif term.isascii() and term.isdigit():
            index = int(term)
        if index is None:
            hint = "is not in the vocabulary" if vocabulary is not None else "needs a vocabulary to become an index"
            raise InvalidArgumentError(f"term {term!r} {hint}", field=f'vector["{term}"]', term=term)
        ids.append(index)
    return _sparse(ids, list(weights.values()), "vector")


def read_vocabulary(path: str | Path) -> dict[str, int]:
    """Index by term, from a tokenizer's ``tokenizer.json``, a ``{term: index}`` JSON file, or a term a line."""
    path = Path(path)
    if path.suffix != ".json":
        # Not read_lines: a line of only blanks is a term too, and its number counts.
        return {raw.decode("utf-8", "replace").rstrip("\r"): index for index, raw in enumerate(split_lines(path))}
    try:
        value = json.loads(b"".join(chunks(path)))
        vocabulary = value["model"]["vocab"] if "model" in value else value
        return {str(term): int(index) for term, index in vocabulary.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InvalidArgumentError(
            f"{path}: expected a tokenizer.json or an object of indices by term", file=path
        ) from None


# --- Parquet ------------------------------------------------------------------------------------------------


def read_parquet(path: str | Path, *, vector_field: str = "splade", batch_rows: int = 1000) -> Iterator[Document]:
    """Documents of a Parquet file, ``batch_rows`` rows in memory at a time; the module's head names the columns.

    Raises
    ------
    InvalidArgumentError
        If the file is no Parquet file, has no id column, or a row breaks the rules of `document_from_json`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    row = 0
    try:
        with pq.ParquetFile(path) as source:
            names = set(source.schema_arrow.names)
            if not names & {"_id", "id"}:
                raise InvalidArgumentError(f'{path}: expected a column "_id" or "id", got {sorted(names)}', file=path)
            for batch in source.iter_batches(batch_size=batch_rows):
                for record in batch.to_pylist(maps_as_pydicts="strict"):
                    row += 1
                    yield _document_from_row(record, names, vector_field)
    except FileNotFoundError:
        raise InvalidArgumentError(f"no such file: {path}", file=path) from None
    except pa.ArrowException as error:
        raise InvalidArgumentError(f"{path}: not a readable Parquet file: {error}", file=path) from None
    except InvalidArgumentError as error:
        if row == 0:
            raise
        raise InvalidArgumentError(
            f"{path}, row {row}: {error.message}", field=error.field, file=path, row=row
        ) from None


def _document_from_row(record: dict[str, Any], names: set[str], vector_field: str) -> Document:
    value: dict[str, Any] = {}
    vectors: dict[str, Any] = {}
    for name, entry in record.items():
        if name == "values" and "indices" in names:
            continue
        if name.endswith("_values") and f"{name.removesuffix('_values')}_indices" in names:
            continue
        if entry is None:
            continue
        if name == "indices" and "values" in names:
            vectors[vector_field] = {"indices": entry, "values": record["values"]}
        elif name.endswith("_indices") and f"{(stem := name.removesuffix('_indices'))}_values" in names:
            vectors[stem] = {"indices": entry, "values": record[f"{stem}_values"]}
        elif name == "vector" and isinstance(entry, list):
            vectors["dense"] = entry
        elif name.endswith("_vector") and isinstance(entry, list):
            vectors[name.removesuffix("_vector")] = entry
        elif name == "metadata" and isinstance(entry, str):
            try:
                value[name] = json.loads(entry, parse_constant=refuse_constant)
            except ValueError as error:
                raise InvalidArgumentError(f"not JSON: {error}", field="metadata") from None
        else:
            value[name] = _plain(entry)
    value["vectors"] = {**(value.get("vectors") or {}), **vectors}
    return document_from_json(value, vector_field=vector_field)


def _plain(entry: Any) -> Any:
    """Dates and the like as strings; the JSON types as they are."""
    if isinstance(entry, datetime.date | datetime.time):
        return entry.isoformat()
    if isinstance(entry, list):
        return [_plain(part) for part in entry]
    if isinstance(entry, dict):
        return {key: _plain(part) for key, part in entry.items()}
    return entry if isinstance(entry, str | int | float | bool) or entry is None else str(entry)
