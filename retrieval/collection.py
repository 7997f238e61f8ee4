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
from sparsight.index.generation import Generation, Reference
from sparsight.index.schema import check_document_id
from sparsight.index.store import CollectionStore
from sparsight.index.verification import verify_store
from sparsight.kernels import CancelFlag
from sparsight.retrieval import examples, profiles, renaming
from sparsight.retrieval import features as feature_search
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
from sparsight.retrieval.families import FamilyCache
from sparsight.retrieval.maps import MapCache
from sparsight.retrieval.naming import name_features
from sparsight.retrieval.operations import Operations
from sparsight.retrieval.planning import MAX_QUERY_TEXT
from sparsight.retrieval.preparation import check_documents, check_text, prepare_rows
from sparsight.retrieval.searching import search_all
from sparsight.retrieval.training import train_collection_sae
from sparsight.retrieval.words import words_of
from sparsight.types import (
    CollectionInfo,
    Document,
    Edit,
    Feature,
    FeatureDifference,
    FeatureFamily,
    FeatureMap,
    FeaturePage,
    FeatureWeight,
    FeatureWords,
    Operation,
    Page,
    Profile,
    Query,
    RelatedFeatures,
    SAEField,
    SearchResult,
    VerifyReport,
    WriteResult,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sparsight.encoders.sae.language_model import LanguageModel

__all__ = ["Collection"]


class Collection:
    """Documents with their fields: write, read, search, steer.

    Made by :class:`sparsight.retrieval.Database`. Safe to use from many threads: searches run beside each other
    and beside writes, each on one consistent state; writes are durable and searchable when they return.
    """

    def __init__(self, store: CollectionStore, operations: Operations, threads: int) -> None:
        self._store = store
        self._operations = operations
        self._threads = threads
        self._families = FamilyCache()
        self._maps = MapCache()
        self._maintenance = None if store.read_only else maintenance.Maintenance(store)

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._store.schema.name

    def __repr__(self) -> str:
        generation = self._store.generation
        fields = ", ".join(item.name for item in generation.schema.fields)
        return f"<Collection {self.name!r}: {generation.documents:,} documents, fields {fields}>"

    def _generation(self) -> Generation:
        self._store.refresh()
        return self._store.generation

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

    # --- features ------------------------------------------------------------------------------------------

    def features(self, words: str = "", *, field: str = "", page_size: int = 50, page_token: str = "") -> FeaturePage:
        """Features of an SAE field: the most frequent first, or the best matches for some words.

        Words match a feature's label and what the words themselves activate; ``cosines`` tell how well.
        """
        generation = self._generation()
        check_text(words, "words", MAX_QUERY_TEXT)
        size, after = page_size_of(page_size, 50), read_token(page_token, words)
        found, cosines = feature_search.find(generation, words, field)
        token = make_token(after + size, words) if len(found) > after + size else ""
        shown = slice(after, after + size)
        return FeaturePage(tuple(found[shown]), token, tuple(cosines[shown]))

    def feature(self, index: int, *, field: str = "") -> Feature:
        """One feature; UnknownFeatureError if there is none of that index."""
        return feature_search.describe(self._generation(), index, field)

    def find_features(
        self,
        positives: Sequence[str] = (),
        negatives: Sequence[str] = (),
        *,
        positive_texts: Sequence[str] = (),
        negative_texts: Sequence[str] = (),
        words: str = "",
        field: str = "",
        count: int = 24,
    ) -> tuple[FeatureWeight, ...]:
        """Features that tell some examples from others, or that words describe, the most telling first.

        Parameters
        ----------
        positives, negatives : sequences of str
            Ids of documents of the collection.
        positive_texts, negative_texts : sequences of str
            Other texts; of both kinds together at most 1,000 of each. Without negatives the data that the SAE was
            trained on stand for them.
        words : str
            What is looked for, in words: "audio and music". Counts as much as all examples; needed where there are no
            positives.
        field : str
            The SAE field; "" is the only one.
        count : int
            At most so many, 1 to 256.

        Raises
        ------
        UnknownDocumentError, InvalidArgumentError, UnknownFieldError

        Examples
        --------
        >>> found = papers.find_features(["p1", "p7"], ["p3"])  # doctest: +SKIP
        >>> papers.search("sampling", edits=[item.edit(0.4) for item in found])  # doctest: +SKIP
        """
        feature_search.check_count(count)
        generation = self._generation()
        wanted, unwanted = (
            examples.vectors_of(self._store, generation, field, ids, texts, name)
            for name, ids, texts in (
                ("positives", positives, positive_texts),
                ("negatives", negatives, negative_texts),
            )
        )
        described = examples.described(generation, field, words)
        if not len(wanted) and described is None:
            raise InvalidArgumentError("expected at least one positive example, or words; got neither",
                                       field="positives")
        return feature_search.from_examples(generation, wanted, unwanted, field, count, described)

    def related_features(self, index: int, *, field: str = "", count: int = 10) -> RelatedFeatures:
        """Features that look most the way of one, and most the other way; at most 256 of each."""
        return feature_search.related(self._generation(), index, field, count)

    def compare(self, a: str = "", b: str = "", *, a_text: str = "", b_text: str = "", field: str = "",
                count: int = 64) -> tuple[FeatureDifference, ...]:  # fmt: skip
        """How strong features are in two documents or texts, the largest differences first.

        Parameters
        ----------
        a, b : str
            Ids of documents.
        a_text, b_text : str
            Texts in their place, such as a query. A side with neither has no features, so that the other's are listed.
        field : str
            The SAE field; "" is the only one.
        count : int
            At most so many, 1 to 256.

        Raises
        ------
        UnknownDocumentError, InvalidArgumentError, UnknownFieldError, FailedPreconditionError
            No such document, both a document and a text on a side or nothing on either, or a text where the field takes
            ready vectors.

        Examples
        --------
        >>> papers.compare(a_text="sparse coding of natural images")  # doctest: +SKIP
        """
        generation = self._generation()
        if not (a or a_text or b or b_text):
            raise InvalidArgumentError("expected a document or a text to compare, got neither", field="a")
        for name, id, text in (("a", a, a_text), ("b", b, b_text)):
            if id and text:
                raise InvalidArgumentError("expected a document or a text, got both", field=f"{name}_text")
        x, y = (
            examples.side(self._store, generation, field, id, text, name)
            for name, id, text in (("a", a, a_text), ("b", b, b_text))
        )
        return feature_search.compare(generation, x, y, field, count)

    def families(
        self, feature: int | None = None, *, field: str = "", count: int = 20
    ) -> tuple[FeatureFamily, ...]:
        """The largest families of features, or those that a feature is in; at most 256.

        Found from the collection's codes when they are first asked for, in some seconds, and again once it has changed
        by a tenth.
        """
        return self._families.families(self._generation(), feature, field, count)

    def feature_map(self, *, field: str = "") -> FeatureMap:
        """A map of the features that ever fired, at most the 8,192 most frequent: near ones point alike, those of one
        lobe fire together.

        Drawn when it is first asked for, in some seconds, and again once the collection has changed by a tenth.
        """
        return self._maps.feature_map(self._generation(), field)

    def words(
        self, id: str, features: Sequence[int], *, passage: int = 0, field: str = "", count: int = 10
    ) -> tuple[FeatureWords, ...]:
        """Which words of a document's passage fired features, the most telling first; at most 64 features.

        Raises
        ------
        UnknownDocumentError, UnknownFeatureError, InvalidArgumentError
        FailedPreconditionError
            The field takes ready vectors.
        """
        return words_of(self._store, self._generation(), id, features, passage, field, count)

    def rename_feature(self, index: int, label: str, *, field: str = "") -> Feature:
        """Call a feature something else; "" gives it the label back that it came with. What it was called is kept.

        Raises
        ------
        InvalidArgumentError, UnknownFeatureError
        """
        self._store.check_writable()
        renaming.rename(self._store, self._generation(), field, index, label)
        return self.feature(index, field=field)

    # --- profiles ------------------------------------------------------------------------------------------

    def save_profile(self, name: str, edits: Sequence[Edit], *, note: str = "") -> Profile:
        """Keep edits under a name, as a new version of it if there is one; queries use it as ``profile="NAME"``.

        Raises
        ------
        InvalidArgumentError, UnknownFeatureError, UnknownFieldError
            With the path of what is wrong.
        """
        self._store.check_writable()
        return profiles.save(self._store, self._generation(), name, edits, note)

    def profile(self, name: str, version: int = 0) -> Profile:
        """A version of a profile, the latest if none is given; UnknownProfileError if it is not there."""
        return profiles.get(self._generation(), name, version)

    def profiles(self) -> list[Profile]:
        """The latest version of every profile, by name."""
        return profiles.list_all(self._generation())

    def drop_profile(self, name: str) -> None:
        """Forget a profile with all its versions; UnknownProfileError if it is not there."""
        self._store.check_writable()
        profiles.drop(self._store, name)

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
