"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

__all__ = ["write_bytes", "write_text"]


def write_bytes(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Make a file of what ``write`` writes: under another name first, which is then changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            write(file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Make a file of a text."""
    write_bytes(path, lambda file: file.write(text.encode()))
