"""An autoencoder into a collection: as a new field, or with other names for the features of one that is there."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from sparsight.errors import FailedPreconditionError
from sparsight.index import maintenance, storage
from sparsight.index.schema import CollectionSchema, FieldSchema
from sparsight.index.store import CollectionStore
from sparsight.retrieval.models import sae_field
from sparsight.types import SAEField

if TYPE_CHECKING:
    from sparsight.encoders import SAE

__all__ = ["install_names", "install_sae"]


def install_sae(store: CollectionStore, sae: SAE, spec: SAEField) -> None:
    """Copy an autoencoder into the collection's folder, durably, and fill its field for every document."""
    schema = store.schema
    field = sae_field(sae, spec, schema.field(spec.source))
    assert isinstance(field.spec, SAEField)
    folder = store.folder / field.spec.model
    with store.maintenance_lock:  # another training may save the same one
        if not folder.exists():
            _save(sae, folder)
    maintenance.rebuild(store, _with_field(schema, field))


def install_names(store: CollectionStore, sae: SAE, field: FieldSchema) -> None:
    """Give a field's features the labels, examples and notes of this autoencoder. Durable when this returns.

    Postings stay as they are. What users have called features since goes before the labels, as always.

    Raises
    ------
    FailedPreconditionError
        The field has another autoencoder by now.
    """
    assert isinstance(field.spec, SAEField)
    first = field.spec.model.split("~")[0]

    def work(model: str) -> None:
        now = store.schema.field(field.name)
        if now is None or now.fingerprint != field.fingerprint:
            raise FailedPreconditionError(f"field {field.name!r} was filled anew while its features were named",
                                          field="field", reason="FIELD_CHANGED")
        assert isinstance(now.spec, SAEField)
        new = replace(now, spec=replace(now.spec, model=model))
        store.catalog.set_meta("schema", _with_field(store.schema, new).to_json())

    with store.maintenance_lock:  # one naming at a time takes a number
        number = next(number for number in count(2) if not (store.folder / f"{first}~{number}").exists())
        _save(sae, store.folder / f"{first}~{number}")
        store.run(lambda: work(f"{first}~{number}"), reload=True)


def _with_field(schema: CollectionSchema, field: FieldSchema) -> CollectionSchema:
    fields = [item for item in schema.fields if item.name != field.name]
    return CollectionSchema(schema.name, (*fields, field), schema.passages, schema.created, schema.uid).check()


def _save(sae: SAE, folder: Path) -> None:
    building = folder.with_name(storage.BUILDING_PREFIX + folder.name)
    storage.create_folder(folder.parent)
    if building.exists():
        shutil.rmtree(building)
    try:
        with storage.translated("write", building):
            sae.save(building)
        storage.sync_tree(building)
        storage.publish_folder(building, folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)  # a full disk needs the room
        raise
