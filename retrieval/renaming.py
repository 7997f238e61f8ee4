"""What features are called: the labels that came with the autoencoder, and those that users gave since.

The catalogue's ``labels`` are ``{field: {"fingerprint": of the field, "features": {"12": [label, ...]}}}``, the latest
label last; "" is a return to the one that the feature came with. Another autoencoder has other features: its field
begins without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sparsight.errors import InvalidArgumentError
from sparsight.index.generation import Generation
from sparsight.index.memory import LABELS
from sparsight.index.store import CollectionStore
from sparsight.retrieval.models import SAEModel
from sparsight.retrieval.preparation import check_text
from sparsight.retrieval.steering import check_feature, sae_of

__all__ = ["history_of", "label_of", "labels_of", "rename"]

MAX_LABEL = 200
"""UTF-8 bytes."""
MAX_HISTORY = 100
"""Labels of a feature; the oldest go first."""


def label_of(generation: Generation, field: str, model: SAEModel) -> Callable[[int], str]:
    """The label of a feature by index; "" if it has none."""
    given, own = _given(generation, field), model.sae.labels

    def label(index: int) -> str:
        renamed = given.get(str(index)) if given else None
        return (renamed[-1] if renamed else "") or (own[index] if index < len(own) else "")

    return label


def labels_of(generation: Generation, field: str, model: SAEModel) -> list[str]:
    """The labels of all features."""
    label, own = label_of(generation, field, model), list(model.sae.labels)
    for index in map(int, _given(generation, field)):
        own += [""] * (index + 1 - len(own))
        own[index] = label(index)
    return own


def history_of(generation: Generation, field: str, model: SAEModel, index: int) -> tuple[str, ...]:
    """Labels that a feature had before, the one that it came with first; none if it was never renamed."""
    given, own = _given(generation, field).get(str(index), []), model.sae.labels
    came = own[index] if index < len(own) else ""
    return (came, *given[:-1]) if given else ()


def rename(store: CollectionStore, generation: Generation, field: str, index: int, label: str) -> None:
    """Call a feature something else; "" gives it the label back that it came with. Durable when this returns.

    Raises
    ------
    InvalidArgumentError, UnknownFeatureError, UnknownFieldError
        The label is too long or has line breaks, or there is no such feature.
    """
    schema, model = sae_of(generation, field)
    check_feature(schema, model, index, "index")
    check_text(label, "label", MAX_LABEL)
    if label != label.strip() or not label.isprintable():
        raise InvalidArgumentError(f"a label is one line without blanks around it; got {label!r:.80}", field="label")

    def work() -> None:
        kept = store.catalog.find_meta(LABELS)
        if kept.get(schema.name, {}).get("fingerprint") != schema.fingerprint:
            kept[schema.name] = {"fingerprint": schema.fingerprint, "features": {}}
        given = kept[schema.name]["features"].setdefault(str(index), [])
        given.append(label)
        del given[:-MAX_HISTORY]
        store.catalog.set_meta(LABELS, kept)

    store.run(work)


def _given(generation: Generation, field: str) -> Mapping[str, list[str]]:
    kept: Mapping[str, Any] = generation.labels.get(field, {})
    schema = generation.schema.field(field)
    if schema is None or kept.get("fingerprint") != schema.fingerprint:
        return {}
    features: Mapping[str, list[str]] = kept["features"]
    return features
