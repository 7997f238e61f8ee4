"""An autoencoder of its own for a sub-domain (specialised SAE, 11), against one of all texts, of equal size.

Muhamed, Diab, Smith 2024, "Decoding Dark Matter": some seeds of a rare domain retrieve its texts, and on those an
autoencoder is trained, with a loss tilted towards what it rebuilds badly. The domain is the largest arXiv category that
makes up 2 % of the corpus at most; seeds are some of its abstracts, and what they retrieve is a corpus of that size,
whatever its categories are. A part of what is retrieved is held out: concepts are counted on it, and the general
autoencoder, which has seen it, is at an advantage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benches.quality.criteria import asked, row
from benches.quality.results import Row
from benches.sae.lab import Lab
from benches.sae.sections._cells import cell, plain
from sparsight.encoders.sae.auroc import auroc
from sparsight.encoders.sae.labels import word_counts
from sparsight.encoders.sae.losses import AuxK, Loss, Nested, Reconstruction
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.neighbours import nearest
from sparsight.encoders.sae.reconstruction import reconstruction
from sparsight.retrieval.selection import merge_best

__all__ = ["retrieved", "section"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]
_LARGEST = 0.02  # of the corpus
_SEEDS = 50
_TESTED = 0.25
_SIZES = ((256, 32), (1024, 32))  # latents and k; the first is what HypotheSAEs take for 10,000 texts
_TILT = 5.0
_STEPS, _BATCH = 600, 512
_TELLS = 0.9  # AUROC
_RARE = (0.005, 0.03)  # share of the domain's texts that hold a word
_SPECIAL = 5.0  # times as frequent as elsewhere
_ELSEWHERE = 10_000  # other texts, by which that is measured
_SPECIALISED = f"specialised, tilt {_TILT:g}"


@dataclass(frozen=True, eq=False)
class _Domain:
    """Rows of ``x`` to train on and to test on, and which of some rare words each of the latter holds."""

    name: str
    share: float
    train: I64
    test: I64
    words: list[str]
    holds: Mask
    precision: float


def section(lab: Lab) -> list[Row]:
    """Rows "specialised", one for each size and training; ``by_chance`` is of words that were shuffled among texts."""
    domain = _domain(lab)
    rows = []
    for n_latents, k in lab.scale(_SIZES, ((64, 4), (128, 4))):
        general, _ = lab.train("general", plain(lab, n_latents, k))
        rows.append(_row(lab, domain, "general", general))
        losses: dict[str, tuple[Loss, ...]] = {"specialised": (Nested(ks=(k,)), AuxK()),
                                               _SPECIALISED: (Reconstruction(tilt=_TILT), AuxK())}
        for name, of in losses.items():
            batch = min(_BATCH, len(domain.train))
            epochs = -(-lab.scale(_STEPS, 20) // (len(domain.train) // batch))
            config = cell(lab, n_latents, k, losses=of, batch=batch, epochs=epochs)
            rows.append(_row(lab, domain, name, lab.train(name, config, rows=np.sort(domain.train))[0]))
    return [*rows, *_criteria(domain, rows)]


def retrieved(x: F32, seeds: F32, count: int, *, device: str = "cpu") -> list[int]:
    """The rows of ``x`` that are nearest to any of some seeds, best first: the rule of ``selection.select``.

    Parameters
    ----------
    x : float32, shape (B, D)
    seeds : float32, shape (S, D)
    count : int
        At most B.
    device : str
    """
    found = nearest(seeds, x, count, device).rows
    rankings = (zip(rows.tolist(), (x[rows] @ seed).tolist(), strict=True)
                for seed, rows in zip(seeds, found, strict=True))
    return [at for at, _ in merge_best(rankings, count)]


def _domain(lab: Lab) -> _Domain:
    categories = np.array(lab.data.categories)
    most = int(lab.scale(_LARGEST, 0.25) * len(categories))
    name, size = next((name, count) for name, count in Counter(categories.tolist()).most_common()
                      if count <= most and name not in ("", "wiki"))
    rng = np.random.default_rng(0)
    seeds = rng.permutation(np.flatnonzero(categories == name))[:lab.scale(_SEEDS, 10)]
    rows = rng.permutation(retrieved(lab.data.x, lab.data.x[seeds], most, device=lab.data.device))
    test, train = np.split(rows, [int(_TESTED * len(rows))])
    words, holds = _rare_words(lab, test, train)
    return _Domain(name, size / len(categories), train, test, words, holds, float((categories[rows] == name).mean()))


def _rare_words(lab: Lab, test: I64, train: I64) -> tuple[list[str], Mask]:
    """Words that are rare in the domain, and rarer elsewhere: the concepts of its tail."""
    others = np.setdiff1d(np.arange(len(lab.data.x)), np.concatenate([test, train]))
    others = np.random.default_rng(1).permutation(others)[:_ELSEWHERE]
    held, words = word_counts([lab.data.texts[row] for row in np.concatenate([test, others]).tolist()],
                              max_words=100_000, min_texts=lab.scale(5, 2))
    here, there = (np.asarray(part.sum(0)).ravel() for part in (held[:len(test)], held[len(test):]))
    low, high = lab.scale(_RARE, (0.02, 0.5))
    share, elsewhere = here / len(test), np.maximum(there, 1) / len(others)
    chosen = np.flatnonzero((share >= low) & (share <= high) & (share >= lab.scale(_SPECIAL, 0.0) * elsewhere))
    return [words[at] for at in chosen], held[:len(test), chosen].toarray() > 0


def _row(lab: Lab, domain: _Domain, name: str, sae: SAE) -> Row:
    x = lab.data.x[domain.test]
    codes = lab.codes(sae, x)
    found = auroc(codes, domain.holds)
    shuffled = auroc(codes, domain.holds[np.random.default_rng(0).permutation(len(x))])
    pre_acts = auroc(x @ sae.W_enc.T + sae.b_enc, domain.holds)
    rebuilt = reconstruction(sae, x, codes, device=lab.data.device)
    return row("specialised", training=name, n_latents=sae.n_latents, k=sae.k, rows=len(domain.train), tested=len(x),
               concepts=len(domain.words), telling=_telling(found), by_chance=_telling(shuffled),
               concepts_told=int((found.max(0) >= _TELLS).sum()), telling_pre_acts=_telling(pre_acts), fvu=rebuilt.fvu,
               worst_decile_fvu=rebuilt.worst_decile_fvu, dead=rebuilt.dead)


def _telling(found: NDArray[np.float64]) -> int:
    """Latents that tell some concept."""
    return int((found.max(1) >= _TELLS).sum())


def _criteria(domain: _Domain, rows: Sequence[Row]) -> list[Row]:
    general, untilted, own = rows[:3]  # of the first size
    settings = (f"{own['n_latents']} latents, k {own['k']}; {domain.name}, {domain.share:.1%} of the corpus: "
                f"{own['rows'] + own['tested']:,} texts by {_SEEDS} seeds, {domain.precision:.0%} of them of the "
                f"category; {own['concepts']} words in 0.5 to 3 % of {own['tested']:,} texts tested, {_SPECIAL:g} "
                "times as frequent as elsewhere")
    others = "; ".join(f"{of['n_latents']} latents, {of['training']}: {of['telling']}" for of in rows)
    name = "Specialised SAE"
    return [
        asked(11, name, "latents with AUROC of 0.9 or more for a rare word of a sub-domain, of the general one's",
              own["telling"] / max(general["telling"], 1), "at least", 2.0, unit="times", note=(
                  f"{own['telling']} against {general['telling']}, by pre-activations {own['telling_pre_acts']} "
                  f"against {general['telling_pre_acts']}, by chance {own['by_chance']}; {others}; {settings}")),
        asked(11, name, "FVU of the worst decile of the domain's texts, of the general one's",
              own["worst_decile_fvu"] / general["worst_decile_fvu"], "at most", 0.99, unit="times", note=(
                  f"{own['worst_decile_fvu']:.4f} against {general['worst_decile_fvu']:.4f}, without tilt "
                  f"{untilted['worst_decile_fvu']:.4f}; {settings}"))]  # fmt: skip
