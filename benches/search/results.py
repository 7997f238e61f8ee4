"""The file of results: a JSON list, a row a line, written whole at each new row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

__all__ = ["Results", "Row"]

Row = dict[str, Any]


class Results:
    """Rows kept in a file.

    Parameters
    ----------
    path : Path
        Read if it is there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = json.loads(path.read_text()) if path.exists() else []

    def has(self, engine: str, workload: str, k: int) -> bool:
        """Whether an engine has rows for a workload and k: they are added together."""
        return any((row["engine"], row["workload"], row["k"]) == (engine, workload, k) for row in self.rows)

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows."""
        self.rows.extend(rows)
        self._write()

    def drop(self, unwanted: Callable[[Row], bool]) -> None:
        """Remove rows."""
        self.rows = [row for row in self.rows if not unwanted(row)]
        if self.path.exists():
            self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text("[\n" + ",\n".join(json.dumps(row) for row in self.rows) + "\n]\n")
        part.replace(self.path)
