"""Exercises of lesson 00, and its two toys: a machine whose speed changes, and a server that stalls."""

import math
import random
from collections.abc import Callable, Iterable, Sequence

from labkit.bench.compare import decide
from labkit.core.metrics import LATENCIES
from labkit.core.stats import missing_samples
from labkit.core.trace import RequestTrace, Trace
from labkit.ui.exercises.replies import CORRECT, OPEN

NUM_BLOCKS = 8
NUM_SESSIONS = 200
_MAX_FALSE_ALARMS = 0.03  # of sessions: the 1 % that the test allows, and luck

Schedule = Callable[[random.Random], Sequence[str]]
"""Gives the order of a session's passes, "A" and "B", two to a block."""


def toy_rates(
    order: Sequence[str], rng: random.Random, *, drift: float = 0.0, beat: float = 0.0
) -> dict[str, list[float]]:
    """Rates of "A" and "B", which are equally fast, on a machine with 1 % of noise that does not stay as it is.

    It loses the part `drift` of its speed from the first pass to the last; every second pass is slower by `beat`.
    """
    rates: dict[str, list[float]] = {"A": [], "B": []}
    for position, name in enumerate(order):
        speed = (1 - drift * position / len(order)) * (1 - beat * (position % 2))
        rates[name].append(speed * math.exp(rng.gauss(0, 0.01)))
    return rates


def false_alarms(schedule: Schedule, *, drift: float = 0.0, beat: float = 0.0) -> float:
    """Share of sessions in which B is called faster or slower than A, although it is neither."""
    rng, num_alarms = random.Random(0), 0
    for _ in range(NUM_SESSIONS):
        rates = toy_rates(schedule(rng), rng, drift=drift, beat=beat)
        num_alarms += decide(rates["A"], {"B": rates["B"]})["B"].verdict in ("faster", "slower")
    return num_alarms / NUM_SESSIONS


def stalled_trace(
    *, num_requests: int = 1000, every_s: float = 0.01, service_s: float = 0.001, stall_s: float = 1.0
) -> Trace:
    """What a client logs that means to send every `every_s` and waits for each answer, of a server that stalls once."""
    requests, free_s = [], 0.0
    for index in range(num_requests):
        arrival_s = index * every_s
        sent_s = max(arrival_s, free_s)  # the client is late because it waited
        free_s = sent_s + service_s + (stall_s if index == num_requests // 2 else 0.0)
        requests.append(RequestTrace(arrival_s, sent_s, sent_s, (free_s,), (0,), 1))
    return Trace(tuple(requests), free_s)


def samples_to_p99(answer: int | None, *, num_samples: int) -> str:
    """How many more samples a p99 needs when there are `num_samples`."""
    if answer is None:
        return OPEN
    missing = missing_samples(num_samples, 99)
    return (
        CORRECT if answer == missing else f"{num_samples} and {answer} are {num_samples + answer}: try min_samples(99)"
    )


def fair_schedule(answer: Schedule | None) -> str:
    """A schedule of 8 blocks that neither drift nor a beat can fool."""
    if answer is None:
        return OPEN
    order = list(answer(random.Random(1)))
    blocks = [sorted(order[start : start + 2]) for start in range(0, len(order), 2)]
    if blocks != [["A", "B"]] * NUM_BLOCKS:
        return f"a session has {NUM_BLOCKS} blocks, and each holds A and B once; yours begins with {''.join(order[:6])}"
    for kind, share in (("drift", false_alarms(answer, drift=0.1)), ("beat", false_alarms(answer, beat=0.05))):
        if share > _MAX_FALSE_ALARMS:
            return f"under {kind} it calls equal recipes different in {share:.0%} of sessions"
    return CORRECT


def honest_latencies(answer: Callable[[Trace], Iterable[float]] | None) -> str:
    """A function from a Trace to the latencies its users felt, in seconds."""
    if answer is None:
        return OPEN
    trace = stalled_trace(num_requests=100)
    felt = [value for request in trace.requests for value in LATENCIES["e2e_s"](request)]
    given = list(answer(trace))
    if len(given) == len(felt) and all(map(math.isclose, given, felt)):
        return CORRECT
    return f"users waited {sum(felt):.1f} s in all, you count {sum(given):.1f} s: from when does a user wait?"
