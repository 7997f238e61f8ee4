"""Finished sections: their rows in the working folder, and all of them as the report's file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benches.quality.files import write_text
from benches.quality.plots import plot_targets
from benches.quality.results import PROVENANCE, Row, write_results
from benches.sae.plots import plot
from benches.sae.report import markdown
from benches.sae.targets import target_rows

__all__ = ["finished", "keep", "merge", "write"]

_CUT = 2.0  # of the bars of targets


def finished(work: Path, section: str, key: str) -> dict[str, Any] | None:
    """What was kept of a section; None if nothing was, or of other data."""
    path = _path(work, section)
    if not path.is_file():
        return None
    kept: dict[str, Any] = json.loads(path.read_text())
    return kept if kept["data"] == key else None


def keep(work: Path, section: str, key: str, rows: Sequence[Row], about: Row) -> dict[str, Any]:
    """Write a section's rows, numbers that JSON has no word for as null; ``about`` is `PROVENANCE` and "seconds"."""
    kept = {"section": section, "data": key, **about, "rows": [_plain(row) for row in rows]}
    write_text(_path(work, section), json.dumps(kept, indent=1) + "\n")
    return kept


def merge(results: dict[str, Any], kept: dict[str, Any]) -> None:
    """Put a section's rows among the report's, in place of those that it had."""
    section, kinds = kept["section"], results["rows"]
    for kind in list(kinds):
        kinds[kind] = [row for row in kinds[kind] if row.get("section") != section]
    for row in kept["rows"]:
        kinds.setdefault(row.get("kind", section), []).append(row | {"section": section})
    about = {key: kept[key] for key in ("section", "seconds", *PROVENANCE)}
    kinds["sections"] = [*kinds.get("sections", []), about]
    results["rows"] = {kind: rows for kind, rows in kinds.items() if rows}


def write(results: dict[str, Any], path: Path) -> None:
    """The file, with what follows from it: targets, page, pictures."""
    rows = results["rows"]
    rows.pop("targets", None)
    about = {row["section"]: row for row in rows.get("sections", [])}
    if targets := target_rows(rows, about, path.parent):
        results["rows"] = rows = {"targets": targets, **rows}
        plot_targets(targets, path.with_name(f"{path.stem}_targets.svg"), most=_CUT)
    if "retention" in rows:
        plot(rows, path.with_suffix(".svg"))
    write_results(results, path)
    write_text(path.with_suffix(".md"), markdown(results, path.stem))


def _plain(value: Any) -> Any:
    """Without numpy's numbers, NaN and infinities."""
    if isinstance(value, dict):
        return {str(key): _plain(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(of) for of in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _path(work: Path, section: str) -> Path:
    return work / "rows" / f"{section}.json"
