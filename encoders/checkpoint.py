"""Read a model folder's weights and its tokenizer, as its settings (:mod:`sparsight.encoders.settings`) say.

Weights come from safetensors only, and no code from the folder is ever run.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsight.encoders.quantised import load_int8
from sparsight.encoders.settings import HEAD_FILES, QUERY_WEIGHTS, Settings, read_settings
from sparsight.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from torch import nn

__all__ = ["Settings", "load_head", "load_model", "load_tokenizer", "read_settings", "take",
           "weight_files"]

_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model",
                 "sentencepiece.bpe.model")
_NOT_THE_MODEL = frozenset({QUERY_WEIGHTS, *HEAD_FILES.values()})


def weight_files(settings: Settings) -> list[Path]:
    """The transformer's safetensors files, without those of heads and query tables beside them."""
    return [path for path in sorted(settings.weights.glob("*.safetensors")) if path.name not in _NOT_THE_MODEL]


def load_model(settings: Settings) -> nn.Module:
    """The transformer of a folder in float32, in evaluation mode, on the CPU.

    A SPLADE encoder's has its masked-LM head, others have none. Weights may be stored as float32, float16, bfloat16, or
    as int8 with scales where the settings say so.

    Raises
    ------
    CheckpointError
        If weights are missing, of the wrong shape, not finite, not safetensors, or need the folder's own code.
    """
    import torch

    files = weight_files(settings)
    if not files:
        raise CheckpointError(f"there are no .safetensors weights in {settings.weights} (pickled ones are not read)",
                              reason="NO_SAFETENSORS", folder=settings.weights)
    tensors = load_int8(files) if settings.quantised else None
    try:
        with _quiet_transformers():
            model, loaded = _from_tensors(settings, tensors) if tensors is not None else _from_files(settings)
    except Exception as error:  # transformers raises nearly anything on damaged folders
        raise CheckpointError(f"the model in {settings.weights} cannot be loaded: {type(error).__name__}: {error}",
                              folder=settings.weights) from error
    # Only a masked LM needs all of its head; BERT's own pooler may be absent and stays unused.
    missing = sorted(key for key in loaded["missing_keys"] if settings.head == "splade" or "pooler." not in key)
    wrong = sorted(str(key) for key in loaded["mismatched_keys"])
    if missing or wrong:
        raise CheckpointError(
            f"the weights in {settings.weights} do not fit {type(model).__name__}: {len(missing)} missing "
            f"{missing[:5]}, {len(wrong)} of another shape {wrong[:5]}", reason="WEIGHTS_DO_NOT_FIT",
            folder=settings.weights, missing=",".join(missing), mismatched=",".join(wrong))
    broken = [name for name, tensor in model.named_parameters()
              if not ("pooler." in name and settings.head != "splade") and not bool(torch.isfinite(tensor).all())]
    if broken:
        raise CheckpointError(f"weights in {settings.weights} are not finite: {broken[:5]}", folder=settings.weights)
    _check_loaded(model, _stored(files) if tensors is None else iter(tensors.items()), settings.weights)
    return model.eval().requires_grad_(False)


def _from_files(settings: Settings) -> tuple[Any, dict[str, Any]]:
    import torch
    from transformers import AutoModel, AutoModelForMaskedLM

    auto = AutoModelForMaskedLM if settings.head == "splade" else AutoModel
    made: tuple[Any, dict[str, Any]] = auto.from_pretrained(
        str(settings.weights), use_safetensors=True, local_files_only=True, trust_remote_code=False,
        output_loading_info=True, dtype=torch.float32)
    return made


def _from_tensors(settings: Settings, tensors: Mapping[str, torch.Tensor]) -> tuple[Any, dict[str, Any]]:
    import torch
    from transformers import MODEL_FOR_MASKED_LM_MAPPING, MODEL_MAPPING, AutoConfig

    config = AutoConfig.from_pretrained(str(settings.weights), local_files_only=True, trust_remote_code=False)
    kind: Any = (MODEL_FOR_MASKED_LM_MAPPING if settings.head == "splade" else MODEL_MAPPING)[type(config)]
    made: tuple[Any, dict[str, Any]] = kind.from_pretrained(
        None, config=config, state_dict=dict(tensors), output_loading_info=True, dtype=torch.float32)
    return made


def load_head(settings: Settings) -> dict[str, torch.Tensor]:
    """The tensors, in float32, of the file that a head other than SPLADE's has beside the transformer.

    Raises
    ------
    CheckpointError
        If it is missing or unreadable, or not finite.
    """
    import torch
    from safetensors.torch import load_file

    path = settings.weights / HEAD_FILES[settings.head]
    if not path.is_file():
        pickled = path.with_suffix(".pt")
        hint = (f"; {pickled.name} is pickled and not read, convert it where you trust it: python -c \"import torch, "
                f"safetensors.torch as s; s.save_file(torch.load('{pickled.name}', weights_only=True), "
                f"'{path.name}')\"" if pickled.is_file() else "")
        raise CheckpointError(f"a {settings.head} head needs {path}, which is not there{hint}", reason="NO_HEAD",
                              folder=settings.weights)
    try:
        tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    except Exception as error:  # safetensors' own error derives from Exception alone
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}", path=path) from error
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise CheckpointError(f"tensors {broken[:5]} in {path} are not finite", path=path)
    return tensors


def take(tensors: Mapping[str, torch.Tensor], name: str, shape: tuple[int, ...], settings: Settings) -> torch.Tensor:
    """One tensor of a head's file; CheckpointError unless it is there with that shape (-1 fits any length)."""
    tensor = tensors.get(name)
    if tensor is None or tensor.ndim != len(shape) or any(
            wanted not in (-1, size) for wanted, size in zip(shape, tensor.shape, strict=True)):
        got = "none" if tensor is None else f"{tuple(tensor.shape)}"
        raise CheckpointError(
            f"expected {name} {shape} in {settings.weights / HEAD_FILES[settings.head]}, got {got}",
            reason="WEIGHTS_DO_NOT_FIT", folder=settings.weights, name=name)
    return tensor


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
                from transformers import AutoTokenizer

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


def _stored(files: list[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    import torch
    from safetensors import safe_open

    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                tensor = file.get_tensor(name)
                if tensor.dtype == torch.int8:  # transformers would take the whole numbers for the weights
                    raise CheckpointError(f"{name} in {path} is int8, but sparsight.json does not say "
                                          '{"quantisation": "int8"}', reason="WEIGHTS_DO_NOT_FIT", path=path, name=name)
                yield name, tensor


def _check_loaded(model: nn.Module, tensors: Iterator[tuple[str, torch.Tensor]], folder: Path) -> None:
    """Compare the model with the files: a head tied to the wrong matrix, say, would go unnoticed otherwise."""
    import torch

    state = model.state_dict()
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for stored, tensor in tensors:
        # BERT's first checkpoints call the scale and shift of their LayerNorms gamma and beta.
        name = stored.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        loaded = state.get(name, state.get(name.removeprefix(prefix)))
        if loaded is not None and not torch.equal(loaded, tensor.to(loaded.dtype)):
            raise CheckpointError(f"{stored} was not loaded as {folder} holds it; is tie_word_embeddings in "
                                  "config.json right?", reason="WEIGHTS_DO_NOT_FIT", folder=folder, name=stored)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bars and load reports on the terminal: what is wrong with a folder is raised instead."""
    with warnings.catch_warnings():  # of tqdm, which misses ipywidgets in a notebook; no bar is shown here
        warnings.filterwarnings("ignore", "IProgress not found")
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
