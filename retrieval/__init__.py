"""The engine: collections that are written, searched, steered and explained, in this process.

Names are loaded when they are first used, so that importing the package is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsight.retrieval.collection import Collection
    from sparsight.retrieval.engine import Database, repair, verify

__all__ = ["Collection", "Database", "repair", "verify"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sparsight.retrieval import collection, engine

    return collection.Collection if name == "Collection" else getattr(engine, name)
