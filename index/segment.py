"""A segment: an immutable, memory-mapped copy of some documents, made for speed.

Rows are ordered by ``seq``; passages are grouped by document. Files (``FORMAT.md``): ``documents`` with the
stored parts and metadata columns, and for each field its postings, which searches read, and its forward vectors, which
explanations read; or its dense vectors.
Everything can be rebuilt from the catalogue.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

from sparsight.errors import CorruptIndexError, IncompatibleModelError
from sparsight.index import columns, storage
from sparsight.index.bm25 import BM25
from sparsight.index.container import Container, write_container
from sparsight.index.rows import Row
from sparsight.index.schema import CollectionSchema, DerivedModel, FieldSchema, quantise
from sparsight.kernels import Forward, Postings
from sparsight.types import BM25Field, DenseField, SAEField

if TYPE_CHECKING:
    from sparsight.index.dense import DenseIndex

__all__ = ["BuildReport", "ImpactColumns", "Segment", "build_segment", "impact_columns"]

FILE_SUFFIX = ".sgt"
_F16_SAFE = 60_000.0  # float16 ends at 65,504


class ImpactColumns(NamedTuple):
    """A field's passages as one ragged array: passage p has entries ``[indptr[p], indptr[p+1])``."""

    indptr: NDArray[np.uint64]
    term_ids: NDArray[np.uint32]
    impacts: NDArray[np.uint8]
    values: NDArray[np.float32]
    saturated: int


class BuildReport(NamedTuple):
    """What a build wrote: documents, passages, bytes on disk, saturated weights by field."""

    documents: int
    passages: int
    bytes: int
    saturated: dict[str, int]


def impact_columns(
    field: FieldSchema, rows: Sequence[Row], derived: Mapping[str, DerivedModel], average_length: float
) -> ImpactColumns:
    """The weights of every passage of ``rows`` in an impact field, with their 8-bit levels.

    ``average_length`` (terms a passage) is BM25's; it is fixed for a segment when that is built.
    """
    spec = field.spec
    scale: NDArray[np.float32] | float = field.max_impact
    if isinstance(spec, SAEField):
        return _derived_columns(spec, rows, derived[field.name])
    ids: list[NDArray[np.uint32]] = []
    values: list[NDArray[np.float32]] = []
    lengths: list[int] = []
    if isinstance(spec, BM25Field):
        scorer = BM25(spec.k1, spec.b)
        for row in rows:
            for terms in row.terms[field.name]:
                ids.append(terms.term_ids)
                values.append(scorer.impact(terms.counts, terms.length, average_length).astype(np.float32))
                lengths.append(len(terms.term_ids))
    else:
        for row in rows:
            entries = row.sparse.get(field.name)
            for passage in range(row.passages):
                lengths.append(len(entries[passage].term_ids) if entries else 0)
                if entries:
                    ids.append(entries[passage].term_ids)
                    values.append(entries[passage].values)
    all_ids = np.concatenate(ids) if ids else np.empty(0, np.uint32)
    all_values = np.concatenate(values) if values else np.empty(0, np.float32)
    levels, saturated = quantise(all_values, scale)
    return ImpactColumns(_indptr(lengths), all_ids.astype(np.uint32), levels, all_values.astype(np.float32), saturated)


def _derived_columns(spec: SAEField, rows: Sequence[Row], model: DerivedModel) -> ImpactColumns:
    """Codes of the source field's dense vectors; passages without one get an empty code."""
    have = [row for row in rows if spec.source in row.dense]
    lengths = np.zeros(sum(row.passages for row in rows), np.int64)
    if not have:
        return ImpactColumns(
            _indptr(lengths), np.empty(0, np.uint32), np.empty(0, np.uint8), np.empty(0, np.float32), 0
        )
    codes = model.encode(np.concatenate([row.dense[spec.source] for row in have]))
    present = np.concatenate([np.full(row.passages, spec.source in row.dense) for row in rows])
    lengths[present] = np.diff(codes.indptr)
    ids = codes.indices.astype(np.uint32)
    levels, saturated = quantise(codes.data, model.impact_scale[ids])
    return ImpactColumns(_indptr(lengths), ids, levels, codes.data.astype(np.float32), saturated)


def _indptr(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint64]:
    indptr = np.zeros(len(lengths) + 1, np.uint64)
    np.cumsum(lengths, out=indptr[1:])
    return indptr


POSTINGS_ARRAYS = (
    "term_ids", "frequencies", "max_impacts", "cell_offsets", "byte_offsets", "cell_blocks", "cell_bytes", "data",
)  # fmt: skip


def _postings_arrays(column: ImpactColumns, passage_offsets: NDArray[np.uint32]) -> dict[str, NDArray[Any]]:
    """The inverted index of a field; levels of 0 are not in it."""
    postings = Postings.from_rows(column.indptr, column.term_ids, column.impacts, passage_offsets)
    return {name: getattr(postings, name) for name in POSTINGS_ARRAYS}


def _forward_arrays(column: ImpactColumns) -> dict[str, NDArray[Any]]:
    """The vectors of a field's passages as they came, and their 8-bit levels."""
    narrow = column.values.size == 0 or float(column.values.max()) < _F16_SAFE
    return {
        "indptr": column.indptr,
        "term_ids": column.term_ids,
        "impacts": column.impacts,
        "values": column.values.astype(np.float16 if narrow else np.float32),
    }


def _document_arrays(rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
    ids = [row.id.encode() for row in rows]
    bodies = [
        msgpack.packb([row.title, row.text, dict(row.metadata), [number for span in row.spans for number in span]])
        for row in rows
    ]
    arrays: dict[str, NDArray[Any]] = {
        "seqs": np.array([row.seq for row in rows], np.int64),
        "passage_offsets": _indptr([row.passages for row in rows]).astype(np.uint32),
        "id_offsets": _indptr([len(id) for id in ids]),
        "ids": np.frombuffer(b"".join(ids), np.uint8),
        "body_offsets": _indptr([len(body) for body in bodies]),
        "bodies": np.frombuffer(b"".join(bodies), np.uint8),
    }
    metadata = columns.build([row.metadata for row in rows]).to_arrays()
    return arrays | {f"columns.{name}": array for name, array in metadata.items()}


def _dense_arrays(spec: DenseField, dimension: int, rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
    """Vectors by passage; documents without one hold zeros and are left out by the ``present`` bits."""
    from sparsight.index.hnsw import build_hnsw

    present = np.array([spec.name in row.dense for row in rows], bool)
    blank = np.zeros((1, dimension), np.float32)
    parts = [row.dense.get(spec.name, np.broadcast_to(blank, (row.passages, dimension))) for row in rows]
    vectors = np.concatenate(parts).astype(np.float32) if parts else np.empty((0, dimension), np.float32)
    arrays: dict[str, NDArray[Any]] = {"vectors": vectors, "present": pack_bits(present)}
    if spec.index == "hnsw":
        arrays["hnsw"] = build_hnsw(vectors)
    return arrays


def pack_bits(flags: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Flags as 64-bit words, bit d % 64 of word d // 64; unused bits are 0."""
    padded = np.zeros(-(-len(flags) // 64) * 64, bool)
    padded[: len(flags)] = flags
    return np.packbits(padded, bitorder="little").view("<u8").astype(np.uint64)


def build_segment(
    folder: Path,
    schema: CollectionSchema,
    rows: Sequence[Row],
    derived: Mapping[str, DerivedModel],
    average_lengths: Mapping[str, float],
) -> BuildReport:
    """Write a segment of ``rows`` (ascending seq) to ``folder``, durable when this returns.

    The same rows, schema, models and average lengths give the same bytes.
    """
    building = folder.with_name(storage.BUILDING_PREFIX + folder.name)
    storage.create_folder(building, exist_ok=False)
    identity = {"uid": schema.uid, "segment": folder.name}
    size = write_container(building / f"documents{FILE_SUFFIX}", "documents", identity, _document_arrays(rows))
    saturated: dict[str, int] = {}
    passage_offsets = _indptr([row.passages for row in rows]).astype(np.uint32)
    for field in schema.fields:
        if isinstance(field.spec, DenseField):
            arrays = _dense_arrays(field.spec, field.dimension, rows)
        else:
            column = impact_columns(field, rows, derived, average_lengths.get(field.name, 1.0))
            arrays, saturated[field.name] = _postings_arrays(column, passage_offsets), column.saturated
            forward = building / f"forward-{field.name}{FILE_SUFFIX}"
            size += write_container(forward, "forward", identity | {"field": field.name}, _forward_arrays(column))
        of_field = identity | {"field": field.name, "fingerprint": field.fingerprint}
        size += write_container(building / f"field-{field.name}{FILE_SUFFIX}", field.kind, of_field, arrays)
    storage.publish_folder(building, folder)
    return BuildReport(len(rows), sum(row.passages for row in rows), size, saturated)


class Segment:
    """An open segment. All files are mapped on opening; a field's arrays are checked when first used.

    Raises
    ------
    CorruptIndexError
        A file is missing, damaged or another's.
    IncompatibleModelError
        A field was filled by another model than the schema says.
    """

    def __init__(self, folder: Path, schema: CollectionSchema) -> None:
        self.name = folder.name
        self.schema = schema
        identity = {"uid": schema.uid, "segment": folder.name}
        self._documents = Container(folder / f"documents{FILE_SUFFIX}", "documents", identity)
        self._fields: dict[str, Container] = {}
        self._forward: dict[str, Container] = {}
        for field in schema.fields:
            container = Container(
                folder / f"field-{field.name}{FILE_SUFFIX}", field.kind, identity | {"field": field.name}
            )
            if container.identity["fingerprint"] != field.fingerprint:
                raise IncompatibleModelError(
                    f"{container.path} was filled by model {container.identity['fingerprint'][:12]}, "
                    f"the collection expects {field.fingerprint[:12]}",
                    field=field.name,
                )
            self._fields[field.name] = container
            if field.kind != "dense":
                path = folder / f"forward-{field.name}{FILE_SUFFIX}"
                self._forward[field.name] = Container(path, "forward", identity | {"field": field.name})
        self.seqs: NDArray[np.int64] = self._documents.array("seqs")
        self.passage_offsets: NDArray[np.uint32] = self._documents.array("passage_offsets")
        self.documents = len(self.seqs)
        if len(self.passage_offsets) != self.documents + 1:
            raise CorruptIndexError(
                f"{self._documents.path}: {self.documents} documents but {len(self.passage_offsets)} offsets"
            )
        self.passages = int(self.passage_offsets[-1])
        self._cache: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()

    def _cached(self, what: str, field: str, make: Any) -> Any:
        """Make once, under the lock: the first search after opening must not race the checks."""
        found = self._cache.get((what, field))
        if found is None:
            with self._lock:
                found = self._cache.get((what, field))
                if found is None:
                    found = self._cache[what, field] = make()
        return found

    @property
    def columns(self) -> columns.Columns:
        """The metadata columns."""

        def make() -> columns.Columns:
            names = [name for name in self._documents.names if name.startswith("columns.")]
            return columns.Columns.from_arrays(
                {name.removeprefix("columns."): self._documents.array(name) for name in names}
            )

        found: columns.Columns = self._cached("columns", "", make)
        return found

    def postings(self, field: str) -> Postings:
        """The inverted index of an impact field."""

        def make() -> Postings:
            get = self._fields[field].array
            arrays: dict[str, Any] = {name: get(name) for name in POSTINGS_ARRAYS}
            most_terms = int(np.diff(self._forward[field].array("indptr")).max(initial=0))
            return Postings(**arrays, passage_offsets=self.passage_offsets, most_terms=most_terms)

        found: Postings = self._cached("postings", field, make)
        return found

    def sparse_row(self, field: str, passage: int) -> tuple[NDArray[np.uint32], NDArray[np.uint8], NDArray[Any]]:
        """One passage's term ids, 8-bit impacts and weights (as stored, float16 or float32)."""
        container = self._forward[field]
        start, stop = container.array("indptr")[passage:passage + 2].tolist()
        array = container.array
        return array("term_ids", start, stop), array("impacts", start, stop), array("values", start, stop)

    def forward(self, field: str) -> Forward:
        """All passages' 8-bit impacts, by passage. The first call reads and checks them all."""

        def make() -> Forward:
            get = self._forward[field].array
            return Forward(get("indptr"), get("term_ids"), get("impacts"))

        found: Forward = self._cached("forward", field, make)
        return found

    def forward_values(self, field: str) -> tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[Any]]:
        """All passages' unquantised weights: indptr, term ids, values (float16 or float32)."""
        get = self._forward[field].array
        return get("indptr"), get("term_ids"), get("values")

    def dense(self, field: str) -> DenseIndex:
        """The dense vectors with their FAISS index."""

        def make() -> DenseIndex:
            from sparsight.index.dense import DenseIndex
            from sparsight.index.hnsw import HNSWIndex

            container = self._fields[field]
            vectors = container.array("vectors")
            return HNSWIndex(vectors, container.array("hnsw")) if "hnsw" in container.names else DenseIndex(vectors)

        found: DenseIndex = self._cached("dense", field, make)
        return found

    def dense_rows(self, field: str) -> NDArray[np.float32]:
        """The dense vectors (passages, dimension)."""
        vectors: NDArray[np.float32] = self._fields[field].array("vectors")
        return vectors

    def present(self, field: str) -> NDArray[np.uint64]:
        """Which documents have a dense vector, as packed bits."""
        bits: NDArray[np.uint64] = self._fields[field].array("present")
        return bits

    def document(self, local: int) -> Row:
        """The stored parts of one document: id, title, text, metadata, passage spans; no vectors."""
        start, stop = (int(x) for x in self._documents.array("body_offsets", local, local + 2))
        title, text, metadata, spans = msgpack.unpackb(self._documents.array("bodies", start, stop).tobytes())
        pairs = list(zip(spans[::2], spans[1::2], strict=True))
        return Row(self.document_id(local), int(self.seqs[local]), title, text, metadata, pairs)

    def document_id(self, local: int) -> str:
        """The user's id of one document."""
        start, stop = (int(x) for x in self._documents.array("id_offsets", local, local + 2))
        return self._documents.array("ids", start, stop).tobytes().decode()

    def verify(self) -> list[str]:
        """Check every byte of every file; returns the faults found."""
        faults = []
        for container in (self._documents, *self._fields.values(), *self._forward.values()):
            try:
                container.verify()
            except CorruptIndexError as error:
                faults.append(error.message)
        for field in self.schema.fields:
            if field.kind != "dense" and not faults:
                try:
                    self.postings(field.name).validate()
                except CorruptIndexError as error:
                    faults.append(f"{self._fields[field.name].path}: {error}")
        return faults
