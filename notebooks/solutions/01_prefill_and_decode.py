"""Solutions to the exercises of 01_prefill_and_decode."""

from labkit.bench.ceilings import DATASHEETS

tpot_ms = 1e3 * 7e9 * 2 / 100e9  # 14 GB of weights at 100 GB/s

# FLOP per byte at the ridge; a step of T tokens does 2 FLOPs for each weight and token, over 2 bytes a weight: T
tokens = DATASHEETS["A100"].flops("bf16") / DATASHEETS["A100"].bandwidth(14e9)


def latencies(request):
    """TTFT counts from the intended arrival; TPOT is the mean gap, of which there is one less than tokens."""
    first_s, *_, last_s = request.output_s
    return first_s - request.arrival_s, (last_s - first_s) / (len(request.output_s) - 1)
