"""How a model folder turns text into vectors: the settings that its files give.

They come from ``config.json``, from sentence-transformers' files (:mod:`sparsight.encoders.layouts`) and from
``sparsight.json`` in the folder, whose keys win:

==================  ==========================================================================================
key                 value
==================  ==========================================================================================
``kind``            "sparse" or "dense"
``head``            of a sparse encoder, one of ``HEADS``; "splade" where nothing is said
``activation``      of a sparse encoder, one of ``ACTIVATIONS``
``pooling``         "max" or "sum" (sparse), "mean" or "cls" (dense)
``max_tokens``      most word pieces, special tokens included
``prompts``         {"query": text, "document": text}
``query``           "encoder", "table" or "bow": what makes a query's vector (:mod:`sparsight.encoders.sparse`)
``expansion``       {"query": bool, "document": bool}; false keeps the terms of the text itself alone (head "splade")
``quantisation``    "int8": the weights are stored as :mod:`sparsight.encoders.quantised` says
``layers``, ``k``,  of a "wta" head, see :mod:`sparsight.encoders.winner_take_all`; ``layer`` of a "sae" head, see
``query_k``         :mod:`sparsight.encoders.sae_latents`
==================  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from sparsight.encoders.layouts import Layout, read_json, read_layout
from sparsight.errors import CheckpointError

__all__ = ["ACTIVATIONS", "HEADS", "HEAD_FILES", "POOLINGS", "QUERY_WEIGHTS", "Kind", "QueryBy", "Settings",
           "read_settings"]

Kind = Literal["sparse", "dense"]
QueryBy = Literal["encoder", "table", "bow"]
QUERY_CHOICES: tuple[str, ...] = get_args(QueryBy)
ACTIVATIONS = ("log1p_relu", "log1p_log1p_relu")
POOLINGS: Mapping[str, tuple[str, ...]] = {"sparse": ("max", "sum"), "dense": ("mean", "cls")}
HEADS = ("splade", "unicoil", "deepimpact", "bge-m3", "wta", "sae")
HEAD_FILES: Mapping[str, str] = {"unicoil": "token_weights.safetensors", "deepimpact": "token_weights.safetensors",
                                 "bge-m3": "sparse_linear.safetensors", "wta": "wta.safetensors",
                                 "sae": "sae.safetensors"}
"""File, beside the transformer's own, that holds a head's weights."""
QUERY_WEIGHTS = "query_weights.safetensors"
_HEAD_OPTIONS: Mapping[str, tuple[str, ...]] = {"wta": ("layers", "k", "query_k"), "sae": ("layer",)}
# sentence-transformers' SpladePooling takes log1p of its activation_function, so its names say one log less than ours.
_ST_ACTIVATIONS = {"relu": "log1p_relu", "log1p_relu": "log1p_log1p_relu"}
_POSITIONS_AFTER_PADDING = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "longformer"})


@dataclass(frozen=True, slots=True)
class Settings:
    """How a folder's model turns text into a vector.

    Attributes
    ----------
    kind : "sparse" or "dense"
    folder : Path
        The model's folder.
    weights : Path
        Folder of ``config.json``, weights and tokenizer; ``folder`` itself or a module's folder in it.
    activation : str
        Of a SPLADE head, one of ``ACTIVATIONS``; "" otherwise.
    pooling : str
        One of ``POOLINGS[kind]``.
    max_tokens : int
        Most word pieces it takes, special tokens included.
    prompts : mapping
        Text put before queries ("query") and documents ("document").
    lower_case : bool
        Lower-case the text before it is tokenised (an old sentence-transformers setting).
    config : mapping
        The parsed ``config.json``.
    head : str
        Of a sparse encoder, one of ``HEADS``; "" of a dense one.
    query : "encoder", "table" or "bow"
        Whether a query's vector comes from the encoder, a table of weights, or is 1 for each of its word pieces.
    query_table : Path or None
        File of the table, if the folder has one, whatever ``query`` says.
    expand_documents, expand_queries : bool
        False keeps the weights of the text's own word pieces alone.
    quantised : bool
        Whether matrices are stored as int8 with a scale for each row.
    options : mapping
        What else the head needs from ``sparsight.json``.
    """

    kind: Kind
    folder: Path
    weights: Path
    activation: str
    pooling: str
    max_tokens: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    lower_case: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    head: str = ""
    query: QueryBy = "encoder"
    query_table: Path | None = None
    expand_documents: bool = True
    expand_queries: bool = True
    quantised: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def read_settings(folder: Path, query: str = "") -> Settings:
    """Settings of the model in ``folder``.

    Parameters
    ----------
    folder : Path
    query : str
        "encoder", "table" or "bow" instead of what the folder says; "" keeps that.

    Raises
    ------
    CheckpointError
        If files are missing or unreadable, or the layout or a setting is not supported.
    """
    layout = read_layout(folder)
    config = read_json(layout.transformer / "config.json")
    own = read_json(folder / "sparsight.json", optional=True)
    sentence = read_json(layout.transformer / "sentence_bert_config.json", optional=True)
    kind = _choice(own.get("kind") or ("sparse" if own.get("head") else _kind_of(folder, layout, config)),
                   ("sparse", "dense"), "kind", folder)
    head = _choice(own.get("head") or "splade", HEADS, "head", folder) if kind == "sparse" else ""
    activation = ""
    if head == "splade":
        activation = _choice(own.get("activation") or _splade_activation(layout), ACTIVATIONS, "activation", folder)
    given = _splade_pooling(layout) if kind == "sparse" else _dense_pooling(layout)
    table = _find_table(folder, layout)
    expand_documents, expand_queries = _expansion(own, head, folder)
    return Settings(
        cast(Kind, kind), folder, layout.transformer, activation,
        _choice(own.get("pooling") or given, POOLINGS[kind], "pooling", folder),
        _max_tokens(own, sentence, layout.transformer, config), _prompts(own, folder),
        bool(sentence.get("do_lower_case", False)), config, head,
        _query_by(query or own.get("query") or _usual_query(head, layout), kind, head, table, folder), table,
        expand_documents, expand_queries, _quantised(own, folder),
        {name: own[name] for name in _HEAD_OPTIONS.get(head, ()) if name in own})


def _kind_of(folder: Path, layout: Layout, config: Mapping[str, Any]) -> Kind:
    if layout.modules:
        return "sparse" if "SpladePooling" in layout.modules else "dense"
    names = config.get("architectures") or []
    if any(str(name).endswith("ForMaskedLM") for name in names):
        return "sparse"
    if any(str(name).endswith("Model") for name in names):
        return "dense"
    raise CheckpointError(f"cannot tell from architectures {names} whether {folder} is a sparse or a dense encoder; "
                          'say so in sparsight.json: {"kind": "dense"}', reason="UNKNOWN_KIND", folder=folder)


def _splade_activation(layout: Layout) -> str:
    if "SpladePooling" not in layout.modules:
        return "log1p_relu"
    config = read_json(layout.modules["SpladePooling"] / "config.json", optional=True)
    given = str(config.get("activation_function", "relu"))
    return _ST_ACTIVATIONS.get(given, given)


def _splade_pooling(layout: Layout) -> str:
    if "SpladePooling" not in layout.modules:
        return "max"
    config = read_json(layout.modules["SpladePooling"] / "config.json", optional=True)
    return str(config.get("pooling_strategy", "max"))


def _dense_pooling(layout: Layout) -> str:
    if "Pooling" not in layout.modules:
        return "mean"
    config = read_json(layout.modules["Pooling"] / "config.json", optional=True)
    if "pooling_mode" in config:
        return str(config["pooling_mode"])
    modes = sorted(name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
                   for name, on in config.items() if name.startswith("pooling_mode_") and on)
    return "+".join(modes) or "mean"


def _prompts(own: Mapping[str, Any], folder: Path) -> dict[str, str]:
    prompts = own.get("prompts") or (
        read_json(folder / "config_sentence_transformers.json", optional=True).get("prompts") or {})
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise CheckpointError(f"expected prompts to map names to texts in {folder}", folder=folder)
    return {name: prompts[name] for name in ("query", "document") if prompts.get(name)}


def _max_tokens(own: Mapping[str, Any], sentence: Mapping[str, Any], weights: Path, config: Mapping[str, Any]) -> int:
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and config.get("model_type") in _POSITIONS_AFTER_PADDING:
        positions -= int(config.get("pad_token_id") or 0) + 1  # positions are counted from pad_token_id + 1
    stated = own.get("max_tokens") or sentence.get("max_seq_length")
    tokenizer = read_json(weights / "tokenizer_config.json", optional=True).get("model_max_length")
    # Tokenizers without a limit say 1e30.
    limits = [int(limit) for limit in (positions, stated, tokenizer)
              if isinstance(limit, (int, float)) and 0 < limit < 1e6]
    return min(limits, default=512)


def _find_table(folder: Path, layout: Layout) -> Path | None:
    """Our own file, a Router's module (its weights, or the JSON file it names), or OpenSearch's ``idf.json``."""
    places = [folder / QUERY_WEIGHTS]
    if layout.query_table is not None:
        named = str(read_json(layout.query_table / "config.json", optional=True).get("path") or "")
        if named.endswith(".json"):
            places += [layout.query_table / Path(named).name, folder / Path(named).name]
        places.append(layout.query_table / "model.safetensors")
    places.append(folder / "idf.json")
    return next((place for place in places if place.is_file()), None)


def _usual_query(head: str, layout: Layout) -> str:
    return "table" if layout.query_table is not None else "bow" if head == "deepimpact" else "encoder"


def _query_by(value: object, kind: str, head: str, table: Path | None, folder: Path) -> QueryBy:
    chosen = _choice(value, QUERY_CHOICES, "query", folder)
    if chosen != "encoder" and (kind == "dense" or head in ("wta", "sae")):
        raise CheckpointError(f"query {chosen!r} needs an encoder whose terms are word pieces, got {head or kind} in "
                              f"{folder}", reason="NO_QUERY_TABLE", folder=folder, query=chosen)
    if chosen == "table" and table is None:
        raise CheckpointError(f"query 'table' needs {QUERY_WEIGHTS} or idf.json in {folder}, found neither",
                              reason="NO_QUERY_TABLE", folder=folder, query=chosen)
    return cast(QueryBy, chosen)


def _expansion(own: Mapping[str, Any], head: str, folder: Path) -> tuple[bool, bool]:
    given = own.get("expansion", {})
    if (not isinstance(given, dict) or not set(given) <= {"document", "query"}
            or not all(isinstance(on, bool) for on in given.values())):
        raise CheckpointError(f'expected expansion like {{"document": true, "query": false}}, got {given!r} in '
                              f"{folder}", folder=folder)
    document, query = given.get("document", True), given.get("query", True)
    if head != "splade" and not (document and query):
        raise CheckpointError(f"only a splade head can be told not to expand, {folder} has "
                              f"{head or 'a dense encoder'}", folder=folder)
    return document, query


def _quantised(own: Mapping[str, Any], folder: Path) -> bool:
    given = own.get("quantisation")
    if given not in (None, "", "int8"):
        raise CheckpointError(f"expected quantisation 'int8', got {given!r} in {folder}", folder=folder)
    return bool(given)


def _choice(value: object, allowed: tuple[str, ...], what: str, folder: Path) -> str:
    if value not in allowed:
        raise CheckpointError(f"expected {what} {' or '.join(allowed)}, got {value!r} in {folder}", folder=folder)
    return str(value)
