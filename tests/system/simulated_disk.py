"""What a disk may hold after its power was cut, made from the record of a process's file operations.

``recorder.c`` writes the record. :class:`Disk` plays it, keeping for each file and folder what has been synced and what
has changed since. The model, which grants less than a journalling file system with ordered metadata gives:

* ``fsync`` or ``fdatasync`` of a file makes its bytes and its length durable, not its name. A sync of a folder makes
  the names in it durable (creations, renames, removals), not what is below them, nor the folder's own name.
* Of what a file's writes did since its last sync, every piece arrived or did not, each by itself: so writes are lost,
  reordered, and torn, at 512 or at 4,096 bytes. A write does not harm the bytes beside it, not even in its sector
  (SQLite calls that powersafe overwrite and assumes it).
* Its length is any that it has had since its last sync. Where it grew and no data arrived, it holds zeros or noise.
* Of the changes of a folder's names since its last sync, each arrived or did not: a rename may be there and the data of
  the file not, a removal may have come before an older creation. A single rename is there wholly or not at all.
* What is durable stays: the disk obeys a sync, and does not rot (checksums are for that).

The file of SQLite's shared memory (``-shm``) is written through a map, which no library call shows. It holds nothing
that must last: whoever opens the database first builds it anew. Here it is gone after a loss, or full of noise.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

__all__ = ["LUCKS", "Disk", "Luck", "Operation", "Tree", "Unmodelled", "read_folder", "read_record", "write_folder"]

Tree = dict[str, bytes | None]
"""Files by path with their bytes, folders with None."""

_HEAD = struct.Struct("<12sqqqIII")


class Unmodelled(Exception):
    """The record holds an operation that the model does not know."""


class Operation(NamedTuple):
    """One record; ``recorder.c`` says what the fields are."""

    name: str
    inode: int
    offset: int
    length: int
    path: str
    more: str
    data: bytes

    def __str__(self) -> str:
        return f"{self.name} {self.path} {self.more}{f' {self.offset}+{len(self.data)}' if self.data else ''}"


def read_record(file: Path) -> list[Operation]:
    """All operations of a record, in order."""
    found, data, at = [], file.read_bytes(), 0
    while at < len(data):
        name, inode, offset, length, *sizes = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        parts = []
        for size in sizes:
            parts.append(data[at : at + size])
            at += size
        path, more, written = parts
        call = name.rstrip(b"\0").decode()
        found.append(Operation(call, inode, offset, length, path.decode(), more.decode(), written))
    return found


@dataclass(frozen=True, slots=True)
class Luck:
    """How much of what was not synced arrives: the chance of each piece of data, of each change of a name, and that a
    length is the latest; ``ordered`` takes the first pieces and changes instead, up to a random one."""

    data: float
    names: float
    lengths: float
    sector: int = 512
    ordered: bool = False
    noise: bool = False

    @classmethod
    def draw(cls, rng: random.Random) -> Luck:
        def chance() -> float:
            return rng.choice((0.0, 1.0, rng.random(), rng.random()))

        return cls(chance(), chance(), chance(), rng.choice((512, 4096)), rng.random() < 0.25, rng.random() < 0.5)

    def arrived(self, chance: float, count: int, rng: random.Random) -> list[bool]:
        if self.ordered:
            first = rng.randint(0, count)
            return [position < first for position in range(count)]
        return [rng.random() < chance for _ in range(count)]


LUCKS = {
    "nothing": Luck(0, 0, 0),
    "everything": Luck(1, 1, 1),
    "names without data": Luck(0, 1, 1, noise=True),
    "data without names": Luck(1, 0, 1),
}
"""The extremes."""


@dataclass(eq=False, slots=True)
class _File:
    """Bytes as the process sees them, as they were synced last, and the writes and lengths since then."""

    live: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    changes: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, data) or (length, None)

    def write(self, offset: int, data: bytes) -> None:
        _put(self.live, offset, data)
        self.changes.append((offset, data))

    def resize(self, length: int) -> None:
        _put(self.live, length, b"")
        del self.live[length:]
        self.changes.append((length, None))

    def sync(self) -> None:
        self.synced, self.changes = bytes(self.live), []

    def after_loss(self, luck: Luck, rng: random.Random) -> bytes:
        if not self.changes:
            return self.synced
        pieces = [piece for change in self.changes for piece in _cut(*change, luck.sector)]
        lengths = [length := len(self.synced)]
        for offset, data in pieces:
            length = offset if data is None else max(length, offset + len(data))
            lengths.append(length)
        arrived = luck.arrived(luck.data, len(pieces), rng)
        if luck.ordered:
            length = lengths[sum(arrived)]
        elif rng.random() >= luck.lengths:
            length = rng.choice(lengths) if luck.lengths else lengths[0]
        fill = rng.randbytes if luck.noise else bytes
        image = bytearray(self.synced)
        for (offset, data), there in zip(pieces, arrived, strict=True):
            if there:
                _put(image, offset, data or b"", fill)
                if data is None:
                    del image[offset:]
        _put(image, length, b"", fill)
        return bytes(image[:length])


def _put(image: bytearray, offset: int, data: bytes, fill: Callable[[int], bytes] = bytes) -> None:
    """Write into an image; what lies between its end and the data is filled."""
    if offset > len(image):
        image += fill(offset - len(image))
    image[offset : offset + len(data)] = data


def _cut(offset: int, data: bytes | None, sector: int) -> Iterator[tuple[int, bytes | None]]:
    """A write as pieces that do not cross sectors."""
    if data is None:
        yield offset, None
        return
    at = 0
    while at < len(data):
        stop = at + sector - (offset + at) % sector
        yield offset + at, data[at:stop]
        at = stop


@dataclass(eq=False, slots=True)
class _Folder:
    """Names as the process sees them, as they were synced last, and the changes since then."""

    live: dict[str, _File | _Folder] = field(default_factory=dict)
    synced: dict[str, _File | _Folder] = field(default_factory=dict)
    changes: list[tuple[str, str, _File | _Folder | None]] = field(default_factory=list)  # (gone, made, what)

    def change(self, gone: str, made: str, node: _File | _Folder | None) -> None:
        _rename(self.live, gone, made, node)
        self.changes.append((gone, made, node))

    def sync(self) -> None:
        self.synced, self.changes = dict(self.live), []

    def after_loss(self, luck: Luck, rng: random.Random) -> dict[str, _File | _Folder]:
        names = dict(self.synced)
        for change, there in zip(self.changes, luck.arrived(luck.names, len(self.changes), rng), strict=True):
            if there:
                _rename(names, *change)
        return names


def _rename(names: dict[str, _File | _Folder], gone: str, made: str, node: _File | _Folder | None) -> None:
    names.pop(gone, None)
    if node is not None:
        names[made] = node


class Disk:
    """A folder on a disk, as a process sees it and as it may be after a loss of power.

    ``obeys`` names what is synced when it is asked to be: leaving out "files" or "folders" makes a disk that lies, to
    see that this is noticed.
    """

    def __init__(self, obeys: Sequence[str] = ("files", "folders")) -> None:
        self._obeys = obeys
        self._root = _Folder()
        self._by_inode: dict[int, _File | _Folder] = {}

    @classmethod
    def of(cls, folder: Path, obeys: Sequence[str] = ("files", "folders")) -> Disk:
        """A disk that holds a real folder, all of it durable."""
        disk = cls(obeys)
        disk._by_inode[folder.stat().st_ino] = disk._root
        for entry in sorted(folder.rglob("*")):  # parents come first
            made: _File | _Folder = _Folder() if entry.is_dir() else _File(bytearray(entry.read_bytes()))
            parent, name = disk._at(entry.relative_to(folder).as_posix())
            parent.live[name] = disk._by_inode[entry.stat().st_ino] = made
        for node in disk._by_inode.values():
            node.sync()
        return disk

    def _at(self, path: str) -> tuple[_Folder, str]:
        """The folder that a path's last name is in, and that name."""
        parts, folder = PurePosixPath(path).parts, self._root
        for part in parts[:-1]:
            found = folder.live[part]
            assert isinstance(found, _Folder)
            folder = found
        return folder, parts[-1]

    def play(self, operation: Operation) -> None:
        """Apply one operation.

        Raises
        ------
        Unmodelled
        """
        name, inode = operation.name, operation.inode
        match name:
            case "write" | "resize" | "allocate" | "sync":
                self._change(operation)
            case "create" | "mkdir":
                parent, made = self._at(operation.path)
                self._by_inode[inode] = _File() if name == "create" else _Folder()
                parent.change("", made, self._by_inode[inode])
            case "unlink" | "rmdir":
                parent, gone = self._at(operation.path)
                parent.change(gone, "", None)
            case "rename" | "link":
                (parent, old), (target, new) = self._at(operation.path), self._at(operation.more)
                if parent is not target and name == "rename":
                    raise Unmodelled(f"a rename from folder to folder: {operation}")
                target.change(old if name == "rename" else "", new, parent.live[old])
            case "map" if not operation.path.endswith("-shm"):
                raise Unmodelled(f"a file is written through a map: {operation}")
            case "other":
                raise Unmodelled(str(operation))

    def _change(self, operation: Operation) -> None:
        if operation.name == "sync" and not operation.path:
            node: _File | _Folder | None = self._root
        else:
            node = self._by_inode.get(operation.inode)
        if operation.name == "sync":
            if node is not None and ("files" if isinstance(node, _File) else "folders") in self._obeys:
                node.sync()
            return
        if not isinstance(node, _File):
            raise Unmodelled(f"a file that was not seen being made: {operation}")
        if operation.name == "write":
            node.write(operation.offset, operation.data)
        elif operation.name == "resize" or operation.length > len(node.live):
            node.resize(operation.length)

    def live(self) -> Tree:
        """What the process sees."""
        return dict(_walk(self._root, lambda folder: folder.live, lambda _, file: bytes(file.live)))

    def after_loss(self, luck: Luck, rng: random.Random) -> Tree:
        """What may be there after a loss of power now."""

        def content(path: str, file: _File) -> bytes | None:
            if not path.endswith("-shm"):
                return file.after_loss(luck, rng)
            return rng.randbytes(len(file.live)) if luck.noise else None

        return dict(_walk(self._root, lambda folder: folder.after_loss(luck, rng), content))


def _walk(
    folder: _Folder,
    names: Callable[[_Folder], dict[str, _File | _Folder]],
    content: Callable[[str, _File], bytes | None],
    prefix: str = "",
) -> Iterator[tuple[str, bytes | None]]:
    """Folders before what is in them; a file without content is left out."""
    for name, node in names(folder).items():
        path = prefix + name
        if isinstance(node, _Folder):
            yield path, None
            yield from _walk(node, names, content, path + "/")
        elif (data := content(path, node)) is not None:
            yield path, data


def write_folder(tree: Tree, folder: Path) -> None:
    """Make a new folder that holds a tree."""
    folder.mkdir(parents=True)
    for path, data in tree.items():
        if data is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(data)


def read_folder(folder: Path) -> Tree:
    """The tree that a folder holds."""
    return {entry.relative_to(folder).as_posix(): None if entry.is_dir() else entry.read_bytes()
            for entry in folder.rglob("*")}
