"""Which layers stay, when the others are fetched, and which split is best; against schedules worked out by hand."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.engine.offload_plan import NUM_BUFFERS, best_split, buffer_of, fetches_per_step, resident, step_s, upcoming


@given(st.integers(1, 80), st.data())
def test_as_many_layers_stay_as_were_asked_for_and_the_others_are_spread(num_layers: int, data: st.DataObject) -> None:
    num_resident = data.draw(st.integers(0, num_layers))
    stays = resident(num_layers, num_resident)
    assert (len(stays), sum(stays)) == (num_layers, num_resident)
    fetched = [index for index, does_stay in enumerate(stays) if not does_stay]
    gaps = {after - before for before, after in pairwise(fetched)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(st.integers(1, 30))
def test_no_buffer_is_given_away_before_its_layer_has_computed(num_fetched: int) -> None:
    held: dict[int, int] = {}
    for step in range(3):
        for order in range(num_fetched):
            if step:  # in the steady state everything is there, or on its way
                assert held[buffer_of(order)] == order or num_fetched % NUM_BUFFERS
            held[buffer_of(order)] = order
            following = (order + 1) % num_fetched
            before = held.get(buffer_of(following))
            for layer in upcoming(order, num_fetched):
                held[buffer_of(layer)] = layer
            assert held[buffer_of(following)] == following
            assert before is None or before != following or held[buffer_of(following)] == before


def test_a_layer_with_a_buffer_to_itself_is_fetched_once() -> None:
    assert [fetches_per_step(num) for num in range(7)] == [0, 0, 0, 2, 4, 5, 6]


def test_two_fetched_layers_have_a_buffer_each_and_stay_there() -> None:
    assert step_s((True, False, True, False), layer_s=1.0, fetch_s=50.0) == pytest.approx(4.0)


def test_a_slow_link_sets_the_pace_and_a_fast_one_costs_nothing() -> None:
    stays = resident(8, 4)
    assert step_s(stays, layer_s=1.0, fetch_s=10.0) == pytest.approx(4 * 10.0, rel=0.1)
    assert step_s(stays, layer_s=1.0, fetch_s=0.5) == pytest.approx(8.0)


def test_spread_layers_wait_less_than_neighbours() -> None:
    spread, together = resident(12, 6), (True,) * 6 + (False,) * 6
    assert step_s(spread, layer_s=1.0, fetch_s=2.0) < step_s(together, layer_s=1.0, fetch_s=2.0)


def test_the_best_split_keeps_what_fits_beside_the_buffers() -> None:
    sizes = {"layer_bytes": 1e9, "layer_s": 1e-3, "link_bytes_per_s": 25e9}
    best = best_split(32, free_bytes=20e9, **sizes)
    assert best is not None
    assert best.num_resident == 18
    assert best.step_s == pytest.approx(14 * 1e9 / 25e9, rel=0.1)  # the link's time of what does not fit
    whole = best_split(32, free_bytes=40e9, **sizes)
    assert whole is not None
    assert whole.num_resident == 30  # the last two stay in the buffers
    assert whole.step_s == pytest.approx(32e-3)
    assert best_split(32, free_bytes=1e9, **sizes) is None


def test_of_equal_splits_the_best_takes_least_memory() -> None:
    best = best_split(8, layer_bytes=1e6, free_bytes=1e12, layer_s=1e-2, link_bytes_per_s=1e9)
    assert best is not None
    assert best.num_resident == 0  # a millisecond's copy behind ten of computing
