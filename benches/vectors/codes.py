"""SAE codes of dense vectors: a TopK autoencoder with an auxiliary loss, trained on the corpus (Gao et al. 2024)."""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benches.vectors.encode import round_to_bfloat16

__all__ = ["train_codes"]

K = 32
BATCH = 4096
DEAD_AFTER = 200  # steps without being among the k
AUX_K, AUX_WEIGHT = 256, 1 / 32


def _top(pre: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    values, places = torch.topk(pre, k, dim=1)
    return torch.relu(values), places


def train_codes(documents: NDArray[np.float32], queries: NDArray[np.float32], latents: int, device: str,
                seconds: float = 60.0) -> tuple[csr_matrix, csr_matrix]:
    """Codes (k = 32 of ``latents``) of documents and queries by an autoencoder trained for some seconds on documents.

    Unit-norm decoder rows, tied initialisation, Adam with a linear decay over the time given.
    """
    torch.manual_seed(1)
    x = torch.from_numpy(documents).to(device)
    bias = x.mean(0)
    w_dec = torch.nn.functional.normalize(torch.randn(latents, x.shape[1], device=device), dim=1)
    w_enc = torch.nn.Parameter(w_dec.clone())
    b_enc = torch.nn.Parameter(torch.zeros(latents, device=device))
    w_dec, bias = torch.nn.Parameter(w_dec), torch.nn.Parameter(bias)
    optimiser = torch.optim.Adam([w_enc, b_enc, w_dec, bias], lr=1e-3)
    idle = torch.zeros(latents, dtype=torch.int64, device=device)
    began, step = time.monotonic(), 0
    while (spent := time.monotonic() - began) < seconds:
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * max(0.02, 1 - spent / seconds)
        batch = x[torch.randint(len(x), (BATCH,), device=device)]
        with torch.autocast(device.split(":")[0], torch.bfloat16):
            pre = (batch - bias) @ w_enc.T + b_enc
        pre = pre.float()
        values, places = _top(pre, K)
        error = batch - bias - torch.nn.functional.embedding_bag(places, w_dec, per_sample_weights=values, mode="sum")
        loss = error.square().sum(1).mean()
        idle += 1
        idle[places[values > 0]] = 0
        dead = idle > DEAD_AFTER
        if int(dead.sum()) > AUX_K:
            aux_values, aux_places = _top(pre.masked_fill(~dead, -torch.inf), AUX_K)
            made = torch.nn.functional.embedding_bag(aux_places, w_dec, per_sample_weights=aux_values, mode="sum")
            loss = loss + AUX_WEIGHT * (error.detach() - made).square().sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            w_dec.div_(w_dec.norm(dim=1, keepdim=True))
        step += 1
    dead_now = int((idle > DEAD_AFTER).sum())
    print(f"sae: {latents:,} latents, {step} steps, loss {float(loss.detach()):.4f}, {dead_now} dead", flush=True)

    @torch.inference_mode()
    def encode(rows: NDArray[np.float32]) -> csr_matrix:
        ids, weights = [], []
        for start in range(0, len(rows), BATCH):
            values, places = _top((torch.from_numpy(rows[start:start + BATCH]).to(device) - bias) @ w_enc.T + b_enc, K)
            ids.append(places.to(torch.int32).cpu().numpy())
            weights.append(values.cpu().numpy())
        flat = round_to_bfloat16(np.concatenate(weights).ravel())
        codes = csr_matrix((flat, np.concatenate(ids).ravel(), np.arange(0, len(flat) + 1, K)),
                           shape=(len(rows), latents))
        codes.eliminate_zeros()
        codes.sort_indices()
        return codes

    return encode(documents), encode(queries)
