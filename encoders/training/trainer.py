"""The steps of a SPLADE training run: warm start, then distillation, with the sparsity held by a controller.

A run goes on from its last checkpoint and ends a slice when its time is up. What a step draws depends on the seed and
the step's number alone, so a resumed run sees the data that an uninterrupted one would have seen.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from sparsight.encoders.training import losses
from sparsight.encoders.training.batches import RaggedRows
from sparsight.encoders.training.config import SpladeTrainingConfig
from sparsight.encoders.training.dataset import Dataset
from sparsight.encoders.training.draws import Draw, Draws
from sparsight.encoders.training.model import SpladeModel, export, new_model
from sparsight.encoders.training.schedule import NonzeroController, learning_rate
from sparsight.encoders.training.teachers import Say

__all__ = ["Trainer"]

_LOG_EVERY = 25
_MASK_ID = 103  # [MASK] of BERT's vocabularies


class Trainer:
    """A run in a folder.

    Parameters
    ----------
    config : SpladeTrainingConfig
    data : Dataset
    device : str
        "cuda" trains in bfloat16 with float32 copies of the weights; "cpu" in float32.
    say : callable
        Gets a line of progress now and then.
    """

    def __init__(self, config: SpladeTrainingConfig, data: Dataset, device: str, say: Say) -> None:
        torch.manual_seed(config.seed)
        self.config, self.data, self.device, self.say = config, data, device, say
        self.draws = Draws(config, data)
        self.idf = document_idf(data)
        self.model: SpladeModel = new_model(config, self.idf.numpy()).to(device)
        table = self.model.table
        self.masters = [parameter.detach().clone() for parameter in self.model.parameters()]
        if device != "cpu":
            self.model.bert.to(torch.bfloat16)
        self.parameters = list(self.model.parameters())
        self.table_at = next(i for i, parameter in enumerate(self.parameters) if parameter is table)
        groups = [{"params": [m for i, m in enumerate(self.masters) if i != self.table_at and m.ndim > 1],
                   "weight_decay": config.weight_decay},
                  {"params": [m for i, m in enumerate(self.masters) if i != self.table_at and m.ndim == 1],
                   "weight_decay": 0.0},
                  {"params": [self.masters[self.table_at]], "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-8, fused=device != "cpu")
        self.documents_control = NonzeroController(config.document_nonzeros, config.document_penalty, config.ramp)
        self.queries_control = (NonzeroController(config.query_nonzeros, max(config.query_penalty, 1e-9), config.ramp)
                                if config.query_nonzeros else None)
        self.step = 0
        self.seconds = 0.0
        self.warm_steps = config.mlm_steps + config.vector_steps
        self.dense = tuple(torch.from_numpy(part).to(device) for part in data.dense) if data.dense else None
        self.sparse = _ragged(data.sparse, device)
        self.bm25 = _ragged(data.bm25, device)
        self._log: list[dict[str, float]] = []

    # --- the run ----------------------------------------------------------------------------------------------

    def run(self, folder: Path) -> bool:
        """Train until the end or until the slice's time is up; true at the end, when the model is written."""
        folder.mkdir(parents=True, exist_ok=True)
        self._resume(folder)
        total = self.warm_steps + self.config.steps
        began = time.monotonic()
        with ThreadPoolExecutor(1) as ahead:
            drawn = ahead.submit(self.draws.draw, self.step)
            while self.step < total:
                draw = drawn.result()
                drawn = ahead.submit(self.draws.draw, self.step + 1)
                self._one(draw)
                self.step += 1
                if self.step % _LOG_EVERY == 0:
                    self._report(folder, self.seconds + time.monotonic() - began)
                late = 0 < self.config.slice_seconds < time.monotonic() - began
                if late or self.step % self.config.checkpoint_every == 0 or self.step == total:
                    self._save(folder, self.seconds + time.monotonic() - began)
                if late and self.step < total:
                    self.say(f"the slice's {self.config.slice_seconds:g} s are over at step {self.step:,} of {total:,}")
                    return False
        self.seconds += time.monotonic() - began
        self._restore_masters()
        export(self.model, self.config, folder / "model")
        export(self.model, self.config, folder / "model-float32", quantise=False)
        return True

    def _one(self, draw: Draw) -> None:
        """One step: rates, losses, gradients, update."""
        config, step = self.config, self.step
        warm = step < self.warm_steps
        done, total = (step, self.warm_steps) if warm else (step - self.warm_steps, config.steps)
        peak = config.warm_rate if warm else config.encoder_rate
        rate = learning_rate(done, total, peak, min(config.rate_warmup, total // 4), config.rate_floor)
        for group, value in zip(self.optimiser.param_groups,
                                (rate, rate, 0.0 if warm else learning_rate(done, total, config.table_rate,
                                                                            config.rate_warmup, config.rate_floor)),
                                strict=True):
            group["lr"] = value
        if step < config.mlm_steps:
            loss, seen = self._mlm(draw)
        elif warm:
            loss, seen = self._vectors(draw)
        else:
            loss, seen = self._distil(draw)
        loss.backward()
        for master, parameter in zip(self.masters, self.parameters, strict=True):
            master.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        norm = torch.nn.utils.get_total_norm([m.grad for m in self.masters if m.grad is not None])
        scale = torch.clamp(config.clip / (norm + 1e-6), max=1.0)
        torch._foreach_mul_([m.grad for m in self.masters if m.grad is not None], scale)
        self.optimiser.step()
        torch._foreach_copy_([p.data for p in self.parameters], self.masters)
        seen |= {"loss": loss.detach(), "rate": torch.tensor(rate), "norm": norm}
        self._log.append(seen)  # type: ignore[arg-type] # tensors until they are reported: no wait for the device

    # --- losses -----------------------------------------------------------------------------------------------

    def _mlm(self, draw: Draw) -> tuple[torch.Tensor, dict[str, Any]]:
        """Masked words from their context (Devlin et al. 2019), with FLOPS on the text's own weights.

        "Middle training" of Lassance and Clinchant 2022, "An Efficiency Study for SPLADE Models", arXiv 2207.03834.
        """
        model = self.model
        texts = self.data.documents.rows(draw.documents)
        ids, packing = texts.on(self.device)
        generator = np.random.default_rng([self.config.seed, 7, self.step])
        inner = np.ones(len(texts.ids), bool)
        inner[texts.starts[:-1]] = inner[texts.starts[1:] - 1] = False
        chosen = np.flatnonzero(inner & (generator.random(len(inner)) < self.config.mlm_share))
        where = torch.from_numpy(chosen).to(self.device)
        shown = ids.clone()
        shown[where] = _MASK_ID
        hidden = model.bert(shown, packing)
        assert model.bert.bias is not None
        logits = hidden[where] @ model.bert.word.T + model.bert.bias
        loss = F.cross_entropy(logits.float(), ids[where])
        weights = model.weights(model.logits(hidden, packing))
        nonzeros = (weights.detach() > 0).sum(1).float().mean()
        return loss + 1e-4 * losses.flops(weights), {"mlm": loss.detach(), "nonzeros": nonzeros}

    def _vectors(self, draw: Draw) -> tuple[torch.Tensor, dict[str, Any]]:
        """The sparse teacher's logits, where it has any: squared errors of what is above 0 in either."""
        assert self.sparse is not None
        hidden, packing = self.model.hidden(self.data.documents.rows(draw.documents))
        logits = self.model.logits(hidden, packing)
        teacher = self.sparse[0].dense(draw.documents)
        error = torch.where(teacher > 0, logits - torch.expm1(teacher), torch.relu(logits))
        loss = error.square().sum(1).mean()
        return loss / 100, {"vectors": loss.detach(), "nonzeros": (logits.detach() > 0).sum(1).float().mean()}

    def _distil(self, draw: Draw) -> tuple[torch.Tensor, dict[str, Any]]:
        """Rankings of the teachers' ensemble over all of the batch's documents, and sparsity."""
        config, model = self.config, self.model
        count = len(draw.documents)
        queries = self.data.queries.rows(draw.queries)
        hidden, packing = model.hidden(self.data.documents.rows(draw.documents).joined(queries))
        weights = model.weights(model.logits(hidden, packing))
        documents, encoded = weights[:count], weights[count:]
        teacher = self._teacher(draw)
        mask = torch.from_numpy(draw.allowed).to(self.device)
        target = losses.ensemble(teacher, [w for w in (config.dense_weight, config.sparse_weight, config.bm25_weight) if w],
                                 config.teacher_scale, mask)
        seen: dict[str, Any] = {}
        loss = torch.zeros((), device=self.device)
        for name, share, vectors in (("siamese", config.siamese_share, encoded),
                                     ("table", config.table_share, model.look_up(queries))):
            if share:
                part = self._ranking(vectors @ documents.T, target, mask, draw)
                loss = loss + share * part
                seen[name] = part.detach()
        nonzeros = (documents.detach() > 0).sum(1).float().mean()
        seen |= {"nonzeros": nonzeros, "query_nonzeros": (encoded.detach() > 0).sum(1).float().mean()}
        penalty = self._penalty(documents)
        loss = loss + self.documents_control.weight * penalty
        query_weight = config.query_penalty if self.queries_control is None else self.queries_control.weight
        loss = loss + query_weight * losses.l1(encoded)
        seen |= {"lambda": torch.tensor(self.documents_control.weight), "query_lambda": torch.tensor(query_weight)}
        self.documents_control.update(max(float(nonzeros), 1e-3))
        if self.queries_control is not None:
            self.queries_control.update(max(float(seen["query_nonzeros"]), 1e-3))
        return loss, seen

    def _ranking(self, scores: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, draw: Draw) -> torch.Tensor:
        config = self.config
        loss = torch.zeros((), device=self.device)
        if config.kl:
            loss = loss + config.kl * losses.kl_distillation(scores, target, 1.0, mask)
        if config.info_nce:
            positives = torch.from_numpy(draw.positives).to(self.device)
            loss = loss + config.info_nce * losses.info_nce(scores, positives, mask, config.temperature)
        if config.margin_mse:
            count = self.config.documents_per_query
            at = torch.arange(len(scores), device=self.device)[:, None] * count + torch.arange(count, device=self.device)
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
            return losses.flops_l0(documents, config.l0_threshold)
        if config.regulariser == "flops_idf":
            return losses.flops_idf(documents, self.idf.to(documents.device))
        return losses.l1(documents) if config.regulariser == "l1" else losses.flops(documents)

    # --- files ------------------------------------------------------------------------------------------------

    def _restore_masters(self) -> None:
        self.model.bert.to(torch.float32)
        with torch.no_grad():
            for parameter, master in zip(self.model.parameters(), self.masters, strict=True):
                parameter.copy_(master)

    def _report(self, folder: Path, seconds: float) -> None:
        names = self._log[-1].keys()
        line = {name: round(float(np.mean([float(entry[name]) for entry in self._log if name in entry])), 6)
                for name in names}
        self._log.clear()
        line = {"step": self.step, "seconds": round(seconds, 1), **line}
        with (folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.step % (4 * _LOG_EVERY) == 0:
            self.say(" ".join(f"{name}={value:g}" for name, value in line.items()))

    def _save(self, folder: Path, seconds: float) -> None:
        state = {"step": self.step, "seconds": seconds, "masters": self.masters,
                 "optimiser": self.optimiser.state_dict(), "documents_control": self.documents_control.state_dict(),
                 "queries_control": self.queries_control and self.queries_control.state_dict()}
        torch.save(state, folder / "unfinished-checkpoint.pt")
        (folder / "unfinished-checkpoint.pt").replace(folder / "checkpoint.pt")

    def _resume(self, folder: Path) -> None:
        path = folder / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        with torch.no_grad():
            for master, saved, parameter in zip(self.masters, state["masters"], self.parameters, strict=True):
                master.copy_(saved)
                parameter.copy_(saved)
        self.optimiser.load_state_dict(state["optimiser"])
        self.documents_control.load_state_dict(state["documents_control"])
        if self.queries_control is not None:
            self.queries_control.load_state_dict(state["queries_control"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.say(f"going on from step {self.step:,}")


def document_idf(data: Dataset) -> torch.Tensor:
    """``log(1 + (N - n + 0.5) / (n + 0.5))`` of every word piece, n documents of N having it: float32 (V,).

    Robertson and Zaragoza 2009, as Lucene computes it.
    """
    count = len(data.documents)
    size = 30_522 if data.documents.ids.max(initial=0) < 30_522 else int(data.documents.ids.max()) + 1
    rows = np.repeat(np.arange(count, dtype=np.int64), np.diff(data.documents.starts))
    keys = np.unique(rows * size + data.documents.ids)
    n = np.bincount(keys % size, minlength=size)
    return torch.from_numpy(np.log1p((count - n + 0.5) / (n + 0.5)).astype(np.float32))


def _ragged(rows: Any, device: str) -> tuple[RaggedRows, RaggedRows] | None:
    if rows is None:
        return None
    documents, queries = (RaggedRows(part.indptr, part.indices, part.data, part.shape[1], device) for part in rows)
    return documents, queries
