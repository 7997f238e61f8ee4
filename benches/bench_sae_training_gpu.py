"""Training a sparse autoencoder on a GPU by fused steps, against the same training in plain torch in the same process.

    python benches/bench_sae_training_gpu.py [--embeddings FILE.npy] [--rows 475000] [--latents 16384] [--k 32]

Both train with equal first weights, batches, learning rates, AuxK and bfloat16 products, and neither waits for the
device. "plain" is what is usual: all pre-activations, torch.topk, an embedding bag, autograd with dense gradients, and
torch's fused Adam. Without a file the rows are sparse sums of planted directions whose popularity falls as 1 / rank, in
noise of a falling spectrum, at length 1, all-MiniLM-L6-v2's width.

Steps, and stages of a fused one, are timed in bursts, the ways in turns, medians: within a burst the host runs ahead as
it does in training. No latent is dead in them; what AuxK adds is a stage of its own. Then each way trains once from
start to end. FVU is of 10,000 rows held out, by float32; "dead" are latents that are active in none of the rows trained
on; "peak_mb" is all that a trainer takes. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench_max_logits import measured_peak, milliseconds
from torch.nn import functional

from sparsight.encoders.sae.fused import FusedTrainer, LateCount
from sparsight.kernels.gpu.sae_step import adam_rows, decode_loss, latent_order
from sparsight.kernels.gpu.topk_encode import topk_encode

HELD_OUT = 10_000
BURST = 20  # steps timed together
EPS = 6.25e-10
AUX_WEIGHT = 1 / 32


class PlainTrainer:
    """The training of FusedTrainer in plain torch, with its schedule."""

    def __init__(self, x: torch.Tensor, w_dec: torch.Tensor, k: int, batch: int, plan: FusedTrainer) -> None:
        self.x, self.k, self.batch, self.plan, self.done = x.bfloat16(), k, batch, plan, 0
        self.w_dec = functional.normalize(w_dec, dim=1).requires_grad_()
        self.w_enc = self.w_dec.detach().clone().requires_grad_()
        self.b_enc = torch.zeros(len(w_dec), device=x.device, requires_grad=True)
        self.adam = torch.optim.Adam([self.w_enc, self.b_enc, self.w_dec], eps=EPS, fused=True)
        self.silent = torch.zeros(len(w_dec), dtype=torch.int64, device=x.device)
        self.late, self.any_dead = LateCount(x.device), False
        self.generator = torch.Generator(x.device).manual_seed(0)
        self.order = torch.empty(0)

    def step(self, i: int) -> None:
        x = self._next_batch(i)
        with torch.autocast("cuda", torch.bfloat16):
            pre_acts = functional.linear(x, self.w_enc, self.b_enc)  # (B, N)
        found = pre_acts.topk(self.k, dim=1)
        error = x.float() - self._decode(found.values, found.indices)
        loss = error.square().sum(1).mean() / self.plan.variance
        dead = self.silent >= self.plan.dead_after
        if i % 64 == 0:
            self.any_dead = self.late.swap(dead.sum()) > 0
        if self.any_dead:
            aux = pre_acts.masked_fill(~dead, -torch.inf).topk(self.plan.aux_k, dim=1)
            missed = error.detach() - self._decode(aux.values, aux.indices)
            relative = missed.square().sum(1).mean() / error.detach().square().sum(1).mean()
            loss = loss + AUX_WEIGHT * (dead.sum() / self.plan.aux_k).clamp_max(1.0) * relative
        self.silent += self.batch
        self.silent.index_fill_(0, found.indices.view(-1), 0)
        self._update(loss, self.plan.rate(i))
        self.done += 1

    def finish(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.w_enc.detach(), self.b_enc.detach(), self.w_dec.detach()

    def _next_batch(self, i: int) -> torch.Tensor:
        first = i % (len(self.x) // self.batch) * self.batch
        if first == 0:
            self.order = torch.randperm(len(self.x), generator=self.generator, device=self.x.device)
        return self.x[self.order[first:first + self.batch]]

    def _decode(self, values: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        return functional.embedding_bag(latents, self.w_dec, per_sample_weights=values.float().relu(), mode="sum")

    def _update(self, loss: torch.Tensor, rate: float) -> None:
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        grad = self.w_dec.grad
        with torch.no_grad():
            grad -= (grad * self.w_dec).sum(1, keepdim=True) * self.w_dec
            self.adam.param_groups[0]["lr"] = rate
            self.adam.step()
            self.w_dec /= self.w_dec.norm(dim=1, keepdim=True)


def make_rows(rows: int, width: int) -> torch.Tensor:
    """Sums of 16 of 8,192 directions, popular by rank, with noise of a falling spectrum; length 1."""
    generator = torch.Generator("cuda").manual_seed(0)
    drawn = partial(torch.randn, generator=generator, device="cuda")
    atoms = functional.normalize(drawn(8192, width), dim=1)
    popularity = 1 / torch.arange(1.0, 8193.0, device="cuda")
    spectrum = torch.linalg.qr(drawn(width, width))[0] / torch.arange(1.0, width + 1, device="cuda")[:, None] ** 0.5
    parts = []
    for start in range(0, rows, 16_384):
        count = min(16_384, rows - start)
        which = torch.multinomial(popularity.expand(count, -1), 16, generator=generator)
        strength = 0.2 + torch.rand(count, 16, generator=generator, device="cuda")
        signal = functional.embedding_bag(which, atoms, per_sample_weights=strength, mode="sum")
        parts.append(functional.normalize(signal + 0.5 * drawn(count, width) @ spectrum, dim=1))
    return torch.cat(parts)


def fvu(weights: tuple[torch.Tensor, ...], x: torch.Tensor, k: int) -> tuple[float, torch.Tensor]:
    """Fraction of variance unexplained of rows, and which latents are active in any."""
    w_enc, b_enc, w_dec = weights
    missed, active = 0.0, torch.zeros(len(b_enc), dtype=torch.bool, device=x.device)
    for rows in x.split(8192):
        found = torch.addmm(b_enc, rows, w_enc.T).topk(k, dim=1)
        decoded = functional.embedding_bag(found.indices, w_dec, per_sample_weights=found.values.relu(), mode="sum")
        missed += float((rows - decoded).square().sum())
        active[found.indices[found.values > 0]] = True
    return missed / float(x.square().sum()), active


def advance(trainer: FusedTrainer | PlainTrainer, steps: int) -> None:
    for _ in range(steps):
        trainer.step(trainer.done)


def repeat(call: Callable[[], object]) -> None:
    for _ in range(BURST):
        call()


def burst_ms(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds a call within bursts."""
    return {name: round(taken / BURST, 4) for name, taken in milliseconds(calls, rounds=9).items()}


def stages(trainer: FusedTrainer) -> dict[str, float]:
    """Milliseconds of the parts of a step, with a batch of the trainer's; the sum leaves out launches' gaps."""
    k, rows, x = trainer.ks[-1], trainer.rows, trainer.inputs
    latents, values = topk_encode(x, rows.short_enc, rows.b_enc, k)
    decoded = decode_loss(latents, values, rows.short_dec, x, trainer.scale)
    entries = latent_order(latents.view(-1), len(rows.b_enc))
    update = partial(adam_rows, rows, entries, decoded.to_dec.view(-1), decoded.to_enc.view(-1), decoded.residual, x, k,
                     step=trainer.done, learning_rate=0.0)
    trainer.dead_after = 0  # AuxK has latents to choose from
    chosen = torch.arange(len(x), device=x.device)
    parts = {"batch": partial(torch.index_select, trainer.x, 0, chosen),
             "topk_encode": partial(topk_encode, x, rows.short_enc, rows.b_enc, k),
             "decode_loss": partial(decode_loss, latents, values, rows.short_dec, x, trainer.scale),
             "latent_order": partial(latent_order, latents.view(-1), len(rows.b_enc)), "adam_rows": update,
             "auxk, choice and decode": partial(trainer._aux, x, len(x) * k)}
    taken = burst_ms({name: partial(repeat, call) for name, call in parts.items()})
    counts = entries.starts.diff()
    return taken | {"most entries of a latent": int(counts.max()), "latents without": int((counts == 0).sum())}


def train(make: Callable[[], FusedTrainer | PlainTrainer], steps: int, x: torch.Tensor, k: int) -> dict[str, float]:
    """A whole run, the trainer's own start included."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, started = torch.cuda.memory_allocated(), time.perf_counter()
    trainer = make()
    advance(trainer, steps)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() - before
    held_out, _ = fvu(trainer.finish(), x[-HELD_OUT:], k)
    _, active = fvu(trainer.finish(), x[:-HELD_OUT], k)
    return {"seconds": round(seconds, 2), "step_ms": round(1e3 * seconds / steps, 3), "peak_mb": round(peak / 1e6),
            "fvu": round(held_out, 4), "dead": round(1 - float(active.float().mean()), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", type=Path, help="float matrix (rows, D), .npy")
    parser.add_argument("--rows", type=int, default=475_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    given = parser.parse_args()
    if given.embeddings is None:
        x = make_rows(given.rows + HELD_OUT, given.width)
    else:
        loaded = np.load(given.embeddings, mmap_mode="r")[:given.rows + HELD_OUT]
        x = torch.from_numpy(loaded.astype(np.float32)).cuda()
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).cuda()] * x.shape[1] ** 0.5
    x -= x[:-HELD_OUT].mean(0)
    steps = given.epochs * ((len(x) - HELD_OUT) // given.batch)
    w_dec = torch.randn(given.latents, x.shape[1], generator=torch.Generator().manual_seed(0)).cuda()
    settings = {"n_latents": given.latents, "k": given.k, "batch": given.batch, "w_dec": w_dec,
                "learning_rate": given.learning_rate, "aux_weight": AUX_WEIGHT}
    fused = partial(FusedTrainer, x[:-HELD_OUT], **settings)
    plain = partial(PlainTrainer, x[:-HELD_OUT], w_dec, given.k, given.batch)
    report = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "peak_tflops": round(measured_peak()),
              "rows": len(x) - HELD_OUT, "width": x.shape[1], "latents": given.latents, "k": given.k,
              "batch": given.batch, "steps": steps}
    alive = fused(steps=20 * BURST, dead_after=1 << 60)
    report["step_ms"] = burst_ms({"plain": partial(advance, plain(alive), BURST),
                                  "fused": partial(advance, alive, BURST)})
    print(report["step_ms"], flush=True)
    report["stages_ms"] = stages(alive)
    print(report["stages_ms"], flush=True)
    plan = fused(steps=steps)
    report["fused"] = train(partial(fused, steps=steps), steps, x, given.k)
    print(report["fused"], flush=True)
    report["plain"] = train(partial(plain, plan), steps, x, given.k)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
