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
from sparsight.index.schema import FieldSchema
from sparsight.retrieval.models import SAEModel
from sparsight.types import Edit, Overlap, SAEField

__all__ = ["MAX_EDITS", "MAX_STRENGTH", "Move", "Steering", "activations_of", "check_feature", "conditions_of",
           "overlaps_of", "sae_field", "sae_of", "steering_of"]  # fmt: skip

MAX_EDITS = 256
MAX_OVERLAPS = 16
MAX_OVERLAP_FEATURES = 256
MAX_STRENGTH = 100.0
_MOVES = ("boost", "suppress", "set", "clamp")
_OPERATIONS = (*_MOVES, "require", "exclude")


@dataclass(frozen=True, slots=True)
class Move:
    """An edit of an activation, in the activation's own units. Where ``when`` is a latent it is done only if that one's
    activation is at least ``least``, and above 0."""

    latent: int
    op: str
    amount: float
    when: int | None = None
    least: float = 0.0

    @property
    def needs_code(self) -> bool:
        """Whether the activations decide what it does."""
        return self.op in ("set", "clamp") or self.when is not None

    def done(self, activations: Mapping[int, float]) -> bool:
        """Whether it is done for a query with these activations."""
        if self.when is None:
            return True
        found = activations.get(self.when, 0.0)
        return found > 0 and found >= self.least

    def after(self, base: float, offset: float) -> tuple[float, float]:
        """What ``base + offset`` becomes, in two parts: so that what is added and taken away again leaves nothing."""
        if self.op in ("boost", "suppress"):
            return base, offset + (self.amount if self.op == "boost" else -self.amount)
        if self.op == "set" or base + offset > self.amount:
            return 0.0, self.amount
        return base, offset


@dataclass(slots=True)
class Steering:
    """The moving edits (boost, suppress, set, clamp) of one SAE field, in order."""

    field: FieldSchema
    source: str
    model: SAEModel
    moves: list[Move] = dataclasses.field(default_factory=list)

    def differences(self, activations: Mapping[int, float]) -> dict[int, float]:
        """``z'_f - z_f`` of each latent that changes, for a query with these activations."""
        parts: dict[int, tuple[float, float]] = {}
        for move in self.moves:
            if move.done(activations):
                parts[move.latent] = move.after(*parts.get(move.latent, (activations.get(move.latent, 0.0), 0.0)))
        found = {f: (base - activations.get(f, 0.0)) + offset for f, (base, offset) in parts.items()}
        return {f: delta for f, delta in found.items() if delta != 0.0}

    def unmet(self, activations: Mapping[int, float]) -> tuple[Move, ...]:
        """Edits whose conditions a query with these activations does not meet."""
        return tuple(move for move in self.moves if not move.done(activations))

    def activations(self, x: NDArray[np.float32]) -> dict[int, float]:
        """Those of a dense query (D,); none where no edit asks."""
        if not any(move.needs_code for move in self.moves):
            return {}
        code = self.model.sae.document_codes(x[None])
        return dict(zip(code.indices.tolist(), code.data.tolist(), strict=True))

    def move(self, x: NDArray[np.float32], changes: Mapping[int, float]) -> NDArray[np.float32]:
        """The dense query (D,) with these :meth:`differences`; ``x`` itself when there are none."""
        if not changes:
            return x
        rows = self.model.sae.W_dec[list(changes)].astype(np.float64)
        return (x + np.array(list(changes.values())) @ rows).astype(np.float32)

    def add_to(self, row: SparseRow, changes: Mapping[int, float]) -> SparseRow:
        """Sparse query weights with these :meth:`differences` added; ``row`` itself when there are none."""
        if not changes:
            return row
        weights = activations_of(row)
        for f, delta in changes.items():
            weights[f] = weights.get(f, 0.0) + delta
        kept = sorted(f for f, weight in weights.items() if weight != 0.0)
        return SparseRow(np.array(kept, np.uint32), np.array([weights[f] for f in kept], np.float32))


def activations_of(row: SparseRow) -> dict[int, float]:
    """Weights by latent."""
    return dict(zip(row.term_ids.tolist(), row.values.tolist(), strict=True))


def steering_of(generation: Generation, edits: Sequence[Edit]) -> list[Steering]:
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
        schema, model = _check(generation, edit, f"edits[{position}]")
        if edit.op not in _MOVES:
            continue
        assert isinstance(schema.spec, SAEField)
        steering = found.setdefault(schema.name, Steering(schema, schema.spec.source, model))
        if edit.strength != 0 or edit.op in ("set", "clamp"):
            scale = model.sae.scale
            least = 0.0 if edit.when is None else edit.when_strength * float(scale[edit.when])
            amount = edit.strength * float(scale[edit.feature])
            steering.moves.append(Move(edit.feature, edit.op, amount, edit.when, least))
    return [steering for steering in found.values() if steering.moves]


def conditions_of(
    generation: Generation, edits: Sequence[Edit]
) -> tuple[Condition, ...]:
    """The require and exclude edits as conditions on 8-bit impacts."""
    conditions = []
    for position, edit in enumerate(edits):
        schema, model = _check(generation, edit, f"edits[{position}]")
        if edit.op in ("require", "exclude"):
            level = _level(model, edit.feature, edit.strength)
            conditions.append(Condition(schema.name, (edit.feature,), (level,), wanted=edit.op == "require"))
    return tuple(conditions)


def overlaps_of(
    generation: Generation, overlaps: Sequence[Overlap]
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
        _overlap(generation, overlap, f"overlaps[{position}]") for position, overlap in enumerate(overlaps)
    )


def _overlap(generation: Generation, overlap: Overlap, place: str) -> Condition:
    if not isinstance(overlap, Overlap):
        raise InvalidQueryError(f"expected an Overlap, got {type(overlap).__name__}", field=place)
    schema, model = sae_of(generation, overlap.field, f"{place}.field")
    count = len(overlap.features)
    if not 1 <= count <= MAX_OVERLAP_FEATURES:
        raise InvalidQueryError(
            f"an overlap has 1 to {MAX_OVERLAP_FEATURES} features; got {count}", field=f"{place}.features"
        )
    for position, feature in enumerate(overlap.features):
        check_feature(schema, model, feature, f"{place}.features[{position}]")
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
    generation: Generation, edit: Edit, place: str
) -> tuple[FieldSchema, SAEModel]:
    if not isinstance(edit, Edit) or edit.op not in _OPERATIONS:
        raise InvalidQueryError(
            f"an edit's op is one of {', '.join(_OPERATIONS)}; got {getattr(edit, 'op', edit)!r:.80}",
            field=f"{place}.op",
        )
    schema, model = sae_of(generation, edit.field, f"{place}.field")
    check_feature(schema, model, edit.feature, f"{place}.feature")
    _check_strength(edit.strength, f"{place}.strength")
    if edit.op in ("require", "exclude", "set", "clamp") and edit.strength < 0:
        raise InvalidQueryError(
            f"{edit.op} takes a strength of 0 or more; got {edit.strength}", field=f"{place}.strength"
        )
    if edit.when is not None:
        if edit.op not in _MOVES:
            raise InvalidQueryError(f"{edit.op} takes no condition: it is one; got when={edit.when!r:.80}",
                                    field=f"{place}.when")
        check_feature(schema, model, edit.when, f"{place}.when")
        _check_strength(edit.when_strength, f"{place}.when_strength")
        if edit.when_strength < 0:
            raise InvalidQueryError(f"when_strength is 0 or more; got {edit.when_strength}",
                                    field=f"{place}.when_strength")
    return schema, model


def sae_of(generation: Generation, name: str, place: str = "field") -> tuple[FieldSchema, SAEModel]:
    """The SAE field of that name, or the collection's only one, with its model; errors as :func:`sae_field`."""
    schema = sae_field(generation, name, place)
    model = generation.derived[schema.name]
    assert isinstance(model, SAEModel)
    return schema, model


def check_feature(schema: FieldSchema, model: SAEModel, feature: int, place: str) -> None:
    """Raise UnknownFeatureError unless the field has a feature of that index."""
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
