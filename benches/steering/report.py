"""The page and the picture of the steering report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benches.quality.files import write_text
from benches.quality.plots import drawing, plot_targets
from benches.quality.results import Row
from benches.steering.neutral import lost_at
from benches.steering.shift import means

__all__ = ["put_beside", "write_page"]

_COLOURS = {"features": "C0", "features from examples alone": "C4", "mean difference": "C1",
            "mean difference and label": "C8", "label behind the query": "C2", "noise": "C7", "oracle": "black"}


def put_beside(rows: dict[str, list[Row]], others: dict[str, list[Row]], encoder: str) -> None:
    """Give the rows "targets" and "systems" what another encoder has where the same was asked: ``beside``."""
    for kind, asked in {"targets": "what", "systems": "asks"}.items():
        found = {row[asked]: row for row in others.get(kind, ())}
        for row in rows.get(kind, ()):
            if row[asked] in found:
                row.setdefault("beside", {})[encoder] = {key: found[row[asked]][key] for key in ("measured", "met")}


def write_page(results: dict[str, Any], path: Path) -> None:
    """Write the Markdown page, and two pictures beside it, of what ``results`` has."""
    rows = results["rows"]
    write_text(path.with_suffix(".md"), _page(rows, path.stem))
    if rows.get("targets"):
        plot_targets(rows["targets"], path.with_name(f"{path.stem}_targets.svg"), most=4)
    if rows.get("towards"):
        _curves(rows["towards"], path.with_suffix(".svg"))


def _page(rows: dict[str, list[Row]], name: str) -> str:
    made = "Made by `python -m benches.steering`; what is measured and how: `benches/README.md`."
    encoder = name.partition("-")[2]
    if encoder:
        made += " The shipped encoder and dictionary: [steering.md](steering.md)."
    several = list(dict.fromkeys(other for row in rows.get("targets", ()) for other in row.get("beside", ())))
    if several:
        made += " Whole reports of other encoders: " + ", ".join(f"[{of}]({name}-{of}.md)" for of in several) + "."
    lines = [f"# Steering{' with ' + encoder if encoder else ''}", "", made, "", "## What was asked", "",
             f"![Measured over asked]({name}_targets.svg)", "",
             f"| what | asked | measured |  |{''.join(f' {of} |  |' for of in several)} remark |",
             f"| --- | --- | --- | --- |{' --- | --- |' * len(several)} --- |"]
    lines += [f"| {t['what']} | {t['bound']} {t['asked']:g} | {t['measured']:g} {t['unit']} | {_verdict(t['met'])} |"
              f"{_beside(t, several)} {t['note']} |" for t in rows.get("targets", [])]
    if rows.get("systems"):
        met = sum(row["met"] for row in rows["systems"])
        told = f"{met} of {len(rows['systems'])} are met."
        lines += ["", "## Criteria of published systems", "", told, "",
                  f"|  | system | criterion | asked | measured |  |{''.join(f' {of} |  |' for of in several)} remark |",
                  f"| --- | --- | --- | --- | --- | --- |{' --- | --- |' * len(several)} --- |"]
        lines += [f"| {r['system']} | {r['name']} | {r['asks']} | {r['bound']} {r['asked']:g} | {r['measured']:.4g} "
                  f"{r['unit']} | {_verdict(r['met'])} |{_beside(r, several)} {r['note']} |" for r in rows["systems"]]
    if rows.get("towards"):
        lines += ["", "## Towards a category", "", f"![Gain against overlap]({name}.svg)", "",
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
    if rows.get("names"):
        lines += ["", *_names(rows)]
    for of in rows.get("map", ()):
        steps = ", ".join(f"after {steps} {quality:.3f}" for steps, quality in of.get("by_steps", {}).items())
        told = (f"{of['quality']:.3f} of the 10 nearest latents by direction are among the 30 nearest on the map of "
                f"{of['latents']:,}, which takes {of['seconds']:.0f} s; on the plane of the principal components "
                f"{of['principal']:.3f}." + (f" That is after {of['steps']} steps; {steps}." if steps else ""))
        lines += ["", "## The map of features", "", told]
    if rows.get("words"):
        of = rows["words"][0]
        told = (f"Share of a feature's product with the text that goes when the words named first are deleted; "
                f"{of['texts']} abstracts, {of['latents']} features each.")
        lines += ["", "## Words that fired a feature", "", told, "",
                  "| by | 1 word | 3 words | 5 words | 20 % |", "| --- | ---: | ---: | ---: | ---: |"]
        lines += [f"| {r['way']} | {r['gone_1']:.3f} | {r['gone_3']:.3f} | {r['gone_5']:.3f} | {r['gone_0.2']:.3f} |"
                  for r in rows["words"]]
    for kind, part in {"shift": _shift, "control": _control, "known": _known, "neutral": _neutral}.items():
        if rows.get(kind):
            lines += ["", *part(rows)]
    if rows.get("cost"):
        lines += ["", "## What it costs", "", "| field | search | ms | p99 | times |",
                  "| --- | --- | ---: | ---: | ---: |"]
        lines += [f"| {r['field']} | {r['way']} | {r['ms']:.2f} | {r['p99_ms']:.2f} | {r['times']:.2f} |"
                  for r in rows["cost"]]
    lines += ["", "## Where it is from", ""]
    lines += [f"* {r['section']} ({r['seconds']:.0f} s): `{r['command']}`; {r['machine']}; commit {r['commit']}, "
              f"{r['date']}." for r in rows.get("sections", [])]
    return "\n".join(lines) + "\n"


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def _beside(row: Row, encoders: list[str]) -> str:
    """Cells of what other encoders have, empty where that was not measured."""
    found = row.get("beside", {})
    return "".join(f" {found[of]['measured']:.4g} | {_verdict(found[of]['met'])} |" if of in found else "  |  |"
                   for of in encoders)


def _names(rows: dict[str, list[Row]]) -> list[str]:
    figures = ("detection", "strong_detection", "correlation", "intruder")
    head = "detection | of strong activations | correlation | intruder"
    lines = ["## Names of features", "",
             "Medians over features, on a fifth of the texts; neither labellers nor the choice among them saw it.", "",
             f"| dictionary | fire | minutes | labels | won | {head} |", f"| --- | ---: | ---: | --- |{' ---: |' * 5}"]
    lines += [f"| {r['dictionary']} | {r['features']:,} | {r['seconds'] / 60:.1f} | {r['labeller']} | {r['won']} | "
              + " | ".join(f"{r[figure]:.3f}" for figure in figures) + " |" for r in rows["names"]]
    counted = rows.get("names counted", [])
    if counted:
        lines += ["", "The labels that the shipped dictionary comes with, where only so many of a text's strongest "
                  "features count:", "", f"| features | judge's queries by | {head} |",
                  f"| ---: | --- |{' ---: |' * 4}"]
    lines += [f"| {r['strongest']} | {r['judge']} | " + " | ".join(f"{r[figure]:.3f}" for figure in figures) + " |"
              for r in counted]
    return lines


def _shift(rows: dict[str, list[Row]]) -> list[str]:
    of = rows["shift"]
    several = "; ".join(dict.fromkeys(f"{row['label']} with {row['attribute']}" for row in of))
    told = ("Trained where a label and an attribute are the same, tested where each has the other as often; means over "
            f"{several}. Readout is the share of answers that are the attribute: 0.5 is none of it.")
    return ["## A classifier that learned the wrong thing", "", told, "",
            "| classifier of | worst group | average | readout | features ablated |",
            "| --- | ---: | ---: | ---: | ---: |",
            *(f"| {way} | {one['worst']:.3f} | {one['average']:.3f} | {one['readout']:.3f} | {one['ablated']:.0f} |"
              for way, one in means(of).items())]


def _control(rows: dict[str, list[Row]]) -> list[str]:
    attributes = list(dict.fromkeys(row["attribute"] for row in rows["control"]))
    by = {(row["way"], row["attribute"]): row for row in rows["control"]}
    lines = ["## Edits beside those of a supervised dictionary", "",
             f"Share of {rows['control'][0]['texts']:,} abstracts that a linear judge says to have the wanted value "
             "after an edit, all edits of the length of the supervised one; behind it, how often the other attributes "
             "are judged as before.", "", f"| edit | {' | '.join(attributes)} |",
             f"| --- |{' ---: |' * len(attributes)}"]
    lines += [f"| {way} | " + " | ".join(f"{by[way, name]['success']:.3f} ({by[way, name]['kept']:.3f})"
                                         for name in attributes) + " |" for way in dict.fromkeys(way for way, _ in by)]
    lines += ["", "The judge on reconstructions, and on what they leave over with the mean added:", "",
              "| dictionary | active | FVU | attribute | of the embedding | of the reconstruction | of the rest |",
              "| --- | ---: | ---: | --- | ---: | ---: | ---: |"]
    lines += [f"| {r['dictionary']} | {r['active']:g} | {r['fvu']:.3f} | {r['attribute']} | {r['whole']:.3f} | "
              f"{r['rebuilt']:.3f} | {r['rest']:.3f} |" for r in rows.get("approximation", ())]
    lines += ["", "Single latents: a value is told if the judge's F1 is at least 0.3, occluded if it is told and the "
              "best latent has less than half of that, split if a union of three latents or more tells it better.", "",
              "| attribute | values | mean size of direction | judge's F1 | best latent's | told | occluded | split | "
              "latents in the best union |", "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    return lines + [f"| {r['attribute']} | {r['values']} | {r['size']:.3f} | {r['judge']:.3f} | {r['f1']:.3f} | "
                    f"{r['told']} | {r['occluded']} | {r['split']} | {r['latents']:.1f} |"
                    for r in rows.get("values", ())]


def _known(rows: dict[str, list[Row]]) -> list[str]:
    of = rows["known"][0]
    return ["## Is there anything for a query?", "",
            f"Titles whose categories are all gone from the index against those with none gone: {of['unanswerable']:,} "
            f"and {of['answerable']:,} in {of['removals']} removals. AUROC.", "",
            "| signal | on the categories for choices | on the others |", "| --- | ---: | ---: |",
            *(f"| {r['signal']} | {r['choice']:.3f} | {r['test']:.3f} |" for r in rows["known"])]


def _neutral(rows: dict[str, list[Row]]) -> list[str]:
    of = rows["neutral"]
    steps = sorted({row["step"] for row in of})
    before = {row["set"]: f"{row['set']} ({row['queries']} queries, nDCG@10 {row['before']:.3f})" for row in of}
    return ["## Neutral steering", "",
            f"Share of nDCG@10 that is lost on {', '.join(before.values())}, by the length of the step, moved along "
            "what has nothing to do with the query.", "",
            f"| set | way | {' | '.join(f'{step:g}' for step in steps)} |", f"| --- | --- |{' ---: |' * len(steps)}",
            *(f"| {name} | {way} | " + " | ".join(f"{100 * lost_at(of, name, way, at):.1f} %" for at in steps) + " |"
              for name, way in dict.fromkeys((row["set"], row["way"]) for row in of))]


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
