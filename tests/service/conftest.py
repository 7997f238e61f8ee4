"""One database and one server for a module's tests; collections are made by the tests under names of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparsight.retrieval.engine import Database
from sparsight.service.client import Client
from sparsight.service.server import ServerThread
from sparsight.types import BM25Field, DenseField, Field, SparseField

FIELDS: tuple[Field, ...] = (SparseField("terms", dimension=1000), DenseField("vec", dimension=8), BM25Field("bm25"))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with Database(tmp_path_factory.mktemp("data")) as database:
        yield database


@pytest.fixture(scope="module")
def server(database: Database) -> Iterator[ServerThread]:
    with ServerThread(database) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerThread) -> Iterator[Client]:
    with Client(server.target) as client:
        client.wait_ready(10)
        yield client


@pytest.fixture
def fields() -> tuple[Field, ...]:
    """Fields that need no model: ready vectors, and BM25 over texts."""
    return FIELDS
