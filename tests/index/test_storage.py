from __future__ import annotations

import ast
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sparsight.index
from sparsight.errors import LockedError, StorageError, StorageFullError
from sparsight.index import storage


def test_no_other_module_touches_files() -> None:
    """All durable I/O of the package goes through one module, or faults could not be injected and traced."""
    forbidden = {
        "open",
        "replace",
        "rename",
        "unlink",
        "write_bytes",
        "write_text",
        "rmtree",
        "fsync",
        "mmap",
        "mkdir",
        "tofile",
    }
    found = []
    for path in Path(sparsight.index.__file__).parent.glob("*.py"):
        if path.name == "storage.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            owner = (
                function.value.id
                if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)
                else ""
            )
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if name in forbidden and owner not in ("dataclasses", "storage", "text", "excerpt") and name != "replace":
                found.append(f"{path.name}:{node.lineno} {owner}.{name}")
            if name == "replace" and owner in ("os", "shutil"):
                found.append(f"{path.name}:{node.lineno} {owner}.{name}")
    assert not found, found


def test_write_file_refuses_to_overwrite(tmp_path: Path) -> None:
    assert storage.write_file(tmp_path / "f", [b"abc", memoryview(b"de")]) == 5
    assert (tmp_path / "f").read_bytes() == b"abcde"
    with pytest.raises(StorageError, match="could not write"):
        storage.write_file(tmp_path / "f", [b"x"])
    assert (tmp_path / "f").read_bytes() == b"abcde"


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:3]))
    storage.write_file(tmp_path / "f", [b"0123456789"])
    assert (tmp_path / "f").read_bytes() == b"0123456789"


@pytest.mark.parametrize(
    "code, kind", [(errno.ENOSPC, StorageFullError), (errno.EDQUOT, StorageFullError), (errno.EIO, StorageError)]
)
def test_refusals_of_the_system_name_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(kind, match=str(tmp_path / "f")):
        storage.write_file(tmp_path / "f", [b"x"])


def test_publish_appears_whole(tmp_path: Path) -> None:
    building = tmp_path / f"{storage.BUILDING_PREFIX}x"
    storage.create_folder(building)
    storage.write_file(building / "f", [b"data"])
    storage.publish_folder(building, tmp_path / "x")
    assert (tmp_path / "x" / "f").read_bytes() == b"data" and not building.exists()


def test_leftovers_are_removed_and_the_rest_kept(tmp_path: Path) -> None:
    for name in ("00000001", "00000002", ".building-00000003"):
        (tmp_path / name).mkdir()
    assert sorted(storage.remove_leftovers(tmp_path, {"00000001"})) == [".building-00000003", "00000002"]
    assert [p.name for p in tmp_path.iterdir()] == ["00000001"]


def test_a_second_writer_is_refused_and_told_who_holds_the_lock(tmp_path: Path) -> None:
    lock = storage.WriterLock(tmp_path)
    code = (
        "import sys; from pathlib import Path; from sparsight.index.storage import WriterLock\n"
        "from sparsight.errors import LockedError\n"
        "try: WriterLock(Path(sys.argv[1]))\n"
        "except LockedError as error: print(error.details['holder'])"
    )
    said = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True).stdout
    assert json.loads(said)["pid"] == os.getpid()
    with pytest.raises(LockedError):
        storage.WriterLock(tmp_path)
    lock.release()
    storage.WriterLock(tmp_path).release()


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    code = "import sys, os; from pathlib import Path; from sparsight.index.storage import WriterLock\n"
    code += "lock = WriterLock(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code, tmp_path]).returncode == -9
    storage.WriterLock(tmp_path).release()
