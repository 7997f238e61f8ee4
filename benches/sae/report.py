"""The page: what was asked, retention, stability, criteria of published systems, and all other rows as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benches.quality.report import figure, generic_lines, origin_text, table_lines, target_lines
from benches.quality.results import Row

__all__ = ["markdown"]

_SETS = ("scifact", "cranfield", "cacm", "arxiv", "mean")
_VERDICTS = {True: "met", False: "**missed**"}
_OWN = ("sections", "targets", "retention", "baselines", "models", "stability", "nested", "systems")


def markdown(results: dict[str, Any], stem: str = "sae") -> str:
    """All of it as Markdown; pictures are called by the file's ``stem``."""
    rows: dict[str, list[Row]] = results["rows"]
    parts = ["# Sparse autoencoders", "", "Made by `python -m benches.sae`; what is measured and how: "
             "`benches/README.md`.", "", *_about(results), *target_lines(rows.get("targets", []), stem)]
    if "retention" in rows:
        parts += [f"![Retention, query weights, stability]({stem}.svg)", ""]
    for kind, lines in (("retention", _retention), ("baselines", _baselines), ("models", _plain("Recipes")),
                        ("stability", _plain("Stability")), ("nested", _plain("One model for several k")),
                        ("systems", _systems)):  # fmt: skip
        if rows.get(kind):
            parts += lines(rows[kind])
    parts += [line for kind, of in rows.items() if kind not in _OWN for line in generic_lines(kind, _without(of))]
    return "\n".join([*parts, *_sections(rows.get("sections", []))])


def _about(results: dict[str, Any]) -> list[str]:
    small = ["A try with little data: figures show that it runs, and nothing else.", ""] if results.get("small") else []
    if "model" not in results:
        return small
    return [*small, f"{results['model']}: {results['rows_trained']:,} vectors of {results['width']} components trained "
            f"on, {results['rows_held']:,} held out.", ""]


def _retention(rows: Sequence[Row]) -> list[str]:
    table = [[row["recipe"], row["scorer"], f"{row['k']}", f"{row['n_latents']:,}", row["coding"], f"{row['bytes']:g}",
              *(f"{row[name]:.3f}" for name in _SETS), f"{row['spread']:.3f}", f"{row['seeds']}",
              f"{row['postings']:,}"] for row in rows]  # fmt: skip
    head = ("recipe", "scorer", "k", "N", "coding", "bytes", *_SETS, "spread", "seeds", "postings")
    return ["## Retention", "", "nDCG@10 of codes over that of the dense vectors; spread: standard deviation of the "
            "mean over trainings; postings: what an exhaustive search of a query reads, mean over sets.", "",
            *table_lines(head, table, 2)]  # fmt: skip


def _baselines(rows: Sequence[Row]) -> list[str]:
    table = [[row["system"], row["scorer"], f"{row['k']}", f"{row['bytes']:g}", *(f"{row[name]:.3f}" for name in _SETS)]
             for row in rows]
    head = ("system", "scorer", "beside k", "bytes", *_SETS)
    return ["## Other forms of no more bytes", "", "Bytes are those of k postings in our dictionary for that k, or "
            "what fits into them.", "", *table_lines(head, table, 2)]


def _plain(title: str) -> Any:
    return lambda rows: [f"## {title}", "", *generic_lines("", _without(rows))[2:]]


def _systems(rows: Sequence[Row]) -> list[str]:
    met = sum(bool(row["met"]) for row in rows)
    table = [[f"{row['system']}", row["name"], row["asks"], f"{row['bound']} {figure(row['asked'])}", _measured(row),
              _VERDICTS[bool(row["met"])], row["note"]] for row in sorted(rows, key=lambda row: row["system"])]
    head = ("", "system", "criterion", "asked", "measured", "", "remark")
    return ["## Criteria of published systems", "", f"{met} of {len(rows)} are met.", "",
            *table_lines(head, table, len(head))]  # fmt: skip


def _measured(row: Row) -> str:
    return "not a number" if row["measured"] is None else f"{figure(row['measured'])} {row['unit']}"


def _without(rows: Sequence[Row]) -> list[Row]:
    """Rows without what the page says elsewhere."""
    return [{key: value for key, value in row.items() if key not in ("kind", "section")} for row in rows]


def _sections(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    by_origin: dict[str, list[str]] = {}
    for row in rows:
        by_origin.setdefault(origin_text(row), []).append(f"{row['section']} ({row['seconds']:.0f} s)")
    lines = [f"* {', '.join(of)}: {origin}" for origin, of in by_origin.items()]
    return ["## Where the rows are from", "", *lines, ""]
