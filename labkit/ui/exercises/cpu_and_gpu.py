"""Exercises of lesson 05: how much of a model stays on a GPU, and what its link costs."""

import math
from collections.abc import Callable

from labkit.bench.ceilings import DATASHEETS
from labkit.engine.offload_plan import NUM_BUFFERS, best_split, resident, step_s
from labkit.ui import units
from labkit.ui.exercises.replies import CORRECT, OPEN, number

_BF16_BYTES, _FLOPS_PER_WEIGHT = 2, 2
_NUM_LAYERS, _LAYER_S, _FETCH_S = 32, 0.0002, 0.006


def layers_that_stay(answer: int | None, *, num_layers: int, layer_bytes: float, free_bytes: float) -> str:
    """How many layers a GPU keeps whose memory has so much room, where each fetched one costs more than it computes."""
    if answer is None:
        return OPEN
    split = best_split(num_layers, layer_bytes=layer_bytes, free_bytes=free_bytes, layer_s=1e-4, link_bytes_per_s=1e9)
    assert split is not None  # the lesson asks of a card that has room for the buffers
    if answer == split.num_resident:
        return CORRECT
    needed = (answer + min(NUM_BUFFERS, num_layers - answer)) * layer_bytes
    if needed > free_bytes:
        return f"{answer} layers and the buffers for the others take {units.size(needed)}: the card has less"
    return f"{answer} layers and the buffers for the others take {units.size(needed)}: there is room for more"


def tokens_that_hide_a_fetch(answer: float | None, *, card: str) -> str:
    """From how many tokens in a step on a layer in bf16 computes as long as it is fetched."""
    here = DATASHEETS[card]
    assert here.link_bytes_per_s is not None  # every card of the datasheets has one
    expected = here.flops("bf16") * _BF16_BYTES / (_FLOPS_PER_WEIGHT * here.link_bytes_per_s)
    return number(
        answer,
        expected,
        lambda given: (
            f"with {given:,.0f} tokens a layer computes {given / expected:.2f} times as long as it is fetched: "
            "a weight is 2 bytes on the link and 2 FLOPs for each token"
        ),
        tolerance=0.02,
    )


def step_formula(answer: Callable[[int, float, float], float] | None) -> str:
    """A function of layers that stay, seconds to compute one and seconds to fetch one, to those of a step of 32."""
    if answer is None:
        return OPEN
    for kept in range(0, _NUM_LAYERS - NUM_BUFFERS, 5):
        for layer_s in (_LAYER_S, 2 * _FETCH_S):
            given = answer(kept, layer_s, _FETCH_S)
            expected = step_s(resident(_NUM_LAYERS, kept), layer_s=layer_s, fetch_s=_FETCH_S)
            if not math.isclose(given, expected, rel_tol=0.02):
                return (
                    f"with {kept} layers on the GPU, {units.seconds(layer_s)} to compute one and "
                    f"{units.seconds(_FETCH_S)} to fetch one, a step takes {units.seconds(expected)}, "
                    f"you say {units.seconds(given)}: which of the two is waited for?"
                )
    return CORRECT
