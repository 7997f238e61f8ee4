"""The table: for each workload and k, every engine at every recall target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benches.search.results import Row

__all__ = ["markdown", "write_report"]

_HEAD = ("engine", "mode", "target", "recall", "recall u8", "p50 µs", "p99 µs", "bytes a document", "memory MB",
         "build s", "settings")  # fmt: skip


def write_report(rows: Sequence[Row], path: Path) -> None:
    """Write :func:`markdown` to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(markdown(rows))


def markdown(rows: Sequence[Row]) -> str:
    """All rows as Markdown tables; within one, targets ascend and the fastest comes first.

    A row whose measured recall is below its target says so with an asterisk: settings are chosen on other queries.
    """
    about = "Made by `make bench-search`; what is measured and how: `benches/README.md`."
    parts = ["# Search, measured", "", about, ""]
    for workload in dict.fromkeys(row["workload"] for row in rows):
        of = [row for row in rows if row["workload"] == workload]
        parts += [f"## {workload}: {of[0]['documents']:,} documents", ""]
        for machine in dict.fromkeys((row["machine"], row["queries"], row["rounds"]) for row in of):
            parts += [f"{machine[0]}; {machine[1]} queries, median of {machine[2]} rounds.", ""]
        for k in sorted({row["k"] for row in of}):
            table = sorted((row for row in of if row["k"] == k), key=_place)
            parts += [f"### k = {k}", "", _line(_HEAD), _line(["---"] * len(_HEAD))]
            parts += [_line(_cells(row)) for row in table]
            parts.append("")
    return "\n".join(parts)


def _place(row: Row) -> tuple[int, float, float]:
    target = row["target"]
    kind = {"best": 1, "exact": 2}.get(target, 0)
    return kind, float(target) if kind == 0 else 0.0, row["p50_us"]


def _cells(row: Row) -> list[str]:
    missed = row["target"] not in ("exact", "best") and row["recall_float"] < float(row["target"])
    build, search = row["parameters"]["build"], row["parameters"]["search"]
    name = [build["name"]] if build["name"] != "only" else []
    settings = [f"{key}={value}" for key, value in search.items() if key not in ("mode", "algorithm")]
    return [
        f"{row['engine']} {row['version']}", row["mode"], row["target"],
        f"{row['recall_float']:.4f}" + ("*" if missed else ""),
        "" if row["recall_u8"] is None else f"{row['recall_u8']:.4f}",
        f"{row['p50_us']:,.0f}", f"{row['p99_us']:,.0f}", f"{row['bytes'] / row['documents']:,.0f}",
        f"{row['pss_bytes'] / 1e6:,.0f}", f"{row['build_s']:,.1f}", " ".join(name + settings),
    ]  # fmt: skip


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
