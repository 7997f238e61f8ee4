"""A line for each published system of features and steering: what its criterion asks, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benches.quality.criteria import asked
from benches.quality.results import Row
from benches.steering import control, shift
from benches.steering.away import cut_at_kept
from benches.steering.known import COSINES, picked
from benches.steering.names import ARXIV
from benches.steering.overlaps import within_twice
from benches.steering.towards import FEATURES, at_overlap

__all__ = ["system_rows"]


def system_rows(rows: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Rows "systems" for all that was measured."""
    made: list[Row] = []
    by = {kind: of for kind, of in rows.items() if of}
    if "families" in by:
        best = max(by["families"], key=lambda row: float(row["gain"]))
        made.append(asked(4, "Disentangling Dense Embeddings", "families: inside over outside, over the null's",
                          best["gain"], "at least", 5.0, unit="times", note=f"codes by {best['coding']}, held out"))
    if "names" in by:
        chosen = next(row for row in by["names"] if row["labeller"] == "chosen" and row["dictionary"] == ARXIV)
        made.append(asked(4, "Disentangling Dense Embeddings", "names: correlation with activations, median",
                          chosen["correlation"], "at least", 0.65, unit="Pearson",
                          note="judged by a sparse encoder, where the paper asks a language model"))
        made.append(asked(22, "LMMs interpret features in LMMs", "live features with a name and held-out scores",
                          100 * chosen["named"], "at least", 100.0, unit="%",
                          note=f"{chosen['features']:,} features in {chosen['seconds'] / 60:.1f} minutes"))
    if "towards" in by:
        label = next(row for row in by["towards"] if row["way"] == "label behind the query")
        own = at_overlap(by["towards"], "features", overlap=label["rbo"])
        made.append(asked(4, "Disentangling Dense Embeddings", "gain of steering over that of rewriting, equal overlap",
                          own / max(label["gain"], 1e-3), "at least", 1.0, unit="times",
                          note=f"{own:+.3f} against {label['gain']:+.3f} at overlap {label['rbo']:.2f}"))
    for row in by.get("lobes", ()):
        made.append(asked(17, "Geometry of concepts", "lobes by firing and by direction: mutual information, z",
                          row["z"], "at least", 10.0, unit="sigmas",
                          note=f"{row['lobes']} lobes, {row['texts']:,} texts; adjusted {row['adjusted']:.3f}"))
    for row in by.get("shapes", ()):
        made.append(asked(18, "Not all features are linear", "best group: score over that of its shuffles",
                          row["score"] / max(row["null"], 1e-6), "at least", 2.0, unit="times",
                          note=f"score {row['score']:.3f}, mixture {row['mixture']:.2f}, separability "
                               f"{row['separability']:.2f}; {row['above']} of {row['groups']} groups at twice; "
                               f"{'; '.join(row['names'])}; nobody has seen a circle in it"))
    if "away" in by:
        curve = [row for row in by["away"] if row["way"] == "features"]
        made.append(asked(20, "SHIFT", "leakage in the first ten hits cut, at 95 % of nDCG@10",
                          100 * cut_at_kept(curve, "features"), "at least", 50.0, unit="%",
                          note=f"{curve[0]['pairs']} pairs"))
    if "shift" in by:
        made.append(_shift(by["shift"]))
    if "control" in by:
        made.append(_control(by["control"], by.get("values", ())))
    if "known" in by:
        best, cosine = picked(by["known"]), max(row["test"] for row in by["known"] if row["signal"] in COSINES)
        made.append(asked(23, "Do I know this entity?", "AUROC of answerable against unanswerable queries",
                          best["test"], "at least", 0.85, unit="AUROC",
                          note=f"{best['signal']}, picked on other categories ({best['choice']:.3f} there); cosine of "
                               f"the first hits {cosine:.3f}"))
    for row in by.get("probes", ()):
        made += [asked(21, "Sparse probing", "F1 of one latent above that of the best component of the embedding",
                       row["f1"]["1"] - row["dimension"], "at least", 0.2, unit="F1",
                       note=f"{row['f1']['1']:.3f} against {row['dimension']:.3f}; {row['labels']} categories"),
                 asked(21, "Sparse probing", "F1 of eight latents below that of the whole embedding",
                       100 * (row["dense"] - row["f1"]["8"]), "at most", 3.0, unit="points",
                       note=f"{row['f1']['8']:.3f} against {row['dense']:.3f}")]
    if "overlaps" in by:
        within = within_twice(by["overlaps"])
        made.append(asked(26, "Sparse distributed representations", "overlap filters within twice the predicted rate",
                          100 * within, "at least", 95.0, unit="%", note=f"{len(by['overlaps'])} filters"))
    for row in by.get("sets", ()):
        made += [asked(27, "Sparsey", "a document that was just inserted is the first hit of its own vector",
                       100 * row["first"] / row["inserted"], "at least", 100.0, unit="%",
                       note=f"{row['inserted']} documents, among 67,380"),
                 asked(27, "Sparsey", "common latents against cosine, of the 1,000 nearest: Spearman, median",
                       row["spearman"], "at least", 0.8, unit="Spearman", note=f"{row['asked']} documents")]
    if "examples" in by:
        found = [row["precision"] for row in by["examples"] if row["features"] == str(FEATURES)]
        made.append(asked(28, "SAEs for circuit identification", "features from 10 + 10 examples: precision@10, median",
                          float(np.median(found)), "at least", 0.8, unit="precision@10",
                          note=f"{len(found)} categories"))
    return sorted(made, key=lambda row: int(row["system"]))


def _shift(rows: Sequence[Row]) -> Row:
    found = shift.means(rows)
    ours, oracle = found[shift.OURS], found[shift.ORACLE]
    others = {"without the labels' names": shift.UNNAMED, "as trained": "codes, as trained",
              "ablated": "codes, picked ablated",
              "ablated and retrained": shift.ABLATED,
              "random features": "codes, random ablated, retrained",
              "attribute erased from embeddings": "embeddings, attribute erased (LEACE), retrained",
              "the 20 examples alone": "embeddings, the 20 examples alone"}
    return asked(20, "SHIFT", "classifier: worst group over that of a balanced training set",
                 100 * ours["worst"] / oracle["worst"], "at least", 95.0, unit="%",
                 note=f"{ours['worst']:.3f} of {oracle['worst']:.3f}, features weighed by what the label alone "
                      f"changes and the labels' names, attribute read out {ours['readout']:.3f}; "
                      f"{found[shift.ABLATED]['ablated']:.0f} features would be ablated; "
                      + ", ".join(f"{name} {found[way]['worst']:.3f}" for name, way in others.items()))


def _control(rows: Sequence[Row], values: Sequence[Row]) -> Row:
    success = {way: float(np.mean([row["success"] for row in rows if row["way"] == way]))
               for way in dict.fromkeys(row["way"] for row in rows)}
    ceiling = success[control.SUPERVISED]
    told = "; ".join(f"{way} {share / ceiling:.2f}" for way, share in success.items() if way != control.SUPERVISED)
    counted = ", ".join(f"{row['attribute']}: {row['occluded']} of {row['told']} occluded, {row['split']} of "
                        f"{row['values']} split" for row in values)
    return asked(16, "Principled evaluations", "edits by features: success over that of a supervised dictionary",
                 100 * success[control.OURS] / ceiling, "at least", 100.0, unit="%",
                 note=f"no bound was named, the ceiling stands for it: {ceiling:.3f} of the edits succeed; "
                      f"{control.OURS}; shares of it: {told}; {counted}")
