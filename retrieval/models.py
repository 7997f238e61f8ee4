"""The models of a database: encoders by name, and SAEs as the index's derived models."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.encoders.sae.weighting import idf, saturate, weigh_query
from sparsight.errors import FailedPreconditionError, IncompatibleModelError, InvalidArgumentError
from sparsight.index.memory import MODELS_FOLDER
from sparsight.index.rows import SparseRow
from sparsight.index.schema import FieldSchema, ModelFactory, check_sae_options
from sparsight.types import BM25Field, DenseField, Field, SAEField, SparseField, SparseVector

if TYPE_CHECKING:
    from sparsight.encoders import SAE, DenseEncoder, SparseEncoder

__all__ = ["SAEModel", "dense_encoder", "factory", "resolve_fields", "sae_field", "sparse_encoder"]

UNBOUNDED_DIMENSION = 2**32 - 1


class SAEModel:
    """An SAE as a field sees it: dense vectors in, weights to post and to search with out.

    Postings depend on the field's ``weighting`` only where that is "bm25"; the fingerprint then tells so.
    """

    def __init__(self, sae: SAE, spec: SAEField) -> None:
        self.sae = sae
        self._k1 = spec.k1 if spec.weighting == "bm25" else None
        self.fingerprint: str = sae.fingerprint
        if self._k1 is not None:
            from sparsight.encoders.fingerprint import digest_json

            self.fingerprint = digest_json({"sae": sae.fingerprint, "weighting": "bm25", "k1": float(self._k1)})
        self.dimension: int = sae.n_latents
        self.impact_scale: NDArray[np.float32] = self.posted(np.arange(sae.n_latents), sae.impact_scale)

    @property
    def posts_codes(self) -> bool:
        """Whether the index holds codes over the length of what they rebuild, and not weights made of them."""
        return self._k1 is None

    def encode(self, x: NDArray[np.float32]) -> csr_matrix:
        """Document weights (B, F) of dense vectors (B, D)."""
        codes = self.sae.document_weights(x)
        codes.data = self.posted(codes.indices, codes.data)
        return codes

    def posted(self, latents: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
        """What the index holds for latents (n,) with these weights ``z / |xhat|`` (n,)."""
        if self._k1 is None:
            return weights
        scale = self.sae.scale[latents]  # 0 where a latent never fired in training
        return saturate(weights, np.where(scale > 0, scale, self.sae.impact_scale[latents]), self._k1)

    @cached_property
    def _idf(self) -> NDArray[np.float32]:
        return idf(self.sae.density)

    def factors(self, spec: SAEField) -> NDArray[np.float32] | None:
        """What the field multiplies the query's weights by (F,); None when by nothing."""
        return None if spec.weighting == "none" else self._idf

    def query_row(self, x: NDArray[np.float32], scorer: Literal["decode", "symmetric"]) -> SparseRow:
        """All query weights of a dense vector (D,), before :meth:`weigh`."""
        return _row(self.sae.query_weights(x[None], scorer=scorer, max_terms=0)[0])

    def weigh(self, row: SparseRow, spec: SAEField, max_terms: int, always: Collection[int] = ()) -> SparseRow:
        """Query weights as the field searches with them: its factors applied, then the most important kept (0: all).

        Latents of ``always`` are kept in any case.
        """
        return _row(weigh_query(SparseVector(row.term_ids, row.values), self.factors(spec), max_terms,
                                always=always))


def _row(vector: SparseVector) -> SparseRow:
    return SparseRow(vector.indices, vector.values)


def factory(folder: Path) -> ModelFactory:
    """Loads the SAEs that a collection keeps below its folder."""

    def load(spec: SAEField) -> SAEModel:
        from sparsight.encoders import SAE

        return SAEModel(SAE.load(folder / spec.model), spec)

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


def sae_field(sae: SAE, spec: SAEField, source: FieldSchema | None, place: str = "source") -> FieldSchema:
    """The schema of a field filled by an autoencoder, which a collection keeps under its ``model``.

    Raises
    ------
    InvalidArgumentError
        ``source`` is not a dense field of the width that the autoencoder reads.
    IncompatibleModelError
        It was trained on embeddings of another encoder than the one that fills ``source``.
    """
    if source is None or source.kind != "dense" or source.dimension != sae.d_in:
        found = "none" if source is None else f"{source.kind} of dimension {source.dimension}"
        raise InvalidArgumentError(
            f"the SAE reads dense vectors of dimension {sae.d_in}; field {spec.source!r} is {found}", field=place
        )
    if sae.embedder and source.fingerprint and sae.embedder != source.fingerprint:
        raise IncompatibleModelError(
            f"the SAE was trained on vectors of model {sae.embedder[:12]}; field {source.name!r} is filled by "
            f"{source.fingerprint[:12]}",
            field=place,
            expected=sae.embedder,
            found=source.fingerprint,
        )
    model = f"{MODELS_FOLDER}/{spec.name}-{sae.fingerprint[:16]}"
    return FieldSchema(replace(spec, model=model), sae.n_latents, SAEModel(sae, spec).fingerprint)


def resolve_fields(fields: Sequence[Field]) -> tuple[tuple[FieldSchema, ...], dict[str, SAE]]:
    """A user's fields with their dimensions and fingerprints fixed; loads the encoders and autoencoders they name.

    Returns
    -------
    fields : tuple of FieldSchema
        In their order.
    saes : mapping
        Autoencoders by the ``model`` of their field.
    """
    plain = {at: _resolve_field(spec, f"fields[{at}]") for at, spec in enumerate(fields)
             if not isinstance(spec, SAEField)}  # fmt: skip
    sources = {item.name: item for item in plain.values()}
    saes: dict[str, SAE] = {}
    for at, spec in enumerate(fields):
        if isinstance(spec, SAEField):
            sae = _named_sae(spec, f"fields[{at}]")
            plain[at] = field = sae_field(sae, spec, sources.get(spec.source), f"fields[{at}].source")
            assert isinstance(field.spec, SAEField)
            saes[field.spec.model] = sae
    return tuple(plain[at] for at in range(len(fields))), saes


def _named_sae(spec: SAEField, place: str) -> SAE:
    from sparsight.encoders.sae.checkpoints import read_sae

    check_sae_options(spec, f"{place}.")
    for name in ("source", "model"):
        if not isinstance(value := getattr(spec, name), str):
            raise InvalidArgumentError(f"{name} is a string; got {value!r:.80}", field=f"{place}.{name}")
    if not spec.model:
        raise InvalidArgumentError(
            "an SAE field needs a model, or is added by train_sae once the collection has documents", field=place,
            reason="SAE_FIELD",
        )  # fmt: skip
    return read_sae(spec.model)


def _resolve_field(field: Field, place: str) -> FieldSchema:
    if isinstance(field, BM25Field):
        return FieldSchema(field, 0)
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
