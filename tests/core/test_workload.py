"""What passes have in common, and what they must not."""

import hashlib
import itertools
import json
import statistics
from dataclasses import replace
from typing import Any

import pytest

from labkit.core.errors import UsageError
from labkit.core.replay import Line
from labkit.core.stdlib import held_out_text
from labkit.core.workload import WORKLOADS, WorkloadSpec, resized, workload

SHARED = WorkloadSpec("shared", "offline", prompt_tokens=40, new_tokens=2, num_requests=3, shared_prefix_tokens=32)


def test_every_request_of_every_pass_begins_with_the_same_text_and_goes_on_with_another() -> None:
    requests = [request for index in (-1, 0, 1) for request in SHARED.draw(index).requests]
    assert len({request.prefix for request in requests}) == 1
    assert len({request.prompt for request in requests}) == 9
    assert {(request.prefix_tokens, request.prompt_tokens) for request in requests} == {(32, 40)}
    assert len(requests[0].prefix) == 32 * 12


def test_the_seed_alone_draws_the_shared_text() -> None:
    other = WorkloadSpec("other", "single_stream", prompt_tokens=99, new_tokens=1, shared_prefix_tokens=64)
    mine, longer, another = (
        spec.draw(0).requests[0].prefix for spec in (SHARED, other, WorkloadSpec(**{**SHARED.to_dict(), "seed": 1}))
    )
    assert longer.startswith(mine)
    assert another[:100] != mine[:100]


def test_without_a_shared_prefix_work_is_what_it_was_before_there_were_any() -> None:
    chat = WORKLOADS["chat"]
    assert chat.draw(3).requests[0].prefix == ""
    first = ("name", "scenario", "prompt_tokens", "new_tokens", "num_requests", "rate_per_s", "cache_state", "seed")
    fields = {name: chat.to_dict()[name] for name in first}
    digest = hashlib.sha256(held_out_text().encode()).hexdigest()
    assert chat.hash == hashlib.sha256((json.dumps(fields, sort_keys=True) + digest).encode()).hexdigest()[:16]
    assert resized(SHARED, shared_prefix_tokens=0).hash != SHARED.hash


def test_a_spec_survives_its_plain_fields() -> None:
    assert WorkloadSpec(**SHARED.to_dict()) == SHARED


def test_the_named_workload_is_a_long_prefix_before_a_short_prompt() -> None:
    spec = WORKLOADS["shared_prefix"]
    assert (spec.prompt_tokens, spec.shared_prefix_tokens, spec.new_tokens) == (1056, 1024, 16)


def test_named_workloads_take_a_prefix_and_a_cache_state() -> None:
    spec = workload("batch", shared_prefix_tokens=48, cache_state="cold")
    assert (spec.shared_prefix_tokens, spec.cache_state, spec.prompt_tokens) == (48, "cold", 64)


@pytest.mark.parametrize("shared", [64, 65, -1, 1.5, True])
def test_a_prefix_that_leaves_nothing_to_ask_is_refused(shared: object) -> None:
    with pytest.raises(UsageError) as refused:
        workload("chat", shared_prefix_tokens=shared)  # type: ignore[arg-type]
    assert f"workload 'chat': shared_prefix_tokens is {shared!r}; allowed: whole numbers from 0 to 63" in str(
        refused.value
    )


def test_a_prompt_cut_below_its_shared_prefix_is_refused() -> None:
    with pytest.raises(UsageError, match="shared_prefix_tokens is 1024; allowed: whole numbers from 0 to 63"):
        workload("shared_prefix", prompt_tokens=64)


def test_an_unknown_cache_state_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown cache state 'tepid'; allowed: warm, cold"):
        workload("chat", cache_state="tepid")


MIXED = WorkloadSpec(
    "mixed", "offline", prompt_tokens=60, new_tokens=40, num_requests=50, min_prompt_tokens=20, min_new_tokens=4
)


def test_lengths_are_drawn_evenly_from_their_range_and_equal_in_every_pass() -> None:
    passes = [[(one.prompt_tokens, one.max_new_tokens) for one in MIXED.draw(index).requests] for index in (-1, 0, 7)]
    assert passes[0] == passes[1] == passes[2] == list(MIXED.lengths)
    prompts, news = ({length[i] for length in MIXED.lengths} for i in (0, 1))
    assert 20 <= min(prompts) < 25
    assert 55 < max(prompts) <= 60
    assert 4 <= min(news) < 8
    assert 36 < max(news) <= 40
    assert replace(MIXED, seed=1).lengths != MIXED.lengths
    assert MIXED.num_new_tokens == sum(news for _, news in MIXED.lengths)


def test_repeats_go_through_the_same_lengths_with_other_prompts() -> None:
    stream = replace(MIXED, scenario="single_stream", num_requests=3)
    requests = stream.draw(0, repeats=2).requests
    assert [one.prompt_tokens for one in requests] == [one.prompt_tokens for one in stream.lengths] * 2
    assert len({one.prompt for one in requests}) == 6


def gaps(cv: float, num: int = 4000) -> list[float]:
    spec = WorkloadSpec("load", "server", 4, 4, num_requests=num, rate_per_s=8.0, arrival_cv=cv)
    times = [0.0, *(one.arrival_s for one in spec.draw(0).requests)]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 3.0])
def test_gaps_between_arrivals_have_the_stated_rate_and_coefficient_of_variation(cv: float) -> None:
    seen = gaps(cv)
    assert statistics.mean(seen) == pytest.approx(1 / 8, rel=0.12)
    assert statistics.pstdev(seen) / statistics.mean(seen) == pytest.approx(cv, rel=0.1, abs=1e-9)
    assert gaps(cv) == seen


def test_a_higher_rate_has_the_same_gaps_scaled() -> None:
    slow, fast = (workload("server", rate_per_s=rate, arrival_cv=2.0).draw(0).requests for rate in (1.0, 4.0))
    assert [one.arrival_s for one in slow] == pytest.approx([4 * one.arrival_s for one in fast])


@pytest.mark.parametrize("scenario", ["single_stream", "closed_loop", "server"])
def test_each_turn_begins_with_the_one_before_it_and_grows_to_the_drawn_length(scenario: str) -> None:
    load = {"closed_loop": {"concurrency": 2}, "server": {"rate_per_s": 5.0}}.get(scenario, {})
    spec = workload("chat", prompt_tokens=(30, 60), turns=3, num_requests=6, **load)  # type: ignore[arg-type]
    assert spec.scenario == scenario
    requests = spec.draw(0).requests
    assert [one.turn for one in requests] == ([0, 0, 1, 1, 2, 2] if scenario == "server" else [0, 1, 2] * 2)
    conversations = [requests[number::2] if scenario == "server" else requests[3 * number :][:3] for number in (0, 1)]
    for turns in conversations:
        assert len({one.prompt for one in turns}) == 1, "cut to length, each is the beginning of the next"
        shortest, middle, longest = (one.prompt_tokens for one in turns)
        assert shortest < middle < longest
        assert 30 <= longest <= 60
    assert conversations[0][0].prompt != conversations[1][0].prompt


def test_a_rate_makes_a_server_a_concurrency_a_closed_loop_and_both_are_refused() -> None:
    server, closed = workload("chat", rate_per_s=2.0), workload("server", concurrency=12)
    assert (server.scenario, server.num_requests) == ("server", 16)
    assert (closed.scenario, closed.rate_per_s, closed.num_requests, closed.num_at_once) == (
        "closed_loop",
        None,
        16,
        12,
    )
    with pytest.raises(UsageError, match="name one of them"):
        workload("chat", rate_per_s=2.0, concurrency=3)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"rate_per_s": 0.0}, "rate_per_s is 0.0; allowed: 0.001 to 1,000,000"),
        ({"rate_per_s": 1e9}, "rate_per_s is 1000000000.0; allowed"),
        ({"rate_per_s": float("nan")}, "rate_per_s is nan; allowed"),
        ({"rate_per_s": 1.0, "arrival_cv": -1.0}, "arrival_cv is -1.0; allowed: 0 to 10"),
        ({"arrival_cv": 2.0}, "arrival_cv is 2.0; allowed: 0 to 10 beside a rate"),
        ({"concurrency": 0}, "concurrency is 0; allowed: whole numbers from 1 to 4,096"),
        ({"prompt_tokens": (9, 4)}, "min_prompt_tokens is 9; allowed: whole numbers from 1 to 4"),
        ({"new_tokens": (0, 4)}, "min_new_tokens is 0; allowed: whole numbers from 1 to 4"),
        ({"turns": 0}, "turns is 0; allowed: whole numbers from 1 to 64"),
        ({"turns": 3, "num_requests": 4, "concurrency": 1}, "turns is 3; allowed: divisors of the 4 requests"),
        ({"turns": 2, "batch": 4}, "turns is 2; allowed: .* not all requests at once"),
    ],
)
def test_a_load_that_cannot_be_is_one_line(changes: dict[str, Any], error: str) -> None:
    with pytest.raises(UsageError, match=error):
        workload("chat", **changes)


REPLAY = (Line(0.0, 20, 4), Line(0.5, "What is a cache?", 8), Line(0.75, 60, 2))


def test_a_replay_brings_its_own_times_lengths_and_texts() -> None:
    spec = workload("chat", replay=REPLAY)
    first, second, third = spec.draw(0).requests
    assert [one.arrival_s for one in (first, second, third)] == [0.0, 0.5, 0.75]
    assert [one.max_new_tokens for one in (first, second, third)] == [4, 8, 2]
    assert (first.prompt_tokens, third.prompt_tokens) == (20, 60)
    assert (second.prompt, second.prompt_tokens) == ("What is a cache?", None)
    assert spec.draw(1).requests[1] == second
    assert spec.draw(1).requests[0] != first
    assert WorkloadSpec(**json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec.hash != workload("chat", replay=REPLAY[:2]).hash
    assert [length.prompt_tokens for length in spec.sized(len).lengths] == [20, 16, 60]


def test_a_replay_may_be_sent_by_another_clock() -> None:
    at_rate, closed = workload("chat", replay=REPLAY, rate_per_s=9.0), workload("chat", replay=REPLAY, concurrency=2)
    assert [one.arrival_s for one in at_rate.draw(0).requests] != [0.0, 0.5, 0.75]
    assert {one.arrival_s for one in closed.draw(0).requests} == {0.0}
    assert [one.max_new_tokens for one in closed.draw(0).requests] == [4, 8, 2]
    fewer = workload("chat", replay=REPLAY, num_requests=2)
    assert len(fewer.lengths) == 2
    assert resized(workload("chat", replay=REPLAY), num_requests=2) == fewer


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"num_requests": 4}, "4 recorded requests were asked for; the trace holds 3"),
        ({"prompt_tokens": 9}, "a trace and prompt_tokens were asked for"),
        ({"turns": 3}, "leave ranges, shared prefixes and turns out"),
    ],
)
def test_what_contradicts_a_replay_is_one_line(changes: dict[str, Any], error: str) -> None:
    with pytest.raises(UsageError, match=error):
        workload("chat", replay=REPLAY, **changes)
