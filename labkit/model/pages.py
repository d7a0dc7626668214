"""Pages: memory for what every step reads from one end to the other, in huge pages where the system gives them.

A processor finds where a page lies in a small table that weights by the hundred megabytes in pages of 4 KiB do not fit
in. Linux gives pages of 2 MiB to who asks (`madvise`); where it does not, memory is as ever.
"""

import mmap
from contextlib import suppress

import torch
from torch import Tensor

HUGE_BYTES = 2**21


def copied(tensor: Tensor) -> Tensor:
    """A copy in memory of its own, in huge pages as far as it fills them, on the CPU."""
    is_plain = type(tensor) is Tensor and tensor.layout is torch.strided and tensor.is_contiguous()
    if tensor.device.type != "cpu" or not is_plain or tensor.nbytes < HUGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return tensor.clone()
    # freed with the last tensor that sees it
    memory = mmap.mmap(-1, tensor.nbytes + HUGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    start = -whole.data_ptr() % HUGE_BYTES
    filled = tensor.nbytes // HUGE_BYTES * HUGE_BYTES  # the rest would waste most of a page
    with suppress(OSError):  # a system that has none
        memory.madvise(mmap.MADV_HUGEPAGE, start, filled)
    return whole[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
