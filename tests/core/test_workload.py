"""What passes have in common, and what they must not."""

import hashlib
import json

import pytest

from labkit.core.errors import UsageError
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
    fields = {name: value for name, value in chat.to_dict().items() if name != "shared_prefix_tokens"}
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
