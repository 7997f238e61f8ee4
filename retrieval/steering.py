"""Edits of features: what they add to a query. And filters by features: required, excluded, enough of several.

An edit is a difference, never a reconstruction: ``x' = x + sum_i (z'_i - z_i) w_i`` with ``w_i`` the decoder's row of
latent i, so that what the SAE does not explain of ``x`` is kept, and no edit means no change, bit for bit. Strengths
are in units of the 90 % quantile of a feature's own positive activations.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import InvalidQueryError, UnknownFeatureError, UnknownFieldError
from sparsight.index.generation import Condition, Generation
from sparsight.index.rows import SparseRow
from sparsight.index.schema import DerivedModel, FieldSchema
from sparsight.retrieval.models import SAEModel
from sparsight.types import Edit, Overlap, SAEField

__all__ = ["MAX_EDITS", "MAX_STRENGTH", "Steering", "conditions_of", "overlaps_of", "steering_of"]

MAX_EDITS = 256
MAX_OVERLAPS = 16
MAX_OVERLAP_FEATURES = 256
MAX_STRENGTH = 100.0
_OPERATIONS = ("boost", "suppress", "set", "require", "exclude")


@dataclass(slots=True)
class Steering:
    """The moving edits (boost, suppress, set) of one SAE field.

    ``deltas[f]`` is ``(scale, offset)``: latent f becomes ``z * scale + offset``; scale is 0 after a "set" and
    1 otherwise.
    """

    field: FieldSchema
    source: str
    model: SAEModel
    deltas: dict[int, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def differences(self, activations: Mapping[int, float]) -> dict[int, float]:
        """``z'_f - z_f`` of each edited latent, for a query with these activations."""
        return {f: activations.get(f, 0.0) * (scale - 1.0) + offset for f, (scale, offset) in self.deltas.items()}

    def of_vector(self, x: NDArray[np.float32]) -> dict[int, float]:
        """:meth:`differences` for a dense query (D,)."""
        needs_code = any(scale != 1.0 for scale, _ in self.deltas.values())
        activations: dict[int, float] = {}
        if needs_code:
            code = self.model.sae.document_codes(x[None])
            activations = dict(zip(code.indices.tolist(), code.data.tolist(), strict=True))
        return self.differences(activations)

    def move(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The dense query (D,) with the edits; ``x`` itself when they change nothing."""
        changes = {f: delta for f, delta in self.of_vector(x).items() if delta != 0.0}
        if not changes:
            return x
        rows = self.model.sae.W_dec[list(changes)].astype(np.float64)
        return (x + np.array(list(changes.values())) @ rows).astype(np.float32)

    def add_to(self, row: SparseRow) -> SparseRow:
        """Sparse query weights with the edits added; ``row`` itself when they change nothing."""
        weights = dict(zip(row.term_ids.tolist(), row.values.tolist(), strict=True))
        changes = {f: delta for f, delta in self.differences(weights).items() if delta != 0.0}
        if not changes:
            return row
        for f, delta in changes.items():
            weights[f] = weights.get(f, 0.0) + delta
        kept = sorted(f for f, weight in weights.items() if weight != 0.0)
        return SparseRow(np.array(kept, np.uint32), np.array([weights[f] for f in kept], np.float32))


def steering_of(generation: Generation, models: Mapping[str, DerivedModel], edits: Sequence[Edit]) -> list[Steering]:
    """The moving edits, by SAE field; edits that change nothing are left out.

    Raises
    ------
    InvalidQueryError, UnknownFeatureError, UnknownFieldError
        With the edit's path.
    """
    if len(edits) > MAX_EDITS:
        raise InvalidQueryError(f"a query has at most {MAX_EDITS} edits; got {len(edits)}", field="edits")
    found: dict[str, Steering] = {}
    for position, edit in enumerate(edits):
        schema, model = _check(generation, models, edit, f"edits[{position}]")
        if edit.op not in ("boost", "suppress", "set"):
            continue
        assert isinstance(schema.spec, SAEField)
        steering = found.setdefault(schema.name, Steering(schema, schema.spec.source, model))
        amount = edit.strength * float(model.sae.scale[edit.feature])
        scale, offset = steering.deltas.get(edit.feature, (1.0, 0.0))
        if edit.op == "set":
            scale, offset = 0.0, amount
        else:
            offset += amount if edit.op == "boost" else -amount
        steering.deltas[edit.feature] = (scale, offset)
    for steering in found.values():
        steering.deltas = {f: change for f, change in steering.deltas.items() if change != (1.0, 0.0)}
    return [steering for steering in found.values() if steering.deltas]


def conditions_of(
    generation: Generation, models: Mapping[str, DerivedModel], edits: Sequence[Edit]
) -> tuple[Condition, ...]:
    """The require and exclude edits as conditions on 8-bit impacts."""
    conditions = []
    for position, edit in enumerate(edits):
        schema, model = _check(generation, models, edit, f"edits[{position}]")
        if edit.op in ("require", "exclude"):
            level = _level(model, edit.feature, edit.strength)
            conditions.append(Condition(schema.name, (edit.feature,), (level,), wanted=edit.op == "require"))
    return tuple(conditions)


def overlaps_of(
    generation: Generation, models: Mapping[str, DerivedModel], overlaps: Sequence[Overlap]
) -> tuple[Condition, ...]:
    """Overlaps as conditions on 8-bit impacts.

    Raises
    ------
    InvalidQueryError, UnknownFeatureError, UnknownFieldError
        With the path of what is wrong.
    """
    if len(overlaps) > MAX_OVERLAPS:
        raise InvalidQueryError(f"a query has at most {MAX_OVERLAPS} overlaps; got {len(overlaps)}", field="overlaps")
    return tuple(
        _overlap(generation, models, overlap, f"overlaps[{position}]") for position, overlap in enumerate(overlaps)
    )


def _overlap(generation: Generation, models: Mapping[str, DerivedModel], overlap: Overlap, place: str) -> Condition:
    if not isinstance(overlap, Overlap):
        raise InvalidQueryError(f"expected an Overlap, got {type(overlap).__name__}", field=place)
    schema, model = _sae(generation, models, overlap.field, f"{place}.field")
    count = len(overlap.features)
    if not 1 <= count <= MAX_OVERLAP_FEATURES:
        raise InvalidQueryError(
            f"an overlap has 1 to {MAX_OVERLAP_FEATURES} features; got {count}", field=f"{place}.features"
        )
    for position, feature in enumerate(overlap.features):
        _check_feature(schema, model, feature, f"{place}.features[{position}]")
        if feature in overlap.features[:position]:
            raise InvalidQueryError(f"feature {feature} is there twice", field=f"{place}.features[{position}]")
    wanted = overlap.at_least
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 1 <= wanted <= count:
        raise InvalidQueryError(
            f"at_least is 1 to {count}, the number of features; got {wanted!r:.80}", field=f"{place}.at_least"
        )
    _check_strength(overlap.strength, f"{place}.strength")
    if overlap.strength < 0:
        raise InvalidQueryError(
            f"an overlap takes a strength of 0 or more; got {overlap.strength}", field=f"{place}.strength"
        )
    levels = tuple(_level(model, feature, overlap.strength) for feature in overlap.features)
    return Condition(schema.name, tuple(overlap.features), levels, wanted)


def _level(model: SAEModel, feature: int, strength: float) -> int:
    """The least 8-bit impact that stands for this strength; 1, active at all, or more."""
    weight = model.posted(np.array([feature]), np.array([strength * float(model.sae.scale[feature])])).item()
    return max(1, math.ceil(weight * 255.0 / float(model.impact_scale[feature]) - 1e-6))


def _check(
    generation: Generation, models: Mapping[str, DerivedModel], edit: Edit, place: str
) -> tuple[FieldSchema, SAEModel]:
    if not isinstance(edit, Edit) or edit.op not in _OPERATIONS:
        raise InvalidQueryError(
            f"an edit's op is one of {', '.join(_OPERATIONS)}; got {getattr(edit, 'op', edit)!r:.80}",
            field=f"{place}.op",
        )
    schema, model = _sae(generation, models, edit.field, f"{place}.field")
    _check_feature(schema, model, edit.feature, f"{place}.feature")
    _check_strength(edit.strength, f"{place}.strength")
    if edit.op in ("require", "exclude", "set") and edit.strength < 0:
        raise InvalidQueryError(
            f"{edit.op} takes a strength of 0 or more; got {edit.strength}", field=f"{place}.strength"
        )
    return schema, model


def _sae(
    generation: Generation, models: Mapping[str, DerivedModel], name: str, place: str
) -> tuple[FieldSchema, SAEModel]:
    schema = sae_field(generation, name, place)
    model = models[schema.name]
    assert isinstance(model, SAEModel)
    return schema, model


def _check_feature(schema: FieldSchema, model: SAEModel, feature: int, place: str) -> None:
    if isinstance(feature, bool) or not isinstance(feature, int) or not 0 <= feature < model.dimension:
        raise UnknownFeatureError(
            f"field {schema.name!r} has features 0 to {model.dimension - 1}; got {feature!r:.80}", field=place
        )


def _check_strength(strength: float, place: str) -> None:
    if not math.isfinite(strength) or abs(strength) > MAX_STRENGTH:
        raise InvalidQueryError(f"a strength is -{MAX_STRENGTH:g} to {MAX_STRENGTH:g}; got {strength}", field=place)


def sae_field(generation: Generation, name: str, place: str) -> FieldSchema:
    """The SAE field of that name, or the collection's only one when ``name`` is ""."""
    if name:
        try:
            schema = generation.field(name)
        except UnknownFieldError as error:
            error.field = place
            raise
        if not isinstance(schema.spec, SAEField):
            raise InvalidQueryError(f"field {name!r:.80} has no features: it is a {schema.kind} field", field=place)
        return schema
    fields = [item for item in generation.schema.fields if item.kind == "sae"]
    if len(fields) != 1:
        what = "no SAE field; train one with train_sae" if not fields else f"{len(fields)} SAE fields; name one"
        raise InvalidQueryError(f"collection {generation.schema.name!r} has {what}", field=place, reason="NO_FEATURES")
    return fields[0]
