"""Names for a collection's features, from the collection's own passages."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.errors import CheckpointError, FailedPreconditionError, IncompatibleModelError
from sparsight.index.generation import Generation, Place
from sparsight.index.lexicon import searchable_text
from sparsight.index.store import CollectionStore
from sparsight.retrieval.installing import install_names
from sparsight.retrieval.models import dense_encoder, sparse_encoder
from sparsight.retrieval.operations import Progress
from sparsight.retrieval.steering import sae_of
from sparsight.retrieval.stored_codes import chosen_passages, stored_rows
from sparsight.types import DenseField, SAEField, SparseField

if TYPE_CHECKING:
    from sparsight.encoders import SAE, DenseEncoder, SparseEncoder
    from sparsight.encoders.sae.language_model import LanguageModel
    from sparsight.encoders.sae.naming import Writer

__all__ = ["name_features", "named"]

MOST_PASSAGES = 30_000
"""Passages that names are found with and judged by, evenly chosen."""
MIN_PASSAGES = 64
_EXAMPLES = 5
_FEW = 20  # passages
_NO_MODEL = (CheckpointError, IncompatibleModelError)  # names get worse without a model; a training must not be lost


def name_features(store: CollectionStore, field: str, language_model: LanguageModel | None
                  ) -> Callable[[Progress], Mapping[str, Any]]:  # fmt: skip
    """Check the request now; the returned work finds names and gives them to the field's features.

    Raises
    ------
    UnknownFieldError, InvalidQueryError, FailedPreconditionError
        No such field, one without features, or too few passages to say anything.
    """
    schema, _ = sae_of(store.generation, field, "field")
    if store.generation.passages < MIN_PASSAGES:
        raise FailedPreconditionError(
            f"naming needs at least {MIN_PASSAGES} passages; the collection has {store.generation.passages}",
            reason="TOO_FEW_DOCUMENTS",
        )

    def work(progress: Progress) -> Mapping[str, Any]:
        generation = store.generation
        now, model = sae_of(generation, schema.name, "field")
        assert isinstance(now.spec, SAEField)
        writer = None
        if language_model is not None:
            writer = replace(language_model, tell=lambda done, of: progress(0.4 + 0.3 * done / of, "asking the model"))
        sae = named(generation, model.sae, now.spec.source, progress, writer)
        progress(0.95, "keeping the names")
        install_names(store, sae, now)
        return _report(sae, now.name)

    return work


def named(generation: Generation, sae: SAE, source: str, tell: Callable[[float, str], None],
          writer: Writer | None = None) -> SAE:  # fmt: skip
    """The autoencoder with labels, examples and histograms from a collection's passages.

    Where a sparse field has an encoder, labels of several kinds compete and get scores on passages that they were not
    made from (:func:`sparsight.encoders.sae.naming.name_latents`), the labels that there are among them; else they are
    words of the passages (:func:`sparsight.encoders.sae.labels.label_features`), with no scores. Without texts the
    labels stay.

    Parameters
    ----------
    generation : Generation
    sae : SAE
        Reads the vectors of the dense field ``source``.
    source : str
    tell : callable
        Called with (share done, what is being done).
    writer : callable, optional
        One more labeller; it needs a sparse field with an encoder, too.

    Raises
    ------
    FailedPreconditionError
        There is a writer and no such field, or no vectors.
    """
    from sparsight.encoders import label_features, top_examples
    from sparsight.encoders.sae.latent_notes import activation_histogram

    judge = _judge(generation)
    if writer is not None and judge is None:
        raise FailedPreconditionError("a language model's labels are judged by a sparse field with an encoder; the "
                                      "collection has none", field="language_model", reason="NO_ENCODER")
    tell(0.0, "reading passages")
    passages = _passages(generation, source)
    if not len(passages.x):
        raise FailedPreconditionError(f"no passage has a vector of field {source!r:.80}", field="field",
                                      reason="TOO_FEW_DOCUMENTS")
    tell(0.1, "coding passages")
    codes = sae.document_codes(passages.x)
    histogram = activation_histogram(sae.weights_of(codes).tocsc())
    examples = [list(dict.fromkeys(passages.ids[row] for row in rows)) for rows in top_examples(codes, _EXAMPLES)]
    sae = replace(sae, examples=examples, notes=replace(sae.notes, histogram=histogram))
    if not any(passages.texts):
        return sae
    if judge is None or len(passages.x) < MIN_PASSAGES:
        return _unjudged(sae, codes, label_features(codes, passages.texts))
    return _judged(generation, sae, source, passages, codes, judge, tell, writer)


def _unjudged(sae: SAE, codes: csr_matrix, labels: list[str]) -> SAE:
    """Labels that nobody has judged: a feature that few passages fire keeps the one that it has."""
    fired, before = np.bincount(codes.indices, minlength=sae.n_latents), sae.notes.sources or ("",) * sae.n_latents
    chosen = [(old, was) if old and (not new or count < _FEW) else (new, "contrast" if new else "")
              for old, was, new, count in zip(sae.labels, before, labels, fired, strict=True)]
    return sae.with_names([label for label, _ in chosen], sources=[source for _, source in chosen])


def _judged(generation: Generation, sae: SAE, source: str, passages: _Passages, codes: csr_matrix,
            judge: tuple[str, SparseEncoder], tell: Callable[[float, str], None], writer: Writer | None) -> SAE:
    from sparsight.encoders.sae.naming import name_latents

    field, encoder = judge
    names = name_latents(sae, passages.x, passages.texts, judge=encoder, present=sae.labels, writer=writer,
                         embedder=_embedder(generation, source), codes=codes,
                         vectors=stored_rows(generation, field, passages.places),
                         progress=lambda share, what: tell(0.2 + 0.7 * share, what))
    before = sae.notes.sources or ("",) * sae.n_latents
    sources = [("" if not label else was if by == "present" else by)
               for label, by, was in zip(names.labels, names.labellers, before, strict=True)]
    return sae.with_names(names.labels, sources=sources, scores=names.scores.table())


@dataclass
class _Passages:
    places: list[Place]
    ids: list[str]
    texts: list[str]
    x: NDArray[np.float32]


def _passages(generation: Generation, source: str) -> _Passages:
    """Some living passages that have a vector of the field."""
    places = chosen_passages(generation, MOST_PASSAGES)
    vectors, there = generation.dense_rows(source, places)
    found = _Passages([], [], [], vectors[there])
    for (reference, passage), has in zip(places, there.tolist(), strict=True):
        if has:
            row = generation.document(reference)
            found.places.append((reference, passage))
            found.ids.append(row.id)
            found.texts.append(searchable_text(row.title, row.passage_text(passage)))
    return found


def _judge(generation: Generation) -> tuple[str, SparseEncoder] | None:
    """The first sparse field with an encoder, which weighs labels as it weighs queries.

    By its table where it has one: of 4,096 labels the model takes minutes, the table half a second, and tells as much
    within 0.02 of detection.
    """
    from sparsight.encoders.loading import load_encoder, split_name

    for field in generation.schema.fields:
        if isinstance(field.spec, SparseField) and field.spec.encoder:
            with contextlib.suppress(*_NO_MODEL):
                encoder = sparse_encoder(field)
                with contextlib.suppress(CheckpointError):  # it has no table
                    quick = load_encoder(f"{split_name(field.spec.encoder)[0]}#table")
                    encoder = cast("SparseEncoder", quick)
                return field.name, encoder
    return None


def _embedder(generation: Generation, source: str) -> DenseEncoder | None:
    """What made the dense field's vectors, where it can be had."""
    field = generation.field(source)
    assert isinstance(field.spec, DenseField)
    if field.spec.encoder:
        with contextlib.suppress(*_NO_MODEL):
            return dense_encoder(field)
    return None


def _report(sae: SAE, field: str) -> dict[str, Any]:
    """What a user wants to know of the names at once."""
    live = sae.notes.histogram.any(1)
    has = np.array([bool(label) for label in sae.labels])
    report: dict[str, Any] = {"field": field, "features": int(live.sum()), "named": int((has & live).sum())}
    if len(sae.notes.scores):
        known = sae.notes.scores[live & has, 0]
        report["detection"] = round(float(np.nanmedian(known)), 4) if (~np.isnan(known)).any() else 0.0
    return report | {f"by {source}": count for source, count in sorted(Counter(sae.notes.sources).items()) if source}
