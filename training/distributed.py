"""Training by several processes of one thread each: batches are shared out, gradients averaged.

Two threads in one process wait for each other hundreds of times in a step. On a machine that does
other work beside, that wastes most of the time; processes wait once.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor


def _member(
    rank: int, size: int, port: int, work: Callable[[argparse.Namespace], None], options: Any
) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    work(options)
    dist.destroy_process_group()


def run(work: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> None:
    """Calls ``work`` in ``options.processes`` processes; in this one if that is one."""
    if options.processes == 1:
        torch.set_num_threads(1)
        work(options)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    size = options.processes
    mp.spawn(_member, (size, port, work, options), nprocs=size)


def rank() -> int:
    """Number of this process; the first one writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def average(parameters: list[Any]) -> None:
    """Replaces gradients by their mean over all processes."""
    if size() == 1:
        return
    with_one = [p for p in parameters if p.grad is not None]
    flat = torch.cat([p.grad.flatten() for p in with_one])
    dist.all_reduce(flat)
    flat /= size()
    for parameter, part in zip(with_one, flat.split([p.numel() for p in with_one]), strict=True):
        parameter.grad.copy_(part.view_as(parameter))


def follow_first(tensors: list[Tensor]) -> None:
    """Gives all processes the first one's values."""
    if size() == 1:
        return
    flat = torch.cat([t.flatten() for t in tensors])
    dist.broadcast(flat, 0)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
