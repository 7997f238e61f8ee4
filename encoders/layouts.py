"""Where the parts of a model folder lie: plain Hugging Face folders and those of sentence-transformers.

sentence-transformers (checked with 6.2.0) lists modules in ``modules.json``: Transformer, Pooling, (Normalize) is a
dense encoder; MLMTransformer (or Transformer) and SpladePooling a sparse one. A lone Router has ``router_config.json``,
whose routes name sub-folders: the route "document" is a sparse encoder's modules, the route "query" either the same or
one SparseStaticEmbedding, a table of weights. Other modules are refused, because leaving one out would change the
vectors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsight.errors import CheckpointError

__all__ = ["Layout", "parse_json", "read_json", "read_layout"]

_DENSE = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
_SPARSE = ["Transformer", "SpladePooling"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Folders of a model's parts.

    Attributes
    ----------
    transformer : Path
        Folder of ``config.json``, weights and tokenizer.
    modules : mapping
        Module folders of sentence-transformers by the class's short name; empty for a plain folder.
    query_table : Path or None
        Folder of a Router's SparseStaticEmbedding for queries.
    """

    transformer: Path
    modules: Mapping[str, Path] = field(default_factory=dict)
    query_table: Path | None = None


def read_layout(folder: Path) -> Layout:
    """The parts of the model in ``folder``.

    Raises
    ------
    CheckpointError
        If a list of modules cannot be read, names unsupported modules, or leaves the folder.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return Layout(folder)
    try:
        entries = [(_short(entry["type"]), folder / str(entry["path"])) for entry in parse_json(path)]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a list of modules: {error!r}", folder=folder) from error
    if [name for name, _ in entries] == ["Router"]:
        return _read_router(entries[0][1], folder)
    modules = _named(entries, folder)
    return Layout(modules["Transformer"], modules)


def _read_router(router: Path, folder: Path) -> Layout:
    config = read_json(_inside(router, folder) / "router_config.json")
    try:
        routes = {route: [(_short(config["types"][id]), router / str(id)) for id in ids]
                  for route, ids in config["structure"].items()}
        mappings = dict((config.get("parameters") or {}).get("route_mappings") or {})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{router / 'router_config.json'} does not list types and routes: {error!r}",
                              folder=folder) from error
    if set(routes) != {"query", "document"} or mappings:
        raise CheckpointError(f"expected a Router with the routes query and document and no mappings in {folder}, got "
                              f"{sorted(routes)} and {mappings}", reason="UNSUPPORTED_MODULES", folder=folder)
    modules = _named(routes["document"], folder)
    query = routes["query"]
    if query == routes["document"]:
        return Layout(modules["Transformer"], modules)
    if [name for name, _ in query] != ["SparseStaticEmbedding"] or "SpladePooling" not in modules:
        raise CheckpointError(
            f"the query route {[name for name, _ in query]} of {folder} is not supported: expected the modules of the "
            "document route, or SparseStaticEmbedding beside MLMTransformer, SpladePooling",
            reason="UNSUPPORTED_MODULES", folder=folder)
    return Layout(modules["Transformer"], modules, _inside(query[0][1], folder))


def _named(entries: Sequence[tuple[str, Path]], folder: Path) -> dict[str, Path]:
    names = ["Transformer" if name == "MLMTransformer" else name for name, _ in entries]
    if names not in (*_DENSE, _SPARSE):
        raise CheckpointError(f"the modules {names} of {folder} are not supported: expected Transformer, Pooling, "
                              "(Normalize) or MLMTransformer, SpladePooling", reason="UNSUPPORTED_MODULES",
                              folder=folder)
    return dict(zip(names, (_inside(place, folder) for _, place in entries), strict=True))


def _short(kind: object) -> str:
    return str(kind).rsplit(".", 1)[-1]


def _inside(place: Path, folder: Path) -> Path:
    if not place.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(f"a module of {folder / 'modules.json'} lies outside the model's folder", folder=folder)
    return place


def parse_json(path: Path) -> Any:
    """The value in a JSON file; CheckpointError with reason BAD_CONFIG if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", reason="BAD_CONFIG", path=path) from error


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """The object in a JSON file; with ``optional``, {} where there is no file.

    Raises CheckpointError if it cannot be read or is no object.
    """
    if optional and not path.is_file():
        return {}
    value = parse_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"expected a JSON object in {path}, got {type(value).__name__}", path=path)
    return value
