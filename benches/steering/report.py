"""The page and the picture of the steering report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benches.quality.files import write_text
from benches.quality.plots import drawing, plot_targets
from benches.quality.results import Row
from benches.steering.systems import NOT_MEASURED

__all__ = ["write_page"]

_COLOURS = {"features": "C0", "mean difference": "C1", "label behind the query": "C2", "noise": "C7", "oracle": "black"}


def write_page(results: dict[str, Any], path: Path) -> None:
    """Write the Markdown page, and two pictures beside it, of what ``results`` has."""
    rows = results["rows"]
    write_text(path.with_suffix(".md"), _page(rows))
    if rows.get("targets"):
        plot_targets(rows["targets"], path.with_name("steering_targets.svg"), most=4)
    if rows.get("towards"):
        _curves(rows["towards"], path.with_suffix(".svg"))


def _page(rows: dict[str, list[Row]]) -> str:
    made = "Made by `python -m benches.steering`; what is measured and how: `benches/README.md`."
    lines = ["# Steering", "", made, "", "## What was asked", "", "![Measured over asked](steering_targets.svg)", "",
             "| what | asked | measured |  | remark |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {t['what']} | {t['bound']} {t['asked']:g} | {t['measured']:g} {t['unit']} | "
              f"{'met' if t['met'] else '**missed**'} | {t['note']} |" for t in rows.get("targets", [])]
    if rows.get("systems"):
        met = sum(row["met"] for row in rows["systems"])
        left = "; ".join(f"{number} {what}" for number, what in NOT_MEASURED.items())
        told = f"{met} of {len(rows['systems'])} are met. Not measured: {left}."
        lines += ["", "## Criteria of published systems", "", told, "",
                  "|  | system | criterion | asked | measured |  | remark |",
                  "| --- | --- | --- | --- | --- | --- | --- |"]
        lines += [f"| {r['system']} | {r['name']} | {r['asks']} | {r['bound']} {r['asked']:g} | {r['measured']:.4g} "
                  f"{r['unit']} | {'met' if r['met'] else '**missed**'} | {r['note']} |" for r in rows["systems"]]
    if rows.get("towards"):
        lines += ["", "## Towards a category", "", "![Gain against overlap](steering.svg)", "",
                  "| way | step | precision@10 before | after | gain | overlap (RBO) |",
                  "| --- | ---: | ---: | ---: | ---: | ---: |"]
        lines += [f"| {r['way']} | {r['step']:g} | {r['before']:.3f} | {r['after']:.3f} | {r['gain']:+.3f} | "
                  f"{r['rbo']:.3f} |" for r in rows["towards"]]
    if rows.get("examples"):
        ways = list(dict.fromkeys(row["features"] for row in rows["examples"]))
        by = {(row["category"], row["features"]): row["precision"] for row in rows["examples"]}
        lines += ["", "## Features from examples", "", f"| category | {' | '.join(ways)} |",
                  f"| --- |{' ---: |' * len(ways)}"]
        lines += [f"| {name} | {' | '.join(f'{by[name, way]:.2f}' for way in ways)} |"
                  for name in dict.fromkeys(row["category"] for row in rows["examples"])]
    if rows.get("family"):
        lines += ["", "## Families", "", "The largest, by the encoder's codes; co-activation inside over outside.", "",
                  "| parent | features below it | the first of them | ratio |", "| --- | ---: | --- | ---: |"]
        lines += [f"| {r['parent']} | {r['children']} | {r['first']} | {r['ratio']:.1f} |" for r in rows["family"]]
    for of in rows.get("map", ()):
        told = (f"{of['quality']:.3f} of the 10 nearest latents by direction are among the 30 nearest on the map of "
                f"{of['latents']:,}, which takes {of['seconds']:.0f} s; on the plane of the principal components "
                f"{of['principal']:.3f}.")
        lines += ["", "## The map of features", "", told]
    if rows.get("words"):
        of = rows["words"][0]
        told = (f"Share of a feature's product with the text that goes when the words named first are deleted; "
                f"{of['texts']} abstracts, {of['latents']} features each.")
        lines += ["", "## Words that fired a feature", "", told, "",
                  "| by | 1 word | 3 words | 5 words | 20 % |", "| --- | ---: | ---: | ---: | ---: |"]
        lines += [f"| {r['way']} | {r['gone_1']:.3f} | {r['gone_3']:.3f} | {r['gone_5']:.3f} | {r['gone_0.2']:.3f} |"
                  for r in rows["words"]]
    if rows.get("cost"):
        lines += ["", "## What it costs", "", "| field | search | ms | p99 | times |",
                  "| --- | --- | ---: | ---: | ---: |"]
        lines += [f"| {r['field']} | {r['way']} | {r['ms']:.2f} | {r['p99_ms']:.2f} | {r['times']:.2f} |"
                  for r in rows["cost"]]
    lines += ["", "## Where it is from", ""]
    lines += [f"* {r['section']} ({r['seconds']:.0f} s): `{r['command']}`; {r['machine']}; commit {r['commit']}, "
              f"{r['date']}." for r in rows.get("sections", [])]
    return "\n".join(lines) + "\n"


def _curves(rows: list[Row], path: Path) -> None:
    with drawing(path, 1, 1, figsize=(7, 5)) as (axes,):
        for way, colour in _COLOURS.items():
            curve = sorted((row["rbo"], row["gain"]) for row in rows if row["way"] == way)
            if curve:
                axes.plot(*zip(*curve, strict=True), "o-", color=colour, markersize=4, label=way)
        axes.axvline(0.5, color="C3", linestyle=":", linewidth=1)
        axes.set_xlabel("overlap with the list before (RBO, p = 0.9)")
        axes.set_ylabel("precision@10 gained")
        axes.legend(frameon=False)
