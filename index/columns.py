"""Metadata of a segment by column, for filters that touch only the values they ask for.

Every path of every document's metadata (``a.b`` for nested objects, lists opened) has up to three sorted
value lists, strings, numbers and booleans, each with the rows that hold the value. An equality or an
ordering is then a binary search and a slice. All paths share the same few arrays, so that a segment with
thousands of paths is still a dozen arrays in a file, and memory-mapped arrays are used as they lie.

Arrays (P paths in byte order, S distinct strings over all paths):

=================  ========  ========  ==================================================================
name               dtype     shape     holds
=================  ========  ========  ==================================================================
``header``         uint8               JSON: ``version``, ``rows``
``paths``          int64     (P+1, 6)  where path p begins in ``path_blob``, the strings, the numbers,
                                       ``false_rows``, ``true_rows``, ``present_rows``; row P: their ends
``path_blob``      uint8               UTF-8 of the paths, keys joined by NUL (no key holds one)
``string_offsets`` int64     (S+1,)    where string s begins in ``string_blob``; sorted within a path
``string_blob``    uint8               UTF-8 of the strings: its byte order is their code point order
``string_indptr``  int64     (S+1,)    where the rows of string s begin in ``string_rows``
``string_rows``    int32               ascending within a string
``number_values``  float64   (M,)      ascending within a path, then by row
``number_rows``    int32     (M,)      the row of each number
``false_rows``     int32               ascending within a path
``true_rows``      int32               ascending within a path
``present_rows``   int32               rows with a value other than null at the path (objects count)
=================  ========  ========  ==================================================================
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from sparsight.errors import CorruptIndexError
from sparsight.index.filters import And, Comparison, Constant, Exists, In, Node, Not, Or, Path

__all__ = ["Columns", "build"]

VERSION: Final = 1
_BLOB, _STRINGS, _NUMBERS, _FALSE, _TRUE, _PRESENT = range(6)
_DTYPES: Final = {
    "header": np.uint8, "paths": np.int64, "path_blob": np.uint8, "string_offsets": np.int64, "string_blob": np.uint8,
    "string_indptr": np.int64, "string_rows": np.int32, "number_values": np.float64, "number_rows": np.int32,
    "false_rows": np.int32, "true_rows": np.int32, "present_rows": np.int32,
}  # fmt: skip


class Columns:
    """Metadata of ``rows`` documents by column. Made by ``build`` or ``from_arrays``; safe to share by threads."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        # Plain views: a slice of np.memmap costs more than what we read from it.
        self._arrays = {name: np.asarray(arrays[name]).view(np.ndarray) for name in _DTYPES}
        header = json.loads(self._arrays["header"].tobytes())
        self.rows: int = header["rows"]
        self._path_blob = self._arrays["path_blob"].data
        self._string_blob = self._arrays["string_blob"].data
        self._paths = self._arrays["paths"]
        self._string_offsets = self._arrays["string_offsets"]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of the module's table, to be stored under these names; not copied."""
        return dict(self._arrays)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Columns:
        """Columns over stored arrays, read-only and memory-mapped ones included; nothing is copied or decoded.

        Raises
        ------
        CorruptIndexError
            If an array is missing, has the wrong type, or the arrays' sizes contradict each other. O(P): the
            values are not read; the caller's checksums vouch for them.
        """
        for name, dtype in _DTYPES.items():
            if name not in arrays:
                raise CorruptIndexError(f"expected a metadata array {name}, got none", array=name)
            if arrays[name].dtype != dtype or arrays[name].ndim != (2 if name == "paths" else 1):
                raise CorruptIndexError(f"metadata array {name} has dtype {arrays[name].dtype} and "
                                        f"{arrays[name].ndim} dimensions", array=name)  # fmt: skip
        _check_header(arrays["header"])
        _check_sizes(arrays)
        return cls(arrays)

    def paths(self) -> Iterator[Path]:
        """Every path that some document has a value at, in byte order."""
        for p in range(len(self._paths) - 1):
            yield tuple(self._path(p).decode().split("\0"))

    def evaluate(self, node: Node) -> BitMap:
        """Rows that satisfy a filter: ``{i : matches(node, metadata[i])}``.

        Cost per clause: O(log P + log S) comparisons and the rows found; a negation adds a bitmap's flip.
        """
        match node:
            case And(children):
                found = self.evaluate(children[0])
                for child in children[1:]:
                    if not found:
                        break
                    found &= self.evaluate(child)
                return found
            case Or(children):
                return BitMap.union(*(self.evaluate(child) for child in children))
            case Not(child):
                return self._complement(self.evaluate(child))
            case Exists(path):
                p = self._find(path)
                return _bitmap(self._slice("present_rows", p, _PRESENT)) if p >= 0 else BitMap()
            case In(path, constants, negated):
                found = self._union_equal(path, constants)
                return self._complement(found) if negated else found
            case Comparison(path, symbol, constant):
                p = self._find(path)
                found = BitMap() if p < 0 else self._compare(p, "=" if symbol == "!=" else symbol, constant)
                return self._complement(found) if symbol == "!=" else found

    # --- one clause

    def _union_equal(self, path: Path, constants: Iterable[Constant]) -> BitMap:
        found, p = BitMap(), self._find(path)
        if p >= 0:
            for constant in constants:
                found |= self._compare(p, "=", constant)
        return found

    def _compare(self, p: int, symbol: str, constant: Constant) -> BitMap:
        """Rows with a value at path p that satisfies the comparison (one of = < <= > >=)."""
        value = constant.value
        if isinstance(value, bool):
            return _bitmap(self._slice("true_rows", p, _TRUE) if value else self._slice("false_rows", p, _FALSE))
        if isinstance(value, str):
            first, last = self._string_range(p, symbol, value.encode())
            indptr = self._arrays["string_indptr"]
            return _bitmap(self._arrays["string_rows"][indptr[first] : indptr[last]])
        numbers = self._slice("number_values", p, _NUMBERS)
        first, last = 0, len(numbers)
        if symbol != "<" and symbol != "<=":
            first = int(np.searchsorted(numbers, value, "right" if symbol == ">" else "left"))
        if symbol != ">" and symbol != ">=":
            last = int(np.searchsorted(numbers, value, "left" if symbol == "<" else "right"))
        return _bitmap(self._slice("number_rows", p, _NUMBERS)[first:last])

    def _string_range(self, p: int, symbol: str, value: bytes) -> tuple[int, int]:
        begin, end = int(self._paths[p, _STRINGS]), int(self._paths[p + 1, _STRINGS])
        strings = range(begin, end)
        first, last = begin, end
        if symbol in ("=", ">", ">="):
            side = bisect_right if symbol == ">" else bisect_left
            first = begin + side(strings, value, key=self._string)
        if symbol == "=":  # distinct values: the next one is larger
            last = first + (first < end and self._string(first) == value)
        elif symbol in ("<", "<="):
            side = bisect_left if symbol == "<" else bisect_right
            last = begin + side(strings, value, key=self._string)
        return first, last

    # --- access

    def _string(self, s: int) -> bytes:
        return bytes(self._string_blob[self._string_offsets[s] : self._string_offsets[s + 1]])

    def _path(self, p: int) -> bytes:
        return bytes(self._path_blob[self._paths[p, _BLOB] : self._paths[p + 1, _BLOB]])

    def _find(self, path: Path) -> int:
        """Number of the path, or -1."""
        key, count = "\0".join(path).encode(), len(self._paths) - 1
        p = bisect_left(range(count), key, key=self._path)
        return p if p < count and self._path(p) == key else -1

    def _slice(self, name: str, p: int, column: int) -> NDArray[Any]:
        part: NDArray[Any] = self._arrays[name][self._paths[p, column] : self._paths[p + 1, column]]
        return part

    def _complement(self, rows: BitMap) -> BitMap:
        return rows.flip(0, self.rows)


def _bitmap(rows: NDArray[np.int32]) -> BitMap:
    # From array.array pyroaring copies a buffer; from numpy it would go element by element (8 times slower).
    buffer = array("I")
    buffer.frombytes(np.ascontiguousarray(rows).data.cast("B"))
    return BitMap(buffer)


def _check_header(header: NDArray[np.uint8]) -> None:
    try:
        fields = json.loads(header.tobytes())
        version, rows = fields["version"], fields["rows"]
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptIndexError("the metadata columns' header is not as written", array="header") from error
    if version != VERSION or not isinstance(rows, int) or rows < 0:
        raise CorruptIndexError(f"expected metadata columns of version {VERSION}, got version {version}, {rows} rows",
                                array="header", version=version)  # fmt: skip


def _check_sizes(arrays: Mapping[str, NDArray[Any]]) -> None:
    paths, offsets, indptr = arrays["paths"], arrays["string_offsets"], arrays["string_indptr"]
    ok = paths.ndim == 2 and paths.shape[0] >= 1 and paths.shape[1] == 6
    ok = ok and not paths[0].any() and bool((np.diff(paths, axis=0) >= 0).all())
    ok = ok and len(offsets) >= 1 and len(offsets) == len(indptr)
    if ok:
        ends = [len(arrays["path_blob"]), len(offsets) - 1, len(arrays["number_values"]), len(arrays["false_rows"]),
                len(arrays["true_rows"]), len(arrays["present_rows"])]  # fmt: skip
        ok = paths[-1].tolist() == ends and len(arrays["number_rows"]) == len(arrays["number_values"])
        ok = ok and offsets[-1] == len(arrays["string_blob"]) and indptr[-1] == len(arrays["string_rows"])
    if not ok:
        raise CorruptIndexError("the sizes of the metadata columns' arrays contradict each other", array="paths")


# --- building ---------------------------------------------------------------------------------------------


class _Path:
    """Values of one path while the columns are built; rows arrive in ascending order."""

    __slots__ = ("booleans", "numbers", "present", "strings")

    def __init__(self) -> None:
        self.strings: dict[str, array[int]] = {}
        self.numbers: dict[float, array[int]] = {}
        self.booleans = (array("i"), array("i"))
        self.present = array("i")

    def add(self, value: Any, row: int) -> None:
        _append(self.present, row)
        if isinstance(value, bool):
            _append(self.booleans[value], row)
        elif isinstance(value, str):
            _append(self.strings.setdefault(value, array("i")), row)
        elif isinstance(value, int | float):
            _append(self.numbers.setdefault(float(value), array("i")), row)


def _append(rows: array[int], row: int) -> None:
    if not rows or rows[-1] != row:  # a list may repeat a value
        rows.append(row)


def build(metadatas: Sequence[Mapping[str, Any]]) -> Columns:
    """Columns of the documents' metadata, row i from ``metadatas[i]``.

    The metadata are valid (``filters.validate_metadata``). O(values) memory and O(values log values) time.
    """
    columns: dict[str, _Path] = {}
    for row, metadata in enumerate(metadatas):
        for key, value in metadata.items():
            _visit(columns, key, value, row)
    return Columns(_pack(sorted((path.encode(), column) for path, column in columns.items()), len(metadatas)))


def _visit(columns: dict[str, _Path], path: str, value: Any, row: int) -> None:
    if value is None:
        return
    if isinstance(value, list | tuple):
        for item in value:
            _visit(columns, path, item, row)
        return
    column = columns.get(path)
    if column is None:
        column = columns[path] = _Path()
    column.add(value, row)
    if isinstance(value, Mapping):
        for key, item in value.items():
            _visit(columns, f"{path}\0{key}", item, row)


def _pack(columns: Sequence[tuple[bytes, _Path]], rows: int) -> dict[str, NDArray[Any]]:
    path_blob, string_blob = bytearray(), bytearray()
    string_offsets, string_indptr = array("q", [0]), array("q", [0])
    string_rows, number_rows, false_rows, true_rows, present_rows = (array("i") for _ in range(5))
    number_values = array("d")
    table = [(0, 0, 0, 0, 0, 0)]
    for path, column in columns:
        path_blob += path
        for string in sorted(column.strings):
            string_blob += string.encode()
            string_offsets.append(len(string_blob))
            string_rows += column.strings[string]
            string_indptr.append(len(string_rows))
        for number in sorted(column.numbers):
            number_rows += column.numbers[number]
            number_values.extend([number] * len(column.numbers[number]))
        false_rows += column.booleans[False]
        true_rows += column.booleans[True]
        present_rows += column.present
        table.append((len(path_blob), len(string_offsets) - 1, len(number_values), len(false_rows), len(true_rows),
                      len(present_rows)))  # fmt: skip
    parts: dict[str, Any] = {
        "header": json.dumps({"version": VERSION, "rows": rows}).encode(), "path_blob": path_blob,
        "string_offsets": string_offsets, "string_blob": string_blob, "string_indptr": string_indptr,
        "string_rows": string_rows, "number_values": number_values, "number_rows": number_rows,
        "false_rows": false_rows, "true_rows": true_rows, "present_rows": present_rows,
    }  # fmt: skip
    arrays: dict[str, NDArray[Any]] = {name: np.frombuffer(part, _DTYPES[name]) for name, part in parts.items()}
    return arrays | {"paths": np.array(table, np.int64)}
