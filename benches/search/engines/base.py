"""What the benchmark asks of an engine. Adapters import their engine late: only the worker's Python has it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

__all__ = ["Engine", "Found", "Setting", "folder_bytes"]

Setting: TypeAlias = dict[str, Any]
Found: TypeAlias = Sequence[int] | NDArray[np.integer[Any]]


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Engine(ABC):
    """One engine; a process either builds with it or opens what was built and searches.

    Attributes
    ----------
    distribution : str
        Installed package, for the version.
    peer : bool
        Runs in the peers' virtual environment.
    integers : str
        "" for float weights, "levels" for the integers of :func:`benches.search.workloads.to_levels`, which are then
        what it is given; "own" where it rounds by itself and says how (:meth:`rounded`).
    ordered : bool
        Wants similar documents beside each other: ``order`` is then a permutation of the documents.
    builds : mapping
        Build parameters by the name of the build.
    """

    distribution: ClassVar[str]
    peer: ClassVar[bool] = True
    integers: ClassVar[str] = ""
    ordered: ClassVar[bool] = False
    builds: ClassVar[Mapping[str, Setting]] = {"only": {}}

    def version(self) -> str:
        """The version that is measured."""
        return version(self.distribution)

    @abstractmethod
    def settings(self, build: str, k: int) -> Mapping[str, Sequence[Setting]]:
        """Search settings to try, by mode ("exact" or "approximate"); all of an exact mode are measured."""

    def start(self) -> None:  # noqa: B027 - optional
        """Import the engine (and start its runtime), before memory is first read."""

    @abstractmethod
    def build(self, documents: csr_matrix, folder: Path, threads: int, order: NDArray[np.int64] | None,
              parameters: Setting) -> None:  # fmt: skip
        """Make the index in an empty folder, with all threads where the engine can; all of it is timed."""

    @abstractmethod
    def open(self, folder: Path, parameters: Setting) -> None:
        """Load the index."""

    def query(self, terms: NDArray[np.uint32], weights: NDArray[np.float32]) -> Any:
        """A query in the engine's own form; not timed."""
        return terms, weights

    @abstractmethod
    def search(self, query: Any, k: int, **setting: Any) -> Found:
        """Numbers of the best documents, best first; timed."""

    def size(self, folder: Path) -> int:
        """Bytes of the files that a search needs."""
        return folder_bytes(folder)

    def rounded(self, documents: csr_matrix, queries: csr_matrix) -> tuple[csr_matrix, csr_matrix]:
        """The engine's own integers (int32) of documents and queries, where ``integers`` is "own"."""
        raise NotImplementedError
