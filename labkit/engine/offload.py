"""Offload: layers that stay in CPU memory and are fetched into two buffers of the GPU while others compute."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from labkit.bench.ceilings import Ceilings, ceilings
from labkit.core.errors import UsageError
from labkit.core.paths import cache_folder
from labkit.engine.config import finished
from labkit.engine.offload_plan import NUM_BUFFERS, Split, best_split, buffer_of, resident, upcoming
from labkit.model.linear import pack, rebind
from labkit.model.placement import is_plain, move
from labkit.model.transformer import Transformer, fuse_parts

_ALIGNMENT = 256  # bytes; kernels take no less


class Copies(Protocol):
    """What moves weights: the one place that knows of streams. Buffers go by their number."""

    def pinned(self, num_bytes: int) -> Tensor:
        """Memory of the CPU, uint8, that can be copied from while the GPU computes."""

    def fetch(self, buffer: int, target: Tensor, source: Tensor) -> None:
        """Begin to copy, as soon as nothing that came before the buffer's last `release` uses it any more."""

    def wait(self, buffer: int) -> None:
        """Have what is computed from here on find what was fetched last."""

    def release(self, buffer: int) -> None:
        """Say that nothing more will use the buffer's content."""


class StreamCopies:
    """Copies on a CUDA stream of their own, ordered by events; the CPU never waits."""

    def __init__(self, device: str) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.stream.wait_stream(torch.cuda.current_stream(device))  # which may still use what the buffers' memory held
        events = [torch.cuda.Event() for _ in range(2 * NUM_BUFFERS)]  # type: ignore[no-untyped-call]
        self.arrived, self.free = events[:NUM_BUFFERS], events[NUM_BUFFERS:]

    def pinned(self, num_bytes: int) -> Tensor:
        """See Copies."""
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)

    def fetch(self, buffer: int, target: Tensor, source: Tensor) -> None:
        """See Copies."""
        self.stream.wait_event(self.free[buffer])  # one that was never recorded is not waited for
        with torch.cuda.stream(self.stream):
            target.copy_(source, non_blocking=True)
        self.arrived[buffer].record(self.stream)

    def wait(self, buffer: int) -> None:
        """See Copies."""
        torch.cuda.current_stream(self.device).wait_event(self.arrived[buffer])

    def release(self, buffer: int) -> None:
        """See Copies."""
        self.free[buffer].record(torch.cuda.current_stream(self.device))


class Offload:
    """Places a model whose weights are all on the CPU, so that a GPU computes all of it and holds a part.

    Args:
        num_resident: layers that stay on the device; see `offload_plan.resident`.
        device: what computes.
        copies: makes what moves weights.
    """

    def __init__(self, num_resident: int, *, device: str, copies: Callable[[str], Copies] = StreamCopies) -> None:
        self.num_resident, self.device, self._make_copies = num_resident, device, copies
        self.homes: list[Tensor] = []  # weights of each fetched layer, in the order in which a step needs them
        self.buffers: list[Tensor] = []
        self._held: list[int | None] = [None] * NUM_BUFFERS

    def finish(self, model: Transformer) -> Transformer:
        """Pack every layer for the device, one at a time, and leave there those that stay.

        Raises:
            UsageError: the model has fewer layers, or the weights of one are in no plain tensors.
        """
        self._check(model)
        self._copies = self._make_copies(self.device)
        fetched: list[nn.Module] = []
        for block, does_stay in zip(model.layers, resident(len(model.layers), self.num_resident), strict=True):
            move(block, self.device)
            fuse_parts(block)
            pack(block)
            if not does_stay:
                fetched.append(block)
                self.homes.append(_sent_home(block, self._copies))
        if fetched:
            size = max(map(len, self.homes))
            self.buffers = [torch.empty(size, dtype=torch.uint8, device=self.device) for _ in range(NUM_BUFFERS)]
        for order, block in enumerate(fetched):
            _lay_out(block, self.buffers[buffer_of(order)])
            block.register_forward_pre_hook(partial(self._before, order))
            block.register_forward_hook(partial(self._after, order))
        move(model, self.device)  # what belongs to no block
        return finished(model)

    def _check(self, model: Transformer) -> None:
        num_layers = len(model.layers)
        if self.num_resident > num_layers:
            raise UsageError(
                f"offload(gpu_layers={self.num_resident}) was asked for; "
                f"the model has {num_layers} layers; allowed: 0 to that many"
            )
        if not is_plain(model):
            raise UsageError(
                "offload was asked for with layers that torchao quantized, which cannot be fetched; "
                "allowed: quantize(kernel='fastest')"
            )

    def facts(self) -> dict[str, Any]:
        """How many layers stay, and beside it how many should, by this machine's ceilings."""
        found: dict[str, Any] = {"gpu_layers": self.num_resident, "fetched_bytes": sum(map(len, self.homes))}
        if torch.device(self.device).type == "cuda" and self.homes:
            here, there = (ceilings(device, cache_folder()) for device in ("cuda", "cpu"))
            free_bytes = torch.cuda.mem_get_info(self.device)[0]
            best = self.best(here, cpu_bytes_per_s=there.bandwidth(found["fetched_bytes"]), free_bytes=free_bytes)
            found |= {"best_gpu_layers": best.num_resident, "best_layers_s": best.step_s} if best else {}
        return {"offload": found}

    def best(self, here: Ceilings, *, cpu_bytes_per_s: float, free_bytes: float) -> Split | None:
        """The split of least time; `free_bytes` are left on the device beside the layers and buffers that are there."""
        if here.link_bytes_per_s is None:
            return None
        layer_bytes = sum(map(len, self.homes)) / len(self.homes)
        num_here = self.num_resident + len(self.buffers)
        return best_split(
            self.num_resident + len(self.homes),
            layer_bytes=layer_bytes,
            free_bytes=free_bytes + num_here * layer_bytes,
            layer_s=layer_bytes / here.bandwidth(layer_bytes * (self.num_resident + len(self.homes))),
            link_bytes_per_s=min(here.link_bytes_per_s, cpu_bytes_per_s),
        )

    def _before(self, order: int, *_: object) -> None:
        """A fetched layer is about to compute."""
        self._fetch(order)  # already there, but for the first step of all and for a model that skips layers
        self._copies.wait(buffer_of(order))

    def _after(self, order: int, *_: object) -> None:
        """A fetched layer has computed."""
        self._copies.release(buffer_of(order))
        for following in upcoming(order, len(self.homes)):
            self._fetch(following)

    def _fetch(self, order: int) -> None:
        buffer, home = buffer_of(order), self.homes[order]
        if self._held[buffer] != order:
            self._held[buffer] = order
            self._copies.fetch(buffer, self.buffers[buffer][: len(home)], home)


def _sent_home(block: nn.Module, copies: Copies) -> Tensor:
    """All weights of a packed block in one piece of CPU memory, where the block finds them from now on."""
    sizes: list[int] = []

    def weighed(tensor: Tensor) -> Tensor:
        sizes.append(_aligned(tensor))
        return tensor

    rebind(block, weighed)
    home = copies.pinned(sum(sizes))
    _lay_out(block, home, is_copied=True)
    return home


def _lay_out(block: nn.Module, memory: Tensor, *, is_copied: bool = False) -> None:
    """Have a block find its weights in this memory, one behind the other, and put them there if they are copied."""
    offset = 0

    def placed(tensor: Tensor) -> Tensor:
        nonlocal offset
        place = memory[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        offset += _aligned(tensor)
        return place.copy_(tensor) if is_copied else place

    rebind(block, placed)


def _aligned(tensor: Tensor) -> int:
    """Bytes that a tensor takes of a memory in which every one begins where kernels can read it.

    Raises:
        UsageError: it is none of plain numbers in rows.
    """
    if tensor.layout is not torch.strided or type(tensor) not in (Tensor, nn.Parameter):
        raise UsageError(
            "offload was asked for with sparse weights in a layout that cannot be fetched; "
            "allowed: prune with pattern 'channel', or quantize after it"
        )
    return -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
