"""Fields as the index sees them: resolved, validated, and how their weights become 8 bits.

A user's field (``sparsight.types``) leaves things open; a :class:`FieldSchema` has them fixed when the
field is created: its dimension, the largest weight that 8 bits hold, and the fingerprint of the model that
fills it. It is stored in the catalogue, and data of another model is refused.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.errors import IncompatibleModelError, InvalidArgumentError
from sparsight.types import BM25Field, DenseField, Field, PassageSpec, SAEField, SparseField

__all__ = [
    "MAX_TERM",
    "CollectionSchema",
    "DerivedModel",
    "FieldSchema",
    "ModelFactory",
    "check_collection_name",
    "check_document_id",
    "check_field_name",
    "check_sae_options",
    "quantise",
]

MAX_TERM = 2**32 - 2
"""Largest term id: ids are 32 bits and the last value marks "none" in the kernels."""

MAX_DENSE_DIMENSION = 65_536
MAX_RESCORED = 10_000  # documents; as many as a query may ask for
DEFAULT_MAX_IMPACT = 4.0
_COLLECTION_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_KINDS: Mapping[str, type[Any]] = {"sparse": SparseField, "bm25": BM25Field, "dense": DenseField, "sae": SAEField}


def check_collection_name(name: str, field: str = "name") -> str:
    """``name`` itself, if it may name a collection (and so a folder)."""
    if not isinstance(name, str) or not _COLLECTION_NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"a collection's name is 1 to 63 of a-z, 0-9, '_' and '-' and begins with a letter; got {name!r:.80}",
            field=field,
        )
    return name


def check_field_name(name: str, field: str = "field") -> str:
    """``name`` itself, if it may name a field."""
    if not isinstance(name, str) or not _FIELD_NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"a field's name is 1 to 63 of a-z, 0-9 and '_' and begins with a letter; got {name!r:.80}", field=field
        )
    return name


def check_document_id(id: str, field: str = "id") -> str:
    """``id`` itself, if it may name a document: 1 to 512 bytes of UTF-8 without control characters."""
    if not isinstance(id, str) or not id:
        raise InvalidArgumentError(f"a document's id is a string of 1 to 512 bytes; got {id!r:.80}", field=field)
    try:
        size = len(id.encode())
    except UnicodeEncodeError as error:
        raise InvalidArgumentError("a document's id is valid Unicode; got a lone surrogate", field=field) from error
    if size > 512:
        raise InvalidArgumentError(f"a document's id is at most 512 bytes of UTF-8; got {size}", field=field)
    if any(ord(c) < 32 or ord(c) == 127 for c in id):
        raise InvalidArgumentError("a document's id has no control characters; got one", field=field)
    return id


def check_sae_options(spec: SAEField, prefix: str = "") -> None:
    """Refuse an SAE field whose way of weighting is none; ``prefix`` stands before the option's name in the error."""
    choices = {"scorer": ("decode", "symmetric"), "weighting": ("none", "idf", "bm25")}
    for name, known in choices.items():
        if (value := getattr(spec, name)) not in known:
            expected = " or ".join(f'"{choice}"' for choice in known)
            raise InvalidArgumentError(f"{name} is {expected}; got {value!r:.80}", field=prefix + name)
    for name, most in (("max_query_terms", None), ("rescore", MAX_RESCORED)):
        number = getattr(spec, name)
        if isinstance(number, bool) or not isinstance(number, int) or number < 0 or (most and number > most):
            limits = f"0 to {most:,}" if most else "not negative"
            raise InvalidArgumentError(f"{name} is {limits}; got {number!r:.80}", field=prefix + name)
    if isinstance(spec.k1, bool) or not isinstance(spec.k1, int | float) or not 0 <= spec.k1 <= 100:
        raise InvalidArgumentError(f"k1 is 0 to 100; got {spec.k1!r:.80}", field=f"{prefix}k1")


class DerivedModel(Protocol):
    """What computes a derived field (SAE codes) from its source field's dense vectors."""

    fingerprint: str
    dimension: int
    impact_scale: NDArray[np.float32]  # (dimension,): the weight that 255 stands for, per latent

    def encode(self, x: NDArray[np.float32]) -> csr_matrix:
        """Codes (B, dimension) of dense vectors (B, D)."""


ModelFactory = Callable[[SAEField], DerivedModel]
"""Loads the model of a derived field; the engine brings it, so that the index knows no encoder."""


@dataclass(frozen=True, slots=True)
class FieldSchema:
    """A field with everything fixed.

    Attributes
    ----------
    spec : Field
        What the user asked for.
    dimension : int
        Terms or vector width; 0 for BM25, whose lexicon grows.
    fingerprint : str
        SHA-256 of the model that fills it, "" when the caller brings vectors.
    """

    spec: Field
    dimension: int
    fingerprint: str = ""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def kind(self) -> str:
        return self.spec.kind

    @property
    def max_impact(self) -> float:
        """The weight that 255 stands for (per latent for SAE fields: see the model's ``impact_scale``)."""
        if isinstance(self.spec, SparseField):
            return self.spec.max_impact or DEFAULT_MAX_IMPACT
        if isinstance(self.spec, BM25Field):
            return self.spec.k1 + 1.0
        return 1.0

    def to_json(self) -> dict[str, Any]:
        return {"spec": dataclasses.asdict(self.spec), "dimension": self.dimension, "fingerprint": self.fingerprint}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FieldSchema:
        return cls(_KINDS[value["spec"]["kind"]](**value["spec"]), value["dimension"], value["fingerprint"])


@dataclass(frozen=True, slots=True)
class CollectionSchema:
    """A collection's fields and how its texts are split. ``uid`` ties its files to it."""

    name: str
    fields: tuple[FieldSchema, ...]
    passages: PassageSpec
    created: str = ""
    uid: str = ""

    def field(self, name: str) -> FieldSchema | None:
        """The field of that name, or None."""
        return next((field for field in self.fields if field.name == name), None)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "fields": [field.to_json() for field in self.fields],
            "passages": dataclasses.asdict(self.passages),
            "created": self.created,
            "uid": self.uid,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CollectionSchema:
        fields = tuple(FieldSchema.from_json(item) for item in value["fields"])
        return cls(value["name"], fields, PassageSpec(**value["passages"]), value["created"], value["uid"])

    def check(self) -> CollectionSchema:
        """This schema, if its parts are sound together.

        Raises
        ------
        InvalidArgumentError
            With the path of the offending field.
        """
        check_collection_name(self.name)
        if not 1 <= len(self.fields) <= 32:
            raise InvalidArgumentError(f"a collection has 1 to 32 fields; got {len(self.fields)}", field="fields")
        names = [field.name for field in self.fields]
        for position, field in enumerate(self.fields):
            place = f"fields[{position}]"
            check_field_name(field.name, f"{place}.name")
            if names.index(field.name) != position:
                raise InvalidArgumentError(f"field name {field.name!r} is used twice", field=f"{place}.name")
            self._check_field(field, place)
        spec = self.passages
        if (
            spec.max_tokens < 8
            or spec.overlap_tokens < 0
            or spec.overlap_tokens * 2 > spec.max_tokens
            or spec.max_passages < 0
        ):
            raise InvalidArgumentError(
                "passages have max_tokens >= 8, 0 <= overlap_tokens <= max_tokens / 2 and max_passages >= 0; "
                f"got {spec}",
                field="passages",
            )
        return self

    def _check_field(self, field: FieldSchema, place: str) -> None:
        spec = field.spec
        if isinstance(spec, SparseField):
            if not 1 <= field.dimension <= MAX_TERM + 1:
                raise InvalidArgumentError(
                    f"dimension is 1 to {MAX_TERM + 1}; got {field.dimension}", field=f"{place}.dimension"
                )
            if not np.isfinite(field.max_impact) or field.max_impact <= 0:
                raise InvalidArgumentError(
                    f"max_impact is positive; got {spec.max_impact}", field=f"{place}.max_impact"
                )
            if spec.max_terms < 0 or spec.max_query_terms < 0:
                raise InvalidArgumentError("max_terms and max_query_terms are not negative", field=place)
        elif isinstance(spec, BM25Field):
            if not 0 <= spec.k1 <= 100:
                raise InvalidArgumentError(f"k1 is 0 to 100; got {spec.k1}", field=f"{place}.k1")
            if not 0 <= spec.b <= 1:
                raise InvalidArgumentError(f"b is 0 to 1; got {spec.b}", field=f"{place}.b")
            if spec.language not in ("english", "none"):
                raise InvalidArgumentError(
                    f'language is "english" or "none"; got {spec.language!r:.80}', field=f"{place}.language"
                )
        elif isinstance(spec, DenseField):
            if not 1 <= field.dimension <= MAX_DENSE_DIMENSION:
                raise InvalidArgumentError(
                    f"dimension is 1 to {MAX_DENSE_DIMENSION}; got {field.dimension}", field=f"{place}.dimension"
                )
            if spec.index not in ("flat", "hnsw"):
                raise InvalidArgumentError(f'index is "flat" or "hnsw"; got {spec.index!r:.80}', field=f"{place}.index")
        else:
            source = self.field(spec.source)
            if source is None or source.kind != "dense":
                raise InvalidArgumentError(
                    f"source names a dense field; got {spec.source!r:.80}", field=f"{place}.source"
                )
            check_sae_options(spec, f"{place}.")

    def check_same_models(self, other: CollectionSchema) -> None:
        """Refuse ``other`` (what the caller would fill the fields with) where a model differs from this one."""
        for mine in self.fields:
            theirs = other.field(mine.name)
            if theirs is not None and theirs.fingerprint != mine.fingerprint:
                raise IncompatibleModelError(
                    f"field {mine.name!r} was filled by model {mine.fingerprint[:12]}, not {theirs.fingerprint[:12]}",
                    field=mine.name,
                    expected=mine.fingerprint,
                    found=theirs.fingerprint,
                )


def quantise(values: NDArray[np.floating[Any]], scale: NDArray[np.float32] | float) -> tuple[NDArray[np.uint8], int]:
    """8-bit impacts of non-negative weights, and how many saturated.

    ``impact = min(255, round_half_even(weight * 255 / scale))``; ``scale`` is one number or one per value.
    The error of an unsaturated weight is at most scale / 510. Weights below that become 0 and leave the
    postings (the forward vectors keep them).
    """
    # In float64: a float32 product can round across a half and make the result depend on the build.
    levels = np.rint(np.asarray(values, np.float64) * 255.0 / scale)
    saturated = int(np.count_nonzero(levels > 255))
    return np.minimum(levels, 255).astype(np.uint8), saturated
