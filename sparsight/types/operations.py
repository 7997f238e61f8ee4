"""What long work and checks report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Operation", "VerifyReport"]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What ``verify`` looked at and the faults it found; none means every byte and invariant holds."""

    documents: int = 0
    segments: int = 0
    bytes_checked: int = 0
    faults: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no fault was found."""
        return not self.faults


@dataclass(frozen=True, slots=True)
class Operation:
    """Long-running work. ``done`` with an empty ``error`` is success; ``progress`` is in [0, 1]."""

    name: str
    kind: str = ""
    done: bool = False
    progress: float = 0.0
    message: str = ""
    error: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
