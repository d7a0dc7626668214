import math

import pytest

from labkit.ui import units


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0 s"),
        (1.234567, "1.23 s"),
        (0.0123, "12.3 ms"),
        (0.00099951, "1.00 ms"),
        (0.000999, "999 µs"),
        (1.5e-6, "1.50 µs"),
        (2.5e-8, "25.0 ns"),
        (1234.0, "1,234 s"),
        (-0.002, "-2.00 ms"),
    ],
)
def test_seconds_keep_three_significant_digits_in_the_unit_that_fits(value, shown):
    assert units.seconds(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (31_457_280, "30.0 MiB"), (7 * 2**30, "7.00 GiB")],
)
def test_bytes_are_shown_in_binary_units(value, shown):
    assert units.size(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (9.996, "10.0"),
        (99.96, "100"),
        (1234.5, "1,234"),
        (0.01234, "0.0123"),
        (1.0, "1.00"),
        (8.4e-6, "8.40e-6"),
    ],
)
def test_numbers_keep_three_significant_digits(value, shown):
    assert units.number(value) == shown


FORMATTERS = (
    units.number,
    units.count,
    units.seconds,
    units.size,
    units.rate,
    units.bandwidth,
    units.arithmetic,
    units.ratio,
    units.quality_ratio,
    units.percent,
)


@pytest.mark.parametrize("form", FORMATTERS)
@pytest.mark.parametrize("nothing", [None, math.nan, math.inf])
def test_what_was_not_measured_is_a_dash_and_never_a_zero(form, nothing):
    assert form(nothing) == "–"


def test_ratios_percentages_and_rates_carry_their_unit():
    assert units.ratio(1.519) == "1.52×"
    assert units.quality_ratio(1.0019) == "1.002"
    assert units.percent(0.523) == "52.3 %"
    assert units.rate(182.4) == "182 tok/s"
    assert units.bandwidth(48.2e9) == "48.2 GB/s"


def test_an_estimate_shows_its_interval():
    fields = {"value": 5.1, "low": 4.91, "high": 5.3, "level": 0.99, "num_samples": 8}
    assert units.estimate(fields) == "5.10 [4.91, 5.30]"
    assert units.estimate(fields, units.ratio) == "5.10× [4.91×, 5.30×]"
    assert units.estimate(None) == "–"
    assert units.interval(0.0049, 0.0053, units.seconds) == "[4.90, 5.30 ms]"
    assert units.interval(0.0009, 0.0011, units.seconds) == "[900 µs, 1.10 ms]"
    assert units.interval(None, 1.0) == "–"


def test_a_withheld_percentile_says_how_many_samples_are_missing():
    assert units.withheld(1054) == "needs 1,054 more"
    assert units.withheld(None) == ""
