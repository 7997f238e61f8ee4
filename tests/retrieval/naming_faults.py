"""Give a collection's features other names, and be stopped on the way: `python naming_faults.py DATA_FOLDER`.

For each place at which something is written, once before and once after it, a forked process is killed there (its
memory is gone, as in a crash), and another one gets an error of a full disk. Prints a line of JSON for each: where, and
what the next opening finds. A process of its own, because forks want no threads, and a test's process has some.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import sparsight
from sparsight.encoders.sae.model import SAE
from sparsight.errors import StorageFullError
from sparsight.index import storage
from sparsight.index.catalog import Catalog
from sparsight.index.memory import MODELS_FOLDER
from sparsight.index.store import CollectionStore
from sparsight.retrieval.installing import install_names

WRITTEN = [(SAE, "save"), (storage, "sync_tree"), (storage, "publish_folder"), (Catalog, "set_meta")]
COMMITTED = (CollectionStore, "run")
KILLED = 9


def names_of(database: sparsight.Database) -> list[str]:
    return [feature.label for feature in database["things"].features(page_size=1000).features]


def rename(root: Path, label: str) -> None:
    """New labels for all features, as naming them ends."""
    with sparsight.open(root) as database:
        collection = database["things"]
        model = collection._generation().derived["sae"]
        named = replace(model.sae, labels=tuple(f"{label} {n}" for n in range(model.dimension)))
        install_names(collection._store, named, collection._store.schema.field("sae"))


def stopped(place: tuple[Any, str], before: bool, stop: Callable[[], None]) -> None:
    """Patch a function so that it stops before, or after, it has done its work."""
    owner, name = place
    original = getattr(owner, name)

    def instead(*arguments: Any, **more: Any) -> Any:
        if before:
            stop()
        result = original(*arguments, **more)
        if not before:
            stop()
        return result

    setattr(owner, name, instead)


def forked(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``work`` returns in a process of its own; ``{}`` if that was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(writer, json.dumps(work()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED), f"the process ended with {status}"
    return dict(json.loads(said)) if said else {}


def killed(root: Path, place: tuple[Any, str], before: bool) -> dict[str, Any]:
    stopped(place, before, lambda: os._exit(KILLED))
    rename(root, "new")
    return {"ended": True}


def full(root: Path, place: tuple[Any, str], before: bool) -> dict[str, Any]:
    def refuse() -> None:
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if place[0] is SAE:  # the only one that leaves it to its caller to say what is full
            raise error
        with storage.translated("write", root):
            raise error

    stopped(place, before, refuse)
    try:
        rename(root, "new")
    except StorageFullError as error:
        return {"error": str(error)}
    return {"ended": True}


def seen(root: Path) -> dict[str, Any]:
    """What is there now, and whether naming works again."""
    with sparsight.open(root) as database:
        found, sound = names_of(database), database["things"].verify().ok
        folders = sorted(path.name for path in (root / "things" / MODELS_FOLDER).iterdir())
    rename(root, "again")
    with sparsight.open(root) as database:
        return {"names": found, "sound": sound, "folders": folders, "again": names_of(database)}


def main(root: Path) -> None:
    for way, places in ((killed, [*WRITTEN, COMMITTED]), (full, WRITTEN)):
        for place in places:
            for before in (True, False):
                copy = root.with_name("copy")
                shutil.copytree(root, copy)
                met = forked(lambda: way(copy, place, before))  # noqa: B023
                told = forked(lambda: seen(copy))  # noqa: B023
                print(json.dumps({"way": way.__name__, "place": place[1], "before": before, **met, **told}), flush=True)
                shutil.rmtree(copy)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
