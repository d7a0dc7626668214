"""Solutions to the exercises of 05_cpu_and_gpu."""

from labkit.bench.ceilings import DATASHEETS
from labkit.engine.offload_plan import NUM_BUFFERS

kept = int(10e9 // 404_750_336) - NUM_BUFFERS  # 24 layers have room, two of the places are buffers

hidden = DATASHEETS["A100"].flops("bf16") / DATASHEETS["A100"].link_bytes_per_s  # 2 bytes and 2 FLOPs cancel


def formula(kept, layer_s, fetch_s):
    """The link and the GPU work at the same time, so a step takes as long as the busier of them."""
    return max(32 * layer_s, (32 - kept) * fetch_s)
