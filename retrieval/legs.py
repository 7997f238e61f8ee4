"""Legs of plans: one retriever of one query, and what it searches for: its text encoded, steered and quantised.

Texts of all legs on one encoder go through it together.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sparsight.index.bm25 import BM25, Analyzer
from sparsight.index.generation import Generation
from sparsight.index.parts import ImpactQuery
from sparsight.index.rows import SparseRow
from sparsight.index.schema import DerivedModel, FieldSchema
from sparsight.index.vectors import quantise_query
from sparsight.retrieval.models import SAEModel, dense_encoder, sparse_encoder
from sparsight.retrieval.renaming import label_of
from sparsight.retrieval.steering import Move, Steering, activations_of
from sparsight.types import BM25Field, DenseField, SAEField, SparseField

__all__ = ["Leg", "fill_legs", "level_values", "quantised_for", "source_of"]


@dataclass(slots=True)
class Leg:
    """One retriever of one query, ready to run.

    ``query`` is searched. ``changes`` are what edits did to the query's activations, by latent, and ``unmet`` the edits
    that were not done; where there are changes, ``base`` is the query without them, or ``make_base`` makes it, as few
    searches ask. ``vector`` is the dense query behind a dense or SAE leg. ``scorer``, ``max_terms``,
    ``rerank`` and ``rescore`` are those of SAE legs; where ``query`` lacks some weights and candidates are to be scored
    with all, ``whole`` has all.
    """

    field: FieldSchema
    weight: float
    place: str
    text: str = ""
    query: ImpactQuery | NDArray[np.float32] | None = None
    base: ImpactQuery | NDArray[np.float32] | None = None
    whole: ImpactQuery | None = None
    changes: dict[int, float] = dataclasses.field(default_factory=dict)
    unmet: tuple[Move, ...] = ()
    make_base: Callable[[], tuple[ImpactQuery, ImpactQuery | None]] | None = None
    vector: NDArray[np.float32] | None = None
    base_vector: NDArray[np.float32] | None = None
    steering: Steering | None = None
    label: Callable[[int], str] = str
    scorer: Literal["decode", "symmetric"] = "decode"
    max_terms: int = 0
    rerank: int = 0
    rescore: int = 0

    @property
    def scored_again(self) -> int:
        """Candidates that are found by ``query`` and scored by another, at least; 0: that is their score."""
        return self.rerank or (self.rescore if self.whole is not None else 0)

    def without_edits(self) -> Leg:
        """The leg as it is without edits."""
        query, whole = (self.base, self.whole) if self.make_base is None else self.make_base()
        return replace(self, query=query, whole=whole, vector=self.base_vector, steering=None, changes={})

    @property
    def scored_by(self) -> tuple[str, ImpactQuery | NDArray[np.float32]]:
        """The field and the query that give a candidate's score: the dense ones behind a leg that is re-ranked, or
        the query with all its weights."""
        if self.rerank:
            assert isinstance(self.field.spec, SAEField) and self.vector is not None
            return self.field.spec.source, self.vector
        query = self.query if self.whole is None else self.whole
        assert query is not None
        return self.field.name, query


def source_of(generation: Generation, schema: FieldSchema) -> FieldSchema | None:
    """The dense field behind a dense or SAE field."""
    if isinstance(schema.spec, SAEField):
        return generation.field(schema.spec.source)
    return schema if isinstance(schema.spec, DenseField) else None


def fill_legs(generation: Generation, models: Mapping[str, DerivedModel], legs: Sequence[Leg]) -> None:
    """Sets what each leg searches for, in place; ``models`` are those of SAE fields, by name."""
    _encode_sparse([leg for leg in legs if leg.text and isinstance(leg.field.spec, SparseField)], generation)
    for leg in legs:
        if isinstance(leg.field.spec, BM25Field):
            _fill_bm25(generation, leg)
    vector_legs = [leg for leg in legs if isinstance(leg.field.spec, DenseField | SAEField) and leg.query is None]
    _encode_dense([leg for leg in vector_legs if leg.text], generation)
    for leg in vector_legs:
        leg.base_vector = leg.vector
        assert leg.vector is not None
        if isinstance(leg.field.spec, DenseField):
            leg.base = leg.query = leg.vector
            if leg.steering is not None and _steer(leg, leg.steering, leg.steering.activations(leg.vector)):
                leg.query = leg.vector = leg.steering.move(leg.vector, leg.changes)
        else:
            _fill_sae(generation, leg, models[leg.field.name])
    for leg in legs:
        if leg.base_vector is None and isinstance(leg.field.spec, SAEField):
            _steer_sparse(generation, leg, models[leg.field.name])


def _encode_sparse(legs: Sequence[Leg], generation: Generation) -> None:
    for name in dict.fromkeys(leg.field.name for leg in legs):
        mine = [leg for leg in legs if leg.field.name == name]
        spec = mine[0].field.spec
        assert isinstance(spec, SparseField)
        encoder = sparse_encoder(mine[0].field)
        texts = list(dict.fromkeys(leg.text for leg in mine))
        matrix = encoder.encode(
            texts, mode="query", max_terms=spec.max_query_terms, max_tokens=generation.schema.passages.max_tokens
        )
        for leg in mine:
            row = matrix[texts.index(leg.text)]
            ids = row.indices.astype(np.uint32)
            leg.base = leg.query = quantised_for(leg, SparseRow(ids, row.data))
            leg.label = encoder.term


def _encode_dense(legs: Sequence[Leg], generation: Generation) -> None:
    """One pass for all legs of an encoder, those of SAE fields on it among them."""
    by_source: dict[str, list[Leg]] = {}
    for leg in legs:
        source = source_of(generation, leg.field)
        assert source is not None
        by_source.setdefault(source.name, []).append(leg)
    for name, mine in by_source.items():
        texts = list(dict.fromkeys(leg.text for leg in mine))
        encoder = dense_encoder(generation.field(name))
        encoded = encoder.encode(texts, mode="query", max_tokens=generation.schema.passages.max_tokens)
        for leg in mine:
            leg.vector = np.ascontiguousarray(encoded[texts.index(leg.text)])


def _fill_bm25(generation: Generation, leg: Leg) -> None:
    spec = leg.field.spec
    assert isinstance(spec, BM25Field)
    lexicon = generation.lexicons[leg.field.name]
    counts = Counter(Analyzer(spec.language).terms(leg.text))
    known = sorted((lexicon[term], term) for term in counts if term in lexicon)
    ids = np.array([term_id for term_id, _ in known], np.uint32)
    frequency = generation.document_frequency(leg.field.name, ids)
    present = frequency > 0  # a term that only newer generations hold adds nothing here
    weights = BM25.idf(frequency, generation.passages) * np.array([counts[term] for _, term in known], np.float64)
    row = SparseRow(ids[present], weights[present].astype(np.float32))
    leg.base = leg.query = quantised_for(leg, row)
    names = {int(term_id): term for term_id, term in known}
    leg.label = lambda index: names.get(index, str(index))


def _fill_sae(generation: Generation, leg: Leg, model: DerivedModel) -> None:
    """Query weights of an SAE field, for the query as it is and as it is steered."""
    assert isinstance(model, SAEModel) and isinstance(leg.field.spec, SAEField) and leg.base_vector is not None
    x = leg.base_vector
    leg.label = label_of(generation, leg.field.name, model)
    # Edits are of activations, so they come before the field's weighting.
    if leg.steering is None or not _steer(leg, leg.steering, leg.steering.activations(x)):
        leg.query, leg.whole = _sae_queries(leg, model, model.query_row(x, leg.scorer))
        leg.base = leg.query
        return
    leg.vector = leg.steering.move(x, leg.changes)
    leg.make_base = lambda: _sae_queries(leg, model, model.query_row(x, leg.scorer))
    moved = (model.query_row(leg.vector, "decode") if leg.scorer == "decode" else
             leg.steering.add_to(model.query_row(x, leg.scorer), leg.changes))
    leg.query, leg.whole = _sae_queries(leg, model, moved, leg.changes)


def _sae_queries(leg: Leg, model: SAEModel, row: SparseRow, always: Collection[int] = ()
                 ) -> tuple[ImpactQuery, ImpactQuery | None]:  # fmt: skip
    """What is searched for weights of latents, and all of them where candidates are scored by all and that is more."""
    assert isinstance(leg.field.spec, SAEField)
    every = model.weigh(row, leg.field.spec, 0)
    some = model.weigh(row, leg.field.spec, leg.max_terms, always)
    again = leg.rescore > 0 and not leg.rerank and len(some.term_ids) < len(every.term_ids)
    return quantised_for(leg, some, model), quantised_for(leg, every, model) if again else None


def _steer_sparse(generation: Generation, leg: Leg, model: DerivedModel) -> None:
    """A ready sparse query over an SAE field: edits add to its weights."""
    assert isinstance(model, SAEModel) and isinstance(leg.query, ImpactQuery)
    values = leg.query.weights * leg.query.unit / level_values(leg.field, leg.query.terms, None)
    base = SparseRow(leg.query.terms, values.astype(np.float32))
    leg.base = leg.query = quantised_for(leg, base, model)
    leg.label = label_of(generation, leg.field.name, model)
    if leg.steering is not None and _steer(leg, leg.steering, activations_of(base)):
        leg.query = quantised_for(leg, leg.steering.add_to(base, leg.changes), model)


def _steer(leg: Leg, steering: Steering, activations: Mapping[int, float]) -> bool:
    """Notes what edits do to a query with these activations; whether that is anything."""
    leg.changes, leg.unmet = steering.differences(activations), steering.unmet(activations)
    return bool(leg.changes)


def level_values(schema: FieldSchema, ids: NDArray[np.uint32], model: DerivedModel | None) -> NDArray[np.float64]:
    """The weight that one impact level of each term (T,) stands for; ``model`` is an SAE field's."""
    if model is not None:
        return model.impact_scale[ids].astype(np.float64) / 255.0
    return np.full(len(ids), schema.max_impact / 255.0)


def quantised_for(leg: Leg, row: SparseRow, model: DerivedModel | None = None) -> ImpactQuery:
    """A row of weights as a leg's query in impact levels; ``model`` is an SAE field's."""
    values = level_values(leg.field, row.term_ids, model)
    return quantise_query(row.term_ids, row.values.astype(np.float64) * values, leg.place)
