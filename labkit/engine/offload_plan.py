"""Offload plan: which layers stay in a GPU's memory, and how long a step takes while the others are fetched.

Fetched layers are spread evenly: then the link brings the next one while layers in between compute, instead of idling
behind full buffers first and being waited for afterwards. Source: the overlap of Sheng et al. 2023, FlexGen.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

NUM_BUFFERS = 2
"""Layers that a GPU has room for besides those that stay: one that computes, one that arrives."""

_NUM_STEPS = 4  # until each begins as the one before


def resident(num_layers: int, num_resident: int) -> tuple[bool, ...]:
    """For each layer whether it stays; the others are spread evenly."""
    num_fetched = num_layers - num_resident
    ranks = [index * num_fetched // num_layers for index in range(num_layers + 1)]
    return tuple(ranks[index + 1] == ranks[index] for index in range(num_layers))


def buffer_of(order: int) -> int:
    """The buffer of the fetched layer that is needed as number `order` of a step."""
    return order % NUM_BUFFERS


def upcoming(order: int, num_fetched: int) -> tuple[int, ...]:
    """What buffers should hold once fetched layer `order` has computed: for each the next layer that needs it."""
    first: dict[int, int] = {}
    for ahead in range(1, NUM_BUFFERS + 1):
        following = (order + ahead) % num_fetched
        first.setdefault(buffer_of(following), following)
    return tuple(first.values())


def fetches_per_step(num_fetched: int) -> int:
    """Layers that a step brings: not one that has a buffer to itself, which it never leaves."""
    sharing = Counter(map(buffer_of, range(num_fetched)))
    return sum(num for num in sharing.values() if num > 1)


def step_s(stays: Sequence[bool], *, layer_s: float, fetch_s: float) -> float:
    """Seconds of a step in the steady state, in which a layer computes in `layer_s` and is fetched in `fetch_s`."""
    num_fetched = len(stays) - sum(stays)
    held: dict[int, int] = {}
    arrives_s: dict[int, float] = {}
    now_s = link_free_s = start_s = 0.0

    def fetch(order: int) -> None:
        nonlocal link_free_s
        if held.get(buffer_of(order)) != order:
            link_free_s = max(link_free_s, now_s) + fetch_s
            held[buffer_of(order)], arrives_s[order] = order, link_free_s

    for _ in range(_NUM_STEPS):
        start_s, order = now_s, 0
        for does_stay in stays:
            if does_stay:
                now_s += layer_s
                continue
            fetch(order)
            now_s = max(now_s, arrives_s[order]) + layer_s
            for following in upcoming(order, num_fetched):
                fetch(following)
            order += 1
    return now_s - start_s


@dataclass(frozen=True)
class Split:
    """How many layers stay, and the seconds that all layers of a step should take."""

    num_resident: int
    step_s: float


def best_split(
    num_layers: int, *, layer_bytes: float, free_bytes: float, layer_s: float, link_bytes_per_s: float
) -> Split | None:
    """The split of least time among those that fit, of equals the one that takes least memory; None where none fits.

    Args:
        num_layers: of the model, all alike.
        layer_bytes: weights of a layer.
        free_bytes: memory of the GPU that is left for layers.
        layer_s: what a layer takes to compute.
        link_bytes_per_s: rate at which weights arrive, the slower of the link and of the CPU's memory.
    """
    splits = [
        Split(num, step_s(resident(num_layers, num), layer_s=layer_s, fetch_s=layer_bytes / link_bytes_per_s))
        for num in range(num_layers + 1)
        if (num + min(NUM_BUFFERS, num_layers - num)) * layer_bytes <= free_bytes
    ]
    # what differs by a rounding error is equal
    return min(splits, key=lambda split: (round(split.step_s / layer_s, 6), split.num_resident), default=None)
