"""What the processes of one training run tell each other; a run of one process says nothing.

Each is a process of torch.distributed, as ``torchrun`` starts them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

__all__ = ["average", "first_says", "joined", "mean", "rank_and_count", "wait_for_all"]

_PATIENCE = timedelta(days=1)  # the others wait while the first one prepares the data


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the other processes if ``torchrun`` started this one; gives the device to use ("cuda:1")."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or rank_and_count()[1] > 1:
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    distributed.init_process_group("gloo" if device == "cpu" else "nccl", timeout=_PATIENCE)
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def rank_and_count() -> tuple[int, int]:
    """Number of this process and how many there are; (0, 1) alone."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def wait_for_all() -> None:
    """Return when every process is here."""
    if rank_and_count()[1] > 1:
        distributed.barrier()


def average(tensors: Sequence[torch.Tensor]) -> None:
    """Replace tensors by their means over the processes, in one message."""
    count = rank_and_count()[1]
    if count == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= count
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def mean(tensor: torch.Tensor) -> torch.Tensor:
    """Mean over the processes."""
    tensor = tensor.clone()
    average([tensor])
    return tensor


def first_says(flag: bool, device: str) -> bool:
    """The first process's flag, so that all decide alike."""
    if rank_and_count()[1] == 1:
        return flag
    said = torch.tensor([float(flag)], device=device)
    distributed.broadcast(said, 0)
    return bool(said.item())
