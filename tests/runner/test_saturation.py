"""The search against every rate tried one by one."""

import numpy as np
import pytest

from labkit.core.goodput import service
from labkit.runner.saturation import MAX_RATE, MIN_RATE, TOLERANCE, Saturation, saturation
from tests.runner.queues import served


def is_kept_up(rate: float, *, service_s: float, cv: float, num: int) -> bool:
    found = service([served(rate, service_s, cv=cv, num=num)])
    assert found is not None
    return found.is_kept_up


@pytest.mark.parametrize("start", [0.05, 7.0, 3000.0])
@pytest.mark.parametrize(("service_s", "cv", "num"), [(0.1, 0.0, 60), (0.013, 1.0, 600), (2.7, 2.0, 600)])
def test_the_search_finds_what_brute_force_finds_within_ten_percent(
    start: float, service_s: float, cv: float, num: int
) -> None:
    def check(rate: float) -> bool:
        return is_kept_up(rate, service_s=service_s, cv=cv, num=num)

    found = saturation(check, start=start)
    assert found.kept_per_s is not None
    assert found.lost_per_s is not None
    rates = np.geomspace(0.2 / service_s, 2 / service_s, 150)
    first_lost = next(rate for rate in rates if not check(rate))
    assert found.kept_per_s == pytest.approx(first_lost, rel=TOLERANCE)
    assert found.lost_per_s <= (1 + TOLERANCE) * found.kept_per_s


def test_a_long_load_saturates_at_the_rate_of_service() -> None:
    found = saturation(lambda rate: is_kept_up(rate, service_s=0.02, cv=1.0, num=6000), start=1.0)
    assert found.kept_per_s == pytest.approx(50.0, rel=TOLERANCE)


def test_no_rate_is_asked_twice_and_all_have_three_digits() -> None:
    asked: list[float] = []

    def check(rate: float) -> bool:
        asked.append(rate)
        return rate < 123.456

    found = saturation(check, start=1.0)
    assert len(set(asked)) == len(asked) < 14
    assert all(float(f"{rate:.3g}") == rate for rate in asked)
    assert found.kept_per_s is not None
    assert found.lost_per_s is not None
    assert found.kept_per_s < 123.456 <= found.lost_per_s


def test_what_never_or_always_keeps_up_is_said_so() -> None:
    assert saturation(lambda rate: False, start=5.0) == Saturation(None, MIN_RATE)
    assert saturation(lambda rate: True, start=5.0) == Saturation(MAX_RATE, None)
