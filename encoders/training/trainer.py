"""The steps of a SPLADE training run: warm start, then distillation, with the sparsity held by a controller.

A run goes on from its last checkpoint and ends a slice when its time is up. What a step draws depends on the seed and
the step's number alone, so a resumed run sees the data that an uninterrupted one would have seen. Where
torch.distributed is initialised, every process draws its own part of each step, gradients are averaged, and the first
one writes.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch.nn import functional as F

from sparsight.encoders.loading import load_encoder
from sparsight.encoders.training import losses, processes
from sparsight.encoders.training.batches import PackedTexts, RaggedRows
from sparsight.encoders.training.chunks import in_chunks
from sparsight.encoders.training.config import SpladeTrainingConfig
from sparsight.encoders.training.dataset import Dataset
from sparsight.encoders.training.draws import Draw, Draws
from sparsight.encoders.training.model import SpladeModel, export, new_model
from sparsight.encoders.training.schedule import NonzeroController, learning_rate
from sparsight.encoders.training.self_mining import self_mined
from sparsight.encoders.training.teachers import Say
from sparsight.errors import InvalidArgumentError

__all__ = ["Trainer", "document_idf"]

_LOG_EVERY = 25
_SAY_SECONDS = 10.0


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

    Raises
    ------
    InvalidArgumentError
        If the backbone has no mask for ``mlm_steps``, or for ``vector_steps`` another vocabulary than the teacher.
    """

    def __init__(self, config: SpladeTrainingConfig, data: Dataset, device: str, say: Say) -> None:
        torch.manual_seed(config.seed)
        self.config, self.data, self.device, self.say = config, data, device, say
        self.rank, self.count = processes.rank_and_count()
        self.draws = Draws(config, data, self.rank, self.count)
        backbone = load_encoder(config.backbone)
        self.mask_id = backbone.tokenizer.token_to_id("[MASK]")
        self.idf = torch.from_numpy(document_idf(data.documents, int(backbone.settings.config["vocab_size"])))
        _check(config, data, self.mask_id, len(self.idf))
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
        self._said, self._first = 0.0, (0, 0.0)  # when the last line was said; this slice's first step, and when
        self._log: list[dict[str, Any]] = []  # of the steps since the last line; tensors, so that no step waits

    # --- the run ----------------------------------------------------------------------------------------------

    @property
    def total(self) -> int:
        """Steps of the run, those of the warm start included."""
        return self.warm_steps + self.config.steps

    def run(self, folder: Path, since: float | None = None) -> bool:
        """Train until the end or until the slice's time is up; true at the end, when the model is written.

        Parameters
        ----------
        folder : Path
            Gets ``checkpoint.pt``, ``log.jsonl`` and at the end ``model`` (int8) and ``model-float32``.
        since : float, optional
            When the slice began, by `time.monotonic`; now if left out. At least one step is done.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._resume(folder)
        total = self.total
        began = time.monotonic()
        since = began if since is None else since
        self._said, self._first = began, (self.step, began)
        if self._mined_by(self.step):
            self._mine(folder, self._mined_by(self.step))
        with ThreadPoolExecutor(1) as ahead:
            drawn = ahead.submit(self.draws.draw, self.step)
            while self.step < total:
                draw = drawn.result()
                if self._mined_by(self.step + 1) == self.step + 1 < total:
                    self._one(draw)  # the next draw waits for what is mined after this step
                    self._mine(folder, self.step + 1)
                    drawn = ahead.submit(self.draws.draw, self.step + 1)
                else:
                    drawn = ahead.submit(self.draws.draw, self.step + 1)
                    self._one(draw)
                self.step += 1
                if self.step % _LOG_EVERY == 0 or self.step == total:
                    self._report(folder, self.seconds + time.monotonic() - began)
                late = bool(self.config.slice_seconds) and processes.first_says(
                    self.config.slice_seconds < time.monotonic() - since, self.device)
                if late or self.step % self.config.checkpoint_every == 0 or self.step == total:
                    self._save(folder, self.seconds + time.monotonic() - began)
                if late and self.step < total:
                    self.seconds += time.monotonic() - began
                    return False
        self.seconds += time.monotonic() - began
        self._restore_masters()
        if self.rank == 0:
            export(self.model, self.config, folder / "model")
            export(self.model, self.config, folder / "model-float32", quantise=False)
        return True

    def _mined_by(self, step: int) -> int:
        """The last step up to ``step`` before which candidates are mined; 0 for none."""
        every = self.config.mine_every
        rounds = (step - self.warm_steps) // every if every else 0
        return self.warm_steps + rounds * every if rounds > 0 else 0

    def _mine(self, folder: Path, step: int) -> None:
        """Add the model's own candidates to the teachers'."""
        if self.rank == 0:
            self_mined(folder, step, self.model, self.data, self.config.candidates)
        processes.wait_for_all()
        own = self_mined(folder, step, self.model, self.data, self.config.candidates)
        self.draws.candidates = np.concatenate([self.data.candidates, own], axis=1)
        self.say(f"mined the model's own candidates before step {step:,}")

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
        gradients = [master.grad for master in self.masters if master.grad is not None]
        processes.average(gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        torch._foreach_mul_(gradients, torch.clamp(config.clip / (norm + 1e-6), max=1.0))
        self.optimiser.step()
        torch._foreach_copy_([p.data for p in self.parameters], self.masters)
        seen |= {"loss": loss.detach(), "rate": torch.tensor(rate), "norm": norm}
        self._log.append(seen)

    # --- losses -----------------------------------------------------------------------------------------------

    def _mlm(self, draw: Draw) -> tuple[torch.Tensor, dict[str, Any]]:
        """Masked words from their context (Devlin et al. 2019), with FLOPS on the text's own weights.

        "Middle training" of Lassance and Clinchant 2022, "An Efficiency Study for SPLADE Models", arXiv 2207.03834.
        """
        model = self.model
        assert self.mask_id is not None
        texts = self.data.documents.rows(draw.documents)
        generator = np.random.default_rng([self.config.seed, 7, self.step, self.rank])
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

    def _vectors(self, draw: Draw) -> tuple[torch.Tensor, dict[str, Any]]:
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

    def _distil(self, draw: Draw) -> tuple[torch.Tensor, dict[str, Any]]:
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
        seen: dict[str, Any] = {}
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
        penalty = self._penalty(documents)
        loss = loss + self.documents_control.weight * penalty
        query_weight = config.query_penalty if self.queries_control is None else self.queries_control.weight
        loss = loss + query_weight * losses.l1(encoded)
        seen |= {"lambda": torch.tensor(self.documents_control.weight), "query_lambda": torch.tensor(query_weight)}
        self.documents_control.update(max(float(nonzeros), 1e-3))
        if self.queries_control is not None:
            self.queries_control.update(max(float(query_nonzeros), 1e-3))
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
            return losses.flops_idf(documents, self.idf.to(documents.device), across_devices=True)
        return losses.l1(documents) if config.regulariser == "l1" else losses.flops(documents, across_devices=True)

    # --- files ------------------------------------------------------------------------------------------------

    def _restore_masters(self) -> None:
        self.model.bert.to(torch.float32)
        with torch.no_grad():
            for parameter, master in zip(self.model.parameters(), self.masters, strict=True):
                parameter.copy_(master)

    def _report(self, folder: Path, seconds: float) -> None:
        """A line of the log: means of what the steps since the last one saw."""
        names = self._log[-1].keys()
        means = {name: np.mean([float(entry[name]) for entry in self._log if name in entry]) for name in names}
        self._log.clear()
        if self.rank:
            return
        line = {"step": self.step, "seconds": round(seconds, 1),
                **{name: float(f"{value:.6g}") for name, value in means.items()}}
        with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        now = time.monotonic()
        if now - self._said >= _SAY_SECONDS or self.step == self.total:
            self._said = now
            self.say(self._progress(line, now))

    def _progress(self, line: dict[str, float], now: float) -> str:
        step, began = self._first
        speed = (self.step - step) / max(now - began, 1e-9)
        left = (self.total - self.step) / speed
        remaining = f"{left / 60:.0f} min" if left >= 120 else f"{left:.0f} s"
        return (f"step {self.step:,} of {self.total:,}: loss {line['loss']:.4g}, {line['nonzeros']:.0f} non-zeros, "
                f"rate {line['rate']:.2g}, {speed:.3g} steps/s, {remaining} left")

    def _save(self, folder: Path, seconds: float) -> None:
        if self.rank:
            return
        seen = [{name: float(value) for name, value in entry.items()} for entry in self._log]
        state = {"step": self.step, "seconds": seconds, "masters": self.masters, "log": seen,
                 "optimiser": self.optimiser.state_dict(), "documents_control": self.documents_control.state_dict(),
                 "queries_control": self.queries_control and self.queries_control.state_dict()}
        torch.save(state, folder / "unfinished-checkpoint.pt")
        (folder / "unfinished-checkpoint.pt").replace(folder / "checkpoint.pt")

    def _resume(self, folder: Path) -> None:
        path = folder / "checkpoint.pt"
        if not path.exists():
            self._shorten_log(folder)
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
        self.step, self.seconds, self._log = state["step"], state["seconds"], state.get("log", [])
        self._shorten_log(folder)
        self.say(f"going on from step {self.step:,} of {self.total:,}")

    def _shorten_log(self, folder: Path) -> None:
        """Drop what was logged after the checkpoint: those steps come again."""
        path = folder / "log.jsonl"
        if self.rank or not path.exists():
            return
        lines = path.read_text("utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.step]
        if len(kept) < len(lines):
            path.with_name("unfinished-log.jsonl").write_text("".join(kept), "utf-8")
            path.with_name("unfinished-log.jsonl").replace(path)


def document_idf(documents: PackedTexts, size: int) -> NDArray[np.float32]:
    """``log(1 + (N - n + 0.5) / (n + 0.5))`` of every word piece, n documents of N having it: float32 (``size``,).

    Robertson and Zaragoza 2009, as Lucene computes it.
    """
    n = np.zeros(size, np.int64)
    count, per_chunk = len(documents), 32_768
    for first in range(0, count, per_chunk):
        starts = documents.starts[first:first + per_chunk + 1]
        ids = documents.ids[starts[0]:starts[-1]].astype(np.int32)
        rows = csr_matrix((np.ones(len(ids), np.int8), ids, (starts - starts[0]).astype(np.int32)),
                          shape=(len(starts) - 1, size))
        # By word pieces: a document that has one twice stands there twice in a row. Linear, where unique() sorts.
        columns = rows.tocsc()
        new = np.ones(len(ids) + 1, np.int64)
        new[1:-1] = columns.indices[1:] != columns.indices[:-1]
        new[columns.indptr] = 1
        before = np.concatenate([[0], np.cumsum(new)])
        n += before[columns.indptr[1:]] - before[columns.indptr[:-1]]
    return np.log1p((count - n + 0.5) / (n + 0.5)).astype(np.float32)


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
