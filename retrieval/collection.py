"""A collection as its user holds it, embedded; the gRPC client's collection has the same methods."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from sparsight.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    OverloadedError,
    UnknownDocumentError,
)
from sparsight.index import filters, maintenance, storage
from sparsight.index.generation import Reference
from sparsight.index.schema import check_document_id
from sparsight.index.store import CollectionStore
from sparsight.index.verification import verify_store
from sparsight.kernels import CancelFlag
from sparsight.retrieval.arguments import (
    STORED,
    canonical,
    check_ids,
    check_include,
    check_request_id,
    digest_of,
    document_of,
    make_token,
    page_size_of,
    parse_filter,
    read_token,
    write_result,
)
from sparsight.retrieval.feature_methods import FeatureMethods
from sparsight.retrieval.naming import name_features
from sparsight.retrieval.operations import Operations
from sparsight.retrieval.planning import MAX_QUERY_TEXT
from sparsight.retrieval.preparation import check_documents, check_text, prepare_rows
from sparsight.retrieval.searching import search_all
from sparsight.retrieval.training import train_collection_sae
from sparsight.types import (
    CollectionInfo,
    Document,
    Operation,
    Page,
    Query,
    SAEField,
    SearchResult,
    VerifyReport,
    WriteResult,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sparsight.encoders.sae.language_model import LanguageModel

__all__ = ["Collection"]


class Collection(FeatureMethods):
    """Documents with their fields: write, read, search, steer.

    Made by :class:`sparsight.retrieval.Database`. Safe to use from many threads: searches run beside each other
    and beside writes, each on one consistent state; writes are durable and searchable when they return.
    """

    def __init__(self, store: CollectionStore, operations: Operations, threads: int) -> None:
        super().__init__()
        self._store = store
        self._operations = operations
        self._threads = threads
        self._maintenance = None if store.read_only else maintenance.Maintenance(store)

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._store.schema.name

    def __repr__(self) -> str:
        generation = self._store.generation
        fields = ", ".join(item.name for item in generation.schema.fields)
        return f"<Collection {self.name!r}: {generation.documents:,} documents, fields {fields}>"

    def info(self) -> CollectionInfo:
        """Fields, sizes and model fingerprints, as of now."""
        generation, store = self._generation(), self._store
        schema = generation.schema
        return CollectionInfo(
            name=schema.name,
            fields=tuple(item.spec for item in schema.fields),
            passages=schema.passages,
            documents=generation.documents,
            passage_count=generation.passages,
            segments=len(store.memory.records),
            tail_documents=store.memory.tail_documents,
            generation=generation.version,
            bytes_on_disk=storage.folder_bytes(store.folder),
            fingerprints={item.name: item.fingerprint for item in schema.fields if item.fingerprint},
            saturated=store.memory.saturated,
            created=schema.created,
        )

    # --- writes --------------------------------------------------------------------------------------------

    def upsert(self, documents: Iterable[Document | Mapping[str, Any]], *, request_id: str = "") -> WriteResult:
        """Insert documents, replacing those whose id exists; all or none.

        Parameters
        ----------
        documents : iterable of Document or mapping
            At most 100,000; ids are unique among them. Mappings have a document's attributes as keys.
        request_id : str
            Makes a retry harmless: the same id with the same documents within 24 hours has no second effect
            and the same answer.

        Returns
        -------
        WriteResult
            When this returns the write is durable and searchable.

        Raises
        ------
        InvalidArgumentError
            With the path of what is wrong; nothing was written.
        ConflictError, ReadOnlyError, StorageError, StorageFullError
        """
        self._store.check_writable()
        checked = check_documents(documents)
        rows, dropped = prepare_rows(self._store.schema, checked)
        digest = digest_of(["upsert", [canonical(document) for document in checked]]) if request_id else ""
        answer = self._store.write(rows, request_id=check_request_id(request_id), digest=digest)
        return write_result(answer, dropped)

    def delete(self, ids: Iterable[str] = (), *, filter: str = "", request_id: str = "") -> WriteResult:
        """Delete documents by id (missing ones are skipped), or all that satisfy a filter."""
        self._store.check_writable()
        wanted = check_ids(ids)
        if bool(wanted) == bool(filter):
            raise InvalidArgumentError("give either ids or a filter", field="ids")
        node = filters.parse(check_text(filter, "filter", MAX_QUERY_TEXT)) if filter else None
        digest = digest_of(["delete", wanted, filter]) if request_id else ""
        return write_result(
            self._store.delete(wanted, node=node, request_id=check_request_id(request_id), digest=digest), 0
        )

    # --- reads ---------------------------------------------------------------------------------------------

    def get(self, id: str, *, include: Sequence[str] = STORED) -> Document:
        """One document; ``include`` may add "vectors" (as they were given or encoded, float32).

        Raises
        ------
        UnknownDocumentError
        """
        check_document_id(id)
        found = self.get_many([id], include=include)
        if not found:
            raise UnknownDocumentError(
                f"collection {self.name!r} has no document {id!r:.80}", field="id", id=id[:80], collection=self.name
            )
        return found[0]

    def get_many(self, ids: Iterable[str], *, include: Sequence[str] = STORED) -> list[Document]:
        """Documents in the order of ``ids``; missing ones are left out."""
        wanted, parts = check_ids(ids), check_include(include)
        self._store.refresh()
        return [document_of(row, parts) for row in self._store.rows(wanted)]

    def count(self, filter: str = "") -> int:
        """Documents, or those that satisfy a filter."""
        generation = self._generation()
        return generation.count(generation.mask(parse_filter(filter)))

    def scroll(
        self, filter: str = "", *, page_size: int = 100, page_token: str = "", include: Sequence[str] = STORED
    ) -> Page:
        """Documents in the order they were last written, page by page; at most 1,000 a page.

        A token is bound to its filter. Documents written while one scrolls appear at the end.
        """
        node, parts = parse_filter(filter), check_include(include)
        size = page_size_of(page_size, 100)
        after = read_token(page_token, filter)
        generation = self._generation()
        found: list[tuple[int, Reference]] = []
        for item in generation.scan(generation.mask(node), after):
            found.append(item)
            if len(found) > size:
                break
        page = found[:size]
        if "vectors" in parts:
            documents = [document_of(row, parts) for row in self._store.all_rows([seq for seq, _ in page])]
        else:
            documents = [document_of(generation.document(reference), parts) for _, reference in page]
        token = make_token(page[-1][0], filter) if len(found) > size else ""
        return Page(tuple(documents), token)

    # --- search --------------------------------------------------------------------------------------------

    def search(
        self, query: Query | str, *, timeout: float | None = None, cancel: CancelFlag | None = None, **overrides: Any
    ) -> SearchResult:
        """The k best documents of a query.

        Parameters
        ----------
        query : Query or str
            A str is the text of a query with the defaults.
        timeout : float, optional
            Seconds until DeadlineError.
        cancel : CancelFlag, optional
            Stops the search from another thread.
        **overrides
            Attributes of :class:`sparsight.types.Query`: ``k=5, filter="year >= 2015", explain=True``.

        Raises
        ------
        InvalidArgumentError, UnknownFieldError, UnknownFeatureError
            With the path of what is wrong.
        DeadlineError, SearchStoppedError
        """
        return self.batch_search([query], timeout=timeout, cancel=cancel, **overrides)[0]

    def batch_search(
        self,
        queries: Sequence[Query | str],
        *,
        timeout: float | None = None,
        cancel: CancelFlag | None = None,
        **overrides: Any,
    ) -> list[SearchResult]:
        """:meth:`search` for up to 1,024 queries on one state of the collection, encoded together and searched in
        parallel; each answer is what :meth:`search` would give."""
        if timeout is not None:
            deadline = time.monotonic_ns() + max(0, int(timeout * 1e9))
            cancel = cancel or CancelFlag()
            cancel.deadline_ns = min(cancel.deadline_ns or deadline, deadline)
        return search_all(self._generation(), queries, overrides, cancel, self._threads)

    # --- long work -----------------------------------------------------------------------------------------

    def train_sae(
        self,
        field: str = "sae",
        *,
        source: str = "dense",
        n_latents: int = 0,
        k: int = 32,
        epochs: int = 0,
        seed: int = 0,
        seeds: int = 1,
        scorer: Literal["decode", "symmetric"] = "decode",
        max_query_terms: int = 256,
        rescore: int = 50,
        weighting: Literal["none", "idf", "bm25"] = "none",
        k1: float = 1.2,
        wait: bool = True,
    ) -> Operation:
        """Train a sparse autoencoder on a dense field's vectors, name its features, and add it as a field.

        Parameters
        ----------
        field, source : str
            The new SAE field (replaced if it exists) and the dense field it explains.
        n_latents, epochs : int
            0 chooses by the collection's size.
        k : int
            Active latents a passage.
        seeds : int
            Trainings, of ``seed`` and those after it: the first is the field's, the others tell which of its features
            they find again (:attr:`sparsight.types.Feature.stability`).
        scorer, max_query_terms, rescore, weighting, k1
            The new field's: see :class:`sparsight.types.SAEField`.
        wait : bool
            Return when it is done; else at once, to be watched with the database's ``operation``.
        """
        self._store.check_writable()
        arguments = {"n_latents": n_latents, "k": k, "epochs": epochs, "seed": seed, "seeds": seeds}
        spec = SAEField(field, source, "", scorer, max_query_terms, weighting, k1, rescore)
        prepared = train_collection_sae(self._store, spec, arguments)
        return self._start("train_sae", prepared, wait)

    def name_features(
        self, field: str = "", *, language_model: LanguageModel | None = None, wait: bool = True
    ) -> Operation:
        """Name the features of an SAE field anew, from this collection's passages: labels, examples, histograms.

        Labels that users gave stay before those. Where a sparse field has an encoder, several kinds of labels compete
        and get scores (:attr:`sparsight.types.Feature.quality`).

        Parameters
        ----------
        field : str
            "" takes the only one.
        language_model : LanguageModel, optional
            An endpoint whose labels compete, too. It gets texts of this collection.
        wait : bool
            As :meth:`train_sae`.
        """
        self._store.check_writable()
        return self._start("name_features", name_features(self._store, field, language_model), wait)

    def compact(self, *, wait: bool = True) -> Operation:
        """Merge all segments into one without deleted documents."""
        self._store.check_writable()

        def work(progress: Callable[..., None]) -> Mapping[str, Any]:
            progress(0.0, "merging segments")
            maintenance.compact(self._store)
            return {"segments": len(self._store.memory.records)}

        return self._start("compact", work, wait)

    def _start(self, kind: str, work: Callable[..., Mapping[str, Any]], wait: bool) -> Operation:
        if sum(not item.done for item in self._operations.list()) >= 8:
            raise OverloadedError("8 operations are running already; wait for one to end")
        operation = self._operations.start(kind, work)
        if not wait:
            return operation
        done = self._operations.wait(operation.name)
        if done.error:
            raise FailedPreconditionError(done.error, reason="OPERATION_FAILED", operation=done.name)
        return done

    def flush(self) -> None:
        """Move the tail into a segment now. Durability does not need it: writes are durable when they return."""
        self._store.check_writable()
        maintenance.flush(self._store)

    def verify(self) -> VerifyReport:
        """Check every stored byte and every invariant between catalogue and segments."""
        self._store.refresh()
        return verify_store(self._store)

    def _close(self) -> None:
        if self._maintenance is not None:
            self._maintenance.close()
        self._store.close()


def default_threads() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0))
