"""One file of named arrays with checksums; the only file format of ours (``FORMAT.md`` has every byte).

::

    preamble   32 bytes   magic, version, header length, file length, block size
    header     JSON       kind, identity, the arrays' names, dtypes, shapes and offsets; CRC-32C in the preamble
    data       arrays, each aligned to 64 bytes, zero padded
    checksums  u32 per block of 64 KiB of data, then the CRC-32C of that table

The header is checked when a file is opened. A data block is checked when something in it is first read, so
opening a large index is quick and a flipped bit is still never served.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from sparsight.errors import CorruptIndexError
from sparsight.index import storage

__all__ = ["FORMAT_VERSION", "Container", "crc32c", "write_container"]

MAGIC = b"\x93SPARSE\n"
FORMAT_VERSION = 2
ALIGNMENT = 64  # a cache line, and enough for 512-bit loads
BLOCK_BYTES = 1 << 16
_PREAMBLE = struct.Struct("<8sIIQII")  # magic, version, header length, file length, block size, header CRC


def crc32c(data: bytes | memoryview, crc: int = 0) -> int:
    """CRC-32C (Castagnoli, RFC 3720) of ``data``, continuing from ``crc``."""
    if not len(data):
        return crc
    if isinstance(data, memoryview):
        # The library takes buffers that need no release: bytes or numpy arrays, not memoryviews.
        return int(google_crc32c.extend(crc, np.frombuffer(data, np.uint8)))  # type: ignore[arg-type]
    return int(google_crc32c.extend(crc, data))


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def write_container(path: Path, kind: str, identity: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> int:
    """Write and sync a container; returns its size in bytes. ``identity`` is any JSON object.

    The same arguments give the same bytes.
    """
    directory, offset = [], 0
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, array in contiguous.items():
        offset = _aligned(offset)
        directory.append(
            {"name": name, "dtype": array.dtype.newbyteorder("<").str, "shape": array.shape, "offset": offset}
        )
        offset += array.nbytes
    data_bytes = offset
    header = json.dumps(
        {"kind": kind, "identity": dict(identity), "arrays": directory, "data_bytes": data_bytes}
    ).encode()
    header += b" " * (_aligned(_PREAMBLE.size + len(header)) - _PREAMBLE.size - len(header))
    blocks = -(-data_bytes // BLOCK_BYTES)
    length = _PREAMBLE.size + len(header) + data_bytes + 4 * blocks + 4
    preamble = _PREAMBLE.pack(MAGIC, FORMAT_VERSION, len(header), length, BLOCK_BYTES, 0)
    crc = crc32c(header, crc32c(preamble))
    preamble = _PREAMBLE.pack(MAGIC, FORMAT_VERSION, len(header), length, BLOCK_BYTES, crc)
    return storage.write_file(path, _chunks(preamble + header, contiguous))


def _chunks(head: bytes, arrays: Mapping[str, NDArray[Any]]) -> Iterator[bytes | memoryview]:
    """The file piece by piece; the block checksums are taken on the way, so nothing is read twice."""
    yield head
    crcs, crc, filled, position = [], 0, 0, 0
    for array in arrays.values():
        padding = _aligned(position) - position
        for piece in (memoryview(bytes(padding)), array.reshape(-1).view(np.uint8).data):
            position += len(piece)
            while piece:
                part = piece[: BLOCK_BYTES - filled]
                crc, filled, piece = crc32c(part, crc), filled + len(part), piece[len(part) :]
                yield part
                if filled == BLOCK_BYTES:
                    crcs.append(crc)
                    crc = filled = 0
    if filled:
        crcs.append(crc)
    table = np.array(crcs, "<u4").tobytes()
    yield table
    yield struct.pack("<I", crc32c(table))


class _Entry(NamedTuple):
    """Where an array lies; hits are explained by many short reads, so that it is worked out once."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    row_bytes: int

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> _Entry:
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        return cls(entry["offset"], dtype, shape, dtype.itemsize * math.prod(shape[1:]))


class Container:
    """A mapped container. Arrays are read-only views; every read is preceded by the check of its blocks.

    Raises
    ------
    CorruptIndexError
        On opening: wrong magic, version, length, header or identity; on reading: a block's checksum fails.
        Names the file, the block, the byte offset, and the expected and found checksums.
    """

    def __init__(self, path: Path, kind: str, identity: Mapping[str, Any]) -> None:
        self.path = path
        self._view = storage.map_file(path)
        header = self._read_header()
        if header["kind"] != kind or any(header["identity"].get(key) != value for key, value in identity.items()):
            raise CorruptIndexError(
                f"{path} belongs elsewhere: expected {kind} {dict(identity)}, "
                f"found {header['kind']} {header['identity']}",
                path=path,
            )
        self.identity: dict[str, Any] = header["identity"]
        self._directory = {entry["name"]: _Entry.of(entry) for entry in header["arrays"]}
        self._checked = bytearray(len(self._crcs))
        self._arrays: dict[str, NDArray[Any]] = {}
        self._whole: set[str] = set()  # arrays of which every block was checked

    def _corrupt(self, what: str, block: int = -1) -> CorruptIndexError:
        return CorruptIndexError(f"{self.path}: {what}; `sparsight repair` rebuilds it", path=self.path, block=block)

    def _read_header(self) -> dict[str, Any]:
        view = self._view
        if len(view) < _PREAMBLE.size:
            raise self._corrupt(f"expected at least {_PREAMBLE.size} bytes, found {len(view)}")
        magic, version, header_bytes, length, block_bytes, crc = _PREAMBLE.unpack_from(view)
        if magic != MAGIC or version != FORMAT_VERSION or block_bytes != BLOCK_BYTES:
            raise self._corrupt(f"expected magic {MAGIC!r} version {FORMAT_VERSION}, found {magic!r} version {version}")
        if length != len(view) or _PREAMBLE.size + header_bytes > length:
            raise self._corrupt(f"expected {length} bytes, found {len(view)}")
        preamble = _PREAMBLE.pack(magic, version, header_bytes, length, block_bytes, 0)
        found = crc32c(view[_PREAMBLE.size : _PREAMBLE.size + header_bytes], crc32c(preamble))
        if found != crc:
            raise self._corrupt(f"header checksum expected {crc:08x}, found {found:08x}")
        header: dict[str, Any] = json.loads(bytes(view[_PREAMBLE.size : _PREAMBLE.size + header_bytes]))
        self._data_start = _PREAMBLE.size + header_bytes
        self._data_bytes = int(header["data_bytes"])
        blocks = -(-self._data_bytes // BLOCK_BYTES)
        table = self._data_start + self._data_bytes
        if length != table + 4 * blocks + 4:
            raise self._corrupt(f"expected {table + 4 * blocks + 4} bytes after the header's count, found {length}")
        (table_crc,) = struct.unpack_from("<I", view, length - 4)
        found = crc32c(view[table : length - 4])
        if found != table_crc:
            raise self._corrupt(f"checksum table expected {table_crc:08x}, found {found:08x}")
        self._crcs = np.frombuffer(view, "<u4", blocks, table)
        return header

    def _check(self, start: int, stop: int) -> None:
        """Check the blocks that hold data bytes [start, stop), each once in this object's life."""
        first, last = start // BLOCK_BYTES, -(-stop // BLOCK_BYTES)
        for block in range(first, last):
            if self._checked[block]:
                continue
            begin = block * BLOCK_BYTES
            end = min(begin + BLOCK_BYTES, self._data_bytes)
            found = crc32c(self._view[self._data_start + begin : self._data_start + end])
            if found != self._crcs[block]:
                raise self._corrupt(
                    f"block {block} at byte {self._data_start + begin}: "
                    f"checksum expected {self._crcs[block]:08x}, found {found:08x}",
                    block=block,
                )
            self._checked[block] = 1

    @property
    def names(self) -> list[str]:
        """Names of the arrays, in file order."""
        return list(self._directory)

    def array(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """An array, or rows [start, stop) of it along its first axis; read-only, not copied."""
        if start == 0 and stop is None:
            if name not in self._whole:  # looking through its blocks again would take longer than most uses
                self.array(name, 0, self._directory[name].shape[0])
                self._whole.add(name)
            return self._mapped(name)
        offset, _, shape, row_bytes = self._directory[name]
        stop = shape[0] if stop is None else stop
        self._check(offset + start * row_bytes, offset + stop * row_bytes)
        return self._mapped(name)[start:stop]

    def _mapped(self, name: str) -> NDArray[Any]:
        """A whole array, whose blocks may not have been checked."""
        if name not in self._arrays:
            offset, dtype, shape, _ = self._directory[name]
            flat = np.frombuffer(self._view, dtype, math.prod(shape), self._data_start + offset)
            self._arrays[name] = flat.reshape(shape)
        return self._arrays[name]

    def verify(self) -> None:
        """Check every block again, whether or not it was read before."""
        self._checked = bytearray(len(self._crcs))
        self._check(0, self._data_bytes)
