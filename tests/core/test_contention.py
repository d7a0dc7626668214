import time
from types import SimpleNamespace

import pytest

from labkit.core import contention as module
from labkit.core.contention import CoreTime


def core_time(wall_s, busy_s, own_s):
    return CoreTime(wall_s, busy_s, own_s, 2)


def test_contention_is_the_core_time_that_was_not_ours():
    before, after = core_time(0.0, 10.0, 5.0), core_time(10.0, 25.0, 18.0)  # 15 s busy, 13 s ours, 20 s in all
    assert before.contention(after) == pytest.approx(0.1)


def test_contention_is_no_more_than_all_and_evens_out_below_none():
    assert core_time(0.0, 0.0, 0.0).contention(core_time(1.0, 0.5, 0.6)) == pytest.approx(-0.05)
    assert core_time(0.0, 0.0, 0.0).contention(core_time(1.0, 9.0, 0.0)) == 1
    assert core_time(1.0, 0.0, 0.0).contention(core_time(1.0, 0.0, 0.0)) == 0


def test_systems_that_do_not_tell_report_none(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_STAT", tmp_path / "absent")
    before = CoreTime.now()
    assert before.busy_s is None
    assert before.contention(CoreTime.now()) == 0


def test_busy_time_is_of_our_cores_with_steal_and_without_idle(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 100 20 30 1000 500 4 5 41 7 7\ncpu1 1 1 1 1 1 1 1 1 1 1\nintr 5\n")
    monkeypatch.setattr(module, "_STAT", stat)
    monkeypatch.setattr(module.os, "sysconf", lambda name: 100)
    assert module._busy_s({0}) == pytest.approx(2.0)
    assert module._busy_s({0, 1}) == pytest.approx(2.06)


def test_own_work_is_not_contention():
    before = CoreTime.now()
    sum(range(3_000_000))
    after = CoreTime.now()
    assert after.own_s > before.own_s


def test_a_thread_that_ends_while_the_clocks_are_read_does_no_harm(monkeypatch, tmp_path):
    (tmp_path / "7" / "children").mkdir(parents=True)  # is listed and cannot be read, as that of an ended thread
    monkeypatch.setattr(module, "_TASKS", tmp_path)
    assert CoreTime.now().own_s > 0


@pytest.mark.parametrize(
    ("met", "others_now", "is_worth_it"),
    [(0.05, 0.0, False), (0.5, 0.3, False), (0.5, 0.2, True), (0.12, 0.07, True), (0.12, 0.11, False)],
)
def test_what_others_disturbed_is_worth_repeating_when_most_of_them_are_gone(monkeypatch, met, others_now, is_worth_it):
    monkeypatch.setattr(module, "_others_now", lambda period: others_now)
    assert module.is_worth_repeating(met) is is_worth_it


def test_others_are_looked_for_once_in_a_while(monkeypatch):
    looks, times_s = [], iter((0.0, 4.9, 5.1))
    clock = SimpleNamespace(sleep=looks.append, monotonic=lambda: next(times_s), perf_counter=time.perf_counter)
    monkeypatch.setattr(module, "time", clock)
    module._others_now.cache_clear()
    try:
        for _ in range(3):
            module.is_worth_repeating(0.5)
        assert len(looks) == 2
    finally:
        module._others_now.cache_clear()
