"""Autoencoders by path: model folders of any layout that is read, and those of a collection's fields."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparsight.errors import InvalidArgumentError
from sparsight.index.catalog import CATALOG_FILE
from sparsight.types import SAEField

if TYPE_CHECKING:
    from sparsight.encoders.sae.model import SAE

__all__ = ["SourcedSAE", "find_saes"]


@dataclass(frozen=True, eq=False)
class SourcedSAE:
    """An autoencoder and where it comes from.

    Attributes
    ----------
    name : str
        Of the folder, the collection and field, or as given.
    sae : SAE
    encoder : str
        Fingerprint of the dense encoder whose vectors it reads; "" where that is not known.
    """

    name: str
    sae: SAE
    encoder: str = ""


def find_saes(sources: Sequence[str]) -> list[SourcedSAE]:
    """The autoencoders of paths.

    Parameters
    ----------
    sources : sequence of str
        Each ``PATH`` or ``NAME=PATH``: a model's folder (`sparsight.encoders.sae.checkpoints.SAE_LAYOUTS`), or a
        collection's, whose SAE fields are taken; the name is then a part of theirs.

    Raises
    ------
    InvalidArgumentError
        If two would have one name, or a collection has no SAE field.
    CheckpointError
        If a folder is neither.
    """
    found: dict[str, SourcedSAE] = {}
    for source in sources:
        label, path = re.fullmatch(r"(?:([\w.-]+)=)?(.*)", source, re.DOTALL).groups()  # type: ignore[union-attr]
        for one in _of_folder(label or Path(path).resolve().name, Path(path)):
            if one.name in found:
                raise InvalidArgumentError(f"two autoencoders are called {one.name}; say NAME={path}", field="models",
                                           name=one.name)
            found[one.name] = one
    return list(found.values())


def _of_folder(name: str, folder: Path) -> list[SourcedSAE]:
    from sparsight.encoders.sae.checkpoints import read_sae

    if not (folder / CATALOG_FILE).is_file():
        sae = read_sae(folder)
        return [SourcedSAE(name, sae, sae.embedder)]
    from sparsight.retrieval.engine import Database

    with Database(folder.resolve().parent, read_only=True) as database:
        info = database.collection(folder.resolve().name).info()
    fields = [field for field in info.fields if isinstance(field, SAEField)]
    if not fields:
        raise InvalidArgumentError(f"the collection in {folder} has no SAE field", field="models")
    return [SourcedSAE(name if len(fields) == 1 else f"{name}.{field.name}", read_sae(folder / field.model),
                       info.fingerprints.get(field.source, "")) for field in fields]
