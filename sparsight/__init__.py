"""sparsight: learned sparse retrieval and SAE search as one engine, embedded or over gRPC.

``open`` and ``connect`` return objects with the same methods; ``aconnect`` is connect's asyncio twin. ``explore`` shows
a collection of either in a notebook.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from sparsight.retrieval.engine import Database
    from sparsight.service.aclient import AsyncClient
    from sparsight.service.client import Client
    from sparsight.service.notebook import Explorer

__version__ = "0.1.0"

__all__ = ["__version__", "aconnect", "connect", "explore", "open"]


def open(path: str | Path, *, read_only: bool = False, **options: Any) -> Database:
    """Open (or make) the database in a folder; see :class:`sparsight.retrieval.Database`.

    Raises
    ------
    LockedError
        Another process writes to this folder; ``read_only=True`` follows it instead.
    """
    from sparsight.retrieval.engine import Database

    return Database(path, read_only=read_only, **options)


def connect(target: str, **options: Any) -> Client:
    """Connect to a server at ``host:port``; see :class:`sparsight.service.client.Client`."""
    from sparsight.service.client import Client

    return Client(target, **options)


def aconnect(target: str, **options: Any) -> AsyncClient:
    """Connect to a server at ``host:port`` from asyncio; see :class:`sparsight.service.aclient.AsyncClient`."""
    from sparsight.service.aclient import AsyncClient

    return AsyncClient(target, **options)


def explore(collection: Any, **options: Any) -> Explorer:
    """A collection of either door for a notebook; see :class:`sparsight.service.notebook.Explorer`."""
    from sparsight.service.notebook import Explorer

    return Explorer(collection, **options)


def __getattr__(name: str) -> Any:
    # `sparsight.Query`, `sparsight.Document`, `sparsight.NotFoundError`, ... without importing them up front.
    # import_module and not `from sparsight import`: the latter would ask this function for the module again.
    for module in (import_module("sparsight.types"), import_module("sparsight.errors")):
        if name in module.__all__:
            return getattr(module, name)
    raise AttributeError(f"module 'sparsight' has no attribute {name!r}")
