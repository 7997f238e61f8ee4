"""What all commands share: where the data is, what is printed where, and JSON for every value of the API."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, TypeAlias

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sparsight.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from sparsight.retrieval.engine import Collection, Database
    from sparsight.service.client import Client
    from sparsight.service.client import Collection as RemoteCollection

    # The two doors have the same methods.
    Store: TypeAlias = Database | Client
    AnyCollection: TypeAlias = Collection | RemoteCollection

__all__ = [
    "CollectionOption",
    "DataOption",
    "JsonOption",
    "Output",
    "ServerOption",
    "Usage",
    "open_collection",
    "open_store",
    "plain",
]

DEFAULT_DATA = "data"

DataOption = Annotated[str, typer.Option("--data", metavar="DIR", envvar="SPARSIGHT_DATA",
                                         help="Data folder, used in this process.", show_default="data")]
ServerOption = Annotated[str, typer.Option("--server", metavar="HOST:PORT", envvar="SPARSIGHT_SERVER",
                                           help="Server to use in place of a data folder.")]
CollectionOption = Annotated[str, typer.Option("--collection", "-c", metavar="NAME",
                                               help="Collection; may be left out when there is only one.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


class Usage(InvalidArgumentError):
    """The command line itself is wrong: exit code 2."""


class Output:
    """Where a command prints: results on standard output, everything else on standard error.

    While a command that prints JSON runs, standard output is closed to everybody else, so that no library's
    greeting ends up in front of the object.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._stdout: IO[str] = sys.stdout
        self.notes = Console(stderr=True, highlight=False)
        self.console = Console(stderr=as_json, highlight=False)

    @classmethod
    @contextlib.contextmanager
    def of(cls, as_json: bool) -> Iterator[Output]:
        """An output for the time of a command."""
        output = cls(as_json)
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            yield output

    def result(self, value: Mapping[str, Any]) -> None:
        """Print the command's JSON object, when JSON was asked for."""
        if self.as_json:
            print_json(value, self._stdout)

    def progress(self) -> Progress:
        """A progress bar on standard error (none when that is not a terminal: a line would be left per update)."""
        return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                        TextColumn("left:"), TimeRemainingColumn(), console=self.notes,
                        disable=not self.notes.is_terminal)


def print_json(value: Mapping[str, Any], stream: IO[str]) -> None:
    """One JSON object and a line feed."""
    stream.write(json.dumps(plain(value), ensure_ascii=False, allow_nan=False) + "\n")
    stream.flush()


def plain(value: Any) -> Any:
    """The value as JSON types: dataclasses and named tuples become objects, arrays lists, NaN and infinity null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


@contextlib.contextmanager
def open_store(data: str, server: str, *, write: bool = False) -> Iterator[Store]:
    """The database of a folder or of a server, closed at the end.

    Parameters
    ----------
    data, server : str
        At most one of them; neither is the folder ``data``.
    write : bool
        Make the folder where it is missing, and be its writer. Without it the folder is opened read-only, which
        works beside a running server.

    Raises
    ------
    Usage
        If both are given.
    NotFoundError
        If there is no such folder (and ``write`` is not set).
    """
    if data and server:
        raise Usage("give --data or --server, not both", field="data")
    store: Store
    if server:
        from sparsight.service.client import Client

        store = Client(server)
    else:
        folder = Path(data or DEFAULT_DATA)
        if not write and not folder.is_dir():
            raise NotFoundError(f"there is no data folder {folder} (choose one with --data, or a server with "
                                "--server)", field="data", folder=folder)
        from sparsight.retrieval.engine import Database

        store = Database(folder, read_only=not write)
    with store:
        yield store


def open_collection(store: Store, name: str) -> AnyCollection:
    """The named collection, or the only one.

    Raises
    ------
    UnknownCollectionError
        If there is none of that name.
    FailedPreconditionError
        If no name is given and there is not exactly one.
    """
    if not name:
        names = [info.name for info in store.list_collections()]
        if len(names) != 1:
            choice = f"choose one with --collection: {', '.join(names)}" if names else "there is no collection"
            raise FailedPreconditionError(choice, field="collection", collections=len(names))
        (name,) = names
    return store.collection(name)
