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
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparsight.errors import InvalidArgumentError, StorageError
from sparsight.types import Document, Passage, SparseVector, Vector

__all__ = ["count_lines", "document_from_json", "read_json_lines", "read_lines", "read_parquet", "read_vocabulary"]

_CHUNK_BYTES = 1 << 20
_ZSTD_CHUNK_BYTES = 1 << 15  # compressed: at zstd's best ratio, 32,000 to 1, this still unpacks to 1 GiB at most
_MAX_LINE_BYTES = 64 << 20
# What the decompressor may have to keep in memory: 128 MiB is the window of `zstd --long=27`.
_MAX_ZSTD_WINDOW_BYTES = 1 << 27
_RESERVED = frozenset({"_id", "id", "title", "text", "contents", "metadata", "vector", "vectors", "passages"})


# --- lines ------------------------------------------------------------------------------------------------


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of every line that is not blank; ``.gz`` and ``.zst`` files are decompressed.

    Raises
    ------
    InvalidArgumentError
        If the file does not exist, is damaged or cut short, is not UTF-8, or has a line over 64 MiB.
    StorageError
        If the operating system refuses to read it.
    """
    path = Path(path)
    number = 0
    for number, raw in enumerate(_split(path), start=1):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _bad_line(path, number, f"not UTF-8 (byte {error.start + 1} of the line)") from None
        if text.strip():
            yield number, text


def count_lines(path: str | Path) -> int:
    """Number of lines that are not blank."""
    return sum(1 for raw in _split(Path(path)) if raw.strip())


def read_json_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and object of every line of a JSON lines file.

    Raises
    ------
    InvalidArgumentError
        As in `read_lines`, or if a line is not a JSON object of finite numbers.
    """
    path = Path(path)
    for number, text in read_lines(path):
        try:
            value = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise _bad_line(path, number, f"not JSON: {error}") from None
        if not isinstance(value, dict):
            raise _bad_line(path, number, f"expected a JSON object, got {type(value).__name__}")
        yield number, value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")


def _split(path: Path) -> Iterator[bytes]:
    rest: list[bytes] = []
    held = 0
    number = 1
    for chunk in _chunks(path):
        *whole, last = chunk.split(b"\n")
        if whole:
            whole[0] = b"".join((*rest, whole[0]))
            yield from whole
            number += len(whole)
            rest, held = [], 0
        rest.append(last)
        held += len(last)
        if held > _MAX_LINE_BYTES:
            raise _bad_line(path, number, f"longer than {_MAX_LINE_BYTES} bytes")
    if held:
        yield b"".join(rest)


def _chunks(path: Path) -> Iterator[bytes]:
    import zstandard

    try:
        if path.suffix == ".zst":
            yield from _zstd_chunks(path)
            return
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as source:
            while chunk := source.read(_CHUNK_BYTES):
                yield chunk
    except FileNotFoundError:
        raise InvalidArgumentError(f"no such file: {path}", file=path) from None
    except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise InvalidArgumentError(f"{path}: damaged or cut short: {error}", file=path) from None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}", file=path) from None


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    import zstandard

    # Not stream_reader: it takes the end of a cut file for the end of the data. An object per frame knows (`eof`).
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW_BYTES)
    frame: Any = None
    with path.open("rb") as source:
        while data := source.read(_ZSTD_CHUNK_BYTES):
            while data:
                frame = frame or decompressor.decompressobj()
                chunk = frame.decompress(data)
                data = b""
                if frame.eof:
                    data, frame = frame.unused_data, None
                if chunk:
                    yield chunk
    if frame is not None:
        raise EOFError("the file ends inside a frame")


def _bad_line(path: Path, number: int, problem: str, field: str = "") -> InvalidArgumentError:
    return InvalidArgumentError(f"{path}, line {number}: {problem}", field=field, file=path, line=number)


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
        return {raw.decode("utf-8", "replace").rstrip("\r"): index for index, raw in enumerate(_split(path))}
    try:
        value = json.loads(b"".join(_chunks(path)))
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
                value[name] = json.loads(entry, parse_constant=_refuse_constant)
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
