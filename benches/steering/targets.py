"""What was asked of steering, beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from benches.quality.results import Row
from benches.steering.away import cut_at_kept
from benches.steering.names import ARXIV, LARGE
from benches.steering.neutral import CATEGORY, lost_at
from benches.steering.overlaps import within_twice
from benches.steering.towards import BOTH, EXAMPLES, FEATURES, at_overlap

__all__ = ["target_rows"]

Rows = Mapping[str, Sequence[Row]]
_LABEL = "label behind the query"


def target_rows(rows: Rows) -> list[Row]:
    """A row "targets" for everything asked whose section has been measured."""
    made = []
    for kind, makers in _MAKERS.items():
        if rows.get(kind):
            made += [maker(rows[kind]) for maker in makers]
    if rows.get("neutral") and rows.get("towards"):
        made.append(_neutral(rows["neutral"], at_overlap(rows["towards"], "features", "step")))
    return made


def _target(what: str, bound: str, asked: float, measured: float, unit: str, note: str) -> Row:
    measured = float(f"{measured:.4g}")
    met = measured >= asked if bound == "at least" else measured <= asked
    times = measured / asked if bound == "at least" else asked / max(measured, 1e-9)
    return {"what": what, "bound": bound, "asked": asked, "measured": measured, "unit": unit, "met": bool(met),
            "times": round(times, 4), "note": note}


def _examples(rows: Sequence[Row]) -> Row:
    by = {way: [row["precision"] for row in rows if row["features"] == way] for way in {r["features"] for r in rows}}
    ours = by.pop(str(FEATURES))
    others = ", ".join(f"{way}: {np.median(values):.2f}" for way, values in sorted(by.items()))
    return _target("features from 10 + 10 examples: precision@10 of their documents, median category", "at least", 0.8,
                   float(np.median(ours)), "precision@10",
                   f"{len(ours)} categories, mean of {rows[0]['draws']} draws each, {FEATURES} features; {others}")


def _gain(rows: Sequence[Row]) -> Row:
    several = ", ".join(f"{way} {at_overlap(rows, way):+.3f}" for way in dict.fromkeys(row["way"] for row in rows)
                        if way not in ("noise", _LABEL))
    label = next(row for row in rows if row["way"] == _LABEL)
    return _target("towards a category: precision@10 gained where the overlap with the list before is 0.5", "at least",
                   0.5, at_overlap(rows, "features"), "precision@10",
                   f"{rows[0]['pairs']:,} pairs, precision {rows[0]['before']:.3f} before; {several} (knows every "
                   f"category); label behind the query {label['gain']:+.3f} at overlap {label['rbo']:.2f}")


def _above(rows: Sequence[Row]) -> Row:
    label = next(row for row in rows if row["way"] == _LABEL)

    def beside(way: str) -> dict[str, tuple[float, float]]:
        return {"mean difference": (at_overlap(rows, way), at_overlap(rows, "mean difference")),
                _LABEL: (at_overlap(rows, way, overlap=label["rbo"]), label["gain"])}

    def least(way: str) -> float:
        return min(gain / max(other, 1e-3) for gain, other in beside(way).values())

    told = "; ".join(f"{gain:+.3f} against {other:+.3f} of {way}" for way, (gain, other) in beside(BOTH).items())
    if any(row["way"] == EXAMPLES for row in rows):
        told += f"; {EXAMPLES} {least(EXAMPLES):.2f} times the best"
    noise = [row["gain"] for row in rows if row["way"] == "noise"]
    return _target("the same, over that of mean difference and label at equal overlap", "at least", 1.0,
                   least(BOTH), "times the best of them",
                   f"{told}; noise of any length {max(noise):+.3f} at most")


def _monotone(rows: Sequence[Row]) -> Row:
    known = [row["spearman"] for row in rows if row["spearman"] == row["spearman"]]
    return _target("a feature's strength: pairs with Spearman of at least 0.9", "at least", 0.9,
                   float(np.mean(np.array(known) >= 0.9)), "of the pairs",
                   f"of strength, 0 to 6, and evidence for the feature in the first ten hits; {len(known)} of "
                   f"{len(rows)} pairs, in the others no strength changed the hits; it fell in "
                   f"{sum(row['falls'] for row in rows)} steps")


def _specific(rows: Sequence[Row]) -> Row:
    gain, others = (float(np.mean([row[key] for row in rows])) for key in ("gain", "others"))
    return _target("the same: change of 50 unrelated features, over the feature's own", "at most", 0.1,
                   abs(others) / gain, "of the gain", f"own {gain:+.3f} units at strength 6, others {others:+.4f}")


def _families(rows: Sequence[Row]) -> Row:
    best = max(rows, key=lambda row: float(row["gain"]))
    several = "; ".join(f"codes by {row['coding']}: {row['families']} families, {row['ratio']:.2f} against "
                        f"{row['null']:.2f}, {100 * row['share_5']:.0f} % of them at 5 times their own" for row in rows)
    return _target("families: co-activation inside over outside, over that of families by chance", "at least", 5.0,
                   best["gain"], "times", f"codes by {best['coding']}, judged on {best['texts']:,} texts beside those "
                                          f"that they were found with; {several}")


def _names(rows: Sequence[Row]) -> Row:
    by = {row["labeller"]: row for row in rows if row["dictionary"] == ARXIV}
    chosen = by["chosen"]
    others = ", ".join(f"{row['dictionary']} {row['detection']:.3f}" for row in rows
                       if row["labeller"] == "chosen" and row["dictionary"] != ARXIV)
    several = ", ".join(f"{name} {row['detection']:.3f} (won {row['won']})" for name, row in by.items()
                        if name != "chosen")
    return _target("names of features: detection AUROC on held-out texts, median", "at least", 0.9, chosen["detection"],
                   "AUROC", f"{chosen['features']:,} features on {chosen['texts']:,} texts; of strong activations "
                            f"{chosen['strong_detection']:.3f}; {several}; other dictionaries: {others}; judged by a "
                            "sparse encoder")


def _named(rows: Sequence[Row]) -> Row:
    chosen = next(row for row in rows if row["labeller"] == "chosen" and row["dictionary"] == LARGE)
    return _target("live features that have a name", "at least", 1.0, chosen["named"], "of them",
                   f"in {chosen['seconds'] / 60:.1f} minutes for {chosen['features']:,}, coding and weighing of texts "
                   "left out")


def _away(rows: Sequence[Row]) -> Row:
    told = {way: cut_at_kept(rows, way) for way in dict.fromkeys(row["way"] for row in rows)}
    return _target("steering away from a category: cut of its share in the first ten, 95 % of nDCG@10 kept", "at least",
                   0.5, told["features"], "of it",
                   f"{rows[0]['pairs']:,} pairs, share {rows[0]['left']:.3f} before, nDCG@10 {rows[0]['ndcg']:.3f} of "
                   "the titles' own abstracts; " + ", ".join(f"{way} {cut:.3f}" for way, cut in told.items()))


def _overlaps(rows: Sequence[Row]) -> Row:
    within = {way: within_twice(rows, way) for way in ("predicted", "sampled", "independent")}
    near = within_twice([row for row in rows if row["sets"] == "near"])
    typical = float(np.median([max(row["predicted"] / row["measured"], row["measured"] / max(row["predicted"], 1e-9))
                               for row in rows]))
    return _target("filters by set overlap: measured rate over the one that a sample predicts, median", "at most", 2.0,
                   typical, "times", f"{len(rows)} filters of 8 to 32 features; within twice for "
                   f"{100 * within['predicted']:.0f} % (of near features {100 * near:.0f} %), by "
                   f"the sample's own rate {100 * within['sampled']:.0f} %, by independence "
                   f"{100 * within['independent']:.0f} %")


def _neutral(rows: Sequence[Row], step: float) -> Row:
    sets = list(dict.fromkeys(row["set"] for row in rows))
    lost = {name: lost_at(rows, name, CATEGORY, step) for name in sets}
    others = ", ".join(f"{way} {100 * max(lost_at(rows, name, way, step) for name in sets):.1f} %"
                       for way in dict.fromkeys(row["way"] for row in rows) if way != CATEGORY)
    return _target("neutral steering: nDCG@10 lost on judged sets, by the step that leaves towards an overlap of 0.5; "
                   "mean of the sets", "at most", 5.0, 100 * float(np.mean(list(lost.values()))), "%",
                   f"{CATEGORY}, which have nothing to do with the query, step {step:.2f}: "
                   + ", ".join(f"{name} {100 * share:.1f} %" for name, share in lost.items())
                   + f"; of the worst set by others: {others}")


def _steered(rows: Sequence[Row]) -> Row:
    times = {f"{row['field']}, {row['way']}": row["times"] for row in rows if row["way"] in ("1 edit", "8 edits")}
    worst = max(times, key=times.__getitem__)
    return _target("latency of a steered search, over the unsteered", "at most", 1.2, times[worst], "times",
                   ", ".join(f"{way} {value:.2f}" for way, value in times.items()))


def _explained(rows: Sequence[Row]) -> Row:
    by = {(row["field"], row["way"]): row["ms"] for row in rows}
    more = {field: by[field, "explained"] - by[field, "none"] for field in ("dense", "sae")}
    steered = {field: by[field, "1 edit, explained"] - by[field, "1 edit"] for field in ("dense", "sae")}
    return _target("explaining a list of 10 hits", "at most", 1.0, max(more.values()), "ms",
                   ", ".join(f"{field} {ms:.2f}" for field, ms in more.items()) + "; with the ranks before steering, "
                   "which is another search: " + ", ".join(f"{field} {ms:.1f}" for field, ms in steered.items()))


_MAKERS: dict[str, tuple[Callable[[Sequence[Row]], Row], ...]] = {
    "examples": (_examples,), "towards": (_gain, _above), "strengths": (_monotone, _specific),
    "families": (_families,), "names": (_names, _named),
    "away": (_away,), "overlaps": (_overlaps,),
    "cost": (_steered, _explained)}
