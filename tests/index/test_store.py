from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sparsight.errors import ClosedError, ConflictError, CorruptIndexError, ReadOnlyError, StorageError
from sparsight.index import filters, maintenance, storage
from sparsight.index.catalog import Catalog
from sparsight.index.memory import PROFILES, Memory
from sparsight.index.rows import Row
from sparsight.index.store import BULK_DOCUMENTS, CollectionStore
from sparsight.index.vectors import quantise_query
from sparsight.index.verification import repair_folder, verify_folder

Make = Callable[..., Row]


def _ids(store: CollectionStore) -> list[str]:
    generation = store.generation
    return [generation.document(r).id for _, r in generation.scan(generation.mask(None))]


def _search(store: CollectionStore) -> list[tuple[str, float]]:
    generation = store.generation
    query = quantise_query(np.arange(40, dtype=np.uint32), np.linspace(1, 2, 40))
    (found,) = generation.search_impacts("terms", [query], 1000, [generation.mask(None)], [0.0])
    return [(generation.document(r).id, s) for r, s in zip(found.references(), found.scores.tolist(), strict=True)]


def test_a_write_is_searchable_at_once_and_after_reopening(
    store: CollectionStore, make_row: Make, reopen: Callable
) -> None:
    assert store.write([make_row(f"d{n}", n, passages=1 + n % 3) for n in range(20)]).version == 1
    before = _search(store)
    assert len(before) > 15
    again = reopen(store)
    assert _search(again) == before
    assert _ids(again) == [f"d{n}" for n in range(20)]


def test_flush_merge_and_compaction_change_no_score(store: CollectionStore, make_row: Make) -> None:
    for start in range(0, 60, 15):
        store.write([make_row(f"d{n}", n, passages=1 + n % 2) for n in range(start, start + 15)])
        if start < 45:
            maintenance.flush(store)
    store.delete(["d3", "d17"])
    before = _search(store)
    assert len(store.generation.parts) == 4
    maintenance.compact(store)
    assert len(store.generation.parts) == 2
    assert _search(store) == before


def test_a_bulk_write_is_one_segment_and_nothing_waits_in_the_tail(store: CollectionStore, make_row: Make) -> None:
    store.write([make_row("first")])
    store.write([make_row(f"d{n}", n) for n in range(BULK_DOCUMENTS)])
    assert store.memory.tail_documents == 1 and len(store.generation.parts) == 2
    assert store.generation.documents == BULK_DOCUMENTS + 1


def test_a_search_keeps_its_generation(store: CollectionStore, make_row: Make) -> None:
    store.write([make_row(f"d{n}", n) for n in range(10)])
    maintenance.flush(store)
    pinned = store.generation
    store.delete(["d0", "d1"])
    store.write([make_row("d2", 99)])
    maintenance.compact(store)
    every = pinned.mask(None)
    assert pinned.count(every) == 10
    assert [pinned.document(r).metadata["seed"] for _, r in pinned.scan(every)] == list(range(10))
    assert store.generation.documents == 8


def test_a_request_id_has_one_effect(store: CollectionStore, make_row: Make, reopen: Callable) -> None:
    first = store.write([make_row("a")], request_id="r1", digest="x")
    assert store.write([make_row("a")], request_id="r1", digest="x") == first
    with pytest.raises(ConflictError, match="r1"):
        store.write([make_row("b")], request_id="r1", digest="y")
    again = reopen(store)
    assert again.write([make_row("a")], request_id="r1", digest="x") == first
    assert _ids(again) == ["a"]
    gone = again.delete(["a"], request_id="r2", digest="z")
    assert again.delete(["a"], request_id="r2", digest="z") == gone
    assert gone.deleted == 1


def test_waiting_writers_share_a_transaction(store: CollectionStore, make_row: Make) -> None:
    started, release = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        release.wait(10)

    with ThreadPoolExecutor(20) as pool:
        holder = pool.submit(store.run, hold)
        started.wait(10)
        commits: list[str] = []
        store.catalog.connection.set_trace_callback(lambda s: commits.append(s) if s == "COMMIT" else None)
        writes = [pool.submit(store.write, [make_row(f"d{n}")]) for n in range(16)]
        while len(store._queue) < 16:
            threading.Event().wait(0.001)
        release.set()
        holder.result(10)
        assert sorted(w.result(10).version for w in writes) == list(range(1, 17))
    assert len(commits) <= 3  # the holder's, its reload's snapshot, and one for all sixteen
    assert sorted(_ids(store)) == sorted(f"d{n}" for n in range(16))


def test_a_failed_transaction_leaves_no_trace_and_stops_writing(
    store: CollectionStore, make_row: Make, reopen: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write([make_row("a")])
    monkeypatch.setattr(
        Catalog, "add_to_tail", lambda *_: (_ for _ in ()).throw(sqlite3.OperationalError("disk I/O error"))
    )
    with pytest.raises(StorageError):
        store.write([make_row("b")])
    monkeypatch.undo()
    with pytest.raises(StorageError, match="writes stopped"):
        store.write([make_row("c")])
    assert _ids(store) == ["a"]
    again = reopen(store)
    assert again.write([make_row("c")]).version == 2
    assert _ids(again) == ["a", "c"]
    assert again.memory.lexicons.ids["bm25"] == {
        term: number for first, terms in again.catalog.terms("bm25") for number, term in enumerate(terms, first)
    }


@pytest.mark.parametrize("bulk", [False, True])
def test_notes_that_are_written_during_a_flush_disturb_nothing(
    store: CollectionStore, make_row: Make, reopen: Callable, bulk: bool
) -> None:
    """A flush holds a segment that no record names yet, and documents of its tail may have died meanwhile."""
    store.write([make_row(f"d{n}", n) for n in range(10)])
    (tail,) = store.seal()
    flushed = store.build([tail.document(local) for local in range(10)])
    store.delete(["d3"])
    store.run(lambda: store.catalog.set_meta(PROFILES, {"noted": {}}))
    assert store.generation.profiles == {"noted": {}} and len(_ids(store)) == 9
    more = [make_row(f"e{n}", n) for n in range(BULK_DOCUMENTS if bulk else 5)]
    store.write([make_row("d5", 50), *more])
    store.swap([flushed], [], int(tail.seqs[-1]))
    expected = {f"d{n}" for n in range(10) if n != 3} | {row.id for row in more}
    assert sorted(_ids(store)) == sorted(expected) and len(store.segment_parts) == 1 + bulk
    found = _search(store)
    assert verify_folder(store.folder).ok and _search(reopen(store)) == found


def test_a_follower_sees_what_was_committed(store: CollectionStore, make_row: Make, reopen: Callable) -> None:
    store.write([make_row("a")])
    follower = reopen(store, read_only=True)
    with pytest.raises(ReadOnlyError):
        follower.write([make_row("z")])
    for step in range(6):
        store.write([make_row(f"b{step}", step)])
        if step % 2:
            maintenance.flush(store)
        if step == 4:
            store.delete(["a"])
            maintenance.compact(store)
        follower.refresh()
        assert _ids(follower) == _ids(store)
        assert _search(follower) == _search(store)


def test_after_closing_nothing_is_accepted(store: CollectionStore, make_row: Make) -> None:
    store.write([make_row("a")])
    store.close()
    store.close()
    with pytest.raises(ClosedError):
        store.write([make_row("b")])


def test_leftovers_of_a_crash_are_removed_on_opening(store: CollectionStore, make_row: Make, reopen: Callable) -> None:
    store.write([make_row("a")])
    maintenance.flush(store)
    for name in (".building-00000009", "00000007"):
        (store.folder / "segments" / name).mkdir()
    again = reopen(store)
    assert [p.name for p in (again.folder / "segments").iterdir()] == ["00000001"]
    assert _ids(again) == ["a"]


def test_readers_see_whole_writes_while_merges_run(store: CollectionStore, make_row: Make) -> None:
    """Pairs are written and deleted together; no generation may ever show half a pair."""
    stop, seen, faults = threading.Event(), [0], []

    def read() -> None:
        while not stop.wait(0.002):  # a pause: two busy loops would keep the interpreter's lock from the writer
            generation = store.generation
            mask = generation.mask(filters.parse('tag = "g1"'))
            ids = [generation.document(r).id for _, r in generation.scan(mask)]
            odd = [id for id in ids if (id[:-1] + ("b" if id[-1] == "a" else "a")) not in ids]
            if odd or len(ids) != len(set(ids)):
                faults.append(ids)
            seen[0] += 1

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for step in range(60):
        store.write([make_row(f"p{step % 7}-{side}", 1) for side in "ab"])
        if step % 5 == 4:
            store.delete([f"p{step % 3}-a", f"p{step % 3}-b"])
        if step % 4 == 3:
            maintenance.flush(store)
        if step % 20 == 19:
            maintenance.compact(store)
    stop.set()
    for reader in readers:
        reader.join()
    assert not faults and seen[0] > 20


def test_every_fault_on_disk_is_found_and_repaired(store: CollectionStore, make_row: Make) -> None:
    store.write([make_row(f"d{n}", n) for n in range(30)])
    maintenance.flush(store)
    store.write([make_row(f"e{n}", n) for n in range(5)])
    store.delete(["d1", "e1"])
    before, folder = _search(store), store.folder
    store.close()
    assert verify_folder(folder).ok
    segment = folder / "segments" / "00000001"
    for path in sorted(segment.iterdir()):
        good = path.read_bytes()
        for damaged in (good[: len(good) // 2], good[:-1] + bytes([good[-1] ^ 1]), b"", None):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            report = verify_folder(folder)
            assert not report.ok and str(path) in " ".join(report.faults), path.name
            path.write_bytes(good)
    assert verify_folder(folder).ok
    (segment / "field-terms.sgt").unlink()
    fixed = repair_folder(folder, None)  # type: ignore[arg-type]
    assert fixed.documents == 33 and not fixed.lost
    assert verify_folder(folder).ok
    again = CollectionStore(folder, None)  # type: ignore[arg-type]
    assert _search(again) == before
    again.close()


COLUMNS = ["documents.body", "documents.id", "meta.value", "segments.documents", "terms.terms", "deletions.seq"]


@pytest.mark.parametrize("place", [*COLUMNS, "requests.answer"])
def test_a_changed_catalogue_row_is_found(store: CollectionStore, make_row: Make, place: str) -> None:
    table, column = place.split(".")
    store.write([make_row(f"d{n}", n) for n in range(5)], request_id="r", digest="d")
    maintenance.flush(store)
    store.delete(["d1"])
    store.close()
    connection = sqlite3.connect(store.folder / "catalog.db")
    value = connection.execute(f"SELECT {column} FROM {table} LIMIT 1").fetchone()[0]
    changed = value + 1 if isinstance(value, int) else value + (b"!" if isinstance(value, bytes) else "!")
    connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = (SELECT rowid FROM {table} LIMIT 1)", (changed,))
    connection.commit()
    connection.close()
    report = verify_folder(store.folder)
    assert not report.ok and "checksum" in report.faults[0]


def test_a_lost_deletion_mark_is_noticed_on_opening(store: CollectionStore, make_row: Make) -> None:
    store.write([make_row(f"d{n}", n) for n in range(5)])
    maintenance.flush(store)
    store.delete(["d1"])
    store.close()
    connection = sqlite3.connect(store.folder / "catalog.db")
    connection.execute("DELETE FROM deletions")
    connection.commit()
    connection.close()
    with pytest.raises(CorruptIndexError, match="living documents"):
        CollectionStore(store.folder, None)  # type: ignore[arg-type]
    assert not verify_folder(store.folder).ok


def test_dead_documents_are_merged_away(store: CollectionStore, make_row: Make) -> None:
    store.write([make_row(f"d{n}", n) for n in range(30)])
    maintenance.flush(store)
    store.delete([f"d{n}" for n in range(20)])
    size = storage.folder_bytes(store.folder / "segments")
    names = [(p.segment.name, p.documents, len(p.dead)) for p in store.generation.parts[:-1]]  # type: ignore[attr-defined]
    assert maintenance.merge_candidates(names) == ["00000001"]
    maintenance.compact(store)
    assert store.catalog.deletions() == [] and storage.folder_bytes(store.folder / "segments") < size
    assert len(_ids(store)) == 10


@pytest.mark.parametrize("step", [maintenance.flush, maintenance.compact])
def test_what_happens_during_a_flush_or_merge_is_kept(
    store: CollectionStore, make_row: Make, reopen: Callable, monkeypatch: pytest.MonkeyPatch, step: Callable
) -> None:
    store.write([make_row(f"d{n}", n) for n in range(10)])
    if step is maintenance.compact:
        maintenance.flush(store)
        store.write([make_row(f"e{n}", n) for n in range(10)])
        maintenance.flush(store)
        store.delete(["d0"])
    build = CollectionStore.build

    def build_while_others_write(self: CollectionStore, *args: object) -> object:
        made = build(self, *args)  # type: ignore[arg-type]
        store.write([make_row("d1", 99), make_row("new", 5)])
        store.delete(["d2", "new"])
        store.write([make_row("newer", 6)])
        return made

    monkeypatch.setattr(CollectionStore, "build", build_while_others_write)
    step(store)
    monkeypatch.undo()
    expected = [f"d{n}" for n in range(3, 10)] + ["d1", "newer"]
    if step is maintenance.flush:
        expected.insert(0, "d0")
    else:
        expected[7:7] = [f"e{n}" for n in range(10)]
    assert _ids(store) == expected
    assert len(store.segment_parts) == 1
    assert len(store.segment_parts[0].dead) == 2  # the old d1, and d2
    assert store.memory.tail_documents == 3  # the new d1, newer, and new, which is dead
    before = _search(store)
    again = reopen(store)
    assert (_ids(again), _search(again)) == (expected, before)
    maintenance.compact(again)
    assert (_ids(again), _search(again)) == (expected, before)
    again.close()
    assert verify_folder(again.folder).ok


def test_publishing_a_flush_reads_no_documents(
    store: CollectionStore, make_row: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever waits for the writer thread must not wait for work that grows with the collection."""
    store.write([make_row(f"d{n}", n) for n in range(10)])
    monkeypatch.setattr(Catalog, "rows", lambda *_: pytest.fail("rows were read"))
    monkeypatch.setattr(Memory, "load", lambda *_: pytest.fail("everything was loaded again"))
    assert maintenance.flush(store)
    store.write([make_row("d3", 50)])
    store.delete(["d4"])
    assert maintenance.flush(store) and not maintenance.flush(store)
    assert _ids(store) == [f"d{n}" for n in range(10) if n not in (3, 4)] + ["d3"]


def test_a_failed_flush_loses_nothing_and_is_made_up_for(
    store: CollectionStore, make_row: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write([make_row(f"d{n}", n) for n in range(10)])
    monkeypatch.setattr(CollectionStore, "build", lambda *_: (_ for _ in ()).throw(StorageError("no space")))
    with pytest.raises(StorageError):
        maintenance.flush(store)
    monkeypatch.undo()
    store.write([make_row("d1", 77), make_row("e", 1)])
    before = _search(store)
    assert store.memory.tail_documents == 12 and _ids(store) == ["d0", *(f"d{n}" for n in range(2, 10)), "d1", "e"]
    maintenance.flush(store)
    assert store.memory.tail_documents == 0 and len(store.segment_parts) == 1
    assert _search(store) == before and verify_folder(store.folder).ok


def test_a_tail_of_dead_documents_is_forgotten(store: CollectionStore, make_row: Make) -> None:
    store.write([make_row(f"d{n}", n) for n in range(5)])
    store.delete([f"d{n}" for n in range(5)])
    assert not maintenance.flush(store)
    assert store.memory.tail_documents == 0 and store.segment_parts == [] and verify_folder(store.folder).ok


def test_a_bulk_write_that_fails_leaves_no_segment(
    store: CollectionStore, make_row: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Catalog, "insert_documents", lambda *_: (_ for _ in ()).throw(sqlite3.IntegrityError("UNIQUE constraint"))
    )
    with pytest.raises(StorageError, match="UNIQUE"):
        store.write([make_row(f"d{n}", n) for n in range(BULK_DOCUMENTS)])
    assert store.generation.documents == 0 and store.memory.state["documents"] == 0


def test_a_lexicon_longer_than_its_rows(store: CollectionStore, reopen: Callable) -> None:
    def row(n: int) -> Row:
        return Row(f"d{n}", text=" ".join(f"word{m}" for m in range(n * 700, n * 700 + 800)), spans=[(0, 10_000)])

    for n in range(4):  # 800, then 700 new words each
        store.write([row(n)])
    follower = reopen(store, read_only=True)
    assert len(follower.memory.lexicons.ids["bm25"]) == 2_900
    store.write([row(4)])
    assert [first for first, _ in store.catalog.terms("bm25")] == [0, 1024, 2048, 3072]
    assert [first for first, _ in store.catalog.terms("bm25", 1024)] == [1024, 2048, 3072]
    follower.refresh()
    expected = dict(store.memory.lexicons.ids["bm25"])
    assert sorted(expected.values()) == list(range(3_600))
    assert follower.memory.lexicons.ids["bm25"] == expected
    assert reopen(store).memory.lexicons.ids["bm25"] == expected


def test_a_document_that_vanished_from_the_catalogue_is_found(store: CollectionStore, make_row: Make) -> None:
    store.write([make_row(f"d{n}", n) for n in range(5)])
    store.close()
    connection = sqlite3.connect(store.folder / "catalog.db")
    connection.execute("DELETE FROM documents WHERE id = 'd3'")
    connection.execute("DELETE FROM tail WHERE seq = 4")
    connection.commit()
    connection.close()
    assert "5 documents were counted, 4 are there" in verify_folder(store.folder).faults[0]
    with pytest.raises(CorruptIndexError, match="expected 5 living documents"):
        CollectionStore(store.folder, None)  # type: ignore[arg-type]
    repair_folder(store.folder, None)  # type: ignore[arg-type]
    assert verify_folder(store.folder).ok
    again = CollectionStore(store.folder, None)  # type: ignore[arg-type]
    assert _ids(again) == ["d0", "d1", "d2", "d4"]
    again.close()


def test_merge_candidates_by_size_class() -> None:
    small = [(f"s{n}", 100, 0) for n in range(4)]
    assert maintenance.merge_candidates(small[:3]) == []
    assert maintenance.merge_candidates([*small, ("big", 100_000, 0)]) == ["s0", "s1", "s2", "s3"]


def test_the_background_thread_flushes_a_full_tail(
    store: CollectionStore, make_row: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "FLUSH_DOCUMENTS", 50)
    worker = maintenance.Maintenance(store)
    for start in range(0, 500, 20):
        store.write([make_row(f"d{n}", n) for n in range(start, start + 20)])
    for _ in range(500):
        if store.memory.tail_documents < 50:
            break
        threading.Event().wait(0.02)
    worker.close()
    assert store.memory.tail_documents < 50 and len(store.generation.parts) > 1
    assert _ids(store) == [f"d{n}" for n in range(500)]


def test_paths_are_below_the_folder(store: CollectionStore, make_row: Make, tmp_path: Path) -> None:
    store.write([make_row("../../etc/passwd"), make_row("a/b")])
    maintenance.flush(store)
    assert {p.name for p in tmp_path.iterdir()} == {"things"}
