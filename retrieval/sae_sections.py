"""Sections of a report on autoencoders: models, sets, reconstruction, and retrieval quality beside baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsight.retrieval import sae_baselines as short
from sparsight.retrieval.evaluation import compare
from sparsight.retrieval.judged_vectors import NDCG, RECALL, JudgedVectors, Quality
from sparsight.retrieval.sae_report import Report, Row, Section, Subject
from sparsight.retrieval.sae_retention import Retention, dense_quality, ratio, ratio_interval, retentions

if TYPE_CHECKING:
    from sparsight.encoders.sae.model import SAE

__all__ = ["SECTIONS", "models", "quality", "reconstructions", "sets"]

_OPQ_PARTS = 32  # beyond, PQ alone keeps about all, and learning a rotation takes minutes
_RECONSTRUCTION = ("fvu", "worst_decile_fvu", "cosine", "l0", "l0_p99", "dead")


def models(subject: Subject) -> Report:
    """The autoencoders, and the bytes of a document's postings."""
    return {"models": [
        {"model": name, "n_latents": sae.n_latents, "k": sae.k, "mode": sae.mode, "d_in": sae.d_in,
         "bytes": short.posting_bytes(sae.n_latents, sae.k), "fingerprint": sae.fingerprint[:16]}
        for name, sae in subject.models.items()]}  # fmt: skip


def sets(subject: Subject) -> Report:
    """The sets, and what the dense vectors themselves do there."""
    return {"sets": [
        {"set": judged.name, "documents": len(judged.documents), "queries": len(judged.queries),
         "bytes": 4 * judged.documents.shape[1], **_means(dense_quality(judged, device=subject.device))}
        for judged in subject.sets]}  # fmt: skip


def reconstructions(subject: Subject) -> Report:
    """How well, how sparsely and with how many of their latents models rebuild the documents of sets."""
    from sparsight.encoders.sae.reconstruction import reconstruction

    rows = []
    for judged in subject.sets:
        for name, sae in subject.models.items():
            subject.progress(f"{judged.name}: reconstruction by {name}", 0, 0)
            found = reconstruction(sae, judged.documents, device=subject.device)
            rows.append({"model": name, "set": judged.name} | {key: getattr(found, key) for key in _RECONSTRUCTION})
    return {"reconstruction": rows}


def quality(subject: Subject) -> Report:
    """Retention of codes and of baselines, and whether codes differ from baselines by more than chance.

    Rows of "retention" whose model is none of the subject's are untrained dictionaries. Short vectors of "baselines"
    meet codes of k at equal active dimensions, or at the bytes of k postings in an index of ``n_latents``; those of one
    size have no k. "comparisons" are of the first scorer: difference in nDCG@10, codes minus baseline.
    """
    report: Report = {"retention": [], "baselines": [], "comparisons": []}
    shared = None if subject.train is None else _Fitted(subject, subject.train)
    for judged in subject.sets:
        fitted = shared or _Fitted(subject, judged.documents)
        dense = dense_quality(judged, device=subject.device)
        trained = [_coded(subject, judged, dense, *item) for item in subject.models.items()]
        untrained = [_coded(subject, judged, dense, *item) for item in fitted.controls()]
        vectors = list(_baselines(subject, judged, fitted))
        report["retention"] += [_row(codes, one) for codes in trained + untrained for one in codes.found]
        report["baselines"] += [{"set": judged.name, **row, **_beside(found, dense)} for row, found in vectors]
        for codes in trained:
            report["comparisons"] += _comparisons(subject, codes, list(_others(subject, codes, untrained, vectors)))
    return report


SECTIONS: tuple[Section, ...] = (models, sets, reconstructions, quality)
"""All of them, in the order of the page."""


class _Fitted:
    """Baselines fitted to some rows, each when it is first asked for."""

    def __init__(self, subject: Subject, train: NDArray[np.float32]) -> None:
        self.train = train
        self.axes = cache(lambda: short.principal_axes(train))
        self.quantiser = cache(lambda parts, rotated: short.ProductQuantiser.fit(
            train, parts, rotated=rotated, seed=subject.seed))
        self.controls = cache(lambda: list(_controls(subject, train)))


class _Codes(NamedTuple):
    """What was measured of an autoencoder on a set."""

    model: str
    sae: SAE
    found: list[Retention]


def _coded(subject: Subject, judged: JudgedVectors, dense: Quality, name: str, sae: SAE) -> _Codes:
    ks = [*(k for k in subject.ks if k <= sae.n_latents), 0]
    return _Codes(name, sae, retentions(
        sae, judged, ks, subject.scorers, rounded=subject.rounded, dense=dense, device=subject.device,
        progress=lambda done, total: subject.progress(f"{judged.name}: {name}", done, total)))


def _controls(subject: Subject, train: NDArray[np.float32]) -> Iterator[tuple[str, SAE]]:
    """Untrained dictionaries of the models' sizes."""
    for size in _sizes(subject):
        k = max(sae.k for sae in subject.models.values() if sae.n_latents == size)
        if "random" in subject.baselines:
            yield f"random atoms ({size})", short.random_atoms(size, k, train, seed=subject.seed)
        if "centroids" in subject.baselines and size <= len(train):
            yield f"centroids ({size})", short.centroid_atoms(size, k, train, seed=subject.seed, device=subject.device)


def _sizes(subject: Subject) -> list[int]:
    return list(dict.fromkeys(sae.n_latents for sae in subject.models.values()))


def _baselines(subject: Subject, judged: JudgedVectors, fitted: _Fitted) -> Iterator[tuple[Row, Quality]]:
    """Short vectors as rows, with their quality; what several k or models ask for is made once."""
    make: Mapping[str, Callable[[int], short.ShortVectors]] = {
        "truncation": lambda dimensions: short.truncated(judged, dimensions),
        "pca": lambda dimensions: short.pca(judged, fitted.axes(), dimensions),
        "pca, 8 bits": lambda dimensions: short.pca(judged, fitted.axes(), dimensions, train=fitted.train),
        "pq": lambda parts: fitted.quantiser(parts, False).shorten(judged),
        "opq": lambda parts: fitted.quantiser(parts, True).shorten(judged),
        "int8": lambda _: short.int8(judged, fitted.train),
        "binary": lambda _: short.binary(judged, both=True),
        "binary, float query": lambda _: short.binary(judged, both=False),
    }

    @cache
    def measured(name: str, size: int) -> tuple[short.ShortVectors, Quality]:
        subject.progress(f"{judged.name}: {name}", 0, 0)
        vectors = make[name](size)
        return vectors, vectors.quality(judged, device=subject.device)

    for name, size, equal, k, n_latents in _wanted(subject, judged.documents.shape[1], len(fitted.train)):
        vectors, found = measured(name, size)
        yield {"system": vectors.name, "equal": equal, "k": k, "n_latents": n_latents,
               "dimensions": vectors.dimensions, "bytes": vectors.bytes}, found  # fmt: skip


def _wanted(subject: Subject, d: int, rows: int) -> Iterator[tuple[str, int, str, int | None, int | None]]:
    """Name and size of short vectors, and what they are equal to: dimensions of k, or bytes of k postings."""
    left_out = ("pq", "opq") if rows < short.LEAST_ROWS else ()
    names = [name for name in subject.baselines if name not in left_out]
    for k in subject.ks:
        for name in ("truncation", "pca"):
            if name in names:
                yield name, min(k, d), "dimensions", k, None
    for n_latents in _sizes(subject):
        for k in subject.ks:
            room = short.posting_bytes(n_latents, k)
            parts = short.most_parts(d, room)
            for name, size in (("pca, 8 bits", min(int(room), d)), ("pq", parts), ("opq", parts)):
                if name.split(",")[0] in names and not (name == "opq" and parts > _OPQ_PARTS):
                    yield name, size, "bytes", k, n_latents
    for name in ("int8", "binary", "binary, float query"):
        if name.split(",")[0] in names:
            yield name, d, "", None, None


def _row(codes: _Codes, one: Retention) -> Row:
    n_latents = codes.sae.n_latents
    return {"model": codes.model, "n_latents": n_latents, "set": one.set, "scorer": one.scorer.name, "k": one.k,
            "mode": one.mode, "bits": 8 if one.rounded else 32, **_beside(one.quality, one.dense),
            "postings": one.postings, "l0": one.l0, "bytes": short.posting_bytes(n_latents, one.k)}  # fmt: skip


def _means(found: Quality) -> Row:
    return {NDCG: float(found.ndcg.mean()), RECALL: float(found.recall.mean())}


def _beside(found: Quality, dense: Quality) -> Row:
    """Means, and retention with its interval."""
    low, high = ratio_interval(found.ndcg, dense.ndcg)
    return {**_means(found), "retention": ratio(found.ndcg, dense.ndcg), "low": low, "high": high,
            "recall_retention": ratio(found.recall, dense.recall)}  # fmt: skip


def _others(subject: Subject, codes: _Codes, untrained: Sequence[_Codes],
            vectors: Sequence[tuple[Row, Quality]]) -> Iterator[tuple[str, int | None, Quality]]:
    """Name, k and quality of what these codes are compared with."""
    size = codes.sae.n_latents
    for control in untrained:
        if control.sae.n_latents == size:
            yield from ((control.model, one.k, one.quality) for one in control.found
                        if one.scorer == subject.scorers[0])  # fmt: skip
    for row, found in vectors:
        if row["n_latents"] in (None, size):
            yield " at equal ".join(filter(None, (row["system"], row["equal"]))), row["k"], found


def _comparisons(subject: Subject, codes: _Codes, others: Sequence[tuple[str, int | None, Quality]]) -> list[Row]:
    """Codes against whatever has their k, and codes of the model's own k against what has none."""
    rows = []
    for one in codes.found:
        for other, k, its in others if one.scorer == subject.scorers[0] else ():
            if one.k == (k or codes.sae.k):
                made = compare(its.evaluation(), one.quality.evaluation(), NDCG, seed=subject.seed)
                rows.append({"set": one.set, "model": codes.model, "scorer": one.scorer.name, "k": one.k,
                             "mode": one.mode, "against": other, "difference": made.difference,
                             "low": made.interval[0], "high": made.interval[1], "p_value": made.p_value,
                             "wins": made.wins, "losses": made.losses, "ties": made.ties})  # fmt: skip
    return rows
