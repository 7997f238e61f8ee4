"""Bits that tell a document's embedding at a given retention (MDL-SAE, 10): which dictionary size needs the fewest?

A wider dictionary needs fewer active latents, more bits to say which, and itself more bits: in between lies a least.
Codes are those that pursuit finds, values are quantised as coarsely as leaves FVU within 1 %, and what is retained is
measured with the quantised codes, on the dev sets: decoded vectors of length 1 against queries as they are, which is
how int8 and product quantisation are measured, too. Dictionaries and codebooks are shared out among all documents;
tables of the codes' frequencies are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benches.quality.criteria import asked, row
from benches.quality.results import Row
from benches.sae.lab import Lab
from benches.sae.sections._cells import plain
from benches.sae.sections._retained import Retained, small_dev
from sparsight.encoders.sae.description_length import DescriptionLength, description_length
from sparsight.encoders.sae.model import SAE
from sparsight.retrieval.judged_vectors import JudgedVectors
from sparsight.retrieval.sae_baselines import LEAST_ROWS, ShortVectors, int8, product_quantised

__all__ = ["section"]

F32 = NDArray[np.float32]
_LATENTS = (256, 512, 1024, 2048, 4096, 8192, 16_384)
_KS = (6, 8, 12, 16, 24, 32, 48, 64, 96)
_TRAINED_K = 32
_RETAINED = 0.95
_ROWS = 30_000  # that bits are counted on
_PARTS = (4, 8, 16, 24, 32, 48, 64, 96)  # bytes of a product quantiser
_QUANTISER_ROWS = 10_000
_WEIGHT_BITS = 16
_HIGHER = 1.01  # than the least, both ends of the range


@dataclass(frozen=True)
class _Point:
    """What codes of k latents take and keep."""

    k: int
    retained: float
    length: DescriptionLength


def section(lab: Lab) -> list[Row]:
    """Rows "mdl", one for each dictionary size: the fewest latents that retain enough, and what they take."""
    kept = Retained(lab, small_dev(lab))
    rng = np.random.default_rng(0)
    x = lab.data.x[np.sort(rng.permutation(len(lab.data.x))[:lab.scale(_ROWS, 300)])]
    found = {n: _at_retention(lab, kept, lab.train("MDL", plain(lab, n, lab.scale(_TRAINED_K, 8)))[0], x)
             for n in lab.scale(_LATENTS, (64, 128, 256))}
    rows = [_row(n, points) for n, points in found.items()]
    others = _short_forms(lab, kept)
    return [*rows, *others, *_criteria(rows, others)]


def _at_retention(lab: Lab, kept: Retained, sae: SAE, x: F32) -> list[_Point]:
    """The last number of latents that retains too little, and the first that retains enough, where there are such."""
    ks = [k for k in lab.scale(_KS, (2, 4, 8, 16)) if k <= sae.n_latents]
    at = _first(ks, lambda k: kept.vectors(partial(_decoded, lab, sae, k, 0.0)) >= _RETAINED)
    points = []
    for k in ks[max(at - 1, 0):at + 1]:
        codes = lab.codes(sae, x, k, "pursuit")
        length = description_length(sae, x, codes, documents=len(lab.data.x), weight_bits=_WEIGHT_BITS,
                                    device=lab.data.device)
        points.append(_Point(k, kept.vectors(partial(_decoded, lab, sae, k, length.step)), length))
    return points


def _first(options: Sequence[int], enough: Callable[[int], bool]) -> int:
    """Place of the first option that is enough, by halving; the last place if none is."""
    low, high = 0, len(options) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(options[middle]) else (middle + 1, high)
    return low


def _decoded(lab: Lab, sae: SAE, k: int, step: float, judged: JudgedVectors) -> ShortVectors:
    codes = lab.codes(sae, judged.documents, k, "pursuit")
    if step:
        codes = csr_matrix(((np.floor(codes.data / step) + 0.5).astype(np.float32) * np.float32(step), codes.indices,
                            codes.indptr), codes.shape)
    decoded = sae.decode(codes)
    decoded /= np.maximum(np.linalg.norm(decoded, axis=1, keepdims=True), 1e-12)
    return ShortVectors("SAE", k, 0.0, decoded, judged.queries)


def _row(n: int, points: Sequence[_Point]) -> Row:
    last = points[-1]
    length = last.length
    return row("mdl", n_latents=n, k=last.k, retained=last.retained, bits=length.total, activity=length.activity,
               values=length.values, dictionary=length.dictionary, value_precision=length.precision,
               upper_bound=length.upper_bound, fvu=length.fvu_quantised, bits_at_retention=_between(points))


def _between(points: Sequence[_Point]) -> float | None:
    """Bits at the retention that is asked for, on a straight line through both points; None if it is not reached.

    Steps from one number of latents to the next would hide the curve.
    """
    last, first = points[-1], points[0]
    if last.retained < _RETAINED:
        return None
    share = (_RETAINED - first.retained) / max(last.retained - first.retained, 1e-12)
    return first.length.total + min(max(share, 0.0), 1.0) * (last.length.total - first.length.total)


def _short_forms(lab: Lab, kept: Retained) -> list[Row]:
    """int8, and the smallest product quantiser that retains enough."""
    width, documents = lab.data.x.shape[1], len(lab.data.x)
    rows = np.random.default_rng(1).permutation(documents)[:lab.scale(_QUANTISER_ROWS, 400)]
    train = lab.data.x[np.sort(rows)]
    parts = [part for part in _PARTS if width % part == 0]
    retained: dict[int, float] = {}

    def enough(part: int) -> bool:
        retained[part] = _product(kept, train, part)
        return retained[part] >= _RETAINED

    part = parts[_first(parts, enough)]
    if part not in retained:
        enough(part)
    codebooks = _WEIGHT_BITS * width * LEAST_ROWS / documents
    return [row("short_forms", form="int8", parts=width, bits=8.0 * width,
                retained=kept.vectors(partial(int8, train=train))),
            row("short_forms", form="PQ", parts=part, bits=8.0 * part + codebooks, retained=retained[part])]


def _product(kept: Retained, train: F32, parts: int) -> float:
    """What a product quantiser retains; it is trained once for all sets."""
    sets = list(kept.sets.values())
    documents, queries = (np.concatenate([getattr(of, side) for of in sets]) for side in ("documents", "queries"))
    coded = product_quantised(JudgedVectors("all", documents, queries, np.zeros((0, 3), np.int64)), train, parts)
    ends = np.cumsum([len(of.documents) for of in sets])[:-1]
    short = {of.name: replace(coded, documents=rows, queries=of.queries)
             for of, rows in zip(sets, np.split(coded.documents, ends), strict=True)}
    return kept.vectors(lambda judged: short[judged.name])


def _criteria(rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
    curve = {of["n_latents"]: of["bits_at_retention"] for of in rows if of["bits_at_retention"] is not None}
    sizes = sorted(of["n_latents"] for of in rows)
    least = min(curve.values(), default=np.nan)
    ends = min((curve[n] for n in (sizes[0], sizes[-1]) if n in curve), default=np.nan)
    enough = [of for of in rows if of["retained"] >= _RETAINED]
    chosen = min(enough, key=lambda of: of["bits"]) if enough else None
    bits = chosen["bits"] if chosen else np.nan
    told = ", ".join(f"{n:,}: {value:.0f}" for n, value in sorted(curve.items()))
    settings = (f"{chosen['n_latents']:,} latents, {chosen['k']} active by pursuit, values in 2^"
                f"{chosen['value_precision']} steps, retains {chosen['retained']:.3f} on dev sets"
                if chosen else "none retains enough")
    out = [asked(10, "MDL-SAE", "both ends of the range of N take more bits than the least between", ends / least,
                 "at least", _HIGHER, unit="times", note=(
                     f"bits a document at {_RETAINED:.0%} of nDCG@10, by N: {told}"))]  # fmt: skip
    for of in others:
        out.append(asked(10, "MDL-SAE", f"bits a document, against {of['form']}, at {_RETAINED:.0%} of nDCG@10", bits,
                         "at most", of["bits"], unit="bits", note=(
                             f"{settings}; {of['form']}: {of['parts']} bytes, retains {of['retained']:.3f}")))
    return out
