"""Laws fitted to throughput whose parameters are known."""

import pytest

from labkit.bench.scaling import Fit, core_counts, fit

AMDAHL = Fit("Amdahl", 100.0, 0.12, 0.0, 0, None)
USL = Fit("USL", 80.0, 0.05, 0.004, 0, None)


def rates_of(law: Fit, *counts: int) -> dict[int, float]:
    return {count: law.rate(count) for count in counts}


def test_amdahl_is_what_it_says() -> None:
    assert AMDAHL.rate(1) == 100
    assert AMDAHL.rate(4) == pytest.approx(100 / (0.12 + 0.88 / 4))


@pytest.mark.parametrize("known", [AMDAHL, USL], ids=lambda law: law.law)
def test_known_parameters_are_found_again(known: Fit) -> None:
    found = fit(known.law, rates_of(known, 1, 2, 4, 8, 16))
    assert found is not None
    assert found.per_s == pytest.approx(known.per_s)
    assert found.serial == pytest.approx(known.serial)
    assert found.crosstalk == pytest.approx(known.crosstalk)
    assert found.error == pytest.approx(0, abs=1e-9)
    assert found.num_points == 5


def test_noise_of_a_percent_moves_parameters_little_and_shows_as_error() -> None:
    rates = {count: rate * (1.01 if count % 3 else 0.99) for count, rate in rates_of(USL, *range(1, 33)).items()}
    found = fit("USL", rates)
    assert found is not None
    assert found.serial == pytest.approx(USL.serial, abs=0.01)
    assert found.crosstalk == pytest.approx(USL.crosstalk, rel=0.1)
    assert found.error == pytest.approx(0.01, rel=0.2)


def test_two_points_determine_amdahl_and_leave_the_usl_undetermined() -> None:
    rates = rates_of(AMDAHL, 1, 2)
    found = fit("Amdahl", rates)
    assert found is not None
    assert found.serial == pytest.approx(AMDAHL.serial)
    assert found.error is None  # nothing is left to check it by
    assert fit("USL", rates) is None
    assert fit("Amdahl", rates_of(AMDAHL, 1)) is None


def test_the_usl_of_work_without_crosstalk_is_amdahls_law() -> None:
    found = fit("USL", rates_of(AMDAHL, 1, 2, 3, 4, 8))
    assert found is not None
    assert found.crosstalk == pytest.approx(0, abs=1e-9)
    assert found.serial == pytest.approx(AMDAHL.serial)


def test_work_that_grows_faster_than_the_cores_has_no_serial_part() -> None:
    for law in ("Amdahl", "USL"):
        found = fit(law, {1: 100.0, 2: 220.0, 4: 480.0, 8: 1000.0})
        assert found is not None
        assert found.serial >= 0
        assert found.crosstalk >= 0
    found = fit("Amdahl", {1: 100.0, 2: 220.0})
    assert found is not None
    assert found.serial == 0
    assert found.knee is None


def test_the_knee_is_the_peak_under_crosstalk_and_half_use_without() -> None:
    peak = USL.knee
    assert peak == pytest.approx((0.95 / 0.004) ** 0.5)
    assert USL.rate(peak) > max(USL.rate(0.9 * peak), USL.rate(1.1 * peak))
    knee = AMDAHL.knee
    assert knee is not None
    assert AMDAHL.rate(knee) / knee == pytest.approx(AMDAHL.per_s / 2)


def test_what_is_no_rate_is_refused() -> None:
    for rates in ({0: 1.0, 1: 2.0}, {1: 0.0, 2: 1.0}):
        with pytest.raises(ValueError, match="expected positive ones of 1 core or more"):
            fit("Amdahl", rates)


@pytest.mark.parametrize(
    ("num_cores", "counts"),
    [(1, (1,)), (2, (1, 2)), (4, (1, 2, 3, 4)), (10, (1, 2, 3, 4, 6, 8, 10)), (16, (1, 2, 3, 4, 6, 8, 12, 16))],
)
def test_counts_are_all_of_few_and_spread_over_many(num_cores: int, counts: tuple[int, ...]) -> None:
    assert core_counts(num_cores) == counts
