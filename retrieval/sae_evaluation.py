"""Evaluating autoencoders from paths: the command's door to models, judged sets, vectors, report, page and pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsight import __version__
from sparsight.errors import IncompatibleModelError, InvalidArgumentError
from sparsight.retrieval.datasets import read_documents
from sparsight.retrieval.judged_embedding import (
    document_text,
    embed_documents,
    embed_judged,
    named_dense_encoder,
    read_judged,
    vector_cache,
)
from sparsight.retrieval.sae_pages import draw, markdown
from sparsight.retrieval.sae_report import BASELINES, DEFAULT_KS, Report, Section, Subject, make_report
from sparsight.retrieval.sae_scoring import DEFAULT_SCORERS, Scorer
from sparsight.retrieval.sae_sections import SECTIONS
from sparsight.retrieval.sae_sources import SourcedSAE, find_saes

if TYPE_CHECKING:
    from sparsight.encoders import DenseEncoder

__all__ = ["chosen_device", "evaluate_saes", "write_report"]

Progress = Callable[[str, int, int], None]


def evaluate_saes(models: Sequence[str], sets: Sequence[str], *, encoder: str = "all-MiniLM-L6-v2",
                  split: str = "test", no_titles: Sequence[str] = (), max_tokens: int = 256, max_documents: int = 0,
                  max_queries: int = 0, ks: Sequence[int] = DEFAULT_KS, scorers: Sequence[Scorer] = DEFAULT_SCORERS,
                  baselines: Sequence[str] = BASELINES, fit: str = "", rounded: bool = True, device: str = "auto",
                  seed: int = 0, cache: str | Path = "", sections: Sequence[Section] = SECTIONS,
                  progress: Progress = lambda what, done, total: None) -> tuple[Report, dict[str, Any]]:
    """A report on autoencoders.

    Parameters
    ----------
    models, sets : sequences of str
        See `sparsight.retrieval.sae_sources.find_saes` and `sparsight.retrieval.judged_embedding.read_judged`, as for
        ``split``, ``max_documents`` and ``max_queries``.
    encoder : str
        The dense encoder that the autoencoders read.
    no_titles : sequence of str
        Names of sets (of their folders) whose documents' titles are left out.
    max_tokens : int
        Word pieces after which documents are cut.
    ks, scorers, baselines, rounded, seed
        See `sparsight.retrieval.sae_report.Subject`.
    fit : str
        What baselines are fitted to: a corpus that `sparsight.retrieval.datasets.read_documents` takes, or a ``.npy``
        file of float32 vectors (B, D). "" takes each set's own documents.
    device : "auto", "cpu" or "cuda"
        Where texts are embedded and documents scored.
    cache : path
        Folder of vectors that were made before; "" is a folder in the cache of models.
    sections : sequence of functions
        What the report has.
    progress : callable
        Called with what is done, steps done, steps in all (0: unknown).

    Returns
    -------
    report : mapping of lists of rows
    about : mapping
        How it was made.

    Raises
    ------
    InvalidArgumentError, CheckpointError
        If something asked for is not there or out of range.
    IncompatibleModelError
        If an autoencoder reads vectors of another width, or a collection's those of another encoder.
    """
    started = time.perf_counter()
    device = chosen_device(device)
    saes = find_saes(models)
    texts = [read_judged(source, split=split, titles=Path(source).name not in no_titles, max_documents=max_documents,
                         max_queries=max_queries, seed=seed) for source in sets]
    dense = named_dense_encoder(encoder, device=device)
    _check(saes, dense, encoder)
    folder = Path(cache) if cache else vector_cache()
    judged = [embed_judged(one, dense, folder, max_tokens=max_tokens, progress=progress) for one in texts]
    train = _vectors(fit, dense, folder, max_tokens, progress) if fit else None
    subject = Subject({one.name: one.sae for one in saes}, judged, ks, scorers, baselines, train, rounded, device, seed,
                      progress)
    report = make_report(subject, sections)
    fitted = f"{len(train):,} vectors of {Path(fit).name}" if train is not None else "each set's own documents"
    return report, {
        "sparsight": __version__, "date": time.strftime("%Y-%m-%d"), "encoder": encoder,
        "encoder fingerprint": dense.fingerprint[:16], "documents cut after": f"{max_tokens} word pieces",
        "documents' weights": "8 bits" if rounded else "float32", "baselines fitted to": fitted, "seed": seed,
        "device": device, "seconds": round(time.perf_counter() - started, 1)}  # fmt: skip


def write_report(report: Report, about: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write ``sae.json`` (``{"about": ..., "rows": ...}``), ``sae.md`` and pictures into a folder; what was written."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lists = [f"{json.dumps(name)}: [\n" + ",\n".join(map(json.dumps, rows)) + "\n]" for name, rows in report.items()]
    (folder / "sae.json").write_text(
        f'{{"about": {json.dumps(about)},\n"rows": {{\n' + ",\n".join(lists) + "\n}}\n", "utf-8")
    pictures = draw(report, folder)
    (folder / "sae.md").write_text(markdown(report, about, pictures) + "\n", "utf-8")
    return [folder / "sae.json", folder / "sae.md", *pictures]


def chosen_device(name: str) -> str:
    """"cpu" or "cuda" for "auto"; InvalidArgumentError for one that is not there."""
    import torch

    from sparsight.encoders.sae.checks import torch_device

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(torch_device(name))


def _check(saes: Sequence[SourcedSAE], dense: DenseEncoder, name: str) -> None:
    for one in saes:
        if one.sae.d_in != dense.dimension:
            raise IncompatibleModelError(f"autoencoder {one.name} reads {one.sae.d_in} dimensions, {name} has "
                                         f"{dense.dimension}", field="encoder", model=one.name)
        if one.encoder not in ("", dense.fingerprint):
            raise IncompatibleModelError(f"autoencoder {one.name} reads vectors of another encoder than {name}: "
                                         f"expected {one.encoder[:12]}, got {dense.fingerprint[:12]}", field="encoder",
                                         model=one.name, expected=one.encoder, found=dense.fingerprint)


def _vectors(fit: str, dense: DenseEncoder, cache: Path, max_tokens: int, progress: Progress) -> NDArray[np.float32]:
    if not fit.endswith(".npy"):
        texts = [document_text(document) for document in read_documents(fit)]
        return embed_documents(Path(fit).name, texts, dense, cache, max_tokens=max_tokens, progress=progress)
    try:
        vectors: NDArray[np.float32] = np.load(fit, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidArgumentError(f"{fit}: not a readable .npy file: {error}", field="fit", file=fit) from None
    if vectors.ndim != 2 or vectors.dtype != np.float32 or vectors.shape[1] != dense.dimension or len(vectors) < 2:
        raise InvalidArgumentError(f"{fit}: expected float32 (B, {dense.dimension}), got {vectors.dtype} "
                                   f"{vectors.shape}", field="fit", file=fit)
    return vectors
