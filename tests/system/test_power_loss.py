"""Power losses, simulated on the record of a real process; and a test for each fault that doing so has found.

``SPARSIGHT_POWER_LOSS_SEED`` gives another seed; ``benches/power_loss.py`` runs thousands of losses.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from preloaded import compile_library, environment
from scripted import FIELDS
from simulated_disk import LUCKS, Disk, Luck, Operation, Unmodelled, read_folder, read_record
from simulated_losses import simulate

from sparsight.index import storage
from sparsight.retrieval.engine import Database

SEED = int(os.environ.get("SPARSIGHT_POWER_LOSS_SEED", "20240301"))


def check(report: dict[str, Any]) -> dict[str, Any]:
    failures = report.pop("failures")
    print(json.dumps(report))
    assert not report["violations"], json.dumps(failures[:3], indent=1)
    return report


@pytest.mark.sample
def test_some_losses_of_power(tmp_path: Path) -> None:
    report = check(simulate(seed=SEED, states=96, every=97, kill_every=20))
    assert report["states"] >= 180
    assert report["files compared with the record"] > 50


@pytest.mark.slow
def test_losses_of_power(tmp_path: Path) -> None:
    report = check(simulate(seed=SEED, states=320, every=51, kill_every=10))
    assert report["operations"] > 1000
    for history in ("script", "after a kill", "after a loss"):
        assert report[f"states {history}"] >= 60, history
    assert report["states with writes in doubt"] > 0.3 * report["states"]


NO_CATALOGUE_SYNC = """
from sparsight.index.catalog import Catalog
original = Catalog.__init__
def without_sync(self, folder, **options):
    original(self, folder, **options)
    if not folder.name.startswith("."):  # else there is never a whole database, and all losses look the same
        self.connection.execute("PRAGMA synchronous = OFF")
Catalog.__init__ = without_sync
"""

NO_FILE_SYNC = """
import os
os.fsync = lambda descriptor: None
"""

@pytest.mark.slow
@pytest.mark.parametrize(("broken", "kind"), [
    pytest.param({"obeys": []}, "lost", id="a disk that syncs nothing"),
    pytest.param({"obeys": ["folders"]}, "CorruptIndexError", id="a disk that syncs no files"),
    pytest.param({"obeys": ["files"]}, "lost", id="a disk that syncs no folders"),
    pytest.param({"prelude": NO_CATALOGUE_SYNC}, "lost", id="a catalogue that does not sync"),
    pytest.param({"prelude": NO_FILE_SYNC}, "CorruptIndexError", id="segments that are not synced"),
])
def test_a_missing_sync_is_noticed(broken: dict[str, Any], kind: str) -> None:
    report = simulate(seed=SEED, states=24, every=300, **broken)
    kinds = Counter(failure["fault"].split(":")[0] for failure in report["failures"])
    print(report["violations"], "of", report["states"], dict(kinds))
    assert kinds[kind] >= 5


# --- the record --------------------------------------------------------------------------------------------

_CALLS = """
import ctypes, os, sys
recorder, root = ctypes.CDLL(os.environ["LD_PRELOAD"]), sys.argv[1]
assert recorder.recorder_begin(root.encode(), sys.argv[2].encode()) >= 0
os.chdir(root)
os.makedirs("a/b")
file = os.open("a/one", os.O_RDWR | os.O_CREAT)
os.write(file, b"first")
os.writev(file, [b" second", b"", b" third"])
os.pwrite(file, b"x" * 5000, 3000)
os.fsync(file)
os.ftruncate(file, 4000)
os.posix_fallocate(file, 3000, 3000)
folder = os.open("a", os.O_RDONLY)
inside = os.open("b/two", os.O_RDWR | os.O_CREAT | os.O_APPEND, dir_fd=folder)
os.write(inside, b"1")
os.write(inside, b"2")
os.rename("b/two", "b/three", src_dir_fd=folder, dst_dir_fd=folder)
os.link("a/one", "a/linked")
os.unlink("a/one")
os.mkdir("c", dir_fd=folder)
os.rmdir("c", dir_fd=folder)
open("a/b/emptied", "w").write("gone")
open("a/b/emptied", "w").write("new")
os.fsync(folder)
os.close(os.open("a/outside", os.O_RDONLY | os.O_CREAT))
recorder.recorder_end()
os.write(file, b"after the end")
exec(sys.argv[3])
"""


def record(tmp_path: Path, more: str = "") -> tuple[Path, list[Operation]]:
    """Run the calls above in a process with the recorder."""
    (root := tmp_path / "root").mkdir()
    library = compile_library("recorder", tmp_path)
    command = [sys.executable, "-c", _CALLS, str(root), str(tmp_path / "record"), more]
    subprocess.run(command, env=environment(library), check=True)
    return root, read_record(tmp_path / "record")


def test_a_record_holds_everything_in_order(tmp_path: Path) -> None:
    root, operations = record(tmp_path)
    disk = Disk()
    for operation in operations:
        disk.play(operation)
    (root / "a" / "linked").write_bytes((root / "a" / "linked").read_bytes().replace(b"after the end", bytes(13)))
    found = read_folder(root)
    assert found["a/linked"] is not None and found["a/linked"][:18] == b"first second third"
    assert found["a/b/three"] == b"12" and found["a/b/emptied"] == b"new"
    assert disk.live() == found
    assert [operation.path for operation in operations if operation.name == "sync"] == ["a/one", "a"]


@pytest.mark.parametrize("call", ["os.symlink('a', 'b')", "os.truncate('a/linked', 3)",
                                  "os.copy_file_range(inside, file, 1, 0)",
                                  "import mmap; mmap.mmap(inside, 2)[0]"])
def test_what_is_not_recorded_is_refused(tmp_path: Path, call: str) -> None:
    begin = "recorder.recorder_begin(root.encode(), sys.argv[2].encode())\n"
    _, operations = record(tmp_path, begin + call)
    disk = Disk()
    with pytest.raises(Unmodelled):
        for operation in operations:
            disk.play(operation)


# --- the disk ----------------------------------------------------------------------------------------------


def operation(name: str, path: str = "", more: str = "", *, inode: int = 0, offset: int = 0, length: int = 0,
              data: bytes = b"") -> Operation:
    return Operation(name, inode, offset, length, path, more, data)


def disk_after(*operations: Operation) -> Disk:
    disk = Disk()
    for each in operations:
        disk.play(each)
    return disk


def outcomes(disk: Disk, lucks: Sequence[Luck], turns: int = 300) -> list[dict[str, bytes | None]]:
    return [disk.after_loss(luck, random.Random(turn)) for turn in range(turns) for luck in lucks]


FILE, ROOT = 7, operation("sync", "", inode=1)
MADE = operation("create", "f", inode=FILE)
SYNCED = operation("sync", "f", inode=FILE)


def test_what_was_synced_is_there_whatever_the_luck() -> None:
    disk = disk_after(MADE, operation("write", "f", inode=FILE, data=b"abc"), SYNCED, ROOT)
    rng = random.Random(SEED)
    assert all(tree == {"f": b"abc"} for tree in outcomes(disk, [Luck.draw(rng) for _ in range(20)], 5))


def test_a_synced_file_without_its_folder_may_have_no_name() -> None:
    disk = disk_after(MADE, operation("write", "f", inode=FILE, data=b"abc"), SYNCED)
    assert disk.after_loss(LUCKS["nothing"], random.Random(0)) == {}
    assert disk.after_loss(LUCKS["everything"], random.Random(0)) == {"f": b"abc"}


def test_a_rename_may_come_before_the_data() -> None:
    disk = disk_after(MADE, operation("write", "f", inode=FILE, data=b"abc"), operation("rename", "f", "g"), ROOT)
    found = {tree["g"] for tree in outcomes(disk, [Luck(0.5, 0.5, 0.5), LUCKS["names without data"]])}
    assert {b"", b"abc", bytes(3)} <= found
    assert any(data not in (b"", b"abc", bytes(3)) for data in found), "noise"


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_write_is_torn_at_sectors_only(sector: int) -> None:
    old, new = b"o" * 10_000, b"n" * 9_000
    disk = disk_after(MADE, operation("write", "f", inode=FILE, data=old), SYNCED, ROOT,
                      operation("write", "f", inode=FILE, offset=100, data=new))
    edges = set()
    for tree in outcomes(disk, [Luck(0.5, 1, 1, sector)]):
        data = tree["f"]
        assert data is not None and len(data) == len(old) and data[:100] == old[:100] and data[9_100:] == old[9_100:]
        edges |= {at for at in range(1, len(data)) if data[at] != data[at - 1]}
    assert edges == {100, 9_100, *range(sector, 9_100, sector)}


def test_writes_are_reordered_unless_the_luck_is_ordered() -> None:
    disk = disk_after(MADE, ROOT, *(operation("write", "f", inode=FILE, offset=at, data=b"x") for at in (0, 600, 1200)))

    def arrived(luck: Luck) -> set[tuple[int, ...]]:
        return {tuple(at for at in (0, 600, 1200) if (tree["f"] or b"")[at : at + 1] == b"x")
                for tree in outcomes(disk, [luck])}

    assert len(arrived(Luck(0.5, 1, 1))) == 8
    assert arrived(Luck(0.5, 1, 1, ordered=True)) == {(), (0,), (0, 600), (0, 600, 1200)}


def test_names_arrive_each_by_itself() -> None:
    disk = disk_after(MADE, ROOT, operation("create", "g", inode=8), operation("unlink", "f"),
                      operation("create", "h", inode=9))
    found = {tuple(sorted(tree)) for tree in outcomes(disk, [Luck(1, 0.5, 1)])}
    assert len(found) == 8 and ("f",) in found and ("g", "h") in found


# --- what was found ----------------------------------------------------------------------------------------


def syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are synced from now on."""
    paths: list[str] = []
    original = os.fsync

    def fsync(descriptor: int) -> None:
        original(descriptor)
        paths.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    monkeypatch.setattr(os, "fsync", fsync)
    return paths


def test_the_parents_of_a_new_root_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last of several new folders used to be synced into its parent: the first could take all with it."""
    synced = syncs(monkeypatch)
    storage.create_folder(tmp_path / "new" / "data")
    assert synced.index(str(tmp_path)) < synced.index(str(tmp_path / "new"))


def test_a_root_in_a_place_that_is_not_ours_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount in a folder of a read-only file system: syncing that one may be refused."""
    Database(tmp_path / "data").close()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    synced = syncs(monkeypatch)
    Database(tmp_path / "data").close()
    assert synced == [str(tmp_path / "data")]


def test_a_new_life_syncs_what_it_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process killed between a rename and its sync leaves a collection that looks durable, and is written to."""
    with Database(tmp_path / "data") as database:
        database.create_collection("main", FIELDS)
    synced = syncs(monkeypatch)
    with Database(tmp_path / "data"):
        assert {str(tmp_path), str(tmp_path / "data"), str(tmp_path / "data" / "main")} <= set(synced)


def test_the_log_is_durable_before_a_segment_is_removed_for_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge that was killed before its commit's sync looks committed: the old segments may still be needed."""
    for name in ("main/segments/1", "main/segments/2", "main/models"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "main" / "catalog.db-wal").write_bytes(b"a commit")
    synced = syncs(monkeypatch)
    monkeypatch.setattr(storage, "remove_folder", lambda path: synced.append(f"removed {path.name}"))
    assert storage.remove_leftovers(tmp_path / "main" / "segments", {"1"}) == ["2"]
    assert synced == [str(tmp_path / "main" / "catalog.db-wal"), "removed 2"]
