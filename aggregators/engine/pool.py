"""Threads for the engine: each runs torch on one thread, and results come back in block order.

A sum's last bits depend on its order, so the blocks are fixed by n and d alone and their results
are added up in order: one thread or sixteen, the bits are the same.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from torch import Tensor

Block = TypeVar("Block")
Result = TypeVar("Result")

_MOST = 16  # memory, not cores, is what more threads would wait for
_limit: ContextVar[int | None] = ContextVar("threads of the aggregation engine", default=None)


class Scratch:
    """A worker's buffers, made at the first block and used again for each one after it."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def get(self, name: str, *shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Lend a contiguous tensor, valid until the same name is asked for again; not cleared."""
        count = 1
        for length in shape:
            count *= length
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < count or buffer.dtype != dtype:
            buffer = self._buffers[name] = torch.empty(count, dtype=dtype, device=device)
        return buffer[:count].view(shape)

    def doubles(self, name: str, *shape: int, device: torch.device) -> Tensor:
        """Lend a float64 tensor."""
        return self.get(name, *shape, dtype=torch.float64, device=device)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, so that a sum has one order whatever the machine.

    Measured: the float64 product of a (21, 5000) matrix with its transpose differs in its last
    bits between one thread and two.
    """
    with _threads(1):
        yield


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def limit_threads(most: int) -> Iterator[None]:
    """Let the engine use at most so many threads inside this block, in this thread of the caller.

    Raises:
        ValueError: If it is no whole number >= 1.
    """
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise ValueError(f"the engine needs threads >= 1, a whole number: got {most!r}; give 1")
    token = _limit.set(most)
    try:
        yield
    finally:
        _limit.reset(token)


def num_threads() -> int:
    """How many threads the engine may use: one a core, at most 16, unless limited."""
    limit = _limit.get()
    return min(os.cpu_count() or 1, _MOST) if limit is None else limit


def in_order(
    blocks: Sequence[Block],
    work: Callable[[Block, Scratch], Result],
    collect: Callable[[Result], object],
    *,
    device: torch.device,
    elementwise: bool = False,
) -> None:
    """Work on every block, several at a time, and collect the results in the blocks' order.

    At most two blocks a thread are under way or waiting. On a GPU one thread hands out the work.

    Args:
        blocks: What to work on.
        work: Called in any thread, with buffers that no other thread uses.
        collect: Called in the caller's thread.
        device: Where the rows are.
        elementwise: Whether the work is many short operations on one element each, with no sum
            whose order could matter: then torch gets the threads, one block at a time. Python's
            own would hand their lock to and fro: 1.1 of one thread's speed, where torch's two are
            at 1.6.
    """
    if elementwise and device.type == "cpu":
        scratch = Scratch()
        with _threads(num_threads()), torch.no_grad():
            for block in blocks:
                collect(work(block, scratch))
        return
    count = min(num_threads(), len(blocks))
    if count <= 1 or device.type != "cpu":
        scratch = Scratch()
        with one_thread(), torch.no_grad():
            for block in blocks:
                collect(work(block, scratch))
        return
    local = threading.local()

    def start() -> None:
        # A new thread would begin with MKL's own number, whatever torch's says.
        torch.set_num_threads(1)
        local.scratch = Scratch()

    def job(block: Block) -> Result:
        with torch.no_grad():
            return work(block, local.scratch)

    waiting: deque[Future[Result]] = deque()
    with one_thread(), ThreadPoolExecutor(count, initializer=start) as pool:
        try:
            for block in blocks:
                if len(waiting) == 2 * count:
                    collect(waiting.popleft().result())
                waiting.append(pool.submit(job, block))
            while waiting:
                collect(waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()
