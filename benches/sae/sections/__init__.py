"""Sections of the report; each is a module here, imported when its turn comes.

A module has a function ``section(lab) -> list of rows``. A row's "kind" is where it stands in the report; one without
has its section's name. Rows of the kind "systems" say what the criterion of a published system asks, and whether it is
met.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import Any

from benches.quality.results import Row
from benches.sae.lab import Lab
from sparsight.errors import InvalidArgumentError

__all__ = ["Section", "find", "names"]

Section = Callable[[Lab], list[Row]]
_FIRST = ("retention", "dead", "stability", "nested")  # they train what others look at


def names() -> list[str]:
    """All sections in the order in which they are measured: some first, the others by name."""
    there = {module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")}
    return [name for name in _FIRST if name in there] + sorted(there - set(_FIRST))


def find(name: str) -> Section:
    """The function of a section.

    Raises
    ------
    InvalidArgumentError
        If there is no such section, or its module has no such function.
    """
    if name not in (there := names()):
        raise InvalidArgumentError(f"expected sections among {', '.join(there)}, got {name!r}", field="sections")
    found: Any = getattr(import_module(f"{__name__}.{name}"), "section", None)
    if found is None:
        raise InvalidArgumentError(f"the module of {name} has no function section(lab)", field="sections")
    section: Section = found
    return section
