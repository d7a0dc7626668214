"""A queue before servers that each take the same time for every request, as a Trace."""

import heapq

from labkit.core.draws import arrivals_s
from labkit.core.trace import RequestTrace, Trace
from labkit.core.workload import WorkloadSpec

NUM_TOKENS = 5
FIRST_SHARE = 0.2  # of the time that a request takes: to its first token


def served(rate: float, service_s: float, *, cv: float = 1.0, num: int = 60, num_servers: int = 1) -> Trace:
    """Requests that arrive as a workload draws them."""
    spec = WorkloadSpec("queue", "server", 8, NUM_TOKENS, num, rate_per_s=rate, arrival_cv=cv)
    return serve(spec, service_s, num_servers=num_servers)


def serve(spec: WorkloadSpec, service_s: float, *, num_servers: int = 1) -> Trace:
    """The Trace of a workload's first pass."""
    free_s = [0.0] * num_servers
    requests = []
    for arrival_s, (prompt_tokens, num) in zip(arrivals_s(spec), spec.lengths, strict=True):
        begun_s = max(arrival_s, heapq.heappop(free_s))
        heapq.heappush(free_s, begun_s + service_s)
        first_s, gap_s = FIRST_SHARE * service_s, (1 - FIRST_SHARE) * service_s / max(1, num - 1)
        output_s = tuple(begun_s + first_s + index * gap_s for index in range(num))
        requests.append(RequestTrace(arrival_s, arrival_s, begun_s, output_s, tuple(range(num)), prompt_tokens))
    return Trace(tuple(requests), max(free_s))
