"""Edits of an abstract's attributes by features, against those by a supervised dictionary (system 16).

Makelov, Lange, Nanda 2024, "Towards Principled Evaluations of Sparse Autoencoders for Interpretability and Control": a
dictionary with one direction for each value of each attribute, made with the labels, says what any dictionary could do
here. Attributes are the category, the years and the length; values of one text change, and a linear judge that was
fitted to other texts says what they now are. All edits of a text have the same length.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benches.quality.results import Row
from benches.steering.dictionaries import (
    discriminant,
    greedy_union,
    single_f1,
    sums_of_values,
    supervised,
    supervised_edit,
    towards_length,
)
from benches.steering.papers import Paper, Papers
from benches.steering.towards import found_features
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.reconstruction import fvu
from sparsight.retrieval.models import SAEModel

if TYPE_CHECKING:
    from sparsight.retrieval import Collection

__all__ = ["EXAMPLES", "OURS", "SUPERVISED", "section", "year_of"]

F32, I64, Mask = NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]
ATTRIBUTES = ("category", "years", "length")
SUPERVISED, EXAMPLES = "supervised", "12 features from 10 + 10 examples"
OURS = "32 features of mean codes"  # as many as a code has, and the same labels as the supervised dictionary
_PART, _TESTED = 10_000, 2_000  # texts for the judge, the same again for the dictionaries, and those edited
_YEARS, _LENGTHS, _SHOWN = (2008, 2013, 2017), (1 / 3, 2 / 3), 10
_CHANGED = (2, 8, 32, 128)
_TOLD, _OCCLUDED, _SPLIT = 0.3, 0.5, 3


def section(papers: Papers, collection: Collection) -> list[Row]:
    """Rows "control" (an attribute and a way of editing it), "approximation" (a dictionary), and "values" (an
    attribute: how well single latents tell its values, which are occluded, which split)."""
    model = collection._generation().derived["sae"]
    assert isinstance(model, SAEModel)
    names = papers.split(test=True)
    members = papers.members(names)
    some = np.random.default_rng(71).permutation(np.flatnonzero(members.sum(1) == 1))[:2 * _PART + _TESTED]
    years = np.digitize([year_of(papers.papers[row]) for row in some.tolist()], _YEARS)
    lengths = np.array([len(papers.papers[row].text) for row in some.tolist()])
    values = np.stack([members[some].argmax(1), years, np.digitize(lengths, np.quantile(lengths, _LENGTHS))], 1)
    x = papers.x[some]
    parts = slice(_PART), slice(_PART, -_TESTED), slice(-_TESTED, None)
    judges = [discriminant(x[parts[0]], values[parts[0], a]) for a in range(len(ATTRIBUTES))]
    return _measured(collection, model.sae, judges, *((x[part], values[part]) for part in parts[1:]))


def year_of(paper: Paper) -> int:
    """When an abstract came, by its id: 1802.05162 or astro-ph/9301001."""
    found = re.match(r"\d\d", paper.id.rpartition("/")[2])
    assert found is not None
    return int(found[0]) + (1900 if int(found[0]) > 50 else 2000)


def _measured(collection: Collection, sae: SAE, judges: list[tuple[F32, F32]], known: tuple[F32, I64],
              tested: tuple[F32, I64]) -> list[Row]:
    (x, values), (own, has) = known, tested
    codes, mine = sae.document_codes(x), sae.document_codes(own)
    mean, directions = supervised(x, values)

    def said(rows: F32) -> I64:
        return np.stack([(rows @ w + b).argmax(1) for w, b in judges], 1)

    before, rows = said(own), []
    for name, rebuilt, active in (("supervised", mean + sums_of_values(directions, has), float(has.shape[1])),
                                  ("SAE", sae.decode(mine), mine.nnz / len(own))):
        for a, attribute in enumerate(ATTRIBUTES):
            accuracy = {way: round(float((said(given)[:, a] == has[:, a]).mean()), 4) for way, given in
                        (("whole", own), ("rebuilt", rebuilt), ("rest", own - rebuilt + mean))}
            rows.append({"kind": "approximation", "dictionary": name, "attribute": attribute,
                         "active": round(active, 1), "fvu": round(float(fvu(own, own - rebuilt)), 4), **accuracy})
    for a, attribute in enumerate(ATTRIBUTES):
        count, drawn = len(directions[a]), np.random.default_rng([72, a])
        wanted = (has[:, a] + drawn.integers(1, count, size=len(own))) % count
        ideal = supervised_edit(directions[a], has[:, a], wanted)
        lengths = np.linalg.norm(ideal, axis=1)
        means = np.stack([np.asarray(codes[values[:, a] == v].mean(0)).ravel() for v in range(count)])
        changes = means[wanted] - means[has[:, a]]
        edits = {SUPERVISED: ideal, "noise": drawn.standard_normal(own.shape).astype(np.float32)}
        for most in _CHANGED:
            least = -np.partition(-np.abs(changes), most - 1, axis=1)[:, most - 1, None]
            edits[f"{most} features of mean codes"] = (changes * (np.abs(changes) >= least)) @ sae.W_dec
        edits |= _from_examples(collection, sae, x, values[:, a], np.stack([has[:, a], wanted], 1), drawn)
        others = [other for other in range(len(ATTRIBUTES)) if other != a]
        for way, edit in edits.items():
            after = said(own + towards_length(edit, lengths))
            rows.append({"kind": "control", "attribute": attribute, "values": count, "texts": len(own), "way": way,
                         "success": round(float((after[:, a] == wanted).mean()), 4),
                         "kept": round(float((after[:, others] == before[:, others]).mean()), 4)})
        rows.append(_values(attribute, said(own)[:, a], directions[a], codes > 0, values[:, a], mine > 0, has[:, a]))
    return rows


def _from_examples(collection: Collection, sae: SAE, x: F32, value: I64, pairs: I64, drawn: np.random.Generator
                   ) -> dict[str, F32]:  # fmt: skip
    """Edits (Q, D) from one value to another of ``pairs`` (Q, 2), by 10 examples of each."""
    shown = [x[drawn.choice(np.flatnonzero(value == v), _SHOWN, replace=False)] for v in range(value.max() + 1)]
    kinds, which = np.unique(pairs, axis=0, return_inverse=True)
    made = np.zeros((len(kinds), sae.d_in), np.float32)
    for at, (old, new) in enumerate(kinds.tolist()):
        for f, strength in found_features(collection, shown[new], shown[old]):
            made[at] += strength * sae.scale[f] * sae.W_dec[f]
    plain = np.stack([shown[new].mean(0) - shown[old].mean(0) for old, new in kinds.tolist()])
    return {EXAMPLES: made[which.ravel()], "mean difference of 10 + 10 examples": plain[which.ravel()]}


def _values(attribute: str, said: I64, directions: F32, fires: Mask, value: I64, own: Mask, has: I64) -> Row:
    """What single latents know of values; both are chosen on one part of the texts and measured on the other."""
    count = len(directions)
    judge = np.array([2 * ((said == v) & (has == v)).sum() / ((said == v).sum() + (has == v).sum())
                      for v in range(count)])
    f1, taken = np.zeros(count), np.zeros(count, np.int64)
    for v in range(count):
        best = int(single_f1(fires, value == v).argmax())
        f1[v] = single_f1(own[:, [best]], has == v)[0]
        taken[v] = len(greedy_union(fires, value == v))
    told = judge >= _TOLD
    return {"kind": "values", "attribute": attribute, "values": count,
            "size": round(float(np.linalg.norm(directions, axis=1).mean()), 4), "judge": round(float(judge.mean()), 4),
            "f1": round(float(f1.mean()), 4), "told": int(told.sum()),
            "occluded": int((told & (f1 < _OCCLUDED * judge)).sum()),
            "split": int((taken >= _SPLIT).sum()), "latents": round(float(taken.mean()), 2)}
