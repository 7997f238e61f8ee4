"""Lines of files, plain, gzip or zstd, whatever their size; a damaged or cut file is an error, not a short file."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsight.errors import InvalidArgumentError, StorageError

__all__ = ["bad_line", "chunks", "count_lines", "read_json_lines", "read_lines", "refuse_constant", "split_lines"]

_CHUNK_BYTES = 1 << 20
_ZSTD_CHUNK_BYTES = 1 << 15  # compressed: at zstd's best ratio, 32,000 to 1, this still unpacks to 1 GiB at most
_MAX_LINE_BYTES = 64 << 20
# What the decompressor may have to keep in memory: 128 MiB is the window of `zstd --long=27`.
_MAX_ZSTD_WINDOW_BYTES = 1 << 27


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of every line that is not blank; ``.gz`` and ``.zst`` files are decompressed.

    Raises
    ------
    InvalidArgumentError
        If the file does not exist, is damaged or cut short, is not UTF-8, or has a line over 64 MiB.
    StorageError
        If the operating system refuses to read it.
    """
    path = Path(path)
    number = 0
    for number, raw in enumerate(split_lines(path), start=1):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise bad_line(path, number, f"not UTF-8 (byte {error.start + 1} of the line)") from None
        if text.strip():
            yield number, text


def count_lines(path: str | Path) -> int:
    """Number of lines that are not blank."""
    return sum(1 for raw in split_lines(Path(path)) if raw.strip())


def read_json_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and object of every line of a JSON lines file.

    Raises
    ------
    InvalidArgumentError
        As in `read_lines`, or if a line is not a JSON object of finite numbers.
    """
    path = Path(path)
    for number, text in read_lines(path):
        try:
            value = json.loads(text, parse_constant=refuse_constant)
        except (ValueError, RecursionError) as error:
            raise bad_line(path, number, f"not JSON: {error}") from None
        if not isinstance(value, dict):
            raise bad_line(path, number, f"expected a JSON object, got {type(value).__name__}")
        yield number, value


def refuse_constant(name: str) -> float:
    """For ``json.loads(parse_constant=...)``: NaN and Infinity are not JSON."""
    raise ValueError(f"{name} is not a finite number")


def split_lines(path: Path) -> Iterator[bytes]:
    """Every line of a file, blank ones too, without its line feed. Raises as `read_lines`, but for the encoding."""
    rest: list[bytes] = []
    held = 0
    number = 1
    for chunk in chunks(path):
        *whole, last = chunk.split(b"\n")
        if whole:
            whole[0] = b"".join((*rest, whole[0]))
            yield from whole
            number += len(whole)
            rest, held = [], 0
        rest.append(last)
        held += len(last)
        if held > _MAX_LINE_BYTES:
            raise bad_line(path, number, f"longer than {_MAX_LINE_BYTES} bytes")
    if held:
        yield b"".join(rest)


def chunks(path: Path) -> Iterator[bytes]:
    """The decompressed bytes of a file in parts of no particular size. Raises as `split_lines`."""
    import zstandard

    try:
        if path.suffix == ".zst":
            yield from _zstd_chunks(path)
            return
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as source:
            while chunk := source.read(_CHUNK_BYTES):
                yield chunk
    except FileNotFoundError:
        raise InvalidArgumentError(f"no such file: {path}", file=path) from None
    except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise InvalidArgumentError(f"{path}: damaged or cut short: {error}", file=path) from None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}", file=path) from None


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    import zstandard

    # Not stream_reader: it takes the end of a cut file for the end of the data. An object per frame knows (`eof`).
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW_BYTES)
    frame: Any = None
    with path.open("rb") as source:
        while data := source.read(_ZSTD_CHUNK_BYTES):
            while data:
                frame = frame or decompressor.decompressobj()
                chunk = frame.decompress(data)
                data = b""
                if frame.eof:
                    data, frame = frame.unused_data, None
                if chunk:
                    yield chunk
    if frame is not None:
        raise EOFError("the file ends inside a frame")


def bad_line(path: str | Path, number: int, problem: str) -> InvalidArgumentError:
    """The error for a line that cannot be used."""
    return InvalidArgumentError(f"{path}, line {number}: {problem}", file=path, line=number)
