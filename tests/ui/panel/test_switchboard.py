"""The switchboard: the same Recipe as toggles and as text."""

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.optimizations import CATALOG, Slot
from labkit.optimizations.kv_cache import KvCache
from labkit.ui.panel import switchboard


@pytest.mark.parametrize(
    "text",
    ["", "kv_cache", "quantize(bits=4, group_size=64) + kv_cache", "kv_cache(block_size=16) + static_batching(size=4)"],
)
def test_text_to_steps_and_back_is_the_same_recipe(text: str) -> None:
    reading = switchboard.read(text)
    assert reading.is_valid
    assert switchboard.write(reading.steps).text == reading.text == text


def test_steps_carry_every_knob_of_what_is_on() -> None:
    steps = switchboard.read("kv_cache(block_size=16)").steps
    assert steps == {"kv_cache": {**asdict(KvCache()), "block_size": 16}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kv_cach", "unknown optimization 'kv_cach'"),
        ("kv_cache +", "cannot be read"),
        ("quantize(bits=3)", "unknown value of quantize's knob bits"),
        ("static_batching(size=0)", "knob size is 0"),
        ("__import__('os')", "takes knobs by name only"),
    ],
)
def test_a_text_that_means_nothing_is_told_in_one_line(text: str, problem: str) -> None:
    reading = switchboard.read(text)
    assert not reading.is_valid
    assert problem in reading.problem
    assert "\n" not in reading.problem
    assert reading.text == text


@given(st.text(max_size=60))
def test_no_text_breaks_the_switchboard(text: str) -> None:
    reading = switchboard.read(text)
    assert reading.is_valid == (not reading.problem)


def test_every_technique_of_the_catalog_has_a_place() -> None:
    slots = switchboard.slots()
    assert [kind for kinds in slots.values() for kind in kinds if "engine" in kind.systems] == sorted(
        (kind for kind in CATALOG if "engine" in kind.systems), key=lambda kind: list(slots).index(kind.slot)
    )
    assert all(isinstance(slot, Slot) for slot in slots)


def test_spelling_does_not_make_a_recipe_another() -> None:
    assert switchboard.same("kv_cache + quantize", "quantize(bits=8) + kv_cache")
    assert not switchboard.same("kv_cache", "nonsense")
