"""Schedulers of whole batches, without a model."""

import pytest
import torch

from labkit.engine.cache import KVCache
from labkit.engine.scheduler import DynamicBatch, OneAtATime, Plan, Scheduler, StaticBatch
from labkit.engine.sequence import Sequence
from tests.engine.test_parts import CONFIG, sequence


def plan(scheduler: Scheduler, *, is_more_coming: bool = False, now_s: float = 0.0) -> Plan:
    return scheduler.schedule(is_more_coming=is_more_coming, now_s=now_s)


def sent(index: int, at_s: float) -> Sequence:
    return Sequence(index, [1] * 3, 2, at_s, sent_s=at_s)


def test_a_static_batch_waits_until_it_is_full() -> None:
    scheduler = StaticBatch(2, None)
    scheduler.add(sequence(0))
    assert plan(scheduler, is_more_coming=True, now_s=1e9) == Plan()
    scheduler.add(sequence(1))
    assert len(plan(scheduler, is_more_coming=True).new) == 2


def test_a_static_batch_starts_short_when_nothing_more_will_come() -> None:
    scheduler = StaticBatch(4, None)
    scheduler.add(sequence())
    assert len(plan(scheduler).new) == 1


def test_a_static_batch_leaves_together() -> None:
    scheduler = StaticBatch(2, None)
    short, long = sequence(0, new=1), sequence(1, new=2)
    scheduler.add(short), scheduler.add(long)
    assert plan(scheduler) == Plan(new=[short, long])
    short.append(1, 0.1), long.append(1, 0.1)
    assert scheduler.retire() == []
    assert plan(scheduler) == Plan(decoding=[long])
    long.append(1, 0.2)
    assert scheduler.retire() == [short, long]
    assert plan(scheduler) == Plan()


def test_one_at_a_time_is_a_batch_of_one() -> None:
    scheduler = OneAtATime(None)
    scheduler.add(sequence(0)), scheduler.add(sequence(1))
    assert [item.index for item in plan(scheduler, is_more_coming=True).new] == [0]


def test_a_static_batch_is_cut_to_what_the_budget_holds() -> None:
    cache = KVCache(CONFIG, dtype=torch.float32, compute_dtype=torch.float32, device="cpu", block_size=4)
    cache.budget_bytes = 7 * cache.block_bytes
    scheduler = StaticBatch(8, cache)
    for index, prompt in enumerate((3, 2, 7, 1)):
        scheduler.add(sequence(index, prompt=prompt, new=2))
    batch = plan(scheduler).new
    assert [item.index for item in batch] == [0, 1]  # a third would make it three of three blocks
    cache.admit(batch)
    assert cache.num_used_blocks == 4
    cache.release(batch)
    scheduler.running = []
    assert [item.index for item in plan(scheduler).new] == [2, 3]


def test_a_dynamic_batch_starts_when_it_is_full_or_its_first_has_waited() -> None:
    scheduler = DynamicBatch(3, 0.5, None)
    assert plan(scheduler, is_more_coming=True) == Plan()
    scheduler.add(sent(0, 1.0)), scheduler.add(sent(1, 1.25))
    assert plan(scheduler, is_more_coming=True, now_s=1.25) == Plan(at_s=1.5)
    assert [item.index for item in plan(scheduler, is_more_coming=True, now_s=1.5).new] == [0, 1]
    scheduler.running = []
    for index in range(4):
        scheduler.add(sent(index, 2.0))
    assert [item.index for item in plan(scheduler, is_more_coming=True, now_s=2.0).new] == [0, 1, 2]


@pytest.mark.parametrize("is_more_coming", [False, True])
def test_a_request_that_comes_while_a_batch_runs_waits(is_more_coming: bool) -> None:
    scheduler = DynamicBatch(2, 0.0, None)
    scheduler.add(sent(0, 0.0))
    first = plan(scheduler, is_more_coming=is_more_coming, now_s=0.1).new
    first[0].append(1, 0.2)
    scheduler.add(sent(1, 0.1))
    assert plan(scheduler, is_more_coming=is_more_coming, now_s=9.0) == Plan(decoding=first)
