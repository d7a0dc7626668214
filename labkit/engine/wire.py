"""Wire: what a process sends to the other ranks and receives from them, with the time and the bytes that it takes."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from labkit.core.errors import WorkerDied

_HEAD = 256  # numbers that a message tells at once; a longer one takes a second broadcast


@dataclass
class Traffic:
    """What a rank did with others so far.

    `communication_s` passed in collective operations and in sending, `wait_s` in waiting for activations, logits or the
    next thing to do; `sent_bytes` it sent (an all-reduce counts as a ring: twice its tensor, but for one share).
    """

    communication_s: float = 0.0
    wait_s: float = 0.0
    sent_bytes: float = 0.0


class Wire:
    """This process as one of the ranks of `torch.distributed`, whose group has been joined."""

    def __init__(self) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.traffic = Traffic()
        self._sending: list[tuple[dist.Work, Tensor]] = []

    @property
    def others(self) -> range:
        """Ranks that follow the first."""
        return range(1, self.world)

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over all ranks, written to x; the same bits on each."""
        with self._communicating(x):
            dist.all_reduce(x)
        self.traffic.sent_bytes += 2 * x.nbytes * (self.world - 1) / self.world
        return x

    def gather(self, x: Tensor, widths: Sequence[int]) -> Tensor:
        """On the first rank [..., sum of widths] of all ranks' [..., width], side by side; elsewhere just x."""
        x = x.contiguous()
        if self.rank:
            with self._communicating(x):
                dist.send(x, 0)
            self.traffic.sent_bytes += x.nbytes
            return x
        parts = [x, *(x.new_empty((*x.shape[:-1], width)) for width in widths[1:])]
        with self._communicating(x):
            for rank in self.others:
                dist.recv(parts[rank], rank)
        return torch.cat(parts, dim=-1)

    def send(self, x: Tensor, to: int) -> None:
        """Start to send; `finish` waits for it."""
        x = x.contiguous()
        with self._communicating(x):
            work = dist.isend(x, to)
        assert work is not None  # else this process were no member of the group
        self._sending.append((work, x))
        self.traffic.sent_bytes += x.nbytes

    def receive(self, x: Tensor, source: int) -> Tensor:
        """Wait for a tensor like x, written to it."""
        with self._waiting():
            dist.recv(x, source)
        return x

    def finish(self) -> None:
        """Wait until all that was sent has arrived."""
        with self._communicating():
            for work, _ in self._sending:
                work.wait()
        self._sending.clear()

    def tell(self, numbers: Sequence[int]) -> None:
        """From the first rank to all others: whole numbers."""
        head = torch.zeros(_HEAD, dtype=torch.int64)
        whole = torch.tensor([len(numbers), *numbers])
        head[: len(whole)] = whole[:_HEAD]
        with self._communicating():
            dist.broadcast(head, 0)
            if len(whole) > _HEAD:
                dist.broadcast(whole[_HEAD:].contiguous(), 0)
        self.traffic.sent_bytes += 8 * max(_HEAD, len(whole)) * (self.world - 1)

    def hear(self) -> list[int]:
        """What the first rank tells; waits for it, without using the processor."""
        head = torch.empty(_HEAD, dtype=torch.int64)
        with self._waiting():
            dist.broadcast(head, 0)
            num = int(head[0])
            if num + 1 > _HEAD:
                rest = torch.empty(num + 1 - _HEAD, dtype=torch.int64)
                dist.broadcast(rest, 0)
                head = torch.cat((head, rest))
        numbers: list[int] = head[1 : num + 1].tolist()
        return numbers

    def report(self, facts: Sequence[float]) -> list[list[float]]:
        """On the first rank the figures of all ranks, as many of each; elsewhere these. Not part of the traffic."""
        own = torch.tensor(facts, dtype=torch.float64)
        found = [torch.empty_like(own) for _ in range(self.world)] if not self.rank else None
        with self._failing():
            dist.gather(own, found, 0)
        return [list(facts)] if found is None else [part.tolist() for part in found]

    @contextmanager
    def _communicating(self, x: Tensor | None = None) -> Iterator[None]:
        _settle(x)
        start_ns = time.perf_counter_ns()
        with self._failing():
            yield
        _settle(x)
        self.traffic.communication_s += (time.perf_counter_ns() - start_ns) * 1e-9

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        start_ns = time.perf_counter_ns()
        with self._failing():
            yield
        self.traffic.wait_s += (time.perf_counter_ns() - start_ns) * 1e-9

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """A broken connection is a rank that died; nothing else closes one."""
        try:
            yield
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise WorkerDied(f"rank {self.rank} of {self.world} lost the connection to another: {reason}") from error


def _settle(x: Tensor | None) -> None:
    """Wait for a GPU, so that the clock sees the operation and not its start."""
    if x is not None and x.is_cuda:
        torch.cuda.synchronize(x.device)
