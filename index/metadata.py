"""What a document's metadata may be: JSON values that filters can address and every client can read back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from sparsight.errors import InvalidArgumentError
from sparsight.index.filters.tree import MAX_INTEGER

__all__ = ["validate_metadata"]


MAX_KEY_BYTES: Final = 256
MAX_METADATA_BYTES: Final = 64 * 1024
MAX_METADATA_DEPTH: Final = 8


def validate_metadata(metadata: Mapping[str, Any], field: str = "metadata") -> None:
    """Check a document's metadata on entry.

    Values are null, booleans, integers up to 2**53 in size, finite floats, strings, lists and objects of
    these. Keys are strings of 1 to 256 bytes without NUL. At most 8 levels of lists and objects (the
    metadata object is the first) and 64 KiB as compact JSON.

    Raises
    ------
    InvalidArgumentError
        With ``field`` naming the place, such as ``metadata["authors"][2]``.
    """
    if not isinstance(metadata, Mapping):
        raise InvalidArgumentError(f"expected an object, got {type(metadata).__name__}", field=field)
    _validate(metadata, field, 0)
    size = len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":"), default=dict).encode())
    if size > MAX_METADATA_BYTES:
        raise InvalidArgumentError(f"expected at most {MAX_METADATA_BYTES} bytes of JSON, got {size}", field=field,
                                   limit=MAX_METADATA_BYTES, received=size)  # fmt: skip


def _validate(value: Any, where: str, depth: int) -> None:
    problem = ""
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        problem = "" if _encodable(value) else "a string with a lone surrogate"
    elif isinstance(value, int):
        problem = "" if abs(value) <= MAX_INTEGER else "an integer beyond 2**53"
    elif isinstance(value, float):
        problem = "" if math.isfinite(value) else f"the number {value}"
    elif isinstance(value, Mapping | list | tuple):
        if depth == MAX_METADATA_DEPTH:
            problem = f"lists and objects nested more than {MAX_METADATA_DEPTH} deep"
        elif isinstance(value, Mapping):
            for key, item in value.items():
                _validate_key(key, where)
                _validate(item, f"{where}[{json.dumps(key)}]", depth + 1)
        else:
            for i, item in enumerate(value):
                _validate(item, f"{where}[{i}]", depth + 1)
    else:
        problem = f"a value of type {type(value).__name__}"
    if problem:
        raise InvalidArgumentError(f"expected a JSON value, got {problem} at {where}", field=where, received=problem)


def _validate_key(key: object, where: str) -> None:
    if not isinstance(key, str):
        problem = f"a key of type {type(key).__name__}"
    elif not key:
        problem = "an empty key"
    elif not _encodable(key):
        problem = "a key with a lone surrogate"
    elif "\0" in key:
        problem = "a key with NUL"
    elif len(key.encode()) > MAX_KEY_BYTES:
        problem = f"a key of {len(key.encode())} bytes"
    else:
        return
    raise InvalidArgumentError(f"expected keys of 1 to {MAX_KEY_BYTES} bytes of UTF-8, got {problem} in {where}",
                               field=where, received=problem)  # fmt: skip


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
