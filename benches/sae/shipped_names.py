"""Names, scores, histograms and stability for the dictionary that comes with the package.

``python -m benches.sae.shipped_names --data DIR --out DIR --device cuda``: 3 minutes on an H200, hours on a CPU. Writes
the dictionary with its new notes into ``--out`` and prints the figures of its card.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from benches.quality.measure import say
from benches.sae.corpora import ARXIV, WIKI
from sparsight.encoders.dense import DenseEncoder
from sparsight.encoders.loading import load_encoder
from sparsight.encoders.sae.checkpoints import read_sae
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.latent_notes import SCORES, LatentNotes, activation_histogram
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.naming import Names, name_latents
from sparsight.encoders.sae.stability import match
from sparsight.encoders.sae.training import train_sae
from sparsight.encoders.sparse import SparseEncoder
from sparsight.retrieval.datasets import BeirFolder

F32 = NDArray[np.float32]
_DICTIONARY, _MODEL, _JUDGE = "sparsight-minilm-sae", "all-MiniLM-L6-v2", "sparsight-small"
_EACH = 50_000  # texts of arXiv, and of Wikipedia
_TITLE, _TEXT = 200, 1_600  # characters that are read
_TOKENS, _TERMS = 192, 96
_PART = 10_000
_SEEDS = (1, 2, 3)
_RECIPE = SAEConfig(n_latents=4_096, k=32, epochs=200, batch=4_096, learning_rate=1e-3, held_out=0.0, start="centroids")


def main(arguments: Sequence[str] | None = None) -> None:
    """Name, score, count and train again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of arxiv_cs, arxiv_sci and wiki_passages")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the dictionary into")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default=_MODEL, help="folder or name of the embeddings' model")
    given = parser.parse_args(arguments)
    rows = _texts(given.data)
    texts = [f"{title}. {text}" for title, text in rows]
    embedder, judge, table = (load_encoder(name, device=device) for name, device in (
        (given.model, given.device), (_JUDGE, given.device), (f"{_JUDGE}#table", "cpu")))
    assert isinstance(embedder, DenseEncoder) and isinstance(judge, SparseEncoder) and isinstance(table, SparseEncoder)
    say("embedding ...")
    parts = range(0, len(rows), _PART)
    x = np.concatenate([np.asarray(embedder.encode([text for _, text in rows[at:at + _PART]])) for at in parts])
    x = x.astype(np.float16).astype(np.float32)
    say("weighing words ...")
    vectors = csr_matrix(vstack([judge.encode(texts[at:at + _PART], max_tokens=_TOKENS, max_terms=_TERMS)
                                 for at in parts]))
    sae = read_sae(_DICTIONARY)
    codes = sae.document_codes(x)
    names = name_latents(sae, x, texts, embedder=embedder, judge=table, codes=codes, vectors=vectors,
                         present=sae.labels, progress=lambda share, what: say(f"names: {what}"))
    _tell(names)
    notes = LatentNotes(scores=np.stack([getattr(names.scores, name) for name in SCORES], 1).astype(np.float32),
                        sources=tuple("contrast" if by == "present" else by for by in names.labellers),
                        histogram=activation_histogram(sae.weights_of(codes).tocsc()),
                        stability=_stability(sae, x, given.device))
    say(f"found again by another training: {100 * notes.stability.mean():.1f} %")
    replace(sae, labels=names.labels, notes=notes).save(given.out)


def _texts(data: Path) -> list[tuple[str, str]]:
    """Titles and texts, half of them of arXiv."""
    drawn, rows = np.random.default_rng(11), []
    for corpora in (ARXIV, (WIKI,)):
        pool = [(document.title, document.text) for name in corpora for document in BeirFolder(data / name).documents()]
        rows += [pool[at] for at in drawn.choice(len(pool), _EACH, replace=False).tolist()]
    return [(title[:_TITLE], text[:_TEXT]) for title, text in rows]


def _stability(sae: SAE, x: F32, device: str) -> F32:
    """Share of trainings on these texts, of other seeds and centroids, that found each latent again."""
    found = []
    for seed in _SEEDS:
        other, _ = train_sae(x, replace(_RECIPE, seed=seed, centroids_seed=seed), device=device)
        found.append(match(sae, other, live_a=sae.density > 0).found)
    return np.stack(found).mean(0).astype(np.float32)


def _tell(names: Names) -> None:
    """Medians on held-out texts."""
    for labeller, scores in {**names.by_labeller, "chosen": names.scores}.items():
        won = sum(by == labeller for by in names.labellers)
        figures = (f"{name} {np.nanmedian(getattr(scores, name)):.3f}" for name in SCORES)
        say(f"{labeller}: won {won:,}, {', '.join(figures)}")


if __name__ == "__main__":
    main()
