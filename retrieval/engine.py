"""The embedded database: a folder of collections, the models that fill them, and long-running work."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import (
    AlreadyExistsError,
    ClosedError,
    InvalidArgumentError,
    NotFoundError,
    ReadOnlyError,
    SparsightError,
    UnknownCollectionError,
)
from sparsight.index import storage
from sparsight.index.catalog import CATALOG_FILE
from sparsight.index.schema import CollectionSchema, check_collection_name
from sparsight.index.store import CollectionStore
from sparsight.index.verification import RepairReport, repair_folder, verify_folder
from sparsight.retrieval.collection import Collection, default_threads
from sparsight.retrieval.models import dense_encoder, factory, resolve_fields, sparse_encoder
from sparsight.retrieval.operations import Operations
from sparsight.retrieval.preparation import check_text
from sparsight.types import (
    DEFAULT_FIELDS,
    CollectionInfo,
    DenseField,
    Field,
    Operation,
    PassageSpec,
    SparseField,
    SparseVector,
    VerifyReport,
)

if TYPE_CHECKING:
    from sparsight.encoders import SAE

__all__ = ["Database", "repair", "verify", "warm_up"]

MAX_ENCODE_TEXTS = 1_024


class Database:
    """Collections below one folder, in this process. ``sparsight.open`` makes one.

    Parameters
    ----------
    path : path
        The data root; made when it does not exist.
    read_only : bool
        Follow another process that writes here: every call sees what has been committed by then.
    threads : int
        Threads for batch searches; 0 takes the processors this process may run on.

    Raises
    ------
    LockedError
        Another process writes to this folder.
    CorruptIndexError
        Stored data cannot be trusted; ``sparsight verify`` lists the faults, ``sparsight repair`` rebuilds.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False, threads: int = 0) -> None:
        self.path = Path(path)
        self.read_only = read_only
        self._threads = threads or default_threads()
        self._lock = threading.RLock()
        self._open: dict[str, Collection] = {}
        self._operations = Operations()
        self._closed = False
        self._writer_lock: storage.WriterLock | None = None
        if read_only:
            if not self.path.is_dir():
                raise NotFoundError(f"there is no data folder at {self.path}", field="path")
        else:
            storage.create_folder(self.path)
            self._writer_lock = storage.WriterLock(self.path)
        try:
            if not read_only:
                self._remove_half_made()
            for name in self._names():
                self.collection(name)
        except BaseException:
            self.close()
            raise

    def _remove_half_made(self) -> None:
        for entry in self.path.iterdir():
            if entry.is_dir() and entry.name.startswith(storage.BUILDING_PREFIX):
                storage.remove_folder(entry)

    def _names(self) -> list[str]:
        return _collection_names(self.path)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"the database at {self.path} is closed")

    # --- collections ---------------------------------------------------------------------------------------

    def create_collection(
        self,
        name: str,
        fields: Sequence[Field] | None = None,
        *,
        passages: PassageSpec = PassageSpec(),  # noqa: B008 - frozen
        exist_ok: bool = False,
    ) -> Collection:
        """Make a collection; durable when this returns.

        Parameters
        ----------
        name : str
            1 to 63 of a-z, 0-9, '_' and '-', beginning with a letter.
        fields : sequence of Field, optional
            None takes SPLADE, BM25 and dense fields, and one of the dense field's features, with small models that need
            no hub. An SAE field without a model is added later, by ``train_sae``.
        passages : PassageSpec
            How long texts are split.
        exist_ok : bool
            Return the collection of that name if it exists, whatever its fields.

        Raises
        ------
        AlreadyExistsError, InvalidArgumentError, CheckpointError, IncompatibleModelError, ReadOnlyError
        """
        self._check_open()
        check_collection_name(name)
        if self.read_only:
            raise ReadOnlyError(f"the database at {self.path} was opened read-only")
        with self._lock:
            if name in self._names():
                if exist_ok:
                    return self.collection(name)
                raise AlreadyExistsError(f"collection {name!r} exists", field="name")
        wanted = DEFAULT_FIELDS if fields is None else tuple(fields)
        resolved, saes = resolve_fields(wanted)
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        schema = CollectionSchema(name, resolved, passages, created, secrets.token_hex(16)).check()
        with self._lock:
            if name in self._names():
                raise AlreadyExistsError(f"collection {name!r} exists", field="name")
            folder = self.path / name
            store = CollectionStore.create(folder, schema, factory(folder), partial(_save_models, saes))
            self._open[name] = Collection(store, self._operations, self._threads)
            return self._open[name]

    def collection(self, name: str) -> Collection:
        """The collection of that name.

        Raises
        ------
        UnknownCollectionError
        """
        self._check_open()
        check_collection_name(name)
        with self._lock:
            if name not in self._open:
                folder = self.path / name
                if not (folder / CATALOG_FILE).is_file():
                    raise UnknownCollectionError(f"no collection {name!r}", field="name", name=name)
                store = CollectionStore(folder, factory(folder), read_only=self.read_only)
                self._open[name] = Collection(store, self._operations, self._threads)
            return self._open[name]

    def __getitem__(self, name: str) -> Collection:
        return self.collection(name)

    def list_collections(self) -> list[CollectionInfo]:
        """Descriptions of all collections, by name."""
        self._check_open()
        return [self.collection(name).info() for name in self._names()]

    def drop_collection(self, name: str) -> None:
        """Remove a collection and all its documents; durable when this returns. There is no way back."""
        collection = self.collection(name)
        if self.read_only:
            raise ReadOnlyError(f"the database at {self.path} was opened read-only")
        with self._lock:
            collection._close()
            del self._open[name]
            # Renamed first: a crash in the middle of removing leaves a leftover, never half a collection.
            doomed = self.path / f"{storage.BUILDING_PREFIX}dropped-{name}-{secrets.token_hex(4)}"
            storage.publish_folder(self.path / name, doomed)
            storage.remove_folder(doomed)

    # --- encoding ------------------------------------------------------------------------------------------

    def encode(
        self, model: str, texts: Sequence[str], *, mode: str = "document"
    ) -> list[SparseVector] | NDArray[np.float32]:
        """Vectors of texts under a model: SparseVectors, or float32 (B, D) unit rows.

        ``model`` is an encoder's name, folder or ``pypi:`` reference; ``mode`` is "document" or "query".
        """
        from sparsight.encoders import SparseEncoder

        self._check_open()
        encoder = self._encoder(model)
        if mode not in ("document", "query"):
            raise InvalidArgumentError(f'mode is "document" or "query"; got {mode!r:.80}', field="mode")
        if isinstance(texts, str) or not 1 <= len(texts) <= MAX_ENCODE_TEXTS:
            raise InvalidArgumentError(f"a call takes 1 to {MAX_ENCODE_TEXTS} texts", field="texts")
        checked = [check_text(text, f"texts[{position}]") for position, text in enumerate(texts)]
        if isinstance(encoder, SparseEncoder):
            from sparsight.index.vectors import csr_rows

            return [SparseVector(row.term_ids, row.values) for row in csr_rows(encoder.encode(checked, mode=mode))]  # type: ignore[arg-type]
        vectors: NDArray[np.float32] = encoder.encode(checked, mode=mode)
        return vectors

    def terms(self, model: str, indices: Sequence[int]) -> list[str]:
        """The words that a sparse model's dimensions stand for."""
        from sparsight.encoders import SparseEncoder

        encoder = self._encoder(model)
        if not isinstance(encoder, SparseEncoder):
            raise InvalidArgumentError(f"{model!r:.80} is a dense encoder: its dimensions have no words", field="model")
        for position, index in enumerate(indices):
            if not 0 <= index < encoder.dimension:
                raise InvalidArgumentError(
                    f"index is 0 to {encoder.dimension - 1}; got {index}", field=f"indices[{position}]"
                )
        return [encoder.term(int(index)) for index in indices]

    def _encoder(self, model: str):  # type: ignore[no-untyped-def]
        from sparsight.encoders import load_encoder

        self._check_open()
        if not isinstance(model, str) or not model:
            raise InvalidArgumentError("a model is named by a non-empty string", field="model")
        return load_encoder(model)

    # --- long-running work ---------------------------------------------------------------------------------

    def operation(self, name: str) -> Operation:
        """The long-running operation of that name as it is now."""
        return self._operations.get(name)

    def list_operations(self) -> list[Operation]:
        """All operations of this process, oldest first."""
        return self._operations.list()

    def cancel_operation(self, name: str) -> None:
        """Ask an operation to stop."""
        self._operations.cancel(name)

    def delete_operation(self, name: str) -> None:
        """Forget a finished operation."""
        self._operations.delete(name)

    def wait_operation(self, name: str, timeout: float | None = None) -> Operation:
        """Wait until an operation is done, at most ``timeout`` seconds (DeadlineError)."""
        return self._operations.wait(name, timeout)

    # --- end -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Finish writes, stop background work, release the lock. Harmless when called twice."""
        with self._lock:
            if self._closed:
                return
            self._operations.close()
            self._closed = True
            for collection in self._open.values():
                collection._close()
            self._open.clear()
            if self._writer_lock is not None:
                self._writer_lock.release()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Database {str(self.path)!r}: {', '.join(self._names()) or 'no collections'}>"


def warm_up(database: Database) -> list[str]:
    """Load the models of all collections now instead of with the first query; returns what went wrong.

    A model that cannot be had is no reason to refuse the searches that do without it: those that need it say so.
    """
    faults = []
    for info in database.list_collections():
        for field in database[info.name]._store.schema.fields:
            if isinstance(field.spec, SparseField | DenseField) and field.spec.encoder:
                try:
                    encoder = sparse_encoder(field) if field.kind == "sparse" else dense_encoder(field)
                    encoder.encode(["warm up"], mode="query")
                except SparsightError as error:
                    faults.append(f"{info.name}.{field.name}: {error.message}")
    return faults


def _save_models(saes: Mapping[str, SAE], folder: Path) -> None:
    for model, sae in saes.items():
        with storage.translated("write", folder / model):
            sae.save(folder / model)


def _collection_names(root: Path) -> list[str]:
    """Collections below a data root; folders that are being made or removed are none."""
    return sorted(
        entry.name for entry in root.iterdir() if not entry.name.startswith(".") and (entry / CATALOG_FILE).is_file()
    )


def verify(path: str | Path) -> dict[str, VerifyReport]:
    """Verify every collection below a data root, by name, without opening it for writing."""
    root = Path(path)
    names = _collection_names(root)
    return {name: verify_folder(root / name) for name in names}


def repair(path: str | Path) -> dict[str, RepairReport]:
    """Rebuild the segments of every collection below a data root that has faults.

    Raises
    ------
    LockedError
        A process has the data root open for writing; stop it first.
    """
    root = Path(path)
    lock = storage.WriterLock(root)
    try:
        faulty = [name for name, report in verify(root).items() if not report.ok]
        return {name: repair_folder(root / name, factory(root / name)) for name in faulty}
    finally:
        lock.release()
