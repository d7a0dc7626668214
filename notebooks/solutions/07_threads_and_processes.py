"""Solutions to the exercises of 07_threads_and_processes."""

import math

serial = 4 / 2.5 - 1  # n / X(n) - 1 over n - 1, with n = 4 and X = 2.5
serial /= 4 - 1

share = math.sqrt(1 / 0.8 - 1)  # threads reach 1 / (1 + g²) of processes


def peak(serial, crosstalk):
    """Where the slope of n / (1 + α (n - 1) + β n (n - 1)) is zero: β n² = 1 - α."""
    return math.sqrt((1 - serial) / crosstalk)
