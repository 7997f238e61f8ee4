"""``sparsight name-features``: names for a collection's features, from its own passages."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from sparsight.errors import NotFoundError
from sparsight.service.commands.common import (
    CollectionOption,
    DataOption,
    JsonOption,
    Output,
    ServerOption,
    Usage,
    open_collection,
    open_store,
)
from sparsight.service.commands.training import follow, tell

__all__ = ["name_features"]


def name_features(
    collection: CollectionOption = "",
    data: DataOption = "",
    server: ServerOption = "",
    field: Annotated[str, typer.Option(metavar="FIELD", help="SAE field, when there are several.")] = "",
    endpoint: Annotated[str, typer.Option(metavar="URL", help="API of a language model (OpenAI's chat completions) "
                                          "whose labels compete, too: it gets texts of the collection. Not with "
                                          "--server.")] = "",
    model: Annotated[str, typer.Option(metavar="NAME", help="The language model's name at the endpoint.")] = "",
    key_variable: Annotated[str, typer.Option(metavar="VARIABLE", help="Environment variable with the endpoint's "
                                              "key.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Name the features of a collection anew, from its own passages; labels that users gave stay."""
    if bool(endpoint) != bool(model) or (key_variable and not endpoint):
        raise Usage("a language model needs --endpoint and --model", field="--endpoint")
    if endpoint and server:
        raise Usage("a server asks no language model: give --data instead", field="--endpoint")
    with Output.of(as_json) as output, open_store(data, server, write=True) as store:
        target = open_collection(store, collection)
        started = time.perf_counter()
        if endpoint:
            from sparsight.retrieval import Collection, LanguageModel

            assert isinstance(target, Collection)
            asked = LanguageModel(endpoint, model, key=_key(key_variable))
            operation = target.name_features(field, language_model=asked, wait=False)
        else:
            operation = target.name_features(field, wait=False)
        operation = follow(store, operation, output)
        tell(output, operation, "named the features", target.name, field, time.perf_counter() - started)


def _key(variable: str) -> str:
    if variable and not os.environ.get(variable):
        raise NotFoundError(f"the environment has no {variable} with a key", field="--key-variable", reason="NO_KEY")
    return os.environ.get(variable, "") if variable else ""
