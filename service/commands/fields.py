"""Fields of a collection as they are written on the command line.

``NAME`` alone is a field that is known by that name: ``splade``, ``bm25``, ``dense`` or ``sae``. Any other is
``NAME=KIND``, with options: ``NAME=KIND;option=value;...``. Fields stand between commas::

    splade,bm25,dense
    words=bm25;language=none,meaning=dense;encoder=all-MiniLM-L6-v2;index=hnsw
    impacts=sparse                     a sparse field without an encoder: documents bring their vectors
"""

from __future__ import annotations

import dataclasses
from typing import Any

from sparsight.errors import InvalidArgumentError
from sparsight.types import DEFAULT_FIELDS, BM25Field, DenseField, Field, SAEField, SparseField

__all__ = ["parse_fields"]

_KNOWN: dict[str, Field] = {field.name: field for field in DEFAULT_FIELDS}
_KINDS: dict[str, type[Any]] = {"sparse": SparseField, "bm25": BM25Field, "dense": DenseField, "sae": SAEField}


def parse_fields(text: str) -> list[Field]:
    """Fields of a text like ``splade,bm25``; see the module's head.

    Raises
    ------
    InvalidArgumentError
        If a name is not known, a kind or an option does not exist, a value has the wrong type, or a name repeats.
    """
    fields = [_parse(item.strip()) for item in text.split(",") if item.strip()]
    names = [field.name for field in fields]
    if not fields or len(set(names)) != len(names):
        raise InvalidArgumentError(f"expected field names between commas, each once, got {text!r}", field="fields")
    return fields


def _parse(item: str) -> Field:
    head, *options = (part.strip() for part in item.split(";"))
    name, _, kind = (part.strip() for part in head.partition("="))
    if not kind and not options:
        if name not in _KNOWN:
            raise InvalidArgumentError(f"no field is known as {name!r} (known: {', '.join(_KNOWN)}); others are "
                                       "NAME=KIND;option=value", field="fields", name=name)
        return _KNOWN[name]
    kind = kind or (_KNOWN[name].kind if name in _KNOWN else "")
    if kind not in _KINDS:
        raise InvalidArgumentError(f"field {name!r}: expected a kind of {', '.join(_KINDS)}, got {kind!r}",
                                   field="fields", kind=kind)
    types: dict[str, type[Any]] = {entry.name: type(entry.default) for entry in dataclasses.fields(_KINDS[kind])
             if entry.name not in ("name", "kind")}
    # Named as its kind's well-known field, it starts from that one: `dense;index=hnsw` keeps the encoder.
    base = _KNOWN.get(name)
    arguments: dict[str, Any] = {}
    if base is not None and base.kind == kind:
        arguments = {option: getattr(base, option) for option in types}
    for option in options:
        key, _, value = (part.strip() for part in option.partition("="))
        if key not in types:
            raise InvalidArgumentError(f"field {name!r}: a {kind} field has no option {key!r} (it has: "
                                       f"{', '.join(types)})", field="fields", option=key)
        try:
            arguments[key] = types[key](value)
        except ValueError:
            raise InvalidArgumentError(f"field {name!r}: expected a number for {key}, got {value!r}",
                                       field="fields", option=key) from None
    field: Field = _KINDS[kind](name, **arguments)
    return field
