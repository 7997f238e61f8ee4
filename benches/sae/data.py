"""What autoencoders are trained and measured on: embeddings, queries with their neighbours, and judged sets.

Everything is drawn by fixed seeds, and kept in the working folder piece by piece: a stopped run goes on, and a later
one reads neither the corpora nor the model's weights into a run of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benches.quality.files import write_bytes, write_text
from benches.quality.measure import say
from benches.quality.sets import read_set
from benches.sae.corpora import ARXIV, Corpora, Texts, random_sentence
from sparsight.encoders.dense import DenseEncoder
from sparsight.encoders.fingerprint import digest_json
from sparsight.encoders.loading import load_encoder
from sparsight.encoders.sae.neighbours import Neighbours, nearest
from sparsight.errors import InvalidArgumentError
from sparsight.retrieval.datasets import BeirFolder, Qrels
from sparsight.retrieval.judged_vectors import JudgedVectors

__all__ = ["DEV", "MODEL", "TEST", "Data", "load"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Arrays = dict[str, NDArray[Any]]

MODEL = "all-MiniLM-L6-v2"
TEST = {"scifact": "test", "cranfield": "test", "cacm": "test"}
"""Splits of the small test sets; the corpora of arXiv are test sets too, by title."""
DEV = {"scitldr": "dev", "medquad": "dev", "squad_sent": "test"}
"""Splits of the sets that choices are made on, none of which is a test set; titles of arXiv, others, too."""
_PART = 10_000  # documents: what a stopped run loses at most
_SEED = 0


@dataclass(frozen=True, eq=False)
class Data:
    """Embeddings are rows of length 1.

    Attributes
    ----------
    x : float32, shape (B, D)
        What is trained on: abstracts without their titles, and passages.
    held : float32, shape (H, D)
        Held out.
    categories, held_categories : lists of str
        Primary arXiv category of each row ("cs.LG"), or "wiki".
    texts, held_texts : sequences of str
        Read when one is first asked for.
    neighbours : Neighbours
        Titles and sentences of rows of ``x``, with the rows of ``x`` that are nearest. No title is a test query's or a
        dev query's.
    judged : mapping
        Test sets: scifact, cranfield, cacm, and arxiv_cs and arxiv_sci by title over whole corpora.
    dev : mapping
        Sets for choices: scitldr, medquad, squad_sent, arxiv_dev.
    device : str
    small : bool
        Little of everything, for a try on a CPU.
    key : str
        Names the embeddings: what is made of them can be kept under it.
    """

    x: F32
    held: F32
    categories: list[str]
    held_categories: list[str]
    texts: Sequence[str]
    held_texts: Sequence[str]
    neighbours: Neighbours
    judged: dict[str, JudgedVectors]
    dev: dict[str, JudgedVectors]
    device: str
    small: bool
    key: str = ""


@dataclass(frozen=True)
class _Sizes:
    """How much is taken; 0 is all."""

    documents: int = 0  # of each large corpus
    held: int = 20_000
    titles: int = 120_000
    sentences: int = 80_000
    near: int = 32  # neighbours of a query
    dev_queries: int = 1_500
    dev_documents: int = 100_000
    judged_documents: int = 0  # of each small set
    judged_queries: int = 0
    max_tokens: int = 256


_SMALL = _Sizes(documents=400, held=100, titles=150, sentences=150, near=8, dev_queries=20, dev_documents=200,
                judged_documents=60, judged_queries=12, max_tokens=24)  # fmt: skip


def load(data_folder: Path, work: Path, device: str = "cpu", small: bool = False, *, model: str = MODEL) -> Data:
    """Embed what is not yet embedded, and draw the parts.

    Parameters
    ----------
    data_folder : Path
        Of the corpora and sets, each a BEIR folder of its name.
    work : Path
        Where embeddings are kept: 1.3 GB.
    device : str
        Of torch. The whole takes a minute on a GPU and an hour or two on a CPU.
    small : bool
    model : str
        Name or folder of a dense encoder.

    Raises
    ------
    InvalidArgumentError, CheckpointError
        If a set or the model is missing or damaged, or the model is not a dense one.
    """
    source = _Source(data_folder, work, device, small, model)
    about, documents = source.about, source.documents
    held, own = source.rows["held"], source.own
    x, categories = np.ascontiguousarray(documents[own]), about["categories"]
    queries = source.kept("queries", lambda: {"queries": source.embed(source.questions(), "query")})["queries"]
    near = min(source.sizes.near, len(x))
    found = source.kept("neighbours", lambda: {"rows": nearest(queries, x, near, device).rows})["rows"]
    spans = {name: documents[slice(*about["spans"][name])] for name in ARXIV}
    judged = {name: source.judged(name, split) for name, split in TEST.items()}
    judged |= {name: JudgedVectors(name, of, **source.kept(name, lambda name=name: source.known_items(name)))
               for name, of in spans.items()}
    dev = {name: source.judged(name, split) for name, split in DEV.items()}
    titles = source.kept("arxiv_dev", source.dev_titles)
    dev["arxiv_dev"] = JudgedVectors("arxiv_dev", documents[titles.pop("rows")], **titles)
    return Data(x, documents[held], [categories[row] for row in own], [categories[row] for row in held],
                Texts(source.corpora, own), Texts(source.corpora, held), Neighbours(queries, found), judged, dev,
                device, small, source.key)


class _Source:
    """Corpora, model and the folder of what was made of them."""

    def __init__(self, folder: Path, work: Path, device: str, small: bool, model: str) -> None:
        self.folder, self.sizes = folder, _SMALL if small else _Sizes()
        self.corpora = Corpora(folder, self.sizes.documents)
        encoder = load_encoder(model, device=device)
        if not isinstance(encoder, DenseEncoder):
            raise InvalidArgumentError(f"expected a dense encoder, got {encoder.name}", field="model")
        self.encoder = encoder
        files = {str(path.relative_to(folder)): path.stat().st_size for name in (*ARXIV, "wiki_passages", *TEST, *DEV)
                 for path in sorted((folder / name).rglob("*")) if path.is_file()}  # fmt: skip
        self.key = digest_json({"model": encoder.fingerprint, "precision": encoder.precision, "files": files,
                                "sizes": asdict(self.sizes), "format": 1})[:16]
        self.cache = work / f"embeddings-{self.key}"

    def kept(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """Arrays of a file, made if it is not there."""
        path = self.cache / f"{name}.npz"
        if not path.exists():
            made = make()
            write_bytes(path, lambda file: np.savez(file, **made))
        with np.load(path) as file:
            return dict(file)

    def embed(self, texts: Sequence[str], mode: Any = "document") -> F32:
        return self.encoder.encode(texts, mode=mode, max_tokens=self.sizes.max_tokens)

    @cached_property
    def about(self) -> dict[str, Any]:
        """Spans of the corpora and categories of all documents."""
        path = self.cache / "corpora.json"
        if not path.exists():
            say("reading corpora ...")
            categories = [entry.category for entry in self.corpora.entries]
            write_text(path, json.dumps({"spans": self.corpora.spans, "categories": categories}))
        about: dict[str, Any] = json.loads(path.read_text())
        return about

    @cached_property
    def documents(self) -> F32:
        """Embeddings of all documents of the large corpora."""
        count, parts = len(self.about["categories"]), []
        for start in range(0, count, _PART):
            path = self.cache / f"documents-{start // _PART:03d}.npy"
            if not path.exists():
                say(f"embedding documents from {start:,} of {count:,} ...")
                made = self.embed([entry.text for entry in self.corpora.entries[start:start + _PART]])
                write_bytes(path, lambda file, made=made: np.save(file, made))
            parts.append(np.load(path))
        return np.concatenate(parts)

    @cached_property
    def rows(self) -> Arrays:
        """Numbers of documents: held out, of dev titles, of titles and of sentences that are trained on."""
        return self.kept("rows", self._draw)

    @cached_property
    def own(self) -> I64:
        """Numbers of the documents that are trained on, ascending."""
        return np.delete(np.arange(len(self.about["categories"])), self.rows["held"])

    def _draw(self) -> Arrays:
        rng, entries, sizes = np.random.default_rng(_SEED), self.corpora.entries, self.sizes
        held = np.sort(rng.permutation(len(entries))[:sizes.held])
        asked = {document for name in ARXIV for grades in BeirFolder(self.folder / name).qrels("test").values()
                 for document in grades}  # fmt: skip
        titled = rng.permutation([row for row, entry in enumerate(entries) if entry.title and entry.id not in asked])
        dev, others = titled[:sizes.dev_queries], titled[sizes.dev_queries:]
        own = np.delete(np.arange(len(entries)), held)
        return {"held": held, "dev": dev, "titles": others[~np.isin(others, held)][:sizes.titles],
                "sentences": rng.permutation(own)[:sizes.sentences]}

    def questions(self) -> list[str]:
        """Titles and random sentences to train on."""
        rng, entries = np.random.default_rng(_SEED + 1), self.corpora.entries
        titles = [entries[row].title for row in self.rows["titles"].tolist()]
        return titles + [random_sentence(entries[row].text, lambda count: int(rng.integers(count)))
                         for row in self.rows["sentences"].tolist()]

    def known_items(self, name: str) -> Arrays:
        """Test titles over the corpus that they are from."""
        dataset, start_stop = BeirFolder(self.folder / name), self.about["spans"][name]
        ids = [entry.id for entry in self.corpora.entries[slice(*start_stop)]]
        qrels, there = dataset.qrels("test"), set(ids)
        texts = {query: text for query, text in dataset.queries().items() if there & qrels.get(query, {}).keys()}
        return {"queries": self.embed(list(texts.values()), "query"), "qrels": _judgements(ids, list(texts), qrels)}

    def judged(self, name: str, split: str) -> JudgedVectors:
        """A small set; of squad_sent, which has many queries, some."""
        return JudgedVectors(name, **self.kept(name, lambda: self._small_set(name, split)))

    def _small_set(self, name: str, split: str) -> Arrays:
        say(f"embedding {name} ...")
        sizes = self.sizes
        found = read_set(self.folder / name, split=split, max_documents=sizes.judged_documents,
                         max_queries=sizes.judged_queries)
        asked = np.arange(len(found.queries))
        if name in DEV and split == "test":
            asked = np.sort(np.random.default_rng(_SEED + 3).permutation(asked)[:sizes.dev_queries])
        return {"documents": self.embed(found.texts),
                "queries": self.embed([found.questions[at] for at in asked], "query"),
                "qrels": _judgements(found.documents, [found.queries[at] for at in asked], found.qrels)}

    def dev_titles(self) -> Arrays:
        """Other titles, each to be found among ``dev_documents`` abstracts."""
        entries, dev = self.corpora.entries, self.rows["dev"]
        abstracts = sum(stop - start for start, stop in map(self.about["spans"].get, ARXIV))
        some = np.random.default_rng(_SEED + 2).permutation(abstracts)[:self.sizes.dev_documents]
        rows = np.union1d(some, dev)
        qrels = np.stack([np.arange(len(dev)), np.searchsorted(rows, dev), np.ones(len(dev), np.int64)], axis=1)
        return {"rows": rows, "queries": self.embed([entries[row].title for row in dev.tolist()], "query"),
                "qrels": qrels}


def _judgements(documents: Sequence[str], queries: Sequence[str], qrels: Qrels) -> I64:
    """Rows of queries and documents, and grades, (J, 3); of an id that comes twice the first row."""
    row: dict[str, int] = {}
    for at, name in enumerate(documents):
        row.setdefault(name, at)
    judged = [(at, row.get(name, -1), grade) for at, query in enumerate(queries)
              for name, grade in qrels[query].items()]  # fmt: skip
    return np.array(judged, np.int64).reshape(-1, 3)
