"""Scalars, vectors and metadata across the wire: values to messages and back.

To a message, what the wire cannot hold is refused (an index below 0, half a surrogate pair, a metadata value that is
no JSON). From a message, what a message can say and a value cannot is refused (a vector of no kind, an enum's number
that nobody defined). The rest of a value's contract is checked in one place for both doors, the engine. Either way the
error's ``field`` is the path of the element in the API: ``documents[3].vectors["splade"].values[7]``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf import struct_pb2
from numpy.typing import NDArray

from sparsight.errors import InvalidArgumentError, InvalidVectorError
from sparsight.types import SparseVector, Vector
from sparsight.v1 import vectors_pb2

__all__ = [
    "MAX_INDEX",
    "dense_from_proto",
    "dense_to_proto",
    "enum_from_proto",
    "enum_to_proto",
    "integer",
    "metadata_from_proto",
    "metadata_to_proto",
    "number",
    "sparse_from_proto",
    "sparse_to_proto",
    "text",
    "vectors_from_proto",
    "vectors_to_proto",
]

MAX_INDEX = 2**32 - 2
MAX_WHOLE = 2**53  # largest whole number up to which float64, and so JSON, holds every one
MAX_DEPTH = 20  # of nested metadata; protobuf parsers stop at 100 messages, of which one level takes three


# --- scalars ----------------------------------------------------------------------------------------------


def text(value: Any, path: str) -> str:
    """``value``, if it is a string that UTF-8 can hold."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"expected a string, got {type(value).__name__}", field=path)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(
            f"expected valid Unicode, got a lone surrogate at {error.start}", field=path, position=error.start
        ) from error
    return value


def integer(value: Any, path: str, bits: int = 64) -> int:
    """``value`` as a signed integer of that many bits."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        whole = value.__index__()
    except (AttributeError, TypeError):
        raise InvalidArgumentError(f"expected an integer, got {type(value).__name__}", field=path) from None
    if not -(2 ** (bits - 1)) <= whole < 2 ** (bits - 1):
        raise InvalidArgumentError(f"expected an integer of {bits} bits, got {whole:.6g}", field=path)
    return int(whole)


def number(value: Any, path: str) -> float:
    """``value`` as a float; NaN and infinities pass and are the server's to refuse."""
    try:
        if isinstance(value, (str, bytes, bool, np.bool_)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidArgumentError(f"expected a number, got {type(value).__name__}", field=path) from None


def enum_to_proto(
    names: Mapping[str, int], name: Any, path: str, error: type[InvalidArgumentError] = InvalidArgumentError
) -> Any:
    """Number of an enum's value by its name in the API."""
    if not isinstance(name, str) or name not in names:
        raise error(f"expected one of {', '.join(names)}, got {name!r:.80}", field=path)
    return names[name]


def enum_from_proto(
    names: Mapping[str, int],
    received: int,
    default: str,
    path: str,
    error: type[InvalidArgumentError] = InvalidArgumentError,
) -> Any:
    """Name in the API of an enum's number; 0 is the default, numbers that nobody defined are refused."""
    if received == 0:
        return default
    for name, known in names.items():
        if known == received:
            return name
    raise error(f"expected one of {', '.join(names)}, got number {received}", field=path)


# --- vectors ----------------------------------------------------------------------------------------------


def sparse_to_proto(vector: SparseVector | Mapping[int, float], path: str = "sparse") -> vectors_pb2.SparseVector:
    """Message of a sparse vector; what 32 bits cannot hold is refused here, the rest by the engine."""
    if isinstance(vector, Mapping):
        given, weights = list(vector.keys()), list(vector.values())
    else:
        given, weights = vector.indices, vector.values  # type: ignore[assignment]
    indices = _array(given, f"{path}.indices")
    if indices.dtype.kind not in "iu":
        if indices.size and not (indices.dtype.kind == "f" and np.array_equal(indices, np.floor(indices))):
            raise InvalidVectorError(
                "indices are whole numbers", field=f"{path}.indices", reason="DIMENSION_OUT_OF_RANGE"
            )
        indices = np.nan_to_num(indices, posinf=-1.0).clip(-1, 2.0**62).astype(np.int64)
    wrong = np.flatnonzero((indices < 0) | (indices > MAX_INDEX))
    if len(wrong):
        raise InvalidVectorError(
            f"index {indices[wrong[0]]} is outside 0..{MAX_INDEX}",
            field=f"{path}.indices[{wrong[0]}]",
            reason="DIMENSION_OUT_OF_RANGE",
            received=indices[wrong[0]],
        )
    # Lists, because protobuf copies a list several times faster than an array.
    return vectors_pb2.SparseVector(indices=indices.tolist(), values=_floats(weights, f"{path}.values").tolist())


def sparse_from_proto(message: vectors_pb2.SparseVector) -> SparseVector:
    """Vector of a message, as it came: lengths, repeats, signs and finiteness are the engine's to check."""
    return SparseVector(np.array(message.indices, np.uint32), np.array(message.values, np.float32))


def dense_to_proto(vector: Any, path: str = "dense") -> vectors_pb2.DenseVector:
    """Message of a dense vector."""
    return vectors_pb2.DenseVector(values=_floats(vector, path).tolist())


def dense_from_proto(message: vectors_pb2.DenseVector) -> NDArray[np.float32]:
    """Vector of a message, as it came: length and finiteness are the engine's to check."""
    return np.array(message.values, np.float32)


def vectors_to_proto(vectors: Mapping[str, Vector], path: str) -> dict[str, vectors_pb2.Vector]:
    """Messages of vectors by field name; a mapping of index to weight is a sparse vector too."""
    if not isinstance(vectors, Mapping):
        raise InvalidArgumentError(f"expected vectors by field, got {type(vectors).__name__}", field=path)
    made = {}
    for name, vector in vectors.items():
        place = f'{path}["{text(name, path)}"]'
        if isinstance(vector, (SparseVector, Mapping)):
            made[name] = vectors_pb2.Vector(sparse=sparse_to_proto(vector, place))
        else:
            made[name] = vectors_pb2.Vector(dense=dense_to_proto(vector, place))
    return made


def vectors_from_proto(messages: Mapping[str, vectors_pb2.Vector], path: str) -> dict[str, Vector]:
    """Vectors by field name."""
    made: dict[str, Vector] = {}
    for name, message in messages.items():
        match message.WhichOneof("kind"):
            case "sparse":
                made[name] = sparse_from_proto(message.sparse)
            case "dense":
                made[name] = dense_from_proto(message.dense)
            case _:
                raise InvalidVectorError(
                    "expected a sparse or a dense vector, got neither",
                    field=f'{path}["{name:.80}"]',
                    reason="WRONG_KIND",
                )
    return made


def _array(values: Any, path: str) -> NDArray[Any]:
    try:
        given = np.asarray(values)
    except (TypeError, ValueError, OverflowError):
        raise InvalidVectorError(
            f"expected numbers, got {type(values).__name__}", field=path, reason="WRONG_KIND"
        ) from None
    if given.ndim != 1:
        raise InvalidVectorError(
            f"expected numbers of one axis, got shape {given.shape}", field=path, reason="WRONG_KIND", shape=given.shape
        )
    return given


def _floats(values: Any, path: str) -> NDArray[np.float32]:
    given = _array(values, path)
    if given.size and given.dtype.kind not in "fiu":
        raise InvalidVectorError(f"expected numbers, got {given.dtype}", field=path, reason="WRONG_KIND")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and the engine names the element
        return given.astype(np.float32)


# --- metadata ---------------------------------------------------------------------------------------------


def metadata_to_proto(metadata: Mapping[str, Any], path: str = "metadata") -> struct_pb2.Struct:
    """Struct of JSON values.

    Raises
    ------
    InvalidArgumentError
        For a key that is no string, a whole number beyond 2**53, a number that is not finite, another type than JSON
        has, or more than 20 levels.
    """
    if not isinstance(metadata, Mapping):
        raise InvalidArgumentError(f"expected a mapping, got {type(metadata).__name__}", field=path)
    made = struct_pb2.Struct()
    _fill_struct(made, metadata, path, 0)
    return made


def _fill_struct(into: struct_pb2.Struct, mapping: Mapping[str, Any], path: str, depth: int) -> None:
    _check_depth(depth, path)
    for key, value in mapping.items():
        place = f'{path}["{text(key, path)}"]'
        _fill_value(into.fields[key], value, place, depth + 1)


def _fill_value(into: struct_pb2.Value, value: Any, path: str, depth: int) -> None:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        into.null_value = struct_pb2.NULL_VALUE
    elif isinstance(value, bool):
        into.bool_value = value
    elif isinstance(value, int):
        if abs(value) > MAX_WHOLE:
            raise InvalidArgumentError(f"whole numbers are at most 2**53 in size, got {value:.6g}", field=path)
        into.number_value = value
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidArgumentError(f"expected a finite number, got {value}", field=path)
        into.number_value = value
    elif isinstance(value, str):
        into.string_value = text(value, path)
    elif isinstance(value, Mapping):
        into.struct_value.SetInParent()
        _fill_struct(into.struct_value, value, path, depth)
    elif isinstance(value, (list, tuple)):
        _check_depth(depth, path)
        into.list_value.SetInParent()
        for position, item in enumerate(value):
            _fill_value(into.list_value.values.add(), item, f"{path}[{position}]", depth + 1)
    else:
        raise InvalidArgumentError(
            f"expected null, a boolean, a number, a string, a list or an object, got {type(value).__name__}", field=path
        )


def metadata_from_proto(message: struct_pb2.Struct, path: str = "metadata") -> dict[str, Any]:
    """JSON values of a Struct, which knows only float64: whole numbers up to 2**53 come back as int."""
    return {key: _value(value, f'{path}["{key}"]', 1) for key, value in message.fields.items()}


def _value(value: struct_pb2.Value, path: str, depth: int) -> Any:
    _check_depth(depth, path)
    match value.WhichOneof("kind"):
        case "null_value":
            return None
        case "bool_value":
            return value.bool_value
        case "string_value":
            return value.string_value
        case "number_value":
            received = value.number_value
            if not math.isfinite(received):
                raise InvalidArgumentError(f"expected a finite number, got {received}", field=path)
            return int(received) if received.is_integer() and abs(received) <= MAX_WHOLE else received
        case "struct_value":
            fields = value.struct_value.fields
            return {key: _value(item, f'{path}["{key}"]', depth + 1) for key, item in fields.items()}
        case "list_value":
            items = value.list_value.values
            return [_value(item, f"{path}[{position}]", depth + 1) for position, item in enumerate(items)]
        case _:
            raise InvalidArgumentError("expected a value, got one without a kind", field=path)


def _check_depth(depth: int, path: str) -> None:
    if depth > MAX_DEPTH:
        raise InvalidArgumentError(f"metadata is nested at most {MAX_DEPTH} levels deep", field=path)
