"""The models of a database: encoders by name, and SAEs as the index's derived models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.errors import FailedPreconditionError, IncompatibleModelError, InvalidArgumentError
from sparsight.index.schema import FieldSchema, ModelFactory
from sparsight.types import BM25Field, DenseField, Field, SAEField, SparseField

if TYPE_CHECKING:
    from sparsight.encoders import SAE, DenseEncoder, SparseEncoder

__all__ = ["SAEModel", "dense_encoder", "factory", "resolve_field", "sparse_encoder"]

UNBOUNDED_DIMENSION = 2**32 - 1


class SAEModel:
    """An SAE as the index sees it: dense vectors in, weights to post out."""

    def __init__(self, sae: SAE) -> None:
        self.sae = sae
        self.fingerprint: str = sae.fingerprint
        self.dimension: int = sae.n_latents
        self.impact_scale: NDArray[np.float32] = sae.impact_scale

    def encode(self, x: NDArray[np.float32]) -> csr_matrix:
        """Document weights (B, F) of dense vectors (B, D)."""
        return self.sae.document_weights(x)


def factory(folder: Path) -> ModelFactory:
    """Loads the SAEs that a collection keeps below its folder."""

    def load(spec: SAEField) -> SAEModel:
        from sparsight.encoders import SAE

        return SAEModel(SAE.load(folder / spec.model))

    return load


def sparse_encoder(field: FieldSchema) -> SparseEncoder:
    """The encoder that fills a sparse field, checked against the field's fingerprint."""
    from sparsight.encoders import SparseEncoder

    encoder = _encoder(field)
    if not isinstance(encoder, SparseEncoder):
        raise InvalidArgumentError(
            f"{encoder.name} is a dense encoder; field {field.name!r} is sparse", field=field.name
        )
    return encoder


def dense_encoder(field: FieldSchema) -> DenseEncoder:
    """The encoder that fills a dense field, checked against the field's fingerprint."""
    from sparsight.encoders import DenseEncoder

    encoder = _encoder(field)
    if not isinstance(encoder, DenseEncoder):
        raise InvalidArgumentError(
            f"{encoder.name} is a sparse encoder; field {field.name!r} is dense", field=field.name
        )
    return encoder


def _encoder(field: FieldSchema) -> SparseEncoder | DenseEncoder:
    from sparsight.encoders import load_encoder

    assert isinstance(field.spec, SparseField | DenseField)
    if not field.spec.encoder:
        raise FailedPreconditionError(
            f"field {field.name!r} has no encoder: it takes ready vectors, not text",
            field=field.name,
            reason="NO_ENCODER",
        )
    encoder = load_encoder(field.spec.encoder)
    if field.fingerprint and encoder.fingerprint != field.fingerprint:
        raise IncompatibleModelError(
            f"field {field.name!r} was filled by model {field.fingerprint[:12]}, but {field.spec.encoder} is now "
            f"{encoder.fingerprint[:12]}; index the texts again or bring the old model back",
            field=field.name,
            expected=field.fingerprint,
            found=encoder.fingerprint,
        )
    return encoder


def resolve_field(field: Field, place: str) -> FieldSchema:
    """A user's field with its dimension and fingerprint fixed; loads the encoder it names."""
    if isinstance(field, BM25Field):
        return FieldSchema(field, 0)
    if isinstance(field, SAEField):
        raise InvalidArgumentError(
            "an SAE field is added by train_sae or add_sae once the collection exists", field=place, reason="SAE_FIELD"
        )
    if not isinstance(field, SparseField | DenseField):
        raise InvalidArgumentError(f"expected a field, got {type(field).__name__}", field=place)
    if field.dimension < 0:
        raise InvalidArgumentError(f"dimension is not negative; got {field.dimension}", field=f"{place}.dimension")
    if not field.encoder:
        if isinstance(field, DenseField) and not field.dimension:
            raise InvalidArgumentError("a dense field without an encoder needs a dimension", field=f"{place}.dimension")
        return FieldSchema(field, field.dimension or UNBOUNDED_DIMENSION)
    open_field = FieldSchema(field, 1)
    encoder = sparse_encoder(open_field) if isinstance(field, SparseField) else dense_encoder(open_field)
    if field.dimension not in (0, encoder.dimension):
        raise InvalidArgumentError(
            f"{field.encoder} has dimension {encoder.dimension}; got {field.dimension}", field=f"{place}.dimension"
        )
    return FieldSchema(field, encoder.dimension, encoder.fingerprint)
