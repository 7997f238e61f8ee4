"""The page: quality by set, what vectors cost, differences from the baseline, and what was merged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benches.quality.results import OWN_KINDS, PROVENANCE, Row

__all__ = ["figure", "generic_lines", "markdown", "origin_text", "summary", "table_lines", "target_lines"]

_SHOWN = ("scifact", "cranfield", "cacm")  # not among what models of this project are trained on
_VERDICTS = {True: "met", False: "**missed**", None: ""}


def summary(results: dict[str, Any]) -> list[Row]:
    """A row for each system: means over the picture's sets, non-zeros, and encoding speed.

    The picture's sets are scifact, cranfield and cacm, those of them that were measured; all sets if none was. A
    hybrid encodes everything twice: its speed is ``1 / (1/a + 1/b)``.
    """
    rows: list[Row] = results["rows"]["quality"]
    names = list(dict.fromkeys(row["set"] for row in rows))
    shown = [name for name in _SHOWN if name in names] or names
    speeds = {row["system"]: row for row in results["rows"].get("speed", [])}
    out = []
    for system in dict.fromkeys(row["system"] for row in rows):
        of = [row for row in rows if row["system"] == system and row["set"] in shown]
        parts = [speeds.get(part) for part in of[0].get("parts", [system])]
        rates = [part["texts_per_s"] for part in parts if part]
        mean = {key: sum(row[key] for row in of) / len(of)
                for key in ("nDCG@10", "R@100", "document_nonzeros", "query_nonzeros")}
        rate = 1 / sum(1 / rate for rate in rates) if len(rates) == len(parts) else None
        only = parts[0] if len(parts) == 1 else None
        out.append({"system": system, "kind": of[0]["kind"], "sets": shown, **mean, "texts_per_s": rate,
                    **{key: only[key] if only else None for key in ("precision", "query_p50_us", "query_p99_us")}})
    return out


def markdown(results: dict[str, Any], stem: str = "quality") -> str:
    """All of it as Markdown; pictures are called by the file's ``stem``."""
    rows = results["rows"]
    merged = [part for kind, of in rows.items() if kind not in OWN_KINDS for part in generic_lines(kind, of)]
    if "quality" not in rows:
        return "\n".join(["# Retrieval quality", "", *merged])
    parts = ["# Retrieval quality", "", "Made by `python -m benches.quality`; what is measured and how: "
             "`benches/README.md`.", "", *_about(results), f"![nDCG@10 against size and speed]({stem}.svg)", "",
             *_sets(rows["sets"]), *target_lines(rows.get("targets", []), stem)]
    for measure in ("nDCG@10", "R@100"):
        parts += [f"## {measure}", "", *_by_set(results, measure)]
    parts += ["## Cost of vectors", "", *_costs(results), "## Differences in nDCG@10", "", *_differences(rows)]
    return "\n".join([*parts, *merged])


def _about(results: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    cut = results["options"]["max_tokens"]
    return [f"{results['machine']}; commit {results['commit']}, {results['date']}; {versions}.", "",
            f"Models read documents up to {cut} word pieces, BM25 (k1 = 0.9, b = 0.4) to their end.",
            "", f"    {results['command']}", ""]


def _sets(sets: Sequence[Row]) -> list[str]:
    table = [[_starred(row["name"], row), f"{row['documents']:,}", f"{row['queries']:,}",
              f"{row['all_documents']:,}", f"{row['all_queries']:,}", "yes" if row["titles"] else "no"] for row in sets]
    note = ["\\* Sampled: with fewer documents a set is easier, so these figures compare with each other and not with "
            "those of the whole set.", ""] if any(row["sampled"] for row in sets) else []  # fmt: skip
    return [*table_lines(("set", "documents", "queries", "of documents", "of queries", "titles"), table, 1), *note]


def _by_set(results: dict[str, Any], measure: str) -> list[str]:
    rows, sets = results["rows"]["quality"], results["rows"]["sets"]
    means = summary(results)
    part = len(means[0]["sets"]) < len(sets)  # else the two means are one
    value = {(row["system"], row["set"]): row[measure] for row in rows}
    table = []
    for mean in means:
        of = [value[mean["system"], row["name"]] for row in sets]
        table.append([mean["system"], *(f"{figure:.3f}" for figure in of), f"{sum(of) / len(of):.3f}",
                      *([f"{mean[measure]:.3f}"] if part else [])])
    head = ["system", *(_starred(row["name"], row) for row in sets), "mean"]
    return table_lines([*head, f"mean of {_join(means)}"] if part else head, table, 1)


def _costs(results: dict[str, Any]) -> list[str]:
    means = summary(results)
    table = [[row["system"], f"{row['document_nonzeros']:,.1f}", f"{row['query_nonzeros']:,.1f}",
              _number(row["texts_per_s"]), _number(row["query_p50_us"]), _number(row["query_p99_us"]),
              row["precision"] or "–"] for row in means]
    head = ("system", "non-zeros of a document", "of a query", "documents/s", "query p50 µs", "query p99 µs",
            "precision")
    return [f"Non-zeros (a dense vector has all) are means over {_join(means)}. Encoding is on one thread, a query "
            "a call; systems took turns. BM25's documents/s is counting words, and a hybrid encodes twice.",
            "", *table_lines(head, table, 1), *_from(results["rows"].get("speed", []))]  # fmt: skip


def target_lines(rows: Sequence[Row], stem: str) -> list[str]:
    """What was asked, what was measured, and by which command where."""
    if not rows:
        return []
    origins = list(dict.fromkeys(origin_text(row) for row in rows if row["measured"] is not None))
    table = []
    for row in rows:
        asked = "to be told" if row["asked"] is None else f"{row['bound']} {figure(row['asked'])}"
        measured = "not measured" if row["measured"] is None else f"{figure(row['measured'])} {row['unit']}"
        origin = "" if row["measured"] is None else str(origins.index(origin_text(row)) + 1)
        table.append([row["what"], asked, measured, _VERDICTS[row["met"]], row["note"], origin])
    head = ("what", "asked", "measured", "", "remark", "from")
    return ["## What was asked", "", f"![Measured over asked]({stem}_targets.svg)", "",
            *table_lines(head, table, len(head)),
            *(f"{number}. {origin}" for number, origin in enumerate(origins, 1)), ""]  # fmt: skip


def _from(rows: Sequence[Row]) -> list[str]:
    """Where rows were made that were not made with the others."""
    origins = dict.fromkeys(origin_text(row) for row in rows if "command" in row)
    return [line for origin in origins for line in (f"Speed: {origin}", "")]


def origin_text(row: Row) -> str:
    """Where a row is from, in a sentence."""
    command, machine, commit, date = (row[key] for key in PROVENANCE)
    source = f" ({row['source']})" if row.get("source") else ""
    return f"`{command}`; {machine}; commit {commit}, {date}{source}."


def _differences(rows: dict[str, list[Row]]) -> list[str]:
    of = [row for row in rows["quality"] if "against" in row]
    if not of:
        return []
    starred = {row["name"]: _starred(row["name"], row) for row in rows["sets"]}
    table = []
    for row in of:
        against = row["against"]
        low, high = against["interval"]
        table.append([starred[row["set"]], row["system"], f"{against['difference']:+.3f}", f"{low:+.3f} to {high:+.3f}",
                      f"{against['p_value']:.4f}", f"{against['wins']} / {against['losses']} / {against['ties']}"])
    return [f"From {of[0]['against']['baseline']}: 95 % bootstrap interval over queries, p of the paired randomisation "
            "test (two-sided, not corrected for the number of comparisons).", "",
            *table_lines(("set", "system", "difference", "interval", "p", "better / worse / same"), table, 2),
            ]  # fmt: skip


def generic_lines(kind: str, rows: Sequence[Row]) -> list[str]:
    """A table of rows as they are."""
    head = list(dict.fromkeys(key for row in rows for key in row))
    return [f"## {kind}", "", *table_lines(head, [[str(row.get(key, "")) for key in head] for row in rows], len(head))]


def table_lines(head: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> list[str]:
    """A table whose first ``left`` columns stand to the left, the others to the right."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return [*("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in (head, rule, *rows)),
            ""]


def _starred(name: str, of: Row) -> str:
    return name + ("\\*" if of["sampled"] else "")


def _join(means: Sequence[Row]) -> str:
    return ", ".join(means[0]["sets"])


def figure(value: float) -> str:
    """Four digits, or all before the point.

    Examples
    --------
    >>> figure(0.69204), figure(58292.4)
    ('0.692', '58,292')
    """
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
