"""Read a model folder: what kind it is, its settings, its weights and its tokenizer.

Three layouts are understood:

* a plain Hugging Face folder (``config.json``, ``*.safetensors``, tokenizer): sparse if its architecture is a masked
  language model, else dense;
* sentence-transformers with ``modules.json``: Transformer, Pooling, (Normalize) is dense; MLMTransformer, SpladePooling
  is sparse. Other modules are refused, because leaving one out would change the vectors;
* either of them with ``sparsight.json`` beside it, whose keys win: ``kind``, ``activation``, ``pooling``,
  ``max_tokens``, ``prompts``.

Weights come from safetensors only, and no code from the folder is ever run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sparsight.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import nn

__all__ = ["ACTIVATIONS", "POOLINGS", "Settings", "load_model", "load_tokenizer", "read_settings"]

Kind = Literal["sparse", "dense"]
ACTIVATIONS = ("log1p_relu", "log1p_log1p_relu")
POOLINGS = ("mean", "cls")
# sentence-transformers' SpladePooling takes log1p of its activation_function, so its names say one log less than ours.
_ST_ACTIVATIONS = {"relu": "log1p_relu", "log1p_relu": "log1p_log1p_relu"}
_LAYOUTS = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"], ["Transformer", "SpladePooling"])
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model",
                 "sentencepiece.bpe.model")
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
        Of a sparse encoder, one of ``ACTIVATIONS``; "" for dense ones.
    pooling : str
        Of a dense encoder, one of ``POOLINGS``; "" for sparse ones.
    max_tokens : int
        Most word pieces it takes, special tokens included.
    prompts : mapping
        Text put before queries ("query") and documents ("document").
    lower_case : bool
        Lower-case the text before it is tokenised (an old sentence-transformers setting).
    config : mapping
        The parsed ``config.json``.
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


def read_settings(folder: Path) -> Settings:
    """Settings of the model in ``folder``.

    Raises
    ------
    CheckpointError
        If files are missing or unreadable, or the layout or a setting is not supported.
    """
    modules = _modules(folder)
    weights = modules.get("Transformer", folder)
    config = _read_json(weights / "config.json")
    own = _read_json(folder / "sparsight.json", optional=True)
    sentence = _read_json(weights / "sentence_bert_config.json", optional=True)
    prompts = _read_json(folder / "config_sentence_transformers.json", optional=True).get("prompts") or {}
    kind = own.get("kind") or _kind_of(folder, modules, config)
    if kind not in ("sparse", "dense"):
        raise CheckpointError(f"expected kind 'sparse' or 'dense' in {folder / 'sparsight.json'}, got {kind!r}",
                              folder=folder, kind=kind)
    activation = pooling = ""
    if kind == "sparse":
        activation = _choice(own.get("activation") or _splade_activation(modules), ACTIVATIONS, "activation", folder)
    else:
        pooling = _choice(own.get("pooling") or _dense_pooling(modules), POOLINGS, "pooling", folder)
    prompts = own.get("prompts") or prompts
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise CheckpointError(f"expected prompts to map names to texts in {folder}", folder=folder)
    return Settings(kind, folder, weights, activation, pooling, _max_tokens(own, sentence, weights, config),
                    {name: prompts[name] for name in ("query", "document") if prompts.get(name)},
                    bool(sentence.get("do_lower_case", False)), config)


def load_model(settings: Settings) -> nn.Module:
    """The transformer of a folder in float32, in evaluation mode, on the CPU.

    A sparse encoder's has its masked-LM head, a dense one's has none.

    Raises
    ------
    CheckpointError
        If weights are missing, of the wrong shape, not finite, not safetensors, or need the folder's own code.
    """
    import torch
    from transformers import AutoModel, AutoModelForMaskedLM

    if not any(settings.weights.glob("*.safetensors")):
        raise CheckpointError(f"there are no .safetensors weights in {settings.weights} (pickled ones are not read)",
                              reason="NO_SAFETENSORS", folder=settings.weights)
    auto = AutoModelForMaskedLM if settings.kind == "sparse" else AutoModel
    try:
        with _quiet_transformers():
            model, loaded = auto.from_pretrained(
                str(settings.weights), use_safetensors=True, local_files_only=True, trust_remote_code=False,
                output_loading_info=True, dtype=torch.float32)
    except Exception as error:  # transformers raises nearly anything on damaged folders
        raise CheckpointError(f"the model in {settings.weights} cannot be loaded: {type(error).__name__}: {error}",
                              folder=settings.weights) from error
    # A dense encoder pools token vectors itself; BERT's own pooler may be absent and stays unused.
    missing = sorted(key for key in loaded["missing_keys"] if settings.kind == "sparse" or "pooler." not in key)
    wrong = sorted(str(key) for key in loaded["mismatched_keys"])
    if missing or wrong:
        raise CheckpointError(
            f"the weights in {settings.weights} do not fit {type(model).__name__}: {len(missing)} missing "
            f"{missing[:5]}, {len(wrong)} of another shape {wrong[:5]}", reason="WEIGHTS_DO_NOT_FIT",
            folder=settings.weights, missing=",".join(missing), mismatched=",".join(wrong))
    broken = [name for name, tensor in model.named_parameters()
              if not ("pooler." in name and settings.kind == "dense") and not bool(torch.isfinite(tensor).all())]
    if broken:
        raise CheckpointError(f"weights in {settings.weights} are not finite: {broken[:5]}", folder=settings.weights)
    _check_loaded(model, settings.weights)
    return model.eval().requires_grad_(False)


def load_tokenizer(settings: Settings) -> Tokenizer:
    """The folder's fast tokenizer, with its own truncation and padding switched off.

    Published ``tokenizer.json`` files carry both (128 word pieces in all-MiniLM-L6-v2's), which would cut texts short
    without a word.

    Raises
    ------
    CheckpointError
        If there is no tokenizer, or none that the ``tokenizers`` library can run.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    path = settings.weights / "tokenizer.json"
    if not any((settings.weights / name).is_file() for name in _VOCABULARIES):
        # transformers would make one with an empty vocabulary.
        raise CheckpointError(f"there is no tokenizer in {settings.weights}: expected {' or '.join(_VOCABULARIES)}",
                              reason="NO_TOKENIZER", folder=settings.weights)
    try:
        if path.is_file():
            tokenizer = Tokenizer.from_file(str(path))
        else:
            with _quiet_transformers():
                slow_or_fast = AutoTokenizer.from_pretrained(str(settings.weights), use_fast=True,
                                                             local_files_only=True, trust_remote_code=False)
            tokenizer = slow_or_fast.backend_tokenizer
    except Exception as error:
        raise CheckpointError(f"the tokenizer in {settings.weights} cannot be loaded: {type(error).__name__}: {error}",
                              folder=settings.weights) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    terms = settings.config.get("vocab_size")
    if isinstance(terms, int) and tokenizer.get_vocab_size() > terms:
        raise CheckpointError(f"the tokenizer in {settings.weights} knows {tokenizer.get_vocab_size()} word pieces, "
                              f"the model {terms}", folder=settings.weights)
    return tokenizer


def _check_loaded(model: nn.Module, folder: Path) -> None:
    """Compare the model with the files: a head tied to the wrong matrix, say, would go unnoticed otherwise."""
    import torch
    from safetensors import safe_open

    state = model.state_dict()
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for stored in file.keys():  # noqa: SIM118 - it is no mapping
                # BERT's first checkpoints call the scale and shift of their LayerNorms gamma and beta.
                name = stored.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
                loaded = state.get(name, state.get(name.removeprefix(prefix)))
                if loaded is not None and not torch.equal(loaded, file.get_tensor(stored).to(loaded.dtype)):
                    raise CheckpointError(f"{stored} was not loaded as {path} holds it; is tie_word_embeddings in "
                                          "config.json right?", reason="WEIGHTS_DO_NOT_FIT", folder=folder, name=stored)


def _kind_of(folder: Path, modules: Mapping[str, Path], config: Mapping[str, Any]) -> Kind:
    if modules:
        return "sparse" if "SpladePooling" in modules else "dense"
    names = config.get("architectures") or []
    if any(str(name).endswith("ForMaskedLM") for name in names):
        return "sparse"
    if any(str(name).endswith("Model") for name in names):
        return "dense"
    raise CheckpointError(f"cannot tell from architectures {names} whether {folder} is a sparse or a dense encoder; "
                          'say so in sparsight.json: {"kind": "dense"}', reason="UNKNOWN_KIND", folder=folder)


def _modules(folder: Path) -> dict[str, Path]:
    """Module folders of a sentence-transformers model by short name; empty for a plain folder."""
    path = folder / "modules.json"
    if not path.is_file():
        return {}
    try:
        entries = [(str(entry["type"]).rsplit(".", 1)[-1], folder / str(entry["path"])) for entry in _parse(path)]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a list of modules: {error!r}", folder=folder) from error
    names = ["Transformer" if name == "MLMTransformer" else name for name, _ in entries]
    if names not in _LAYOUTS:
        raise CheckpointError(f"the modules {names} of {folder} are not supported: expected Transformer, Pooling, "
                              "(Normalize) or MLMTransformer, SpladePooling", reason="UNSUPPORTED_MODULES",
                              folder=folder)
    if any(not place.resolve().is_relative_to(folder.resolve()) for _, place in entries):
        raise CheckpointError(f"a module of {path} lies outside the model's folder", folder=folder)
    return dict(zip(names, (place for _, place in entries), strict=True))


def _splade_activation(modules: Mapping[str, Path]) -> str:
    if "SpladePooling" not in modules:
        return "log1p_relu"
    config = _read_json(modules["SpladePooling"] / "config.json", optional=True)
    if config.get("pooling_strategy", "max") != "max":
        raise CheckpointError(f"expected SpladePooling 'max', got {config['pooling_strategy']!r} in "
                              f"{modules['SpladePooling']}", folder=modules["SpladePooling"])
    given = str(config.get("activation_function", "relu"))
    return _ST_ACTIVATIONS.get(given, given)


def _dense_pooling(modules: Mapping[str, Path]) -> str:
    if "Pooling" not in modules:
        return "mean"
    config = _read_json(modules["Pooling"] / "config.json", optional=True)
    if "pooling_mode" in config:
        return str(config["pooling_mode"])
    modes = sorted(name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
                   for name, on in config.items() if name.startswith("pooling_mode_") and on)
    return "+".join(modes) or "mean"


def _max_tokens(own: Mapping[str, Any], sentence: Mapping[str, Any], weights: Path, config: Mapping[str, Any]) -> int:
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and config.get("model_type") in _POSITIONS_AFTER_PADDING:
        positions -= int(config.get("pad_token_id") or 0) + 1  # positions are counted from pad_token_id + 1
    stated = own.get("max_tokens") or sentence.get("max_seq_length")
    tokenizer = _read_json(weights / "tokenizer_config.json", optional=True).get("model_max_length")
    # Tokenizers without a limit say 1e30.
    limits = [int(limit) for limit in (positions, stated, tokenizer)
              if isinstance(limit, (int, float)) and 0 < limit < 1e6]
    return min(limits, default=512)


def _choice(value: object, allowed: tuple[str, ...], what: str, folder: Path) -> str:
    if value not in allowed:
        raise CheckpointError(f"expected {what} {' or '.join(allowed)}, got {value!r} in {folder}", folder=folder)
    return str(value)


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", reason="BAD_CONFIG", path=path) from error


def _read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not path.is_file():
        return {}
    value = _parse(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"expected a JSON object in {path}, got {type(value).__name__}", path=path)
    return value


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bars and load reports on the terminal: what is wrong with a folder is raised instead."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
