"""The engine: collections that are written, searched, steered and explained, in this process.

Names are loaded when they are first used, so that importing the package is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsight.encoders.sae.language_model import LanguageModel
    from sparsight.retrieval.collection import Collection
    from sparsight.retrieval.engine import Database, repair, verify

__all__ = ["Collection", "Database", "LanguageModel", "repair", "verify"]

_MODULES = {"Collection": "sparsight.retrieval.collection", "LanguageModel": "sparsight.encoders.sae.language_model"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "sparsight.retrieval.engine")), name)
