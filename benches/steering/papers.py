"""The data of the steering report: abstracts with their authors' categories, in a collection and beside it.

Truth is arXiv's categories, which no autoencoder has seen. Everything is drawn by fixed seeds and kept in the working
folder: embeddings (67 MB) and the collection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, load_npz, save_npz, vstack

import sparsight
from benches.quality.measure import say
from benches.sae.corpora import ARXIV
from sparsight.encoders.loading import load_encoder
from sparsight.encoders.sae.model import SAE
from sparsight.retrieval.datasets import BeirFolder
from sparsight.retrieval.judged_embedding import embed_judged, named_dense_encoder, read_judged
from sparsight.retrieval.judged_vectors import JudgedVectors
from sparsight.types import DenseField, Document, SAEField

if TYPE_CHECKING:
    from sparsight.retrieval import Collection, Database

__all__ = ["ENCODER", "JUDGE", "Papers"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
_POOL, _DRAWN, _ASIDE = 361_940, 87_380, 20_000  # first abstracts of the corpora, those taken, those not indexed
_QUERIES = 1_500  # titles
_PART = 5_000
_LEAST = 500  # abstracts of a category
_TWICE = {"math.MP", "math.IT", "stat.TH", "cs.SY"}  # other names of math-ph, cs.IT, math.ST, eess.SY
ENCODER, JUDGE = "all-MiniLM-L6-v2", "sparsight-small"
_TERMS, _TOKENS = 96, 192  # weights that are kept of a text, word pieces that are read


@dataclass(frozen=True)
class Paper:
    """An abstract."""

    id: str
    title: str
    text: str
    categories: frozenset[str]


class Papers:
    """Abstracts of which 67,380 are in a collection and 20,000 stand aside, to take examples and titles from.

    Parameters
    ----------
    data : Path
        Folder of the corpora arxiv_cs and arxiv_sci.
    work : Path
        Where embeddings and the collection are kept.
    device : str
        Of the encoder; on a CPU the embeddings take an hour.
    encoder : str
        Name or folder of the dense encoder. What is made with another one than the shipped is kept in a folder of its
        name inside ``work``.
    """

    def __init__(self, data: Path, work: Path, device: str = "cpu", encoder: str = ENCODER) -> None:
        self._data, self._shared, self.device, self.encoder = data, work, device, encoder
        self._work = work if encoder == ENCODER else work / Path(encoder).name
        self._work.mkdir(parents=True, exist_ok=True)
        order = np.random.default_rng(0).permutation(_DRAWN)
        self.aside, self.indexed = np.sort(order[:_ASIDE]), np.sort(order[_ASIDE:])

    @cached_property
    def papers(self) -> list[Paper]:
        """All that are taken, by their place in the corpora."""
        return [Paper(document.id, document.title, document.text,
                      frozenset(str(document.metadata.get("cat", "")).replace(" ", "").split(",")))
                for document, taken in self._pool() if taken]

    def _pool(self) -> Iterator[tuple[Document, bool]]:
        """The corpora's first abstracts, and whether each is taken."""
        taken = np.zeros(_POOL, bool)
        taken[np.random.default_rng(0).permutation(_POOL)[:_DRAWN]] = True
        documents = chain.from_iterable(BeirFolder(self._data / name).documents() for name in ARXIV)
        return zip(documents, taken.tolist(), strict=False)  # the corpora are longer

    @cached_property
    def x(self) -> F32:
        """Embeddings (B, D) of the abstracts without their titles, rounded to float16."""
        path = self._work / "embeddings.npy"
        if not path.is_file():
            np.save(path, self._embedded([paper.text for paper in self.papers]))
        return np.load(path).astype(np.float32)

    def others(self) -> F32:
        """Embeddings, likewise, of the 274,560 abstracts that are not taken: to train on. They are not kept."""
        return self._embedded([document.text for document, taken in self._pool() if not taken]).astype(np.float32)

    def _embedded(self, texts: list[str]) -> NDArray[np.float16]:
        say(f"embedding {len(texts):,} abstracts ...")
        encoder, parts = load_encoder(self.encoder, device=self.device), []
        for start in range(0, len(texts), _PART):
            parts.append(np.asarray(encoder.encode(texts[start:start + _PART])).astype(np.float16))
            say(f"{start + len(parts[-1]):,} of {len(texts):,}")
        return np.concatenate(parts)

    def text(self, row: int) -> str:
        """Title and abstract."""
        return f"{self.papers[row].title}. {self.papers[row].text}"

    @cached_property
    def vectors(self) -> csr_matrix:
        """Weights of words (B, V) that a sparse encoder gives the texts: the 96 largest of each, in 255 steps."""
        path = self._shared / "vectors.npz"
        if not path.is_file():
            say(f"weighing {_DRAWN:,} abstracts ...")
            encoder = load_encoder(JUDGE, device=self.device)
            parts = []
            for start in range(0, _DRAWN, _PART):
                texts = [self.text(row) for row in range(start, min(start + _PART, _DRAWN))]
                parts.append(encoder.encode(texts, max_tokens=_TOKENS, max_terms=_TERMS))
                say(f"{start + len(texts):,} of {_DRAWN:,}")
            whole = csr_matrix(vstack(parts))
            step = float(whole.data.max()) / 255
            whole.data = np.clip(np.rint(whole.data / step), 1, 255).astype(np.float32) * np.float32(step)
            save_npz(path, whole)
        return csr_matrix(load_npz(path))

    @cached_property
    def queries(self) -> tuple[I64, F32]:
        """Rows of some abstracts that stand aside, and embeddings of their titles."""
        rows = np.sort(np.random.default_rng(5).choice(self.aside, _QUERIES, replace=False))
        return rows, self.encode([self.papers[row].title for row in rows.tolist()])

    def encode(self, texts: list[str]) -> F32:
        """Embeddings of queries."""
        return np.asarray(load_encoder(self.encoder, device=self.device).encode(texts, mode="query"))

    def judged(self, name: str) -> JudgedVectors:
        """Vectors of a judged set in the folder of the corpora, kept part by part in the working folder."""
        texts = read_judged(self._data / name)
        return embed_judged(texts, named_dense_encoder(self.encoder, device=self.device), self._work / "judged",
                            progress=lambda what, done, total: say(f"{what}: {done:,} of {total:,}"))

    @cached_property
    def frequent(self) -> list[str]:
        """Categories of at least 500 abstracts, the most frequent first."""
        counts = Counter(name for paper in self.papers for name in paper.categories if name not in _TWICE)
        return [name for name, count in counts.most_common() if count >= _LEAST]

    def split(self, test: bool) -> list[str]:
        """40 categories: every other one, to measure on; those between were for choices."""
        return self.frequent[0 if test else 1:80:2]

    def members(self, categories: list[str]) -> NDArray[np.bool_]:
        """Which abstract is in which category, (B, C)."""
        return np.array([[name in paper.categories for name in categories] for paper in self.papers])

    @cached_property
    def place(self) -> dict[str, int]:
        """Number of an abstract by id."""
        return {paper.id: row for row, paper in enumerate(self.papers)}

    def collection(self, database: Database, dictionary: str) -> Collection:
        """The collection, filled if it is new; ``dictionary`` is the name or the folder of its autoencoder."""
        with_name = {info.name: info.documents for info in database.list_collections()}
        if with_name.get("papers") == len(self.indexed):
            return database["papers"]
        if "papers" in with_name:
            database.drop_collection("papers")
        made = database.create_collection("papers", [DenseField("dense", dimension=self.x.shape[1]),
                                                     SAEField(model=dictionary)])
        for start in range(0, len(self.indexed), _PART):
            say(f"indexing from {start:,} of {len(self.indexed):,} ...")
            made.upsert([Document(self.papers[row].id, title=self.papers[row].title, vectors={"dense": self.x[row]})
                         for row in self.indexed[start:start + _PART].tolist()])
        made.flush()
        return made

    def kept_sae(self, name: str, make: Callable[[], SAE]) -> SAE:
        """A dictionary that is kept in the working folder under that name; made if it is not there."""
        folder = self.folder(name)
        if not (folder / "sae.json").is_file():
            make().save(folder)
        return SAE.load(folder)

    def folder(self, name: str) -> Path:
        """Where a dictionary is kept."""
        return self._work / name

    def open(self) -> Database:
        """The database in the working folder."""
        return sparsight.open(self._work / "db")
