"""Which settings are measured: for each recall target the fastest that reached it on the tuning queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["TARGETS", "Candidate", "choose"]

TARGETS = (0.90, 0.95, 0.97, 0.99, 0.999)


class Candidate(NamedTuple):
    """A build and a search setting, and what they did on the tuning queries."""

    build: str
    setting: dict[str, Any]
    recall: float
    p50_us: float


def choose(candidates: Sequence[Candidate], targets: Sequence[float] = TARGETS) -> dict[str, Candidate]:
    """The fastest candidate for each target.

    Returns
    -------
    dict
        By target as text. Targets that no candidate reached are left out; then "best" has the one of highest recall
        (the faster of equal ones), so that every engine has a row.
    """
    chosen = {}
    for target in targets:
        able = [candidate for candidate in candidates if candidate.recall >= target]
        if able:
            chosen[f"{target:g}"] = min(able, key=lambda candidate: candidate.p50_us)
    if candidates and len(chosen) < len(targets):
        best = max(candidates, key=lambda candidate: (candidate.recall, -candidate.p50_us))
        if best not in chosen.values():
            chosen["best"] = best
    return chosen
