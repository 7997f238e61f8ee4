"""Names for features without a language model: what they tell of texts that nobody has seen.

Dictionaries are the collection's, of which a text's eight strongest features count, and two that are trained on the
abstracts with eight active features, all of which count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from benches.quality.measure import say
from benches.quality.results import Row
from benches.steering.papers import ENCODER, JUDGE, Papers
from sparsight.encoders.dense import DenseEncoder
from sparsight.encoders.loading import load_encoder
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.label_scores import score_labels
from sparsight.encoders.sae.labels import strongest_codes
from sparsight.encoders.sae.model import SAE, describe_latents
from sparsight.encoders.sae.naming import STRONGEST, Names, name_latents
from sparsight.encoders.sae.training import train_sae
from sparsight.encoders.sparse import SparseEncoder
from sparsight.retrieval.models import SAEModel

if TYPE_CHECKING:
    from sparsight.retrieval import Collection

__all__ = ["ARXIV", "LARGE", "SHIPPED", "section"]

SHIPPED, OTHERS = "shipped, 32 active", "other abstracts, 32 active"
ARXIV, LARGE = "abstracts alone, 8 active", "abstracts alone, 16,384 features, 8 active"
_TRAINED = {ARXIV: (4_096, 20), LARGE: (16_384, 6)}  # features, epochs: as long as two cores are willing
_COUNTED = (2, 4, 8, 16, 32)
_JUDGED = 8_000  # texts that both judges see
_FIGURES = ("detection", "strong_detection", "correlation", "intruder")


def section(papers: Papers, collection: Collection) -> list[Row]:
    """Rows "names", a dictionary and labeller each and one for the names that won: medians on held-out texts; and
    "names counted": detection by the shipped names where only so many features of a text count, and by which judge."""
    model = collection._generation().derived["sae"]
    assert isinstance(model, SAEModel)
    embedder, judge, slow = load_encoder(papers.encoder), load_encoder(f"{JUDGE}#table"), load_encoder(JUDGE)
    assert isinstance(embedder, DenseEncoder) and isinstance(judge, SparseEncoder) and isinstance(slow, SparseEncoder)
    texts = [papers.text(row) for row in range(len(papers.papers))]
    rows: list[Row] = []
    for dictionary, make in _dictionaries(papers, model.sae).items():
        sae = make()
        codes = sae.document_codes(papers.x)
        started = time.monotonic()
        names = name_latents(sae, papers.x, texts, embedder=embedder, judge=judge, codes=codes, vectors=papers.vectors,
                             strongest=STRONGEST if dictionary in (SHIPPED, OTHERS) else 0,
                             progress=lambda share, what: say(f"names: {what}"))
        rows += _rows(dictionary, names, codes, round(time.monotonic() - started, 1))
        if dictionary == SHIPPED:
            rows += _counted(papers, sae, codes, {"table": judge, "model": slow})
    return rows


def _dictionaries(papers: Papers, own: SAE) -> dict[str, Callable[[], SAE]]:
    made: dict[str, Callable[[], SAE]] = {SHIPPED if papers.encoder == ENCODER else OTHERS: lambda: own}
    for name, (latents, epochs) in _TRAINED.items():
        made[name] = lambda latents=latents, epochs=epochs: papers.kept_sae(  # type: ignore[misc]
            f"sae-{latents}-8", lambda: _trained(papers, latents, epochs))
    return made


def _trained(papers: Papers, latents: int, epochs: int) -> SAE:
    say(f"training {latents:,} features ...")
    sae, _ = train_sae(papers.x, SAEConfig(n_latents=latents, k=8, epochs=epochs, seed=0))
    return describe_latents(sae, papers.x)


def _rows(dictionary: str, names: Names, codes: csr_matrix, seconds: float) -> list[Row]:
    fired = np.diff(codes.tocsc().indptr) > 0
    named = float(np.mean([bool(label) for label, live in zip(names.labels, fired, strict=True) if live]))
    return [{"kind": "names", "dictionary": dictionary, "labeller": labeller, "texts": codes.shape[0],
             "features": int(fired.sum()), "named": named,
             "won": sum(name == labeller for name in names.labellers) if labeller != "chosen" else len(names.labels),
             "seconds": seconds,
             **{figure: round(float(np.nanmedian(getattr(scores, figure))), 4) for figure in _FIGURES}}
            for labeller, scores in {**names.by_labeller, "chosen": names.scores}.items()]


def _counted(papers: Papers, sae: SAE, codes: csr_matrix, judges: dict[str, SparseEncoder]) -> list[Row]:
    """By the labels that the dictionary comes with, made from other texts beside these, so on any texts."""
    some = np.sort(np.random.default_rng(4).choice(codes.shape[0], _JUDGED, replace=False))
    rows = []
    for name, judge in judges.items():
        labels = judge.encode(list(sae.labels), mode="query")
        for count in _COUNTED if name == "table" else (STRONGEST,):
            scores = score_labels(labels, papers.vectors[some], strongest_codes(codes[some], count))
            rows.append({"kind": "names counted", "judge": name, "strongest": count, "texts": _JUDGED,
                         **{figure: round(float(np.nanmedian(getattr(scores, figure))), 4) for figure in _FIGURES}})
    return rows
