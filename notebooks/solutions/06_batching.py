"""Solutions to the exercises of 06_batching."""


def idle(tokens):
    """Every place is held until the longest is done."""
    return 1 - sum(tokens) / (len(tokens) * max(tokens))


fits = 3  # 2 MiB are 16 blocks of 16 tokens; 80 tokens fill 5 of them


def under_way(trace):
    """Little's law: requests a second times the seconds that each is there, whatever happens to it meanwhile."""
    stays_s = [request.output_s[-1] - request.arrival_s for request in trace.requests]
    return (len(stays_s) / trace.duration_s) * (sum(stays_s) / len(stays_s))
