"""Solutions to the exercises of 00_measuring_honestly."""

from labkit.core.stats import min_samples

missing = min_samples(99) - 504


def schedule(rng):
    """Eight blocks, each with both recipes, the order drawn anew: nothing periodic can keep step with it."""
    return "".join(rng.choice(("AB", "BA")) for _ in range(8))


def latencies(trace):
    """A user waits from the moment the request was meant to be sent."""
    return [request.output_s[-1] - request.arrival_s for request in trace.requests]
