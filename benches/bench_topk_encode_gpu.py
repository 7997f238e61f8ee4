"""The fused top-k encoder of a sparse autoencoder on a GPU, against the product alone and the product with torch.topk.

    python benches/bench_topk_encode_gpu.py [--rows 8192] [--latents 16384 65536] [--k 32] [--sweep]

Random unit rows and latents of all-MiniLM-L6-v2's width in bfloat16. "product" is ``x @ W.T`` alone, which writes the
B x N matrix in bfloat16. "ms" is of calls after each other, as when many batches are encoded; "alone_ms" is of one call
that finds the device idle, so that it holds the host's time before the first launch. Both hold all allocations. The
ways take turns; what is printed are medians. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from functools import partial

import torch
from bench_max_logits import measured_peak, milliseconds, peak_memory
from torch.nn.functional import normalize

from sparsight.kernels.gpu.topk_encode import Cut, topk_encode

WIDTH = 384
BURST = 10  # calls after each other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--latents", type=int, nargs="+", default=[16_384, 65_536])
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--sweep", action="store_true", help="time ways to cut the work instead")
    given = parser.parse_args()
    report = {"gpu": torch.cuda.get_device_name(), "peak_tflops": round(measured_peak()), "rows": given.rows,
              "width": WIDTH, "k": given.k, "sizes": []}
    for latents in given.latents:
        x, weight = (normalize(torch.randn(size, WIDTH, device="cuda")).bfloat16() for size in (given.rows, latents))
        bias = 0.01 * torch.randn(latents, device="cuda")
        calls = ways(x, weight, bias, given.k)
        if given.sweep:
            for values in itertools.product((64, 128), (64, 128), (1, 2), (4, 8)):
                sweep(values, calls, x, weight, bias, given.k)
        bursts = milliseconds({name: partial(repeat, call) for name, call in calls.items()})
        taken, alone = {name: ms / BURST for name, ms in bursts.items()}, milliseconds(calls)
        size = {"latents": latents, "agree": agreement(x, weight, bias, given.k),
                "tflops": round(2e-9 * given.rows * latents * WIDTH / taken["fused"], 1)}
        size |= {name: {"ms": round(taken[name], 3), "alone_ms": round(alone[name], 3),
                        "peak_mb": round(peak_memory(call))} for name, call in calls.items()}
        size["fused to product"] = round(taken["fused"] / taken["product"], 3)
        size["topk to fused"] = round(taken["product, torch.topk"] / taken["fused"], 2)
        print(size, flush=True)
        report["sizes"].append(size)
    print(json.dumps(report))


def repeat(call: Callable[[], object]) -> None:
    for _ in range(BURST):
        call()


def ways(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, k: int) -> dict[str, Callable[[], object]]:
    """What is timed."""
    return {"product": lambda: x @ weight.T,
            "product, torch.topk": lambda: torch.topk(x @ weight.T + bias.bfloat16(), k),
            "fused": lambda: topk_encode(x, weight, bias, k)}


def sweep(values: tuple[int, int, int, int], calls: dict, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor,
          k: int) -> None:
    """Print the time of one way to cut the portable kernel's work, beside the product's."""
    cut = Cut(*values)
    try:
        taken = milliseconds({"product": calls["product"], "fused": lambda: topk_encode(x, weight, bias, k, cut=cut)},
                             rounds=5)
        print(len(weight), cut, {name: round(time, 3) for name, time in taken.items()}, flush=True)
    except Exception as error:  # of what does not fit a multiprocessor, the next may
        print(len(weight), cut, type(error).__name__, flush=True)


def agreement(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, k: int) -> float:
    """Share of the latents that float32's top k of some rows has."""
    some = x[:256]
    expected = (some.float() @ weight.float().T + bias).topk(k).indices
    got, _ = topk_encode(some.contiguous(), weight, bias, k)
    return round(float((got[:, :, None] == expected[:, None, :]).any(2).float().mean()), 5)


if __name__ == "__main__":
    main()
