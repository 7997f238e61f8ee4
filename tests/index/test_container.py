from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsight.errors import CorruptIndexError
from sparsight.index.container import BLOCK_BYTES, Container, crc32c, write_container

IDENTITY = {"uid": "u", "segment": "00000001"}


def _write(path: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    arrays = {
        "small": np.arange(5, dtype=np.uint32),
        "empty": np.empty(0, np.float32),
        "matrix": rng.standard_normal((700, 33)).astype(np.float32),  # more than one block
        "bytes": rng.integers(0, 256, BLOCK_BYTES + 1).astype(np.uint8),
    }
    write_container(path, "kind", IDENTITY, arrays)
    return arrays


def test_crc_is_castagnoli() -> None:
    # RFC 3720, B.4: 32 bytes of zeros, and the bytes 0..31
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(memoryview(bytes(range(32)))) == 0x46DD794E
    assert crc32c(b"") == 0


def test_round_trip_and_alignment(tmp_path: Path) -> None:
    arrays = _write(tmp_path / "f")
    opened = Container(tmp_path / "f", "kind", IDENTITY)
    assert opened.names == list(arrays)
    for name, array in arrays.items():
        read = opened.array(name)
        assert read.dtype == array.dtype and np.array_equal(read, array)
        assert not read.flags.writeable
        assert read.size == 0 or read.ctypes.data % 64 == 0
    assert np.array_equal(opened.array("matrix", 100, 103), arrays["matrix"][100:103])
    opened.verify()


def test_same_input_gives_same_bytes(tmp_path: Path) -> None:
    _write(tmp_path / "a")
    _write(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_wrong_kind_or_identity_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "f")
    for kind, identity in (("other", IDENTITY), ("kind", {"uid": "another"}), ("kind", {"segment": "00000002"})):
        with pytest.raises(CorruptIndexError, match="belongs elsewhere"):
            Container(tmp_path / "f", kind, identity)


def _read_all(path: Path) -> None:
    opened = Container(path, "kind", IDENTITY)
    for name in opened.names:
        opened.array(name)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_bit_flip_is_detected(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "f"
    if not path.exists():
        _write(path)
    good = path.read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    bit = data.draw(st.integers(0, 7))
    flipped = bytearray(good)
    flipped[at] ^= 1 << bit
    (tmp_path / "bad").write_bytes(flipped)
    # A flip in the padding between arrays lies in no array, so `verify` is what must see it.
    with pytest.raises(CorruptIndexError):
        _read_all(tmp_path / "bad")
        Container(tmp_path / "bad", "kind", IDENTITY).verify()


def test_every_header_bit_flip_is_detected_on_opening(tmp_path: Path) -> None:
    _write(tmp_path / "f")
    good = (tmp_path / "f").read_bytes()
    header_end = 32 + int.from_bytes(good[12:16], "little")
    for at in range(header_end):
        flipped = bytearray(good)
        flipped[at] ^= 0x10
        (tmp_path / "bad").write_bytes(flipped)
        with pytest.raises(CorruptIndexError):
            Container(tmp_path / "bad", "kind", IDENTITY)


@pytest.mark.parametrize("change", [-1, -64, -100_000, 1, 64])
def test_wrong_length_is_detected_on_opening(tmp_path: Path, change: int) -> None:
    _write(tmp_path / "f")
    good = (tmp_path / "f").read_bytes()
    (tmp_path / "f").write_bytes(good[:change] if change < 0 else good + bytes(change))
    with pytest.raises(CorruptIndexError, match="bytes"):
        Container(tmp_path / "f", "kind", IDENTITY)


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptIndexError, match="missing"):
        Container(tmp_path / "none", "kind", IDENTITY)
    (tmp_path / "none").write_bytes(b"")
    with pytest.raises(CorruptIndexError, match="empty"):
        Container(tmp_path / "none", "kind", IDENTITY)


def test_a_damaged_block_is_named_and_the_others_are_still_read(tmp_path: Path) -> None:
    arrays = _write(tmp_path / "f")
    good = bytearray((tmp_path / "f").read_bytes())
    good[-4 - 4 * 3 - 10] ^= 1  # near the end of the data: the last block
    (tmp_path / "f").write_bytes(good)
    opened = Container(tmp_path / "f", "kind", IDENTITY)
    assert np.array_equal(opened.array("small"), arrays["small"])
    with pytest.raises(CorruptIndexError, match=r"block \d+ at byte \d+: checksum expected"):
        opened.array("bytes")
