"""Requests become transactions: applied to the catalogue, committed, taken over by memory, and only then answered.

The writer thread calls :meth:`Transactions.process` with all requests that wait. Each is applied inside a savepoint of
one SQLite transaction, so a refused one leaves no trace, and waiting writers share the sync of one commit.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from sparsight.errors import ConflictError, SparsightError, StorageError, StorageFullError
from sparsight.index import storage
from sparsight.index.catalog import Catalog
from sparsight.index.jobs import Effects, Job, Made, Swap, WriteAnswer
from sparsight.index.memory import SEGMENTS_FOLDER, Memory
from sparsight.index.rows import Row, pack

__all__ = ["Transactions", "remove_segments"]


class Transactions:
    """The writer of one collection.

    Parameters
    ----------
    folder : Path
        The collection's.
    catalog : Catalog
    memory : Memory
    build : callable
        Makes a segment of rows, durable, which the catalogue does not know yet.

    Attributes
    ----------
    broken : SparsightError or None
        Why nothing is written any more: what the disk holds is unknown, or memory does not match it.
    """

    def __init__(self, folder: Path, catalog: Catalog, memory: Memory, build: Callable[[Sequence[Row]], Made]) -> None:
        self._folder, self._catalog, self._memory, self._build = folder, catalog, memory, build
        self._helper = ThreadPoolExecutor(1, f"sparsight-builder-{folder.name}")  # starts its thread when it is used
        self.broken: SparsightError | None = None

    def close(self) -> None:
        """Stop the thread that builds segments."""
        self._helper.shutdown()

    def process(self, jobs: Sequence[Job]) -> bool:
        """One transaction for all jobs: apply, commit, publish, answer. Whether it committed."""
        if self.broken is not None:
            for job in jobs:
                job.future.set_exception(self.broken)
            return False
        if jobs[0].seal:
            self._seal(jobs[0])
            return False
        state_before, effects = copy.deepcopy(self._memory.state), Effects()
        answers: list[tuple[Job, Any]] = []
        try:
            with self._catalog.transaction():
                for job in jobs:
                    try:
                        with self._catalog.savepoint():
                            answers.append((job, self._apply(job, effects)))
                    except ConflictError as error:  # raised before anything was changed
                        job.future.set_exception(error)
                if answers:
                    self._memory.lexicons.write(self._catalog)
                    self._catalog.set_meta("state", self._memory.state)
        except BaseException as error:
            if isinstance(error, StorageError):
                self.broken = error  # what the disk now holds is unknown: only a new opening may tell
            self._undo(state_before, effects)
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(error)
            return False
        self._memory.lexicons.commit()
        try:
            self._take_over(jobs[0], effects)
        except BaseException as error:
            # Committed but not shown: say so and stop, rather than serve a state that memory does not match.
            self.broken = StorageError(f"the write is durable but could not be published: {error}")
        for job, answer in answers:
            if self.broken is not None:
                job.future.set_exception(self.broken)
            else:
                job.future.set_result(answer)
        return True

    def _seal(self, job: Job) -> None:
        try:
            job.future.set_result(self._memory.seal())
        except BaseException as error:  # the writer thread lives on
            job.future.set_exception(error)

    def _undo(self, state: dict[str, Any], effects: Effects) -> None:
        self._memory.state = state
        self._memory.lexicons.rollback()
        if self.broken is None:  # a commit whose sync failed may turn out to have happened: its segments must stay
            remove_segments(self._folder, [segment.name for segment in effects.segments])

    def _take_over(self, first: Job, effects: Effects) -> None:
        if first.work is None:
            return self._memory.take_over(effects)
        if not first.reload:
            return self._memory.load_notes()
        before = {record.name for record in self._memory.records}
        self._memory.load()
        remove_segments(self._folder, before - {record.name for record in self._memory.records})

    # --- one job --------------------------------------------------------------------------------------------

    def _apply(self, job: Job, effects: Effects) -> Any:
        if job.work is not None:
            return job.work()
        if job.swap is not None:
            return self._apply_swap(job.swap, effects)
        if job.request_id:
            seen = self._catalog.find_request(job.request_id)
            if seen is not None:
                digest, answer = seen
                if digest != job.digest:
                    raise ConflictError(
                        f"request id {job.request_id!r:.80} was used for a different request", field="request_id"
                    )
                return WriteAnswer(**answer)
        if job.rows:
            result = self._apply_rows(job, effects)
        else:
            result = self._apply_delete(job, effects)
        if job.request_id:
            fields = {name: getattr(result, name) for name in WriteAnswer.__slots__}
            self._catalog.add_request(job.request_id, job.digest, fields)
        return result

    def _apply_rows(self, job: Job, effects: Effects) -> WriteAnswer:
        state, lexicons = self._memory.state, self._memory.lexicons
        replaced = self._catalog.find(row.id for row in job.rows)
        for seq in replaced.values():
            self._catalog.delete_document(seq)
            effects.dead.append(seq)
        for seq, (row, terms) in enumerate(zip(job.rows, job.terms, strict=True), state["next_seq"]):
            row.seq = seq
            row.terms = {name: lexicons.number(name, passages, state) for name, passages in terms.items()}
        state["next_seq"] += len(job.rows)
        state["documents"] += len(job.rows) - len(replaced)
        saturated = 0
        if job.bulk:
            building = self._helper.submit(self._build, job.rows)
            try:
                self._insert(job.rows)
            finally:  # whatever happened to the rows, the segment is ours to publish or to remove
                segment, record = building.result()
                effects.segments.append(segment)
            self._catalog.add_segment(record)
            saturated = sum(record.saturated.values())
        else:
            self._insert(job.rows)
            self._catalog.add_to_tail(row.seq for row in job.rows)
            effects.new_rows.extend(job.rows)
        state["version"] += 1
        return WriteAnswer(len(job.rows), len(replaced), 0, state["version"], saturated)

    def _insert(self, rows: Sequence[Row]) -> None:
        self._catalog.insert_documents((row.seq, row.id, pack(row)) for row in rows)

    def _apply_delete(self, job: Job, effects: Effects) -> WriteAnswer:
        state = self._memory.state
        if job.delete_filter is not None:
            generation = self._memory.generation  # the writer's own latest: a filter delete runs alone
            found = [seq for seq, _ in generation.scan(generation.mask(job.delete_filter))]
        else:
            found = list(self._catalog.find(dict.fromkeys(job.delete_ids)).values())
        for seq in found:
            self._catalog.delete_document(seq)
        effects.dead.extend(found)
        state["documents"] -= len(found)
        state["version"] += 1
        return WriteAnswer(0, 0, len(found), state["version"])

    def _apply_swap(self, swap: Swap, effects: Effects) -> None:
        for name in swap.replaced:
            self._catalog.remove_segment(name)
        for _, record in swap.made:
            self._catalog.add_segment(record)
        new = np.concatenate([np.empty(0, np.int64), *(segment.seqs for segment, _ in swap.made)])
        if swap.flushed:
            died = [seq for tail in self._memory.tails for seq in tail.dead]
            self._catalog.add_deletions(np.intersect1d(new, np.array(died, np.int64)).tolist())
            self._catalog.empty_tail(swap.flushed)
        for dead in self._memory.dead_of(swap.replaced):  # before the merge began: nothing holds them any more
            self._catalog.remove_deletions(np.setdiff1d(dead, new).tolist())
        effects.swap = swap


def remove_segments(folder: Path, names: Iterable[str]) -> None:
    """Remove segments of a collection's folder that no transaction names; the next opening removes what is left."""
    for name in names:
        with contextlib.suppress(StorageError, StorageFullError):
            storage.remove_folder(folder / SEGMENTS_FOLDER / name)
