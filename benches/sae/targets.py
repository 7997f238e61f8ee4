"""What was asked of the autoencoders beside what was measured: rows derived from the report and the files beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benches.quality.asked import Target
from benches.quality.results import PROVENANCE, Row
from benches.quality.targets import target_row
from benches.sae.recipes import EVEN, KS, OURS, WIDE

__all__ = ["FEW_WEIGHTS", "SOURCES", "TARGETS", "best_scorer", "target_rows"]

SOURCES = ("topk_encode.json", "sae_training.json")
"""Files beside the report that `bench_topk_encode_gpu.py` and `bench_sae_training_gpu.py` fill."""
FEW_WEIGHTS = 256
"""Of a query, at most: what retention is asked for."""
_ASKED = {32: 0.95, 16: 0.90, 8: 0.80, 4: 0.65, 2: 0.50}
_LATENTS = 65_536
Rows = dict[str, list[Row]]


def best_scorer(rows: Sequence[Row], **where: Any) -> Row:
    """Of the rows with these values and at most `FEW_WEIGHTS` query weights, the one with the highest mean over sets.

    Raises
    ------
    LookupError
        If there is none.
    """
    found = [row for row in rows if row["weights"] <= FEW_WEIGHTS and all(row[key] == of for key, of in where.items())]
    if not found:
        raise LookupError(where)
    best: Row = max(found, key=lambda row: row["mean"])
    return best


def _ours(rows: Rows, k: int) -> Row:
    return best_scorer(rows.get("retention", []), recipe=OURS[k])


def _others(rows: Rows, k: int) -> dict[str, Row]:
    """The best scorer of each other form of as many bytes; LookupError if there is none."""
    of = [row for row in rows.get("baselines", []) if row["k"] == k]
    if not of:
        raise LookupError(k)
    return {name: best_scorer(of, system=name) for name in dict.fromkeys(row["system"] for row in of)}


def _kept(k: int) -> Target:
    def note(rows: Rows) -> str:
        row = _ours(rows, k)
        sets = ", ".join(f"{name} {row[name]:.3f}" for name in ("scifact", "cranfield", "cacm", "arxiv"))
        once = best_scorer([of for of in rows["retention"] if "refocus" not in of["scorer"]], recipe=OURS[k])
        return (f"{row['scorer']}, N {row['n_latents']:,}, {row['bytes']:g} bytes; {sets}; {row['seeds']} seeds, "
                f"spread {row['spread']:.3f}; scored once, {once['scorer']}: {once['mean']:.3f}")

    return Target(f"k = {k}: nDCG@10 of codes, at most {FEW_WEIGHTS} query weights", _ASKED[k], "of the dense vectors'",
                  "retention", lambda rows: _ours(rows, k)["mean"], note, moonshot=0.99 if k == 32 else None)


def _above(k: int) -> Target:
    def measured(rows: Rows) -> float:
        return float(_ours(rows, k)["mean"] / max(row["mean"] for row in _others(rows, k).values()))

    def note(rows: Rows) -> str:
        return ", ".join(f"{name} {row['mean']:.3f} ({row['bytes']:g} bytes)" for name, row in _others(rows, k).items())

    return Target(f"k = {k}: above other forms of as many bytes", 1 if k < max(KS) else None, "times the best of them",
                  "retention", measured, note)


def _recipe(rows: Rows, name: str) -> Row:
    found = {row["recipe"]: row for row in rows.get("models", [])}
    return found[name]


def _dead(what: str, asked: float, recipe: str) -> Target:
    def note(rows: Rows) -> str:
        row = _recipe(rows, recipe)
        return (f"{recipe}: N {row['n_latents']:,}, k {row['k']}, codes by {row['coding']}; by the encoder "
                f"{row['encoder_dead']:.4f}; {row['epochs']} epochs")

    return Target(what, asked, "of the latents silent", "dead", lambda rows: _recipe(rows, recipe)["dead"], note,
                  bound="at most")


def _stable(rows: Rows, differ: str = "seeds, same centroids", name: str = "ours") -> Row:
    return {(row["name"], row["differ"]): row for row in rows.get("stability", [])}[name, differ]


def _stability_note(rows: Rows) -> str:
    others = [row for row in rows["stability"] if row is not _stable(rows)]
    return f"N {_stable(rows)['n_latents']:,}; " + "; ".join(
        f"{row['name']}, {row['differ']}: {row['shared']:.3f}" for row in others)


def _nested(rows: Rows) -> list[Row]:
    """The rows of the model and coding whose worst k is the best."""
    ways: dict[tuple[str, str], list[Row]] = {}
    for row in rows.get("nested", []):
        ways.setdefault((row["model"], row["coding"]), []).append(row)
    if not ways:
        raise LookupError("nested")
    return min(ways.values(), key=lambda of: max(row["ratio"] for row in of))


def _nested_note(rows: Rows) -> str:
    of = _nested(rows)
    ratios = ", ".join(f"k {row['k']}: {row['ratio']:.3f}" for row in of)
    return f"{of[0]['model']}, codes by {of[0]['coding']}; {ratios}"


def _encode(report: Any) -> Row:
    found: Row = {size["latents"]: size for size in report["sizes"]}[_LATENTS]
    return found


def _encode_note(report: Any) -> str:
    size = _encode(report)
    return (f"{report['rows']:,} rows, N {_LATENTS:,}, k {report['k']}: fused {size['fused']['ms']} ms, product "
            f"{size['product']['ms']}, with torch.topk {size['product, torch.topk']['ms']}")


def _training_note(report: Any) -> str:
    epochs = report["steps"] * report["batch"] / report["rows"]
    return (f"{report['rows']:,} x {report['width']}, N {report['latents']:,}, k {report['k']}, {epochs:.0f} epochs, "
            f"batches of {report['batch']:,}; FVU {report['fused']['fvu']}, plain torch {report['plain']['fvu']}")


def _whole_note(rows: Rows) -> str:
    row = _recipe(rows, OURS[32])
    return f"{OURS[32]}: {row['rows']:,} rows, N {row['n_latents']:,}, k {row['k']}, {row['epochs']} epochs"


TARGETS: tuple[Target, ...] = (
    *(part for k in KS for part in (_kept(k), _above(k))),
    _dead("silent on held-out texts, N = 16,384", 0.01, WIDE),
    _dead("silent on held-out texts, k = 2", 0.20, EVEN),
    Target("latents that another seed finds again, N = 4,096", 0.50, "of the live ones", "stability",
           lambda rows: _stable(rows)["shared"], _stability_note, moonshot=0.80),
    Target("FVU of those, over plain training's", 1.05, "times", "stability", lambda rows: _stable(rows)["fvu_ratio"],
           lambda rows: f"codes by {_stable(rows)['coding']}; by encoders alone "
                        f"{_stable(rows)['encoder_fvu_ratio']:.3f}", bound="at most"),
    Target("one model for k of 2 to 32: FVU over one trained for that k, the worst k", 1.02, "times", "nested",
           lambda rows: max(float(row["ratio"]) for row in _nested(rows)), _nested_note, bound="at most"),
    Target("top-k encoding, fused: time over the product's alone", 1.3, "times", "topk_encode.json",
           lambda report: _encode(report)["fused"]["ms"] / _encode(report)["product"]["ms"], _encode_note,
           bound="at most"),
    Target("top-k encoding, fused: speed of product and torch.topk", 2, "times", "topk_encode.json",
           lambda report: _encode(report)["product, torch.topk"]["ms"] / _encode(report)["fused"]["ms"], _encode_note),
    Target("training, TopK and AuxK", 12, "s", "sae_training.json", lambda report: report["fused"]["seconds"],
           _training_note, bound="at most"),
    Target("training step, over one in plain torch", 0.6, "times", "sae_training.json",
           lambda report: report["step_ms"]["fused"] / report["step_ms"]["plain"],
           lambda report: f"{report['step_ms']['fused']} ms, plain torch {report['step_ms']['plain']} ms",
           bound="at most"),
    Target("training, our recipe", 30, "s", "dead", lambda rows: _recipe(rows, OURS[32])["seconds"], _whole_note,
           bound="at most"),
)  # fmt: skip
"""Everything asked, in the report's order; `target_rows` adds the criteria of published systems."""


def target_rows(rows: Rows, about: dict[str, Row], folder: Path) -> list[Row]:
    """A row for each of ``TARGETS``, and one that counts the criteria of published systems; none without any rows.

    Parameters
    ----------
    rows : the report's
    about : for each section, `PROVENANCE` of its measurement
    folder : of ``SOURCES``

    Returns
    -------
    list of rows
        As :func:`benches.quality.targets.target_rows` has them. Met criteria of systems are counted as one row; what it
        says about command and machine is the first of the sections that have such.
    """
    if not any(rows.values()):
        return []
    sources: dict[str, tuple[Any, Row]] = {name: (rows, of | {"source": name}) for name, of in about.items()}
    for name in SOURCES:
        if (path := folder / name).is_file():
            report = json.loads(path.read_text())
            sources[name] = report, {key: report.get(key, "") for key in PROVENANCE} | {"source": name}
    return [target_row(target, *sources.get(target.source, ({}, {}))) for target in (*TARGETS, *_counted(rows))]


def _counted(rows: Rows) -> list[Target]:
    """How many criteria of published systems are met; asked are all that there are."""
    systems = rows.get("systems", [])
    missed = [f"{row['system']} {row['name']}: {row['asks']}" for row in systems if not row["met"]]
    return [Target("criteria of published systems met", len(systems), "criteria", systems[0]["section"],
                   lambda rows: len(systems) - len(missed),
                   lambda rows: f"missed: {'; '.join(missed)}" if missed else "")] if systems else []  # fmt: skip
