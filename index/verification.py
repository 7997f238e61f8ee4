"""``verify`` and ``repair``: is every byte what was written, and do catalogue and segments agree?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sparsight.errors import CorruptIndexError, IncompatibleModelError, SparsightError
from sparsight.index import storage
from sparsight.index.catalog import Catalog, SegmentRecord
from sparsight.index.lexicon import Lexicons
from sparsight.index.memory import SEGMENTS_FOLDER
from sparsight.index.schema import ModelFactory
from sparsight.index.segment import Segment, build_segment
from sparsight.index.store import CollectionStore
from sparsight.types import BM25Field, SAEField, VerifyReport

__all__ = ["RepairReport", "repair_folder", "verify_folder", "verify_store"]


@dataclass(slots=True)
class RepairReport:
    """What ``repair`` did: documents indexed again, segments dropped, and rows that could not be saved."""

    documents: int = 0
    rebuilt_segments: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def verify_store(store: CollectionStore) -> VerifyReport:
    """Verify an open collection, beside its reads and writes; merges wait."""
    with store.maintenance_lock:
        return verify_folder(store.folder)


def verify_folder(folder: Path) -> VerifyReport:
    """Check a collection on disk without opening it for writing.

    The catalogue: SQLite's integrity check and every row's checksum. The segments: every block of every file,
    the postings' invariants. Both: every living document is in exactly one segment or in the tail, no dead one is
    alive.
    """
    report, names = _verify_once(folder)
    for _ in range(4):
        # Another process may have merged segments away between our reading their names and their files.
        if report.ok or names == _live_segments(folder):
            break
        report, names = _verify_once(folder)
    return report


def _live_segments(folder: Path) -> list[str]:
    try:
        catalog = Catalog(folder, read_only=True)
    except SparsightError:
        return []
    try:
        return [record.name for record in catalog.segments()]
    except SparsightError:
        return []
    finally:
        catalog.close()


def _verify_once(folder: Path) -> tuple[VerifyReport, list[str]]:
    """One pass, and the names of the segments that it looked at."""
    faults: list[str] = []
    names: list[str] = []
    size = storage.folder_bytes(folder)
    documents = segments = 0
    try:
        catalog = Catalog(folder, read_only=True)
    except SparsightError as error:
        return VerifyReport(faults=(error.message,)), names
    try:
        with catalog.snapshot():
            faults.extend(catalog.verify())
            schema = catalog.schema()
            placed: list[int] = []
            for record in catalog.segments():
                segments += 1
                names.append(record.name)
                try:
                    segment = Segment(folder / SEGMENTS_FOLDER / record.name, schema)
                except (CorruptIndexError, IncompatibleModelError) as error:
                    faults.append(error.message)
                    continue
                found = segment.verify()
                faults.extend(found)
                if not found:
                    placed.extend(segment.seqs.tolist())
            documents = len(catalog.all_seqs())
            if not faults:
                faults.extend(_misplaced(catalog, placed))
    except CorruptIndexError as error:
        faults.append(error.message)
    finally:
        catalog.close()
    return VerifyReport(documents, segments, size, tuple(faults)), names


def _misplaced(catalog: Catalog, placed: list[int]) -> Iterator[str]:
    """Documents that are in no place, in two, or in a place though dead."""
    living, dead, tail = set(catalog.all_seqs()), set(catalog.deletions()), set(catalog.tail_seqs())
    in_segments = set(placed)
    if len(in_segments) != len(placed):
        yield f"{catalog.path}: {len(placed) - len(in_segments)} documents are in two segments"
    if dead - in_segments:
        yield f"{catalog.path}: {len(dead - in_segments)} deletion marks belong to no segment"
    shown = (in_segments - dead) | tail
    if in_segments & tail:
        yield f"{catalog.path}: {len(in_segments & tail)} documents are in a segment and in the tail"
    if (counted := catalog.get_meta("state")["documents"]) != len(living):
        yield f"{catalog.path}: {counted} documents were counted, {len(living)} are there"
    if shown != living:
        missing, extra = len(living - shown), len(shown - living)
        yield f"{catalog.path}: {missing} documents are missing from the segments, {extra} dead ones are in them"


def repair_folder(folder: Path, models: ModelFactory) -> RepairReport:
    """Rebuild what can be rebuilt: all segments from the catalogue, in one transaction.

    Needs the writer's lock. Rows whose checksum fails are dropped, and named in ``lost``: their documents
    must be written again.

    Raises
    ------
    CorruptIndexError
        The catalogue itself cannot be read; restore it from a copy.
    """
    catalog, report = Catalog(folder), RepairReport()
    try:
        schema = catalog.schema()
        derived = {item.name: models(item.spec) for item in schema.fields if isinstance(item.spec, SAEField)}
        lexicons = Lexicons([item.name for item in schema.fields if isinstance(item.spec, BM25Field)], catalog.terms)
        state = catalog.get_meta("state")
        old = _segment_names(catalog)
        with catalog.transaction():
            good: list[int] = []
            for seq in catalog.all_seqs():
                try:
                    list(catalog.rows([seq]))
                    good.append(seq)
                except CorruptIndexError as error:
                    report.lost.append(error.message)
                    catalog.connection.execute("DELETE FROM documents WHERE seq = ?", (seq,))
            catalog.connection.execute("DELETE FROM segments")
            catalog.connection.execute("DELETE FROM tail")
            catalog.connection.execute("DELETE FROM deletions")
            if good:
                storage.create_folder(folder / SEGMENTS_FOLDER)
                number = 1 + max([0, *(int(name) for name in _folder_numbers(folder))])
                target = folder / SEGMENTS_FOLDER / f"{number:08d}"
                storage.remove_leftovers(folder / SEGMENTS_FOLDER, set(_folder_numbers(folder)))
                built = build_segment(
                    target, schema, list(catalog.rows(good)), derived, lexicons.average_lengths(state)
                )
                catalog.add_segment(
                    SegmentRecord(target.name, built.documents, built.passages, built.bytes, built.saturated)
                )
                report.rebuilt_segments = [target.name]
            report.documents = state["documents"] = len(good)
            catalog.set_meta("state", state)
        for name in old:
            if (folder / SEGMENTS_FOLDER / name).exists() and name not in report.rebuilt_segments:
                storage.remove_folder(folder / SEGMENTS_FOLDER / name)
    finally:
        catalog.close()
    return report


def _segment_names(catalog: Catalog) -> list[str]:
    return [name for (name,) in catalog.connection.execute("SELECT name FROM segments")]


def _folder_numbers(folder: Path) -> list[str]:
    root = folder / SEGMENTS_FOLDER
    return [entry.name for entry in root.iterdir() if entry.name.isdigit()] if root.is_dir() else []
