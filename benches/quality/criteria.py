"""Rows of reports: figures as they were measured, and what a published system's criterion asks beside them."""

from __future__ import annotations

from typing import Any

from benches.quality.results import Row
from sparsight.errors import InvalidArgumentError

__all__ = ["asked", "row"]


def row(kind: str, **values: Any) -> Row:
    """A row of some kind, its floats with five digits."""
    return {"kind": kind, **{name: _rounded(value) for name, value in values.items()}}


def asked(system: int, name: str, what: str, measured: float, bound: str, limit: float, *, unit: str,
          note: str) -> Row:
    """A row of the kind "systems"; ``met`` follows from the rounded figure.

    Parameters
    ----------
    system : int
        Its number in the list of systems.
    name : str
    what : str
        What its criterion asks, short.
    measured : float
        NaN meets nothing.
    bound : "at least" or "at most"
    limit : float
        What is asked.
    unit, note : str
        The note says how it was measured, and with what settings.

    Raises
    ------
    InvalidArgumentError
        If the bound is neither.
    """
    measured = _rounded(float(measured))
    met = {"at least": measured >= limit, "at most": measured <= limit}
    if bound not in met:
        raise InvalidArgumentError(f"expected bound {' or '.join(met)}, got {bound!r}", field="bound")
    return {"kind": "systems", "system": system, "name": name, "asks": what, "asked": limit, "bound": bound,
            "measured": measured, "unit": unit, "met": met[bound], "note": note}


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value
