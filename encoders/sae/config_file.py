"""A training configuration as a file of TOML: keys are :class:`SAEConfig`'s, and a table a loss::

    n_latents = 4096
    k = 32
    preprocess = "whiten"

    [[losses]]
    kind = "reconstruction"

    [[losses]]
    kind = "distill"
    weight = 0.5
    ks = [8, 32]

What is left out has its default, the losses where there is no table of one. What is not known, of another type or out
of range is an error that names the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from sparsight.encoders.config_files import check_known, naming, read_toml, split_change, wrong
from sparsight.encoders.sae import losses
from sparsight.encoders.sae.config import SAEConfig
from sparsight.encoders.sae.losses import Loss
from sparsight.errors import InvalidArgumentError

__all__ = ["read_sae_config"]

_FORM = "key=value or losses.kind.key=value"
_KINDS: Mapping[str, type[Loss]] = {
    kind.kind(): kind for kind in (getattr(losses, name) for name in losses.__all__ if name != "Loss")}


def read_sae_config(path: str | Path, changes: Sequence[str] = ()) -> SAEConfig:
    """Read a configuration.

    Parameters
    ----------
    path : str or Path
        The TOML file.
    changes : sequence of str
        In place of what the file has: "key=value", as ``k=16``, or "losses.kind.key=value" for a loss of which there is
        one in the file, as ``losses.distill.weight=0.2``. Values as in TOML; strings may go without quotation marks.

    Raises
    ------
    InvalidArgumentError
        If there is no such file, it is not TOML, or a key or value is wrong: the message has the file, the key, what
        was expected and what came; ``field`` is the key, as ``losses[1].weight``.
    """
    path = Path(path)
    with naming(path):
        given = read_toml(path)
        for change in changes:
            _change(given, change)
        known = [item.name for item in fields(SAEConfig)]
        for name in given:
            check_known(name, name, known)
        if "losses" in given:
            given["losses"] = tuple(_loss(f"losses[{number}]", table) for number, table in enumerate(_tables(given)))
        if isinstance(given.get("nested_ks"), list):
            given["nested_ks"] = tuple(given["nested_ks"])
        try:
            return SAEConfig(**given)
        except InvalidArgumentError as error:  # there the settings are an argument, here they are keys
            raise InvalidArgumentError(error.message, field=error.field.removeprefix("config."),
                                       **error.details) from None


def _tables(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    tables = given.get("losses", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise wrong("losses", "tables, as [[losses]]", repr(tables))
    return tables


def _loss(place: str, table: Mapping[str, Any]) -> Loss:
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
    name = settings.pop("kind", None)
    if not isinstance(name, str) or name not in _KINDS:
        raise wrong(f"{place}.kind", "one of " + ", ".join(f'"{kind}"' for kind in _KINDS), repr(name))
    kind = _KINDS[name]
    for key in settings:
        check_known(f"{place}.{key}", key, [item.name for item in fields(kind)])
    try:
        return kind(**settings)
    except InvalidArgumentError as error:
        key = error.field.partition(".")[2]
        raise InvalidArgumentError(f"{place}: {error.message}", field=f"{place}.{key}", **error.details) from None


def _change(given: dict[str, Any], change: str) -> None:
    key, value = split_change(change, _FORM)
    section, *rest = key.split(".")
    if section != "losses" and not rest:
        given[key] = value
    elif section != "losses" or len(rest) != 2:
        raise wrong("changes", _FORM, repr(change))
    else:
        kind, name = rest
        tables = [table for table in _tables(given) if table.get("kind") == kind]
        if len(tables) != 1:
            raise wrong(key, f"one loss of kind {kind!r} in the file", len(tables))
        tables[0][name] = value
