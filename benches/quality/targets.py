"""What was asked beside what was measured: rows derived from the report and the files beside it, no figure typed in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from benches.quality.asked import MODEL, SIAMESE, TABLE, TARGETS, Target
from benches.quality.report import summary
from benches.quality.results import PROVENANCE, Row, recorded

__all__ = ["SOURCES", "target_row", "target_rows"]

SOURCES = ("max_logits.json", "encode_gpu.json", "encode_cpu.json")
"""Files beside the report that other benchmarks wrote."""
_SETS = ["scifact", "cranfield", "cacm"]
_MET: dict[str, Callable[[float, float], bool]] = {
    "at least": lambda measured, asked: measured >= asked,
    "at most": lambda measured, asked: measured <= asked,
    "within 5 % of": lambda measured, asked: abs(measured / asked - 1) <= 0.05,
}
_CARD = Path(__file__).resolve().parents[2] / "encoders/pretrained" / MODEL
_LEAST = 1e-3  # of an upper bound: what less of it counts as, that nothing at all can be drawn
T = TypeVar("T")


def target_rows(results: dict[str, Any], folder: Path) -> list[Row]:
    """A row for each of ``TARGETS``; none if the report is not about our model.

    Parameters
    ----------
    results : the report's, with "quality" rows
    folder : of ``SOURCES``

    Returns
    -------
    list of rows
        ``measured`` and ``met`` are None where a source is missing; ``met`` is None too where no bound was asked.
        ``times`` is measured / asked, the other way round where the bound is an upper one, and the measured figure
        itself where there is no bound.
        Command, machine, commit and date are the source's, empty where it is missing.
    """
    if all(row["system"] != SIAMESE for row in results["rows"].get("quality", [])):
        return []
    sources = _sources(results, folder)
    return [target_row(target, *sources.get(target.source, ({}, {}))) for target in TARGETS]


def target_row(target: Target, data: Any, about: Row) -> Row:
    """The row of a target, from its source's data and what is said about them: `PROVENANCE` and "source"."""
    measured = _found(target.measured, data)
    about = about if measured is not None else {}
    met = None if target.asked is None or measured is None else _MET[target.bound](measured, target.asked)
    return {"what": target.what, "bound": "told" if target.asked is None else target.bound, "asked": target.asked,
            "measured": _rounded(measured), "unit": target.unit, "times": _rounded(_times(target, measured)),
            "met": met, "note": _found(target.note, data) or "", "source": about.get("source", target.source),
            **{key: about.get(key, "") for key in PROVENANCE},
            **({"moonshot": target.moonshot} if target.moonshot is not None else {})}  # fmt: skip


def _found(figure: Callable[[Any], T], data: Any) -> T | None:
    """The figure, if the data have it."""
    try:
        return figure(data)
    except LookupError:
        return None


def _times(target: Target, measured: float | None) -> float | None:
    if measured is None or target.asked is None:
        return measured
    if target.bound == "at most":
        return target.asked / max(measured, _LEAST * target.asked)
    return measured / target.asked


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _sources(results: dict[str, Any], folder: Path) -> dict[str, tuple[Any, Row]]:
    """Data, and where it is from, by source."""
    speed = {row["system"]: row for row in results["rows"].get("speed", [])}
    sources = {"quality": (_quality(results), results | {"source": "quality"}),
               "speed": (speed, results | speed.get(TABLE, {}) | {"source": "speed"}),
               "card": _card(_CARD)}  # fmt: skip
    for name in SOURCES:
        if (path := folder / name).is_file():
            report = json.loads(path.read_text())
            sources[name] = report, report | {"source": name}
    # Each number of threads is a run of its own, with its own command.
    data, about = sources.get("encode_cpu.json", ({"runs": []}, {}))
    return sources | {f"{run['threads']} threads": (run, about | run) for run in data["runs"]}


def _quality(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """nDCG@10 by system by whole set; "mean" is that of ``_SETS``, there if all of them are."""
    whole = [row["name"] for row in results["rows"]["sets"] if not row["sampled"]]
    data: dict[str, dict[str, float]] = {name: {} for name in whole}
    for row in results["rows"]["quality"]:
        if row["set"] in data:
            data[row["set"]][row["system"]] = row["nDCG@10"]
    if set(_SETS) <= set(whole):
        data["mean"] = {row["system"]: row["nDCG@10"] for row in summary(results)}
    return data


def _card(folder: Path) -> tuple[dict[str, float], Row]:
    """Non-zeros that the controller was told and held, as the model's card has them."""
    text = (folder / "README.md").read_text()
    held = re.search(r"controller that holds ([\d.]+) non-zeros a document\s+"
                     r"\(mean of the last 1,000 steps:\s+([\d.]+)\)", text)
    command, machine = re.search(r"`(sparsight train-splade [^`]+)`", text), re.search(r"training on (one \w+)", text)
    about = recorded(folder / "model.safetensors") | {
        "command": command[1] if command else "", "machine": machine[1] if machine else "",
        "source": f"card of {folder.name}"}  # fmt: skip
    return {"target": float(held[1]), "held": float(held[2])} if held else {}, about
