"""A report on autoencoders: lists of rows by name, made by sections from one subject.

A section is a function of the subject. What is there is in `sparsight.retrieval.sae_sections`; more (stability over
seeds, description length, ...) is another function in the tuple that `make_report` is given, and the page
(`sparsight.retrieval.sae_pages`) shows lists that it does not know as plain tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import InvalidArgumentError, ShapeError
from sparsight.retrieval.judged_vectors import JudgedVectors
from sparsight.retrieval.sae_scoring import DEFAULT_SCORERS, Scorer

if TYPE_CHECKING:
    from sparsight.encoders.sae.model import SAE

__all__ = ["BASELINES", "DEFAULT_KS", "Report", "Row", "Section", "Subject", "make_report"]

Row: TypeAlias = dict[str, Any]
Report: TypeAlias = dict[str, list[Row]]
DEFAULT_KS = (2, 4, 8, 16, 32, 64)
BASELINES = ("random", "centroids", "truncation", "pca", "pq", "opq", "int8", "binary")


@dataclass(frozen=True, eq=False)
class Subject:
    """What a report is of.

    Attributes
    ----------
    models : mapping
        Autoencoders by name, all of one width.
    sets : sequence of JudgedVectors
        Of that width.
    ks : sequence of int
        Active latents of documents; each model's own number is measured too.
    scorers : sequence of Scorer
        Baselines are compared with the first.
    baselines : sequence of str
        Of `BASELINES`. "random" and "centroids" are untrained dictionaries of each model's size; the others are short
        forms of the dense vectors. What cannot be fitted to so few rows is left out: "centroids" to fewer than latents,
        "pq" and "opq" to fewer than 256; "opq" also above 32 bytes, where "pq" alone keeps about all.
    train : float32, shape (B, D), optional
        What baselines are fitted to; None takes each set's own documents.
    rounded : bool
        Documents' weights have 8 bits, as in the index.
    device : str
        Of torch.
    seed : int
        Of everything random.
    progress : callable
        Called with what is being measured, steps done, steps in all (0: unknown).

    Raises
    ------
    InvalidArgumentError
        If there are no models, sets, ks or scorers, a k is below 1, or a baseline is unknown.
    ShapeError
        If ``train`` has another width.
    """

    models: Mapping[str, SAE]
    sets: Sequence[JudgedVectors]
    ks: Sequence[int] = DEFAULT_KS
    scorers: Sequence[Scorer] = DEFAULT_SCORERS
    baselines: Sequence[str] = BASELINES
    train: NDArray[np.float32] | None = None
    rounded: bool = True
    device: str = "cpu"
    seed: int = 0
    progress: Callable[[str, int, int], None] = lambda what, done, total: None

    def __post_init__(self) -> None:
        for name in ("models", "sets", "ks", "scorers"):
            if not len(getattr(self, name)):
                raise InvalidArgumentError(f"expected some {name}, got none", field=name)
        if self.train is not None and self.train.shape[1:] != self.sets[0].documents.shape[1:]:
            raise ShapeError(f"expected train (B, {self.sets[0].documents.shape[1]}), got {self.train.shape}",
                             field="train")
        if min(self.ks) < 1:
            raise InvalidArgumentError(f"expected each k to be at least 1, got {list(self.ks)}", field="ks")
        if unknown := [name for name in self.baselines if name not in BASELINES]:
            raise InvalidArgumentError(f"expected baselines among {', '.join(BASELINES)}, got {', '.join(unknown)}",
                                       field="baselines")


Section: TypeAlias = Callable[[Subject], Report]


def make_report(subject: Subject, sections: Sequence[Section]) -> Report:
    """The rows of all sections in their order; lists of one name are joined."""
    report: Report = {}
    for section in sections:
        for name, rows in section(subject).items():
            report.setdefault(name, []).extend(rows)
    return report
