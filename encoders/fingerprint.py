"""SHA-256 over everything that decides which vector a text gets.

Two folders with the same fingerprint encode alike; an index refuses a field whose model's fingerprint is not the one
that filled it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsight.encoders.checkpoint import Settings
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
    """Hexadecimal SHA-256 over weights, tokenizer, architecture and settings of an encoder.

    Names of files and folders, and fields of ``config.json`` without an effect on the output, do not count. A change of
    the weight file's layout alone does count: it is hashed as bytes.

    Raises
    ------
    CheckpointError
        If a file cannot be read.
    """
    try:
        weights = sorted(settings.weights.glob("*.safetensors"))
        parts: dict[str, Any] = {
            "format": 1,
            "weights": [file_sha256(path) for path in weights],
            "tokenizer": {name: file_sha256(path) for name in _tokenizer_files(settings.weights)
                          if (path := settings.weights / name).is_file()},
            "architecture": {name: value for name, value in settings.config.items() if name not in _IDLE_FIELDS},
            "kind": settings.kind, "activation": settings.activation, "pooling": settings.pooling,
            "max_tokens": settings.max_tokens, "prompts": dict(settings.prompts), "lower_case": settings.lower_case,
        }
    except OSError as error:
        raise CheckpointError(f"the model in {settings.weights} cannot be read: {error}",
                              folder=settings.weights) from error
    return digest_json(parts)


def digest_json(parts: Mapping[str, Any]) -> str:
    """Hexadecimal SHA-256 of a JSON value in one canonical spelling."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def weights_signature(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of every file below a folder: equal as long as nobody has touched it."""
    try:
        return tuple(sorted((str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns)
                            for path in folder.rglob("*") if path.is_file() for stat in [path.stat()]))
    except OSError as error:
        raise CheckpointError(f"the model folder {folder} cannot be read: {error}", folder=folder) from error


def _tokenizer_files(folder: Path) -> tuple[str, ...]:
    # tokenizer.json is complete in itself; the other files count only where it has to be made from them.
    return ("tokenizer.json",) if (folder / "tokenizer.json").is_file() else _TOKENIZER_FILES
