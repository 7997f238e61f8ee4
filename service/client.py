"""The blocking client: the embedded database's methods over gRPC.

Every request has a deadline: 10 s for searches and reads, 120 s for writes, batches, encoding and maintenance, or what
``timeout`` says. Reads, upserts and deletes are repeated when the server cannot be reached for a moment (writes carry a
request id, so a repeat has no second effect). A client may be used from many threads; after ``os.fork`` make a new one,
since gRPC and fork do not mix.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, Literal, Self, TypeVar

import grpc
import numpy as np
from grpc_health.v1 import health_pb2
from numpy.typing import NDArray

from sparsight.errors import ClosedError, SparsightError, UnavailableError
from sparsight.service import _calls, _calls_operations
from sparsight.service._channel import channel_options, check_target, check_timeout
from sparsight.service._parts import Rpc
from sparsight.service.client_features import FeatureMethods
from sparsight.service.errors import from_rpc_error
from sparsight.types import (
    CollectionInfo,
    Document,
    Field,
    Operation,
    Page,
    PassageSpec,
    Query,
    SAEField,
    SearchResult,
    SparseVector,
    VerifyReport,
    WriteResult,
)

__all__ = ["Client", "Collection"]

T = TypeVar("T")

STORED = ("title", "text", "metadata")


class Client:
    """A server's database, with the methods of :class:`sparsight.retrieval.Database`.

    Parameters
    ----------
    target : str
        ``host:port``. Nothing is connected yet; :meth:`wait_ready` waits for the server.
    options : mapping, optional
        gRPC channel options over the client's own.

    Notes
    -----
    Every method that makes a request takes ``timeout``: seconds for each request it makes (a large upsert makes
    several), None for the default of its kind.
    """

    def __init__(self, target: str, *, options: Mapping[str, Any] | None = None) -> None:
        self.target = check_target(target)
        self._channel: grpc.Channel | None = grpc.insecure_channel(target, channel_options(dict(options or {})))
        self._stubs: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client {self.target}>"

    def __getitem__(self, name: str) -> Collection:
        return self.collection(name)

    def close(self) -> None:
        """Close the connection; calls under way end with an error. A second time does nothing."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Return once the server answers that it is serving.

        Raises
        ------
        UnavailableError
            It did not within ``timeout`` seconds.
        """
        rpc = Rpc("grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse)
        end = time.monotonic() + check_timeout(timeout, 30.0)
        problem = "no answer"
        while True:
            left = end - time.monotonic()
            try:
                answer = self._send(rpc, max(0.05, min(1.0, left)))
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
                problem = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            except ClosedError:
                raise
            except SparsightError as error:
                problem = error.message
            if left <= 0:
                raise UnavailableError(
                    f"{self.target} was not ready after {timeout:g} s: {problem}", target=self.target
                )
            time.sleep(max(0.0, min(0.05, end - time.monotonic())))

    # --- collections --------------------------------------------------------------------------------------

    def create_collection(
        self,
        name: str,
        fields: Sequence[Field] | None = None,
        *,
        passages: PassageSpec = PassageSpec(),  # noqa: B008 - frozen
        exist_ok: bool = False,
        timeout: float | None = None,
    ) -> Collection:
        """Make a collection; fields None takes a SPLADE, a BM25 and a dense field with models that need no hub."""
        return Collection(self, self._run(_calls.create_collection(name, fields, passages, exist_ok), timeout))

    def collection(self, name: str, *, timeout: float | None = None) -> Collection:
        """The collection of that name; UnknownCollectionError if there is none."""
        return Collection(self, self._run(_calls.info(name), timeout).name)

    def list_collections(self, *, timeout: float | None = None) -> list[CollectionInfo]:
        """All collections, by name."""
        return self._run(_calls.list_collections(), timeout)

    def drop_collection(self, name: str, *, timeout: float | None = None) -> None:
        """Drop a collection with everything in it."""
        self._run(_calls.drop_collection(name), timeout)

    # --- models -------------------------------------------------------------------------------------------

    def encode(
        self, model: str, texts: Sequence[str], *, mode: str = "document", timeout: float | None = None
    ) -> list[SparseVector] | NDArray[np.float32]:
        """Vectors of texts: a list of sparse vectors, or float32 (B, D), by the kind of the model."""
        return self._run(_calls.encode(model, texts, mode), timeout)

    def terms(self, model: str, indices: Sequence[int], *, timeout: float | None = None) -> list[str]:
        """Words of a sparse model's terms."""
        return self._run(_calls.terms(model, indices), timeout)

    # --- operations ---------------------------------------------------------------------------------------

    def operation(self, name: str, *, timeout: float | None = None) -> Operation:
        """State of an operation."""
        return self._run(_calls_operations.operation(name), timeout)

    def list_operations(self, *, timeout: float | None = None) -> list[Operation]:
        """All operations that the server remembers, oldest first."""
        return self._run(_calls_operations.list_operations(), timeout)

    def cancel_operation(self, name: str, *, timeout: float | None = None) -> None:
        """Ask an operation to stop; it ends soon after, with an error that says so."""
        self._run(_calls_operations.cancel_operation(name), timeout)

    def delete_operation(self, name: str, *, timeout: float | None = None) -> None:
        """Forget a finished operation."""
        self._run(_calls_operations.delete_operation(name), timeout)

    def wait_operation(self, name: str, timeout: float | None = None) -> Operation:
        """Wait until an operation is done; here ``timeout`` is for the whole wait. DeadlineError when it has passed."""
        return self._run(_calls_operations.wait_operation(name, timeout), None)

    # --- sending ------------------------------------------------------------------------------------------

    def _run(self, steps: Generator[Rpc, Any, T], timeout: float | None) -> T:
        """Send what the steps ask for, one request after another, and return their result."""
        try:
            rpc = next(steps)
            while True:
                try:
                    answer = self._send(rpc, check_timeout(timeout, rpc.seconds))
                except SparsightError as error:
                    rpc = steps.throw(error)
                else:
                    rpc = steps.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _send(self, rpc: Rpc, seconds: float) -> Any:
        if self._channel is None:
            raise ClosedError("the client was closed")
        stub = self._stubs.get(rpc.method)
        if stub is None:
            stub = self._stubs[rpc.method] = self._channel.unary_unary(
                f"/{rpc.method}",
                request_serializer=type(rpc.request).SerializeToString,
                response_deserializer=rpc.response.FromString,
            )
        try:
            return stub(rpc.request, timeout=seconds)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        except ValueError as error:  # what a channel says that another thread closed
            raise ClosedError("the client was closed") from error


class Collection(FeatureMethods):
    """A collection on a server, with the methods of :class:`sparsight.retrieval.Collection`."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self.name = name

    def __repr__(self) -> str:
        return f"<Collection {self.name!r} at {self._client.target}>"

    def info(self, *, timeout: float | None = None) -> CollectionInfo:
        """Fields, sizes and fingerprints."""
        return self._client._run(_calls.info(self.name), timeout)

    # --- writes -------------------------------------------------------------------------------------------

    def upsert(
        self, documents: Iterable[Document | Mapping[str, Any]], *, request_id: str = "", timeout: float | None = None
    ) -> WriteResult:
        """Insert documents, replacing those whose id exists.

        Sent in parts of at most 8 MiB (or 10,000 documents). Each part is stored wholly or not at all, by itself: when
        a later part is refused, the earlier ones stay, and the error's ``details["documents_written"]`` says how many
        documents that are. Parts carry request ids derived from ``request_id`` (one is made if none is given), so the
        same call again with the same documents finishes the rest and repeats nothing.
        """
        return self._client._run(_calls.upsert(self.name, documents, request_id), timeout)

    def delete(
        self, ids: Iterable[str] = (), *, filter: str = "", request_id: str = "", timeout: float | None = None
    ) -> WriteResult:
        """Delete documents by id (missing ones are skipped), or all that satisfy a filter."""
        return self._client._run(_calls.delete(self.name, ids, filter, request_id), timeout)

    # --- reads --------------------------------------------------------------------------------------------

    def get(self, id: str, *, include: Sequence[str] = STORED, timeout: float | None = None) -> Document:
        """One document; UnknownDocumentError if there is none of that id."""
        return self._client._run(_calls.get(self.name, id, include), timeout)

    def get_many(
        self, ids: Iterable[str], *, include: Sequence[str] = STORED, timeout: float | None = None
    ) -> list[Document]:
        """Documents in the order of ``ids``; missing ones are left out. Fetched in parts when they are many."""
        return self._client._run(_calls.get_many(self.name, ids, include), timeout)

    def count(self, filter: str = "", *, timeout: float | None = None) -> int:
        """Documents, or those that satisfy a filter."""
        return self._client._run(_calls.count(self.name, filter), timeout)

    def scroll(
        self,
        filter: str = "",
        *,
        page_size: int = 100,
        page_token: str = "",
        include: Sequence[str] = STORED,
        timeout: float | None = None,
    ) -> Page:
        """Documents in the order they were last written, page by page.

        A page may be shorter than asked for, to fit into a message; only an empty ``next_page_token`` is the end.
        """
        return self._client._run(_calls.scroll(self.name, filter, page_size, page_token, include), timeout)

    # --- search -------------------------------------------------------------------------------------------

    def search(self, query: Query | str, *, timeout: float | None = None, **overrides: Any) -> SearchResult:
        """The k best documents of a query; overrides are attributes of Query (``k=5, filter="year >= 2015"``)."""
        return self._client._run(_calls.search(self.name, query, overrides), timeout)

    def batch_search(
        self, queries: Sequence[Query | str], *, timeout: float | None = None, **overrides: Any
    ) -> list[SearchResult]:
        """:meth:`search` for many queries.

        Sent in parts of at most 8 MiB and 1,024 queries; a part is answered on one state of the collection.
        """
        return self._client._run(_calls.batch_search(self.name, queries, overrides), timeout)

    # --- maintenance --------------------------------------------------------------------------------------

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
        timeout: float | None = None,
    ) -> Operation:
        """Train a sparse autoencoder on a dense field's vectors and add it as a field; ``wait`` polls it.

        ``scorer`` to ``k1`` are the new field's: see :class:`sparsight.types.SAEField`.
        """
        spec = SAEField(field, source, "", scorer, max_query_terms, weighting, k1, rescore)
        steps = _calls_operations.train_sae(self.name, spec, n_latents, k, epochs, (seed, seeds), wait)
        return self._client._run(steps, timeout)

    def name_features(self, field: str = "", *, wait: bool = True, timeout: float | None = None) -> Operation:
        """Name the features of an SAE field anew, from this collection's passages; ``wait`` polls until it is done.

        A language model's labels are for :meth:`sparsight.retrieval.Collection.name_features` alone: a server calls
        nobody.
        """
        return self._client._run(_calls_operations.name_features(self.name, field, wait), timeout)

    def compact(self, *, wait: bool = True, timeout: float | None = None) -> Operation:
        """Merge all segments into one without deleted documents; ``wait`` polls until it is done."""
        return self._client._run(_calls_operations.compact(self.name, wait), timeout)

    def flush(self, *, timeout: float | None = None) -> None:
        """Move the tail into a segment now. Durability does not need it."""
        self._client._run(_calls.flush(self.name), timeout)

    def verify(self, *, timeout: float | None = None) -> VerifyReport:
        """Check every stored byte and every invariant between catalogue and segments."""
        return self._client._run(_calls.verify(self.name), timeout)
