"""The picture: retention by active latents and by query weights, and the latents that are found again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benches.quality.plots import drawing, legend
from benches.quality.results import Row
from benches.sae.recipes import KS, OURS, PLAIN
from benches.sae.targets import FEW_WEIGHTS, best_scorer

__all__ = ["plot"]

_OTHERS = ("C1", "C2", "C4", "C5")


def plot(rows: dict[str, list[Row]], path: Path) -> None:
    """Write the picture of the rows of kinds "retention", "baselines", "targets" and "stability" as SVG.

    The same rows give the same file.
    """
    with drawing(path, 1, 3, figsize=(17, 5)) as (by_k, by_weights, stable):
        _by_k(by_k, rows)
        _by_weights(by_weights, rows["retention"])
        _stability(stable, rows.get("stability", []))


def _by_k(axes: Any, rows: dict[str, list[Row]]) -> None:
    entries = []
    lines = [(name, colour, "o", [_best(rows["retention"], recipe=recipes[k]) for k in KS])
             for name, colour, recipes in (("ours", "C0", OURS), ("plain", "C7", PLAIN))]
    others = rows.get("baselines", [])
    for system, colour in zip(dict.fromkeys(row["system"] for row in others), _OTHERS, strict=False):
        lines.append((system, colour, "s", [_best(others, system=system, k=k) for k in KS]))
    for name, colour, mark, of in lines:
        found = [(k, row) for k, row in zip(KS, of, strict=True) if row]
        if found:
            axes.errorbar([k for k, _ in found], [row["mean"] for _, row in found],
                          [row.get("spread", 0) for _, row in found], color=colour, marker=mark, capsize=3)  # fmt: skip
            entries.append((mark, colour, name))
    asked = [(int(row["what"].split()[2].rstrip(":")), row["asked"]) for row in rows.get("targets", [])
             if row["what"].startswith("k = ") and "nDCG@10" in row["what"]]  # fmt: skip
    if asked:
        axes.plot(*zip(*asked, strict=True), "_", color="black", markersize=18)
        entries.append(("_", "black", "asked of ours"))
    axes.set_xscale("log", base=2)
    axes.set_xticks(KS, [str(k) for k in KS])
    axes.set_xlabel("active latents k; others have as many bytes as ours")
    axes.set_ylabel(f"nDCG@10 kept, mean over sets, at most {FEW_WEIGHTS} query weights")
    legend(axes, entries, fontsize="small")


def _by_weights(axes: Any, rows: Sequence[Row]) -> None:
    entries = []
    once = [row for row in rows if row["scorer"].startswith("decode") and "refocus" not in row["scorer"]]
    for k, colour in zip(KS, ("C0", "C1", "C2", "C3", "C4"), strict=True):
        of = sorted((row["weights"], row["mean"]) for row in once if row["recipe"] == OURS[k])
        if of:
            axes.plot(*zip(*of, strict=True), "o-", color=colour)
            entries.append(("o", colour, f"k = {k}"))
    axes.set_xscale("log", base=2)
    axes.set_xlabel("query weights kept, ours, scored by decoding")
    axes.set_ylabel("nDCG@10 kept, mean over sets")
    if entries:
        legend(axes, entries, fontsize="small")


def _stability(axes: Any, rows: Sequence[Row]) -> None:
    names = [f"{row['name']}\n{row['differ']}" for row in rows]
    axes.barh(range(len(rows)), [row["shared"] for row in rows], xerr=[row["spread"] for row in rows], capsize=3,
              color=["C7" if row["name"] == "plain" else "C0" for row in rows])  # fmt: skip
    for height, row in enumerate(rows):
        axes.annotate(f"FVU {row['fvu']:.3f}", (0.01, height), va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of live latents that another training finds again")
    axes.invert_yaxis()


def _best(rows: Sequence[Row], **where: Any) -> Row | None:
    with suppress(LookupError):
        return best_scorer(rows, **where)
    return None
