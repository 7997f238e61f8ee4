"""Does a query's code tell that the index has nothing for it? (system 23)

Ferrando et al. 2025, "Do I Know This Entity?", find features of language models that tell known from unknown entities.
Here whole categories are taken out of the index: a title is unanswerable if all its abstract's categories are gone, and
answerable if none is; those between are left out. The signal, and the weights where several are joined, are picked on
one half of the categories and measured on the other. Nothing is indexed again: what is gone is masked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benches.quality.measure import say
from benches.quality.results import Row
from benches.steering.classifiers import fit
from benches.steering.papers import Papers
from sparsight.encoders.sae.auroc import auroc
from sparsight.encoders.sae.model import SAE
from sparsight.retrieval.models import SAEModel

if TYPE_CHECKING:
    from sparsight.retrieval import Collection

__all__ = ["COSINES", "answerable", "coverage", "joined", "nearest", "of_code", "picked", "section", "shares",
           "support"]

F32, F64, I64, Mask = NDArray[np.float32], NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]
_QUERIES, _FOLDS, _NEAR, _BLOCK = 4_000, 4, 10, 250
_POWER = 5
_FIRES = 0.01  # of the queries, for a single feature to be looked at
COSINES = ("cosine of the first hit", "mean cosine of ten hits")
JOINED, WITH_COSINES, FEATURE = "SAE signals joined", "SAE signals and cosines joined", "one feature of the query"


def section(papers: Papers, collection: Collection) -> list[Row]:
    """Rows "known", one for each signal: AUROC, mean of 4 removals of 10 categories, on either half."""
    model = collection._generation().derived["sae"]
    assert isinstance(model, SAEModel)
    sae = model.sae
    rows = np.sort(np.random.default_rng(61).choice(papers.aside, _QUERIES, replace=False))
    queries = papers.encode([papers.papers[row].title for row in rows.tolist()])
    own, documents = sae.document_codes(queries), sae.document_codes(papers.x[papers.indexed])
    products = queries @ sae.W_dec.T
    halves = {half: _removals(papers, half == "test") for half in ("choice", "test")}
    removed = [gone for folds in halves.values() for gone in folds]
    asked = [answerable([papers.papers[row].categories for row in rows.tolist()], gone) for gone in removed]
    kept = np.array([[not papers.papers[row].categories & gone for row in papers.indexed.tolist()] for gone in removed])
    say(f"{len(removed)} removals of {_QUERIES:,} titles, {int(np.mean([len(of[0]) for of in asked])):,} used of each")
    cosines, near = nearest(queries, papers.x[papers.indexed], kept)
    usual = np.maximum(sae.density.astype(np.float64), 0.5e-6)
    told: list[Mapping[str, F64]] = [
        {**of_code(sae, queries, own), **support(own, products, shares(documents[np.flatnonzero(kept[at])]), usual),
         "query's code covered by ten hits": coverage(own, documents, near[at]),
         COSINES[0]: cosines[at][:, 0], COSINES[1]: cosines[at].mean(1)} for at in range(len(removed))]
    chosen = range(_FOLDS)
    feature = _best_feature(own, [asked[at] for at in chosen])
    signals = [name for name in told[0] if name not in COSINES]
    told = [{**told[at], FEATURE: feature[1] * own[:, feature[0]].toarray().ravel().astype(np.float64)}
            for at in range(len(told))]
    for name, of in {JOINED: signals, WITH_COSINES: [*signals, *COSINES]}.items():
        weights = joined([told[at] for at in chosen], [asked[at] for at in chosen], of)
        told = [{**one, name: np.sum([w * one[key] for key, w in weights.items()], axis=0)} for one in told]
    found: list[Row] = []
    for name in told[0]:
        figures = [float(auroc(told[at][name][used, None], yes[:, None])[0, 0]) for at, (used, yes) in enumerate(asked)]
        found.append({"kind": "known", "signal": name, "removals": _FOLDS,
                      "answerable": sum(int(yes.sum()) for _, yes in asked[_FOLDS:]),
                      "unanswerable": sum(int((~yes).sum()) for _, yes in asked[_FOLDS:]),
                      "choice": round(float(np.mean(figures[:_FOLDS])), 4),
                      "test": round(float(np.mean(figures[_FOLDS:])), 4)})
    return found


def _removals(papers: Papers, test: bool) -> list[frozenset[str]]:
    names = papers.split(test)
    return [frozenset(names[at] for at in part) for part in
            np.array_split(np.random.default_rng(62).permutation(len(names)), _FOLDS)]


def answerable(categories: Sequence[frozenset[str]], gone: frozenset[str]) -> tuple[I64, Mask]:
    """Queries of which all categories are gone or none is, and for each of these whether it is none."""
    shares = np.array([len(of & gone) / len(of) for of in categories])
    used = np.flatnonzero((shares == 0) | (shares == 1))
    return used, shares[used] == 0


def nearest(queries: F32, x: F32, kept: Mask, depth: int = _NEAR) -> tuple[F32, I64]:
    """Cosines and rows of the first hits, best first, (R, Q, depth), for each of R masks (R, N) of what is indexed."""
    cosines = np.empty((len(kept), len(queries), depth), np.float32)
    rows = np.empty(cosines.shape, np.int64)
    for start in range(0, len(queries), _BLOCK):
        part = slice(start, start + _BLOCK)
        every = queries[part] @ x.T
        for at, mask in enumerate(kept):
            scores = np.where(mask, every, -2.0)
            best = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
            found = np.take_along_axis(scores, best, 1)
            order = np.argsort(-found, axis=1, kind="stable")
            rows[at, part], cosines[at, part] = (np.take_along_axis(of, order, 1) for of in (best, found))
    return cosines, rows


def of_code(sae: SAE, queries: F32, codes: csr_matrix) -> dict[str, F64]:
    """Signals of a query alone; all of them are to be higher where it is answerable."""
    rest = np.linalg.norm(queries - sae.decode(codes), axis=1)
    return {"error norm of the query, negative": -rest.astype(np.float64),
            "largest activation of the query": np.asarray(codes.max(1).todense(), np.float64).ravel()}


def shares(indexed: csr_matrix) -> F64:
    """Share of what is indexed that each latent fires on, (N,); half a text more, so that none is 0."""
    return (np.bincount(indexed.indices, minlength=indexed.shape[1]) + 0.5) / (indexed.shape[0] + 1)


def support(codes: csr_matrix, products: F32, here: F64, usual: F64) -> dict[str, F64]:
    """Whether what a query is about is as common in the index, ``here``, as it was in training, ``usual``, both (N,).

    One signal is the mean logarithm of their ratio over the query's code (Q, N), by activation. A title's code has 32
    latents, though, and only the first few are what it is about: the other takes the fifth power of the products of
    query and directions, (Q, N), as weights, and is the logarithm of the ratio of the weighted means. Mean logarithms
    with these weights had an AUROC of 0.785 on the half for choices, where this has 0.798; powers of 4 to 6 differ by
    less than 0.01.
    """
    powers = np.maximum(products, 0.0).astype(np.float64) ** _POWER
    size = np.maximum(np.asarray(codes.sum(1), np.float64).ravel(), 1e-12)
    return {"query's code in the index beside training": np.asarray(codes @ np.log(here / usual)).ravel() / size,
            "query's strongest features in the index beside training":
                np.log(np.maximum(powers @ here, 1e-300) / np.maximum(powers @ usual, 1e-300))}


def coverage(codes: csr_matrix, documents: csr_matrix, near: I64) -> F64:
    """Share of a query's activation whose features some of its first hits have; ``near`` (Q, depth) are their rows."""
    fired = documents.astype(bool).astype(np.float32).tocsr()
    hits = fired[near[:, 0]]
    for at in range(1, near.shape[1]):
        hits = hits + fired[near[:, at]]
    whole = np.maximum(np.asarray(codes.sum(1), np.float64).ravel(), 1e-12)
    return np.asarray(codes.multiply(hits > 0).sum(1), np.float64).ravel() / whole


def _best_feature(codes: csr_matrix, asked: Sequence[tuple[I64, Mask]]) -> tuple[int, float]:
    """The latent that tells most on some removals, and 1, or -1 if it tells the unanswerable."""
    apart = np.mean([auroc(codes[used], yes[:, None])[:, 0] - 0.5 for used, yes in asked], axis=0)
    apart[np.bincount(codes.indices, minlength=codes.shape[1]) < _FIRES * codes.shape[0]] = 0.0
    best = int(np.abs(apart).argmax())
    return best, float(np.sign(apart[best]))


def joined(told: Sequence[Mapping[str, F64]], asked: Sequence[tuple[I64, Mask]], signals: Sequence[str]
           ) -> dict[str, float]:  # fmt: skip
    """Weights of signals by a logistic regression on some removals, for signals as they are."""
    values = np.concatenate([np.stack([one[name][used] for name in signals], 1)
                             for one, (used, _) in zip(told, asked, strict=True)])
    deviation = np.maximum(values.std(0), 1e-12)
    weights, _ = fit((values - values.mean(0)) / deviation, np.concatenate([yes for _, yes in asked]))
    return dict(zip(signals, (weights / deviation).tolist(), strict=True))


def picked(rows: Sequence[Row]) -> Row:
    """The row of the signal that is best on the half for choices, of those that the autoencoder gives."""
    return max((row for row in rows if row["signal"] not in (*COSINES, WITH_COSINES)),
               key=lambda row: float(row["choice"]))
