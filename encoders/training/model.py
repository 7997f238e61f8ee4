"""What is trained: a packed BERT with its masked-LM head, and a table of query weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sparsight.encoders.checkpoint import load_model
from sparsight.encoders.loading import load_encoder
from sparsight.encoders.packed import PackedBert, PackedTexts, Packing
from sparsight.encoders.quantised import save_int8
from sparsight.encoders.query_table import save_query_weights, special_pieces
from sparsight.encoders.training.config import SpladeTrainingConfig
from sparsight.kernels.reference.max_logits import activate
from sparsight.kernels.reference.max_logits import max_logits as reference_max_logits

__all__ = ["SpladeModel", "export", "new_model"]


class SpladeModel(nn.Module):
    """Encoder, head and query table.

    Parameters
    ----------
    bert : PackedBert
        With a head.
    table : float32, shape (V,)
        Query weights at the start; negative ones count as 0.
    activation : str
        One of :data:`sparsight.encoders.settings.ACTIVATIONS`.
    """

    def __init__(self, bert: PackedBert, table: torch.Tensor, activation: str) -> None:
        super().__init__()
        self.bert = bert
        self.table = nn.Parameter(table.float())
        self.activation = activation

    def hidden(self, texts: PackedTexts) -> tuple[torch.Tensor, Packing]:
        """Vectors (T, H) that meet the vocabulary."""
        ids, packing = texts.on(self.bert.word.device)
        return self.bert(ids, packing), packing

    def logits(self, hidden: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Largest logit of every term, float32 (B, V)."""
        assert self.bert.bias is not None
        if hidden.is_cuda:
            from sparsight.kernels.gpu.max_logits import MaxLogits, TokenTiles

            tiles = TokenTiles(packing.starts, hidden.shape[1], hidden.device, gradients=True)
            made: torch.Tensor = MaxLogits.apply(hidden, tiles, self.bert.word, self.bert.bias)
            return made
        return reference_max_logits(hidden, packing.bounds, self.bert.word, self.bert.bias).float()

    def weights(self, logits: torch.Tensor) -> torch.Tensor:
        """Term weights (B, V)."""
        return activate(logits, self.activation)

    def look_up(self, texts: PackedTexts) -> torch.Tensor:
        """Query vectors (B, V) of the table: each of a text's word pieces once."""
        device = self.table.device
        rows = torch.from_numpy(np.repeat(np.arange(len(texts)), np.diff(texts.starts))).to(device)
        ids = torch.from_numpy(texts.ids.astype(np.int64)).to(device)
        present = torch.zeros((len(texts), len(self.table)), device=device)
        present[rows, ids] = 1.0
        return present * torch.relu(self.table)


def new_model(config: SpladeTrainingConfig, idf: NDArray[np.float32]) -> SpladeModel:
    """The backbone with the head that the configuration asks for; the table starts at ``idf`` (V,) over 2.

    A new head's transform starts as the identity (GELU and LayerNorm follow), its bias at ``head_bias``.
    """
    encoder = load_encoder(config.backbone)
    keep = config.head == "checkpoint"
    settings = encoder.settings
    bert = PackedBert(settings.config, head=True)
    state = {name.removeprefix("bert."): tensor for name, tensor in load_model(settings).state_dict().items()}
    if not keep:
        width = int(settings.config["hidden_size"])
        name = "cls.predictions"
        state |= {f"{name}.transform.dense.weight": torch.eye(width),
                  f"{name}.transform.dense.bias": torch.zeros(width),
                  f"{name}.transform.LayerNorm.weight": torch.ones(width),
                  f"{name}.transform.LayerNorm.bias": torch.zeros(width),
                  f"{name}.bias": torch.full((int(settings.config["vocab_size"]),), config.head_bias)}
    bert.load(state)
    table = torch.from_numpy(idf.astype(np.float32)) / 2
    table[torch.from_numpy(special_pieces(encoder.tokenizer, len(idf)))] = -1.0  # stays out: relu has no gradient there
    return SpladeModel(bert, table, config.activation)


def export(model: SpladeModel, config: SpladeTrainingConfig, folder: Path, *, quantise: bool = True) -> None:
    """Write a model folder that ``load_encoder`` reads: weights, tokenizer, query table, settings.

    Parameters
    ----------
    quantise : bool
        int8 matrices (:func:`save_int8`); else float32.
    """
    source = load_encoder(config.backbone).settings
    folder.mkdir(parents=True, exist_ok=True)
    given = {key: value for key, value in source.config.items()
             if not key.startswith("_") and key != "transformers_version"}
    written: dict[str, Any] = {**given, "architectures": ["BertForMaskedLM"], "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (source.weights / name).exists():
            shutil.copyfile(source.weights / name, folder / name)
            (folder / name).chmod(0o644)
    own = {"kind": "sparse", "activation": model.activation, "query": "encoder" if config.siamese_share else "table",
           "max_tokens": min(256, int(source.config["max_position_embeddings"]))}
    (folder / "sparsight.json").write_text(json.dumps(own, indent=2) + "\n")
    save_query_weights(torch.relu(model.table).detach().cpu().numpy(), folder)
    state = {name: tensor.float().cpu() for name, tensor in model.bert.to_transformers().items()}
    if quantise:
        save_int8(state, folder)
    else:
        from safetensors.torch import save_file

        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
