"""A folder for an autoencoder: ``sae.safetensors`` with its arrays, ``sae.json`` with the rest.

Arrays are float16 in the file where nothing is lost by it, else float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.sae.latent_notes import LatentNotes
from sparsight.encoders.wheels import file_sha256
from sparsight.errors import CheckpointError

if TYPE_CHECKING:
    from sparsight.encoders.sae.model import SAE

__all__ = ["load", "save"]

F32 = NDArray[np.float32]
_ARRAYS = ("W_enc", "b_enc", "W_dec", "b_dec", "density", "scale", "impact_scale")
_NOTES = "notes."  # begins the names of their arrays
_OPTIONS = {"document_mode": "encoder", "pool": 0, "embedder": ""}
"""Attributes that older folders do not have, and what they mean by that."""


def save(sae: SAE, folder: str | Path) -> None:
    """As :meth:`sparsight.encoders.sae.model.SAE.save` says."""
    from safetensors.numpy import save as as_bytes

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = (*_ARRAYS, "threshold") if sae.threshold.size else _ARRAYS
    weights = folder / "sae.safetensors.new"
    noted = {f"{_NOTES}{name}": getattr(sae.notes, name) for name in ("scores", "histogram", "stability")}
    arrays = {name: _short(getattr(sae, name)) for name in names}
    # By Python, so that a full disk is an OSError with its number, as everywhere.
    weights.write_bytes(as_bytes(arrays | {name: array for name, array in noted.items() if len(array)}))
    about = {"format": 1, "k": sae.k, "n_latents": sae.n_latents, "d_in": sae.d_in,
             **{name: getattr(sae, name) for name in _OPTIONS}, "fingerprint": sae.fingerprint,
             "sha256": file_sha256(weights), "labels": list(sae.labels),
             "examples": [list(ids) for ids in sae.examples], "label_sources": list(sae.notes.sources)}  # fmt: skip
    (folder / "sae.json.new").write_text(json.dumps(about, ensure_ascii=False) + "\n", encoding="utf-8")
    for name in ("sae.safetensors", "sae.json"):
        (folder / f"{name}.new").replace(folder / name)


def load(folder: str | Path) -> SAE:
    """As :meth:`sparsight.encoders.sae.model.SAE.load` says."""
    from sparsight.encoders.sae.model import SAE

    folder = Path(folder)
    try:
        about: dict[str, Any] = json.loads((folder / "sae.json").read_text(encoding="utf-8"))
        digest = file_sha256(folder / "sae.safetensors")
        arrays, noted = _arrays(folder / "sae.safetensors")
        given: dict[str, Any] = {name: about.get(name, default) for name, default in _OPTIONS.items()} | arrays
        notes = LatentNotes(tuple(map(str, about.get("label_sources", ()))), **noted)
        sae = SAE(k=int(about["k"]), labels=about["labels"], examples=about["examples"], notes=notes, **given)
        expected = (about["fingerprint"], about["sha256"])
    except Exception as error:  # safetensors' own error derives from Exception alone
        raise CheckpointError(f"the autoencoder in {folder} cannot be loaded: {type(error).__name__}: {error}",
                              folder=folder) from error
    if (sae.fingerprint, digest) != expected:
        raise CheckpointError(f"the autoencoder in {folder} has fingerprint and digest {sae.fingerprint}, "
                              f"{digest}, expected {expected[0]}, {expected[1]}", reason="FINGERPRINT_MISMATCH",
                              folder=folder)
    return sae


def _arrays(path: Path) -> tuple[dict[str, F32], dict[str, Any]]:
    """The model's own arrays, and those of its notes."""
    from safetensors.numpy import load_file

    tensors: Mapping[str, NDArray[Any]] = load_file(path)
    kept = {name: tensors[name] for name in _ARRAYS} | {"threshold": tensors.get("threshold", np.zeros(0, np.float32))}
    own = {name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in kept.items()}
    return own, {name.removeprefix(_NOTES): array for name, array in tensors.items() if name.startswith(_NOTES)}


def _short(array: F32) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), array) else array
