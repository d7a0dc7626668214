"""Solutions to the exercises of 08_splitting_a_model."""

from labkit.bench.ceilings import DATASHEETS
from labkit.model.source import sizes_of

_SIZES = sizes_of("llama-7b")

sent = 2 * _SIZES.num_layers * (2 * 3 / 4) * _SIZES.hidden_size * 2  # two sums a layer, a ring of four, bf16

parts = 27  # 3 / (m + 3) ≤ 0.1


def pays(latency_s):
    """Half of the weights need not be read; two latencies a layer are added, and the bytes are next to nothing."""
    weights = 2 * (_SIZES.num_linear_parameters + _SIZES.num_head_parameters)
    return 2 * _SIZES.num_layers * latency_s < weights / DATASHEETS["H100"].bandwidth(weights) / 2
