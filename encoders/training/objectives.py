"""What a training step minimises: masked words, a teacher's vectors, or the teachers' rankings with few non-zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from sparsight.encoders.loading import load_encoder
from sparsight.encoders.packed import PackedTexts
from sparsight.encoders.training import losses, processes
from sparsight.encoders.training.batches import RaggedRows, document_idf
from sparsight.encoders.training.chunks import in_chunks
from sparsight.encoders.training.config import SpladeTrainingConfig
from sparsight.encoders.training.dataset import Dataset
from sparsight.encoders.training.draws import Draw
from sparsight.encoders.training.model import SpladeModel, new_model
from sparsight.encoders.training.schedule import NonzeroController
from sparsight.errors import InvalidArgumentError

__all__ = ["Objectives"]

Seen = dict[str, Any]
"""What a step saw, by name: scalar tensors, so that no step waits for the device."""


class Objectives:
    """The losses of a run, with the model they are of and the controllers of its sparsity.

    Each loss gives a scalar tensor and what it saw.

    Parameters
    ----------
    config : SpladeTrainingConfig
    data : Dataset
    device : str
    rank : int
        Of this process.

    Attributes
    ----------
    model : SpladeModel
        New, float32, on the device.
    controls : mapping
        The controllers, by what they hold: "documents", and "queries" if the configuration says how many non-zeros.

    Raises
    ------
    InvalidArgumentError
        If the backbone has no mask for ``mlm_steps``, or for ``vector_steps`` another vocabulary than the teacher.
    """

    def __init__(self, config: SpladeTrainingConfig, data: Dataset, device: str, rank: int) -> None:
        self.config, self.data, self.device, self.rank = config, data, device, rank
        backbone = load_encoder(config.backbone)
        self.mask_id = backbone.tokenizer.token_to_id("[MASK]")
        idf = document_idf(data.documents, int(backbone.settings.config["vocab_size"]))
        _check(config, data, self.mask_id, len(idf))
        self.idf = torch.from_numpy(idf).to(device)
        self.model: SpladeModel = new_model(config, idf).to(device)
        self.controls = {"documents": NonzeroController(config.document_nonzeros, config.document_penalty, config.ramp)}
        if config.query_nonzeros:
            self.controls["queries"] = NonzeroController(config.query_nonzeros, max(config.query_penalty, 1e-9),
                                                         config.ramp)
        self.dense = tuple(torch.from_numpy(part).to(device) for part in data.dense) if data.dense else None
        self.sparse = _ragged(data.sparse, device)
        self.bm25 = _ragged(data.bm25, device)

    def mlm(self, draw: Draw, step: int) -> tuple[torch.Tensor, Seen]:
        """Masked words from their context (Devlin et al. 2019), with FLOPS on the text's own weights.

        "Middle training" of Lassance and Clinchant 2022, "An Efficiency Study for SPLADE Models", arXiv 2207.03834.
        """
        model = self.model
        assert self.mask_id is not None
        texts = self.data.documents.rows(draw.documents)
        generator = np.random.default_rng([self.config.seed, 7, step, self.rank])
        hidden_words = generator.random(len(texts.ids)) < self.config.mlm_share
        hidden_words[texts.starts[:-1]] = hidden_words[texts.starts[1:] - 1] = False  # [CLS] and [SEP]
        shown = PackedTexts(np.where(hidden_words, self.mask_id, texts.ids).astype(np.int32), texts.starts)
        targets = PackedTexts(np.where(hidden_words, texts.ids.astype(np.int32), -1), texts.starts)

        def read(rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
            hidden, packing = model.hidden(shown.rows(rows))
            wanted = targets.rows(rows).ids
            where = torch.from_numpy(np.flatnonzero(wanted >= 0)).to(self.device)
            assert model.bert.bias is not None
            guessed = (hidden[where] @ model.bert.word.T + model.bert.bias).float()
            words = torch.from_numpy(wanted[wanted >= 0].astype(np.int64)).to(self.device)
            return model.weights(model.logits(hidden, packing)), F.cross_entropy(guessed, words, reduction="sum")[None]

        weights, errors = in_chunks(read, len(texts), self.config.chunk_texts)
        loss = errors.sum() / max(int(hidden_words.sum()), 1)
        nonzeros = (weights.detach() > 0).sum(1).float().mean()
        return loss + 1e-4 * losses.flops(weights, across_devices=True), {"mlm": loss.detach(), "nonzeros": nonzeros}

    def vectors(self, draw: Draw) -> tuple[torch.Tensor, Seen]:
        """The sparse teacher's logits, where it has any: squared errors of what is above 0 in either."""
        assert self.sparse is not None
        logits = self._logits(self.data.documents.rows(draw.documents))
        teacher = self.sparse[0].dense(draw.documents)
        error = torch.where(teacher > 0, logits - torch.expm1(teacher), torch.relu(logits))
        loss = error.square().sum(1).mean()
        return loss / 100, {"vectors": loss.detach(), "nonzeros": (logits.detach() > 0).sum(1).float().mean()}

    def _logits(self, texts: PackedTexts) -> torch.Tensor:
        """Largest logit of every term (B, V)."""
        def read(rows: Any) -> tuple[torch.Tensor]:
            return (self.model.logits(*self.model.hidden(texts.rows(rows))),)

        (logits,) = in_chunks(read, len(texts), self.config.chunk_texts)
        return logits

    def distil(self, draw: Draw) -> tuple[torch.Tensor, Seen]:
        """Rankings of the teachers' ensemble over all of the batch's documents, and sparsity."""
        config, model = self.config, self.model
        count = len(draw.documents)
        queries = self.data.queries.rows(draw.queries)
        weights = model.weights(self._logits(self.data.documents.rows(draw.documents).joined(queries)))
        documents, encoded = weights[:count], weights[count:]
        teacher = self._teacher(draw)
        mask = torch.from_numpy(draw.allowed).to(self.device)
        shares = [share for share in (config.dense_weight, config.sparse_weight, config.bm25_weight) if share]
        target = losses.ensemble(teacher, shares, config.teacher_scale, mask) if teacher else None
        seen: Seen = {}
        loss = torch.zeros((), device=self.device)
        for name, share, vectors in (("siamese", config.siamese_share, encoded),
                                     ("table", config.table_share, model.look_up(queries))):
            if share:
                part = self._ranking(vectors @ documents.T, target, mask, draw)
                loss = loss + share * part
                seen[name] = part.detach()
        nonzeros, query_nonzeros = processes.mean(torch.stack(
            [(rows.detach() > 0).sum(1).float().mean() for rows in (documents, encoded)]))
        seen |= {"nonzeros": nonzeros, "query_nonzeros": query_nonzeros}
        weight = self.controls["documents"].weight
        query_weight = self.controls["queries"].weight if "queries" in self.controls else config.query_penalty
        loss = loss + weight * self._penalty(documents) + query_weight * losses.l1(encoded)
        seen |= {"lambda": torch.tensor(weight), "query_lambda": torch.tensor(query_weight)}
        for name, found in (("documents", nonzeros), ("queries", query_nonzeros)):
            if name in self.controls:
                self.controls[name].update(max(float(found), 1e-3))
        return loss, seen

    def _ranking(self, scores: torch.Tensor, target: torch.Tensor | None, mask: torch.Tensor,
                 draw: Draw) -> torch.Tensor:
        config = self.config
        loss = torch.zeros((), device=self.device)
        if config.kl and target is not None:
            loss = loss + config.kl * losses.kl_distillation(scores, target, 1.0, mask)
        if config.info_nce:
            positives = torch.from_numpy(draw.positives).to(self.device)
            loss = loss + config.info_nce * losses.info_nce(scores, positives, mask, config.temperature)
        if config.margin_mse and target is not None:
            count = self.config.documents_per_query
            at = torch.arange(len(scores) * count, device=self.device).view(-1, count)
            loss = loss + config.margin_mse * losses.margin_mse(scores.gather(1, at), target.gather(1, at), 0,
                                                                mask.gather(1, at))
        return loss

    def _teacher(self, draw: Draw) -> list[torch.Tensor]:
        """Each teacher's scores (Q, D) of the batch's documents."""
        config, out = self.config, []
        if config.dense_weight and self.dense is not None:
            rows, asked = (torch.from_numpy(part).to(self.device) for part in (draw.documents, draw.queries))
            out.append(self.dense[1][asked].float() @ self.dense[0][rows].float().T)
        kind = torch.float32 if self.device == "cpu" else torch.float16
        for weight, rows_of in ((config.sparse_weight, self.sparse), (config.bm25_weight, self.bm25)):
            if weight and rows_of is not None:
                out.append((rows_of[1].dense(draw.queries, kind) @ rows_of[0].dense(draw.documents, kind).T).float())
        return out

    def _penalty(self, documents: torch.Tensor) -> torch.Tensor:
        config = self.config
        if config.regulariser == "flops_l0":
            return losses.flops_l0(documents, config.l0_threshold, across_devices=True)
        if config.regulariser == "flops_idf":
            return losses.flops_idf(documents, self.idf, across_devices=True)
        return losses.l1(documents) if config.regulariser == "l1" else losses.flops(documents, across_devices=True)


def _check(config: SpladeTrainingConfig, data: Dataset, mask_id: int | None, size: int) -> None:
    if config.mlm_steps and mask_id is None:
        raise InvalidArgumentError(f"warmup.mlm_steps: expected a backbone with [MASK], got {config.backbone}",
                                   field="warmup.mlm_steps")
    if config.vector_steps and data.sparse is not None and data.sparse[0].shape[1] != size:
        raise InvalidArgumentError(f"teachers.sparse_teacher: expected the backbone's {size:,} terms, got "
                                   f"{data.sparse[0].shape[1]:,}", field="teachers.sparse_teacher")


def _ragged(rows: Any, device: str) -> tuple[RaggedRows, RaggedRows] | None:
    if rows is None:
        return None
    documents, queries = (RaggedRows(part.indptr, part.indices, part.data, part.shape[1], device) for part in rows)
    return documents, queries
