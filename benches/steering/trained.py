"""The dictionary of the report's collection: the one that comes along, or one made for another encoder."""

from __future__ import annotations

from dataclasses import replace

from benches.quality.measure import say
from benches.sae.recipes import RECIPES, STABLE
from benches.steering.papers import ENCODER, JUDGE, Papers
from sparsight.encoders.dense import DenseEncoder
from sparsight.encoders.loading import load_encoder
from sparsight.encoders.sae.model import SAE, describe_latents
from sparsight.encoders.sae.naming import STRONGEST, name_latents
from sparsight.encoders.sae.training import train_sae
from sparsight.encoders.sparse import SparseEncoder

__all__ = ["dictionary_of"]

_SHIPPED, _TRAINED = "sparsight-minilm-sae", "sae-4096-32"
_DESCRIBED = 4  # every so many rows, as for the one that comes along


def dictionary_of(papers: Papers) -> str:
    """Its name or folder. For another encoder it is trained by the shipped one's recipe and kept.

    It is trained on the 274,560 abstracts of the corpora that the report leaves alone, so that no document, example or
    query of the report was seen; their embeddings take minutes on a GPU, and days on a CPU.
    """
    if papers.encoder == ENCODER:
        return _SHIPPED
    papers.kept_sae(_TRAINED, lambda: _named(papers, _trained(papers)))
    return str(papers.folder(_TRAINED))


def _trained(papers: Papers) -> SAE:
    recipe, x = RECIPES[STABLE], papers.others()
    say(f"training {recipe.config.n_latents:,} features ...")
    sae, _ = train_sae(x, recipe.config, device=papers.device)
    sae = replace(sae, document_mode=recipe.coding, pool=recipe.pool)
    return describe_latents(sae, x[::_DESCRIBED], device=papers.device)


def _named(papers: Papers, sae: SAE) -> SAE:
    """With names from the report's own abstracts."""
    embedder, judge = load_encoder(papers.encoder, device=papers.device), load_encoder(f"{JUDGE}#table")
    assert isinstance(embedder, DenseEncoder) and isinstance(judge, SparseEncoder)
    texts = [papers.text(row) for row in range(len(papers.papers))]
    names = name_latents(sae, papers.x, texts, embedder=embedder, judge=judge, codes=sae.document_codes(papers.x),
                         vectors=papers.vectors, strongest=STRONGEST,
                         progress=lambda share, what: say(f"names: {what}"))
    return sae.with_names(names.labels, sources=names.labellers, scores=names.scores.table())
