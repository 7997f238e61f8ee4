"""SHA-256 over everything that decides which vector a document gets.

Two folders with the same fingerprint encode documents alike; an index refuses a field whose model's fingerprint is not
the one that filled it. What makes a query's vector (``Settings.query``, a table of weights) does not count, so an index
may be searched through any of a folder's choices. Prompts for queries do count where a folder has no table: they did
before there were tables.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparsight.encoders.settings import QUERY_WEIGHTS, Settings
from sparsight.encoders.wheels import file_sha256
from sparsight.errors import CheckpointError

__all__ = ["fingerprint", "weights_signature"]

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model",
                    "sentencepiece.bpe.model", "added_tokens.json",
                    "special_tokens_map.json", "tokenizer_config.json")
# Fields of config.json that name origins and tools, or matter to training alone.
_IDLE_FIELDS = frozenset({"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures", "auto_map",
                          "use_cache", "gradient_checkpointing", "initializer_range", "attention_probs_dropout_prob",
                          "hidden_dropout_prob", "classifier_dropout"})


def fingerprint(settings: Settings) -> str:
    """Hexadecimal SHA-256 over weights, tokenizer, architecture and settings of a document encoder.

    Names of files and folders, and fields of ``config.json`` without an effect on the output, do not count. A change of
    the weight file's layout alone does count: it is hashed as bytes.

    Raises
    ------
    CheckpointError
        If a file cannot be read.
    """
    try:
        weights = [path for path in sorted(settings.weights.glob("*.safetensors")) if path.name != QUERY_WEIGHTS]
        parts: dict[str, Any] = {
            "format": 1,
            "weights": [file_sha256(path) for path in weights],
            "tokenizer": {name: file_sha256(path) for name in _tokenizer_files(settings.weights)
                          if (path := settings.weights / name).is_file()},
            "architecture": {name: value for name, value in settings.config.items() if name not in _IDLE_FIELDS},
            "kind": settings.kind, "activation": settings.activation,
            "pooling": "" if (settings.kind, settings.pooling) == ("sparse", "max") else settings.pooling,
            "max_tokens": settings.max_tokens, "prompts": _prompts(settings), "lower_case": settings.lower_case,
        } | _newer_parts(settings)
    except OSError as error:
        raise CheckpointError(f"the model in {settings.weights} cannot be read: {error}",
                              folder=settings.weights) from error
    return digest_json(parts)


def _prompts(settings: Settings) -> dict[str, str]:
    if settings.query_table is None:
        return dict(settings.prompts)
    return {name: text for name, text in settings.prompts.items() if name == "document"}


def _newer_parts(settings: Settings) -> dict[str, Any]:
    """Settings that came later: left out where they are what they always were, so that old fingerprints stay."""
    options = {name: value for name, value in settings.options.items() if name != "query_k"}
    parts: dict[str, Any] = {}
    if settings.head not in ("", "splade"):
        parts |= {"head": settings.head, "options": options}
    if not settings.expand_documents:
        parts["expand_documents"] = False
    return parts


def digest_json(parts: Mapping[str, Any]) -> str:
    """Hexadecimal SHA-256 of a JSON value in one canonical spelling."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def weights_signature(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of every file below a folder: equal as long as nobody has touched it."""
    try:
        return tuple(sorted(_files(str(folder), "")))
    except OSError as error:
        raise CheckpointError(f"the model folder {folder} cannot be read: {error}", folder=folder) from error


def _files(folder: str, prefix: str) -> Iterator[tuple[str, int, int]]:
    # Not Path.rglob: this runs for every query, and that took five times as long.
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(entry.path, f"{prefix}{entry.name}/")
            elif entry.is_file():
                stat = entry.stat()
                yield f"{prefix}{entry.name}", stat.st_size, stat.st_mtime_ns


def _tokenizer_files(folder: Path) -> tuple[str, ...]:
    # tokenizer.json is complete in itself; the other files count only where it has to be made from them.
    return ("tokenizer.json",) if (folder / "tokenizer.json").is_file() else _TOKENIZER_FILES
