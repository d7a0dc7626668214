from dataclasses import replace

from labkit.ui.readings import labels, share_of_limit
from tests.ui.conftest import make_run


def test_no_two_runs_share_a_name() -> None:
    runs = [make_run("kv_cache", id=id) for id in "abc"]
    assert list(labels(runs).values()) == ["kv_cache", "kv_cache (2)", "kv_cache (3)"]
    both = [*runs[:2], make_run("kv_cache", device="cuda", id="d")]
    assert list(labels(both).values()) == ["kv_cache · cpu", "kv_cache · cpu (2)", "kv_cache · cuda"]


def test_a_share_above_the_limit_is_withheld_where_the_limit_was_measured_beside_other_work() -> None:
    run = make_run("kv_cache", itl_s=0.001, limit_s=0.002)
    reached = share_of_limit(run)
    assert reached is not None
    assert reached > 1.5
    assert run.limit is not None
    assert share_of_limit(replace(run, limit={**run.limit, "is_calm": False})) is None
    below = make_run("kv_cache", itl_s=0.004, limit_s=0.002)
    assert below.limit is not None
    assert share_of_limit(replace(below, limit={**below.limit, "is_calm": False})) == share_of_limit(below)
