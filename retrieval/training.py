"""Training an SAE on a collection's own vectors, and adding one to it as a field."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import FailedPreconditionError, InvalidArgumentError, UnknownFieldError
from sparsight.index import maintenance, storage
from sparsight.index.generation import Generation
from sparsight.index.lexicon import searchable_text
from sparsight.index.schema import CollectionSchema, check_field_name, check_sae_options
from sparsight.index.store import CollectionStore
from sparsight.retrieval.models import sae_field
from sparsight.retrieval.operations import Progress
from sparsight.types import SAEField

if TYPE_CHECKING:
    from sparsight.encoders import SAE

__all__ = ["install_sae", "train_collection_sae"]

MIN_PASSAGES = 64
_DESCRIBED = 50_000  # vectors that latents' statistics are taken from, at most
_POOL = 384  # latents among which a document's are chosen: see benches/results/sae.md


def train_collection_sae(
    store: CollectionStore, spec: SAEField, arguments: Mapping[str, int]
) -> Callable[[Progress], Mapping[str, Any]]:
    """Check the request now; the returned work trains, labels and installs.

    Documents are coded by pursuit where queries are decoded, and else by the encoder that codes queries, too.

    Raises
    ------
    InvalidArgumentError, UnknownFieldError, FailedPreconditionError
        Bad names or numbers, or too little to train on.
    """
    schema, field, source = store.generation.schema, spec.name, spec.source
    check_field_name(field)
    check_sae_options(spec)
    target = schema.field(source)
    if target is None:
        raise UnknownFieldError(f"collection {schema.name!r} has no field {source!r:.80}", field="source")
    if target.kind != "dense":
        raise InvalidArgumentError(
            f"an SAE is trained on a dense field; {source!r:.80} is {target.kind}", field="source"
        )
    present = schema.field(field)
    if present is not None and present.kind != "sae":
        raise InvalidArgumentError(f"field {field!r:.80} exists and is {present.kind}", field="field")
    limits = {"n_latents": 1 << 20, "k": 1024, "epochs": 10_000, "seed": 2**31 - 1}
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limits[name]:
            raise InvalidArgumentError(f"{name} is 0 to {limits[name]:,}; got {value!r:.80}", field=name)
    if arguments["n_latents"] and arguments["k"] > arguments["n_latents"]:
        raise InvalidArgumentError(
            f"k is at most n_latents; got {arguments['k']} and {arguments['n_latents']}", field="k"
        )
    if store.generation.passages < MIN_PASSAGES:
        raise FailedPreconditionError(
            f"training needs at least {MIN_PASSAGES} passages; the collection has {store.generation.passages}",
            reason="TOO_FEW_DOCUMENTS",
        )

    def work(progress: Progress) -> Mapping[str, Any]:
        from sparsight.encoders import SAEConfig, train_sae
        from sparsight.encoders.sae.model import describe_latents

        generation = store.generation
        vectors, texts, ids = _training_data(generation, source)
        if len(vectors) < MIN_PASSAGES:
            raise FailedPreconditionError(
                f"training needs at least {MIN_PASSAGES} passages with vectors; found {len(vectors)}"
            )
        settings: dict[str, Any] = {name: value for name, value in arguments.items() if value or name == "seed"}
        config = SAEConfig(**settings)

        def stepped(done: int, total: int, *_: Any) -> None:
            progress(0.8 * done / max(1, total), f"training on {len(vectors):,} vectors")

        sae, report = train_sae(vectors, config, progress=stepped, cancelled=lambda: progress.cancelled)
        sae = replace(sae, embedder=target.fingerprint)
        if spec.scorer == "decode":
            progress(0.8, "describing features")
            some = vectors[:: -(-len(vectors) // _DESCRIBED)]
            sae = describe_latents(replace(sae, document_mode="pursuit", pool=_POOL), np.ascontiguousarray(some))
        progress(0.85, "naming features")
        if any(texts):
            sae = _named(sae, vectors, texts, ids)
        progress(0.9, "adding the field")
        install_sae(store, sae, spec)
        return {"field": field, "n_latents": sae.n_latents, "k": sae.k, "vectors": len(vectors), **_plain(report)}

    return work


def _training_data(generation: Generation, source: str) -> tuple[NDArray[np.float32], list[str], list[str]]:
    """All dense vectors of living documents, the texts they stand for, and the documents' ids."""
    vectors, texts, ids = [], [], []
    for _, reference in generation.scan(generation.mask(None)):
        row = generation.document(reference)
        for passage in range(row.passages):
            vector = generation.dense_row(source, reference, passage)
            if vector is not None:
                vectors.append(vector)
                texts.append(searchable_text(row.title, row.passage_text(passage)))
                ids.append(row.id)
    return np.stack(vectors) if vectors else np.empty((0, 0), np.float32), texts, ids


def _named(sae: SAE, vectors: NDArray[np.float32], texts: list[str], ids: list[str]) -> SAE:
    from sparsight.encoders import label_features, top_examples

    codes = sae.document_codes(vectors)
    examples = [list(dict.fromkeys(ids[i] for i in rows)) for rows in top_examples(codes, 5)]
    return sae.with_names(label_features(codes, texts), examples)


def _plain(report: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if isinstance(value, (int, float, str))}


def install_sae(store: CollectionStore, sae: SAE, spec: SAEField) -> None:
    """Copy an SAE into the collection's folder, durably, and fill its field for every document."""
    schema = store.schema
    field = sae_field(sae, spec, schema.field(spec.source))
    assert isinstance(field.spec, SAEField)
    folder = store.folder / field.spec.model
    if not folder.exists():
        _save(sae, folder)
    others = tuple(item for item in schema.fields if item.name != spec.name)
    new = CollectionSchema(schema.name, (*others, field), schema.passages, schema.created, schema.uid).check()
    maintenance.rebuild(store, new)


def _save(sae: SAE, folder: Path) -> None:
    building = folder.with_name(storage.BUILDING_PREFIX + folder.name)
    storage.create_folder(folder.parent)
    if building.exists():
        shutil.rmtree(building)
    sae.save(building)
    storage.sync_tree(building)
    storage.publish_folder(building, folder)
