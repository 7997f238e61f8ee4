"""Training an SAE on a collection's own vectors, and adding one to it as a field."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import FailedPreconditionError, InvalidArgumentError, UnknownFieldError
from sparsight.index.generation import Generation
from sparsight.index.schema import check_field_name, check_sae_options
from sparsight.index.store import CollectionStore
from sparsight.retrieval.installing import install_sae
from sparsight.retrieval.naming import named
from sparsight.retrieval.operations import Progress
from sparsight.retrieval.stored_codes import chosen_passages
from sparsight.types import SAEField

__all__ = ["train_collection_sae"]

MIN_PASSAGES = 64
MAX_SEEDS = 16
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
    limits = {"n_latents": 1 << 20, "k": 1024, "epochs": 10_000, "seed": 2**31 - 1, "seeds": MAX_SEEDS}
    for name, value in arguments.items():
        least = 1 if name == "seeds" else 0
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= limits[name]:
            raise InvalidArgumentError(f"{name} is {least} to {limits[name]:,}; got {value!r:.80}", field=name)
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
        from sparsight.encoders.sae.stability import match

        generation = store.generation
        vectors = _training_data(generation, source)
        if len(vectors) < MIN_PASSAGES:
            raise FailedPreconditionError(
                f"training needs at least {MIN_PASSAGES} passages with vectors; found {len(vectors)}"
            )
        settings: dict[str, Any] = {name: value for name, value in arguments.items() if value or name == "seed"}
        seeds = settings.pop("seeds", 1)
        config, found_again = SAEConfig(**settings), []
        for turn in range(seeds):

            def stepped(done: int, total: int, *_: Any, turn: int = turn) -> None:
                share = (turn + done / max(1, total)) / seeds
                progress(0.8 * share, f"training on {len(vectors):,} vectors, {turn + 1} of {seeds}")

            trained, told = train_sae(vectors, replace(config, seed=config.seed + turn), progress=stepped,
                                      cancelled=lambda: progress.cancelled)
            if turn == 0:
                sae, report = replace(trained, embedder=target.fingerprint), told
            else:
                again = match(sae, trained, live_a=sae.density > 0, live_b=trained.density > 0)
                found_again.append(again.found)
        if spec.scorer == "decode":
            progress(0.8, "describing features")
            some = vectors[:: -(-len(vectors) // _DESCRIBED)]
            sae = describe_latents(replace(sae, document_mode="pursuit", pool=_POOL), np.ascontiguousarray(some))
        if found_again:
            stability = np.stack(found_again).mean(0).astype(np.float32)
            sae = replace(sae, notes=replace(sae.notes, stability=stability))
        sae = named(generation, sae, source, lambda share, what: progress(0.82 + 0.08 * share, f"naming: {what}"))
        progress(0.9, "adding the field")
        install_sae(store, sae, spec)
        return {"field": field, "n_latents": sae.n_latents, "k": sae.k, "vectors": len(vectors), **_plain(report)}

    return work


def _training_data(generation: Generation, source: str) -> NDArray[np.float32]:
    """All dense vectors (B, D) of living documents."""
    vectors, there = generation.dense_rows(source, chosen_passages(generation, sys.maxsize))
    return vectors[there]


def _plain(report: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if isinstance(value, (int, float, str))}
